"""Where the units of a grid can run, and what each place is asked."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from framework.errors import UserError
from framework.runs.storage import disk_errors, write_atomically
from launch.bucket import Bucket
from launch.grid import GridFolder, GridUnit, Launch
from launch.states import State, UnitStatus


class Request(NamedTuple):
    """What the command line says of a place.

    Attributes:
      cluster: path of a cluster file, or the name of a shipped one; empty for none.
      settings: ``x=y``: settings of the cluster that replace the file's.
      max_parallel: units that run at once; ``None`` for as many as the place can.
    """

    cluster: str = ""
    settings: Sequence[str] = ()
    max_parallel: int | None = None


class Place(Protocol):
    """This machine, or a service that runs jobs.

    Attributes:
      max_parallel: units that run at once; a place that queues takes all of them.
      chips: accelerators that a unit is given; 0 where nobody counts them.
      description: of the place, for people.
    """

    @property
    def max_parallel(self) -> int | None: ...

    @property
    def chips(self) -> int: ...

    @property
    def description(self) -> str: ...

    def folder_of(self, grid: GridFolder, name: str) -> str:
        """The run folder of a unit."""

    def manifests(self, grid: GridFolder, units: Sequence[GridUnit]) -> Mapping[str, str]:
        """{file name: text} of exactly what will be submitted; nothing is asked of any service."""

    def preflight(self) -> None:
        """Raises `framework.errors.UserError`: what is missing here to submit anything, all of it."""

    def run(self, grid: GridFolder, units: Sequence[GridUnit], title: str) -> bool:
        """Runs the units, or hands them over; whether it came to its end without being stopped."""


class RemotePlace(Place, Protocol):
    """A service whose jobs go on without the launcher."""

    @property
    def bucket(self) -> Bucket: ...

    def states(self, launch: Launch) -> Mapping[str, State]:
        """{unit: how its job stands}; a job that ended well is waiting for nothing but its result."""

    def stop(self, launch: Launch, units: Sequence[str]) -> None:
        """Ends the jobs of some units."""

    def log(self, launch: Launch, unit: str) -> str:
        """What the job of a unit has said."""


_MODULES = {"local": "launch.local", "vertex": "launch.vertex", "gke": "launch.kubernetes"}
NAMES = tuple(_MODULES)


def place(name: str, request: Request) -> Place:
    """The place of a name in `NAMES`; only now is imported what it needs.

    Raises:
      UserError: the place cannot do what it is asked for, in words.
    """
    found: Place = importlib.import_module(_MODULES[name]).place(request)
    return found


def place_of(launch: Launch) -> RemotePlace:
    """Where a launch was handed to."""
    found: RemotePlace = importlib.import_module(_MODULES[launch.on]).of_launch(launch)
    return found


def write_manifests(folder: Path, manifests: Mapping[str, str]) -> None:
    """Writes manifests into a folder of their own; those of an earlier time are replaced.

    Raises:
      UserError: the folder holds something else, or cannot be written to.
    """
    with disk_errors(f"write manifests to {folder}", "--dry_run"):
        folder.mkdir(parents=True, exist_ok=True)
        if others := sorted({path.name for path in folder.iterdir()} - manifests.keys()):
            raise UserError(f"{folder} holds other files ({others[0]}, ...): remove them or choose another --dry_run")
        for name, text in manifests.items():
            write_atomically(folder / name, text.encode())


def told(status: UnitStatus) -> str:
    """A start or an end of a unit as a line."""
    match status.state:
        case State.RUNNING:
            return f"started {status.unit.name}"
        case State.FINISHED:
            value = "" if status.episode_return is None else f": final return {status.episode_return:.4g}"
            return f"finished {status.unit.name}{value}"
        case State.FAILED:
            return f"failed {status.unit.name}: {status.error}"
    return f"{status.state.value} {status.unit.name}" + (f": {status.error}" if status.error else "")
