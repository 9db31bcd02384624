"""What an agent remembers, on the device and part of its state."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from framework.registry import component
from framework.types import Array, PyTree, Trajectory


class ReplayState(struct.PyTreeNode):
    """A ring of trajectories.

    Attributes:
      trajectories: leaves [capacity, T, ...].
      inserted: trajectories inserted since the agent's birth [] int32.
    """

    trajectories: PyTree
    inserted: Array


def _batch_first(trajectory: Trajectory) -> Trajectory:
    """[T, B, ...] to [B, T, ...]; the carry has no time axis."""
    moved = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), trajectory.replace(carry=()))
    return moved.replace(carry=trajectory.carry)


def _time_first(trajectory: Trajectory) -> Trajectory:
    return _batch_first(trajectory)  # swapping two axes undoes itself


@component("replays")
@dataclasses.dataclass(frozen=True)
class OnPolicy:
    """No memory: an update learns from the trajectories just collected."""

    capacity: ClassVar[int] = 0

    def init(self, example: Trajectory) -> PyTree:
        return ()

    def insert(self, state: PyTree, trajectory: Trajectory) -> PyTree:
        return state

    def sample(self, state: PyTree, key: Array, fresh: Trajectory) -> Trajectory:
        return fresh

    def batch(self, num_environments: int) -> int:
        return num_environments

    def fresh_of_batch(self, num_environments: int) -> int:
        return num_environments

    def warm_up_unrolls(self, num_environments: int) -> int:
        return 0


@component("replays")
@dataclasses.dataclass(frozen=True)
class Uniform:
    """Remembers the last trajectories; a batch is a share of fresh ones and uniform draws with replacement.

    Fresh trajectories enter the memory before the draw. Until the memory holds a batch, the agent only acts.

    Attributes:
      capacity: number of trajectories remembered.
      batch_size: trajectories an update learns from.
      fresh: how many of them are just collected ones, of the first environments, whatever the draw; the replay
        ratio of the batch is 1 - fresh / batch_size.
    """

    capacity: int
    batch_size: int
    fresh: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.batch_size <= self.capacity:
            raise ValueError(f"batch_size must lie in [1, capacity={self.capacity}], got {self.batch_size}")
        if not 0 <= self.fresh <= self.batch_size:
            raise ValueError(f"fresh must lie in [0, batch_size={self.batch_size}], got {self.fresh}")

    def init(self, example: Trajectory) -> ReplayState:
        shapes = jax.eval_shape(_batch_first, example)
        empty = jax.tree.map(lambda x: jnp.zeros((self.capacity, *x.shape[1:]), x.dtype), shapes)
        return ReplayState(trajectories=empty, inserted=jnp.zeros((), jnp.int32))

    def insert(self, state: ReplayState, trajectory: Trajectory) -> ReplayState:
        fresh = _batch_first(trajectory)
        slots = (state.inserted + jnp.arange(fresh.action.shape[0])) % self.capacity
        trajectories = jax.tree.map(lambda memory, new: memory.at[slots].set(new), state.trajectories, fresh)
        return ReplayState(trajectories=trajectories, inserted=state.inserted + fresh.action.shape[0])

    def sample(self, state: ReplayState, key: Array, fresh: Trajectory) -> Trajectory:
        held = jnp.minimum(state.inserted, self.capacity)
        slots = jax.random.randint(key, (self.batch_size - self.fresh,), 0, held)
        drawn = jax.tree.map(lambda memory: memory[slots], state.trajectories)
        if self.fresh:
            newest = jax.tree.map(lambda x: x[: self.fresh], _batch_first(fresh))
            drawn = jax.tree.map(lambda new, old: jnp.concatenate([new, old]), newest, drawn)
        return _time_first(drawn)

    def batch(self, num_environments: int) -> int:
        return self.batch_size

    def fresh_of_batch(self, num_environments: int) -> int:
        return self.fresh

    def warm_up_unrolls(self, num_environments: int) -> int:
        return -(-self.batch_size // num_environments) - 1
