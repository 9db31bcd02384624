"""Bandits: choose the hyperparameters of newborn agents by how earlier ones fared."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import struct

from framework.registry import component
from framework.types import Array


@component("settings")
@dataclasses.dataclass(frozen=True)
class Choice:
    """A hyperparameter and the values that it may take.

    Attributes:
      name: key in the agent's hyperparameters.
      values: to choose from.
    """

    name: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"values of '{self.name}' must be one or more different numbers, got {self.values}")


class Record(struct.PyTreeNode):
    """How the lifetimes so far ended.

    Attributes:
      scores: the newest of each arm, in no order [tasks, arms, memory].
      scored: lifetimes that ended with a score [tasks, arms] int32.
      lifetimes: all that ended [tasks, arms] int32.
    """

    scores: Array
    scored: Array
    lifetimes: Array


@component("bandits")
@dataclasses.dataclass(frozen=True)
class Softmax:
    """p(arm | task) proportional to exp((R + rho / sqrt(N)) / tau), over all combinations of the values.

    R is the mean of an arm's newest scores on the task, N the number of its lifetimes there. A score that is not finite
    (an agent that diverged, or whose first life was too short for an episode) counts in N alone; an arm without any
    other has the lowest R of the task (chosen).

    Attributes:
      hyperparameters: what is chosen, and from which values.
      tau: temperature; scores are best of the order of 1.
      rho: bonus for arms that were seldom tried.
      memory: scores that R is the mean of.
      initial_score: R before the first score.
      initial_count: N before the first lifetime.

    Source: Oh et al., 2020, Section 3.4, for the probabilities, tau and rho; the memory and the initial
    values are those of public versions.
    """

    hyperparameters: tuple[Choice, ...]
    tau: float = 0.1
    rho: float = 0.2
    memory: int = 10
    initial_score: float = 0.0
    initial_count: int = 1

    def __post_init__(self) -> None:
        names = [choice.name for choice in self.hyperparameters]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"hyperparameters must be one or more choices of different names, got {names}")
        if self.tau <= 0:
            raise ValueError(f"tau must be positive, got {self.tau}")
        if self.rho < 0:
            raise ValueError(f"rho must not be negative, got {self.rho}")
        for name in ("memory", "initial_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def arms(self) -> dict[str, tuple[float, ...]]:
        combinations = itertools.product(*(choice.values for choice in self.hyperparameters))
        names = (choice.name for choice in self.hyperparameters)
        return dict(zip(names, zip(*combinations, strict=True), strict=True))

    def init(self, num_tasks: int) -> Record:
        shape = (num_tasks, len(next(iter(self.arms().values()))))
        none = jnp.zeros(shape, jnp.int32)
        return Record(scores=jnp.zeros((*shape, self.memory)), scored=none, lifetimes=none)

    def choose(self, state: Record, key: Array, task: Array) -> Array:
        return jax.random.categorical(key, self._preferences(state, task)).astype(jnp.int32)

    def probabilities(self, state: Record, task: Array) -> Array:
        """How likely each arm is on a task [arms]."""
        return jax.nn.softmax(self._preferences(state, task))

    def _preferences(self, state: Record, task: Array) -> Array:
        """(R + rho / sqrt(N)) / tau [arms]."""
        scored = jnp.minimum(state.scored[task], self.memory)
        total = jnp.where(jnp.arange(self.memory) < scored[:, None], state.scores[task], 0.0).sum(-1)
        mean = total / jnp.maximum(scored, 1)
        # An arm whose every agent diverged is no better than the worst that is known.
        worst = jnp.minimum(self.initial_score, jnp.where(scored > 0, mean, self.initial_score).min())
        unscored = jnp.where(state.lifetimes[task] > 0, worst, self.initial_score)
        mean = jnp.where(scored > 0, mean, unscored)
        count = self.initial_count + state.lifetimes[task]
        return (mean + self.rho / jnp.sqrt(count)) / self.tau

    def record(self, state: Record, task: Array, arm: Array, score: Array) -> Record:
        is_finite = jnp.isfinite(score)
        slot = state.scored[task, arm] % self.memory
        kept = jnp.where(is_finite, score, state.scores[task, arm, slot])
        return Record(
            scores=state.scores.at[task, arm, slot].set(kept),
            scored=state.scored.at[task, arm].add(is_finite.astype(jnp.int32)),
            lifetimes=state.lifetimes.at[task, arm].add(1),
        )
