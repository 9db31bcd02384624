"""Sweeps: what their files say, which units they have, and that values reach the runs as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import awkward
import gin
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.cli import main, rewrite_bindings
from framework.config import load
from framework.experiment import Experiment
from framework.gin_files.mistakes import ConfigError
from launch.sweep import Sweep, SweepError, dns_label, rendered
from launch.sweep_file import read_sweep

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = sorted(path.stem for path in (ROOT / "gin" / "sweeps").glob("*.gin"))


def test_every_combination_is_a_unit_in_the_order_of_the_axes() -> None:
    sweep = Sweep("s", ["ppo_catch", "a2c_catch"], product={"A": [1, 2]}, zip={"B": [3, 4], "C": [5, 6]}, seeds=2)
    units = sweep.units()
    assert len(units) == 2 * 2 * 2 * 2
    assert units[0].arguments == ("ppo_catch", "--gin.A=1", "--gin.B=3", "--gin.C=5", "--gin.SEED=0")
    assert units[1].settings["SEED"] == 1
    assert {(unit.settings["B"], unit.settings["C"]) for unit in units} == {(3, 5), (4, 6)}
    assert len({unit.name for unit in units}) == len(units)


def test_filters_leave_units_out() -> None:
    sweep = Sweep("s", ["p", "q"], product={"A": [1, 2]}, exclude=[{"experiment": "q", "A": 2}])
    assert [(unit.settings["experiment"], unit.settings["A"]) for unit in sweep.units()] == [
        ("p", 1),
        ("p", 2),
        ("q", 1),
    ]
    assert [unit.settings["A"] for unit in Sweep("s", ["p"], product={"A": [1, 2]}, only=[{"A": 2}]).units()] == [2]


def test_units_of_other_grids_are_where_a_place_has_them() -> None:
    sweep = Sweep(
        "s", ["p"], zip={"A": [1, 2], "RUN": ["runs/d/x", "runs/d/y"]}, bindings={"B": "runs/d/x"}, runs=["RUN"]
    )
    moved = sweep.beside(lambda folder: folder.replace("runs/", "gs://bucket/"))
    assert moved.zip == {"A": [1, 2], "RUN": ["gs://bucket/d/x", "gs://bucket/d/y"]}
    assert moved.bindings == {"B": "runs/d/x"}
    assert [unit.name for unit in moved.units()] == [unit.name for unit in sweep.units()]
    with pytest.raises(SweepError, match=r"no axis and no binding 'RUM'\. Did you mean 'RUN'"):
        Sweep("s", ["p"], bindings={"RUN": "runs/d/x"}, runs=["RUM"]).beside(str)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("scale", ["", "small"])
def test_shipped_sweeps_name_what_is_a_run_folder(name: str, scale: str) -> None:
    """Else their units would look for it on a machine that does not have it."""
    try:
        sweep = read_sweep(name, scale=scale).sweep
    except ConfigError:  # There is no small version.
        assert scale
        return
    for unit in sweep.beside(lambda folder: folder.replace("runs/", "gs://bucket/")).units():
        assert not [word for word in unit.arguments if "runs/" in word]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (Sweep("s", ["p"], zip={"A": [1], "B": [1, 2]}), "must be of one length: A has 1, B has 2"),
        (Sweep("s", ["p"], product={"A": [1]}, bindings={"A": 2}), "sets A twice"),
        (Sweep("s", ["p"], product={"STEPS": [1]}, exclude=[{"STEP": 1}]), "no axis 'STEP'. Did you mean 'STEPS'"),
        (Sweep("s", ["p"], product={"A": [1]}, exclude=[{"A": 2}]), "no unit has A = 2"),
        (Sweep("s", ["p"], product={"A": []}), "has no units: its axis A has no values"),
        (Sweep("s", ["p"], seeds=[]), "has no units: its axis SEED has no values"),
        (Sweep("s", ["p"], product={"A": [1]}, exclude=[{"A": 1}]), "filters leave all of them out"),
        (Sweep("s", ["p"], seeds=[0, 0]), "has the same unit twice"),
    ],
)
def test_mistakes_are_told(sweep: Sweep, message: str) -> None:
    with pytest.raises(SweepError) as caught:
        sweep.units()
    assert message in str(caught.value)


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False) | TEXTS,
    lambda parts: st.lists(parts, max_size=3) | st.tuples(parts, parts) | st.dictionaries(TEXTS, parts, max_size=2),
    max_leaves=5,
)


def bound(value: Any) -> Any:
    """What a run binds for a value of a sweep."""
    [unit] = Sweep("s", ["p"], bindings={"X": value}).units()
    [flag] = rewrite_bindings(unit.arguments[1:])
    with gin.unlock_config():
        gin.parse_config(flag.removeprefix("--gin_bindings="))
        return gin.query_parameter("X/macro.value")


@given(LITERALS.filter(lambda value: not (isinstance(value, str) and value[:1] in ("@", "%"))))
def test_values_reach_gin_as_they_are(value: Any) -> None:
    assert bound(value) == value


@pytest.mark.parametrize("value", awkward.VALUES, ids=repr)
def test_awkward_values_reach_gin_as_they_are(value: Any) -> None:
    assert bound(value) == value


def test_references_are_not_texts() -> None:
    assert [rendered(value) for value in ("@Adam()", "%STEPS", "pong", "@", None, [1, "a b"])] == [
        "@Adam()", "%STEPS", "'pong'", "'@'", "None", "[1, 'a b']",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["PPO catch/LR=1e-3", "ppo" * 40, "-", "0", "Äpfel"])
def test_names_are_dns_labels(text: str) -> None:
    label = dns_label(text, 48)
    assert len(label) <= 48
    assert label == label.lower()
    assert label[0].isalpha()
    assert all((letter.isalnum() and letter.isascii()) or letter == "-" for letter in label)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sweeps_have_units_whose_configs_are_right(name: str) -> None:
    """Of each experiment and set of files one unit, at both scales where there are two; rules of other runs aside."""
    seen: set[tuple[str, ...]] = set()
    scales = ("", "small") if "Sweep.small" in (ROOT / "gin" / "sweeps" / f"{name}.gin").read_text() else ("",)
    for scale in scales:
        for unit in read_sweep(name, scale=scale).sweep.units():
            files = tuple(word for word in unit.arguments if not word.startswith("--gin."))
            if files in seen or any("RUN" in word for word in unit.arguments):
                continue
            seen.add(files)
            bindings = [
                word.removeprefix("--gin.").replace("=", " = ", 1) for word in unit.arguments[1:] if word not in files
            ]
            gin_files = [word.removeprefix("--gin_file=") for word in files[1:]]
            load(unit.arguments[0], gin_files=gin_files, bindings=bindings, root=Experiment)
    assert seen or name.startswith("table_")


def test_small_scale_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "s.gin"
    file.write_text(
        "Sweep.experiments = 'a'\nSweep.seeds = 5\nSweep.small = ['scale/tiny.gin']\nSweep.small_seeds = 1\n"
    )
    [unit] = read_sweep(str(file), scale="small", bindings=["STEPS = 3"]).sweep.units()
    assert unit.arguments == ("a", "--gin_file=scale/tiny.gin", "--gin.STEPS=3", "--gin.SEED=0")
    assert len(read_sweep(str(file), bindings=["Sweep.seeds = 2"]).sweep.units()) == 2


def test_units_whose_names_would_be_the_same_folder_are_told_apart() -> None:
    experiments = ["my_x.gin", "my-x.gin", "a/My_X.gin", "../logs.gin", "a" * 60 + "b", "a" * 60 + "c"]
    names = [unit.name for unit in Sweep("s", experiments, product={"A": [0.12345678, 0.12345679]}).units()]
    assert len(set(names)) == 12
    assert all(dns_label(name, 48) == name for name in names)
    [unit] = Sweep("s", ["logs.gin"]).units()
    assert unit.name != "logs"  # Where a grid keeps its logs.


def test_units_stay_what_they_are_when_a_sweep_grows() -> None:
    [unit] = Sweep("s", ["p"], product={"A": [1]}, seeds=1).units()
    assert unit in Sweep("s", ["p", "q"], product={"A": [1, 2]}, seeds=2).units()


def test_thousands_of_units_are_named_at_once() -> None:
    sweep = Sweep("s", ["p"], product={"A": [1 + number * 1e-9 for number in range(100)]}, seeds=100)
    assert len({unit.name for unit in sweep.units()}) == 10_000


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"include 's.gin'\nSweep.experiments = 'p'", "s.gin:1: 's.gin' includes itself"),
        (b"Sweep.experiments = '\xff'", "s.gin: 's.gin' is not a text in UTF-8"),
        (b"A = %A\nSweep.experiments = %A", "s.gin:1: A stands for itself"),
        (
            b"Sweep.experiments = 'p'\nSTEPS = 3",
            "s.gin:2: nothing of the sweep uses STEPS; to set it in every unit: Sw",
        ),
        (b"Sweep.experiments = 'p'\nSweep.experiments = 'q'", "s.gin:2: Sweep.experiments is set in line 1 already"),
        (b"Sweep.experiments = 'p'\nSweep.seeds = [3, -1]", "s.gin:2: Sweep.seeds must be how many seeds, or a list"),
        (b"include 'experiments/ppo_catch.gin'", "s.gin: an experiment, and no sweep: rulespace run s.gin runs it"),
        (b"", "s.gin: Sweep.experiments is missing: it lists the configs to run"),
    ],
)
def test_mistakes_of_files_are_told(text: bytes, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.gin").write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        read_sweep("s.gin")
    assert str(caught.value).startswith(told)
    assert len(caught.value.mistakes) == 1


def test_an_experiment_is_no_sweep() -> None:
    with pytest.raises(ConfigError, match="an experiment, and no sweep: rulespace run ppo_catch runs it"):
        read_sweep("ppo_catch")


def test_all_mistakes_of_a_sweep_file_are_told_with_their_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.gin").write_text("Sweep.experiments = ['ppo_catch']\nSweep.prodct = {'A': [1]}\nSweep.sede = 2\n")
    assert main(["launch", str(tmp_path / "s.gin"), f"--dir={tmp_path / 'd'}"]) == 1
    told = capsys.readouterr().err
    assert "s.gin:2" in told
    assert "Did you mean 'product'" in told
    assert "s.gin:3" in told


def test_wrong_configs_are_told_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each mistake once, whatever the values of an axis; a seed that is none is one."""
    product = {"STPES": [1, 2], "SEED": [0, 1, "x"]}
    (tmp_path / "s.gin").write_text(f"Sweep.experiments = ['ppo_catch']\nSweep.product = {product}\n")
    assert main(["launch", str(tmp_path / "s.gin"), f"--dir={tmp_path / 'd'}"]) == 1
    assert sorted(capsys.readouterr().err.splitlines(), reverse=True) == [
        "command line: --gin.STPES=1: macro 'STPES' is never used. Did you mean 'STEPS'? (every unit)",
        "command line: --gin.SEED='x': Experiment.seed wants int, got str 'x' (ppo-catch-stpes-1-sx and 1 more)",
    ]
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("verb", ["launch", "status", "stop", "table"])
def test_verbs_start_without_jax_and_google(verb: str) -> None:
    code = (
        f"import sys; from experiments import cli; cli.main([{verb!r}, '--help'])\n"
        "google = ('google.cloud.storage', 'google.cloud.aiplatform')\n"
        "heavy = ('jax', 'flax', 'tensorflow', *google, 'kubernetes', 'xmanager')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.strip().splitlines()[-1] == "[]"
