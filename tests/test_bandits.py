"""Bandits and lifetimes: what newborn agents are given, against closed forms and counted draws."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.bandits import Choice, Softmax
from components.lifetimes import Fixed, InverselyProportional
from framework.testing.discovery import check_bandit, check_lifetime
from framework.types import Array

LPG = Softmax((Choice("learning_rate", (20.0, 40.0, 80.0)), Choice("alpha_y", (0.1, 0.5, 1.0))))
TWO = Softmax((Choice("learning_rate", (0.1, 0.2)),))


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def recorded(bandit: Softmax, outcomes: list[tuple[int, int, float]], tasks: int = 2) -> Any:
    """What is known after lifetimes (task, arm, score)."""
    state = bandit.init(tasks)
    for task, arm, score in outcomes:
        state = bandit.record(state, jnp.asarray(task), jnp.asarray(arm), jnp.asarray(score, jnp.float32))
    return state


def test_arms_are_all_combinations() -> None:
    arms = LPG.arms()
    assert list(arms) == ["learning_rate", "alpha_y"]
    pairs = list(zip(*arms.values(), strict=True))
    assert len(pairs) == len(set(pairs)) == 9
    assert pairs[:4] == [(20.0, 0.1), (20.0, 0.5), (20.0, 1.0), (40.0, 0.1)]


def test_at_first_all_arms_are_alike() -> None:
    np.testing.assert_allclose(LPG.probabilities(LPG.init(3), jnp.asarray(2)), np.full(9, 1 / 9), rtol=1e-6)


outcomes_of_lifetimes = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.floats(-0.5, 0.5, width=32)), max_size=30
)


@settings(max_examples=20, deadline=None)
@given(outcomes_of_lifetimes)
def test_probabilities_are_those_of_the_paper(outcomes: list[tuple[int, int, float]]) -> None:
    state = recorded(TWO, outcomes)
    for task in range(2):
        preferences = []
        for arm in range(2):
            scores = [score for where, which, score in outcomes if (where, which) == (task, arm)]
            newest = np.mean(scores[-10:]) if scores else 0.0
            preferences.append((newest + 0.2 / np.sqrt(1 + len(scores))) / 0.1)
        expected = softmax(np.asarray(preferences))
        np.testing.assert_allclose(TWO.probabilities(state, jnp.asarray(task)), expected, rtol=1e-4, atol=1e-6)


def test_arms_are_chosen_as_often_as_they_are_probable() -> None:
    state = recorded(LPG, [(1, 4, 0.1), (1, 4, 0.2), (1, 7, -0.1), (0, 0, 5.0)])
    keys = jax.random.split(jax.random.key(0), 20_000)
    arms = jax.vmap(LPG.choose, (None, 0, None))(state, keys, jnp.asarray(1))
    frequencies = np.bincount(np.asarray(arms), minlength=9) / len(keys)
    np.testing.assert_allclose(frequencies, LPG.probabilities(state, jnp.asarray(1)), atol=0.012)  # 4 deviations


def test_a_seldom_tried_arm_is_tried_before_an_equally_good_one() -> None:
    state = recorded(TWO, [(0, 0, 0.0)] * 8)
    first, second = TWO.probabilities(state, jnp.asarray(0))
    np.testing.assert_allclose(second / first, np.exp((0.2 - 0.2 / 3.0) / 0.1), rtol=1e-4)


def test_old_scores_are_forgotten() -> None:
    state = recorded(dataclasses.replace(TWO, memory=2), [(0, 0, 9.0), (0, 0, 1.0), (0, 0, 2.0)])
    assert sorted(np.asarray(state.scores)[0, 0]) == [1.0, 2.0]
    assert int(state.lifetimes[0, 0]) == 3


def test_an_agent_that_diverged_counts_as_tried() -> None:
    state = recorded(TWO, [(0, 0, float("nan")), (0, 0, 0.3), (0, 0, float("inf"))])
    expected = softmax(np.asarray([(0.3 + 0.2 / 2.0) / 0.1, 0.2 / 0.1]))
    np.testing.assert_allclose(TWO.probabilities(state, jnp.asarray(0)), expected, rtol=1e-5)


def test_initial_values() -> None:
    eager = dataclasses.replace(TWO, initial_score=1.0, initial_count=4)
    state = recorded(eager, [(0, 0, 0.5)])
    expected = softmax(np.asarray([(0.5 + 0.2 / np.sqrt(5)) / 0.1, (1.0 + 0.2 / 2) / 0.1]))
    np.testing.assert_allclose(eager.probabilities(state, jnp.asarray(0)), expected, rtol=1e-4)


def test_lifetimes_of_many_agents_are_recorded_one_after_another() -> None:
    tasks, arms = jnp.asarray([0, 1, 0]), jnp.asarray([1, 1, 1])
    scores = jnp.asarray([0.1, 0.2, 0.3])
    state, _ = jax.lax.scan(lambda s, x: (TWO.record(s, *x), None), TWO.init(2), (tasks, arms, scores))
    assert np.array_equal(state.lifetimes, [[0, 2], [0, 1]])


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: Choice("alpha_y", ()), "values of 'alpha_y' must be one or more different numbers"),
        (lambda: Choice("alpha_y", (0.1, 0.1)), "values of 'alpha_y' must be one or more different numbers"),
        (lambda: Softmax(()), "must be one or more choices of different names, got \\[\\]"),
        (lambda: Softmax((Choice("a", (1.0,)), Choice("a", (2.0,)))), "of different names, got \\['a', 'a'\\]"),
        (lambda: dataclasses.replace(TWO, tau=0.0), "tau must be positive, got 0.0"),
        (lambda: dataclasses.replace(TWO, rho=-1.0), "rho must not be negative, got -1.0"),
        (lambda: dataclasses.replace(TWO, memory=0), "memory must be at least 1, got 0"),
        (lambda: dataclasses.replace(TWO, initial_count=0), "initial_count must be at least 1, got 0"),
        (lambda: Fixed(0.0), "env_steps must be positive numbers"),
        (lambda: InverselyProportional(()), "budgets must be positive numbers"),
        (lambda: InverselyProportional((1e6, -1.0)), "budgets must be positive numbers"),
    ],
)
def test_values_that_make_no_sense_are_refused(build: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build()


# --- lifetimes


def test_a_fixed_lifetime_is_the_same_for_all() -> None:
    budgets = jax.vmap(Fixed(3e6).draw)(jax.random.split(jax.random.key(0), 5))
    np.testing.assert_array_equal(budgets, np.full(5, 3e6, np.float32))


def test_short_lifetimes_are_drawn_more_often() -> None:
    """Weights 1 / 200, 1 / 100, 1 / 50, 1 / 20, that is 1, 2, 4, 10 of 17; so each has the same share of all steps."""
    draws = 20_000
    budgets = jax.vmap(InverselyProportional().draw)(jax.random.split(jax.random.key(0), draws))
    found, counts = np.unique(np.asarray(budgets), return_counts=True)
    np.testing.assert_array_equal(found, [20e6, 50e6, 100e6, 200e6])
    np.testing.assert_allclose(counts / draws, np.asarray([10, 4, 2, 1]) / 17, atol=0.015)  # 4 deviations


# --- conformance finds what is wrong


@dataclasses.dataclass(frozen=True)
class Contrary(Softmax):
    """Prefers what did badly."""

    def record(self, state: Any, task: Array, arm: Array, score: Array) -> Any:
        return super().record(state, task, arm, -score)


@dataclasses.dataclass(frozen=True)
class OneForAll(Softmax):
    """Does not tell tasks apart."""

    def choose(self, state: Any, key: Array, task: Array) -> Array:
        return super().choose(state, key, 0 * task)


@dataclasses.dataclass(frozen=True)
class Stillborn(Fixed):
    """Gives agents no time at all."""

    def draw(self, key: Array) -> Array:
        return jnp.zeros(())


def test_bandits_and_lifetimes_that_do_not_conform_are_found_out() -> None:
    with pytest.raises(AssertionError, match="it turns away from an arm that did well"):
        check_bandit(Contrary(TWO.hyperparameters))
    with pytest.raises(AssertionError, match="changes what is chosen on another"):
        check_bandit(OneForAll(TWO.hyperparameters))
    with pytest.raises(AssertionError, match="a budget must be positive"):
        check_lifetime(Stillborn(1.0))
