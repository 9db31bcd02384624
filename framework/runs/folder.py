"""The folder of one run, on a disk or in a bucket: what was run, where it is, who is writing, and how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from framework.runs import contract
from framework.runs.object_store import is_address, open_folder
from framework.runs.storage import RunFolderError, disk_errors, strict_json, write_atomically
from framework.runs.working_copy import WorkingCopy

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "rulespace")
_OUR_HIDDEN_FILE = re.compile(r"\.lock|\..+\.saving")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """One run's folder; looking at it changes nothing, writing begins with `claimed`.

    Attributes:
      path: where its files are on this machine.
      copy: brings them to the folder of a bucket that they are a copy of; ``None`` for a folder on a disk.

    Raises:
      RunFolderError: when the folder is another's, in use, damaged or refused by the disk; with what to do about it.
    """

    path: Path
    copy: WorkingCopy | None = None

    def __str__(self) -> str:
        return str(self.path if self.copy is None else self.copy.objects)

    @property
    def checkpoints(self) -> Path:
        """Holds one folder a checkpoint."""
        return self.path / contract.CHECKPOINTS

    @property
    def learning_curve(self) -> Path:
        """The picture of the training returns."""
        return self.path / contract.LEARNING_CURVE

    def command(self) -> dict[str, Any] | None:
        """``command.json``: ``config_hash``, ``seed`` and every start in ``starts``; ``None`` before the first."""
        return self._read_json(contract.COMMAND)

    def result(self) -> dict[str, Any] | None:
        """How the run ended; ``None`` while it has not."""
        return self._read_json(contract.RESULT)

    def saved_config_hash(self) -> str | None:
        """Hash of the configuration the folder was started with; it leaves out the seed, see `saved_seed`."""
        command = self.command()
        return None if command is None else command["config_hash"]

    def saved_seed(self) -> int | None:
        """Seed the folder was started with."""
        command = self.command()
        return None if command is None else command["seed"]

    def saved_config_text(self) -> str | None:
        """The replayable configuration of the latest start; ``None`` before the first."""
        path = self.path / contract.CONFIG
        with disk_errors(f"read {path}"):
            return path.read_text() if path.is_file() else None

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Makes the folder, if need be, and keeps every other process from writing to it.

        The kernel holds the claim: it ends with the process, however that ends. Of a folder in a bucket the process
        holds it by writing again and again.
        """
        if self.copy is not None:
            with self.copy.claimed() as names:
                self._refuse_foreign_files(names)
                self.copy.fetch()
                yield
            return
        with disk_errors(f"use {self.path} as a run folder"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign_files(path.name for path in self.path.iterdir())
            descriptor = os.open(self.path / contract.LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with disk_errors(f"lock {self.path}"):
                self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def start(
        self, *, config: str, operative_config: str, config_hash: str, seed: int, arguments: Sequence[str]
    ) -> None:
        """Records a start or a resume of the run; the caller has claimed the folder and compared the hashes.

        Earlier starts stay on record. An earlier result goes: the run it was about is no longer at its end.

        Args:
          config: everything, replayable.
          operative_config: what of it was used.
          config_hash: identity of the experiment without its seed.
          seed: of the run.
          arguments: the command line.
        """
        earlier = self.command()
        starts = [*(earlier["starts"] if earlier else []), _describe_start(arguments)]
        command = {"config_hash": config_hash, "seed": seed, "starts": starts}
        with disk_errors(f"write to {self.path}"):
            # command.json first: it is what makes the folder ours.
            write_atomically(self.path / contract.COMMAND, strict_json(command, indent=2).encode())
            write_atomically(self.path / contract.CONFIG, config.encode())
            write_atomically(self.path / contract.OPERATIVE_CONFIG, operative_config.encode())
            (self.path / contract.RESULT).unlink(missing_ok=True)
        self.publish()

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes ``result.json``, the last file of a run."""
        path = self.path / contract.RESULT
        with disk_errors(f"write {path}"):
            write_atomically(path, strict_json(result, indent=2).encode())
        self.publish()

    def fetch(self) -> None:
        """Brings what tells of the run from the bucket, if the folder is in one; `claimed` has done so."""
        if self.copy is not None:
            self.copy.fetch()

    def release(self) -> None:
        """Ends the claim on a folder in a bucket, for a process that leaves by the shortest way."""
        if self.copy is not None:
            self.copy.release()

    def publish(self) -> None:
        """Brings everything but the checkpoints to the bucket, if the folder is in one."""
        if self.copy is not None:
            self.copy.publish()

    def publish_now_and_then(self) -> None:
        """`publish`, if the last time is a while ago."""
        if self.copy is not None:
            self.copy.publish_now_and_then()

    def _read_json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            with disk_errors(f"read {path}"):
                return json.loads(path.read_bytes()) if path.is_file() else None
        except ValueError:
            raise RunFolderError(f"{self}/{name} is not JSON: it was damaged; put back a sound copy") from None

    def _refuse_foreign_files(self, found: Iterable[str]) -> None:
        names = sorted(name for name in found if not _OUR_HIDDEN_FILE.fullmatch(name))
        if names and contract.COMMAND not in names:
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise RunFolderError(
                f"{self} holds other files ({some}) and no run; choose an empty or a new folder with --workdir"
            )

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            raise RunFolderError(
                f"{self.path} is in use by {owner}; wait until it ends, or choose another folder with --workdir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


@contextlib.contextmanager
def open_run(place: str) -> Iterator[RunFolder]:
    """The folder of a run, at a path or at an address of an object store.

    Of the latter a copy is made, in the folder for temporary files, which goes at the end.

    Raises:
      RunFolderError: there can be no run.
    """
    if not is_address(place):
        yield RunFolder(Path(place))
        return
    objects = open_folder(place)
    with tempfile.TemporaryDirectory(prefix="rulespace-", ignore_cleanup_errors=True) as copy:
        yield RunFolder(Path(copy), WorkingCopy(Path(copy), objects))


def _describe_start(arguments: Sequence[str]) -> dict[str, Any]:
    import jax

    return {
        "arguments": list(arguments),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "source": _source(Path(__file__).resolve().parents[2]),
        "host": socket.gethostname(),
        "processes": jax.process_count(),
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()],
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _source(root: Path) -> dict[str, Any] | None:
    """Commit of the checkout this code runs from, and whether it was changed since; ``None`` outside a checkout."""
    top, commit = _git(root, "rev-parse", "--show-toplevel"), _git(root, "rev-parse", "--verify", "HEAD")
    if top is None or commit is None or Path(top) != root:
        return None
    return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
