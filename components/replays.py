"""What an agent remembers, on the device and part of its state."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from framework.registry import component
from framework.types import Array, PyTree, Trajectory

LEAST_PRIORITY = 1e-6
"""Added to errors, so that nothing is never drawn again (Schaul et al., 2016, section 3.3)."""


class ReplayState(struct.PyTreeNode):
    """A ring of trajectories.

    Attributes:
      trajectories: leaves [capacity, T, ...].
      inserted: trajectories inserted since the agent's birth [] int32.
    """

    trajectories: PyTree
    inserted: Array


class PrioritizedState(struct.PyTreeNode):
    """A ring of trajectories, and how urgent each is.

    Attributes:
      ring: the trajectories.
      priorities: [capacity].
    """

    ring: ReplayState
    priorities: Array


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
        slots = self.next_slots(state, fresh.action.shape[0])
        trajectories = jax.tree.map(lambda memory, new: memory.at[slots].set(new), state.trajectories, fresh)
        return ReplayState(trajectories=trajectories, inserted=state.inserted + fresh.action.shape[0])

    def next_slots(self, state: ReplayState, count: int) -> Array:
        """Where the next trajectories go [count]."""
        return (state.inserted + jnp.arange(count)) % self.capacity

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


@component("replays")
@dataclasses.dataclass(frozen=True)
class Prioritized:
    """Remembers the last trajectories; a batch draws trajectory i with probability p_i^exponent / sum_j p_j^exponent.

    p_i is the trajectory's mean absolute error when it was last learned from, and the largest of all for a fresh one.
    In the loss each counts (N P(i))^-correction, relative to the largest of the batch. Until the memory holds a batch,
    the agent only acts.

    Attributes:
      capacity: number of trajectories remembered.
      batch_size: trajectories an update learns from, drawn with replacement.
      exponent: 0 draws all alike; Rainbow has 0.5.
      correction: 1 makes up for the draw altogether, 0 not at all; the paper lets it grow to 1 from 0.4.

    Source: Schaul et al., 2016, section 3; of whole trajectories as in Kapturowski et al., 2019.
    """

    capacity: int
    batch_size: int
    exponent: float = 0.5
    correction: float = 0.4

    def __post_init__(self) -> None:
        for name in ("exponent", "correction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        _ = self._ring  # Its numbers are checked there.

    @property
    def _ring(self) -> Uniform:
        return Uniform(self.capacity, self.batch_size)

    def init(self, example: Trajectory) -> PrioritizedState:
        return PrioritizedState(ring=self._ring.init(example), priorities=jnp.zeros(self.capacity))

    def insert(self, state: PrioritizedState, trajectory: Trajectory) -> PrioritizedState:
        largest = state.priorities.max()
        slots = self._ring.next_slots(state.ring, trajectory.action.shape[1])
        priorities = state.priorities.at[slots].set(jnp.where(largest > 0, largest, 1.0))
        return PrioritizedState(ring=self._ring.insert(state.ring, trajectory), priorities=priorities)

    def _draw(self, state: PrioritizedState, key: Array) -> tuple[Array, Array]:
        """Slots of a batch [B], and how often each is drawn compared with others on average [B]."""
        held = jnp.minimum(state.ring.inserted, self.capacity)
        logits = jnp.where(jnp.arange(self.capacity) < held, self.exponent * jnp.log(state.priorities), -jnp.inf)
        slots = jax.random.categorical(key, logits, shape=(self.batch_size,))
        return slots, held * jax.nn.softmax(logits)[slots]

    def sample(self, state: PrioritizedState, key: Array, fresh: Trajectory) -> Trajectory:
        slots, frequency = self._draw(state, key)
        drawn = _time_first(jax.tree.map(lambda memory: memory[slots], state.ring.trajectories))
        weight = frequency**-self.correction
        return drawn.replace(importance=jnp.broadcast_to(weight / weight.max(), drawn.action.shape))

    def reprioritize(self, state: PrioritizedState, key: Array, errors: Array) -> PrioritizedState:
        slots, _ = self._draw(state, key)
        # What was drawn twice has one error, but for rounding: the larger, whatever the order of writing.
        priorities = state.priorities.at[slots].set(0.0).at[slots].max(errors + LEAST_PRIORITY)
        return state.replace(priorities=priorities)

    def batch(self, num_environments: int) -> int:
        return self.batch_size

    def fresh_of_batch(self, num_environments: int) -> int:
        return 0

    def warm_up_unrolls(self, num_environments: int) -> int:
        return self._ring.warm_up_unrolls(num_environments)
