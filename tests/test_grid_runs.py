"""Grids on this machine: launched, killed, interrupted, launched again; at their ends every unit ran once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import awkward
import pytest
from running import command, process_environment

from experiments.cli import main
from launch.grid import GridFolder
from launch.states import statuses
from launch.sweep import rendered

pytest.importorskip("xmanager", reason="xmanager is not installed: pip install 'rulespace[launch]'")

LAUNCH = command("launch", "sweep.gin", "--max_parallel=2", "--dir=grid")


class Grid:
    """A sweep in a folder, with XManager's database beside it."""

    def __init__(self, folder: Path, sweep: str, launch: Sequence[str] = LAUNCH) -> None:
        self.folder = folder
        self.grid = GridFolder(folder / "grid")
        self._launch = launch
        self._environment = {**process_environment(), "HOME": str(folder)}
        (folder / "sweep.gin").write_text(sweep)

    def start(self) -> subprocess.Popen[str]:
        """Launches, in a process group of its own, as a terminal would."""
        return subprocess.Popen(
            self._launch, cwd=self.folder, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip

    def states(self) -> dict[str, str]:
        return {status.unit.name: status.state.value for status in statuses(self.grid)}

    def result_file(self, unit: str) -> Path:
        return self.grid.run_folder(unit) / "result.json"

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

    def run_of(self, unit: str) -> int:
        """The process of a unit's run, once there is one."""
        found: list[int] = []

        def there() -> bool:
            job = self.grid.running_job(unit)
            found[:] = [] if job is None else children_of(job.pid)
            return bool(found)

        wait(there)
        return found[0]

    def end(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Grid]:
    """A grid of scripts, which say when they are told to."""
    experiments = ["fails", "killed", "done", "slow", "saves", "last"]
    sweep = f"Sweep.experiments = {experiments}\nSweep.bindings = {rendered(awkward.BINDINGS)}\n"
    launch = [sys.executable, str(Path(__file__).with_name("grid_scripts") / "launch_units.py")]
    grid = Grid(tmp_path.resolve(), sweep, launch)
    yield grid
    grid.end()


def wait_for_start(grid: Grid, unit: str, times: int = 1) -> None:
    """Returns as soon as the script of a unit has been started that often, and listens to signals."""
    file = grid.grid.run_folder(unit) / "starts"
    wait(lambda: file.is_file() and file.read_text().count("\n") >= times)


def assert_arguments_arrived(grid: Grid, unit: str) -> None:
    """XManager's executor has a shell in between."""
    [sent] = [sent for sent in grid.grid.units() if sent.name == unit]
    received = json.loads((grid.grid.run_folder(unit) / "arguments.json").read_text())
    assert received == list(sent.arguments)


def let(grid: Grid, *names: str) -> None:
    for name in names:
        (grid.folder / name).touch()


def test_every_unit_is_run_until_it_is_finished_and_no_longer(scripts: Grid) -> None:
    """Whatever happens to units and launchers; status tells the truth at each moment, and no process is left."""
    let(scripts, "done.go", "slow.saved")
    launcher = scripts.start()
    wait_for_start(scripts, "killed")
    os.kill(scripts.run_of("killed"), signal.SIGKILL)
    wait_for_start(scripts, "slow")
    wait_for_start(scripts, "saves")
    standing = {"fails": "failed", "killed": "interrupted", "done": "finished", "slow": "running", "saves": "running"}
    assert scripts.states() == {**standing, "last": "waiting"}
    second = scripts.start()
    refusal, _ = second.communicate(timeout=120)
    assert second.returncode == 1
    assert f"is being launched by process {launcher.pid}" in refusal

    os.killpg(launcher.pid, signal.SIGINT)
    wait(lambda: scripts.states()["slow"] == "interrupted")
    assert scripts.states()["saves"] == "running"  # It has not saved its state yet.
    os.killpg(launcher.pid, signal.SIGINT)  # And it is not waited for any longer.
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 130, output
    assert "failed fails: ValueError: it was made to fail\n" in output
    assert "interrupted killed: ended by SIGKILL\n" in output
    assert scripts.states() == {**standing, "slow": "interrupted", "saves": "interrupted", "last": "waiting"}
    assert scripts.processes() == []

    # Now the launcher is killed: its units stop by themselves, and the next launcher waits for them.
    let(scripts, "killed.go")
    launcher = scripts.start()
    wait_for_start(scripts, "slow", times=2)
    wait_for_start(scripts, "saves", times=2)
    launcher.kill()
    launcher.wait(timeout=120)
    wait(lambda: scripts.states()["slow"] == "interrupted")
    assert scripts.states()["saves"] == "running"
    let(scripts, "slow.go", "saves.go", "last.go")
    launcher = scripts.start()
    wait(lambda: scripts.states()["last"] == "finished")
    let(scripts, "saves.saved")
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 1, output
    assert "waiting for saves, which another process runs\n" in output
    assert "1 of 6 units did not finish; the same command runs them again:\n  fails: ValueError: it was made" in output
    assert scripts.states() == {
        "fails": "failed",
        **dict.fromkeys(["killed", "done", "slow", "saves", "last"], "finished"),
    }
    assert scripts.processes() == []
    starts = {
        name: len((scripts.grid.run_folder(name) / "starts").read_text().splitlines()) for name in scripts.states()
    }
    assert starts == {"fails": 3, "killed": 2, "done": 1, "slow": 3, "saves": 3, "last": 1}


def test_a_grid_can_be_stopped_from_elsewhere(scripts: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    let(scripts, "killed.saved", "done.saved")
    launcher = scripts.start()
    wait_for_start(scripts, "killed")
    wait_for_start(scripts, "done")
    assert_arguments_arrived(scripts, "done")
    assert main(["stop", str(scripts.grid.path)]) == 0
    assert capsys.readouterr().out == "stopped: 3 waiting, 2 interrupted, 1 failed; the same launch continues\n"
    assert launcher.wait(timeout=120) == 130
    assert scripts.processes() == []
    unstarted = dict.fromkeys(["slow", "saves", "last"], "waiting")
    assert scripts.states() == {"fails": "failed", "killed": "interrupted", "done": "interrupted", **unstarted}
    assert main(["stop", str(scripts.grid.path)]) == 0
    assert capsys.readouterr().out == f"nothing of {scripts.grid.path} runs\n"


SWEEP = """\
# Three rules on two environments with two seeds, as small as can be; one unit fails when it wants to write.
Sweep.experiments = ['ppo_catch', 'a2c_catch', 'impala_catch']
Sweep.product = {'gin_file': ['suites/catch.gin', 'suites/distractor.gin']}
Sweep.bindings = {'STEPS': 30, 'TORSO_SIZES': (8,), 'NUM_ENVIRONMENTS': 4, 'TRAJECTORY_LENGTH': 4}
Sweep.seeds = 2
"""
FAILING = "a2c-catch-distractor-s1"


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Grid]:
    """A grid of real runs."""
    grid = Grid(tmp_path.resolve(), SWEEP)
    yield grid
    grid.end()


@pytest.mark.slow
def test_a_grid_of_runs_ends_with_every_unit_run_once(runs: Grid) -> None:
    # A file where the folder of a run should be: the unit fails, the others do not.
    launcher = runs.start()
    wait(runs.grid.path.is_dir)
    runs.grid.run_folder(FAILING).write_text("in the way")

    killed = "ppo-catch-catch-s0"
    run = runs.run_of(killed)
    assert runs.states()[killed] == "running"
    os.kill(run, signal.SIGKILL)
    wait(lambda: runs.states()[killed] == "interrupted")

    wait(lambda: list(runs.states().values()).count("finished") >= 3, seconds=600)
    os.killpg(launcher.pid, signal.SIGINT)
    output, _ = launcher.communicate(timeout=200)
    assert launcher.returncode == 130, output
    assert runs.processes() == []
    before = runs.states()
    assert "running" not in before.values()
    assert before[killed] == "interrupted"
    finished = [unit for unit, state in before.items() if state == "finished"]
    assert 3 <= len(finished) < 11
    written = {unit: runs.result_file(unit).stat().st_mtime_ns for unit in finished}

    launcher = runs.start()
    output, _ = launcher.communicate(timeout=1200)
    assert launcher.returncode == 1, output
    assert f"failed {FAILING}" in output
    assert "1 of 12 units did not finish" in output
    assert not any(f"started {unit}\n" in output for unit in finished)
    after = runs.states()
    assert after.pop(FAILING) == "failed"
    assert len(after) == 11
    assert set(after.values()) == {"finished"}
    assert runs.processes() == []
    assert written == {unit: runs.result_file(unit).stat().st_mtime_ns for unit in finished}
    for unit in after:
        result = json.loads(runs.result_file(unit).read_text())
        assert (result["status"], result["steps"]) == ("finished", 30)
        lines = (runs.grid.run_folder(unit) / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
        assert steps == sorted(set(steps))
    with contextlib.closing(sqlite3.connect(runs.folder / ".xmanager" / "experiments.sqlite3")) as database:
        titles = [title for (title,) in database.execute("select experiment_title from experiment")]
        (units,) = database.execute("select count(*) from work_unit").fetchone()
    assert titles == ["sweep in grid"] * 2
    assert units >= 13  # All of them, and once more what had not finished.
