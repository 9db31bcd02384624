"""A claim on a folder of an object store, which no kernel can hold.

Its owner writes an object again and again; one that nobody has written for a minute is nobody's. No clock is compared:
who wants the folder watches the object for that minute.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sys
import threading
import time
import uuid
from types import TracebackType
from typing import Self

from framework.runs.contract import LOCK
from framework.runs.object_store import ABSENT, Conflict, ObjectFolder, Version
from framework.runs.storage import RunFolderError

RENEWAL_SECONDS = 10.0
PATIENCE_SECONDS = 60.0
"""How long a claim lasts after it was last renewed: many renewals, so that a slow network ends none."""

_LOOK_SECONDS = 1.0


class Lease:
    """The claim of this process on a folder; a context manager.

    Args:
      folder: that is claimed.

    Raises:
      RunFolderError: another process has it; with what to do about it.
    """

    def __init__(self, folder: ObjectFolder) -> None:
        self._folder = folder
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        self._content = json.dumps({"owner": owner, "claim": uuid.uuid4().hex}).encode()
        self._generation = ABSENT
        self._lost = False
        self._renewed = -math.inf
        self._writing, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, daemon=True)

    def __enter__(self) -> Self:
        while not self._take(replacing=ABSENT):
            if (left := self._left_behind()) is not None and self._take(replacing=left):
                break
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Ends the claim; also of a process that is about to leave by the shortest way."""
        self._over.set()
        # One that cannot be taken back is over in a minute by itself.
        with self._writing, contextlib.suppress(RunFolderError):
            self._folder.remove([LOCK], of_generation=self._generation)

    def hold(self) -> None:
        """Makes sure that the folder is this process's, and will be long enough to write a file.

        Raises:
          RunFolderError: another process has taken it over.
        """
        if self._lost or time.monotonic() - self._renewed > RENEWAL_SECONDS:
            self._renew()

    def _renew(self) -> None:
        with self._writing:
            begun = time.monotonic()
            self._lost = self._lost or not self._take(replacing=self._generation)
            if self._lost:
                raise RunFolderError(
                    f"{self._folder} was taken over by {_owner(self._folder.read(LOCK))}, as this process had not been "
                    f"heard of for {PATIENCE_SECONDS:.0f} seconds; nothing more is written"
                )
            self._renewed = begun

    def _take(self, *, replacing: int) -> bool:
        """Whether the object could be written in place of a version of it."""
        try:
            self._generation = self._folder.write(LOCK, self._content, replacing=replacing)
        except Conflict:
            return False
        return True

    def _left_behind(self) -> int | None:
        """The generation of a claim that nobody renews; ``None`` for none.

        Raises:
          RunFolderError: somebody does.
        """
        found = self._folder.read(LOCK)
        if found is None:
            return None
        print(f"{self._folder} is claimed by {_owner(found)}: looking whether it is alive", file=sys.stderr, flush=True)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            now = self._folder.read(LOCK)
            if now is None:
                return None
            if now.generation != found.generation:
                raise RunFolderError(
                    f"{self._folder} is in use by {_owner(now)}; wait until it ends, or choose another folder with "
                    "--workdir"
                )
        return found.generation

    def _keep_renewing(self) -> None:
        while not self._over.wait(RENEWAL_SECONDS):
            try:
                self._renew()
            except RunFolderError:
                continue  # Whoever writes next asks again, and is told.


def _owner(version: Version | None) -> str:
    try:
        return str(json.loads(version.content)["owner"]) if version is not None else "another process"
    except (ValueError, KeyError, TypeError):
        return "another process"
