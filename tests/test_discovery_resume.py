"""Whatever ends a discovery early, started again it ends as if nothing had happened.

Two groups, on Catch and on grid worlds, with replay, lives that end, a bandit and a sliding window: all of it is state.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from running import SMALL_DISCOVERY, assert_same_run, intervals, points_of, result_of, run, started, wait_for_point

STEPS = 400
WORDS = (SMALL_DISCOVERY, *intervals(logging=5, checkpoints=10, episodes=2), f"--gin.STEPS={STEPS}")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert run(*WORDS, folder=folder) == 0
    return folder


def test_all_that_can_happen_happens(uninterrupted: Path) -> None:
    points = points_of(uninterrupted)
    assert sum(point["agents/lives_completed"] for point in points) > 20
    assert sum(point["agents/lost"] for point in points) == 0
    assert max(point["meta/replay_error"] for point in points) < 1e-4
    for task in ("catch_3x3", "wide", "tall"):
        assert sum(point[f"completed/{task}"] for point in points) > 20
    norms = [point["meta/parameter_norm"] for point in points]
    assert len(set(norms)) > 0.9 * len(norms)  # The rule moves all the time; float32 may not show it in a norm.


def kill_at_random(folder: Path, times: int, dice: random.Random) -> None:
    """Starts the run and kills it, time and again, until it has come through."""
    for _ in range(times):
        process = started(*WORDS, folder=folder)
        wait_for_point(process, STEPS)
        time.sleep(dice.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        if process.returncode == 0:
            return
        assert process.returncode == -signal.SIGKILL


def test_neither_kill_nor_signal_loses_more_than_time(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill_at_random(folder, 1, random.Random(0))
    assert not (folder / "result.json").exists()
    process = started(*WORDS, folder=folder)
    wait_for_point(process, STEPS)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert 5 <= result_of(folder)["steps"] < STEPS
    assert run(*WORDS, folder=folder) == 0
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_kills(uninterrupted: Path, tmp_path: Path, seed: int) -> None:
    kill_at_random(tmp_path / "run", 10, random.Random(seed))
    assert run(*WORDS, folder=tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", uninterrupted)
