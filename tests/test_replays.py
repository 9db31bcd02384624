"""Replays: what is remembered, in which order it is forgotten, and what is drawn."""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from components.replays import OnPolicy, ReplayState, Uniform
from framework.testing import examples
from framework.testing.examples import Sizes
from framework.types import PyTree, Trajectory

SIZES = Sizes(steps=3, batch=2, actions=2)


def tagged(*tags: float) -> Trajectory:
    """Trajectories whose rewards all are their tag, with a recurrent carry that is the tag too."""
    of_batch = jnp.asarray(tags)
    carry = {"hidden": jnp.broadcast_to(of_batch[:, None], (len(tags), 4))}
    blank = examples.random_trajectory(np.random.default_rng(0), SIZES, carry)
    return blank.replace(reward=jnp.broadcast_to(of_batch, blank.reward.shape))


def filled(replay: Uniform, *batches: tuple[float, ...]) -> ReplayState:
    state = replay.init(tagged(0.0, 0.0))
    for tags in batches:
        state = replay.insert(state, tagged(*tags))
    return state


def tags_of(trajectory: Trajectory) -> list[float]:
    return np.asarray(trajectory.reward[0]).tolist()


def held(state: ReplayState) -> list[float]:
    return np.asarray(state.trajectories.reward[:, 0]).tolist()


def test_it_holds_what_was_inserted() -> None:
    replay, original = Uniform(capacity=2, batch_size=2), tagged(1.0, 2.0)
    state = replay.insert(replay.init(original), original)
    drawn = replay.sample(state, jax.random.key(0), original)
    for column, tag in enumerate(tags_of(drawn)):
        same = jax.tree.map(
            lambda a, b, column=column, tag=tag: np.array_equal(a[:, column], b[:, int(tag) - 1]),
            drawn.replace(carry=()), original.replace(carry=()),
        )  # fmt: skip
        assert all(jax.tree.leaves(same))
        assert np.all(drawn.carry["hidden"][column] == tag)


def test_the_oldest_is_forgotten_first() -> None:
    replay = Uniform(capacity=3, batch_size=1)
    assert held(filled(replay, (1, 2))) == [1, 2, 0]
    assert held(filled(replay, (1, 2), (3, 4))) == [4, 2, 3]
    assert held(filled(replay, (1, 2), (3, 4), (5, 6))) == [4, 5, 6]


def test_draws_cover_what_is_held_evenly_and_nothing_else() -> None:
    replay = Uniform(capacity=8, batch_size=8)
    state, fresh = filled(replay, (1, 2), (3, 4)), tagged(3.0, 4.0)
    draw = jax.jit(jax.vmap(lambda key: replay.sample(state, key, fresh).reward[0]))
    counts = collections.Counter(np.asarray(draw(jax.random.split(jax.random.key(0), 500))).ravel().tolist())
    assert set(counts) == {1.0, 2.0, 3.0, 4.0}
    assert all(abs(count - 1000) < 150 for count in counts.values())


def test_fresh_trajectories_come_first() -> None:
    replay = Uniform(capacity=8, batch_size=5, fresh=2)
    state = filled(replay, (1, 2), (3, 4), (5, 6))
    drawn = [tags_of(replay.sample(state, jax.random.key(seed), tagged(5.0, 6.0))) for seed in range(5)]
    assert all(tags[:2] == [5.0, 6.0] for tags in drawn)
    assert len({tuple(tags) for tags in drawn}) > 1


def test_warm_up_collects_one_batch_with_the_first_unroll() -> None:
    for batch_size, environments, unrolls in ((4, 2, 1), (5, 2, 2), (2, 2, 0), (1, 2, 0)):
        assert Uniform(capacity=8, batch_size=batch_size).warm_up_unrolls(environments) == unrolls


def test_on_policy_remembers_nothing() -> None:
    replay, fresh = OnPolicy(), tagged(1.0, 2.0)
    state: PyTree = replay.init(fresh)
    assert replay.insert(state, fresh) == ()
    assert replay.sample(state, jax.random.key(0), fresh) is fresh
    assert (replay.batch(7), replay.warm_up_unrolls(7)) == (7, 0)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size must lie in \[1, capacity=2\], got 3"):
        Uniform(capacity=2, batch_size=3)
    with pytest.raises(ValueError, match=r"fresh must lie in \[0, batch_size=2\], got 3"):
        Uniform(capacity=2, batch_size=2, fresh=3)
