"""How several processes of one run end together: when one of them fails, is told to end at once, or is lost.

Each process lets the others hear a beat, by way of process 0. One that is silent is lost, with its host or alone.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

import jax

from framework import hosts
from framework.errors import UserError
from framework.exit_status import FAILED, INTERRUPTED
from framework.leaving import before_aborts, leave, leave_after

BEAT_SECONDS = 1.0
"""How often a process is heard."""

PATIENCE_SECONDS = 60.0
"""How long one may be silent before it is lost; longer than any one call keeps Python's lock."""

PATIENCE_AFTER_AN_ERROR_SECONDS = 10.0
"""The same, where this process has an error that the loss of another one would explain."""

LEAVING_SECONDS = 10.0
"""How long one that leaves lets the others see why."""

_BEATS, _FAILURES = "rulespace/beats/", "rulespace/failures/"


class Failure(NamedTuple):
    """Why all processes end: one sentence, and which process it is about; a lost one is not waited for."""

    process: int
    words: str
    lost: bool


def explained(error: BaseException) -> str:
    """What an error means to who reads of it on another host."""
    words = str(error) or type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    if hosts.count() > 1 and _may_come_of_others(error):
        return f"it can no longer reach the other processes of this run, or a device failed ({words.splitlines()[0]})"
    return words


def _may_come_of_others(error: BaseException) -> bool:
    """Whether the loss of another process would explain an error: JAX raises the second kind out of collectives."""
    return isinstance(error, jax.errors.JaxRuntimeError) or (isinstance(error, ValueError) and "Gloo" in str(error))


class FailureWatch:
    """An error of one process, or its loss, ends all, and all say what it was; a context around what they do together.

    A process that waits for the others cannot be interrupted: threads listen for them, and end it. Alone, nothing of
    this happens.

    Attributes:
      last_words: called before this process ends because of another one, with the reason, to which it may add.
    """

    def __init__(self) -> None:
        self.last_words: Callable[[str], str] = lambda reason: reason
        self._over, self._leaving, self._error = threading.Event(), threading.Lock(), threading.Event()
        self._heard: dict[int, tuple[str, float]] = {}
        self._answered = 0.0
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._talk, self._look)]
        self._aborts = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if hosts.count() > 1:
            self._answered = time.monotonic()
            self._heard = dict.fromkeys(range(hosts.count()), ("", self._answered))
            self._aborts.enter_context(before_aborts(self._before_abort))
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if hosts.count() == 1:
            return
        if error is None:
            try:
                hosts.wait_for_all()
            except jax.errors.JaxRuntimeError as lost:
                self.settle(lost)
                raise
        else:
            self.settle(error)
        with self._leaving:
            self._over.set()
        for thread in self._threads:
            thread.join(LEAVING_SECONDS)
        if error is not None:
            # JAX would wait at exit for the others, who are about to leave.
            atexit.register(leave, INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED)
            self._tell(Failure(jax.process_index(), f"{_named(jax.process_index())} failed: {explained(error)}", False))
            _wait_to_leave(set())
        self._aborts.close()
        if error is not None and _may_come_of_others(error):
            raise UserError(explained(error)) from error

    def settle(self, error: BaseException) -> None:
        """Returns if an error is this process's own; if it comes of the end of another one, this one ends here."""
        if hosts.count() > 1 and _may_come_of_others(error) and not self._error.is_set():
            self._error.set()
            self._over.wait(PATIENCE_AFTER_AN_ERROR_SECONDS + 3 * BEAT_SECONDS)

    def _talk(self) -> None:
        """Lets the others hear a beat, and notes theirs."""
        me, client, beat = jax.process_index(), hosts.client(), 0
        while True:
            beat += 1
            try:
                client.key_value_set(f"{_BEATS}{me}", f"{beat} {socket.gethostname()}", allow_overwrite=True)
                beats, failures = client.key_value_dir_get(_BEATS), client.key_value_dir_get(_FAILURES)
            except jax.errors.JaxRuntimeError:
                self._follow(self._lost(0, "it no longer answers"))
                return
            self._answered = now = time.monotonic()
            for key, value in beats:
                process = int(key.removeprefix(_BEATS))
                if value != self._heard[process][0]:
                    self._heard[process] = value, now
            if failures:
                self._follow(Failure(*json.loads(min(failures)[1])))
                return
            if self._over.wait(BEAT_SECONDS):
                return

    def _look(self) -> None:
        """Ends this process where another one has been silent for too long."""
        while not self._over.wait(BEAT_SECONDS / 2):
            patience = PATIENCE_AFTER_AN_ERROR_SECONDS if self._error.is_set() else PATIENCE_SECONDS
            late = time.monotonic() - patience
            silent = [process for process, (_, heard) in self._heard.items() if heard < late]
            # All are silent where nobody answers: process 0 is the one who answers for all.
            lost = 0 if self._answered < late else min(silent, default=None)
            if lost is not None:
                failure = self._lost(lost, f"nothing was heard of it for {patience:.0f} seconds")
                self._follow(failure, tell=lost != 0)
                return

    def _lost(self, process: int, why: str) -> Failure:
        host = self._heard[process][0].partition(" ")[2]
        place = f", on {host}," if host else ""
        return Failure(process, f"{_named(process)}{place} is lost: {why}", lost=True)

    def _tell(self, failure: Failure) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # Another process was first, or process 0 is gone.
            hosts.client().key_value_set(f"{_FAILURES}{failure.process}", json.dumps(failure))

    def _follow(self, failure: Failure, *, tell: bool = False) -> None:
        """Ends this process after another one, and may tell the others to do the same."""
        with self._leaving:
            if self._over.is_set():
                return
            leave_after(3 * LEAVING_SECONDS, FAILED)  # The last words may hang, on a disk that is lost with the host.
            if tell:
                self._tell(failure)
            words = failure.words
            with contextlib.suppress(Exception):
                words = self.last_words(words)
            print(words, file=sys.stderr)
            if not (failure.lost and failure.process == 0):
                _wait_to_leave({failure.process} if failure.lost else set())
            leave(FAILED)

    def _before_abort(self) -> None:
        """Finds out why a library ends this process: JAX does as soon as process 0 is gone."""
        aborted = time.monotonic()
        if self._over.wait(3 * BEAT_SECONDS):
            return
        if self._answered < aborted + BEAT_SECONDS:
            self._follow(self._lost(0, "it no longer answers"))
        me = jax.process_index()
        self._tell(Failure(me, f"{_named(me)} was aborted by a library; what it printed says why", lost=True))


def _named(process: int) -> str:
    return f"process {process} of {hosts.count()}"


def _wait_to_leave(lost: set[int]) -> None:
    """Returns when all others know that they are to leave, or after a while."""
    others = [process for process in range(hosts.count()) if process not in lost]
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # Some process hangs, or is gone.
        hosts.client().wait_at_barrier("rulespace/leaving", int(LEAVING_SECONDS * 1000), others)
    if hosts.is_writer():
        time.sleep(BEAT_SECONDS)  # JAX aborts whoever is still there when process 0 is not.
