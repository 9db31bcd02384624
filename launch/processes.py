"""Processes of this machine: ours in a shell of their own, who is who, and who shall not outlive whom."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class ProcessId:
    """A process that no later one is mistaken for, though numbers are used again.

    Attributes:
      pid: its number.
      born: when it began, in the kernel's own count; ``None`` where the kernel does not tell.
      host: its machine.
    """

    pid: int
    born: int | None
    host: str

    @classmethod
    def of(cls, pid: int) -> Self:
        return cls(pid, _born(pid), socket.gethostname())

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, on this machine."""
        return self.host == socket.gethostname()

    def alive(self) -> bool:
        """Whether it still runs; of another machine nothing is known, and it counts as ended."""
        if not self.is_here:
            return False
        if self.born is not None:
            return _born(self.pid) == self.born
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, 0)
            return True
        return False

    def send(self, number: signal.Signals) -> None:
        """Signals it, if it is still there."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def own_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs one of our modules, whatever the working folder holds under the same name."""
    return [sys.executable, "-P", "-m", module, *arguments]


def own_environment() -> dict[str, str]:
    """Environment variables with which `own_command` finds our packages, installed or not."""
    root = str(Path(__file__).resolve().parents[1])
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != root]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *others])}


def dies_with_parent() -> Callable[[], None]:
    """To be called in a new child before anything else: it is sent SIGTERM when its parent ends, however that ends."""
    parent = os.getpid()
    if not sys.platform.startswith("linux"):
        return lambda: None
    library = ctypes.CDLL(None)

    def bind() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # It ended in between.
            os._exit(1)

    return bind


def _born(pid: int) -> int | None:
    """Start of a process in clock ticks since the machine's; ``None`` if it has ended, or nobody can tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])
