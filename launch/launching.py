"""The verb ``launch``: a sweep is read, checked and counted, then run here or handed to TPUs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags
from rich.table import Table

from framework.errors import UserError
from framework.exit_status import INTERRUPTED, OK
from framework.gin_files.mistakes import ConfigError
from framework.runs.object_store import is_address
from launch import places, planning
from launch.consoles import wide_console
from launch.fetching import fetched
from launch.grid import GridFolder, GridUnit
from launch.states import State, UnitStatus, counted, status_of
from launch.sweep import SweepError
from launch.sweep_file import SMALL, SweepFile, read_sweep

_SHOWN_UNITS = 24


def define_flags(options: flags.FlagValues) -> None:
    flags.DEFINE_enum("on", "local", places.NAMES, "Where the units run.", flag_values=options)
    flags.DEFINE_string("dir", None, "Folder of the grid; runs/<sweep> if not given.", flag_values=options)
    flags.DEFINE_enum("scale", None, [SMALL], "Run the sweep's version for one machine.", flag_values=options)
    flags.DEFINE_flag(
        flags.Flag(  # One that may stand alone; its value is then 'true'.
            flags.ArgumentParser(), flags.ArgumentSerializer(), "dry_run", None,
            "Start nothing; write the exact manifests, to runs/<sweep>-manifests or =FOLDER.", boolean=True,
        ),
        flag_values=options,
    )  # fmt: skip
    meaning = "Units that run at once; for local a unit a core."
    flags.DEFINE_integer("max_parallel", None, meaning, lower_bound=1, flag_values=options)
    meaning = "Agent steps per second of a unit, for the estimate of hours."
    flags.DEFINE_float("steps_per_second", None, meaning, lower_bound=1e-9, flag_values=options)
    meaning = "Cluster file, or the name of a shipped one; --cluster.x=y replaces a setting."
    flags.DEFINE_string("cluster", None, meaning, flag_values=options)
    flags.DEFINE_multi_string("cluster_setting", [], "The same as --cluster.x=y: x=y.", flag_values=options)


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    """Launches a sweep; exit status 0 when all its units are finished, or handed over.

    Raises:
      UserError: the sweep, a config or the place is not as it must be, or units failed; with their names.
    """
    file = _read(arguments[0], options)
    grid = GridFolder(Path(options.dir or Path("runs") / _default_name(file)))
    place = places.place(
        options.on, places.Request(options.cluster or "", options.cluster_setting, options.max_parallel)
    )
    units = file.sweep.beside(lambda folder: _run_folder_at(place, folder)).units()
    planned = planning.checked(units, lambda unit: place.folder_of(grid, unit.name))
    grid.refuse_other_sweep(file.sweep.name, planned)
    # A dry run asks nobody anything.
    handed_over = fetched(grid) if grid.exists() and options.dry_run is None else {}
    standing = [status_of(grid, unit, handed_over.get(unit.name)) for unit in planned]
    estimate = planning.estimate(standing, options.steps_per_second)
    _show(standing, grid, place, estimate.text(side_by_side=place.max_parallel or len(units), chips=place.chips))
    if options.on != "local":
        _note_own_files(planned)
    if options.dry_run is not None:
        folder = Path(f"runs/{_default_name(file)}-manifests" if options.dry_run == "true" else options.dry_run)
        manifests = place.manifests(grid, planned)
        places.write_manifests(folder, manifests)
        print(f"nothing was started; manifests of {_units(len(manifests))} in {folder}")
        return OK
    return start(file, grid, standing, place, options.on, handed_over)


def start(
    file: SweepFile,
    grid: GridFolder,
    standing: Sequence[UnitStatus],
    place: places.Place,
    on: str,
    handed_over: Mapping[str, State],
) -> int:
    """Runs what is not finished of a grid, or hands it over; exit status as of `main`.

    Args:
      file: the sweep.
      grid: its folder, which holds nothing else.
      standing: all its units, as they stand.
      place: where they run.
      on: its name.
      handed_over: how units stand that were handed to other machines before; what these still have is left to them.

    Raises:
      UserError: another launcher has the grid, the place lacks something, or units failed; with their names.
    """
    units = [status.unit for status in standing]
    theirs = {unit for unit, state in handed_over.items() if state in (State.RUNNING, State.WAITING)}
    left = [s.unit for s in standing if s.state is not State.FINISHED and s.unit.name not in theirs]
    if not left:
        print(f"nothing is left to launch, {counted(standing)}: rulespace status {grid.path}")
        return OK
    place.preflight()
    with grid.claimed():
        grid.write(name=file.sweep.name, text=file.text, scale=file.scale, on=on, units=units)
        completed = place.run(grid, left, f"{file.sweep.name} in {grid.path}")
    return _ending(grid, units, completed) if on == "local" else _handed_over(grid, left)


def _read(name: str, options: flags.FlagValues) -> SweepFile:
    try:
        return read_sweep(name, scale=options.scale or "", gin_files=options.gin_file, bindings=options.gin_bindings)
    except ConfigError as error:
        raise SweepError(f"{error}\nSee gin/sweeps/ for sweeps, and rulespace launch --help.") from None


def _run_folder_at(place: places.Place, folder: str) -> str:
    """The run folder, in a place, of a unit that has or would have this one here; an address is left as it is."""
    if is_address(folder):
        return folder
    return place.folder_of(GridFolder(Path(folder).parent), Path(folder).name)


def _default_name(file: SweepFile) -> str:
    return f"{file.sweep.name}-{file.scale}" if file.scale else file.sweep.name


def _show(standing: Sequence[UnitStatus], grid: GridFolder, place: places.Place, estimate: str) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("unit", "state", "steps", "env steps", "config"):
        table.add_column(column, justify="right" if "steps" in column else "left", no_wrap=column == "unit")
    for status in standing[:_SHOWN_UNITS]:
        unit = status.unit
        table.add_row(unit.name, status.state.value, f"{unit.steps:,}", f"{unit.env_steps:,}", unit.config_hash)
    console = wide_console()
    console.print(table)
    if len(standing) > _SHOWN_UNITS:
        print(f"... and {len(standing) - _SHOWN_UNITS} more")
    first = standing[0].unit
    print(f"{_units(len(standing))} on {place.description}: {counted(standing)}")
    if any(status.state is not State.FINISHED for status in standing):
        print(f"left to do: {estimate}")
    print(f"folder {grid.path}; a unit alone: {shlex.join(['rulespace', 'run', *first.arguments])}")


def _note_own_files(units: Sequence[GridUnit]) -> None:
    words = {word.removeprefix("--gin_file=") for unit in units for word in unit.arguments}
    if own := sorted(word for word in words if os.path.isfile(word)):
        print(f"note: {', '.join(own)} must be in the image, below the working folder that launch/Dockerfile sets")


def _ending(grid: GridFolder, units: Sequence[GridUnit], completed: bool) -> int:
    standing = [status_of(grid, unit) for unit in units]
    print(f"{counted(standing)}; rulespace status {grid.path} tells more")
    if not completed:
        print("stopped; the same command continues, each unit from its latest saved state")
        return INTERRUPTED
    ended = [status for status in standing if status.state is not State.FINISHED]
    if ended:
        reasons = "\n".join(f"  {s.unit.name}: {s.error or s.state.value} ({grid.log(s.unit.name)})" for s in ended)
        raise UserError(
            f"{len(ended)} of {len(units)} units did not finish; the same command runs them again:\n{reasons}"
        )
    return OK


def _handed_over(grid: GridFolder, units: Sequence[GridUnit]) -> int:
    print(
        f"handed over {_units(len(units))}; watch and fetch them with rulespace status {grid.path}, "
        f"end them with rulespace stop {grid.path}"
    )
    return OK


def _units(number: int) -> str:
    return "1 unit" if number == 1 else f"{number:,} units"
