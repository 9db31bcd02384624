"""What ``result.json`` says of a run: how it ended, how far it came, and what it returned meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from framework.config import Loaded
from framework.runs.contract import Ending
from framework.runs.folder import RunFolder
from framework.runs.metrics import read_metrics
from framework.train import Trainer


def outcome(
    folder: RunFolder, loaded: Loaded, trainer: Trainer, *, ending: Ending, error: str | None = None
) -> dict[str, Any]:
    """What ``result.json`` can say from the logged points alone."""
    points = read_metrics(folder.path)
    last = points[-1] if points else {"step": 0, "env_steps": trainer.env_steps(0), "wall_seconds": 0.0}
    return {
        "status": ending,
        "experiment": loaded.name,
        "config_hash": loaded.config_hash,
        "seed": trainer.experiment.seed,
        "steps": last["step"],
        "env_steps": last["env_steps"],
        "wall_seconds": last["wall_seconds"],
        "final_return": None,
        "final_returns": None,
        "returns": {task: windows(points, task, trainer.experiment.evaluation.interval) for task in trainer.tasks},
        "state_sha256": None,
        "meta_params_sha256": None,
        "error": error,
    }


def windows(points: Iterable[Mapping[str, Any]], task: str, interval: int) -> list[list[float | int | None]]:
    """``[step, env_steps, mean episode return]`` of every window of steps; ``None`` where no episode was completed.

    Args:
      points: the logged points, with ``completed/<task>`` and ``return/<task>``.
      task: whose episodes.
      interval: steps of a window; a multiple of the points' interval.
    """
    rows: dict[int, list[Mapping[str, Any]]] = {}
    for point in points:
        rows.setdefault(-(-point["step"] // interval), []).append(point)
    curve: list[list[float | int | None]] = []
    for window in rows.values():
        counts = [point[f"completed/{task}"] for point in window]
        episodes = sum(counts)
        total = sum(n * point[f"return/{task}"] for n, point in zip(counts, window, strict=True) if n)
        curve.append([window[-1]["step"], window[-1]["env_steps"], total / episodes if episodes else None])
    return curve


def summary(result: Mapping[str, Any]) -> str:
    """A finished run in a line: ``final return 1 after 1,000 steps, 64,000 environment steps``."""
    final = result["final_return"]
    text = "no episodes evaluated" if final is None else f"final return {final:.4g}"
    return f"{text} after {result['steps']:,} steps, {result['env_steps']:,} environment steps"
