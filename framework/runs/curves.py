"""Pictures of training returns."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framework.runs.storage import disk_errors, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = Sequence[float | None]
"""Step, environment steps, mean episode return (``None`` or NaN: not known)."""

Line = list[tuple[float, float]]

_INK, _FAINT = "#333333", "#dddddd"
_LABEL_HEIGHT, _MARGINS = 0.17, 1.2  # inches


def draw_learning_curve(path: Path, returns: Mapping[str, Sequence[Point]], *, title: str) -> None:
    """Draws a run's mean episode return over its steps, one line a task, to a PNG.

    Raises:
      RunFolderError: when the disk refuses.
    """
    lines = {task: _known((step, value) for step, _, value in points) for task, points in returns.items()}
    _draw(path, lines, title=title, unit="step")


def draw_comparison(path: Path, runs: Mapping[str, Sequence[Point]], *, title: str) -> None:
    """Draws several runs' mean episode return over environment steps, which mean the same for every rule, to a PNG.

    Raises:
      RunFolderError: when the disk refuses.
    """
    lines = {label: _known((env_steps, value) for _, env_steps, value in points) for label, points in runs.items()}
    _draw(path, lines, title=title, unit="environment steps")


def _draw(path: Path, lines: Mapping[str, Line], *, title: str, unit: str) -> None:
    # The object API: pyplot would keep every figure in a global list and may look for a display.
    from matplotlib.figure import Figure

    drawn = {label: points for label, points in lines.items() if points}
    height = max(3.3, _LABEL_HEIGHT * len(drawn))
    figure = Figure(figsize=(8.0, height + _MARGINS), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    _style(axes, title=title, unit=unit)
    if drawn:
        _draw_lines(axes, drawn, height=height)
    else:
        axes.text(0.5, 0.5, "no episode has ended yet", transform=axes.transAxes, ha="center", color=_INK, fontsize=12)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    with disk_errors(f"write {path}"):
        write_atomically(path, picture.getvalue())


def _known(points: Iterable[tuple[float | None, float | None]]) -> Line:
    return [(x, y) for x, y in points if x is not None and y is not None and math.isfinite(y)]


def _style(axes: Axes, *, title: str, unit: str) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_title(title, loc="left", fontsize=13, color=_INK, pad=12)
    axes.set_xlabel(unit, fontsize=11, color=_INK)
    axes.set_ylabel("mean episode return", fontsize=11, color=_INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10, length=0, colors=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(linewidth=0.6, color="#999999")


def _draw_lines(axes: Axes, lines: Mapping[str, Line], *, height: float) -> None:
    """Draws the lines, each with its name at its end, on axes of a height in inches."""
    colors = _colors(len(lines))
    for (_, points), color in zip(lines.items(), colors, strict=True):
        axes.plot(*zip(*points, strict=True), color=color, linewidth=1.6, marker="o" if len(points) == 1 else None)
    axes.margins(x=0.02)
    # In inches from the axes' foot: names keep a line's distance whatever the scale.
    low, high = axes.get_ylim()
    ends = [(points[-1][1] - low) / (high - low) * height for points in lines.values()]
    for label, color, place in zip(lines, colors, _spread(ends, _LABEL_HEIGHT, height), strict=True):
        axes.annotate(
            label, (1.0, place / height), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points",
            color=color, fontsize=10, va="center", annotation_clip=False,
        )  # fmt: skip


def _colors(count: int) -> list[str]:
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
