"""The bucket that units of other machines write their run folders to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from framework.errors import UserError
from framework.runs.storage import write_atomically

_WANTED = ("result.json", "command.json", "config.gin", "config.operative.gin", "metrics.jsonl", "learning_curve.png")


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
        from google.api_core import exceptions

        try:
            self._client().get_bucket(self.name)
        except exceptions.NotFound:
            return f"there is no bucket gs://{self.name}: gcloud storage buckets create gs://{self.name}"
        except exceptions.Forbidden:
            return f"gs://{self.name} may not be read with these credentials: ask for roles/storage.objectAdmin on it"
        except exceptions.GoogleAPIError as error:
            return f"gs://{self.name} cannot be asked for: {error}"
        return None

    def fetch(self, folder: str, into: Path) -> None:
        """Brings what tells of a run, but not its checkpoints; what has not changed is not brought again.

        Args:
          folder: of the run in the bucket.
          into: a folder here.

        Raises:
          UserError: the bucket cannot be read.
        """
        from google.api_core import exceptions

        try:
            bucket = self._client().bucket(self.name)
            for name in _WANTED:
                blob = bucket.get_blob(f"{folder}/{name}")
                if blob is not None and not _is_same(into / name, blob):
                    into.mkdir(parents=True, exist_ok=True)
                    write_atomically(into / name, blob.download_as_bytes())
        except exceptions.GoogleAPIError as error:
            raise UserError(f"gs://{self.name}/{folder} cannot be fetched: {error}") from None

    def _client(self) -> Any:
        from google.cloud import storage

        return storage.Client(project=self.project)


def _is_same(path: Path, blob: Any) -> bool:
    """By size and time: files of a run only ever grow or are replaced."""
    try:
        here = path.stat()
    except OSError:
        return False
    return here.st_size == blob.size and here.st_mtime >= blob.updated.timestamp()
