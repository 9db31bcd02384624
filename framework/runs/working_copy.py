"""A run folder of an object store: its files are written here, and brought there whenever a run says so."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from framework.runs.contract import COMMAND, CONFIG, LOCK, METRICS, RESULT
from framework.runs.lease import Lease
from framework.runs.object_store import ObjectFolder
from framework.runs.storage import disk_errors

_CONTINUED = (COMMAND, CONFIG, RESULT, METRICS)
"""What a run that continues has to know, its checkpoints apart."""

_BETWEEN_POINTS_SECONDS = 15.0
"""Objects cannot be appended to: files that grow are written whole, not at every point."""


class WorkingCopy:
    """The files of a run here, which are to be those of a folder in a bucket.

    Args:
      path: a folder of this process alone.
      objects: the folder in the bucket.

    Raises:
      RunFolderError: the bucket refuses, or the folder is another process's.
    """

    def __init__(self, path: Path, objects: ObjectFolder) -> None:
        self.path = path
        self.objects = objects
        self._lease: Lease | None = None
        self._published: dict[str, tuple[int, int]] = {}
        self._last = time.monotonic()

    @contextlib.contextmanager
    def claimed(self) -> Iterator[list[str]]:
        """Keeps every other process from writing to the folder; gives the names of what it holds."""
        with Lease(self.objects) as self._lease:
            try:
                yield [name for name in self.objects.names() if name != LOCK]
            finally:
                self._lease = None

    def release(self) -> None:
        """Ends the claim of a process that is about to leave by the shortest way."""
        if self._lease is not None:
            self._lease.release()

    def fetch(self) -> None:
        """Brings what a run that continues has to know."""
        with disk_errors(f"write to {self.path}"):
            for name in _CONTINUED:
                if (found := self.objects.read(name)) is not None:
                    (self.path / name).write_bytes(found.content)
                    self._published[name] = _stamp(self.path / name)

    def publish(self) -> None:
        """Brings there what has changed here, checkpoints apart; nothing without a claim."""
        if self._lease is None:
            return
        self._lease.hold()
        with disk_errors(f"read {self.path}"):
            files = {path.name: _stamp(path) for path in self._files()}
            changed = [name for name, stamp in files.items() if stamp != self._published.get(name)]
            # In order: a kill in between leaves a folder that is known for a run, and one that has not ended.
            for name in sorted(changed, key=lambda name: (name != COMMAND, name == RESULT, name)):
                self.objects.upload({name: self.path / name})
            self.objects.remove(name for name in self._published if name not in files)
            self._published = files
            self._last = time.monotonic()

    def _files(self) -> list[Path]:
        return [path for path in self.path.iterdir() if path.is_file() and not path.name.startswith(".")]

    def publish_now_and_then(self) -> None:
        """`publish`, if the last time is a while ago."""
        if time.monotonic() - self._last > _BETWEEN_POINTS_SECONDS:
            self.publish()


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
