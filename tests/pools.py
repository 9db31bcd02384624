"""Host pools in tests: what they show, and whether two of them show the same."""

from __future__ import annotations

import jax
import numpy as np

from framework.host_environments.arrays import HostStep
from framework.host_environments.pool import HostPool


def play(pool: HostPool, actions: np.ndarray) -> HostStep:
    """What is shown after each of the actions [T, S]; rows [T, S, ...]."""
    return jax.tree.map(lambda *rows: np.stack(rows), *(pool.step(action) for action in actions))


def play_at_random(pool: HostPool, steps: int, seed: int = 0) -> HostStep:
    """What is shown after actions that a seed draws; rows [T, S, ...]."""
    actions = np.random.default_rng(seed).integers(pool.spec.num_actions, size=(steps, pool.num_streams))
    return play(pool, actions)


def assert_same(one: HostStep, other: HostStep) -> None:
    """The same arrays, bit for bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
