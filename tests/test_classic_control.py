"""CartPole and Acrobot on the device, beside Gymnasium's."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import result_of, run

from components.suites.classic_control import Acrobot, CartPole, ClassicControl, ControlState
from framework.environment import Batched
from framework.types import TimeStep, transition_weight

TASKS = ("CartPole-v1", "Acrobot-v1")
EXTREMES = {
    # Joints from end to end: beyond the limits of the cart and the pole, and over whole turns.
    "CartPole-v1": (2.6, 3.0, 0.23, 3.0),
    "Acrobot-v1": (np.pi, np.pi, 4.0 * np.pi, 9.0 * np.pi),
}


@functools.cache
def compiled(environment: CartPole | Acrobot) -> Any:
    """Steps from joints [N, 4] with actions [N] after some steps."""

    def step(joints: jax.Array, action: jax.Array, time: int) -> tuple[ControlState, TimeStep]:
        state = ControlState(joints=joints, time=jnp.asarray(time, jnp.int32))
        return environment.step(jax.random.key(0), (), state, action)

    return jax.jit(jax.vmap(step, (0, 0, None)), static_argnums=2)


@contextlib.contextmanager
def float64() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def theirs(task: str, joints: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gymnasium's observations, rewards and terminations, one step from each of some joints [N, 4]."""
    environment: Any = gymnasium.make(task).unwrapped
    environment.reset(seed=0)
    rows = []
    for start, action in zip(joints, actions, strict=True):
        environment.state, environment.steps_beyond_terminated = np.array(start, np.float64), None
        observation, reward, terminated, truncated, _ = environment.step(int(action))
        assert not truncated
        rows.append((observation, reward, terminated))
    observations, rewards, terminated = zip(*rows, strict=True)
    return np.array(observations), np.array(rewards), np.array(terminated)


def assert_same_steps(task: str, joints: np.ndarray, actions: np.ndarray, **tolerance: float) -> np.ndarray:
    """Compares one step from each of some joints; returns which of them terminate."""
    _, time_step = compiled(ClassicControl(task).environment(task))(jnp.asarray(joints), jnp.asarray(actions), 0)
    observations, rewards, terminated = theirs(task, joints, actions)
    np.testing.assert_allclose(time_step.observation, observations, **tolerance)
    np.testing.assert_array_equal(time_step.reward, rewards)
    np.testing.assert_array_equal(time_step.last, terminated)
    np.testing.assert_array_equal(time_step.discount, 1.0 - terminated)
    return terminated


@pytest.mark.parametrize("task", TASKS)
def test_the_dynamics_are_gymnasiums(task: str) -> None:
    """From joints all over the place, in float64, so that nothing but the formulas is compared."""
    rng = np.random.default_rng(0)
    joints = rng.uniform(-1, 1, (2000, 4)) * EXTREMES[task]
    actions = rng.integers(ClassicControl(task).environment(task).spec.num_actions, size=2000)
    with float64():
        # Gymnasium rounds what it shows to float32.
        terminated = assert_same_steps(task, joints, actions, rtol=1e-6, atol=1e-7)
    assert 0.05 < terminated.mean() < 0.95


@pytest.mark.parametrize("task", TASKS)
def test_played_in_float32_the_steps_are_gymnasiums(task: str) -> None:
    """From the joints that episodes of random actions go through."""
    environment: Any = gymnasium.make(task).unwrapped
    rng = np.random.default_rng(1)
    joints, actions = [], []
    for episode in range(20):
        environment.reset(seed=episode)
        for _ in range(50):
            joints.append(np.asarray(environment.state, np.float32))
            actions.append(rng.integers(environment.action_space.n))
            if environment.step(actions[-1])[2]:
                break
    terminated = assert_same_steps(task, np.array(joints), np.array(actions), rtol=1e-5, atol=1e-5)
    assert terminated.any() == (task == "CartPole-v1")  # A random torque hardly ever swings an acrobot up.


@pytest.mark.parametrize("task", TASKS)
def test_episodes_begin_as_gymnasiums_do(task: str) -> None:
    environment = ClassicControl(task).environment(task)
    states, observations = jax.vmap(environment.reset, (0, None))(jax.random.split(jax.random.key(0), 1000), ())
    bound = {"CartPole-v1": 0.05, "Acrobot-v1": 0.1}[task]
    joints = np.asarray(states.joints)
    assert np.abs(joints).max() <= bound
    assert (joints.min(0) < -0.9 * bound).all()
    assert (joints.max(0) > 0.9 * bound).all()
    assert (states.time == 0).all()
    space: Any = gymnasium.make(task).observation_space
    assert all(space.contains(np.asarray(observation)) for observation in observations[:10])
    assert observations.shape[1:] == environment.spec.observation_shape == space.shape


@pytest.mark.parametrize("task", TASKS)
def test_the_limit_cuts_off_and_does_not_terminate(task: str) -> None:
    environment = ClassicControl(task).environment(task)
    still, action = jnp.zeros((1, 4)), jnp.zeros(1, jnp.int32)
    for time, last in ((498, False), (499, True)):
        _, time_step = compiled(environment)(still, action, time)
        assert bool(time_step.last[0]) is last
        assert float(time_step.discount[0]) == 1.0
        assert float(transition_weight(time_step.discount, time_step.last)[0]) == 1.0 - last
    _, time_step = compiled(CartPole())(jnp.full((1, 4), 2.5), action, 499)  # Out of bounds in the last step.
    assert (bool(time_step.last[0]), float(time_step.discount[0])) == (True, 0.0)


def test_a_balanced_pole_returns_500() -> None:
    """A controller that pushes where the pole is falling to."""
    environments = Batched(CartPole(), 4)

    @jax.jit
    def play(key: jax.Array) -> TimeStep:
        def step(carry: tuple, key: jax.Array) -> tuple[tuple, TimeStep]:
            state, shown = carry
            position, velocity, angle, turning = shown.T
            action = (angle + 0.3 * turning + 0.02 * position + 0.05 * velocity > 0).astype(jnp.int32)
            state, time_step = environments.step(key, (), state, action)
            return (state, time_step.observation), time_step

        state, first = environments.reset(key, ())
        return jax.lax.scan(step, (state, first.observation), jax.random.split(key, 500))[1]

    played = play(jax.random.key(0))
    np.testing.assert_array_equal(played.reward.sum(0), 500.0)
    np.testing.assert_array_equal(played.last.sum(0), 1)
    assert played.last[-1].all()
    assert (played.discount == 1).all()


def test_other_tasks_are_refused_with_a_guess() -> None:
    with pytest.raises(ValueError, match=r"no task 'Acrobat-v1', only CartPole-v1, Acrobot-v1. Did you mean 'Acrobot"):
        ClassicControl("Acrobat-v1")
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        ClassicControl(max_steps=0)


def test_every_agents_final_return_is_told(tmp_path: Path) -> None:
    assert run("ppo_cartpole", "--gin_file=scale/tiny.gin", folder=tmp_path / "run") == 0
    result = result_of(tmp_path / "run")
    (returns,) = result["final_returns"].values()
    assert list(result["final_returns"]) == ["CartPole-v1"]
    assert len(returns) == len(set(returns)) == 2
    assert result["final_return"] == pytest.approx(np.mean(returns))


@pytest.mark.parametrize("config", ["ppo_cartpole", "dqn_cartpole"])
def test_one_agent_balances_the_pole(tmp_path: Path, config: str) -> None:
    assert run(config, folder=tmp_path / "run") == 0
    assert result_of(tmp_path / "run")["final_return"] >= 475


RULES = ("ppo", "a2c", "dqn", "impala", "muesli")


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_plays_gymnasiums_own(tmp_path: Path, rule: str) -> None:
    """The suite is swapped by one more file."""
    files = ("--gin_file=suites/gymnasium.gin", "--gin_file=scale/tiny.gin")
    assert run(f"{rule}_cartpole", *files, folder=tmp_path / "run") == 0
    result = result_of(tmp_path / "run")
    assert (result["status"], list(result["final_returns"])) == ("finished", ["CartPole-v1"])
    assert list((tmp_path / "run" / "checkpoints").glob("*/environments_0_0.pickle"))


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_balances_gymnasiums_pole(tmp_path: Path, rule: str) -> None:
    assert run(f"{rule}_cartpole", "--gin_file=suites/gymnasium.gin", folder=tmp_path / "run") == 0
    result = result_of(tmp_path / "run")
    assert result["env_steps"] <= 500_000
    assert result["final_return"] >= 475


@pytest.mark.slow
@pytest.mark.usefixtures("disco103_weights")
def test_disco103_balances_the_pole(tmp_path: Path) -> None:
    assert run("disco103_cartpole", "--gin.AGENTS=5", folder=tmp_path / "run") == 0
    result = result_of(tmp_path / "run")
    (returns,) = result["final_returns"].values()
    assert result["env_steps"] / 5 <= 500_000
    assert sorted(returns)[1] >= 475.0


SOLVED = {"CartPole-v1": 475.0, "Acrobot-v1": -100.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "task", "least"),
    [
        ("ppo_cartpole", "CartPole-v1", 5),
        ("a2c_cartpole", "CartPole-v1", 4),
        ("dqn_cartpole", "CartPole-v1", 4),
        ("impala_cartpole", "CartPole-v1", 4),
        ("muesli_cartpole", "CartPole-v1", 4),
        ("ppo_acrobot", "Acrobot-v1", 4),
        ("a2c_acrobot", "Acrobot-v1", 4),
        ("dqn_cartpole", "Acrobot-v1", 4),
        ("impala_acrobot", "Acrobot-v1", 4),
        ("muesli_cartpole", "Acrobot-v1", 4),
    ],
)
def test_agents_side_by_side_solve_it(tmp_path: Path, config: str, task: str, least: int) -> None:
    """At least so many of five."""
    assert run(config, f"--gin.TASK={task}", "--gin.AGENTS=5", folder=tmp_path / "run") == 0
    result = result_of(tmp_path / "run")
    assert result["env_steps"] / 5 <= 500_000
    assert sum(final >= SOLVED[task] for final in result["final_returns"][task]) >= least
