"""How units of a grid stand, as their files tell."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from experiments.cli import main
from framework.errors import UserError
from launch.grid import GridFolder, GridUnit
from launch.launching import start
from launch.places import Place
from launch.processes import ProcessId
from launch.states import State, UnitStatus, status_of
from launch.sweep import Sweep
from launch.sweep_file import SweepFile

UNIT = GridUnit("ppo-s0", ("ppo",), "", "0123456789ab", 0, 100, 800, 10, 0.1)
RESULT = {
    "status": "finished", "config_hash": "0123456789ab", "seed": 0, "steps": 100, "env_steps": 800, "wall_seconds": 9.0,
    "final_return": 0.25, "error": None,
}  # fmt: skip


@pytest.fixture
def grid(tmp_path: Path) -> GridFolder:
    made = GridFolder(tmp_path / "grid")
    with made.claimed():
        made.write(name="grid", text="", scale="", on="local", units=[UNIT])
    made.run_folder(UNIT.name).mkdir()
    return made


def write(grid: GridFolder, name: str, *lines: Any) -> None:
    (grid.run_folder(UNIT.name) / name).write_text("\n".join(map(json.dumps, lines)))


def note_job(grid: GridFolder, process: ProcessId, exit_status: int | None) -> None:
    record = {"process": process.as_json(), "ended": None if exit_status is None else "now", "exit_status": exit_status}
    grid.job_record(UNIT.name).write_text(json.dumps(record))


def point(step: int, seconds: float, **more: float) -> dict[str, Any]:
    return {"step": step, "env_steps": step * 8, "wall_seconds": seconds, **more}


ENDED = ProcessId(pid=1, born=-1, host=ProcessId.of(1).host)


def test_a_unit_waits_until_something_of_it_is_there(grid: GridFolder) -> None:
    assert status_of(grid, UNIT) == UnitStatus(UNIT, State.WAITING)
    write(grid, "command.json", {})
    assert status_of(grid, UNIT) == UnitStatus(UNIT, State.INTERRUPTED)


def test_how_far_a_running_unit_is(grid: GridFolder) -> None:
    note_job(grid, ProcessId.of(1), None)
    write(grid, "metrics.jsonl", point(0, 2.0), point(10, 4.0, **{"episode/return": 0.5}), point(20, 6.0))
    assert status_of(grid, UNIT) == UnitStatus(UNIT, State.RUNNING, 20, 160, 6.0, 0.5, seconds_left=16.0)


def test_the_result_of_an_earlier_start_does_not_hide_that_a_unit_runs(grid: GridFolder) -> None:
    write(grid, "result.json", {**RESULT, "status": "interrupted", "steps": 10})
    note_job(grid, ProcessId.of(1), None)
    assert status_of(grid, UNIT).state is State.RUNNING


@pytest.mark.parametrize(
    ("difference", "state"),
    [
        ({}, State.FINISHED),
        ({"steps": 200}, State.FINISHED),
        ({"steps": 99}, State.INTERRUPTED),  # The sweep was made longer.
        ({"status": "interrupted"}, State.INTERRUPTED),
        ({"config_hash": "ba9876543210"}, State.INTERRUPTED),
        ({"seed": 1}, State.INTERRUPTED),
        ({"status": "failed", "error": "<b>it</b> is\nwrong"}, State.FAILED),
    ],
)
def test_a_result_counts_if_it_is_of_this_unit(grid: GridFolder, difference: dict[str, Any], state: State) -> None:
    write(grid, "result.json", {**RESULT, **difference})
    status = status_of(grid, UNIT)
    assert status.state is state
    assert status.episode_return == (0.25 if state is State.FINISHED else None)
    assert status.error == ("<b>it</b> is" if state is State.FAILED else None)


@pytest.mark.parametrize("written", [{"status": 1}, [], "finished"])
def test_what_is_no_result_does_not_hide_how_a_unit_stands(grid: GridFolder, written: Any) -> None:
    write(grid, "result.json", written)
    assert status_of(grid, UNIT).state is State.WAITING
    write(grid, "metrics.jsonl", point(step=10, seconds=1.0))
    assert status_of(grid, UNIT).step == 10


@pytest.mark.parametrize(
    ("exit_status", "state", "error"),
    [
        (-9, State.INTERRUPTED, "ended by SIGKILL"),
        (130, State.INTERRUPTED, None),
        (-15, State.INTERRUPTED, None),
        (1, State.FAILED, "ValueError: no"),
        (None, State.INTERRUPTED, None),
    ],
)
def test_how_a_job_ended(grid: GridFolder, exit_status: int | None, state: State, error: str | None) -> None:
    note_job(grid, ENDED, exit_status)
    grid.log(UNIT.name).write_text("a traceback\nValueError: no\n\n")
    assert status_of(grid, UNIT) == UnitStatus(UNIT, state, error=error)


def test_jobs_of_another_machine_are_its_own(grid: GridFolder, capsys: pytest.CaptureFixture[str]) -> None:
    note_job(grid, ProcessId(pid=1, born=1, host="elsewhere"), None)
    told = "on elsewhere, as far as this machine can tell"
    assert status_of(grid, UNIT) == UnitStatus(UNIT, State.RUNNING, error=told)
    assert main(["stop", str(grid.path)]) == 1
    assert capsys.readouterr().err == f"ppo-s0 was started on elsewhere: rulespace stop {grid.path} there\n"


def test_a_grid_may_grow_but_nothing_of_it_may_change(grid: GridFolder) -> None:
    more = dataclasses.replace(UNIT, name="a2c-s0")
    longer = dataclasses.replace(UNIT, steps=200)
    other = dataclasses.replace(UNIT, config_hash="ba9876543210")
    for units in ([UNIT, more], [longer], [other]):  # Of the other one nothing has been run yet.
        grid.refuse_other_sweep("s", units)
    with pytest.raises(
        UserError, match="holds a sweep with the unit ppo-s0, which s does not have: choose another --d"
    ):
        grid.refuse_other_sweep("s", [more])
    write(grid, "command.json", {})
    with pytest.raises(UserError, match="holds another experiment than the unit ppo-s0 is now: choose another --dir"):
        grid.refuse_other_sweep("s", [other])


def test_folders_without_a_sweep_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"holds other files \(mine\.txt, \.\.\.\) and no sweep: choose another --dir"):
        GridFolder(tmp_path).refuse_other_sweep("s", [UNIT])
    with pytest.raises(
        UserError, match=r"there is a file where a folder should be; .* choose another folder with --dir"
    ):
        GridFolder(tmp_path / "mine.txt").claimed().__enter__()
    assert main(["status", str(tmp_path)]) == 1
    assert "holds no sweep: name the folder that rulespace launch printed" in capsys.readouterr().err
    (tmp_path / "sweep.json").write_text("{}")
    assert main(["status", str(tmp_path)]) == 1
    assert "sweep.json describes no sweep (KeyError('units')): choose another --dir" in capsys.readouterr().err


def test_a_grid_has_one_launcher(grid: GridFolder) -> None:
    with grid.claimed(), pytest.raises(UserError, match=f"is being launched by process {os.getpid()}"), grid.claimed():
        pass
    with grid.claimed():
        assert grid.launcher() == ProcessId.of(os.getpid())
    assert grid.launcher() is None


class Elsewhere:
    """A place that runs nothing, and notes what it is given."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def preflight(self) -> None:
        pass

    def run(self, grid: GridFolder, units: Sequence[GridUnit], title: str) -> bool:
        self.given += [unit.name for unit in units]
        return True


def test_what_other_machines_still_have_is_not_launched_again(tmp_path: Path) -> None:
    grid, there = GridFolder(tmp_path / "new"), Elsewhere()
    handed_over = {"a": State.RUNNING, "b": State.WAITING, "c": State.FAILED, "d": State.INTERRUPTED}
    units = [dataclasses.replace(UNIT, name=name) for name in "abcdef"]
    standing = [status_of(grid, unit, handed_over.get(unit.name)) for unit in units]
    standing[-1] = dataclasses.replace(standing[-1], state=State.FINISHED)
    sweep = SweepFile(Sweep("s", ["p"]), "", "")
    assert start(sweep, grid, standing, cast(Place, there), "gke", handed_over) == 0
    assert there.given == ["c", "d", "e"]
