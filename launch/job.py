"""Runs one unit of a grid on this machine, and sees to it that it does not outlive its launcher.

``python -m launch.job --launcher=JSON --record=FILE --log=FILE -- COMMAND...``: what COMMAND says goes to the log; who
runs, since when, and how it ended, to the record. When the launcher is gone, or asks by SIGTERM, COMMAND is told to
save its state and stop.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from framework.errors import UserError
from framework.runs.storage import disk_errors, strict_json, write_atomically
from launch.processes import ProcessId, dies_with_parent, own_environment

GRACE_SECONDS = 120.0  # To finish a step and save the state.
_LOOK_SECONDS = 0.2


def main(words: Sequence[str] | None = None) -> int:
    """Exit status of the command; 128 + N where signal N ended it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--launcher", required=True)
    parser.add_argument("--record", required=True, type=Path)
    parser.add_argument("--log", required=True, type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(words)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    launcher = ProcessId(**json.loads(options.launcher))
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, frame: asked.append(received))
    record = {"process": ProcessId.of(os.getpid()).as_json(), "started": _now(), "ended": None, "exit_status": None}
    _write(options.record, record)
    with disk_errors(f"write to {options.log}", "--dir"), options.log.open("ab") as log:
        log.write(f"--- {_now()}: {shlex.join(command)}\n".encode())
        log.flush()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=own_environment(),
            preexec_fn=dies_with_parent(),
        )
        status = _wait(child, lambda: bool(asked) or not launcher.alive())
    _write(options.record, {**record, "ended": _now(), "exit_status": status})
    return status if status >= 0 else 128 - status


def _wait(child: subprocess.Popen[bytes], stopping: Callable[[], bool]) -> int:
    """Exit status of the child, negative if a signal ended it; once ``stopping`` says so it is told to stop."""
    deadline = None
    while (status := child.poll()) is None:
        if deadline is None and stopping():
            child.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            child.kill()
        time.sleep(_LOOK_SECONDS)
    return status


def _write(path: Path, record: dict[str, Any]) -> None:
    with disk_errors(f"note in {path} how the unit goes", "--dir"):
        write_atomically(path, strict_json(record, indent=2).encode())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:  # Said to the launcher's terminal, as there is no record that could hold it.
        sys.exit(str(error))
