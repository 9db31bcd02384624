"""Replays: what is remembered, in which order it is forgotten, and what is drawn."""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from components.replays import LEAST_PRIORITY, OnPolicy, Prioritized, PrioritizedState, ReplayState, Uniform
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


# --- by priority


def prioritized(replay: Prioritized, *tags: float) -> PrioritizedState:
    state = replay.init(tagged(0.0, 0.0))
    for pair in zip(tags[::2], tags[1::2], strict=True):
        state = replay.insert(state, tagged(*pair))
    return state


def test_what_has_large_errors_is_drawn_more_often() -> None:
    """And counts less, so that with a full correction the mean over the memory stays what it is."""
    replay = Prioritized(capacity=4000, batch_size=4000, exponent=0.5, correction=1.0)
    state = prioritized(replay, 1, 2, 3, 4)
    errors = jnp.asarray([1.0, 4.0, 9.0, 16.0])
    state = state.replace(priorities=state.priorities.at[:4].set(errors))
    drawn = replay.sample(state, jax.random.key(0), tagged(1, 2))
    tags, importance = np.asarray(drawn.reward[0]), np.asarray(drawn.importance)
    for tag, share in zip((1, 2, 3, 4), (0.1, 0.2, 0.3, 0.4), strict=True):
        assert abs((tags == tag).mean() - share) < 0.03
        np.testing.assert_allclose(importance[:, tags == tag], 0.1 / share, rtol=1e-4)
    assert abs(np.average(tags, weights=importance[0]) - 2.5) < 0.1


def test_without_an_exponent_all_are_drawn_alike() -> None:
    replay = Prioritized(capacity=4, batch_size=4, exponent=0.0)
    state = prioritized(replay, 1, 2)
    state = state.replace(priorities=jnp.asarray([9.0, 1.0, 0.0, 0.0]))
    drawn = [replay.sample(state, jax.random.key(seed), tagged(1, 2)) for seed in range(50)]
    counts = collections.Counter(tag for batch in drawn for tag in tags_of(batch))
    assert counts.keys() == {1.0, 2.0}
    assert abs(counts[1.0] - 100) < 40
    np.testing.assert_allclose(drawn[0].importance, 1.0, rtol=1e-5)


def test_priorities_are_the_errors_last_seen_and_the_largest_for_fresh_ones() -> None:
    replay, key = Prioritized(capacity=4, batch_size=3), jax.random.key(0)
    state = prioritized(replay, 1, 2)
    np.testing.assert_array_equal(state.priorities, [1.0, 1.0, 0.0, 0.0])
    tags = jnp.asarray(tags_of(replay.sample(state, key, tagged(1, 2))))
    state = replay.reprioritize(state, key, 3.0 * tags)
    seen = [3.0 * tag + LEAST_PRIORITY if tag in tags else 1.0 for tag in (1.0, 2.0)]
    np.testing.assert_allclose(state.priorities, [*seen, 0.0, 0.0])
    state = replay.insert(state, tagged(3, 4))
    np.testing.assert_allclose(state.priorities, [*seen, max(seen), max(seen)])
    state = replay.insert(state, tagged(5, 6))
    assert held(state.ring) == [5, 6, 3, 4]
    np.testing.assert_allclose(state.priorities, max(seen))


def test_priorities_lie_between_none_and_all() -> None:
    with pytest.raises(ValueError, match=r"exponent must lie in \[0, 1\], got 2"):
        Prioritized(capacity=4, batch_size=2, exponent=2.0)
    with pytest.raises(ValueError, match=r"correction must lie in \[0, 1\], got -1"):
        Prioritized(capacity=4, batch_size=2, correction=-1.0)
    with pytest.raises(ValueError, match=r"batch_size must lie in \[1, capacity=4\], got 5"):
        Prioritized(capacity=4, batch_size=5)
