"""Whatever ends a run early, started again it ends as if nothing had happened: the same state, the same points."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from running import (
    SMALL_DISCO,
    assert_same_run,
    intervals,
    kill,
    result_of,
    run,
    started,
    wait_for_point,
    wait_until_it_saves,
)

STEPS = 600
DISCO = (*SMALL_DISCO, *intervals(logging=10, checkpoints=20), f"--gin.STEPS={STEPS}")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert run(*DISCO, folder=folder) == 0
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signal_saves_the_state(uninterrupted: Path, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    process = started(*DISCO, folder=folder)
    wait_for_point(process, STEPS)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping after this step, with the state saved" in errors
    assert "Traceback" not in errors
    result = result_of(folder)
    step = result["steps"]
    assert (result["status"], result["final_return"], result["error"]) == ("interrupted", None, None)
    assert f"stopped at step {step}, state saved in {folder}; the same command continues it" in printed
    assert 10 <= step < STEPS
    assert (folder / "checkpoints" / str(step)).is_dir()
    assert (folder / "learning_curve.png").is_file()
    assert run(*DISCO, folder=folder) == 0
    assert_same_run(folder, uninterrupted)


def test_kill_loses_nothing_but_time(uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    process = started(*DISCO, folder=folder)
    wait_for_point(process, STEPS)
    assert run(*DISCO, folder=folder) == 1
    assert f"{folder} is in use by process {process.pid} on " in capsys.readouterr().err
    time.sleep(random.Random(0).uniform(0.0, 0.5))
    kill(process)
    assert not (folder / "result.json").exists()
    assert run(*DISCO, folder=folder) == 0
    assert_same_run(folder, uninterrupted)


def flip_a_byte(checkpoint: Path) -> None:
    largest = max(checkpoint.rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def lose_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [flip_a_byte, lose_the_manifest])
def test_damaged_checkpoint_is_passed_over(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    (folder / "result.json").unlink()
    damage(folder / "checkpoints" / str(STEPS))
    assert run(*DISCO, folder=folder) == 0
    captured = capsys.readouterr()
    assert f"continuing {folder} from step {STEPS - 20}" in captured.out
    (line,) = captured.err.splitlines()
    assert line.startswith(f"checkpoints/{STEPS} is damaged (")
    assert line.endswith(f"using checkpoints/{STEPS - 20}")
    assert_same_run(folder, uninterrupted)


def test_only_damaged_checkpoints_are_an_error(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    (folder / "result.json").unlink()
    for checkpoint in (folder / "checkpoints").iterdir():
        flip_a_byte(checkpoint)
    assert run(*DISCO, folder=folder) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"every checkpoint in {folder / 'checkpoints'} is damaged (")
    assert result_of(folder)["status"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_five_kills(uninterrupted: Path, tmp_path: Path, seed: int) -> None:
    """Killed at random while it starts, compiles (nothing is cached for it), trains and saves a checkpoint."""
    folder, dice = tmp_path / "run", random.Random(seed)
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def while_starting(process: subprocess.Popen[str]) -> None:
        time.sleep(dice.uniform(0.0, 3.0))

    def while_compiling(process: subprocess.Popen[str]) -> None:
        time.sleep(dice.uniform(3.0, 15.0))

    def while_training(process: subprocess.Popen[str]) -> None:
        wait_for_point(process, STEPS)
        time.sleep(dice.uniform(0.0, 0.3))

    def while_saving(process: subprocess.Popen[str]) -> None:
        wait_until_it_saves(folder, 120)
        time.sleep(dice.uniform(0.0, 0.03))

    for moment in (while_starting, while_compiling, while_saving, while_training, while_saving):
        process = started(*DISCO, folder=folder, **cache)
        moment(process)
        kill(process)
    process = started(*DISCO, folder=folder, **cache)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert_same_run(folder, uninterrupted)
