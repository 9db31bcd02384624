"""Whatever ends a run with environments outside the device early, started again it ends as if nothing had happened.

CartPole, Pong and Catch under one discovery, stopped in the middle of episodes, of lives and of updates.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from running import (
    ROOT,
    assert_same_run,
    intervals,
    kill,
    result_of,
    run,
    started,
    wait_for_point,
    wait_until_it_saves,
)

STEPS = 30
MIXED = (
    str(ROOT / "tests" / "small_mixed.gin"),
    f"--gin.STEPS={STEPS}",
    *intervals(logging=2, checkpoints=5, episodes=0),
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert run(*MIXED, folder=folder) == 0
    assert (folder / "checkpoints" / str(STEPS) / "environments_1_0.pickle").is_file()
    return folder


def workers_of(process: subprocess.Popen[str]) -> Sequence[int]:
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def terminated(folder: Path, everyone: bool) -> None:
    """Starts the run, and tells it to end: all of its processes, as a cluster may do, or the first alone."""
    process = started(*MIXED, folder=folder)
    wait_for_point(process, STEPS)
    workers = workers_of(process)
    assert workers
    for number in (*workers, process.pid) if everyone else (process.pid,):
        os.kill(number, signal.SIGTERM)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "the same command continues it" in printed
    step = result_of(folder)["steps"]
    assert 2 <= step < STEPS
    assert (folder / "checkpoints" / str(step) / "environments_0_0.pickle").is_file()


def test_neither_kill_nor_termination_loses_more_than_time(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = started(*MIXED, folder=folder)
    wait_for_point(process, STEPS)
    time.sleep(random.Random(0).uniform(0.0, 0.5))
    kill(process)
    assert not (folder / "result.json").exists()
    terminated(folder, everyone=True)
    assert run(*MIXED, folder=folder) == 0
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_termination_of_the_first_process_saves_the_state(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    terminated(folder, everyone=False)
    assert run(*MIXED, folder=folder) == 0
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_many_kills(uninterrupted: Path, tmp_path: Path, seed: int) -> None:
    """Killed at random while it starts, acts, learns and saves, four times in a row."""
    folder, dice = tmp_path / "run", random.Random(seed)

    def while_starting(process: subprocess.Popen[str]) -> None:
        time.sleep(dice.uniform(1.0, 8.0))

    def while_training(process: subprocess.Popen[str]) -> None:
        wait_for_point(process, STEPS)
        time.sleep(dice.uniform(0.0, 0.3))

    def while_saving(process: subprocess.Popen[str]) -> None:
        wait_until_it_saves(folder, 180)
        time.sleep(dice.uniform(0.0, 0.03))

    for moment in (while_saving, while_training, while_starting, while_saving):
        process = started(*MIXED, folder=folder)
        moment(process)
        kill(process)
    assert run(*MIXED, folder=folder) == 0
    assert_same_run(folder, uninterrupted)
