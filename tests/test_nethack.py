"""NetHack's tasks as host environments: games from a seed, games played again, limits of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pools import assert_same, play_at_random

from components.streams.nethack import OBSERVATION, PACKAGE, NetHackStream, NetHackTask
from components.suites.nethack import NetHackChallenge, NetHackScore
from framework.errors import UserError
from framework.host_environments.pool import HostPool
from framework.requirements import Requirement
from framework.specs import Resume, spec_of
from framework.testing.host import check_host_environment

INSTALLED = pytest.mark.skipif(not PACKAGE.is_met, reason=PACKAGE.missing)
ESCAPE, SEARCH = 27, ord("s")


def score_task(**changes: Any) -> NetHackTask:
    return NetHackScore(**changes).environment("nethack_score")


def challenge(**changes: Any) -> NetHackTask:
    return NetHackChallenge(**changes).environment("nethack_challenge")


def begun(task: NetHackTask, *seed: int) -> NetHackStream:
    stream = task.open(seed or (0,))
    stream.reset()
    return stream


def key(stream: NetHackStream, character: int) -> int:
    """The action that presses a key."""
    return list(map(int, stream._environment.actions)).index(character)


@INSTALLED
def test_sizes_are_the_packages_own() -> None:
    tasks, nethack = PACKAGE.module("nle.env.tasks"), PACKAGE.module("nle.nethack")
    assert challenge().spec.num_actions == len(nethack.ACTIONS) == 121
    assert score_task().spec.num_actions == len(tasks.TASK_ACTIONS) == 23
    assert nethack.NLE_BL_TIME == 20
    stream = begun(challenge())
    shown, _ = stream._environment.reset()
    # The bottom line is int64 there, which a device does not hold.
    assert {**spec_of(shown), "blstats": OBSERVATION["blstats"]} == OBSERVATION
    assert shown["blstats"].max() < 2**31


@INSTALLED
@pytest.mark.parametrize("task", [score_task(), challenge(seeded=True)], ids=["score", "challenge"])
def test_seeded_tasks_conform(task: NetHackTask) -> None:
    """From a seed, and from a snapshot in the middle of a game, over deaths."""
    check_host_environment(task, steps=300)
    assert task.resumes is Resume.REPLAYS


@INSTALLED
def test_the_official_challenge_takes_no_seed() -> None:
    task = challenge()
    assert task.resumes is Resume.NEW_EPISODE
    stream = begun(task)
    assert type(stream._environment) is PACKAGE.module("nle.env.tasks").NetHackChallenge
    with pytest.raises(RuntimeError, match="seed"):
        stream._environment.seed(1, 2)
    roles = {begun(challenge(seeded=True), seed)._environment.last_observation[4].tobytes() for seed in range(4)}
    assert len(roles) > 1, "one greeting for all: the role is not random"


@INSTALLED
def test_a_limit_shows_the_running_game() -> None:
    """It is no termination, and the game has not been quit before its last picture was taken."""
    stream = begun(score_task(max_steps=7))
    ends = []
    for _ in range(7):
        shown, _, *end = stream.step(key(stream, SEARCH))
        ends.append(tuple(end))
    assert ends == [(False, False)] * 6 + [(False, True)]
    assert shown["blstats"][10] > 0, "the agent is dead, or the game is over"
    assert (shown["chars"] == ord("@")).any()


@INSTALLED
def test_no_progress_is_counted_in_steps() -> None:
    stream = begun(challenge(seeded=True, no_progress_steps=10))
    wait, do_nothing = key(stream, SEARCH), key(stream, ESCAPE)
    for _ in range(3):
        assert [stream.step(do_nothing)[2:] for _ in range(9)] == [(False, False)] * 9
        while stream._idle:
            stream.step(wait)
    ends = [stream.step(do_nothing)[2:] for _ in range(10)]
    assert ends == [(False, False)] * 9 + [(False, True)]


@INSTALLED
def test_steps_without_game_time_cost_in_the_score_task_only() -> None:
    for task, cost in ((score_task(), -0.01), (challenge(seeded=True), 0.0)):
        stream = begun(task)
        keys = list(map(int, stream._environment.actions))
        nothing = keys.index(ESCAPE) if ESCAPE in keys else keys.index(13)
        assert stream.step(nothing)[1] == pytest.approx(cost)


@INSTALLED
@pytest.mark.parametrize("workers", [0, 2])
def test_a_restored_pool_continues_bit_for_bit(workers: int) -> None:
    """Dictionaries through shared memory; a stream by hand shows the same."""
    tasks = [score_task(max_steps=11)] * 2
    with HostPool(tasks, [(1,), (2,)], workers) as pool:
        assert set(pool.reset().observation) == set(OBSERVATION)
        play_at_random(pool, 5, seed=0)
        snapshots = pool.snapshot()
        expected = play_at_random(pool, 40, seed=1)
    with HostPool(tasks, [(3,), (4,)], workers) as other:
        other.reset()
        play_at_random(other, 3, seed=2)
        other.restore(snapshots)
        assert_same(play_at_random(other, 40, seed=1), expected)


@INSTALLED
def test_what_is_shown_by_hand_is_what_the_pool_shows() -> None:
    task, actions = score_task(max_steps=9), np.random.default_rng(0).integers(23, size=9)
    stream = task.open((5, 6))
    first = stream.reset()
    with HostPool([task], [(5, 6)], 0) as pool:
        shown = pool.reset()
        assert all(np.array_equal(shown.observation[name][0], first[name]) for name in first)
        for action in actions:
            observation, reward, _, _ = stream.step(int(action))
            shown = pool.step(np.array([action]))
            assert all(np.array_equal(shown.observation[name][0], observation[name]) for name in observation)
            assert shown.reward[0] == np.float32(reward)
        assert pool.step(np.array([0])).dummy[0]


@INSTALLED
def test_a_lost_game_is_followed_by_a_dummy() -> None:
    """Nothing is learned across the gap between what was shown before a resume and the new game."""
    with HostPool([challenge()], [(1,)], 0) as pool:
        pool.reset()
        pool.step(np.array([0]))
        pool.restore(pool.snapshot())
        after = pool.step(np.array([0]))
        assert (after.dummy[0], after.last[0], after.discount[0], after.reward[0]) == (True, True, 1.0, 0.0)
        assert not pool.step(np.array([0])).dummy[0]


def test_what_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Requirement, "_has_package", False)
    with pytest.raises(UserError, match=r"nle is not installed: pip install 'rulespace\[nethack\]'"):
        score_task().open((0,))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"no_progress_steps": 0}, "no_progress_steps must be at least 1"),
        ({"observed": ()}, "observed must be named"),
        ({"observed": ("glyphs", "glyphs")}, "each once"),
        ({"observed": ("glyphs", "pixels")}, "observed has 'pixels', and there are only glyphs, chars"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetHackChallenge(**wrong)
