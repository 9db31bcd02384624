"""Learning curves as SVG, readable without scripts, with the points beside it for those who let scripts run."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.reporting.summary import Points, mean_of

WIDTH, HEIGHT = 680, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 42
COLORS = 8
"""Colours of the page, as classes c0, c1, ...; more lines begin again."""


class Range(NamedTuple):
    """The values along an axis, and where its ticks are."""

    low: float
    high: float
    ticks: tuple[float, ...]


def chart(task: str, series: Mapping[int, Sequence[Points]]) -> str:
    """One task's curves: each run thin, the mean of several runs thick.

    Args:
      task: the chart's title.
      series: {number of an experiment: the curves of its runs}.
    """
    points = [point for curves in series.values() for curve in curves for point in curve]
    x, y = axis(min(0.0, *(x for x, _ in points)), max(x for x, _ in points)), axis(*_bounds([y for _, y in points]))
    lines = "".join(_lines(number, curves, x, y) for number, curves in series.items())
    title = html.escape(task)
    data = {
        "x": [x.low, x.high],
        "y": [y.low, y.high],
        "series": [{"experiment": number, "points": shown_curve(curves)} for number, curves in series.items()],
    }
    return (
        f'<figure class="chart" data-box="{_LEFT},{WIDTH - _RIGHT}">'
        f"<figcaption>{title}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Mean episode return on {title}">'
        f"{_grid(x, y)}{lines}"
        f'<line class="rule" style="display: none" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/></svg>'
        f'<script type="application/json">{script_json(data)}</script></figure>'
    )


def shown_curve(curves: Sequence[Points]) -> Points:
    """What a reader who points at an experiment's lines is told: the mean of its runs.

    Of one run, or of runs that have no steps in common, all points.
    """
    return mean_of(curves) or sorted(point for curve in curves for point in curve)


def script_json(value: object) -> str:
    """JSON that ends no script element, whatever its strings hold."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def axis(low: float, high: float) -> Range:
    """A range of an axis that ends at ticks, which are 1, 2 or 5 times a power of ten apart."""
    if high <= low:
        low, high = low - 0.5, low + 0.5
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(index * step for index in range(first, last + 1))
    return Range(ticks[0], ticks[-1], ticks)


def engineering(value: float) -> str:
    """A number for an axis, with k and M for thousands and millions."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{sign}"
    return f"{value:.4g}"


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _place(x: Range, y: Range, point: tuple[float, float]) -> str:
    across = _LEFT + (point[0] - x.low) / (x.high - x.low) * (WIDTH - _LEFT - _RIGHT)
    down = HEIGHT - _BOTTOM - (point[1] - y.low) / (y.high - y.low) * (HEIGHT - _TOP - _BOTTOM)
    return f"{across:.1f},{down:.1f}"


def _grid(x: Range, y: Range) -> str:
    parts = []
    for tick in y.ticks:
        _, down = _place(x, y, (x.low, tick)).split(",")
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 8}" y="{down}">{engineering(tick)}</text>')
    for tick in x.ticks:
        across, _ = _place(x, y, (tick, y.low)).split(",")
        parts.append(f'<text class="x" x="{across}" y="{HEIGHT - _BOTTOM + 18}">{engineering(tick)}</text>')
    middle = (WIDTH + _LEFT - _RIGHT) / 2
    parts.append(f'<text class="x unit" x="{middle:.0f}" y="{HEIGHT - 6}">environment steps of all agents</text>')
    return "".join(parts)


def _lines(number: int, curves: Sequence[Points], x: Range, y: Range) -> str:
    average = mean_of(curves)
    thin = [_line("run" if average else "mean", curve, x, y) for curve in curves]
    thick = [_line("mean", average, x, y)] if average else []
    return f'<g class="c{number % COLORS}" data-experiment="{number}">{"".join((*thin, *thick))}</g>'


def _line(kind: str, curve: Points, x: Range, y: Range) -> str:
    if len(curve) == 1:
        across, down = _place(x, y, curve[0]).split(",")
        return f'<circle class="{kind}" cx="{across}" cy="{down}" r="3"/>'
    return f'<polyline class="{kind}" points="{" ".join(_place(x, y, point) for point in curve)}"/>'
