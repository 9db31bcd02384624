"""Those who share the streams of a host pool: worker processes, or the pool's own."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from framework.errors import UserError
from framework.host_environments.arrays import StepArrays
from framework.host_environments.streams import Streams
from framework.host_environments.worker import DONE, STEP, Beginning, Failure
from framework.specs import EnvironmentSpec

_BEGIN = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from framework.host_environments.worker import serve
serve(int(sys.argv[2]), int(sys.argv[3]))
"""

_WORKER_VARIABLES = {
    # Streams are the parallelism: threads below them would only compete.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # An environment of a user's that imports JAX must not take the accelerator.
    "JAX_PLATFORMS": "cpu",
}

_GRACE = 2.0
"""Seconds that a worker gets to end by itself."""


PATIENCE = 300.0
"""Seconds after which an environment that does not answer is taken to hang."""

_LOOKS = 4
"""How often, in that time, a worker is looked at that is silent: one that went on to another stream does not hang."""


class WorkerDiedError(Exception):
    """A worker process is gone, or hangs, with the streams of its own."""

    def __init__(self, own: range, how: str, why: str = "the environment crashed, or memory ran out") -> None:
        super().__init__(how)
        self.own, self.how, self.why = own, how, why


class Member(Protocol):
    """One of those that share a pool's streams."""

    own: range

    def ask(self, operation: Callable[..., Any], *arguments: Any) -> None:
        """Begins an operation on the member's streams."""

    def answer(self) -> Any:
        """Awaits the operation's end; what it returned."""

    def close(self) -> None:
        """Asks it to end, without waiting."""

    def join(self) -> None:
        """Awaits its end, and enforces it."""


class InProcess:
    """Steps streams in the pool's own process, when it is asked for the answer."""

    def __init__(self, streams: Streams, own: range) -> None:
        self.own, self._streams = own, streams
        self._asked: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def ask(self, operation: Callable[..., Any], *arguments: Any) -> None:
        self._asked = operation, arguments

    def answer(self) -> Any:
        assert self._asked is not None
        (operation, arguments), self._asked = self._asked, None
        return operation(self._streams, *arguments)

    def close(self) -> None:
        self._streams.close()

    def join(self) -> None:
        pass


class Worker:
    """A process that steps streams.

    It is a new interpreter that shares nothing with this one but a socket and a block of memory: a fork would copy
    JAX's threads and locks, and multiprocessing's other ways run the main script once more.
    """

    def __init__(self, beginning: Beginning, memory_descriptor: int, busy: np.ndarray, patience: float) -> None:
        """Starts the process; ``busy`` tells with which of its streams it is doing something."""
        self.own, self._busy, self._patience = beginning.own, busy, patience
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = (theirs.fileno(), memory_descriptor)
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BEGIN, json.dumps(sys.path), *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                env={**os.environ, **_WORKER_VARIABLES},
            )
        # A limit of the socket's own: to poll before each answer would take as long as a fast environment's step.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _as_timeval(patience / _LOOKS))
        self._connection = Connection(ours.detach())
        self._connection.send(beginning)

    def ask(self, operation: Callable[..., Any], *arguments: Any) -> None:
        try:
            message = STEP if operation is Streams.step else pickle.dumps((operation, arguments))
        except Exception as error:
            raise UserError(
                f"an environment cannot be sent to a worker process: {type(error).__name__}: {error}. Its class must "
                "be importable by the name of a module, and its fields must be picklable"
            ) from error
        try:
            self._connection.send_bytes(message)
        except ConnectionError:
            raise self._died() from None

    def answer(self) -> Any:
        message = self._next_message()
        if message == DONE:
            return None
        answer = pickle.loads(message)
        if isinstance(answer, Failure):
            raise answer.error()
        return answer

    def _next_message(self) -> bytes:
        before, unchanged = None, 0
        while True:
            try:
                return self._connection.recv_bytes()
            except BlockingIOError:
                now = self._busy.tobytes()
                unchanged = unchanged + 1 if now == before else 1
                before = now
            except (EOFError, ConnectionError):
                raise self._died() from None
            if unchanged >= _LOOKS:
                how = f"has not answered for {self._patience:g} seconds"
                why = "the environment hangs, or needs longer than Group.environment_timeout"
                raise WorkerDiedError(self.own, how, why)

    def close(self) -> None:
        self._connection.close()

    def join(self) -> None:
        try:
            self.process.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _died(self) -> WorkerDiedError:
        try:
            status = self.process.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            return WorkerDiedError(self.own, "does not answer any more")
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return WorkerDiedError(self.own, how)


def gather(spec: EnvironmentSpec, streams: int, workers: int, patience: float) -> tuple[list[Member], StepArrays]:
    """Those who share S streams, evenly, and the arrays that they write to."""
    size = StepArrays.size(spec, streams)
    if workers == 0:
        arrays = StepArrays.over(bytearray(size), spec, streams)
        return [InProcess(Streams(arrays, spec, range(streams)), range(streams))], arrays
    descriptor = _shared_memory(size)
    try:
        arrays = StepArrays.over(mmap.mmap(descriptor, size), spec, streams)
        bounds = [streams * worker // workers for worker in range(workers + 1)]
        crew: list[Worker] = []
        try:
            for start, stop in itertools.pairwise(bounds):
                beginning = Beginning(spec, streams, range(start, stop))
                crew.append(Worker(beginning, descriptor, arrays.busy[start:stop], patience))
            _spread(crew)
        except BaseException:
            dismiss(crew)
            raise
    finally:
        os.close(descriptor)
    return list(crew), arrays


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has, where a scheduler or a container says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _spread(workers: Sequence[Worker]) -> None:
    """Gives each worker a core of its own where there are as many: left alone, two of them often wait for one core."""
    if hasattr(os, "sched_setaffinity") and len(workers) == usable_cores():
        for worker, core in zip(workers, sorted(os.sched_getaffinity(0)), strict=True):
            os.sched_setaffinity(worker.process.pid, {core})


def _as_timeval(seconds: float) -> bytes:
    """Seconds as the system takes them for a socket's limit: whole seconds, then microseconds."""
    whole = int(seconds)
    return struct.pack("ll", whole, max(int((seconds - whole) * 1e6), 0 if whole else 1))


def _shared_memory(size: int) -> int:
    """A descriptor of nameless memory: nothing is left behind, however the processes that hold it end."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("host_pool")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def dismiss(crew: Sequence[Member]) -> None:
    """Ends everyone: asks all before it waits for any."""
    with ExitStack() as ending:
        for member in crew:
            ending.callback(member.join)
        for member in crew:
            ending.callback(member.close)
