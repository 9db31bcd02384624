"""Crafter as a host environment: from a seed, exact resume, its own ends of episodes, achievements and their score."""

from __future__ import annotations

import math

import numpy as np
import pytest

from components.streams.crafter import (
    ACHIEVEMENT_NUMBERS,
    ACHIEVEMENTS,
    PACKAGE,
    CrafterStream,
    CrafterWorld,
    crafter_score,
)
from components.suites.crafter import Crafter
from framework.errors import UserError
from framework.host_environments.pool import HostPool
from framework.requirements import Requirement

INSTALLED = pytest.mark.skipif(not PACKAGE.is_met, reason=PACKAGE.missing)


@pytest.fixture(scope="module")
def begun() -> CrafterStream:
    """A stream at its first observation, for tests that restore it to there."""
    if not PACKAGE.is_met:
        pytest.skip(PACKAGE.missing)
    stream = CrafterWorld().open((3, 4))
    stream.reset()
    return stream


@pytest.fixture(scope="module")
def first(begun: CrafterStream) -> bytes:
    return begun.snapshot()


@INSTALLED
def test_lists_and_sizes_are_the_packages_own() -> None:
    constants = PACKAGE.module("crafter.constants")
    assert tuple(constants.achievements) == ACHIEVEMENTS
    spec = CrafterWorld().spec
    assert spec.num_actions == len(constants.actions)
    assert spec.episode_numbers == ACHIEVEMENT_NUMBERS


def test_a_limit_is_told_from_death(begun: CrafterStream, first: bytes) -> None:
    """A stream by hand, and as a pool shows it: the final observation, then a dummy with what was achieved."""
    world = CrafterWorld(max_steps=6)
    with HostPool([world], [(3, 4)], workers=0) as pool:
        np.testing.assert_array_equal(pool.reset().observation[0], by_hand_first(begun, first))
        stream = CrafterStream(begun._environment, max_steps=6)
        for step in range(6):
            action = 1 + step % 4
            observation, reward, terminated, truncated = stream.step(action)
            assert (terminated, truncated) == (False, step == 5)
            shown = pool.step(np.array([action]))
            np.testing.assert_array_equal(shown.observation[0], observation)
            assert (shown.reward[0], shown.discount[0], shown.last[0]) == (np.float32(reward), 1.0, False)
        stream._environment._unlocked.add("wake_up")
        pool._crew[0]._streams._slots[0].stream._environment._unlocked.add("wake_up")  # type: ignore[union-attr]
        dummy = pool.step(np.array([0]))
        assert (dummy.last[0], dummy.dummy[0], dummy.discount[0]) == (True, True, 1.0)
        np.testing.assert_array_equal(dummy.numbers[0], stream.episode_numbers())
        assert dummy.numbers[0].sum() >= 1


def by_hand_first(begun: CrafterStream, first: bytes) -> np.ndarray:
    """The first observation, which a stream that is restored to it does not show again by itself."""
    begun.restore(first)
    return begun._environment.render()


def test_death_terminates(begun: CrafterStream, first: bytes) -> None:
    begun.restore(first)
    begun._environment._player.health = 0
    _, reward, terminated, truncated = begun.step(0)
    assert (terminated, truncated) == (True, False)
    assert reward == pytest.approx(-0.9)


def test_repeats_itself_from_a_seed_and_a_snapshot(begun: CrafterStream, first: bytes) -> None:
    """For as long as creatures come and go: with the package's own sets, two plays part within some 60 steps."""

    def played(stream: CrafterStream, actions: list[int]) -> list[bytes]:
        return [b"".join([shown[0].tobytes(), str(shown[1:]).encode()]) for shown in map(stream.step, actions)]

    actions = np.random.default_rng(0).integers(17, size=240).tolist()
    begun.restore(first)
    assert begun.snapshot() == first
    whole = played(begun, actions)
    other = CrafterWorld().open((3, 4))
    other.reset()
    assert played(other, actions[:120]) == whole[:120]
    middle = other.snapshot()
    assert played(other, actions[120:]) == whole[120:]
    other.restore(middle)
    assert other.snapshot() == middle
    assert played(other, actions[120:]) == whole[120:]
    assert other.snapshot() == begun.snapshot()


def test_a_stream_that_never_began_can_be_saved(begun: CrafterStream) -> None:
    """As in a pool that is saved before it was ever reset."""
    if not PACKAGE.is_met:
        pytest.skip(PACKAGE.missing)
    stream = CrafterWorld().open((1,))
    snapshot = stream.snapshot()
    stream.restore(snapshot)
    assert stream.snapshot() == snapshot


def test_the_score_is_the_benchmarks() -> None:
    assert crafter_score([0.0] * 22) == 0.0
    assert crafter_score([1.0] * 22) == pytest.approx(100.0)
    assert crafter_score([1.0] + [0.0] * 21) == pytest.approx(101 ** (1 / 22) - 1)
    shares = np.linspace(0.0, 0.9, 22)
    assert crafter_score(shares.tolist()) == pytest.approx(np.exp(np.log1p(100 * shares).mean()) - 1)
    suite = Crafter()
    assert suite.summary(dict.fromkeys(ACHIEVEMENT_NUMBERS, 1.0)) == {"achievement/score": pytest.approx(100.0)}
    assert math.isnan(suite.summary(dict.fromkeys(ACHIEVEMENT_NUMBERS, math.nan))["achievement/score"])


def test_what_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Requirement, "_has_package", False)
    with pytest.raises(UserError, match=r"crafter is not installed: pip install 'rulespace\[crafter\]'"):
        Crafter().environment("crafter").open((0,))


def test_wrong_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="max_steps must be at least 1"):
        Crafter(max_steps=0)
