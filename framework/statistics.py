"""Returns and lengths of the episodes that an agent plays, and running means of whatever is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from framework.types import Array, EpisodeStatistics, Mean


def initial_statistics(num_environments: int, episode_numbers: Sequence[str] = ()) -> EpisodeStatistics:
    """Statistics before the first step of E environments, whose episodes are measured by some numbers."""
    zeros, zero = jnp.zeros(num_environments), jnp.zeros(())
    return EpisodeStatistics(
        running_return=zeros,
        running_length=zeros,
        completed=zero,
        return_sum=zero,
        length_sum=zero,
        dummy_steps=zero,
        number_sums=dict.fromkeys(episode_numbers, zero),
    )


def count_step(
    statistics: EpisodeStatistics,
    reward: Array,
    last: Array,
    dummy: Array | None = None,
    episode_numbers: Mapping[str, Array] | None = None,
) -> EpisodeStatistics:
    """Statistics after one step with rewards and episode ends [E].

    Args:
      statistics: before the step.
      reward: [E].
      last: whether the step ended an episode [E].
      dummy: where no environment stepped: the row only shows that the episode before it had been cut off [E].
      episode_numbers: {name: [E]}, read where an episode ended.
    """
    stepped = jnp.ones(last.shape) if dummy is None else 1.0 - dummy
    returns, lengths = statistics.running_return + reward, statistics.running_length + stepped
    # A dummy may end an episode of which nothing is known: one that was lost when the run was stopped.
    last = last & (lengths > 0)
    return EpisodeStatistics(
        running_return=jnp.where(last, 0.0, returns),
        running_length=jnp.where(last, 0.0, lengths),
        completed=statistics.completed + last.sum(),
        return_sum=statistics.return_sum + jnp.where(last, returns, 0.0).sum(),
        length_sum=statistics.length_sum + jnp.where(last, lengths, 0.0).sum(),
        dummy_steps=statistics.dummy_steps + (1.0 - stepped).sum(),
        number_sums={
            name: total + jnp.where(last, (episode_numbers or {})[name], 0.0).sum()
            for name, total in statistics.number_sums.items()
        },
    )


def without_episodes(statistics: EpisodeStatistics, lost: Array | np.ndarray) -> EpisodeStatistics:
    """The statistics as if some running episodes had not begun [..., E]."""
    return statistics.replace(
        running_return=jnp.where(lost, 0.0, statistics.running_return),
        running_length=jnp.where(lost, 0.0, statistics.running_length),
    )


def with_sums_reset(statistics: EpisodeStatistics) -> EpisodeStatistics:
    """The statistics with sums that start anew; running episodes go on."""
    zero = jnp.zeros(())
    numbers = dict.fromkeys(statistics.number_sums, zero)
    return statistics.replace(completed=zero, return_sum=zero, length_sum=zero, dummy_steps=zero, number_sums=numbers)


def mean_of(value: Array, weight: Array | float = 1.0) -> Mean:
    """A running mean that has seen one value with a weight; a value without weight counts as 0, NaN included."""
    weight = jnp.asarray(weight, jnp.float32)
    return Mean(total=jnp.where(weight > 0, value * weight, 0.0), weight=weight)


def merged(one: dict[str, Mean], other: dict[str, Mean]) -> dict[str, Mean]:
    """Running means that have seen what both have."""
    return jax.tree.map(jnp.add, one, other)
