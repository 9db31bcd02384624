"""Gymnasium's environments as host environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from pools import assert_same, play_at_random

from components.streams.gymnasium import GymnasiumEnvironment
from components.suites.gymnasium import Gymnasium
from framework.errors import UserError
from framework.host_environments.pool import HostPool
from framework.specs import ArraySpec, EnvironmentSpec, Resume
from framework.testing.host import check_host_environment

CART_POLE = GymnasiumEnvironment("CartPole-v1")


class Oddity(gymnasium.Env):
    """Actions from 3, observations of another dtype; the observation is the action taken."""

    observation_space: spaces.Space = spaces.Box(0, 10, (1,), np.float64)
    action_space: spaces.Space = spaces.Discrete(2, start=3)

    def reset(self, *, seed=None, options=None):  # type: ignore[no-untyped-def]
        super().reset(seed=seed)
        return np.array([0.0]), {}

    def step(self, action):  # type: ignore[no-untyped-def]
        return np.array([float(action)]), np.int64(1), np.bool_(False), False, {}


class Bytes(Oddity):
    observation_space = spaces.Box(0, 255, (1,), np.uint8)


class Continuous(Oddity):
    action_space = spaces.Box(0, 1, (1,))


class Walk(gymnasium.Env):
    """A random walk that an action drives, and that is cut off or ends; a dictionary of what is seen of it."""

    observation_space: spaces.Space = spaces.Dict(
        {"place": spaces.Box(-9, 9, (), np.float64), "way": spaces.Discrete(3, start=-1)}
    )
    action_space: spaces.Space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.place, self.steps = 0.0, 0

    def reset(self, *, seed=None, options=None):  # type: ignore[no-untyped-def]
        super().reset(seed=seed)
        self.place, self.steps = self.drawn(), 0
        return self.seen(0), {}

    def step(self, action):  # type: ignore[no-untyped-def]
        self.place, self.steps = self.place + self.drawn() + 2 * action - 1, self.steps + 1
        return self.seen(1 if self.place > 0 else -1), self.place, abs(self.place) > 3, self.steps >= 9, {}

    def drawn(self) -> float:
        return float(self.np_random.normal())

    def seen(self, way):  # type: ignore[no-untyped-def]
        return {"place": np.float64(self.place), "way": way}


class Unpicklable(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.held = (i for i in range(3))


class PickledAsNew(Walk, gymnasium.utils.EzPickle):
    def __init__(self) -> None:
        gymnasium.utils.EzPickle.__init__(self)
        super().__init__()


class PickledInPart(Walk):
    """Pickles, but for its place; nothing says so."""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"place": 0.0}


class Unrepeatable(Unpicklable):
    """Its randomness is not its generator's."""

    noise = np.random.default_rng()

    def drawn(self) -> float:
        return float(self.noise.normal())


class LateRandomness(Unpicklable):
    """Repeats itself for as long as it is tried out."""

    draws = 0

    def drawn(self) -> float:
        self.draws += 1
        return Walk.drawn(self) if self.draws < 100 else float(Unrepeatable.noise.normal())


class Failing(Walk):
    def step(self, action):  # type: ignore[no-untyped-def]
        raise RuntimeError("no such action")


class Nested(Oddity):
    observation_space = spaces.Dict({"far": spaces.Dict({"away": spaces.Discrete(2)})})


CLASSES = (
    *(Oddity, Bytes, Continuous, Walk, Unpicklable, PickledAsNew, PickledInPart, Unrepeatable, LateRandomness),
    *(Failing, Nested),
)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gymnasium.envs.registration, "registry", registry := dict(gymnasium.registry))
    for cls in CLASSES:
        registry[f"{cls.__name__}-v0"] = gymnasium.envs.registration.EnvSpec(f"{cls.__name__}-v0", entry_point=cls)


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_classic_control_conforms(name: str) -> None:
    check_host_environment(GymnasiumEnvironment(name), steps=60)


def test_a_suite_is_one_task() -> None:
    suite = Gymnasium("Acrobot-v1", max_steps=7)
    assert suite.tasks() == ("Acrobot-v1",)
    assert suite.environment("Acrobot-v1") == GymnasiumEnvironment("Acrobot-v1", max_steps=7)
    assert suite.environment("Acrobot-v1").spec == EnvironmentSpec((6,), 3)


def test_all_randomness_comes_from_the_seed() -> None:
    def starts(*seed: int) -> np.ndarray:
        stream = CART_POLE.open(seed)
        return np.stack([stream.reset() for _ in range(3)])

    np.testing.assert_array_equal(starts(1, 2), starts(1, 2))
    assert len({starts(*seed).tobytes() for seed in ((1, 2), (2, 1), (1,), (1, 3), (2**40, 2))}) == 5
    first = starts(1, 2)
    assert not np.array_equal(first[0], first[1])


def test_the_limit_is_told_from_a_termination() -> None:
    stream = GymnasiumEnvironment("CartPole-v1", max_steps=5).open((0,))
    stream.reset()
    assert [stream.step(index % 2)[2:] for index in range(5)] == [(False, False)] * 4 + [(False, True)]
    stream = CART_POLE.open((0,))
    stream.reset()
    ends = next(ends for ends in (stream.step(0)[2:] for _ in range(50)) if any(ends))
    assert ends == (True, False)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restored_pool_continues_bit_for_bit(workers: int) -> None:
    """In the middle of episodes, over terminations, limits and dummies."""
    environments = [GymnasiumEnvironment("CartPole-v1", max_steps=17)] * 3
    with HostPool(environments, [(1,), (2,), (3,)], workers) as pool:
        pool.reset()
        play_at_random(pool, 12)
        snapshots = pool.snapshot()
        expected = play_at_random(pool, 60, seed=1)
    assert expected.dummy.any()
    assert (expected.discount == 0).any()
    with HostPool(environments, [(4,), (5,), (6,)], workers) as other:
        other.reset()
        play_at_random(other, 5)
        other.restore(snapshots)
        assert_same(play_at_random(other, 60, seed=1), expected)


def test_spaces_are_translated() -> None:
    odd = GymnasiumEnvironment("Oddity-v0")
    assert odd.spec == EnvironmentSpec((1,), 2)
    stream = odd.open((0,))
    stream.reset()
    assert stream.step(1) == (np.array([4.0], np.float32), 1.0, False, False)
    assert GymnasiumEnvironment("Bytes-v0").spec.observation_dtype == "uint8"


def test_categories_and_dictionaries_are_translated() -> None:
    assert GymnasiumEnvironment("FrozenLake-v1").spec == EnvironmentSpec((16,), 4)
    walk = GymnasiumEnvironment("Walk-v0")
    assert walk.spec == EnvironmentSpec.of_parts({"place": ArraySpec((1,)), "way": ArraySpec((3,))}, 2)
    stream = walk.open((0,))
    np.testing.assert_array_equal(stream.reset()["way"], np.array([0.0, 1.0, 0.0], np.float32))
    observation, reward, *_ = stream.step(0)
    np.testing.assert_array_equal(observation["place"], np.array([reward], np.float32))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Continuous-v0", r"actions Box\(.*\)"),
        ("Nested-v0", r"in its observations 'far', Dict\(.*\)"),
        ("Blackjack-v1", r"observations Tuple\(.*\)"),
    ],
)
def test_other_spaces_are_refused(name: str, what: str) -> None:
    with pytest.raises(UserError, match=f"Gymnasium's {name} has {what}; supported are .*FlattenObservation"):
        _ = GymnasiumEnvironment(name).spec


@pytest.mark.parametrize(
    ("name", "resumes"),
    [
        ("CartPole-v1", Resume.EXACTLY),
        ("Walk-v0", Resume.EXACTLY),
        ("Unpicklable-v0", Resume.REPLAYS),
        ("PickledAsNew-v0", Resume.REPLAYS),
        ("PickledInPart-v0", Resume.REPLAYS),
        ("Unrepeatable-v0", Resume.NEW_EPISODE),
    ],
)
def test_how_streams_go_on_is_found_out_and_holds(name: str, resumes: Resume) -> None:
    environment = GymnasiumEnvironment(name)
    assert environment.resumes is resumes
    check_host_environment(environment, steps=33)


def test_a_replayed_stream_is_saved_as_one_that_was_never_stopped() -> None:
    """Over terminations, limits and the dummies after them."""
    environments = [GymnasiumEnvironment("Unpicklable-v0")] * 3
    with HostPool(environments, [(1,), (2,), (3,)], 0) as pool, HostPool(environments, [(4,)] * 3, 0) as other:
        pool.reset()
        other.reset()
        for index in range(20):
            play_at_random(pool, 1, seed=index)
            assert not other.restore(pool.snapshot()).any()
            assert other.snapshot() == pool.snapshot()
            expected, found = play_at_random(pool, 1, seed=-index % 7), play_at_random(other, 1, seed=-index % 7)
            assert_same(found, expected)


def test_a_replay_that_leads_elsewhere_begins_a_new_episode(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Seeded: left to chance, an episode is at its limit once in fifty times, and nothing of it can be lost.
    monkeypatch.setattr(Unrepeatable, "noise", np.random.default_rng(0))
    environment = GymnasiumEnvironment("LateRandomness-v0", max_steps=50)
    with HostPool([environment], [(1,)], workers=0) as pool:
        pool.reset()
        play_at_random(pool, 150)
        (lost,) = pool.restore(pool.snapshot())
        assert pool.step(np.array([0])).dummy == [True] == lost
    assert "begins a new episode: the same actions from the same seed have led elsewhere" in capsys.readouterr().err


def test_what_fails_when_it_is_tried_out_is_told() -> None:
    with pytest.raises(UserError, match=r"Failing-v0 fails in its first steps, in .*test_gymnasium.py, line \d+: Runt"):
        _ = GymnasiumEnvironment("Failing-v0").resumes


def test_unknown_ids_are_refused_with_a_guess() -> None:
    with pytest.raises(ValueError, match=r"no environment 'CartPool-v1'\. Did you mean 'CartPole-v1'"):
        Gymnasium("CartPool-v1")
    with pytest.raises(ValueError, match=r"no environment 'Nowhere/Pong-v5'\. An id that a package registers is named"):
        Gymnasium("Nowhere/Pong-v5")
    with pytest.raises(ValueError, match="id is empty: name an environment of Gymnasium, such as CartPole-v1"):
        Gymnasium("")
    with pytest.raises(ValueError, match="max_steps must be positive"):
        Gymnasium("CartPole-v1", max_steps=0)


def test_a_module_of_ones_own_is_told_from_what_it_registers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "these_worlds.py").touch()
    (tmp_path / "failing_worlds.py").write_text("raise RuntimeError('no licence')")
    # The guess is an id that can be given: it names the module as well.
    with pytest.raises(ValueError, match=r"'these_worlds:CartPool-v1'\. Did you mean 'these_worlds:CartPole-v1'\?$"):
        Gymnasium("these_worlds:CartPool-v1")
    with pytest.raises(ValueError, match=r"^the module failing_worlds cannot be imported: RuntimeError: no licence$"):
        Gymnasium("failing_worlds:Walk-v0")
    with pytest.raises(ValueError, match=r"^the module nowhere cannot be imported: ModuleNotFoundError: No module"):
        Gymnasium("nowhere:CartPole-v1")


def test_what_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise gymnasium.error.DependencyNotInstalled("pip install something")

    monkeypatch.setattr(gymnasium, "make", missing)
    with pytest.raises(UserError, match="cannot be made: pip install something"):
        CART_POLE.open((0,))


def test_a_constructor_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("no display")

    monkeypatch.setattr(gymnasium, "make", failing)
    with pytest.raises(UserError, match="Gymnasium's CartPole-v1 cannot be made: RuntimeError: no display"):
        CART_POLE.open((0,))
