"""Gymnasium's environments as host environments."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from components.streams.gymnasium import GymnasiumEnvironment
from components.suites.gymnasium import Gymnasium
from framework.errors import UserError
from framework.host import HostPool
from framework.specs import EnvironmentSpec
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


class Unpicklable(Oddity):
    def __init__(self) -> None:
        self.held = (i for i in range(3))


class PickledAsNew(Oddity, gymnasium.utils.EzPickle):
    def __init__(self) -> None:
        gymnasium.utils.EzPickle.__init__(self)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gymnasium.envs.registration, "registry", registry := dict(gymnasium.registry))
    for cls in (Oddity, Bytes, Continuous, Unpicklable, PickledAsNew):
        registry[f"{cls.__name__}-v0"] = gymnasium.envs.registration.EnvSpec(f"{cls.__name__}-v0", entry_point=cls)


def play(pool: HostPool, steps: int, seed: int = 0) -> list[list[np.ndarray]]:
    actions = np.random.default_rng(seed).integers(pool.spec.num_actions, size=(steps, pool.num_streams))
    return [list(pool.step(action)) for action in actions]


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
        play(pool, 12)
        snapshots = pool.snapshot()
        expected = play(pool, 60, seed=1)
    assert any(row[4].any() for row in expected)
    assert any((row[2] == 0).any() for row in expected)
    with HostPool(environments, [(4,), (5,), (6,)], workers) as other:
        other.reset()
        play(other, 5)
        other.restore(snapshots)
        for found, wanted in zip(play(other, 60, seed=1), expected, strict=True):
            assert [array.tobytes() for array in found] == [array.tobytes() for array in wanted]


def test_spaces_are_translated() -> None:
    odd = GymnasiumEnvironment("Oddity-v0")
    assert odd.spec == EnvironmentSpec((1,), 2)
    stream = odd.open((0,))
    stream.reset()
    assert stream.step(1) == (np.array([4.0], np.float32), 1.0, False, False)
    assert GymnasiumEnvironment("Bytes-v0").spec.observation_dtype == "uint8"


@pytest.mark.parametrize("name", ["Continuous-v0", "FrozenLake-v1"])
def test_other_spaces_are_refused(name: str) -> None:
    with pytest.raises(
        UserError, match=f"Gymnasium's {name} has .*supported are Box observations and Discrete actions"
    ):
        _ = GymnasiumEnvironment(name).spec


@pytest.mark.parametrize("name", ["Unpicklable-v0", "PickledAsNew-v0"])
def test_what_cannot_be_saved_says_so(name: str) -> None:
    stream = GymnasiumEnvironment(name).open((0,))
    stream.reset()
    with pytest.raises(UserError, match=f"{name} cannot be saved in the middle of an episode"):
        stream.snapshot()


def test_unknown_ids_are_refused_with_a_guess() -> None:
    with pytest.raises(ValueError, match=r"no environment 'CartPool-v1'.*Did you mean 'CartPole-v1'"):
        Gymnasium("CartPool-v1")
    with pytest.raises(ValueError, match="no environment 'nowhere:CartPole-v1'"):
        Gymnasium("nowhere:CartPole-v1")
    with pytest.raises(ValueError, match="max_steps must be positive"):
        Gymnasium("CartPole-v1", max_steps=0)


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
