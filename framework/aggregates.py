"""One number for many scores, with its uncertainty: what tables and reports print.

Scores are [runs, tasks]; leading axes are repetitions of such tables, and [tasks] alone is one run of each task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

CUT = 0.25
"""Share of the scores that the interquartile mean leaves out at each end."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""From scores [..., runs, tasks] to one number of each table [...]."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A statistic of the scores, and an interval that holds the true one with the given confidence.

    Attributes:
      estimate: the statistic of the scores themselves.
      low, high: ends of the interval.
      confidence: how often such intervals hold the true value.
    """

    estimate: float
    low: float
    high: float
    confidence: float


def mean(scores: np.ndarray) -> np.ndarray:
    """Mean of all scores: [..., runs, tasks] to [...]."""
    return _tables(scores).mean(axis=(-2, -1))


def median(scores: np.ndarray) -> np.ndarray:
    """Median over tasks of the mean over runs, as the Atari literature reports it: [..., runs, tasks] to [...]."""
    return np.median(_tables(scores).mean(axis=-2), axis=-1)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all scores, runs and tasks together: [..., runs, tasks] to [...].

    Of n scores, the int(0.25 n) lowest and as many of the highest are left out: where 4 does not divide n a little more
    than half stays (of 57 scores 29), each score with the same weight.

    Source: Agarwal et al., 2021, "Deep reinforcement learning at the edge of the statistical precipice".
    """
    tables = _tables(scores)
    ordered = np.sort(tables.reshape(*tables.shape[:-2], -1), axis=-1)
    cut = int(CUT * ordered.shape[-1])
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of all scores, runs and tasks together, above each threshold: [..., runs, tasks] to [..., thresholds].

    Source: Agarwal et al., 2021, Section 4.2.
    """
    tables = _tables(scores)
    return np.stack([(tables > threshold).mean(axis=(-2, -1)) for threshold in thresholds], axis=-1)


def probability_of_improvement(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Chance that a run of ours beats one of theirs on a task drawn at random; a tie counts as half.

    Args:
      ours: [..., runs, tasks].
      theirs: of the same tasks; the number of runs may be another.

    Returns:
      [...].

    Source: Agarwal et al., 2021, Section 4.3 (the statistic of Mann and Whitney).
    """
    one, other = _tables(ours)[..., :, None, :], _tables(theirs)[..., None, :, :]
    return ((one > other) + 0.5 * (one == other)).mean(axis=(-3, -2, -1))


def stratified_bootstrap(
    scores: np.ndarray,
    statistic: Statistic,
    *,
    repetitions: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How much a statistic would vary with other seeds: runs are drawn anew, with replacement, for each task by itself.

    Args:
      scores: [runs, tasks], at least two runs.
      statistic: of them.
      repetitions: tables drawn.
      confidence: of the percentile interval.
      seed: of the draws.

    Source: Agarwal et al., 2021, Section 4.1.
    """
    table = _one_table(scores, "scores")
    rng = _generator(repetitions, confidence, seed)
    return _interval(statistic(table), statistic(_drawn_runs(table, repetitions, rng)), confidence)


def profile_band(
    scores: np.ndarray,
    thresholds: np.ndarray,
    *,
    repetitions: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of a performance profile's pointwise intervals [thresholds], by the stratified bootstrap.

    Args:
      scores: [runs, tasks], at least two runs.
      thresholds: where the profile is looked at.
      repetitions: tables drawn.
      confidence: of the percentile intervals.
      seed: of the draws.
    """
    drawn = _drawn_runs(_one_table(scores, "scores"), repetitions, _generator(repetitions, confidence, seed))
    return _ends(performance_profile(drawn, thresholds), confidence)


def independent_bootstrap(
    ours: np.ndarray,
    theirs: np.ndarray,
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    repetitions: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How much a statistic of two sides would vary with other seeds: runs of each are drawn anew for each task.

    Args:
      ours: [runs, tasks], at least two runs.
      theirs: the same tasks in the same order, at least two runs.
      statistic: of both, such as `probability_of_improvement`.
      repetitions: pairs of tables drawn.
      confidence: of the percentile interval.
      seed: of the draws.
    """
    one, other = _one_table(ours, "ours"), _one_table(theirs, "theirs")
    _refuse_other_tasks(one, other)
    rng = _generator(repetitions, confidence, seed)
    drawn = statistic(_drawn_runs(one, repetitions, rng), _drawn_runs(other, repetitions, rng))
    return _interval(statistic(one, other), drawn, confidence)


def paired_bootstrap(
    ours: np.ndarray,
    theirs: np.ndarray,
    statistic: Statistic,
    *,
    repetitions: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How much a difference would vary with other tasks: tasks are drawn anew, the same for both sides.

    Args:
      ours: [runs, tasks] or [tasks].
      theirs: the same tasks in the same order; the number of runs may be another.
      statistic: its value of ours minus that of theirs is the difference.
      repetitions: sets of tasks drawn.
      confidence: of the percentile interval.
      seed: of the draws.
    """
    one, other = _one_table(ours, "ours"), _one_table(theirs, "theirs")
    _refuse_other_tasks(one, other)
    tasks = one.shape[1]
    if tasks < 2:
        raise ValueError("one task cannot be drawn anew: give scores of two tasks or more")
    drawn = _generator(repetitions, confidence, seed).integers(tasks, size=(repetitions, tasks))

    def resampled(table: np.ndarray) -> np.ndarray:
        return np.moveaxis(table[:, drawn], 1, 0)

    differences = np.subtract(statistic(resampled(one)), statistic(resampled(other)))
    return _interval(np.subtract(statistic(one), statistic(other)), differences, confidence)


def _tables(scores: np.ndarray) -> np.ndarray:
    """Scores [..., runs, tasks]; [tasks] as one run."""
    tables = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if tables.size == 0:
        raise ValueError(f"there are no scores: their shape is {tables.shape}")
    if not np.isfinite(tables).all():
        raise ValueError(
            f"{np.sum(~np.isfinite(tables))} of {tables.size} scores are not finite: leave their tasks out"
        )
    return tables


def _one_table(scores: np.ndarray, name: str) -> np.ndarray:
    table = _tables(scores)
    if table.ndim != 2:
        raise ValueError(f"{name} must be [runs, tasks] or [tasks], got {table.ndim} axes")
    return table


def _refuse_other_tasks(ours: np.ndarray, theirs: np.ndarray) -> None:
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(
            f"ours are scores of {ours.shape[1]} tasks, theirs of {theirs.shape[1]}: they must be of the same tasks"
        )


def _drawn_runs(table: np.ndarray, repetitions: int, rng: np.random.Generator) -> np.ndarray:
    """Tables [repetitions, runs, tasks] of which each entry is of a run drawn for that task alone."""
    runs, tasks = table.shape
    if runs < 2:
        raise ValueError("scores of one run cannot be drawn anew: give two runs or more, or no interval")
    return table[rng.integers(runs, size=(repetitions, runs, tasks)), np.arange(tasks)]


def _generator(repetitions: int, confidence: float, seed: int) -> np.random.Generator:
    if repetitions < 1:
        raise ValueError(f"repetitions must be at least 1, got {repetitions}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return np.random.default_rng(seed)


def _interval(estimate: np.ndarray, repeated: np.ndarray, confidence: float) -> Interval:
    if np.ndim(estimate) or np.ndim(repeated) != 1:
        raise ValueError("a statistic must take scores [..., runs, tasks] to one number of each table [...]")
    low, high = _ends(repeated, confidence)
    return Interval(float(estimate), float(low), float(high), confidence)


def _ends(repeated: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of percentile intervals [...] of what was drawn again and again [repetitions, ...]."""
    low, high = np.quantile(repeated, [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    return low, high
