"""The bucket that units of other machines write their run folders to."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from framework.runs.contract import COMMAND, CONFIG, LEARNING_CURVE, METRICS, OPERATIVE_CONFIG, RESULT
from framework.runs.object_store import ObjectFolder, StoredFile, open_folder
from framework.runs.storage import RunFolderError, disk_errors, write_atomically

_WANTED = (RESULT, COMMAND, CONFIG, OPERATIVE_CONFIG, METRICS, LEARNING_CURVE)


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A bucket of Google Cloud Storage.

    Attributes:
      name: of it, without ``gs://``.
      project: that is billed.
    """

    name: str
    project: str

    def refuse_missing(self) -> str | None:
        """A sentence on what is wrong with the bucket; ``None`` if it is there and may be read."""
        try:
            self._folder("rulespace").refuse_missing_bucket()
        except RunFolderError as error:
            return str(error)
        return None

    def fetch(self, folder: str, into: Path) -> None:
        """Brings what tells of a run, but not its checkpoints; what has not changed is not brought again.

        Args:
          folder: of the run in the bucket.
          into: a folder here.

        Raises:
          UserError: the bucket cannot be read, or the disk refuses.
        """
        there = self._folder(folder)
        files = there.files()
        with disk_errors(f"write to {into}", "--dir"):
            for name in _WANTED:
                if name not in files or _is_same(into / name, files[name]):
                    continue
                if (found := there.read(name)) is not None:
                    into.mkdir(parents=True, exist_ok=True)
                    write_atomically(into / name, found.content)
                    os.utime(into / name, ns=(files[name].updated_ns, files[name].updated_ns))

    def _folder(self, folder: str) -> ObjectFolder:
        return open_folder(f"gs://{self.name}/{folder}", self.project)


def _is_same(path: Path, there: StoredFile) -> bool:
    """By size and time, which is the bucket's for what has been fetched."""
    try:
        here = path.stat()
    except OSError:
        return False
    return (here.st_size, here.st_mtime_ns) == there
