"""Ends of a process that Python leaves to others: those that a library brings about, and those that wait for nobody."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator


def leave(status: int) -> None:
    """Ends this process now, whatever its threads do."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def leave_after(seconds: float, status: int) -> None:
    """Ends this process after a while, whatever it does until then."""
    timer = threading.Timer(seconds, os._exit, (status,))
    timer.daemon = True
    timer.start()


@contextlib.contextmanager
def before_aborts(function: Callable[[], None]) -> Iterator[None]:
    """Has a function called where a library would end this process by ``abort()``; the process ends when it returns.

    JAX aborts where it misses another process, and has no other way to tell.
    """
    # Python's own handlers run when the signal's has returned, and abort() ends the process there. A handler in C may
    # do anything where abort() itself has raised the signal (C17, 7.14.1.1).
    handler_type = ctypes.CFUNCTYPE(None, ctypes.c_int)
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    handler = handler_type(lambda number: function())
    before = set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        set_handler(signal.SIGABRT, before)
