"""The metrics of a run: ``metrics.jsonl``, one strict JSON object a logged point, and TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from framework.runs.contract import METRICS
from framework.runs.storage import disk_errors, strict_json, write_atomically

_FIXED = ("step", "env_steps", "wall_seconds")


class Writer(Protocol):
    """Takes the points of a run."""

    wall_seconds_before: float

    def write(self, step: int, env_steps: int, wall_seconds: float, metrics: Mapping[str, float]) -> None:
        """Appends a point."""


class WrittenElsewhere:
    """Lets the points of a run go: another process writes them."""

    wall_seconds_before = 0.0

    def write(self, step: int, env_steps: int, wall_seconds: float, metrics: Mapping[str, float]) -> None:
        pass


class MetricsWriter:
    """Appends the points of a run; every point is with the operating system when `write` returns.

    Args:
      folder: the run's folder.
      resume_step: step of the checkpoint the run continues from: later points are dropped, they come again.
        ``None`` drops all.
      after_point: called after every point.

    Attributes:
      wall_seconds_before: duration of the run up to the last point kept; for the caller to continue from.

    Raises:
      RunFolderError: when the disk refuses.
    """

    def __init__(
        self, folder: Path, *, resume_step: int | None, after_point: Callable[[], None] = lambda: None
    ) -> None:
        path = folder / METRICS
        last_step = -1 if resume_step is None else resume_step
        kept = [point for point in read_metrics(folder) if point["step"] <= last_step]
        self.wall_seconds_before: float = kept[-1]["wall_seconds"] if kept else 0.0
        self._last_step: int = kept[-1]["step"] if kept else -1
        self._folder = folder
        self._after_point = after_point
        with disk_errors(f"write {path}"), contextlib.ExitStack() as opened:
            write_atomically(path, "".join(strict_json(point) + "\n" for point in kept).encode())
            self._lines = opened.enter_context(path.open("a"))
            self._events = opened.enter_context(contextlib.closing(_Events(folder, first_step=last_step + 1)))
            self._opened = opened.pop_all()

    def write(self, step: int, env_steps: int, wall_seconds: float, metrics: Mapping[str, float]) -> None:
        """Appends a point.

        Args:
          step: later than every earlier point's.
          env_steps: agent steps so far.
          wall_seconds: duration of the run so far, earlier starts included.
          metrics: {group/name: number}; numbers that are not finite become null.
        """
        if step <= self._last_step:
            raise ValueError(f"step {step} comes after step {self._last_step}: a step has one point")
        if clash := metrics.keys() & set(_FIXED):
            raise ValueError(f"metrics may not be named {', '.join(sorted(clash))}: every point has these already")
        numbers = {name: float(value) for name, value in metrics.items()}
        point = {"step": int(step), "env_steps": int(env_steps), "wall_seconds": float(wall_seconds), **numbers}
        with disk_errors(f"write {self._folder / METRICS}"):
            self._lines.write(strict_json(point) + "\n")
            self._lines.flush()
            self._events.write(step, numbers)
        self._last_step = step
        self._after_point()

    def close(self) -> None:
        """Closes the files."""
        with disk_errors(f"write {self._folder / METRICS}"):
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The points of a run, oldest first; a line that a kill tore is left out, no file is no points."""
    path = folder / METRICS
    with disk_errors(f"read {path}"):
        lines = path.read_bytes().splitlines() if path.is_file() else []
    return [point for line in lines if (point := _parse(line)) is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        point = json.loads(line)
    except ValueError:
        return None
    return point if isinstance(point, dict) and all(name in point for name in _FIXED) else None


class _Events:
    """TensorBoard events, written at once: tensorboardX's own writer does it later, in a thread that cannot fail."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        # File names carry the second of their birth; the process tells apart two of the same second.
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{os.getpid()}.{time.monotonic_ns()}")
        # Has TensorBoard forget what earlier starts logged from this step on (its purge_step).
        self._append(step=first_step, session_log=SessionLog(status=SessionLog.START))
        self._writer.flush()

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        self._append(step=step, summary=Summary(value=values))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _append(self, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), **content))
