"""Progress of a run: a bar in a terminal, now and then a plain line elsewhere, with the same figures."""

from __future__ import annotations

import dataclasses
import datetime
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol, Self, TextIO


@dataclasses.dataclass(frozen=True)
class Figures:
    """What is shown of a run; ``None`` is not known yet."""

    step: int
    total: int
    env_steps: int | None = None
    episode_return: float | None = None
    policy_entropy: float | None = None
    meta_gradient_norm: float | None = None
    env_steps_per_second: float | None = None
    seconds_left: float | None = None

    def texts(self, width: int | None = None) -> list[str]:
        """The figures known, each with its unit.

        Args:
          width: characters that there are for them with two between any two; the least important are left out.
        """
        known = {
            "step": f"step {self.step:,}/{self.total:,}",
            "env_steps": _text(self.env_steps, "{:,} env steps"),
            "return": _text(self.episode_return, "return {:.4g}"),
            "entropy": _text(self.policy_entropy, "entropy {:.2g}"),
            "meta_gradient": _text(self.meta_gradient_norm, "meta-gradient {:.2g}"),
            "speed": _text(self.env_steps_per_second, "{:,.0f} steps/s"),
            "left": _text(self.seconds_left, "{} left", lambda x: datetime.timedelta(seconds=round(x))),
        }
        texts = {name: text for name, text in known.items() if text is not None}
        for name in _LEAST_IMPORTANT_FIRST:
            if width is None or len("  ".join(texts.values())) <= width:
                break
            texts.pop(name, None)
        return list(texts.values())


_LEAST_IMPORTANT_FIRST = ("meta_gradient", "entropy", "env_steps", "speed", "return", "left")


def _text(value: float | None, form: str, shown: Callable[[float], object] = lambda x: x) -> str | None:
    return None if value is None else form.format(shown(value))


class _Display(Protocol):
    interval: float

    def show(self, figures: Figures) -> None: ...

    def close(self) -> None: ...


class Progress:
    """Shows how far a run is, from `update`; a context manager.

    Args:
      total: steps of the run.
      description: what is running.
      initial: step the run continues from.
      stream: where to; standard output by default.
      clock: seconds, from any origin.
    """

    def __init__(
        self,
        total: int,
        *,
        description: str,
        initial: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        stream = sys.stdout if stream is None else stream
        in_terminal = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self._display: _Display = _Bar(description, total, stream) if in_terminal else _Lines(description, stream)
        self._figures = self._shown = Figures(initial, total)
        self._clock = clock
        self._next_show = clock()
        self._first: tuple[int, float] | None = None

    def update(
        self,
        step: int,
        *,
        env_steps: int | None = None,
        episode_return: float | None = None,
        policy_entropy: float | None = None,
        meta_gradient_norm: float | None = None,
        env_steps_per_second: float | None = None,
    ) -> None:
        """Notes the step reached, and shows it if it is time to; a figure left out keeps its last value."""
        now = self._clock()
        # Counted from the first update on: what came before was compilation.
        self._first = self._first or (step, now)
        last = self._figures
        self._figures = Figures(
            step=step,
            total=last.total,
            env_steps=last.env_steps if env_steps is None else env_steps,
            episode_return=last.episode_return if episode_return is None else episode_return,
            policy_entropy=last.policy_entropy if policy_entropy is None else policy_entropy,
            meta_gradient_norm=last.meta_gradient_norm if meta_gradient_norm is None else meta_gradient_norm,
            env_steps_per_second=last.env_steps_per_second if env_steps_per_second is None else env_steps_per_second,
            seconds_left=self._seconds_left(step, now),
        )
        if now >= self._next_show:
            self._show()
            self._next_show = now + self._display.interval

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown != self._figures:
            self._show()
        self._display.close()

    def _show(self) -> None:
        self._display.show(self._figures)
        self._shown = self._figures

    def _seconds_left(self, step: int, now: float) -> float | None:
        assert self._first is not None
        first_step, first_time = self._first
        if step <= first_step:
            return None
        return (self._figures.total - step) * (now - first_time) / (step - first_step)


class _Lines:
    interval = 10.0

    def __init__(self, description: str, stream: TextIO) -> None:
        self._description = description
        self._stream = stream

    def show(self, figures: Figures) -> None:
        print(f"{self._description}: {', '.join(figures.texts())}", file=self._stream, flush=True)

    def close(self) -> None:
        pass


class _Bar:
    interval = 0.2
    width = 20

    def __init__(self, description: str, total: int, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=self.width), TextColumn("{task.fields[figures]}")
        )  # fmt: skip
        self._console = Console(file=stream)
        # Refreshed by hand: rich's own thread would wake up in the middle of every step.
        self._bar = RichProgress(*columns, console=self._console, auto_refresh=False)
        self._task = self._bar.add_task(description, total=total, figures="")
        self._taken = len(description) + self.width + 2  # With a blank between any two columns.
        self._bar.start()

    def show(self, figures: Figures) -> None:
        texts = figures.texts(self._console.width - self._taken)
        self._bar.update(self._task, completed=figures.step, figures="  ".join(texts), refresh=True)

    def close(self) -> None:
        self._bar.stop()
