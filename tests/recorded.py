"""Run folders as runs leave them, written for tests without running anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VERSIONS = {"python": "3.11.7", "jax": "0.10.2", "rulespace": "0.1.0"}


def write_run(
    folder: Path,
    *words: str,
    returns: Mapping[str, Sequence[float]] | None = None,
    status: str = "finished",
    config: str = "",
    env_steps: int = 1000,
    error: str | None = None,
) -> Path:
    """A run folder.

    Args:
      folder: where it is made.
      words: what came after ``rulespace run``.
      returns: {task: final return of each agent}.
      status: of its result; ``unfinished``: it has none.
      config: text of its ``config.gin``.
      env_steps: of all agents.
      error: of its result.
    """
    folder.mkdir(parents=True)
    start = {
        "arguments": ["run", *words, f"--workdir={folder}"],
        "started": "2026-01-02T03:04:05+00:00",
        "versions": VERSIONS,
        "source": {"commit": "0123456789abcdef", "dirty": False},
        "host": "a host",
        "devices": ["cpu:0 cpu"],
    }
    _write(folder / "command.json", {"config_hash": "0" * 12, "seed": 0, "starts": [start]})
    (folder / "config.gin").write_text(config)
    if status == "unfinished":
        return folder
    finals = {task: list(values) for task, values in (returns or {}).items()}
    curves = {
        task: [[step, step * env_steps // 10, step * sum(values) / len(values) / 10] for step in range(1, 11)]
        for task, values in finals.items()
    }
    result = {
        "status": status,
        "experiment": Path(words[0]).stem,
        "seed": 0,
        "steps": 10,
        "env_steps": env_steps,
        "wall_seconds": 12.5,
        "final_returns": finals if status == "finished" else None,
        "returns": curves,
        "error": error,
    }
    _write(folder / "result.json", result)
    return folder


def write_sweep(folder: Path, units: Mapping[str, Sequence[str]]) -> None:
    """What a launched sweep leaves of its units, {name: arguments}."""
    folder.mkdir(parents=True, exist_ok=True)
    described = [{"name": name, "arguments": list(words)} for name, words in units.items()]
    _write(folder / "sweep.json", {"name": folder.name, "units": described})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
