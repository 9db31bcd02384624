"""The folder of a launched sweep: what its units are, who launches them, and where each of them leaves its files."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from framework.errors import UserError
from framework.runs import contract
from framework.runs.object_store import refuse_address
from framework.runs.storage import disk_errors, strict_json, write_atomically
from launch.processes import ProcessId

_OPTION = "--dir"
_SWEEP = "sweep.json"


@dataclasses.dataclass(frozen=True)
class GridUnit:
    """A unit as it is launched.

    Attributes:
      name: of the unit.
      arguments: all that comes after ``rulespace run``.
      folder: its run folder; on an object store ``gs://...``.
      config_hash, seed, steps, env_steps: what it will be, as `RunFolder` and ``result.json`` say it.
      parameters: of an agent's network.
      memory_megabytes: of the whole state.
    """

    name: str
    arguments: tuple[str, ...]
    folder: str
    config_hash: str
    seed: int
    steps: int
    env_steps: int
    parameters: int
    memory_megabytes: float


@dataclasses.dataclass(frozen=True)
class Launch:
    """Once that a grid was handed to machines that are not this one.

    Attributes:
      on: which ones: ``vertex`` or ``gke``.
      experiment_id: in XManager's database.
      cluster: the settings of the cluster.
      jobs: {unit: its job there}.
    """

    on: str
    experiment_id: int
    cluster: dict[str, Any]
    jobs: dict[str, str]


@dataclasses.dataclass(frozen=True)
class GridFolder:
    """Looking at it changes nothing; writing begins with `claimed`.

    Raises:
      UserError: it is another's, in use, or no folder of a sweep; with what to do about it.
    """

    path: Path

    def __post_init__(self) -> None:
        refuse_address(
            self.path, "a grid is noted here, and --cluster.bucket holds the run folders of its units on TPUs"
        )

    def log(self, unit: str) -> Path:
        return self.path / "logs" / f"{unit}.log"

    def job_record(self, unit: str) -> Path:
        """Who runs a unit on this machine; see `launch.job`."""
        return self.path / "jobs" / f"{unit}.json"

    def run_folder(self, unit: str) -> Path:
        """The run folder of a unit, or what was fetched of it."""
        return self.path / unit

    def exists(self) -> bool:
        return (self.path / _SWEEP).is_file()

    def units(self) -> tuple[GridUnit, ...]:
        try:
            return tuple(GridUnit(**{**unit, "arguments": tuple(unit["arguments"])}) for unit in self._sweep()["units"])
        except (KeyError, TypeError) as error:  # It is JSON, but not what we wrote.
            file = self.path / "sweep.json"
            raise UserError(f"{file} describes no sweep ({error!r}): choose another --dir, or move it away") from None

    def name(self) -> str:
        return self._sweep()["name"]

    def write(self, *, name: str, text: str, scale: str, on: str, units: Sequence[GridUnit]) -> None:
        """Notes what is launched, if `refuse_other_sweep` lets it; the caller has claimed the folder."""
        self.refuse_other_sweep(name, units)
        sweep = {"name": name, "scale": scale, "on": on, "text": text, "units": [dataclasses.asdict(u) for u in units]}
        with disk_errors(f"write to {self.path}", _OPTION):
            for folder in ("logs", "jobs"):
                (self.path / folder).mkdir(exist_ok=True)
            write_atomically(self.path / _SWEEP, strict_json(sweep, indent=2).encode())

    def refuse_other_sweep(self, name: str, units: Sequence[GridUnit]) -> None:
        """A folder may be given more units, but none of it may be forgotten or be another experiment."""
        if self.path.is_dir() and not self.exists():
            names = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
            if names:
                raise UserError(f"{self.path} holds other files ({names[0]}, ...) and no sweep: choose another --dir")
        if not self.exists():
            return
        planned = {unit.name: unit for unit in units}
        for saved in self.units():
            now = planned.get(saved.name)
            if now is None:
                raise UserError(
                    f"{self.path} holds a sweep with the unit {saved.name}, which {name} does not have: "
                    "choose another --dir, or undo the difference to continue it"
                )
            if (now.config_hash, now.seed) != (saved.config_hash, saved.seed) and self._was_started(saved):
                raise UserError(
                    f"{self.path / saved.name} holds another experiment than the unit {saved.name} is now: "
                    "choose another --dir, or undo the difference to continue it (rulespace diff tells it)"
                )

    def launches(self) -> tuple[Launch, ...]:
        """What was handed to other machines, oldest first."""
        files = sorted((self.path / "launches").glob("*.json"))
        return tuple(Launch(**_read_json(file)) for file in files)

    def record_launch(self, launch: Launch) -> None:
        path = self.path / "launches" / f"{launch.experiment_id}.json"
        with disk_errors(f"note in {path} what was handed over", _OPTION):
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, strict_json(dataclasses.asdict(launch), indent=2).encode())

    def process_of(self, unit: str) -> dict[str, Any] | None:
        """The record of a unit's latest start on this machine; ``None`` before the first."""
        path = self.job_record(unit)
        return _read_json(path) if path.is_file() else None

    def running_job(self, unit: str) -> ProcessId | None:
        """The process on this machine that sees to a unit, if there is one; see `launch.job`."""
        process = self._process_of_job(unit)
        return process if process is not None and process.alive() else None

    def host_of_job(self, unit: str) -> str | None:
        """The other machine on which a unit was started, and has not ended as far as is known; ``None`` without one."""
        process = self._process_of_job(unit)
        return None if process is None or process.is_here else process.host

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps every other launcher away; the kernel holds the claim, so that it ends with the process."""
        with disk_errors(f"use {self.path} as the folder of a sweep", _OPTION):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".launcher", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                launcher = self._noted_launcher()
                owner = "another process" if launcher is None else f"process {launcher.pid} on {launcher.host}"
                raise UserError(
                    f"{self.path} is being launched by {owner}: watch it with rulespace status {self.path} --watch, "
                    f"end it with rulespace stop {self.path}, or choose another --dir"
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, strict_json(ProcessId.of(os.getpid()).as_json()).encode(), 0)
            try:
                yield
            finally:
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def launcher(self) -> ProcessId | None:
        """The process that is launching, if there is one."""
        noted = self._noted_launcher()
        return noted if noted is not None and noted.alive() else None

    def _process_of_job(self, unit: str) -> ProcessId | None:
        record = self.process_of(unit)
        return None if record is None or record["ended"] is not None else ProcessId(**record["process"])

    def _noted_launcher(self) -> ProcessId | None:
        try:
            return ProcessId(**json.loads((self.path / ".launcher").read_bytes()))
        except (OSError, ValueError):
            return None

    def _was_started(self, unit: GridUnit) -> bool:
        return (self.run_folder(unit.name) / contract.COMMAND).is_file() or any(
            unit.name in launch.jobs for launch in self.launches()
        )

    def _sweep(self) -> dict[str, Any]:
        path = self.path / _SWEEP
        if not path.is_file():
            raise UserError(f"{self.path} holds no sweep: name the folder that rulespace launch printed")
        return _read_json(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with disk_errors(f"read {path}", _OPTION):
            return json.loads(path.read_bytes())
    except ValueError:
        raise UserError(f"{path} is not JSON: it was damaged; put back a sound copy") from None
