"""What a report tells of runs: experiments, how they differ, curves, results, what they ran on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.run_records import SEEDS, RunRecord, grouped_runs, shared_bindings
from experiments.tables.papers import TABLES
from framework.aggregates import Interval, mean, stratified_bootstrap
from framework.runs.metrics import read_metrics

TASK_MACROS = frozenset(macro for table in TABLES.values() for macro in table.task_macros)
_MOST_POINTS = 400
_RETURN = "return/"

Points = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Runs that differ in seed and task alone.

    Attributes:
      label: the config and what commands added to it.
      runs: of all seeds and tasks.
      curves: {task: [curve of each run that has one]}.
    """

    label: str
    runs: Sequence[RunRecord]
    curves: Mapping[str, Sequence[Points]]

    @property
    def small(self) -> bool:
        return any(run.small for run in self.runs)

    def final_return(self, task: str) -> tuple[float, Interval | None, int] | None:
        """Mean final return of the agents on a task, its interval of two agents or more, and their number."""
        scores = np.asarray([value for run in self.runs if run.finished for value in run.final_returns(task)])
        if not scores.size:
            return None
        interval = stratified_bootstrap(scores[:, None], mean) if scores.size > 1 else None
        return float(scores.mean()), interval, int(scores.size)

    def tasks(self) -> list[str]:
        """The tasks on which anything is known; all tasks of the runs where nothing is known yet."""
        tasks = list(dict.fromkeys(task for run in self.runs for task in (*run.tasks(), *self.curves)))
        return [task for task in tasks if task in self.curves or self.final_return(task)] or tasks


def experiments(runs: Sequence[RunRecord]) -> list[Experiment]:
    """The experiments that runs are of, in the order of their first runs."""
    groups = grouped_runs(runs, TASK_MACROS)
    left_out = {*TASK_MACROS, *shared_bindings(groups)}
    return [Experiment(group[0].label(left_out), group, _curves(group)) for group in groups]


def differing_settings(found: Sequence[Experiment]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each experiment) of those that differ; an empty value where an experiment has none."""
    settings = [next((run.settings for run in experiment.runs if run.settings), {}) for experiment in found]
    names = dict.fromkeys(name for of_one in settings for name in of_one if name not in {*SEEDS, *TASK_MACROS})
    rows = [(name, [of_one.get(name, "") for of_one in settings]) for name in names]
    return [row for row in rows if len(set(row[1])) > 1]


def _curves(runs: Sequence[RunRecord]) -> dict[str, list[Points]]:
    curves: dict[str, list[Points]] = {}
    for run in runs:
        for task, points in training_curves(run).items():
            if points:
                curves.setdefault(task, []).append(points)
    return curves


def training_curves(run: RunRecord) -> dict[str, Points]:
    """{task: mean return of training episodes over environment steps}; of a run that goes on, what it has logged."""
    if run.tasks():
        return {task: run.curve(task) for task in run.tasks()}
    curves: dict[str, Points] = {}
    for point in read_metrics(run.folder):
        for name, value in point.items():
            if name.startswith(_RETURN) and value is not None:
                curves.setdefault(name.removeprefix(_RETURN), []).append((float(point["env_steps"]), float(value)))
    return {task: points[:: 1 + len(points) // _MOST_POINTS] for task, points in curves.items()}


def mean_of(curves: Sequence[Points]) -> Points:
    """The mean of curves at the steps that all of them have; nothing of one curve alone."""
    if len(curves) < 2:
        return []
    values = [dict(curve) for curve in curves]
    common = sorted(set.intersection(*map(set, values)))
    return [(steps, float(np.mean([of_run[steps] for of_run in values]))) for steps in common]
