"""Agents side by side: vectorised in chunks on a device, and spread over devices.

What is summed over agents is summed in their order, whatever device they are on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

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


def mesh_size(counts: Sequence[int], devices: int) -> int:
    """How many of some devices agents are spread over: as many as divide every group's number of agents."""
    return max(n for n in range(1, devices + 1) if all(count % n == 0 for count in counts))


def mesh_for(counts: list[int]) -> Mesh | None:
    """A mesh of as many devices as divide every group's number of agents; ``None`` where that is one.

    The other devices stay idle: ten agents in one group and sixteen in another are spread over two of eight.
    """
    devices = jax.devices()
    size = mesh_size(counts, len(devices))
    if size == 1:
        return None
    return jax.make_mesh((size,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:size])


def mean_over_agents(tree: PyTree, weight: jax.Array) -> PyTree:
    """Weighted mean over the leading axis, in the order of the agents; 0 where no agent has weight."""
    scale = 1.0 / jnp.maximum(1.0, weight.sum())
    return jax.tree.map(lambda x: jnp.tensordot(weight, x, axes=1) * scale, tree)
