"""Several hosts that run one experiment: a process on each, with devices of its own, all of one program.

Arrays of agents are spread over the devices of all; all other arrays are the same everywhere. What has to be done once,
such as writing a file of the run, the *writer* does: process 0.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from framework.errors import UserError
from framework.types import PyTree

T = TypeVar("T")

FAILED, INTERRUPTED = 1, 130
"""Exit status of a process that leaves because of an error, or of Ctrl-C."""

_PATIENCE = 24 * 3600
"""Seconds that a process waits for the others, who may be evaluating or reading; of one that is gone it is told."""

_POLL_SECONDS = 0.5
_LEAVE_SECONDS = 10
"""How often a process looks whether another one has failed, and how long the failing one lets itself be seen."""

_FAILURES = "rulespace/failures/"
_counter = itertools.count()


# Who there is


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins the other processes of a run; called before anything else of JAX.

    Without arguments, those of a TPU slice on Kubernetes find each other by its environment variables, and every other
    process is alone.

    Args:
      coordinator: ``host:port`` of process 0, or ``auto`` where JAX knows the cluster: TPU virtual machines, Slurm.
      processes: how many there are.
      process: which of them this is, from 0.

    Raises:
      UserError: the others cannot be found.
    """
    if coordinator is None and not _in_a_slice():
        return
    # Our own handler of SIGTERM lets all processes stop after the same step.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if coordinator in (None, "auto"):
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, processes, process, cluster_detection_method="deactivate")
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run cannot meet: {str(error).splitlines()[0]}; start all of them with the same "
            "--coordinator and --processes, and see that its port can be reached from every host"
        ) from error


def _in_a_slice() -> bool:
    """Whether Kubernetes has told this process of other hosts of its TPU slices; JAX reads the same variables."""
    names = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES") or ""
    return "," in names or int(os.environ.get("MEGASCALE_NUM_SLICES") or 1) > 1


def count() -> int:
    """Number of processes."""
    return jax.process_count()


def index() -> int:
    """Which of them this is, from 0."""
    return jax.process_index()


def is_writer() -> bool:
    """Whether this process does what is to be done once."""
    return index() == 0


def introduce(mesh: Mesh | None) -> None:
    """Has the devices of a mesh of several hosts meet, while all processes are here; all of them call it.

    Those of CPUs give each other up after 30 seconds, and the first program may take one host that much longer to
    compile than another.
    """
    if mesh is None or not mesh.is_multi_process:
        return
    wait_for_all()
    everywhere = NamedSharding(mesh, PartitionSpec())
    one_each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    here = jax.make_array_from_callback((mesh.size,), one_each, lambda index: np.arange(mesh.size)[index])
    jax.block_until_ready(jax.jit(lambda x: x, out_shardings=everywhere)(here))
    multihost_utils.sync_global_devices("rulespace")


# What they tell each other


def exchanged(value: T) -> list[T]:
    """What every process has to say, in their order; all of them call it, as often, and it waits for all.

    Args:
      value: anything that JSON can say.
    """
    if count() == 1:
        return [value]
    client, place = _client(), f"rulespace/exchanges/{next(_counter)}"
    client.key_value_set(f"{place}/{jax.process_index()}", json.dumps(value))
    client.wait_at_barrier(place, _PATIENCE * 1000)
    values = [json.loads(client.blocking_key_value_get(f"{place}/{i}", 60_000)) for i in range(count())]
    client.wait_at_barrier(f"{place}/read", _PATIENCE * 1000)
    client.key_value_delete(f"{place}/{jax.process_index()}")
    return values


def by_writer(function: Callable[[], T]) -> T:
    """What a function returns to the writer, who alone calls it; the others wait. Anything that JSON can say."""
    return exchanged(function() if is_writer() else None)[0]  # type: ignore[return-value]


def wait_for_all() -> None:
    """Returns when all processes have come here."""
    exchanged(None)


# What arrays hold


def is_whole(x: Any) -> bool:
    """Whether this process has all of an array."""
    return not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated


def whole(x: Any) -> np.ndarray:
    """All of an array; all processes call it."""
    return np.asarray(x if is_whole(x) else multihost_utils.process_allgather(x, tiled=True))


def own_rows(tree: PyTree) -> PyTree:
    """The rows of this process's agents, of arrays of all agents [P, ...]."""

    def rows(x: Any) -> np.ndarray:
        if is_whole(x):
            return np.asarray(x)
        parts = {shard.index[0].start: shard.data for shard in x.addressable_shards}
        return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])

    return jax.tree.map(rows, tree)


# How all of them end when one fails


def explained(error: BaseException) -> str:
    """What an error means to who reads of it on another host."""
    words = str(error) or type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    if isinstance(error, jax.errors.JaxRuntimeError) and count() > 1:
        return (
            f"another process of this run is gone, or a device failed ({words.splitlines()[0]}); start all of them "
            "again, they go on from the last checkpoint"
        )
    return words


class FailureWatch:
    """An error of one process ends all, and all say what it was; a context around all that they do together.

    A process that waits for the others cannot be interrupted: another thread looks out for failures, and ends it.

    Attributes:
      before_leaving: called with the words of another process's error before this one ends.
    """

    def __init__(self) -> None:
        self.before_leaving: Callable[[str], None] = lambda error: None
        self._over, self._leaving = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        if count() > 1:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if count() == 1:
            return
        if error is None:
            wait_for_all()
            self._over.set()
            self._thread.join()
            return
        if isinstance(error, jax.errors.JaxRuntimeError):
            # Most likely another process is gone; should it have said why, the thread is about to end this one.
            self._over.wait(4 * _POLL_SECONDS)
        with self._leaving:
            self._over.set()
            words = explained(error)
            # JAX would wait for the others at exit, who are about to leave.
            atexit.register(_leave, INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED)
            try:
                _client().key_value_set(f"{_FAILURES}{jax.process_index()}", words)
                _wait_to_leave()
            except jax.errors.JaxRuntimeError:
                pass  # The coordinator is gone, and all who asked it with it.
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise UserError(words) from error

    def _look(self) -> None:
        while not self._over.wait(_POLL_SECONDS):
            try:
                failures = _client().key_value_dir_get(_FAILURES)
            except jax.errors.JaxRuntimeError:
                continue  # The process that holds them is gone; whoever computes hears of it by itself.
            if failures:
                with self._leaving:
                    if not self._over.is_set():
                        self._follow(*min(failures))

    def _follow(self, key: str, words: str) -> None:
        """Ends this process after another one."""
        error = f"process {key.removeprefix(_FAILURES)} of {count()} failed: {words}"
        try:
            self.before_leaving(error)
            print(error, file=sys.stderr)
            _wait_to_leave()
        finally:
            _leave(FAILED)


def _wait_to_leave() -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # Some process hangs, or is gone.
        _client().wait_at_barrier("rulespace/leaving", _LEAVE_SECONDS * 1000)


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _client() -> Any:
    """What JAX's processes talk through; it has no public name, orbax takes it from here too."""
    from jax._src import distributed

    return distributed.global_state.client
