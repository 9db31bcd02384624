"""Figures of a table's columns: learning curves, aggregates, profiles, probability of improvement, tasks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.run_records import RunRecord
from experiments.tables.columns import OwnColumn
from experiments.tables.definitions import PublishedColumn, Table
from experiments.tables.sheet import SMALL
from framework.aggregates import (
    Interval,
    independent_bootstrap,
    mean,
    performance_profile,
    probability_of_improvement,
    profile_band,
    stratified_bootstrap,
)
from framework.runs.curves import Panel, draw_panels, line_colors, save_figure, style_axes
from framework.runs.storage import disk_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAR, _PUBLISHED = 0.28, "#9a9aa0"  # inches of a bar; the colour of published numbers
_THRESHOLDS = 201
_WIDE = 10.0  # normalized scores above it ask for a logarithmic axis
_MOST_PANELS = 8
_LONGEST_NAME = 44


def draw_table(folder: Path, table: Table, columns: Sequence[OwnColumn]) -> list[Path]:
    """Draws what the runs of a table's own columns allow, as PNGs.

    Aggregates and tasks stand beside the published columns, which have no interval; a profile needs two runs of each
    task or more for its band, a probability of improvement two columns with a task in common.

    Returns:
      the pictures that were drawn.

    Raises:
      RunFolderError: when the disk refuses.
    """
    with disk_errors(f"use {folder} for figures", "--figures"):
        folder.mkdir(parents=True, exist_ok=True)
    scored = [column for column in columns if column.tasks()]
    drawn = [folder / "learning_curves.png"] if draw_curves(folder / "learning_curves.png", table, columns) else []
    if not scored:
        return drawn
    if table.aggregates:
        drawn += [draw_aggregates(folder / "aggregates.png", table, scored)]
        drawn += [draw_profiles(folder / "performance_profiles.png", table, scored)]
    if pairs_of(scored):
        drawn.append(draw_improvement(folder / "probability_of_improvement.png", scored))
    return [*drawn, draw_tasks(folder / "tasks.png", table, scored)]


def pairs_of(columns: Sequence[OwnColumn]) -> list[tuple[OwnColumn, OwnColumn]]:
    """Columns that have a task in common."""
    return [(one, other) for one, other in itertools.combinations(columns, 2) if one.shared_tasks(other)]


def column_name(column: OwnColumn, columns: Sequence[OwnColumn]) -> str:
    """A column's name in pictures: its config where no other column has the same, not too long, labelled if small."""
    config = column.runs[0].config
    alone = sum(other.runs[0].config == config for other in columns) == 1
    name = column.variant.label if column.variant is not None else config if alone else column.label
    short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 4].rstrip(', ')} ..."
    return f"{short} ({SMALL})" if column.small else short


def draw_curves(path: Path, table: Table, columns: Sequence[OwnColumn]) -> bool:
    """Mean training return over environment steps, with the bootstrap's band over runs; whether there was any."""
    panels = []
    for task in table.tasks:
        lines = {
            column_name(column, columns): points
            for column in columns
            if (points := mean_curve([run for run in column.runs if task in run.tasks()], task))
        }
        if lines:
            panels.append(Panel(title=task, lines=lines, unit="environment steps of all agents"))
    if panels:
        left_out = len(panels) - _MOST_PANELS
        title = table.title + (f" (the first {_MOST_PANELS} tasks of {len(panels)})" if left_out > 0 else "")
        draw_panels(path, panels[:_MOST_PANELS], title=title, option="--figures")
    return bool(panels)


def mean_curve(runs: Sequence[RunRecord], task: str) -> list[tuple[float, ...]]:
    """Points (environment steps, mean[, low, high]) at steps that all runs have logged; a band of two runs or more."""
    curves = [dict(run.curve(task)) for run in runs]
    if not (curves := [curve for curve in curves if curve]):
        return []
    points: list[tuple[float, ...]] = []
    for steps in sorted(set.intersection(*map(set, curves))):
        values = np.asarray([curve[steps] for curve in curves])
        if values.size == 1:
            points.append((steps, float(values[0])))
        else:
            band = stratified_bootstrap(values[:, None], mean, repetitions=500)
            points.append((steps, band.estimate, band.low, band.high))
    return points


def draw_aggregates(path: Path, table: Table, columns: Sequence[OwnColumn]) -> Path:
    """Each aggregate with its interval; published ones, which have none, in grey.

    Where not all tasks have a score, a column's name tells of how many it is.
    """
    published = [column for column in table.published if set(table.tasks) <= column.scores.keys()]
    names = [column.label for column in published]
    for column in columns:
        count, most = len(column.tasks()), len(table.tasks)
        names.append(column_name(column, columns) + (f", {count} of {most} tasks" if count < most else ""))
    figure = _figure(5.0 * len(table.aggregates) + 1.5, _BAR * len(names) + 1.2)
    places = np.arange(len(names))[::-1]
    for index, aggregate in enumerate(table.aggregates):
        axes = figure.add_subplot(1, len(table.aggregates), index + 1)
        style_axes(axes, title=aggregate.label, unit=_unit(table), value="")
        for place, known in zip(places, published, strict=False):
            if (value := table.published_aggregate(known, aggregate)) is not None:
                axes.plot(value, place, "o", color=_PUBLISHED)
        for place, column, color in zip(places[len(published) :], columns, line_colors(len(columns)), strict=True):
            if estimate := column.aggregate(aggregate):
                _draw_interval(axes, place, estimate.value, estimate.interval, color)
        axes.set_yticks(places, names if index == 0 else [""] * len(names))
        axes.set_ylim(-0.7, len(names) - 0.3)
    save_figure(figure, path, "--figures")
    return path


def draw_profiles(path: Path, table: Table, columns: Sequence[OwnColumn]) -> Path:
    """Share of runs and tasks above each normalized score; bands are pointwise intervals, where runs allow them."""
    figure = _figure(7.5, 4.2)
    axes = figure.add_subplot()
    style_axes(axes, title="Performance profiles", unit=_unit(table), value="share of runs above")
    scores = [column.normalized_scores() for column in columns]
    low, high = min(float(s.min()) for s in scores), max(float(s.max()) for s in scores)
    # As dense as they are drawn: logarithmic beyond 1, where scores are of several orders of magnitude.
    ends = np.arcsinh([low, high])
    margin = 0.05 * (ends[1] - ends[0]) or 0.1
    thresholds = np.sinh(np.linspace(ends[0] - margin, ends[1] + margin, _THRESHOLDS))
    if high > _WIDE:
        axes.set_xscale("symlog", linthresh=1.0)
        axes.xaxis.set_major_formatter("{x:,g}")
    for column, of_column, color in zip(columns, scores, line_colors(len(columns)), strict=True):
        label = f"{column_name(column, columns)}: {of_column.shape[1]} tasks x {of_column.shape[0]} runs"
        axes.step(thresholds, performance_profile(of_column, thresholds), where="post", color=color, label=label)
        if of_column.shape[0] > 1:
            band = profile_band(of_column, thresholds)
            axes.fill_between(thresholds, *band, step="post", color=color, alpha=0.18, linewidth=0.0)
    axes.set_ylim(-0.02, 1.02)
    figure.legend(loc="outside lower left", frameon=False, fontsize=9)
    save_figure(figure, path, "--figures")
    return path


def draw_improvement(path: Path, columns: Sequence[OwnColumn]) -> Path:
    """How likely a run of one column beats one of another on a task that both have, with its interval."""
    pairs = pairs_of(columns)
    figure = _figure(8.5, 1.6 * _BAR * len(pairs) + 1.4)
    axes = figure.add_subplot()
    style_axes(axes, title="Probability of improvement", unit="P(X > Y) on a task of both", value="")
    places = np.arange(len(pairs))[::-1]
    for place, (one, other) in zip(places, pairs, strict=True):
        shared = one.shared_tasks(other)
        ours, theirs = one.raw_scores(shared), other.raw_scores(shared)
        value = float(probability_of_improvement(ours, theirs))
        enough = min(ours.shape[0], theirs.shape[0]) > 1
        band = independent_bootstrap(ours, theirs, probability_of_improvement) if enough else None
        _draw_interval(axes, place, value, band, line_colors(1)[0])
    names = [f"X: {column_name(one, columns)}\nY: {column_name(other, columns)}" for one, other in pairs]
    axes.set_yticks(places, names)
    axes.set_ylim(-0.7, len(pairs) - 0.3)
    axes.set_xlim(-0.02, 1.02)
    axes.axvline(0.5, color="#999999", linewidth=0.8, linestyle="--")
    axes.xaxis.set_major_formatter("{x:.2g}")
    save_figure(figure, path, "--figures")
    return path


def draw_tasks(path: Path, table: Table, columns: Sequence[OwnColumn]) -> Path:
    """A bar for each task and column on a scale that is logarithmic beyond 1, beside the last published column."""
    tasks = [task for task in table.tasks if any(column.scores(task).size for column in columns)]
    published = [column for column in table.published if column.scores][-1:]
    rows = len(tasks) * (len(columns) + len(published))
    figure = _figure(8.5, max(2.6, _BAR * rows + 1.6))
    axes = figure.add_subplot()
    style_axes(axes, title=table.title, unit=_unit(table), value="")
    height = 0.8 / (len(columns) + len(published))
    base = np.arange(len(tasks))[::-1].astype(float)
    drawn: list[tuple[str, str, list[float]]] = [
        (column_name(column, columns), color, [_mean_score(table, column, task) for task in tasks])
        for column, color in zip(columns, line_colors(len(columns)), strict=True)
    ]
    drawn += [(f"{c.label}, published", _PUBLISHED, [_published(table, c, task) for task in tasks]) for c in published]
    for index, (label, color, values) in enumerate(drawn):
        axes.barh(base + 0.4 - (index + 0.5) * height, values, height * 0.92, color=color, label=label)
    axes.set_xscale("symlog", linthresh=1.0)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.axvline(0.0, color="#999999", linewidth=0.8)
    axes.set_yticks(base, tasks)
    axes.set_ylim(-0.6, len(tasks) - 0.4)
    figure.legend(loc="outside lower left", frameon=False, fontsize=9)
    save_figure(figure, path, "--figures")
    return path


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _unit(table: Table) -> str:
    return table.value if table.normalization is None else table.normalization.label


def _draw_interval(axes: Axes, place: float, value: float, interval: Interval | None, color: str) -> None:
    if interval is not None:
        axes.barh(place, interval.high - interval.low, 0.5, left=interval.low, color=color, alpha=0.35)
        axes.plot([value, value], [place - 0.25, place + 0.25], color=color, linewidth=2.0)
    else:
        axes.plot(value, place, "o", color=color)


def _mean_score(table: Table, column: OwnColumn, task: str) -> float:
    scores = column.scores(task)
    return float(table.normalized(task, scores).mean()) if scores.size else float("nan")


def _published(table: Table, column: PublishedColumn, task: str) -> float:
    return float(table.normalized(task, np.asarray(column.scores[task]))) if task in column.scores else float("nan")
