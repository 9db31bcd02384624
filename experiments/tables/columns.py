"""Columns of our own: run folders that differ in seed and task alone, and what they reached."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.run_records import SEEDS, RunRecord, grouped_runs, is_scale, read_run, shared_bindings
from experiments.tables.definitions import Aggregate, Table, Variant
from framework.aggregates import Interval, Statistic, independent_bootstrap, mean, stratified_bootstrap
from framework.runs.contract import COMMAND
from framework.runs.object_store import is_address

_RULE_FROM = ("RUN", "FromRun.path", "weights.FromRun.path")


@dataclasses.dataclass(frozen=True)
class OwnColumn:
    """Runs of one experiment.

    Attributes:
      label: config, gin files and bindings that tell it apart.
      runs: of all tasks and seeds, whatever became of them.
      table: whose tasks they are of.
      small: whether any is on a smaller scale than its config's.
      variant: which of the table's variants its rule is; ``None``: of none.
    """

    label: str
    runs: tuple[RunRecord, ...]
    table: Table
    small: bool
    variant: Variant | None = None

    @property
    def finished(self) -> list[RunRecord]:
        return [run for run in self.runs if run.finished]

    def scores(self, task: str) -> np.ndarray:
        """Final return of every agent of the finished runs on a task [runs]."""
        return np.asarray([value for run in self.finished for value in run.final_returns(task)], np.float64)

    def missing(self, task: str) -> int:
        """How many runs on a task were begun, or planned, and have no final return.

        Where a command does not tell its run's tasks, they are taken to be those of the column's other runs.
        """
        without = [run for run in self.runs if not (run.finished and run.final_returns(task))]
        return sum(task in (tasks_of(run, self.table) or self.tasks()) for run in without)

    def score(self, task: str) -> Estimate | None:
        """Mean over runs on a task; ``None`` without any."""
        scores = self.scores(task)
        return _estimate(scores[:, None], Aggregate("mean", mean)) if scores.size else None

    def aggregate(self, aggregate: Aggregate) -> Estimate | None:
        """An aggregate over those tasks that have a score; ``None`` if none has.

        Where tasks have different numbers of runs, the first of each are taken, as many as the fewest.
        """
        return _estimate(self.normalized_scores(), aggregate) if self.tasks() else None

    def change(self, reference: OwnColumn, aggregate: Aggregate) -> Estimate | None:
        """By how much of a reference's aggregate ours differs from it, over the tasks that both have a score of.

        ``None`` where they share no task, or where the reference's aggregate is not positive; there is no interval
        where that of other seeds might not be.
        """
        shared = self.shared_tasks(reference)
        if not shared:
            return None
        ours, theirs = self.normalized_scores(shared), reference.normalized_scores(shared)
        if aggregate.statistic(theirs) <= 0.0:
            return None

        def relative(one: np.ndarray, other: np.ndarray) -> np.ndarray:
            return aggregate.statistic(one) / aggregate.statistic(other) - 1.0

        interval = None
        if min(len(ours), len(theirs)) > 1 and _always_positive(theirs, aggregate.statistic):
            interval = independent_bootstrap(ours, theirs, relative)
        return Estimate(float(relative(ours, theirs)), interval, min(len(ours), len(theirs)), len(shared))

    def tasks(self) -> list[str]:
        """Tasks of the table that have a score."""
        return [task for task in self.table.tasks if self.scores(task).size]

    def shared_tasks(self, other: OwnColumn) -> list[str]:
        """Tasks of the table that both columns have a score of."""
        return [task for task in self.tasks() if task in other.tasks()]

    def raw_scores(self, tasks: Sequence[str]) -> np.ndarray:
        """Final returns on tasks that have any [runs, tasks]: of each the first runs, as many as the fewest."""
        scores = [self.scores(task) for task in tasks]
        runs = min(of_task.size for of_task in scores)
        return np.stack([of_task[:runs] for of_task in scores], axis=1)

    def normalized_scores(self, tasks: Sequence[str] | None = None) -> np.ndarray:
        """`raw_scores`, by default of all tasks that have any, as they enter an aggregate [runs, tasks]."""
        tasks = self.tasks() if tasks is None else tasks
        raw = self.raw_scores(tasks)
        return np.stack([self.table.normalized(task, raw[:, index]) for index, task in enumerate(tasks)], axis=1)


class Estimate(NamedTuple):
    """A statistic of runs.

    Attributes:
      value: the statistic.
      interval: by the stratified bootstrap; ``None`` for one run.
      runs: of each task.
      tasks: that it is of.
    """

    value: float
    interval: Interval | None
    runs: int
    tasks: int


def _estimate(scores: np.ndarray, aggregate: Aggregate) -> Estimate:
    runs, tasks = scores.shape
    interval = stratified_bootstrap(scores, aggregate.statistic) if runs > 1 else None
    return Estimate(float(aggregate.statistic(scores)), interval, runs, tasks)


def _always_positive(scores: np.ndarray, statistic: Statistic) -> bool:
    """Whether a statistic that grows with scores is positive whichever runs are drawn: for each task's lowest."""
    return float(statistic(scores.min(axis=0, keepdims=True))) > 0.0


def own_columns(table: Table, runs: Sequence[RunRecord]) -> list[OwnColumn]:
    """The columns that runs fill in a table; runs of other tasks, and discoveries, are passed over."""
    grouped = grouped_runs([run for run in runs if _belongs(run, table)], table.task_macros)
    shared = shared_bindings(grouped)
    return [_column(table, of_column, shared) for of_column in grouped]


def _column(table: Table, runs: Sequence[RunRecord], shared: set[str]) -> OwnColumn:
    discovery = next((found for run in runs if (found := _discovery(run))), None)
    small = any(run.small for run in runs)
    variant = None
    if discovery is not None:
        variant = next((v for v in table.variants if _discovers(discovery, v, table)), None)
        known = {file for v in table.variants for file in v.gin_files}
        small = small or any(is_scale(file) for file in discovery.gin_files if file not in known)
    return OwnColumn(runs[0].label({*table.task_macros, *shared}), tuple(runs), table, small, variant)


def _belongs(run: RunRecord, table: Table) -> bool:
    if run.discovers or (table.only and run.config not in table.experiments):
        return False
    return not set(table.tasks).isdisjoint(tasks_of(run, table)) or (
        run.config in table.experiments and not tasks_of(run, table)
    )


def tasks_of(run: RunRecord, table: Table) -> list[str]:
    """The tasks of a run: of its result, or, before it has one, those that the table's macros name."""
    if known := run.tasks():
        return known
    for macro in reversed(table.task_macros):
        value = run.bindings.get(macro, run.settings.get(macro, ""))
        if names := _names(value):
            return names
    return []


def _names(value: str) -> list[str]:
    """The strings of a gin literal or bare word; none where it is a reference or a macro."""
    if not value or value.startswith(("%", "@")) or "%" in value:
        return []
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return [value]
    return [literal] if isinstance(literal, str) else [str(item) for item in literal]


def _discovery(run: RunRecord) -> RunRecord | None:
    """The run that discovered the rule of this one, where its folder, or what was fetched of it, is still there."""
    values: Mapping[str, str] = {**run.settings, **run.bindings}
    for name in _RULE_FROM:
        for path in _names(values.get(name, "")):
            # Of a grid in a bucket the folder here has the same name, and stands beside that of this run's grid.
            beside = run.folder.absolute().parent.parent
            folder = beside.joinpath(*path.split("/")[-2:]) if is_address(path) else Path(path)
            if (folder / COMMAND).is_file():
                return read_run(folder)
    return None


def _discovers(discovery: RunRecord, variant: Variant, table: Table) -> bool:
    known = {file for v in table.variants for file in v.gin_files}
    files = {file for file in discovery.gin_files if file in known}
    return discovery.config == variant.config and files == set(variant.gin_files)


def unlike(column: OwnColumn) -> str | None:
    """The first setting, other than seed and task, in which runs of a column differ; ``None``: in none."""
    left_out = {*SEEDS, *column.table.task_macros}
    known = [run.settings for run in column.runs if run.settings]
    for name in dict.fromkeys(name for settings in known for name in settings):
        if name not in left_out and len({settings.get(name) for settings in known}) > 1:
            return name
    return None
