"""Statistics of scores against numbers worked out by hand, and the coverage of their intervals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.aggregates import (
    independent_bootstrap,
    interquartile_mean,
    mean,
    median,
    paired_bootstrap,
    performance_profile,
    probability_of_improvement,
    profile_band,
    stratified_bootstrap,
)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1, 2, 3, 4], 2.5),  # (2 + 3) / 2
        ([100, 4, 2, 6, 8, -50, 10, 12], 7.0),  # (4 + 6 + 8 + 10) / 4
        ([5, 1, 3], 3.0),  # int(0.75) = 0: nothing is cut
        ([0, 10, 20, 30, 400], 20.0),  # one cut at each end
        ([7], 7.0),
        ([[1, 2], [3, 40]], 2.5),  # runs and tasks together
    ],
)
def test_interquartile_mean(scores: Any, expected: float) -> None:
    assert interquartile_mean(np.asarray(scores)) == expected


def test_of_57_scores_29_stay() -> None:
    scores = np.arange(57.0)
    scores[-14:] = 1e6
    assert interquartile_mean(scores[::-1]) == np.arange(14, 43).mean()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=40), st.integers(0, 100))
def test_the_interquartile_mean_lies_between_the_quartiles(scores: list[float], seed: int) -> None:
    ordered = np.sort(scores)
    cut = len(scores) // 4
    found = interquartile_mean(np.random.default_rng(seed).permutation(ordered))
    assert ordered[cut] - 1e-9 <= found <= ordered[-cut - 1] + 1e-9
    np.testing.assert_allclose(interquartile_mean(2.0 * ordered + 1.0), 2.0 * found + 1.0, rtol=1e-9, atol=1e-9)


def test_mean_and_median() -> None:
    scores = np.asarray([[1.0, 2.0, 9.0], [3.0, 4.0, 11.0]])
    assert mean(scores) == 5.0
    assert median(scores) == 3.0  # of 2, 3, 10


@pytest.mark.parametrize("statistic", [mean, median, interquartile_mean])
def test_tables_are_taken_one_by_one(statistic: Callable[[np.ndarray], np.ndarray]) -> None:
    tables = np.random.default_rng(0).normal(size=(5, 3, 4))
    np.testing.assert_allclose(statistic(tables), [statistic(table) for table in tables])


def test_the_bootstrap_draws_runs_within_tasks() -> None:
    """Tasks that lie far apart do not mix: their spread is no uncertainty."""
    scores = np.asarray([[0.0, 1000.0], [1.0, 1001.0]])
    interval = stratified_bootstrap(scores, mean)
    assert interval.estimate == 500.5
    assert (interval.low, interval.high) == (500.0, 501.0)


def test_the_bootstrap_of_two_runs_by_hand() -> None:
    """The mean of two draws from {0, 1} is 0, 1/2 or 1, a quarter, a half, a quarter of the time."""
    scores = np.asarray([[0.0], [1.0]])
    half = stratified_bootstrap(scores, mean, confidence=0.4, repetitions=4000)
    assert (half.low, half.estimate, half.high) == (0.5, 0.5, 0.5)
    most = stratified_bootstrap(scores, mean, confidence=0.6, repetitions=4000)
    assert (most.low, most.high) == (0.0, 1.0)


def test_intervals_depend_on_the_seed_alone() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 6))
    one, again, other = (stratified_bootstrap(scores, interquartile_mean, seed=seed) for seed in (3, 3, 4))
    assert one == again
    assert one != other
    assert one.low < one.estimate < one.high


def test_coverage() -> None:
    """Of 90 % intervals for a mean of 20 runs, about nine in ten hold it (a little fewer: runs are few)."""
    rng, hits, trials = np.random.default_rng(0), 0, 400
    truth = np.asarray([0.0, 5.0, -3.0])
    for trial in range(trials):
        scores = truth + rng.normal(size=(20, 3))
        interval = stratified_bootstrap(scores, mean, repetitions=300, confidence=0.9, seed=trial)
        hits += interval.low <= truth.mean() <= interval.high
    assert 0.84 < hits / trials < 0.94


def test_coverage_of_differences() -> None:
    rng, hits, trials = np.random.default_rng(1), 0, 400
    for trial in range(trials):
        difficulty = 100.0 * rng.normal(size=40)
        theirs = difficulty + rng.normal(size=40)
        ours = difficulty + 0.5 + rng.normal(size=40)
        interval = paired_bootstrap(ours, theirs, mean, repetitions=300, confidence=0.9, seed=trial)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.84 < hits / trials < 0.95


def test_differences_are_paired() -> None:
    """A task that is better by 1 everywhere is so whichever tasks are drawn, however they differ."""
    theirs = 100.0 * np.random.default_rng(0).normal(size=30)
    interval = paired_bootstrap(theirs + 1.0, theirs, mean)
    np.testing.assert_allclose([interval.low, interval.estimate, interval.high], 1.0)


def test_sides_may_have_other_numbers_of_runs() -> None:
    ours = np.asarray([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    interval = paired_bootstrap(ours, np.asarray([0.0, 0.0, 0.0]), interquartile_mean)
    assert interval.estimate == interquartile_mean(ours)
    assert 2.0 <= interval.low < interval.high <= 4.0


def whole(scores: np.ndarray) -> np.ndarray:
    return np.asarray(scores.mean())


SCORES = np.ones((3, 2))


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (lambda: interquartile_mean(np.zeros((0,))), "there are no scores"),
        (lambda: mean(np.asarray([1.0, np.nan, np.inf])), "2 of 3 scores are not finite"),
        (lambda: stratified_bootstrap(np.ones(4), mean), "scores of one run cannot be drawn anew"),
        (lambda: stratified_bootstrap(np.ones((2, 2, 2)), mean), r"scores must be \[runs, tasks\] or \[tasks\], got 3"),
        (lambda: stratified_bootstrap(SCORES, mean, repetitions=0), "repetitions must be at least 1, got 0"),
        (lambda: stratified_bootstrap(SCORES, mean, confidence=95.0), "confidence must lie between 0 and 1, got 95"),
        (lambda: stratified_bootstrap(SCORES, whole), "to one number of each table"),
        (lambda: paired_bootstrap(np.ones(3), np.ones(4), mean), "ours are scores of 3 tasks, theirs of 4"),
        (lambda: paired_bootstrap(np.ones(1), np.ones(1), mean), "one task cannot be drawn anew"),
    ],
)
def test_scores_that_make_no_sense_are_refused(compute: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compute()


RLIABLE = json.loads(Path(__file__).with_name("rliable.json").read_text())
OURS, THEIRS, THRESHOLDS = (np.asarray(RLIABLE[name]) for name in ("ours", "theirs", "tau"))


@pytest.mark.parametrize(
    ("name", "statistic"),
    [("iqm", interquartile_mean), ("mean", mean), ("median", median)],
    ids=["iqm", "mean", "median"],
)
def test_statistics_and_intervals_are_those_of_rliable(
    name: str, statistic: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Equal but for the draws: the ends of two bootstraps of 20,000 tables differ by under 3 % of their distance."""
    found = stratified_bootstrap(OURS, statistic, repetitions=20_000)
    low, high = RLIABLE[f"{name}_interval"]
    assert found.estimate == pytest.approx(RLIABLE[name], rel=1e-12)
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.03 * (high - low))


def test_performance_profiles_are_those_of_rliable() -> None:
    assert performance_profile(OURS, THRESHOLDS) == pytest.approx(RLIABLE["profile"], abs=1e-12)
    band = profile_band(OURS, THRESHOLDS, repetitions=20_000)
    # A share of 65 scores moves by 1/65 at a time.
    np.testing.assert_allclose(band, RLIABLE["profile_interval"], atol=1 / 65 + 1e-9)


def test_the_probability_of_improvement_is_that_of_rliable() -> None:
    found = independent_bootstrap(OURS, THEIRS, probability_of_improvement, repetitions=5_000)
    low, high = RLIABLE["poi_interval"]
    assert found.estimate == pytest.approx(RLIABLE["poi"], rel=1e-12)
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.05 * (high - low))


def test_the_probability_of_improvement_by_hand() -> None:
    ours, theirs = np.asarray([[1.0, 5.0], [3.0, 5.0]]), np.asarray([[2.0, 5.0]])
    assert probability_of_improvement(ours, theirs) == 0.5  # 1 of 2 on the first task, ties on the second
    assert probability_of_improvement(ours + 10.0, theirs) == 1.0
    assert probability_of_improvement(theirs, ours + 10.0) == 0.0


def test_profiles_fall() -> None:
    thresholds = np.linspace(-1.0, 9.0, 50)
    profile = performance_profile(OURS, thresholds)
    low, high = profile_band(OURS, thresholds)
    assert profile[0] == 1.0
    assert profile[-1] == 0.0
    assert (np.diff(profile) <= 0).all()
    assert ((low <= profile + 1e-9) & (profile <= high + 1e-9)).all()
    np.testing.assert_array_equal(profile_band(OURS, thresholds, seed=0), (low, high))
