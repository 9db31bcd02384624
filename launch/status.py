"""The verb ``status``: how the units of a grid stand."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from framework.exit_status import OK
from launch.consoles import wide_console
from launch.fetching import fetched
from launch.grid import GridFolder
from launch.states import State, UnitStatus, counted, statuses

_STYLES = {
    State.WAITING: "dim",
    State.RUNNING: "cyan",
    State.INTERRUPTED: "yellow",
    State.FAILED: "red",
    State.FINISHED: "green",
}


def define_flags(options: flags.FlagValues) -> None:
    flags.DEFINE_bool("watch", False, "Show it again and again, until all units have ended.", flag_values=options)
    flags.DEFINE_float("every", 2.0, "Seconds between two looks.", lower_bound=0.1, flag_values=options)


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    """Shows a grid once, or until none of its units waits or runs; fetches what remote units have written.

    Raises:
      UserError: the folder holds no sweep, or a service does not answer.
    """
    grid = GridFolder(Path(arguments[0]))
    console = wide_console()
    if not options.watch:
        console.print(_view(grid, statuses(grid, fetched(grid)), console.is_terminal))
        return OK
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            standing = statuses(grid, fetched(grid))
            live.update(_view(grid, standing, console.is_terminal), refresh=True)
            busy = any(status.state in (State.WAITING, State.RUNNING) for status in standing)
            if not busy or (grid.launcher() is None and not grid.launches() and not _runs(standing)):
                return OK
            time.sleep(options.every)


def _runs(standing: Sequence[UnitStatus]) -> bool:
    return any(status.state is State.RUNNING for status in standing)


def _view(grid: GridFolder, standing: Sequence[UnitStatus], in_terminal: bool) -> Group:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("unit", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("progress", "return", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    # In a file or a pipe a line is a unit, however long its error.
    table.add_column("error", no_wrap=in_terminal, overflow="ellipsis" if in_terminal else "fold")
    for status in standing:
        table.add_row(
            Text(status.unit.name),
            Text(status.state.value, _STYLES[status.state]),
            f"{status.step:,}/{status.unit.steps:,}",
            "" if status.episode_return is None else f"{status.episode_return:.4g}",
            "" if status.seconds_left is None else str(datetime.timedelta(seconds=round(status.seconds_left))),
            Text(status.error or ""),
        )
    launcher = grid.launcher()
    launching = "" if launcher is None else f"; launched by process {launcher.pid}"
    return Group(table, Text(f"{grid.name()}: {counted(standing)}{launching}"))
