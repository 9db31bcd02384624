"""MinAtar's games, step for step beside gymnax's own; what needs gymnax is skipped where it is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import run

from components.suites.minatar import GAMES, MinAtar, MinAtarGame, gymnax_game
from framework.environment import Batched
from framework.errors import UserError
from framework.testing import check_environment
from framework.types import transition_weight


@pytest.fixture
def gymnax() -> Any:
    return pytest.importorskip("gymnax", reason="gymnax is not installed: pip install 'rulespace[minatar]'")


@pytest.mark.parametrize("game", GAMES)
def test_specifications_are_gymnaxs(game: str, gymnax: Any) -> None:
    environment = gymnax.make(GAMES[game][0])[0]
    spec = MinAtar(game).environment(game).spec
    assert spec.observation_shape == environment.observation_space(environment.default_params).shape
    assert spec.num_actions == environment.num_actions


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_games_conform(game: str, gymnax: Any) -> None:
    check_environment(MinAtar(game).environment(game), ())


@pytest.mark.parametrize("game", GAMES)
def test_episodes_are_gymnaxs(game: str, gymnax: Any) -> None:
    """Whole episodes with random actions: observations, rewards, ends."""
    steps, ours = 400, MinAtarGame(game)
    theirs, params = gymnax.make(GAMES[game][0])

    @jax.jit
    def play(key: jax.Array) -> tuple[Any, Any]:
        key, reset_key, act_key = jax.random.split(key, 3)
        state, first = ours.reset(reset_key, ())
        their_first, their_state = theirs.reset_env(reset_key, params)
        actions = jax.random.randint(act_key, (steps,), 0, ours.spec.num_actions)

        def step(carry: tuple, inputs: tuple) -> tuple[tuple, tuple]:
            state, their_state = carry
            key, action = inputs
            state, time_step = ours.step(key, (), state, action)
            observation, their_state, reward, terminated, _ = theirs.step_env(key, their_state, action, params)
            their_state = jax.tree.map(lambda x, of: jnp.asarray(x, of.dtype), their_state, state)
            return (state, their_state), (
                (time_step.observation, time_step.reward, time_step.last),
                (observation, reward, terminated),
            )

        begin = (state, jax.tree.map(lambda x, of: jnp.asarray(x, of.dtype), their_state, state))
        _, (found, wanted) = jax.lax.scan(step, begin, (jax.random.split(key, steps), actions))
        return (first, *found), (their_first, *wanted)

    ended = 0
    for seed in range(3):
        found, wanted = play(jax.random.key(seed))
        length = int(np.argmax(found[3])) + 1 if found[3].any() else steps
        ended += length < steps
        np.testing.assert_array_equal(found[0], wanted[0])
        for one, other in zip(found[1:], wanted[1:], strict=True):
            np.testing.assert_array_equal(one[:length], other[:length])
        assert set(np.unique(wanted[1])) <= {0.0, 1.0}  # Nothing is lost where planes are binary.
    assert ended or game == "freeway"


def test_limits_cut_off(gymnax: Any) -> None:
    environment = MinAtarGame("freeway", max_steps=5)
    batched = Batched(environment, 2)
    state, _ = batched.reset(jax.random.key(0), ())
    step, ends = jax.jit(batched.step), []
    for index in range(12):
        state, time_step = step(jax.random.key(index), (), state, jnp.zeros(2, jnp.int32))
        ends.append(bool(time_step.last[0]))
        assert (time_step.discount == 1).all()
        assert (transition_weight(time_step.discount, time_step.last) == 1.0 - time_step.last).all()
    assert [index for index, end in enumerate(ends) if end] == [4, 9]
    assert gymnax_game("breakout").default_params.max_steps_in_episode == 1000
    assert gymnax_game("freeway").default_params.max_steps_in_episode == 2500


def test_other_games_are_refused_with_a_guess() -> None:
    with pytest.raises(ValueError, match=r"no MinAtar game 'brakeout', only asterix, .*\. Did you mean 'breakout'"):
        MinAtar("brakeout")
    with pytest.raises(ValueError, match="max_steps must be positive, or None"):
        MinAtar(max_steps=0)


def test_without_gymnax_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gymnax_game.cache_clear()
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(UserError, match=r"the package gymnax is not installed: pip install 'rulespace\[minatar\]'$"):
        gymnax_game("breakout")
    assert run("ppo_minatar", "--gin_file=scale/tiny.gin", folder=tmp_path / "run") == 1
    errors = capsys.readouterr().err
    assert "pip install 'rulespace[minatar]'" in errors
    assert len(errors.strip().splitlines()) == 1
