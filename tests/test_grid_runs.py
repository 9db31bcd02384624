"""A grid of real runs: launched, killed, interrupted, launched again; at its end every unit ran once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import command, process_environment

SWEEP = """\
# Three rules on two environments with two seeds, as small as can be; one unit fails when it wants to write.
Sweep.experiments = ['ppo_catch', 'a2c_catch', 'impala_catch']
Sweep.product = {'gin_file': ['suites/catch.gin', 'suites/distractor.gin']}
Sweep.bindings = {'STEPS': 30, 'TORSO_SIZES': (8,), 'NUM_ENVIRONMENTS': 4, 'TRAJECTORY_LENGTH': 4}
Sweep.seeds = 2
"""
FAILING = "a2c-catch-distractor-s1"


class Grid:
    """A sweep in a folder, with XManager's database beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**process_environment(), "HOME": str(folder)}
        (folder / "sweep.gin").write_text(SWEEP)

    def start(self) -> subprocess.Popen[str]:
        """Launches, in a process group of its own, as a terminal would."""
        return subprocess.Popen(
            command("launch", "sweep.gin", "--max_parallel=2", "--dir=grid"),
            cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def states(self) -> dict[str, str]:
        done = subprocess.run(
            command("status", "grid"), cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True
        )
        return dict(line.split()[:2] for line in done.stdout.splitlines()[1:-1])

    def result(self, unit: str) -> dict[str, object] | None:
        path = self.folder / "grid" / unit / "result.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def processes(self) -> list[int]:
        """Everything alive that works for this grid."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_bytes()
                if entry.name.isdigit() and (entry / "cwd").resolve() == self.folder and line:
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def job(self, unit: str) -> dict[str, dict[str, int]] | None:
        path = self.folder / "grid" / "jobs" / f"{unit}.json"
        return json.loads(path.read_text()) if path.is_file() else None


def wait(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Grid]:
    made = Grid(tmp_path.resolve())
    yield made
    for pid in made.processes():
        os.kill(pid, signal.SIGKILL)


def child_of(pid: int) -> int | None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


@pytest.mark.slow
def test_a_grid_that_fails_is_killed_and_is_interrupted_ends_with_every_unit_run_once(grid: Grid) -> None:
    # A file where the folder of a run should be: the unit fails, the others do not.
    launcher = grid.start()
    wait((grid.folder / "grid").is_dir)
    (grid.folder / "grid" / FAILING).write_text("in the way")

    killed = "ppo-catch-catch-s0"
    wait(lambda: grid.job(killed) is not None)
    job = grid.job(killed)
    assert job is not None
    wait(lambda: child_of(job["process"]["pid"]) is not None)
    run = child_of(job["process"]["pid"])
    assert run is not None
    assert grid.states()[killed] == "running"
    os.kill(run, signal.SIGKILL)
    wait(lambda: grid.states()[killed] == "interrupted")

    wait(lambda: list(grid.states().values()).count("finished") >= 3)
    launcher.send_signal(signal.SIGINT)
    output, _ = launcher.communicate(timeout=200)
    assert launcher.returncode == 130, output
    assert grid.processes() == []
    before = grid.states()
    assert "running" not in before.values()
    assert before[killed] == "interrupted"
    finished = [unit for unit, state in before.items() if state == "finished"]
    assert 3 <= len(finished) < 11
    untouched = {unit: (grid.folder / "grid" / unit / "result.json").stat().st_mtime_ns for unit in finished}

    launcher = grid.start()
    wait(lambda: "running" in grid.states().values())
    second = grid.start()
    refusal, _ = second.communicate(timeout=200)
    assert (second.returncode, "is being launched by process" in refusal) == (1, True), refusal
    output, _ = launcher.communicate(timeout=1200)
    assert launcher.returncode == 1, output
    assert f"failed {FAILING}" in output
    assert "1 of 12 units did not finish" in output
    assert not any(f"started {unit}\n" in output for unit in finished)
    after = grid.states()
    assert after.pop(FAILING) == "failed"
    assert len(after) == 11
    assert set(after.values()) == {"finished"}
    assert grid.processes() == []
    for unit, written in untouched.items():
        assert (grid.folder / "grid" / unit / "result.json").stat().st_mtime_ns == written
    for unit in after:
        result = grid.result(unit)
        assert result is not None
        assert (result["status"], result["steps"]) == ("finished", 30)
        lines = (grid.folder / "grid" / unit / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
        assert steps == sorted(set(steps))
    with contextlib.closing(sqlite3.connect(grid.folder / ".xmanager" / "experiments.sqlite3")) as database:
        titles = [title for (title,) in database.execute("select experiment_title from experiment")]
        (units,) = database.execute("select count(*) from work_unit").fetchone()
    assert titles == ["sweep in grid"] * 2
    assert units >= 13  # All of them, and once more what had not finished.
