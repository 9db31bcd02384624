"""Where the files of checkpoints are: in folders of a disk, or in a bucket."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from framework import hosts
from framework.runs.object_store import ABSENT, Conflict, ObjectFolder
from framework.runs.storage import RunFolderError, sync_folder, write_atomically

MANIFEST = "manifest.json"
_SAVING, _REMOVED = ".saving-", ".removed-"


class CheckpointFiles(Protocol):
    """The files of a run's checkpoints, a set for each step; a step is there whole or not at all.

    Attributes:
      folder: of this machine, where a set that is being saved, or was brought here, is.
      shared: whether all processes save to, and read from, that folder.
    """

    folder: Path

    @property
    def shared(self) -> bool: ...

    def __str__(self) -> str:
        """Where they are, for people."""

    def clear(self) -> None:
        """Removes what an interrupted save or removal left; the writer calls it, before anything else."""

    def steps(self) -> list[int]:
        """Steps that may have a set, ascending."""

    def complete_steps(self) -> list[int]:
        """Steps whose set has a manifest, ascending."""

    def begin(self, step: int) -> Path:
        """A new, empty folder for the files of a step; all processes call it."""

    def collect(self, step: int) -> dict[str, str]:
        """{name: sha256} of the files that all processes have put into it; all call it, and all are told."""

    def complete(self, step: int, manifest: bytes) -> None:
        """Makes them the set of the step, in place of an older one; the writer calls it."""

    def give_up(self, step: int) -> None:
        """Removes what was begun."""

    def fetch(self, step: int) -> Path:
        """The folder of this machine with the files of a step; what is missing there is missing from the set."""

    def remove(self, step: int) -> None:
        """Removes the set of a step."""


class OnDisk:
    """A folder a step; it is built under a hidden name and appears by one rename.

    Args:
      folder: holds them; all processes see it.
    """

    shared = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def clear(self) -> None:
        for stray in [*self.folder.glob(f"{_SAVING}*"), *self.folder.glob(f"{_REMOVED}*")]:
            shutil.rmtree(stray)

    def steps(self) -> list[int]:
        return _steps(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []

    def complete_steps(self) -> list[int]:
        return [step for step in self.steps() if (self.folder / str(step) / MANIFEST).is_file()]

    def begin(self, step: int) -> Path:
        hosts.by_writer(lambda: _make_anew(self._saving(step)))
        return self._saving(step)

    def collect(self, step: int) -> dict[str, str]:
        hosts.wait_for_all()
        return hosts.by_writer(lambda: _sha256s(self._saving(step)))

    def complete(self, step: int, manifest: bytes) -> None:
        write_atomically(self._saving(step) / MANIFEST, manifest)
        final = self.folder / str(step)
        if final.exists():
            self.remove(step)
        self._saving(step).rename(final)
        sync_folder(self.folder)

    def give_up(self, step: int) -> None:
        shutil.rmtree(self._saving(step), ignore_errors=True)

    def fetch(self, step: int) -> Path:
        return self.folder / str(step)

    def remove(self, step: int) -> None:
        # Renamed first: a kill while files go must not leave half a checkpoint under its step.
        removed = (self.folder / str(step)).rename(self.folder / f"{_REMOVED}{step}")
        shutil.rmtree(removed)

    def _saving(self, step: int) -> Path:
        return self.folder / f"{_SAVING}{step}"


class InBucket:
    """Objects below a step's name; the manifest is written last and removed first, without it there is no checkpoint.

    Each process brings what it has saved, and each that restores brings all of it here.

    Args:
      folder: of this process alone, for the files on their way.
      objects: where they are.
    """

    shared = False

    def __init__(self, folder: Path, objects: ObjectFolder) -> None:
        self.folder = folder
        self.objects = objects

    def __str__(self) -> str:
        return str(self.objects)

    def clear(self) -> None:
        complete = self.complete_steps()
        self.objects.remove(name for name in self.objects.names() if _step_of(name) not in complete)

    def steps(self) -> list[int]:
        return self.complete_steps()

    def complete_steps(self) -> list[int]:
        names = self.objects.names()
        return _steps(name.removesuffix(f"/{MANIFEST}") for name in names if name.endswith(f"/{MANIFEST}"))

    def begin(self, step: int) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        _make_anew(self.folder / str(step))
        hosts.by_writer(lambda: self.remove(step))
        return self.folder / str(step)

    def collect(self, step: int) -> dict[str, str]:
        folder = self.folder / str(step)
        of_processes = hosts.exchanged(_sha256s(folder))
        # What describes all arrays, every process has: the first of them brings it.
        merged = {name: sha256 for own in reversed(of_processes) for name, sha256 in own.items()}
        before: set[str] = set().union(*of_processes[: hosts.index()])
        mine = [name for name in of_processes[hosts.index()] if name not in before]
        self.objects.upload({f"{step}/{name}": folder / name for name in mine})
        hosts.wait_for_all()
        return merged

    def complete(self, step: int, manifest: bytes) -> None:
        try:
            self.objects.write(f"{step}/{MANIFEST}", manifest, replacing=ABSENT)
        except Conflict:
            raise RunFolderError(
                f"another process has saved {self.objects}/{step}; let one run at a time write to a folder"
            ) from None

    def give_up(self, step: int) -> None:
        shutil.rmtree(self.folder / str(step), ignore_errors=True)

    def fetch(self, step: int) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        folder = self.folder / str(step)
        self.objects.download([name for name in self.objects.names() if _step_of(name) == step], self.folder)
        return folder

    def remove(self, step: int) -> None:
        names = [name for name in self.objects.names() if _step_of(name) == step]
        self.objects.remove(sorted(names, key=lambda name: name != f"{step}/{MANIFEST}"))


def files_of(folder: Path, objects: ObjectFolder | None) -> CheckpointFiles:
    """The checkpoints of a folder, or of the objects that are on their way through it."""
    return OnDisk(folder) if objects is None else InBucket(folder, objects)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256s(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _steps(names: Iterable[str]) -> list[int]:
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9]\d*", name))


def _step_of(name: str) -> int | None:
    step = name.partition("/")[0]
    return int(step) if re.fullmatch(r"0|[1-9]\d*", step) else None
