"""The verb ``stop``: ends a launched grid, here or on other machines."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from framework.errors import UserError
from framework.exit_status import OK
from launch.grid import GridFolder
from launch.job import GRACE_SECONDS
from launch.places import place_of
from launch.states import State, counted, statuses

_PATIENCE_SECONDS = GRACE_SECONDS + 10  # What does not stop by then has been killed.


def define_flags(options: flags.FlagValues) -> None:
    del options


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    """Tells the launcher and every running unit to save their state and stop, and waits until they have.

    Raises:
      UserError: the folder holds no sweep, or something did not stop.
    """
    del options
    grid = GridFolder(Path(arguments[0]))
    units = [unit.name for unit in grid.units()]
    ended = _stop_remote(grid)
    launcher = grid.launcher()
    running = {name: process for name in units if (process := grid.running_job(name)) is not None}
    if launcher is None and not running:
        _refuse_other_machine(grid, units)
        print(f"ended {ended} jobs of other machines" if ended else f"nothing of {grid.path} runs")
        return OK
    for process in filter(None, (launcher, *running.values())):
        process.send(signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (launcher is not None and launcher.alive()) or any(process.alive() for process in running.values()):
        if time.monotonic() > deadline:
            left = [name for name, process in running.items() if process.alive()] or ["the launcher"]
            raise UserError(f"{', '.join(left)} did not stop within {_PATIENCE_SECONDS:.0f} seconds")
        time.sleep(0.1)
    print(f"stopped: {counted(statuses(grid))}; the same launch continues")
    return OK


def _refuse_other_machine(grid: GridFolder, units: Sequence[str]) -> None:
    for unit in units:
        if (host := grid.host_of_job(unit)) is not None:
            raise UserError(f"{unit} was started on {host}: rulespace stop {grid.path} there")


def _stop_remote(grid: GridFolder) -> int:
    """Ends the jobs that were handed over and have not ended; how many."""
    ended = 0
    for launch in grid.launches():
        place = place_of(launch)
        left = [unit for unit, state in place.states(launch).items() if state in (State.RUNNING, State.WAITING)]
        place.stop(launch, left)
        ended += len(left)
    return ended
