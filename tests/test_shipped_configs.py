"""Every shipped config is without mistakes, and says of itself what is true."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def includes(file: Path) -> list[str]:
    """The files that a file includes, by itself or in a file that it includes."""
    own: list[str] = re.findall(r"^include '(.+)'", file.read_text(), re.MULTILINE)
    return own + [name for include in own for name in includes(GIN / include)]


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


@pytest.mark.parametrize(
    "name", [name for name in EXPERIMENTS if "TORSO_SIZES" in macros(GIN / "experiments" / f"{name}.gin")]
)
def test_can_be_made_small(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", name, "--gin_file=scale/small.gin"]) == 0, capsys.readouterr().err


COMMANDS = [
    shlex.split(line)[2:] for file in FILES for line in header(file) if line.strip().startswith("rulespace run ")
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_commands_of_a_header_check(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    of_check = [word for word in words if not word.startswith("--workdir")]
    assert cli.main(["check", *of_check]) == 0, capsys.readouterr().err


ANNEALED = [
    name for name in EXPERIMENTS if "setups/linear_annealing.gin" in includes(GIN / "experiments" / f"{name}.gin")
]


@pytest.mark.parametrize("name", ANNEALED)
def test_a_learning_rate_that_falls_along_a_line_ends_with_the_run(name: str) -> None:
    """The length of the run and that of the line are two numbers in a file, as gin does not multiply."""
    defined = macros(GIN / "experiments" / f"{name}.gin")
    numbers = ("STEPS", "NUM_ENVIRONMENTS", "TRAJECTORY_LENGTH", "ANNEALING_STEPS")
    updates, environments, length, line = (float(defined[number].split("#")[0]) for number in numbers)
    assert line == pytest.approx(updates * environments * length, rel=2e-3)


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
