"""Several hosts that run one experiment: a process on each, with devices of its own, all of one program.

Arrays of agents are spread over the devices of all; all other arrays are the same everywhere. What has to be done once,
such as writing a file of the run, the *writer* does: process 0.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from framework.errors import UserError
from framework.exit_status import FAILED
from framework.leaving import before_aborts, leave
from framework.types import PyTree

T = TypeVar("T")

_PATIENCE_SECONDS = 24 * 3600
"""How long a process waits for the others, who may be evaluating or reading; of one that is gone it is told."""

_READ_SECONDS = 60
"""How long reading what a process has said may take."""

_exchanges = itertools.count()
"""Numbers what processes say to each other: all count alike, as all call `exchanged` as often."""


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
    words = (
        "the processes of this run cannot meet: {}; start all of them with the same --coordinator and --processes, and "
        "see that its port can be reached from every host"
    )

    def before_abort() -> None:
        print(words.format("JAX waited in vain, as it says above"), file=sys.stderr)
        leave(FAILED)

    # Who is lost, `framework.failures` finds out: JAX would abort without a word of ours.
    try:
        with before_aborts(before_abort):
            if coordinator in (None, "auto"):
                jax.distributed.initialize(heartbeat_timeout_seconds=_PATIENCE_SECONDS)
            else:
                print(f"process {process} of {processes}: waiting for the others at {coordinator}", file=sys.stderr)
                jax.distributed.initialize(
                    coordinator,
                    processes,
                    process,
                    cluster_detection_method="deactivate",
                    heartbeat_timeout_seconds=_PATIENCE_SECONDS,
                )
    except (RuntimeError, ValueError) as error:
        raise UserError(words.format(str(error).splitlines()[0])) from error


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
    talk, place = client(), f"rulespace/exchanges/{next(_exchanges)}"
    talk.key_value_set(f"{place}/{jax.process_index()}", json.dumps(value))
    talk.wait_at_barrier(place, _PATIENCE_SECONDS * 1000)
    words = [talk.blocking_key_value_get(f"{place}/{process}", _READ_SECONDS * 1000) for process in range(count())]
    values = [json.loads(word) for word in words]
    talk.wait_at_barrier(f"{place}/read", _PATIENCE_SECONDS * 1000)
    talk.key_value_delete(f"{place}/{jax.process_index()}")
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


def client() -> Any:
    """What JAX's processes talk through; it has no public name, orbax takes it from here too."""
    from jax._src import distributed

    return distributed.global_state.client
