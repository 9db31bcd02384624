"""``rulespace run``: what a run folder holds, how a run goes on, what is refused and in which words."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import SMALL_PPO, intervals, numbers_of, points_of, result_of, rulespace, run

from experiments import cli
from framework import orbax_arrays
from framework.config import load
from framework.experiment import Experiment
from framework.runs.folder import RunFolder
from framework.train import Trainer, with_measurements_reset

STEPS, LONGER = 18, 32  # Neither at a logged point: the last point of a run may be of fewer steps.
PPO = (*SMALL_PPO, *intervals(logging=5, checkpoints=7, evaluation=10))


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that go on with it take a copy."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(*PPO, folder=folder, steps=STEPS) == 0
    return folder


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A longer run of the same experiment, never interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "longer"
    assert run(*PPO, folder=folder, steps=LONGER) == 0
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on stderr."""
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert len(errors.splitlines()) == 1, errors
    return errors


# What a run leaves.


def test_a_step_is_compiled_once() -> None:
    """The state that a step returns is one that its program takes."""
    trainer = Trainer(load("lpg_small", gin_files=["scale/tiny.gin"], root=Experiment).experiment)
    state = trainer.init()
    for _ in range(2):
        state = with_measurements_reset(trainer.steps(state, 1))
    assert trainer.program._cache_size() == 1


def test_run_folder(finished: Path) -> None:
    names = {path.name for path in finished.iterdir() if not path.name.startswith((".", "events.out.tfevents"))}
    assert names == {
        "config.gin", "config.operative.gin", "command.json", "metrics.jsonl", "checkpoints", "learning_curve.png",
        "result.json",
    }  # fmt: skip
    assert list(finished.glob("events.out.tfevents.*"))
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["14", "18", "7"]
    assert (finished / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert not list(finished.rglob("*.saving"))
    command = RunFolder(finished).command()
    assert command is not None
    assert command["config_hash"] == result_of(finished)["config_hash"]
    assert command["seed"] == 0
    assert {"arguments", "started", "versions", "source", "devices"} <= command["starts"][0].keys()


def test_result(finished: Path) -> None:
    result = result_of(finished)
    assert list(result) == [
        "status", "experiment", "config_hash", "seed", "steps", "env_steps", "wall_seconds", "final_return",
        "final_returns", "returns", "state_sha256", "meta_params_sha256", "error",
    ]  # fmt: skip
    assert (result["status"], result["experiment"], result["error"]) == ("finished", "ppo_catch", None)
    assert (result["seed"], result["steps"], result["env_steps"]) == (0, STEPS, STEPS * 4 * 4)
    assert result["wall_seconds"] > 0
    assert -1 <= result["final_return"] <= 1
    assert result["final_returns"] == {"catch_3x3": [result["final_return"]]}
    for name, digits in (("config_hash", 12), ("state_sha256", 64), ("meta_params_sha256", 64)):
        assert re.fullmatch(rf"[0-9a-f]{{{digits}}}", result[name])
    (curve,) = result["returns"].values()
    assert list(result["returns"]) == ["catch_3x3"]
    assert [point[:2] for point in curve] == [[10, 160], [18, 288]]
    assert all(-1 <= point[2] <= 1 for point in curve)


def test_metrics(finished: Path) -> None:
    points = points_of(finished)
    assert [point["step"] for point in points] == [5, 10, 15, 18]
    assert [point["env_steps"] for point in points] == [step * 16 for step in (5, 10, 15, 18)]
    assert points == sorted(points, key=lambda point: point["wall_seconds"])
    for point in points:
        assert list(point)[:3] == ["step", "env_steps", "wall_seconds"]
        assert all(re.fullmatch(r"[a-z]+/\w+", name) for name in list(point)[3:])
        assert all(math.isfinite(value) for value in point.values())
    groups = {name.partition("/")[0] for name in points[0] if "/" in name}
    assert groups == {"completed", "episode", "loss", "policy", "return", "speed", "update"}
    # Episodes of 3 x 3 Catch take two steps.
    assert [point["episode/completed"] for point in points] == [40, 40, 40, 24]
    assert {point["episode/length"] for point in points} == {2.0}
    for point in points:
        assert point["completed/catch_3x3"] == point["episode/completed"]
        assert point["return/catch_3x3"] == point["episode/return"]


def test_learning_curve_is_the_mean_over_episodes(finished: Path) -> None:
    points = points_of(finished)
    (curve,) = result_of(finished)["returns"].values()
    for window, (_, _, value) in zip((points[:2], points[2:]), curve, strict=True):
        episodes = sum(point["episode/completed"] for point in window)
        total = sum(point["episode/completed"] * point["episode/return"] for point in window)
        assert value == pytest.approx(total / episodes)


@pytest.mark.parametrize("name", ["config.gin", "config.operative.gin"])
def test_saved_config_replays(finished: Path, tmp_path: Path, name: str) -> None:
    assert run(str(finished / name), folder=tmp_path / "replay") == 0
    assert (tmp_path / "replay" / "config.operative.gin").read_text() == (finished / "config.operative.gin").read_text()
    before, after = result_of(finished), result_of(tmp_path / "replay")
    for same in ("config_hash", "seed", "steps", "final_return", "returns", "state_sha256", "meta_params_sha256"):
        assert after[same] == before[same]
    assert numbers_of(tmp_path / "replay") == numbers_of(finished)


def test_hash_and_default_folder(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", *PPO, "--gin.STEPS=2", "--gin.SEED=7"]) == 0
    config_hash = result_of(finished)["config_hash"]
    folder = tmp_path / "runs" / "ppo_catch" / f"{config_hash}-s7"
    result = result_of(folder)
    assert (result["config_hash"], result["seed"], result["steps"]) == (config_hash, 7, 2)
    assert f"runs/ppo_catch/{config_hash}-s7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("binding", "same"),
    [
        ("SEED = 5", True),
        ("STEPS = 5", True),
        ("Experiment.logging = @Logging()", True),
        ("CLIP = 0.2", True),
        ("CLIP = 0.25", False),
        ("COLUMNS = 4", False),
        ("NUM_ENVIRONMENTS = 8", False),
    ],
)
def test_what_makes_another_experiment(binding: str, same: bool) -> None:
    plain, changed = (load("ppo_catch", bindings=bindings, root=Experiment) for bindings in ([], [binding]))
    assert (plain.config_hash == changed.config_hash) is same


def test_progress_is_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*PPO, folder=tmp_path / "run", steps=10) == 0
    captured = capsys.readouterr()
    first, *_, before, end, where = captured.out.splitlines()
    number = r"-?[\d.]+(e-\d+)?"
    numbers = rf"return {number}, entropy {number}, [\d,]+ steps/s"
    assert re.fullmatch(rf"ppo_catch: step 5/10, 80 env steps, {numbers}", first)
    assert re.fullmatch(rf"ppo_catch: step 10/10, 160 env steps, {numbers}, 0:00:00 left", before)
    assert re.fullmatch(rf"finished: final return {number} after 10 steps, 160 environment steps", end)
    assert where == f"results in {tmp_path / 'run'}, curve in {tmp_path / 'run' / 'learning_curve.png'}"
    assert captured.err == ""


def test_no_steps_is_a_run_too(tmp_path: Path) -> None:
    assert run(*PPO, folder=tmp_path / "run", steps=0) == 0
    result = result_of(tmp_path / "run")
    assert (result["status"], result["steps"], result["returns"]) == ("finished", 0, {"catch_3x3": []})
    assert (tmp_path / "run" / "learning_curve.png").is_file()


# Going on.


def test_finished_run_is_left_as_it_is(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(finished)
    assert run(*PPO, folder=finished, steps=STEPS) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{finished} is finished: final return ")
    assert line.endswith(f" after {STEPS} steps, {STEPS * 16} environment steps")
    assert contents(finished) == before


def test_run_made_longer_is_the_long_run(copy: Path, longer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*PPO, folder=copy, steps=LONGER) == 0
    assert f"continuing {copy} from step {STEPS}" in capsys.readouterr().out
    ours, theirs = result_of(copy), result_of(longer)
    for same in ("config_hash", "steps", "env_steps", "final_return", "state_sha256"):
        assert ours[same] == theirs[same]
    for (step, env_steps, value), point in zip(
        ours["returns"]["catch_3x3"], theirs["returns"]["catch_3x3"], strict=True
    ):
        assert [step, env_steps, pytest.approx(value)] == point
    wall = [point["wall_seconds"] for point in points_of(copy)]
    assert wall == sorted(wall)
    assert [point["step"] for point in points_of(copy)] == [5, 10, 15, 18, 20, 25, 30, 32]
    command = RunFolder(copy).command()
    assert command is not None
    assert len(command["starts"]) == 2


def test_logging_does_not_change_the_state(longer: Path, tmp_path: Path) -> None:
    seldom = (*SMALL_PPO, *intervals(logging=50, checkpoints=100))
    assert run(*seldom, folder=tmp_path / "run", steps=LONGER) == 0
    assert result_of(tmp_path / "run")["state_sha256"] == result_of(longer)["state_sha256"]


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        (
            "CLIP=0.3",
            "holds another experiment (rule.loss[ClippedSurrogate].epsilon: 0.2 != 0.3): choose another folder",
        ),
        (
            "COLUMNS=4",
            "holds another experiment (groups[Group].suite.columns: 3 != 4): choose another folder with --workdir, or",
        ),
        ("SEED=1", "holds a run with seed 0, not 1: choose another folder with --workdir, or that seed to continue it"),
        (
            "STEPS=10",
            "holds a run of 18 steps, more than the 10 asked for: choose another folder with --workdir, or --gin.STEPS",
        ),
    ],
)
def test_what_cannot_go_on_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str], flag: str, sentence: str
) -> None:
    before = contents(finished)
    assert run(*PPO, f"--gin.STEPS={LONGER}", f"--gin.{flag}", folder=finished) == 1
    assert refusal(capsys).startswith(f"{finished} {sentence}")
    assert contents(finished) == before


def test_unfinished_run_is_not_made_shorter(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "result.json").unlink()
    assert run(*PPO, folder=copy, steps=10) == 1
    assert "holds a run of 18 steps, more than the 10 asked for" in refusal(capsys)


# What is in the way.


def test_folder_in_use(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder(copy).claimed():
        assert run(*PPO, folder=copy, steps=LONGER) == 1
    assert f"{copy} is in use by process {os.getpid()} on " in refusal(capsys)


def test_file_in_the_folders_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(*PPO, folder=tmp_path / "file", steps=2) == 1
    assert "there is a file where a folder should be; move it away or choose another" in refusal(capsys)


def test_foreign_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    assert run(*PPO, folder=tmp_path / "thesis", steps=2) == 1
    assert "holds other files (thesis.tex) and no run; choose an empty or a new folder" in refusal(capsys)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(path: Path, **_: Any) -> None:  # Permissions do not hold the superuser back, as whom tests may run.
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert run(*PPO, folder=tmp_path / "run", steps=2) == 1
    assert refusal(capsys) == (
        f"cannot use {tmp_path / 'run'} as a run folder: it cannot be written to; "
        "choose a folder that can be with --workdir\n"
    )


def test_disk_that_fills_up(
    longer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, write_arrays = tmp_path / "run", orbax_arrays.write_arrays

    def write_the_first(path: Path, arrays: Any, *, shared: bool) -> None:
        if (folder / "checkpoints" / "7").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_arrays(path, arrays, shared=shared)

    with monkeypatch.context() as patch:
        patch.setattr(orbax_arrays, "write_arrays", write_the_first)
        assert run(*PPO, folder=folder, steps=LONGER) == 1
    told = capsys.readouterr()
    assert told.out.endswith(f"{folder} holds the state of step 7; the same command goes on from there\n")
    (sentence,) = told.err.splitlines()
    assert sentence.startswith(f"cannot save {folder / 'checkpoints' / '14'}: the disk is full; free some space and ")
    result = result_of(folder)
    assert (result["status"], result["error"]) == ("failed", sentence)
    assert run(*PPO, folder=folder, steps=LONGER) == 0
    assert f"continuing {folder} from step 7" in capsys.readouterr().out
    assert result_of(folder)["state_sha256"] == result_of(longer)["state_sha256"]
    assert numbers_of(folder) == numbers_of(longer)


def test_disk_that_is_full_to_the_last_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(path: Path, arrays: Any, *, shared: bool) -> None:
        patch.setattr(os, "fsync", refuse)
        refuse(0)

    with monkeypatch.context() as patch:
        patch.setattr(orbax_arrays, "write_arrays", fail)
        assert run(*PPO, folder=tmp_path / "run", steps=10) == 1
    assert ": the disk is full; free some space and run the same command again" in refusal(capsys)
    assert not (tmp_path / "run" / "result.json").exists()


# Mistakes.


def test_mistakes_have_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.gin").write_text(
        "include 'experiments/ppo_catch.gin'\nExperiment.logging = @Logging()\nLogging.interval = 7\n"
    )
    assert run("mine.gin", folder=tmp_path / "run") == 1
    assert refusal(capsys).startswith(
        "mine.gin:3: a point of the learning curve (50 steps) must be whole logged points"
    )
    assert not (tmp_path / "run").exists()


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run"]) == 2
    assert cli.main(["run", "ppo_catch", "--workdri=a"]) == 2
    assert "Traceback" not in capsys.readouterr().err


LYING_SUITE = """
import dataclasses
from components.suites.catch import CatchEnvironment
from framework.registry import component
from framework.specs import EnvironmentSpec

class LyingEnvironment(CatchEnvironment):
    @property
    def spec(self):
        return EnvironmentSpec(observation_shape=(9, 8, 1), num_actions=3)

@component("suites")
@dataclasses.dataclass(frozen=True)
class Lying:
    def tasks(self):
        return ("lying",)

    def environment(self, task):
        return LyingEnvironment(8, 8)

    def level(self, task):
        return ()
"""


def test_environment_that_is_not_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "lying_suite.py").write_text(LYING_SUITE)
    (tmp_path / "mine.gin").write_text(
        "import lying_suite\ninclude 'experiments/ppo_catch.gin'\nGroup.suite = @Lying()\n"
    )
    done = rulespace("run", "mine.gin", "--workdir=run", "--gin.STEPS=2", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "mine.gin: LyingEnvironment.reset shows observations float32[8, 8, 1], its spec says float32[9, 8, 1]: "
        "make the two agree\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_diverged_run_says_so_and_keeps_its_last_sound_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(*PPO, "--gin.LEARNING_RATE=1e30", folder=folder, steps=20) == 1
    assert "the run has diverged: at step" in capsys.readouterr().err
    result = result_of(folder)
    assert result["status"] == "failed"
    assert "diverged" in result["error"]
