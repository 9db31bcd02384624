"""A table as it is printed: heads, rows of cells and footnotes, before any markup."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from experiments.run_records import RunRecord
from experiments.tables.columns import Estimate, OwnColumn, unlike
from experiments.tables.definitions import Aggregate, PublishedColumn, Table, Variant

NOTHING = "-"
NOT_HELD = "not held"
SMALL = "small scale"
_SHARE = "of the paper's steps"
SMALL_MEANS = (
    "fewer steps, fewer environments, smaller networks and shorter episodes than the paper's, a test of the pipeline "
    "whose numbers are not comparable with others"
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """Text, and the footnotes (from 1 on) that it points to.

    Attributes:
      text: what is shown.
      notes: numbers of footnotes.
      exact: what is written where there are no footnotes; empty: the same text.
    """

    text: str
    notes: tuple[int, ...] = ()
    exact: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row; ``summary`` for what is not of one task."""

    cells: tuple[Cell, ...]
    summary: bool = False


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table to be written; every row has as many cells as the head."""

    title: str
    caption: str
    head: tuple[Cell, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...]


class _Footnotes:
    """Numbers footnotes in the order in which they are pointed to; the same text has one number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str]) -> tuple[int, ...]:
        self.texts += [text for text in dict.fromkeys(texts) if text not in self.texts]
        return tuple(sorted(self.texts.index(text) + 1 for text in texts))


def sheet(table: Table, columns: Sequence[OwnColumn]) -> Sheet:
    """A table with its published columns and our own."""
    notes = _Footnotes()
    build = _agents_down if table.agents_are_rows else _tasks_down
    head, rows = build(table, columns, notes)
    caption = f"{table.value[0].upper()}{table.value[1:]}; {table.source}."
    if any(column.runs for column in columns):
        caption += " In brackets: 95 % intervals by the stratified bootstrap over seeds, of two runs or more."
    return Sheet(table.title, caption, head, rows, (*notes.texts, *table.footnotes))


def _tasks_down(
    table: Table, columns: Sequence[OwnColumn], notes: _Footnotes
) -> tuple[tuple[Cell, ...], tuple[Row, ...]]:
    published = table.published
    head = (
        Cell("task"),
        *(Cell(column.label, notes(column.footnotes)) for column in published),
        *(_own_head(column, notes) for column in columns),
    )

    def row(name: str, of_published: Callable[[PublishedColumn], str], of_own: Callable[[OwnColumn], str]) -> Row:
        texts = [name, *map(of_published, published), *map(of_own, columns)]
        return Row(tuple(map(Cell, texts)), summary=True)

    rows = [
        dataclasses.replace(
            row(task, lambda c, t=task: _published_score(table, c, t), lambda c, t=task: _own_score(c, t)),
            summary=False,
        )
        for task in table.tasks
    ]
    for aggregate in table.aggregates:
        rows.append(
            row(
                aggregate.label,
                lambda c, a=aggregate: _published_aggregate(table, c, a),
                lambda c, a=aggregate: _own_aggregate(c, a),
            )
        )
    rows.append(row("environment steps", _published_steps, _own_steps))
    if columns:
        rows.append(row(_SHARE, lambda _: "", _own_share))
        rows.append(row("runs finished", lambda _: "", _finished))
        rows.append(row("runs of a task", lambda _: "", _runs_of_a_task))
        rows.append(row("scale", lambda _: "", _scale))
    return head, tuple(rows)


def _agents_down(
    table: Table, columns: Sequence[OwnColumn], notes: _Footnotes
) -> tuple[tuple[Cell, ...], tuple[Row, ...]]:
    tasks = () if table.aggregates else table.tasks
    compared = [_relative_label(table)] if table.relative else []
    names = [
        *tasks,
        *(aggregate.label for aggregate in table.aggregates),
        *compared,
        *(measure.label for measure in table.measures),
        "environment steps",
    ]
    own = [_SHARE, "runs finished", "runs of a task", "scale"] if columns else []
    head = tuple(map(Cell, ["agent", *names, *own]))

    def of_published(column: PublishedColumn) -> Row:
        texts = [
            *(_published_score(table, column, task) for task in tasks),
            *(_published_aggregate(table, column, aggregate) for aggregate in table.aggregates),
            *(NOT_HELD for _ in compared),
            *(NOT_HELD for _ in table.measures),
            _published_steps(column),
            *("" for _ in own),
        ]
        return Row((Cell(column.label, notes(column.footnotes)), *map(Cell, texts)))

    def of_own(column: OwnColumn) -> Row:
        texts = [
            *(_own_score(column, task) for task in tasks),
            *(_own_aggregate(column, aggregate) for aggregate in table.aggregates),
            *(_relative(column, columns) for _ in compared),
            *(_own_measure(column, measure.of_run) for measure in table.measures),
            *(_own_steps(column), _own_share(column), _finished(column), _runs_of_a_task(column), _scale(column)),
        ]
        return Row((_own_head(column, notes), *map(Cell, texts)))

    def missing(variant: Variant) -> Row:
        return Row(tuple(map(Cell, [variant.label, *(NOTHING for _ in names), *(NOTHING for _ in own)])))

    rows = [of_published(column) for column in table.published]
    for variant in table.variants:
        of_variant = [column for column in columns if column.variant == variant]
        rows += [of_own(column) for column in of_variant] or [missing(variant)]
    rows += [of_own(column) for column in columns if column.variant is None]
    return head, tuple(rows)


def _own_head(column: OwnColumn, notes: _Footnotes) -> Cell:
    """A column's name: its variant's or its config's; what commands added to the config is a footnote."""
    if column.variant is not None:
        return Cell(column.variant.label, notes(_own_notes(column)))
    name, _, added = column.label.partition(", ")
    return Cell(name, notes([*([f"with {added}."] if added else []), *_own_notes(column)]), exact=column.label)


def _own_notes(column: OwnColumn) -> list[str]:
    texts = []
    if column.small:
        texts.append(f"{SMALL}: {SMALL_MEANS}.")
    if not column.finished:
        texts.append("no run has finished.")
    elif not column.tasks():
        texts.append("its runs were not evaluated: their configs ask for no episodes after training.")
    if name := unlike(column):
        texts.append(f"its runs differ in {name}, although their commands do not.")
    if column.table.aggregates and len(counts := {column.scores(task).size for task in column.tasks()}) > 1:
        texts.append(
            f"tasks have {min(counts)} to {max(counts)} runs: aggregates take the first {min(counts)} of each."
        )
    return texts


def _published_score(table: Table, column: PublishedColumn, task: str) -> str:
    if not column.scores:
        return NOT_HELD
    return f"{column.scores[task]:,.{table.published_digits}f}" if task in column.scores else NOTHING


def _published_aggregate(table: Table, column: PublishedColumn, aggregate: Aggregate) -> str:
    value = table.published_aggregate(column, aggregate)
    return NOT_HELD if value is None else f"{value:,.{table.digits}f}"


def _published_steps(column: PublishedColumn) -> str:
    return NOT_HELD if column.env_steps is None else steps(column.env_steps)


def _own_score(column: OwnColumn, task: str) -> str:
    estimate, missing = column.score(task), column.missing(task)
    if estimate is None:
        return f"{NOTHING} (0 of {missing})" if missing else NOTHING
    text = with_interval(estimate, shown)
    return f"{text} ({estimate.runs} of {estimate.runs + missing})" if missing else text


def _own_aggregate(column: OwnColumn, aggregate: Aggregate) -> str:
    estimate = column.aggregate(aggregate)
    if estimate is None:
        return NOTHING
    return _of_tasks(with_interval(estimate, lambda value: f"{value:,.{column.table.digits}f}"), estimate, column.table)


def _of_tasks(text: str, estimate: Estimate, table: Table) -> str:
    """A statistic, and of how many tasks it is where that is not all."""
    return text if estimate.tasks == len(table.tasks) else f"{text} ({_tasks(estimate.tasks)})"


def _relative_label(table: Table) -> str:
    label = "" if table.relative is None else table.relative.label
    return f"{label} relative to {table.variants[0].label}"


def _relative(column: OwnColumn, columns: Sequence[OwnColumn]) -> str:
    """By how much a column's aggregate differs from the first variant's, of which there must be one column."""
    table = column.table
    references = [other for other in columns if table.variants and other.variant == table.variants[0]]
    if table.relative is None or len(references) != 1 or column is references[0]:
        return NOTHING
    change = column.change(references[0], table.relative)
    if change is None:
        return NOTHING
    return _of_tasks(with_interval(change, lambda value: f"{100 * value:+.0f} %"), change, table)


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def _own_measure(column: OwnColumn, of_run: Callable[[RunRecord], float | None]) -> str:
    values = [value for run in column.finished if (value := of_run(run)) is not None]
    return f"{np.mean(values):.2f}" if values else NOTHING


def _own_steps(column: OwnColumn) -> str:
    taken = [run.env_steps for run in column.finished]
    if not taken:
        return NOTHING
    least, most = min(taken), max(taken)
    return steps(least) if least == most else f"{steps(least)} to {steps(most)}"


def _own_share(column: OwnColumn) -> str:
    paper, taken = column.table.env_steps, [run.env_steps for run in column.finished]
    if paper is None:
        return NOT_HELD
    if not taken:
        return NOTHING
    percent = 100 * max(taken) / paper
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _finished(column: OwnColumn) -> str:
    return f"{len(column.finished)} of {len(column.runs)}"


def _runs_of_a_task(column: OwnColumn) -> str:
    counts = {column.scores(task).size for task in column.tasks()}
    if not counts:
        return "0"
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _scale(column: OwnColumn) -> str:
    return SMALL if column.small else "of the config"


def with_interval(estimate: Estimate, show: Callable[[float], str]) -> str:
    """A statistic, and its interval where it has one."""
    text = show(estimate.value)
    if estimate.interval is None:
        return text
    return f"{text} [{show(estimate.interval.low)}, {show(estimate.interval.high)}]"


def shown(score: float) -> str:
    """A score with as many decimals as its size asks for; whole numbers as such."""
    if float(score).is_integer():
        return f"{score:,.0f}"
    digits = 0 if abs(score) >= 10_000 else 1 if abs(score) >= 1_000 else 2
    return f"{score:,.{digits}f}"


def steps(count: float) -> str:
    """A number of environment steps, in millions where there are many."""
    return f"{count / 1e6:,.3g} M" if count >= 1e5 and count < 1e9 else f"{count:,.0f}"
