"""The worker process of a host pool: it does with its streams what the pool asks for.

Nothing here imports JAX: a worker starts fast and touches no accelerator.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import pickle
import signal
import threading
import time
from multiprocessing.connection import Connection

from framework.errors import UserError
from framework.host_environments.arrays import StepArrays
from framework.host_environments.streams import Streams
from framework.specs import EnvironmentSpec

STEP = b"step"
"""The message to a worker that asks for a step: the only one that is sent often, and so not pickled."""

DONE = b"done"
"""A worker's answer where an operation returns nothing."""

_LOOK_AFTER_PARENT = 1.0
"""Seconds between two looks at whether the pool's process is still there."""


@dataclasses.dataclass(frozen=True)
class Beginning:
    """The first message to a worker: what the arrays look like, and which streams are its own."""

    spec: EnvironmentSpec
    streams: int
    own: range


@dataclasses.dataclass(frozen=True)
class Failure:
    """A worker's answer to what went wrong."""

    message: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, error: UserError) -> Failure:
        return cls(str(error), tuple(getattr(error, "__notes__", ())))

    def error(self) -> UserError:
        """The error, to be raised in the pool's process."""
        error = UserError(self.message)
        for note in self.notes:
            error.add_note(note)
        return error


def serve(connection_descriptor: int, memory_descriptor: int) -> None:
    """Runs a worker process until the pool's end of the connection is closed, by the pool or by its process's end.

    A message is `STEP`, or a method of `Streams` and its arguments; the answer is `DONE`, what it returned, or a
    `Failure`.
    """
    # Ctrl-C reaches the whole terminal, and a cluster may ask all of a job's processes to end: the pool decides.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with Connection(connection_descriptor) as connection:
        beginning: Beginning = connection.recv()
        memory = mmap.mmap(memory_descriptor, StepArrays.size(beginning.spec, beginning.streams))
        arrays = StepArrays.over(memory, beginning.spec, beginning.streams).of_streams(beginning.own)
        streams = Streams(arrays, beginning.spec, beginning.own)
        try:
            while True:
                try:
                    answer = _answer(streams, connection)
                except UserError as error:
                    answer = Failure.of(error)
                connection.send_bytes(DONE if answer is None else pickle.dumps(answer))
        except (EOFError, ConnectionError):
            pass
        finally:
            streams.close()


def _end_with(process: int) -> None:
    """Ends this process with its parent, even while an environment hangs and nobody listens to the connection."""
    while os.getppid() == process:
        time.sleep(_LOOK_AFTER_PARENT)
    os._exit(1)


def _answer(streams: Streams, connection: Connection) -> object:
    message = connection.recv_bytes()
    if message == STEP:
        streams.step()
        return None
    try:
        operation, arguments = pickle.loads(message)
    except Exception as error:
        raise UserError(
            f"a worker process cannot load its environments: {type(error).__name__}: {error}. Their classes must be "
            "importable by the name of a module"
        ) from error
    return operation(streams, *arguments)
