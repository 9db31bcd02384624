"""Stopping a run between two steps, with its state saved."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Turns SIGINT and SIGTERM into a flag that the training loop polls; a second SIGINT stops at once.

    Python takes notice of a signal when what it has called returns, and a step may be compiled for minutes: that the
    signal was received is therefore said by a thread of its own.

    A context manager for the main thread; the handlers from before are back after it. Entered again it goes on, and the
    first exit ends it: several hosts, who stop together, take note of signals before the steps begin.

    Attributes:
      requested: name of the first signal received, such as ``SIGTERM``; ``None`` while there was none.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._interrupted = False
        self._closing: contextlib.ExitStack | None = None

    def __enter__(self) -> Self:
        if self._closing is not None:
            return self
        self._closing = contextlib.ExitStack()
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        thread = threading.Thread(target=_tell_of_first, args=(reader,), daemon=True)
        thread.start()
        self._closing.callback(os.close, reader)
        self._closing.callback(thread.join)
        self._closing.callback(os.close, writer)  # Which ends the thread.
        self._closing.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writer, warn_on_full_buffer=False))
        for number in SIGNALS:
            self._closing.callback(signal.signal, number, signal.signal(number, self._note))
        return self

    def __exit__(self, *_: object) -> None:
        if self._closing is not None:
            self._closing.close()
        self._closing = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        if self.requested is None:
            self.requested = signal.Signals(number).name


def _tell_of_first(received: int) -> None:
    """Tells of the first signal that the system writes to a pipe, until the pipe is closed."""
    told = False
    while number := os.read(received, 1):
        if not told and number[0] in SIGNALS:
            # Not print: this may come in the middle of one.
            os.write(2, b"\nstopping after this step, with the state saved (Ctrl-C again: at once)\n")
            told = True
