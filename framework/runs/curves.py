"""Pictures of training returns."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framework.runs.storage import disk_errors, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = Sequence[float | None]
"""Step, environment steps, mean episode return (``None`` or NaN: not known)."""

Line = list[tuple[float, float]]

_INK, _FAINT = "#333333", "#dddddd"
_LABEL_HEIGHT, _MARGINS = 0.17, 1.2  # inches


def draw_learning_curve(path: Path, returns: Mapping[str, Sequence[Point]], *, title: str, unit: str) -> None:
    """Draws a run's mean episode return over its steps of a unit, one line a task, to a PNG.

    Raises:
      RunFolderError: when the disk refuses.
    """
    lines = {task: _known((step, value) for step, _, value in points) for task, points in returns.items()}
    # The object API: pyplot would keep every figure in a global list and may look for a display.
    from matplotlib.figure import Figure

    drawn = {label: points for label, points in lines.items() if points}
    height = max(3.3, _LABEL_HEIGHT * len(drawn))
    figure = Figure(figsize=(8.0, height + _MARGINS), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, title=title, unit=unit, value="mean episode return")
    if drawn:
        _draw_lines(axes, drawn, dict(zip(drawn, line_colors(len(drawn)), strict=True)), height=height)
    else:
        axes.text(0.5, 0.5, "no episode has ended yet", transform=axes.transAxes, ha="center", color=_INK, fontsize=12)
    save_figure(figure, path)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One of several pictures side by side.

    Attributes:
      title: above it.
      lines: {label: points}, each (x, y), or (x, y, low, high) for a band around the line.
      unit: what x counts.
      value: what y is.
      members: {label: the lines that the one of that label is the mean of}, drawn thin and in its colour.
    """

    title: str
    lines: Mapping[str, Sequence[Sequence[float | None]]]
    unit: str
    value: str = "mean episode return"
    members: Mapping[str, Sequence[Sequence[Sequence[float | None]]]] = dataclasses.field(default_factory=dict)


def draw_panels(
    path: Path, panels: Sequence[Panel], *, title: str, columns: int = 2, option: str = "--workdir"
) -> None:
    """Draws panels in rows, lines of the same label in the same colour, to a PNG; ``option`` as in `disk_errors`.

    Raises:
      RunFolderError: when the disk refuses.
    """
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    height = max(2.9, *(_LABEL_HEIGHT * len(panel.lines) for panel in panels))
    figure = Figure(figsize=(6.4 * columns, (height + _MARGINS) * rows), dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.1)
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, color=_INK)
    labels = list(dict.fromkeys(label for panel in panels for label in panel.lines))
    colors = dict(zip(labels, line_colors(len(labels)), strict=True))
    for index, panel in enumerate(panels):
        _draw_panel(figure.add_subplot(rows, columns, index + 1), panel, colors, height=height)
    save_figure(figure, path, option)


def _draw_panel(axes: Axes, panel: Panel, colors: Mapping[str, str], *, height: float) -> None:
    style_axes(axes, title=panel.title, unit=panel.unit, value=panel.value)
    lines = {label: _known((x, y) for x, y, *_ in points) for label, points in panel.lines.items()}
    for label, points in panel.lines.items():
        bands = [(x, *band) for x, y, *band in points if band and None not in (y, *band)]
        if bands:
            x, low, high = zip(*bands, strict=True)
            axes.fill_between(x, low, high, color=colors[label], alpha=0.18, linewidth=0.0)
        for member in panel.members.get(label, ()):
            if known := _known((x, y) for x, y, *_ in member):
                axes.plot(*zip(*known, strict=True), color=colors[label], alpha=0.4, linewidth=0.7)
    _draw_lines(axes, {label: points for label, points in lines.items() if points}, colors, height=height)


def save_figure(figure: Figure, path: Path, option: str = "--workdir") -> None:
    """Writes a PNG, whole or not at all; ``option`` as in `disk_errors`.

    Raises:
      RunFolderError: when the disk refuses.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    with disk_errors(f"write {path}", option):
        write_atomically(path, picture.getvalue())


def _known(points: Iterable[tuple[float | None, float | None]]) -> Line:
    return [(x, y) for x, y in points if x is not None and y is not None and math.isfinite(y)]


def style_axes(axes: Axes, *, title: str, unit: str, value: str) -> None:
    """The look of all our pictures: a title, what x counts and what y is."""
    from matplotlib.ticker import EngFormatter

    axes.set_title(title, loc="left", fontsize=13, color=_INK, pad=12)
    axes.set_xlabel(unit, fontsize=11, color=_INK)
    axes.set_ylabel(value, fontsize=11, color=_INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10, length=0, colors=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(linewidth=0.6, color="#999999")


def _draw_lines(axes: Axes, lines: Mapping[str, Line], colors: Mapping[str, str], *, height: float) -> None:
    """Draws the lines, each with its name at its end, on axes of a height in inches."""
    for label, points in lines.items():
        marker = "o" if len(points) == 1 else None
        axes.plot(*zip(*points, strict=True), color=colors[label], linewidth=1.6, marker=marker)
    axes.margins(x=0.02)
    # In inches from the axes' foot: names keep a line's distance whatever the scale.
    low, high = axes.get_ylim()
    ends = [(points[-1][1] - low) / (high - low) * height for points in lines.values()]
    for label, place in zip(lines, _spread(ends, _LABEL_HEIGHT, height), strict=True):
        axes.annotate(
            label, (1.0, place / height), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points",
            color=colors[label], fontsize=10, va="center", annotation_clip=False,
        )  # fmt: skip


def line_colors(count: int) -> list[str]:
    """Colours for so many lines, told apart by readers who see few colours where there are at most 8."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= 8:
        return ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f5fc5", "#b8860b", "#56b4e9", "#555555"][:count]
    return [to_hex(colormaps["turbo"](0.05 + 0.9 * index / (count - 1))) for index in range(count)]


def _spread(places: Sequence[float], gap: float, height: float) -> list[float]:
    """Moves places apart to at least ``gap``, in the same order, and none above ``height`` where they fit."""
    order = sorted(range(len(places)), key=places.__getitem__)
    spread = list(places)
    for below, above in itertools.pairwise(order):
        spread[above] = max(spread[above], spread[below] + gap)
    ceiling = height
    for index in reversed(order):
        spread[index] = min(spread[index], ceiling)
        ceiling = spread[index] - gap
    return spread
