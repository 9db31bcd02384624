"""How the units of a grid stand, as their files and processes tell."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framework.runs import contract
from framework.runs.contract import Ending
from launch.grid import GridFolder, GridUnit

_OF_A_RESULT = {"status", "config_hash", "seed", "steps", "env_steps", "wall_seconds"}
_TAIL_BYTES = 1 << 17
_STOPPED = (130, -signal.SIGTERM, -signal.SIGINT)  # By Ctrl-C or SIGTERM: the state is saved, nothing is wrong.


class State(enum.Enum):
    """Of a unit."""

    WAITING = "waiting"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    FINISHED = "finished"


@dataclasses.dataclass(frozen=True)
class UnitStatus:
    """How a unit stands; ``None`` is not known.

    Attributes:
      unit: which one.
      state: of it.
      step: reached, of ``unit.steps``.
      env_steps: agent steps so far.
      wall_seconds: that it has run.
      episode_return: the final return of a finished unit, else that of the latest training episodes.
      seconds_left: at the speed of its latest points.
      error: one line on what went wrong.
    """

    unit: GridUnit
    state: State
    step: int = 0
    env_steps: int = 0
    wall_seconds: float = 0.0
    episode_return: float | None = None
    seconds_left: float | None = None
    error: str | None = None


def status_of(grid: GridFolder, unit: GridUnit, remote: State | None = None) -> UnitStatus:
    """How a unit stands.

    Args:
      grid: its grid.
      unit: which one.
      remote: what the machines say that it was handed to; ``None`` for a unit of this machine.
    """
    folder = grid.run_folder(unit.name)
    result = _result(folder / contract.RESULT)
    points = _last_points(folder / contract.METRICS)
    state, error = _state(grid, unit, result, remote)
    last: dict[str, Any] = points[-1] if points else {"step": 0, "env_steps": 0, "wall_seconds": 0.0}
    reached = result if result is not None and state is not State.RUNNING else last
    final = result.get("final_return") if result and state is State.FINISHED else None
    return UnitStatus(
        unit=unit,
        state=state,
        step=reached.get("steps", last["step"]),
        env_steps=reached["env_steps"],
        wall_seconds=reached["wall_seconds"],
        episode_return=final if final is not None else _last_known(points, "episode/return"),
        seconds_left=_seconds_left(points, unit.steps) if state is State.RUNNING else None,
        error=error,
    )


def statuses(grid: GridFolder, remote: dict[str, State] | None = None) -> list[UnitStatus]:
    """How all units stand; ``remote`` as in `status_of`, by unit."""
    return [status_of(grid, unit, (remote or {}).get(unit.name)) for unit in grid.units()]


def counted(units: Sequence[UnitStatus]) -> str:
    """How many units are in which state, for people: ``2 running, 10 finished``."""
    numbers = {state: sum(unit.state is state for unit in units) for state in State}
    return ", ".join(f"{number} {state.value}" for state, number in numbers.items() if number)


def _state(
    grid: GridFolder, unit: GridUnit, result: dict[str, Any] | None, remote: State | None
) -> tuple[State, str | None]:
    if remote is State.RUNNING or runs_here(grid, unit):
        return State.RUNNING, None
    if result is not None and _is_finished(unit, result):
        return State.FINISHED, None
    if (host := grid.host_of_job(unit.name)) is not None:
        return State.RUNNING, f"on {host}, as far as this machine can tell"
    record = grid.process_of(unit.name)
    status = None if record is None else record["exit_status"]
    if result is not None and result["status"] == Ending.FAILED and status not in _STOPPED:
        return State.FAILED, _one_line(result.get("error") or "")
    if status is not None and status < 0 and status not in _STOPPED:
        return State.INTERRUPTED, f"ended by {signal.Signals(-status).name}"
    if status not in (None, 0, *_STOPPED) or remote is State.FAILED:
        return State.FAILED, _last_line(grid.log(unit.name))
    if record is not None or result is not None or (grid.run_folder(unit.name) / contract.COMMAND).is_file():
        return State.INTERRUPTED, None
    return (State.WAITING if remote is None else remote), None


def _is_finished(unit: GridUnit, result: dict[str, Any]) -> bool:
    same_experiment = (result["config_hash"], result["seed"]) == (unit.config_hash, unit.seed)
    return same_experiment and result["status"] == Ending.FINISHED and result["steps"] >= unit.steps


def runs_here(grid: GridFolder, unit: GridUnit) -> bool:
    """Whether a process of this machine runs a unit, be it a job of the grid or not.

    A job that has just begun has claimed no run folder; a run that was started by hand has no job.
    """
    return grid.running_job(unit.name) is not None or _is_locked(grid.run_folder(unit.name) / contract.LOCK)


def _is_locked(path: Path) -> bool:
    """Whether a process holds a file, asked without touching the lock: a run that starts meanwhile must get it."""
    try:
        inode, locks = path.stat().st_ino, Path("/proc/locks").read_text()
    except OSError:
        return False
    return re.search(rf"FLOCK .*:{inode} ", locks) is not None


def _result(path: Path) -> dict[str, Any] | None:
    """What a run wrote at its end; ``None`` if nothing, or nothing of ours, is there."""
    try:
        result = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and result.keys() >= _OF_A_RESULT else None


def _last_points(path: Path) -> list[dict[str, Any]]:
    """The latest points of a run, oldest first, without reading all of a long one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    points = []
    for line in lines:
        try:
            point = json.loads(line)
        except ValueError:  # Cut by our seek, or being written.
            continue
        if isinstance(point, dict) and "step" in point:
            points.append(point)
    return points


def _last_known(points: Sequence[dict[str, Any]], name: str) -> float | None:
    return next((point[name] for point in reversed(points) if point.get(name) is not None), None)


def _seconds_left(points: Sequence[dict[str, Any]], steps: int) -> float | None:
    if len(points) < 2 or points[-1]["step"] <= points[0]["step"]:
        return None
    first, last = points[0], points[-1]
    speed = (last["step"] - first["step"]) / max(last["wall_seconds"] - first["wall_seconds"], 1e-9)
    return (steps - last["step"]) / speed


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return "it left no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "it left an empty log")


def _one_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "it failed without a word")
