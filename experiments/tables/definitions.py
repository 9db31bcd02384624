"""What a table of a paper is: tasks, published columns, aggregates, and which runs fill columns of our own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from experiments.run_records import RunRecord
from framework.aggregates import Statistic


@dataclasses.dataclass(frozen=True)
class PublishedColumn:
    """Scores of one agent that a paper printed.

    Attributes:
      label: the agent.
      scores: {task: mean score}; a task that is missing is not held.
      env_steps: agent steps that its runs took; ``None`` where that is not held.
      footnotes: where its protocol differs from ours, or may differ.
    """

    label: str
    scores: Mapping[str, float]
    env_steps: float | None = None
    footnotes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Normalization:
    """From a task's score to one that can be averaged over tasks: (score - low) / (high - low).

    Attributes:
      label: of the normalized score.
      low, high: {task: the score that becomes 0, and 1}.
      cap: the most that a task counts; ``None``: whatever it is.
    """

    label: str
    low: Mapping[str, float]
    high: Mapping[str, float]
    cap: float | None = None

    def __call__(self, task: str, scores: np.ndarray) -> np.ndarray:
        low, high = self.low[task], self.high[task]
        normalized = (np.asarray(scores, np.float64) - low) / (high - low)
        return normalized if self.cap is None else np.minimum(normalized, self.cap)


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """One number for all tasks.

    Attributes:
      label: what it is.
      statistic: of normalized scores [..., runs, tasks].
    """

    label: str
    statistic: Statistic


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number of a run that is not its return.

    Attributes:
      label: what it is.
      of_run: the number; ``None`` where the run does not tell.
    """

    label: str
    of_run: Callable[[RunRecord], float | None]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row that a table of discovered rules wants: how its rule is discovered.

    Attributes:
      label: the row's name.
      config: of the discovery.
      gin_files: that the discovery adds to its config.
    """

    label: str
    config: str
    gin_files: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
      name: what ``rulespace table`` calls it.
      title: one line above it.
      source: the paper, and what of it.
      tasks: its rows, as suites name them; at least one of a run's tasks must be among them.
      value: what a cell holds.
      published: columns to print beside our own.
      published_digits: decimals with which the paper prints them.
      normalization: of scores before they are aggregated; ``None``: as they are.
      aggregates: rows below the tasks.
      digits: decimals of aggregates.
      env_steps: agent steps of each run in the paper; ``None`` where that is not held.
      experiments: configs that produce our own columns at the paper's scale; where not empty and ``only`` is set, other
        configs are not taken.
      only: whether no other configs' runs belong here.
      sweep: that runs them, by name.
      before: a sweep that has to be run first, for the rules that are evaluated.
      beside: a sweep of a hand-made rule, for a column to compare with.
      task_macros: by which a config chooses tasks: runs that differ in these and in the seed alone make one column.
      measures: further numbers of a run.
      variants: rows of a table of rules; the first is what the others are compared with.
      relative: the aggregate that variants are compared by, in percent of the first's; ``None``: they are not.
      agents_are_rows: whether agents, and not tasks, are the rows: of tables of one task, or of aggregates alone.
      footnotes: what a reader has to know.
    """

    name: str
    title: str
    source: str
    tasks: tuple[str, ...]
    value: str
    experiments: tuple[str, ...]
    sweep: str
    published: tuple[PublishedColumn, ...] = ()
    published_digits: int = 0
    normalization: Normalization | None = None
    aggregates: tuple[Aggregate, ...] = ()
    digits: int = 2
    env_steps: float | None = None
    only: bool = False
    before: str = ""
    beside: str = ""
    task_macros: tuple[str, ...] = ()
    measures: tuple[Measure, ...] = ()
    variants: tuple[Variant, ...] = ()
    relative: Aggregate | None = None
    agents_are_rows: bool = False
    footnotes: tuple[str, ...] = ()

    def normalized(self, task: str, scores: np.ndarray) -> np.ndarray:
        """Scores of a task, of any shape, as they enter an aggregate."""
        return np.asarray(scores, np.float64) if self.normalization is None else self.normalization(task, scores)

    def published_aggregate(self, column: PublishedColumn, aggregate: Aggregate) -> float | None:
        """An aggregate of a published column's mean scores; ``None`` where it does not hold all tasks."""
        if not set(self.tasks) <= column.scores.keys():
            return None
        scores = [self.normalized(task, np.asarray(column.scores[task])) for task in self.tasks]
        return float(aggregate.statistic(np.asarray(scores)))
