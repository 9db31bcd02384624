"""Streams that one library steps all at once play as they would one by one."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from pools import assert_same, play
from test_host import Counter

from framework.errors import UserError
from framework.host_environments.arrays import STAND_STILL
from framework.host_environments.batch import BatchRow
from framework.host_environments.pool import HostPool
from framework.specs import Resume
from framework.testing.host import check_host_environment


@dataclasses.dataclass(frozen=True)
class Many(Counter):
    """Counters that are stepped together: the same episodes, from the same seeds.

    Attributes:
      fault: what goes wrong at a stream's third step.
    """

    fault: str = ""

    def open(self, seed: Sequence[int]) -> BatchRow:  # type: ignore[override]
        return BatchRow(self.open_many([seed]), 0, alone=True)

    def open_many(self, seeds: Sequence[Sequence[int]], threads: int = 1) -> ManyCounters:
        return ManyCounters(self, seeds)


@dataclasses.dataclass(frozen=True)
class Forgetful(Many):
    """Counters whose episodes are lost with a resume."""

    resumes = Resume.NEW_EPISODE


class ManyCounters:
    def __init__(self, counter: Many, seeds: Sequence[Sequence[int]]) -> None:
        self.counter = counter
        self.generators = [np.random.default_rng(list(seed)) for seed in seeds]
        self.count = np.zeros(len(seeds), int)
        self.calls: list[tuple[str, list[int]]] = []

    def reset(self, rows: np.ndarray) -> np.ndarray:
        assert rows.size
        self.calls.append(("reset", rows.tolist()))
        self.count[rows] = 0
        return self.observation(rows)

    def step(self, rows: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        assert rows.size == action.size > 0
        self.calls.append(("step", rows.tolist()))
        self.count[rows] += 1
        count = self.count[rows]
        if self.counter.fault == "raises" and (count == 3).any():
            raise ZeroDivisionError("the balls have no radius")
        return self.observation(rows), action * count, count == self.counter.terminal, count == self.counter.limit

    def observation(self, rows: np.ndarray) -> np.ndarray:
        drawn = np.array([self.generators[row].random() for row in rows])
        shown = np.stack([self.count[rows], drawn], axis=1).astype(np.float32)
        return shown[:, :1] if self.counter.fault == "is_narrow" and (self.count[rows] == 3).any() else shown

    def snapshot(self, row: int) -> bytes:
        return pickle.dumps((self.generators[row], int(self.count[row])))

    def restore(self, row: int, snapshot: bytes) -> None:
        self.generators[row], self.count[row] = pickle.loads(snapshot)

    def close(self) -> None:
        self.calls.append(("close", []))

    def __repr__(self) -> str:
        return "many counters"


def pool_of(environment: Counter, workers: int = 0) -> HostPool:
    return HostPool([environment] * 5, [(3, seed) for seed in range(5)], workers)


def actions_of(steps: int) -> np.ndarray:
    """Steps at which some streams stand still, and one at which all do, but none at the first."""
    actions = np.random.default_rng(0).integers(STAND_STILL, 2, size=(steps, 5))
    actions[0], actions[steps // 2] = 1, STAND_STILL
    return actions


def calls_of(pool: HostPool) -> list[tuple[str, list[int]]]:
    (member,) = pool._crew
    return member._streams._rows._batch.calls  # type: ignore[attr-defined]


ENDS: list[dict[str, int]] = [{"terminal": 3}, {"limit": 3}, {"terminal": 4, "limit": 4}, {"limit": 1}]


@pytest.mark.parametrize(("workers", "ends"), [*((0, ends) for ends in ENDS), (2, ENDS[1])], ids=str)
def test_plays_as_one_by_one(workers: int, ends: dict[str, int]) -> None:
    """Over terminations, limits, dummies, and streams that stand still."""
    actions = actions_of(20)
    with pool_of(Counter(**ends)) as pool:
        first, expected = pool.reset(), play(pool, actions)
    with pool_of(Many(**ends), workers) as pool:
        assert_same(pool.reset(), first)
        assert_same(play(pool, actions), expected)


def test_a_step_is_one_call() -> None:
    with pool_of(Many(terminal=2)) as pool:
        pool.reset()
        calls = calls_of(pool)
        calls.clear()
        play(pool, np.ones((2, 5), int))
        assert calls == [("step", [0, 1, 2, 3, 4])] * 2 + [("reset", [0, 1, 2, 3, 4])]
        calls.clear()
        pool.step(np.array([1, STAND_STILL, STAND_STILL, 0, STAND_STILL]))
        pool.step(np.full(5, STAND_STILL))
        assert calls == [("step", [0, 3])]
    assert calls[-1] == ("close", [])


def test_a_row_alone_conforms() -> None:
    check_host_environment(Many(terminal=4, limit=7))
    row = Many().open((1,))
    row.close()
    assert row._batch.calls == [("close", [])]  # type: ignore[attr-defined]


def test_environments_that_differ_are_opened_one_by_one() -> None:
    with HostPool([Many(terminal=2), Many(terminal=3)], [(1,), (2,)], 0) as pool:
        pool.reset()
        assert [row.last.tolist() for row in (pool.step(np.ones(2, int)) for _ in range(3))] == [
            [False, False],
            [True, False],
            [False, True],
        ]


def test_a_restored_pool_continues() -> None:
    environment, actions = Many(limit=3), actions_of(20)
    with pool_of(environment) as pool:
        pool.reset()
        play(pool, actions[:7])
        snapshots = pool.snapshot()
        expected = play(pool, actions)
    with pool_of(environment) as pool:
        pool.reset()
        pool.restore(snapshots)
        assert_same(play(pool, actions), expected)


def test_what_is_lost_with_a_resume_is_followed_by_a_dummy() -> None:
    with pool_of(Forgetful()) as pool:
        pool.reset()
        pool.step(np.ones(5, int))
        pool.restore(pool.snapshot())
        partly = pool.step(np.array([1, 1, STAND_STILL, 1, 1]))
        assert partly.dummy.tolist() == [True, True, False, True, True]
        assert pool.step(np.ones(5, int)).dummy.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("workers", [0, 2])
def test_others_may_take_the_place_of_rows(workers: int) -> None:
    """One after another, until no row is left; what takes a place is stepped by itself."""
    actions = np.ones((7, 5), int)
    with pool_of(Many(limit=3), workers) as pool:
        pool.reset()
        rows = play(pool, actions)
    with pool_of(Many(limit=3), workers) as pool:
        pool.reset()
        np.testing.assert_array_equal(pool.replace(2, Counter(terminal=2), (8,))[0], 0)
        played = play(pool, actions)
        assert played.last[:, 2].tolist() == [False, True] * 3 + [False]
        for place in (0, 1, 3, 4):
            np.testing.assert_array_equal(played.observation[:, place], rows.observation[:, place])
        snapshots = pool.snapshot()
        for place in range(5):
            pool.replace(place, Counter(limit=2), (9, place))
        assert play(pool, actions).dummy[2].all()
        pool.restore(snapshots)
        assert pool._environments == [Many(limit=3), Many(limit=3), Counter(terminal=2), Many(limit=3), Many(limit=3)]
        again = play(pool, actions[:2])
        assert again.dummy.tolist() == [[True, True, False, True, True], [False] * 5]
        assert again.observation[..., 0].tolist() == [[0] * 5, [1] * 5]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "raises",
            r"stepping \d streams, Many\(.*failed in .*test_host_batch.py.*ZeroDivisionError: the balls have no",
        ),
        ("is_narrow", r"many counters shows observations float32\[\d, 1\] of \d streams, its spec says float32\[2\]"),
    ],
)
def test_faults_are_told(fault: str, message: str) -> None:
    with pool_of(Many(fault=fault)) as pool:
        pool.reset()
        with pytest.raises(UserError, match=message):
            play(pool, np.ones((3, 5), int))
        with pytest.raises(RuntimeError, match="closed"):
            pool.reset()


def test_one_process_steps_a_batch() -> None:
    """The library's threads share it; environments that differ are shared by processes."""
    seeds = [(index,) for index in range(4)]
    with HostPool([Many()] * 4, seeds, workers=2) as pool:
        assert len(pool.worker_ids) == 1
    with HostPool([Many(), Many(), Many(), Many(limit=3)], seeds, workers=2) as pool:
        assert len(pool.worker_ids) == 2
