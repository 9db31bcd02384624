"""Delayed chains: the first of an episode's actions decides the reward at its end (Oh et al. 2020, LPG).

Where the paper is silent the choice is ours: an episode has as many steps as its chain is long; action 1 in the first
of them leads to a reward of +1 in the last, action 0 to -1; lengths are drawn uniformly, both ends included. Noisy
chains pay +1 or -1, each with probability 1/2, in every step but the last. What is observed tells the position and,
behind the first step, the first action: as the index of a state, or, with distracting bits beside it, in bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from components.suites.levels import named, selected
from framework.registry import component
from framework.specs import EnvironmentSpec
from framework.types import Array, TimeStep


class ChainLevel(struct.PyTreeNode):
    """Bounds of a chain's length [] int32, both included, and whether there are rewards on the way [] bool."""

    shortest: Array
    longest: Array
    noisy: Array


class ChainTask(struct.PyTreeNode):
    """Length of a lifetime's chain [] int32, and whether there are rewards on the way [] bool."""

    length: Array
    noisy: Array


class ChainState(struct.PyTreeNode):
    """Steps made in the episode, and its first action (0 before it) [] int32."""

    position: Array
    first_action: Array


@dataclasses.dataclass(frozen=True)
class ChainEnvironment:
    """Delayed chains up to a length.

    Attributes:
      longest: length of the longest chain.
      distracting_bits: number of random bits in each observation; with none, the observation is a state's index,
        2 x position + first action.
    """

    longest: int
    distracting_bits: int

    @property
    def spec(self) -> EnvironmentSpec:
        positions = self.longest + 1
        if self.distracting_bits:
            return EnvironmentSpec((positions + 1 + self.distracting_bits,), 2, observation_dtype="bool")
        return EnvironmentSpec((), 2, observation_dtype="int32", num_states=2 * positions)

    def draw_task(self, key: Array, level: ChainLevel) -> ChainTask:
        return ChainTask(jax.random.randint(key, (), level.shortest, level.longest + 1), level.noisy)

    def reset(self, key: Array, task: ChainTask) -> tuple[ChainState, Array]:
        zero = jnp.zeros((), jnp.int32)
        state = ChainState(position=zero, first_action=zero)
        return state, self._observe(state, self._draw_bits(key))

    def step(self, key: Array, task: ChainTask, state: ChainState, action: Array) -> tuple[ChainState, TimeStep]:
        bits = self._draw_bits(key)
        state = ChainState(
            position=state.position + 1,
            first_action=jnp.where(state.position == 0, action, state.first_action).astype(jnp.int32),
        )
        last = state.position >= task.length
        # The lowest bit is the noise's, the distracting ones are above it.
        noise = jnp.where(task.noisy, 2.0 * (bits & 1) - 1.0, 0.0)
        return state, TimeStep(
            observation=self._observe(state, bits),
            reward=jnp.where(last, 2.0 * state.first_action - 1.0, noise),
            discount=jnp.where(last, 0.0, 1.0),
            last=last,
        )

    def _draw_bits(self, key: Array) -> Array:
        """Random bits of a step [] uint32: the noise's, then the distracting ones."""
        return jax.random.bits(key, (), jnp.uint32)

    def _observe(self, state: ChainState, bits: Array) -> Array:
        if not self.distracting_bits:
            return 2 * state.position + state.first_action
        position = jnp.arange(self.longest + 1) == state.position
        first_action = state.first_action[None] == 1
        distraction = (bits >> jnp.arange(1, self.distracting_bits + 1, dtype=jnp.uint32)) & 1
        return jnp.concatenate([position, first_action, distraction == 1])


@component("settings")
@dataclasses.dataclass(frozen=True)
class DelayedChain:
    """A chain whose length is drawn anew for each lifetime.

    Attributes:
      name: of the task that it is.
      shortest, longest: bounds of its length in steps, both included.
      noisy: whether every step but the last pays +1 or -1 at random.
      distracting_bits: number of random bits in each observation, at most 31.
    """

    name: str
    shortest: int = 5
    longest: int = 30
    noisy: bool = False
    distracting_bits: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            bounds = f"shortest={self.shortest}, longest={self.longest}"
            raise ValueError(f"the chain '{self.name}' has {bounds}: they must be in this order, and at least 1")
        if not 0 <= self.distracting_bits <= 31:
            raise ValueError(f"the chain '{self.name}' has {self.distracting_bits} distracting bits: choose 0 to 31")


@component("suites")
@dataclasses.dataclass(frozen=True)
class DelayedChains:
    """Delayed chains of one's own; those with equally many distracting bits share one environment.

    Attributes:
      levels: the tasks.
      longest: length that the state is padded to; the longest chain's if not given.
    """

    levels: tuple[DelayedChain, ...]
    longest: int | None = None

    def __post_init__(self) -> None:
        names = self.tasks()
        if not names or len(set(names)) < len(names):
            raise ValueError(f"levels must be given and have different names, got {names}: rename some")
        longest = max(level.longest for level in self.levels)
        if self.longest is not None and self.longest < longest:
            raise ValueError(f"longest={self.longest} is less than the {longest} of a level: raise it")

    def tasks(self) -> Sequence[str]:
        return tuple(level.name for level in self.levels)

    def environment(self, task: str) -> ChainEnvironment:
        bits = named(self.levels, task).distracting_bits
        longest = max(level.longest for level in self.levels if level.distracting_bits == bits)
        return ChainEnvironment(self.longest or longest, bits)

    def level(self, task: str) -> ChainLevel:
        level = named(self.levels, task)
        return ChainLevel(
            shortest=jnp.asarray(level.shortest, jnp.int32),
            longest=jnp.asarray(level.longest, jnp.int32),
            noisy=jnp.asarray(level.noisy),
        )


CHAINS = (
    DelayedChain("chain_short", 5, 30),
    DelayedChain("chain_short_noisy", 5, 30, noisy=True),
    DelayedChain("chain_long", 5, 50),
    DelayedChain("chain_long_noisy", 5, 50, noisy=True),
    DelayedChain("chain_distractor", 5, 30, distracting_bits=20),
)
"""The delayed chain MDPs of Oh et al. 2020 (LPG)."""


@component("suites")
@dataclasses.dataclass(frozen=True)
class Chains:
    """The five delayed chains of LPG (Oh et al. 2020): four tabular ones in one environment, and one with distractors.

    Attributes:
      names: which of short, short_noisy, long, long_noisy, distractor; all if not given.
    """

    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        self._suite()

    def tasks(self) -> Sequence[str]:
        return self._suite().tasks()

    def environment(self, task: str) -> ChainEnvironment:
        return self._suite().environment(task)

    def level(self, task: str) -> ChainLevel:
        return self._suite().level(task)

    def _suite(self) -> DelayedChains:
        return DelayedChains(selected(CHAINS, "chain_", self.names))
