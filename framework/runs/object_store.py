"""Folders of an object store: Google Cloud Storage, whose objects appear whole and can be written on a condition.

Google's own client sends the requests, and repeats those that fail for a while. It is loaded only where an address is
used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from framework.runs.storage import RunFolderError

_ADDRESS = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]+[a-z0-9])/(?P<prefix>[^/].*)")
_LOG_IN = "log in with: gcloud auth application-default login"
_AT_ONCE = 16
"""Files on their way at one time: an object takes tens of milliseconds, whatever its size."""

COPY = "copy it here with gcloud storage cp --recursive, and name the copy"
"""What to do with a folder of a bucket where one of this machine is asked for."""

ABSENT = 0
"""The generation of an object that is not there."""


class Conflict(Exception):
    """An object is not, or no longer, what a condition says."""


class Version(NamedTuple):
    """What an object holds, and the number that changes whenever it is written."""

    content: bytes
    generation: int


class StoredFile(NamedTuple):
    """What a listing says of an object.

    Attributes:
      size: in bytes.
      updated_ns: when it was written, by the clock of the store, in nanoseconds since 1970, as `os.stat` counts them.
    """

    size: int
    updated_ns: int


def is_address(text: str) -> bool:
    """Whether a text names a place that is no path of this machine, or means to: ``gs:/`` with one slash too."""
    return "://" in text or address_of(Path(text)) is not None


def address_of(path: Path) -> str | None:
    """The address that a path was made from, which has one slash where that had two; ``None`` for a path."""
    scheme, colon, rest = str(path).partition(":/")
    return f"{scheme}://{rest}" if colon and "/" not in scheme else None


def refuse_address(path: Path, instead: str) -> None:
    """For what reads and writes files of this machine alone.

    Raises:
      RunFolderError: the path is an address.
    """
    if (address := address_of(path)) is not None:
        raise RunFolderError(f"{address} is no folder of this machine: {instead}")


def open_folder(address: str, project: str | None = None) -> ObjectFolder:
    """A folder of a bucket; nothing is asked of it yet.

    Args:
      address: ``gs://BUCKET/FOLDER``.
      project: that requests are counted for; that of the credentials by default.

    Raises:
      RunFolderError: the address is none, the client is not installed, or there are no credentials.
    """
    parts = _ADDRESS.fullmatch(address.rstrip("/"))
    if parts is None:
        raise RunFolderError(f"{address} is no folder of a bucket: write gs://BUCKET/FOLDER, or the path of a folder")
    try:
        storage = importlib.import_module("google.cloud.storage")
    except ImportError:
        raise RunFolderError(
            f"{address} needs the package google-cloud-storage: pip install 'rulespace[bucket]'"
        ) from None
    named = {} if project is None else {"project": project}
    with _in_words(f"use {address}", parts["bucket"]):
        return ObjectFolder(storage.Client(**named).bucket(parts["bucket"]), parts["prefix"])


@dataclasses.dataclass(frozen=True)
class ObjectFolder:
    """The objects of a bucket whose names begin with a folder's.

    Attributes:
      bucket: of Google's client.
      prefix: name of the folder in the bucket.

    Raises:
      RunFolderError: the bucket is not there, or refuses; with what to do about it.
    """

    bucket: Any
    prefix: str

    def __str__(self) -> str:
        return f"gs://{self.bucket.name}/{self.prefix}"

    def below(self, name: str) -> ObjectFolder:
        """A folder in this one."""
        return ObjectFolder(self.bucket, f"{self.prefix}/{name}")

    def names(self) -> list[str]:
        """Names of all objects, those in folders below too, sorted."""
        start = f"{self.prefix}/"
        with self._in_words("list"):
            found = [blob.name.removeprefix(start) for blob in self.bucket.list_blobs(prefix=start)]
        # Consoles show folders by empty objects.
        return sorted(name for name in found if name and not name.endswith("/"))

    def files(self) -> dict[str, StoredFile]:
        """The objects that are in no folder below."""
        start = f"{self.prefix}/"
        with self._in_words("list"):
            return {
                blob.name.removeprefix(start): StoredFile(blob.size, int(blob.updated.timestamp() * 1e6) * 1000)
                for blob in self.bucket.list_blobs(prefix=start, delimiter="/")
            }

    def refuse_missing_bucket(self) -> None:
        """Asks whether there is a bucket that may be read; needs no right but that to list objects."""
        with self._in_words("use"):
            list(self.bucket.list_blobs(prefix=f"{self.prefix}/", max_results=1))

    def read(self, name: str) -> Version | None:
        """An object as it is now; ``None`` if it is not there."""
        from google.api_core.exceptions import NotFound

        blob = self._blob(name)
        with self._in_words(f"read {name} of"):
            try:
                content = blob.download_as_bytes()
            except NotFound:
                return None
        return Version(content, int(blob.generation))

    def write(self, name: str, content: bytes, *, replacing: int | None = None) -> int:
        """Writes an object, whole; its new generation.

        Args:
          name: of the object.
          content: of it.
          replacing: the generation that it must have until then, ``ABSENT`` for none; any by default.

        Raises:
          Conflict: it has another one. Not if it holds this very content: then an earlier try has come through whose
            answer was lost.
        """
        from google.api_core.exceptions import PreconditionFailed

        blob = self._blob(name)
        with self._in_words(f"write {name} to"):
            try:
                blob.upload_from_string(content, "application/octet-stream", if_generation_match=replacing)
                return int(blob.generation)
            except PreconditionFailed:
                pass
        found = self.read(name)
        if found is None or found.content != content:
            raise Conflict(name)
        return found.generation

    def upload(self, files: Mapping[str, Path]) -> None:
        """Writes files {name: path}, many at a time; each appears whole."""
        from google.cloud.storage import transfer_manager

        pairs = [(str(path), self._blob(name)) for name, path in files.items()]
        with self._in_words("write to"):
            transfer_manager.upload_many(
                pairs, raise_exception=True, worker_type=transfer_manager.THREAD, max_workers=_AT_ONCE
            )

    def download(self, names: Iterable[str], into: Path) -> None:
        """Brings objects to files of the same names below a folder; those that are not there are left out."""
        from google.api_core.exceptions import NotFound
        from google.cloud.storage import transfer_manager

        pairs = [(self._blob(name), str(into / name)) for name in names]
        for _, path in pairs:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with self._in_words("read"), contextlib.suppress(NotFound):
            transfer_manager.download_many(
                pairs, raise_exception=True, worker_type=transfer_manager.THREAD, max_workers=_AT_ONCE
            )

    def remove(self, names: Iterable[str], *, of_generation: int | None = None) -> None:
        """Removes objects, one after the other; those that are not there are no matter.

        Args:
          names: of the objects.
          of_generation: leaves those of another one alone.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed

        for name in names:
            with self._in_words(f"remove {name} from"), contextlib.suppress(NotFound, PreconditionFailed):
                self._blob(name).delete(if_generation_match=of_generation)

    def _blob(self, name: str) -> Any:
        return self.bucket.blob(f"{self.prefix}/{name}")

    def _in_words(self, action: str) -> contextlib.AbstractContextManager[None]:
        return _in_words(f"{action} {self}", self.bucket.name)


@contextlib.contextmanager
def _in_words(action: str, bucket: str) -> Iterator[None]:
    """Turns what Google's client raises into a sentence.

    Raises:
      RunFolderError: ``cannot <action>: <why>; <what to do>``.
    """
    import requests
    from google.api_core import exceptions
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption

    try:
        yield
        return
    except DefaultCredentialsError:
        reason = f"there are no Google Cloud credentials; {_LOG_IN}"
    except (exceptions.Unauthorized, GoogleAuthError) as error:
        reason = f"the Google Cloud credentials are not accepted ({_words(error)}); {_LOG_IN}"
    except exceptions.Forbidden as error:
        reason = f"it is not allowed ({_words(error)}); ask for roles/storage.objectAdmin on gs://{bucket}"
    except exceptions.NotFound:
        reason = f"there is no bucket gs://{bucket}; make it with: gcloud storage buckets create gs://{bucket}"
    except (exceptions.GoogleAPIError, requests.RequestException, DataCorruption) as error:
        reason = f"{_words(error)}; run the same command again, a run continues from its last checkpoint"
    raise RunFolderError(f"cannot {action}: {reason}")


def _words(error: BaseException) -> str:
    """The server's own sentence where there is one, without the request and the JSON around it."""
    error = getattr(error, "cause", None) or error  # What was tried until the patience of the client was at its end.
    response = getattr(error, "response", None)
    with contextlib.suppress(AttributeError, ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.json()['error']['message']}"  # type: ignore[union-attr]
    return (str(error).splitlines() or [type(error).__name__])[0]
