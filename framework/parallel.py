"""Agents side by side: vectorised in chunks on a device, and spread over devices.

What is summed over agents is summed in their order, whatever device they are on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from framework import hosts
from framework.errors import UserError
from framework.types import PyTree

AXIS = "agents"


@dataclasses.dataclass(frozen=True)
class Agents:
    """How a function of one agent is computed for all P agents of a group.

    Attributes:
      count: number of agents (P).
      chunk: how many of one device are vectorised at once; the chunks follow one another. All by default.
      mesh: the devices that agents are spread over; ``None`` for one device.
    """

    count: int
    chunk: int | None = None
    mesh: Mesh | None = None

    def map(self, function: Callable[..., Any], shared: PyTree, *of_agents: PyTree) -> Any:
        """``function(shared, *agent)`` for every agent: arguments and results with a leading axis P, but ``shared``."""
        if self.mesh is None:
            return self._local(function, shared, *of_agents)
        spread = PartitionSpec(AXIS)
        return jax.shard_map(
            lambda shared, *rest: self._local(function, shared, *rest),
            mesh=self.mesh,
            in_specs=(PartitionSpec(), *([spread] * len(of_agents))),
            out_specs=spread,
            check_vma=False,
        )(shared, *of_agents)

    def _local(self, function: Callable[..., Any], shared: PyTree, *of_agents: PyTree) -> Any:
        local = self.count // (1 if self.mesh is None else self.mesh.size)
        chunk = min(self.chunk or local, local)
        compute = _single(function) if chunk == 1 else jax.vmap(function, in_axes=(None, *([0] * len(of_agents))))
        if chunk == local:
            return compute(shared, *of_agents)
        if local % chunk:
            raise UserError(f"{local} agents on a device cannot be split into chunks of {chunk}: choose a divisor")
        chunked = jax.tree.map(lambda x: x.reshape(local // chunk, chunk, *x.shape[1:]), of_agents)
        result = jax.lax.map(lambda agents: compute(shared, *agents), chunked)
        return jax.tree.map(lambda x: x.reshape(local, *x.shape[2:]), result)

    @functools.cached_property
    def own(self) -> np.ndarray:
        """Places of the agents on this process's devices, ascending: all of them, unless there are more hosts."""
        if self.mesh is None:
            return np.arange(self.count)
        rows = NamedSharding(self.mesh, PartitionSpec(AXIS)).addressable_devices_indices_map((self.count,)).values()
        return np.unique([np.arange(self.count)[row] for row in rows])

    def spread(self, own: PyTree) -> PyTree:
        """Arrays of all agents [P, ...] on the devices, from the rows of this process's own."""
        return jax.device_put(own) if len(self.own) == self.count else self.given(own)

    def given(self, own: PyTree) -> PyTree:
        """What `spread` returns, as a program takes it: numpy arrays where all agents are this process's own."""
        if self.mesh is None or len(self.own) == self.count:
            return own
        spread = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(spread, x, (self.count, *x.shape[1:])), own
        )

    def gathered(self, tree: PyTree) -> PyTree:
        """The agents' leaves [P, ...], all of them on every device: sums over P then have one order."""
        if self.mesh is None:
            return tree
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, everywhere), tree)


def _single(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of one agent for a chunk of one: its program needs no batched products."""

    def compute(shared: PyTree, *chunk: PyTree) -> Any:
        result = function(shared, *jax.tree.map(lambda x: x[0], chunk))
        return jax.tree.map(lambda x: x[None], result)

    return compute


def placed(mesh: Mesh | None) -> tuple[NamedSharding, NamedSharding] | None:
    """Where arrays with an axis of agents are, and where all others: the same everywhere; ``None`` for one device."""
    if mesh is None:
        return None
    return NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())


def mesh_size(counts: Sequence[int], devices: int, processes: int = 1) -> int:
    """How many devices agents are spread over: as many of each process as divide every group's number of agents.

    Args:
      counts: the groups' numbers of agents.
      devices: of each process.
      processes: number of hosts.

    Raises:
      UserError: agents cannot be spread evenly over so many hosts.
    """
    sizes = [processes * n for n in range(1, devices + 1) if all(count % (processes * n) == 0 for count in counts)]
    if not sizes:
        uneven = next(count for count in counts if count % processes)
        raise UserError(
            f"{uneven} agents cannot be spread evenly over {processes} hosts: give every group a multiple of "
            f"{processes} agents, or start fewer processes"
        )
    return max(sizes)


def mesh_for(counts: Sequence[int], *, repeated: bool = False) -> Mesh | None:
    """A mesh of as many devices of each host as divide every group's number of agents; ``None`` where that is one.

    The other devices stay idle: ten agents in one group and sixteen in another are spread over two of eight.

    Args:
      counts: the groups' numbers of agents.
      repeated: whether each host computes all agents where they cannot be spread evenly over the hosts.

    Raises:
      UserError: agents cannot be spread evenly over the hosts.
    """
    of_hosts = _devices_of_hosts()
    if repeated and any(count % len(of_hosts) for count in counts):
        of_hosts = [jax.local_devices()]
    size = mesh_size(counts, min(map(len, of_hosts)), len(of_hosts))
    if size == 1:
        return None
    devices = [device for of_host in of_hosts for device in of_host[: size // len(of_hosts)]]
    return jax.make_mesh((size,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def _devices_of_hosts() -> list[list[jax.Device]]:
    by_host: list[list[jax.Device]] = [[] for _ in range(hosts.count())]
    for device in jax.devices():
        by_host[device.process_index].append(device)
    return by_host


def mean_over_agents(tree: PyTree, weight: jax.Array) -> PyTree:
    """Weighted mean over the leading axis, in the order of the agents; 0 where no agent has weight."""
    scale = 1.0 / jnp.maximum(1.0, weight.sum())
    return jax.tree.map(lambda x: jnp.tensordot(weight, x, axes=1) * scale, tree)
