"""Stopping a run between two steps, with its state saved."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Self


class StopSignals:
    """Turns SIGINT and SIGTERM into a flag that the training loop polls; a second SIGINT stops at once.

    A context manager for the main thread; the handlers from before are back after it.

    Attributes:
      requested: name of the first signal received, such as ``SIGTERM``; ``None`` while there was none.
    """

    requested: str | None = None

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.requested is None:
            # os.write: print may be interrupted in mid-print by this very handler.
            os.write(2, b"\nstopping after this step, with the state saved (Ctrl-C again: at once)\n")
        self.requested = signal.Signals(number).name
