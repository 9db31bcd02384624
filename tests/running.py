"""Runs of the command for tests: small ones, in this process or in one of their own, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiments import cli

ROOT = Path(cli.__file__).resolve().parents[1]
SMALL_DISCO = ("disco103_catch", f"--gin_file={ROOT / 'tests' / 'small_disco.gin'}")
SMALL_DISCOVERY = str(ROOT / "tests" / "small_discovery.gin")
SMALL_PPO = (
    "ppo_catch",
    "--gin.ROWS=3",
    "--gin.COLUMNS=3",
    "--gin.TORSO_SIZES=(8,)",
    "--gin.EPOCHS=2",
    "--gin.NUM_ENVIRONMENTS=4",
    "--gin.TRAJECTORY_LENGTH=4",
)


def intervals(*, logging: int, checkpoints: int, evaluation: int = 50, episodes: int = 8) -> tuple[str, ...]:
    """Flags that set how often a run writes, and how many episodes it is evaluated on."""
    return (
        "--gin.Experiment.logging=@Logging()",
        f"--gin.Logging.interval={logging}",
        f"--gin.Logging.checkpoint_interval={checkpoints}",
        "--gin.Experiment.evaluation=@Evaluation()",
        f"--gin.Evaluation.interval={evaluation}",
        f"--gin.Evaluation.episodes={episodes}",
    )


def run(*words: str, folder: Path, steps: int | None = None) -> int:
    """Exit status of ``rulespace run`` in this process."""
    length = () if steps is None else (f"--gin.STEPS={steps}",)
    return cli.main(["run", *words, f"--workdir={folder}", *length])


def command(*words: str) -> list[str]:
    """The command as a process of its own is started."""
    return [sys.executable, "-m", "experiments.cli", *words]


def process_environment() -> dict[str, str]:
    """Environment variables with which a process of its own finds the packages from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def rulespace(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, at its end."""
    return subprocess.run(
        command(*words), capture_output=True, text=True, check=False, cwd=cwd, env=process_environment(), timeout=300
    )


def result_of(folder: Path) -> dict[str, Any]:
    """What ``result.json`` says."""
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def points_of(folder: Path) -> list[dict[str, Any]]:
    """The points of ``metrics.jsonl``."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers_of(folder: Path) -> list[dict[str, Any]]:
    """The points of ``metrics.jsonl`` without what the clock says, which no run repeats."""
    clock = ("wall_seconds", "speed/env_steps_per_second")
    return [{name: value for name, value in point.items() if name not in clock} for point in points_of(folder)]


def started(*words: str, folder: Path | str, **variables: str) -> subprocess.Popen[str]:
    """``rulespace run`` in a process of its own, which may be killed at any moment; at an address, without a folder."""
    # A process that is killed could leave half an entry in the cache that all tests share: it may read, not write.
    environment = {**process_environment(), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9", **variables}
    return subprocess.Popen(
        command("run", *words, f"--workdir={folder}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder.parent if isinstance(folder, Path) else None,
        env=environment,
    )


def wait_for_point(process: subprocess.Popen[str], steps: int) -> None:
    """Returns as soon as a run of that many steps says how far it is."""
    assert process.stdout is not None
    for line in process.stdout:
        if "step " in line and f"/{steps}" in line:
            return
    pytest.fail(f"the run ended before its first point: {process.communicate()[1]}")


def wait_until_it_saves(folder: Path, seconds: float) -> None:
    """Returns as soon as a run is writing a checkpoint, at the latest after some seconds."""
    deadline = time.monotonic() + seconds
    while not list(folder.glob("checkpoints/.saving-*")) and time.monotonic() < deadline:
        time.sleep(0.001)


def kill(process: subprocess.Popen[str]) -> None:
    """Kills a process that has not ended by itself."""
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def assert_same_run(folder: Path, other: Path) -> None:
    """Same state, same result, same points; each step once."""
    ours, theirs = result_of(folder), result_of(other)
    assert ours.pop("wall_seconds") > 0
    assert ours == {name: value for name, value in theirs.items() if name != "wall_seconds"}
    assert numbers_of(folder) == numbers_of(other)
    wall = [point["wall_seconds"] for point in points_of(folder)]
    assert wall == sorted(wall)
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]
