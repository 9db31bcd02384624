"""Stopping a run between two steps, with its state saved."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any, Self


class StopSignals:
    """Turns SIGINT and SIGTERM into a flag that the training loop polls; a second SIGINT stops at once.

    A context manager for the main thread; the handlers from before are back after it. Entered again it goes on, and the
    first exit ends it: several hosts, who stop together, take note of signals before the steps begin.

    Attributes:
      requested: name of the first signal received, such as ``SIGTERM``; ``None`` while there was none.
    """

    requested: str | None = None
    _interrupted = False

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if not self._previous:
            self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        if self.requested is None:
            self.requested = signal.Signals(number).name
            # Not print: this may run in the middle of one.
            os.write(2, b"\nstopping after this step, with the state saved (Ctrl-C again: at once)\n")
