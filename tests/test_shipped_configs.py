"""Every shipped config is without mistakes, runs, and says of itself what is true."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import points_of, result_of, run

from experiments import cli
from framework.config import load, shipped_gin_folder
from framework.experiment import Experiment

GIN = shipped_gin_folder()
FILES = sorted(GIN.rglob("*.gin"))
EXPERIMENTS = [path.stem for path in FILES if path.parent.name == "experiments"]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path


def macros(file: Path) -> dict[str, str]:
    """{name: value} of the macros that a file and those it includes define."""
    text = file.read_text()
    included = re.findall(r"^include '(.+)'", text, re.MULTILINE)
    defined = {name: value for include in included for name, value in macros(GIN / include).items()}
    return defined | own_macros(file)


def own_macros(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([A-Z][A-Z0-9_]*) = ?(.*)", file.read_text(), re.MULTILINE))


def header(file: Path) -> list[str]:
    """The lines of the comment that a file begins with."""
    lines = file.read_text().splitlines()
    return [line.removeprefix("#") for line in lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")]]


def listed(file: Path, title: str) -> set[str]:
    """The macros that a header lists under a title: in the same line, or in the first column of those below it."""
    lines = header(file)
    start = next((index for index, line in enumerate(lines) if line.strip().startswith(title)), None)
    if start is None:
        return set()
    column = [lines[start].split(":", 1)[1]]
    for line in lines[start + 1 :]:
        if not line.startswith("   "):
            break
        column.append(re.split(r" {2,}", line.strip())[0])
    return set(re.findall(r"[A-Z][A-Z0-9_]+", " ".join(column)))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_runs(tmp_path: Path, name: str) -> None:
    """Two steps, or meta-steps, in small; what is described and checked in full is in other tests."""
    tiny = "--gin_file=scale/tiny.gin"
    assert run(name, tiny, folder=tmp_path / "run") == 0
    experiment = load(name, gin_files=["scale/tiny.gin"], root=Experiment).experiment
    discovery = experiment.discovery
    # A table of zeros moves with the first reward where nothing else moves it, and in two steps there may be none.
    sure_to_move = name not in ("a2c_gridworlds", "a2c_small", "ppo_small")
    result = result_of(tmp_path / "run")
    assert (result["status"], result["experiment"], result["steps"]) == ("finished", name, 2)
    assert math.isfinite(result["final_return"])
    points = points_of(tmp_path / "run")
    assert [point["step"] for point in points] == [1, 2]
    for point in points:
        # Within an update it may be that no episode ends, and in a quarter of a life that nobody is in it.
        missing = {metric.partition("/")[0] for metric, value in point.items() if value is None}
        assert missing <= {"episode", "return", "return_by_age"}
        assert all(point[name] > 0 for name in ("update/gradient_norm", "update/change_norm")) or not sure_to_move
        assert ("meta/loss" in point) is (discovery is not None)
        if discovery is not None:
            assert point["meta/gradient_norm"] > 0
            assert point["meta/change_norm"] > 0
            assert point["meta/replay_error"] < discovery.max_replay_error
            assert point["agents/lost"] == 0


@pytest.mark.parametrize(
    "name", [name for name in EXPERIMENTS if "TORSO_SIZES" in macros(GIN / "experiments" / f"{name}.gin")]
)
def test_can_be_made_small(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", name, "--gin_file=scale/small.gin"]) == 0, capsys.readouterr().err


def test_are_all_different_experiments() -> None:
    hashes = {name: load(name, root=Experiment).config_hash for name in EXPERIMENTS}
    assert len(set(hashes.values())) == len(hashes)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(GIN)))
def test_header_is_true(file: Path) -> None:
    first, *_ = header(file)
    assert first.strip(), "a gin file begins with a sentence on what it is"
    assert listed(file, "Commonly overridden") <= macros(file).keys()
    # What an experiment leaves open is for its user to set; what it has set is required no more.
    required = {name for name, value in own_macros(file).items() if value == "%gin.REQUIRED"}
    assert listed(file, "Required") == required


def test_headers_are_read() -> None:
    assert listed(GIN / "rules" / "disco.gin", "Commonly overridden") == {
        "Y_FEATURES", "Z_FEATURES", "BOOTSTRAP", "CORE", "LIFETIME_CORE", "TRAJECTORY_LSTM_SIZE", "DISCOUNT", "LAMBDA"
    }  # fmt: skip
    assert listed(GIN / "agents" / "mlp.gin", "Required") == {"LEARNING_RATE"}
