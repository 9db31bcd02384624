"""Delayed chains: rewards at the end for what was done at the beginning."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.suites.chains import ChainEnvironment, Chains, ChainTask, DelayedChain, DelayedChains

TABLE = [("short", 5, 30, False), ("short_noisy", 5, 30, True), ("long", 5, 50, False), ("long_noisy", 5, 50, True)]
"""Of Oh et al. 2020: name, shortest and longest chain, whether there are rewards on the way."""


def play(environment: ChainEnvironment, length: int, actions: list[int], *, noisy: bool = False, seed: int = 0) -> Any:
    """First observation and time steps of as many actions as are given, in the first episode."""
    task = ChainTask(jnp.asarray(length, jnp.int32), jnp.asarray(noisy))
    state, first = environment.reset(jax.random.key(seed), task)
    keys = jax.random.split(jax.random.key(seed + 1), len(actions))

    def step(state: Any, inputs: Any) -> Any:
        return environment.step(inputs[0], task, state, inputs[1])

    _, time_steps = jax.lax.scan(step, state, (keys, jnp.asarray(actions, jnp.int32)))
    return np.asarray(first), jax.tree.map(np.asarray, time_steps)


@pytest.mark.parametrize(("name", "shortest", "longest", "noisy"), [*TABLE, ("distractor", 5, 30, False)])
def test_numbers_of_the_table(name: str, shortest: int, longest: int, noisy: bool) -> None:
    suite = Chains((name,))
    (task,) = suite.tasks()
    assert task == f"chain_{name}"
    environment, level = suite.environment(task), suite.level(task)
    tasks = jax.vmap(environment.draw_task, (0, None))(jax.random.split(jax.random.key(0), 5000), level)
    lengths, counts = np.unique(tasks.length, return_counts=True)
    np.testing.assert_array_equal(lengths, np.arange(shortest, longest + 1))  # both ends included
    mean = 5000 / (longest - shortest + 1)
    assert counts.min() > 0.5 * mean
    assert counts.max() < 1.5 * mean
    assert (np.asarray(tasks.noisy) == noisy).all()
    assert environment.spec.num_actions == 2


def test_four_chains_share_one_environment_and_distractors_have_their_own() -> None:
    suite = Chains()
    environments = [suite.environment(task) for task in suite.tasks()]
    assert len(environments) == 5
    assert len(set(environments[:4])) == 1
    assert environments[0].spec.num_states == 2 * 51
    assert environments[4] != environments[0]
    # Positions 0 to 30 and the first action, and 20 random bits.
    assert environments[4].spec.observation_shape == (31 + 1 + 20,)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(1, 8), st.lists(st.integers(0, 1), min_size=8, max_size=8))
def test_the_first_action_decides_the_reward_at_the_end(length: int, actions: list[int]) -> None:
    _, steps = play(ChainEnvironment(longest=8, distracting_bits=0), length, actions[:length])
    assert steps.reward.tolist() == [0.0] * (length - 1) + [2.0 * actions[0] - 1.0]
    assert steps.last.tolist() == [False] * (length - 1) + [True]
    assert steps.discount.tolist() == [1.0] * (length - 1) + [0.0]


def test_states_tell_position_and_first_action() -> None:
    first, steps = play(ChainEnvironment(longest=6, distracting_bits=0), 6, [1, 0, 1, 0, 0, 1])
    assert [int(first), *steps.observation.tolist()] == [0, 3, 5, 7, 9, 11, 13]
    _, steps = play(ChainEnvironment(longest=6, distracting_bits=0), 6, [0, 1, 1, 1, 1, 1])
    assert steps.observation.tolist() == [2, 4, 6, 8, 10, 12]
    assert ChainEnvironment(longest=6, distracting_bits=0).spec.num_states == 14


def test_rewards_on_the_way_are_noise() -> None:
    environment = ChainEnvironment(longest=50, distracting_bits=0)
    played = [play(environment, 50, [1] * 50, noisy=True, seed=seed)[1].reward for seed in range(0, 80, 2)]
    rewards = np.stack(played)
    on_the_way = rewards[:, :-1]
    assert set(on_the_way.ravel().tolist()) == {-1.0, 1.0}
    assert abs(on_the_way.mean()) < 0.1  # 1,960 draws: four standard errors are 0.09
    assert np.abs(on_the_way.mean(0)).max() < 0.8  # at every position
    assert (rewards[:, -1] == 1.0).all()


def test_distracting_bits_are_random_and_the_others_are_not() -> None:
    environment = ChainEnvironment(longest=30, distracting_bits=20)
    observations = []
    for seed in range(0, 40, 2):
        first, steps = play(environment, 30, [seed // 2 % 2] + [0] * 29, seed=seed)
        shown = np.concatenate([first[None], steps.observation])
        np.testing.assert_array_equal(shown[:, :31], np.eye(31, dtype=bool))
        np.testing.assert_array_equal(shown[:, 31], [False] + [seed // 2 % 2 == 1] * 30)
        assert not steps.reward[:-1].any()
        observations.append(shown[:, 32:])
    bits = np.concatenate(observations).astype(float)  # [620, 20]
    assert np.abs(bits.mean(0) - 0.5).max() < 0.1
    correlation = np.corrcoef(bits.T) - np.eye(20)
    assert np.abs(correlation).max() < 0.2
    assert len(np.unique(bits[:, :10], axis=0)) > 300


def test_distraction_is_independent_of_the_noise() -> None:
    environment = ChainEnvironment(longest=30, distracting_bits=20)
    bits, rewards = [], []
    for seed in range(0, 40, 2):
        _, steps = play(environment, 30, [0] * 30, noisy=True, seed=seed)
        bits.append(steps.observation[:-1, 32:])
        rewards.append(steps.reward[:-1])
    table = np.concatenate([np.concatenate(rewards)[:, None], np.concatenate(bits)], axis=1)
    assert np.abs(np.corrcoef(table.T)[0, 1:]).max() < 0.2


def test_chains_of_ones_own() -> None:
    suite = DelayedChains((DelayedChain("three", 3, 3), DelayedChain("four", 4, 4, noisy=True)), longest=10)
    assert suite.tasks() == ("three", "four")
    assert suite.environment("three") == suite.environment("four") == ChainEnvironment(10, 0)
    task = suite.environment("three").draw_task(jax.random.key(0), suite.level("three"))
    assert (int(task.length), bool(task.noisy)) == (3, False)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DelayedChain("none", 0, 3), "at least 1"),
        (lambda: DelayedChain("less", 4, 3), "shortest=4, longest=3"),
        (lambda: DelayedChain("many", 2, 3, distracting_bits=32), "choose 0 to 31"),
        (lambda: DelayedChains((DelayedChain("a"), DelayedChain("a"))), "different names"),
        (lambda: DelayedChains((DelayedChain("a"),), longest=10), "longest=10 is less than the 30"),
        (lambda: Chains(("lon",)), "there is no task 'lon'.* Did you mean 'long'"),
        (lambda: Chains(()), "at least one task"),
    ],
)
def test_impossible_chains_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
