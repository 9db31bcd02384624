"""The page of a report; whatever comes from a run is shown as text."""

from __future__ import annotations

import base64
import html
import shlex
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.figures import draw_table
from experiments.reporting.charts import COLORS, chart
from experiments.reporting.summary import Experiment, differing_settings
from experiments.run_records import RunRecord
from experiments.tables.columns import OwnColumn
from experiments.tables.definitions import Table
from experiments.tables.formats import STYLE, html_table
from experiments.tables.sheet import SMALL, SMALL_MEANS, sheet, shown, steps

_FOLDER = Path(__file__).parent


def page(title: str, found: Sequence[Experiment], tables: Sequence[tuple[Table, Sequence[OwnColumn]]]) -> str:
    """The whole page, with its styles, scripts and pictures in it.

    Args:
      title: what the report is on.
      found: the experiments.
      tables: those that some of the runs belong to, each with its columns.
    """
    runs = [run for experiment in found for run in experiment.runs]
    parts = [
        ("experiments", "Experiments", _experiments(found)),
        ("differences", "What differs", _differences(found)),
        ("curves", "Learning curves", _curves(found)),
        *((table.name, table.title, _table(table, columns)) for table, columns in tables),
        ("runs", "Runs", _runs(runs)),
        ("environment", "Environment", _environment(runs)),
    ]
    links = "".join(f'<a href="#{name}">{html.escape(heading)}</a>' for name, heading, _ in parts)
    sections = "".join(
        f'<section id="{name}"><h2>{html.escape(heading)}</h2>{body}</section>\n' for name, heading, body in parts
    )
    escaped = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        # No icon: a browser would ask a server for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escaped}</title>\n<style>\n{STYLE}{_file('page.css')}</style>\n</head>\n<body>\n"
        f'<h1>{escaped}</h1>\n<p class="lead">{html.escape(_lead(found, runs))}</p>\n<nav>{links}</nav>\n{sections}'
        f"<script>\n{_file('page.js')}</script>\n</body>\n</html>\n"
    )


def _lead(found: Sequence[Experiment], runs: Sequence[RunRecord]) -> str:
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.status] = counts.get(run.status, 0) + 1
    status = ", ".join(f"{count} {name}" for name, count in counts.items())
    text = f"{counted(len(runs), 'run')} of {counted(len(found), 'experiment')}: {status}."
    if any(run.small for run in runs):
        text += f" Those marked '{SMALL}' have {SMALL_MEANS}."
    return text


def _experiments(found: Sequence[Experiment]) -> str:
    head = ("experiment", "task", "final return", "agents", "runs finished")
    rows = []
    for number, experiment in enumerate(found):
        finished = sum(run.finished for run in experiment.runs)
        count = f"{finished} of {len(experiment.runs)}"
        for index, task in enumerate(experiment.tasks() or [""]):
            known = experiment.final_return(task)
            value, agents = "-", "0"
            if known is not None:
                estimate, interval, size = known
                band = f" [{shown(interval.low)}, {shown(interval.high)}]" if interval else ""
                value, agents = f"{shown(estimate)}{band}", str(size)
            name = _name(number, experiment) if index == 0 else ""
            cells = [f'<td class="text">{name}</td>', f'<td class="text">{html.escape(task)}</td>']
            rows.append(
                "".join([*cells, *(f"<td>{cell}</td>" for cell in (value, agents, count if not index else ""))])
            )
    note = (
        "Final return: mean over agents of complete episodes after training. In brackets: 95 % intervals by the "
        "bootstrap over two agents or more. An experiment's runs differ in seed and task alone; tasks that it has not "
        "learned yet are left out."
    )
    return _grid(head, rows, text_columns=2) + f'<p class="lead">{note}</p>'


def _differences(found: Sequence[Experiment]) -> str:
    rows = differing_settings(found)
    if not rows:
        return '<p class="lead">Nothing in their configurations.</p>'
    head = ("setting", *(_name(number, experiment) for number, experiment in enumerate(found)))
    cells = [
        "".join(f'<td class="text code">{html.escape(cell)}</td>' for cell in (name, *values)) for name, values in rows
    ]
    table = _grid(head, cells, text_columns=len(head), escaped=True)
    if len(rows) <= 12:
        return table
    return f"<details><summary>{len(rows)} settings differ</summary>{table}</details>"


def _curves(found: Sequence[Experiment]) -> str:
    tasks = list(dict.fromkeys(task for experiment in found for task in experiment.curves))
    if not tasks:
        return '<p class="lead">No episode has ended yet.</p>'
    drawn = [number for number, experiment in enumerate(found) if experiment.curves]
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-experiment="{number}" '
        f'data-name="{html.escape(_plain(found[number]))}">{_mark(number)}{html.escape(_plain(found[number]))}</button>'
        for number in drawn
    )
    charts = "".join(
        chart(task, {number: found[number].curves[task] for number in drawn if task in found[number].curves})
        for task in tasks
    )
    note = (
        "Mean return of training episodes. Thin: runs; thick: the mean of several. Point at a curve for its values; "
        "press an experiment to hide it or to show it again."
    )
    return f'<p class="lead">{note}</p><div class="legend">{buttons}</div><div class="charts">{charts}</div>'


def _table(table: Table, columns: Sequence[OwnColumn]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        paths = [path for path in draw_table(Path(folder), table, columns) if path.stem != "learning_curves"]
        pictures = [(path.stem.replace("_", " "), base64.b64encode(path.read_bytes()).decode()) for path in paths]
    images = "".join(
        f'<img alt="{html.escape(f"{table.title}: {name}")}" src="data:image/png;base64,{data}">'
        for name, data in pictures
    )
    figures = f"<details><summary>Figures</summary>{images}</details>" if images else ""
    return html_table(sheet(table, columns)) + figures


def _runs(runs: Sequence[RunRecord]) -> str:
    head = ("folder", "status", "seed", "steps", "environment steps", "seconds")
    rows = []
    for run in runs:
        result = run.result
        numbers = (
            run.seed,
            f"{result['steps']:,}" if "steps" in result else "-",
            steps(result["env_steps"]) if "env_steps" in result else "-",
            f"{result['wall_seconds']:,.0f}" if "wall_seconds" in result else "-",
        )
        status = (
            f'<span class="failed">{html.escape(run.status)}</span>' if result.get("error") else html.escape(run.status)
        )
        error = f"<pre>{html.escape(str(result['error']))}</pre>" if result.get("error") else ""
        command = shlex.join(["rulespace", *map(str, run.start.get("arguments", ()))]) if run.start else ""
        detail = f"<details><summary>command</summary><pre>{html.escape(command)}</pre></details>" if command else ""
        cells = [
            f'<td class="text"><code>{html.escape(str(run.folder))}</code>{detail}{error}</td>',
            f'<td class="text">{status}</td>',
            *(f"<td>{html.escape(number)}</td>" for number in numbers),
        ]
        rows.append("".join(cells))
    return _grid(head, rows, text_columns=2)


def _environment(runs: Sequence[RunRecord]) -> str:
    starts = [run.start for run in runs if run.start]
    versions = [start.get("versions") or {} for start in starts]
    facts = [
        (name, [str(v[name]) for v in versions if v.get(name)])
        for name in dict.fromkeys(n for v in versions for n in v)
    ]
    facts += [
        ("source", [_source(start) for start in starts]),
        ("devices", [", ".join(map(str, start.get("devices") or ())) for start in starts]),
        ("host", [str(start.get("host", "")) for start in starts]),
        ("started", _span([str(start.get("started", "")) for start in starts])),
    ]
    distinct = [(name, "; ".join(sorted(set(filter(None, values))))) for name, values in facts]
    rows = ["".join(f'<td class="text">{html.escape(cell)}</td>' for cell in fact) for fact in distinct if fact[1]]
    return _grid(("", "of the runs' latest starts"), rows, text_columns=2)


def _source(start: object) -> str:
    source = start.get("source") if isinstance(start, dict) else None
    if not source:
        return "not a checkout"
    return f"commit {source['commit'][:12]}" + (", changed since" if source.get("dirty") else "")


def _span(times: Sequence[str]) -> list[str]:
    """The first and the last of times, which are written so that they sort."""
    known = sorted(filter(None, times))
    return [] if not known else [known[0]] if known[0] == known[-1] else [f"{known[0]} to {known[-1]}"]


def _grid(head: Iterable[str], rows: Sequence[str], *, text_columns: int, escaped: bool = False) -> str:
    cells = "".join(
        f"<th{' class=text' if index < text_columns else ''}>{cell if escaped else html.escape(cell)}</th>"
        for index, cell in enumerate(head)
    )
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _name(number: int, experiment: Experiment) -> str:
    small = f' <span class="label">{SMALL}</span>' if experiment.small else ""
    return f"{_mark(number)}{html.escape(experiment.label)}{small}"


def _plain(experiment: Experiment) -> str:
    return experiment.label + (f" ({SMALL})" if experiment.small else "")


def _mark(number: int) -> str:
    return f'<span class="mark c{number % COLORS}"></span>'


def counted(count: int, what: str) -> str:
    """So many things, in the plural where there are several."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _file(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
