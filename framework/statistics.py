"""Returns and lengths of the episodes that an agent plays."""

from __future__ import annotations

import jax.numpy as jnp

from framework.types import Array, EpisodeStatistics


def initial_statistics(num_environments: int) -> EpisodeStatistics:
    """Statistics before the first step of E environments."""
    zeros, zero = jnp.zeros(num_environments), jnp.zeros(())
    return EpisodeStatistics(
        running_return=zeros, running_length=zeros, completed=zero, return_sum=zero, length_sum=zero
    )


def count_step(statistics: EpisodeStatistics, reward: Array, last: Array) -> EpisodeStatistics:
    """Statistics after one step with rewards and episode ends [E]."""
    returns, lengths = statistics.running_return + reward, statistics.running_length + 1.0
    return EpisodeStatistics(
        running_return=jnp.where(last, 0.0, returns),
        running_length=jnp.where(last, 0.0, lengths),
        completed=statistics.completed + last.sum(),
        return_sum=statistics.return_sum + jnp.where(last, returns, 0.0).sum(),
        length_sum=statistics.length_sum + jnp.where(last, lengths, 0.0).sum(),
    )


def read(statistics: EpisodeStatistics) -> tuple[dict[str, Array], EpisodeStatistics]:
    """Sums over the episodes completed since the last reading {name: []}, and statistics that start anew."""
    sums = {
        "completed": statistics.completed,
        "return_sum": statistics.return_sum,
        "length_sum": statistics.length_sum,
    }
    zero = jnp.zeros(())
    return sums, statistics.replace(completed=zero, return_sum=zero, length_sum=zero)
