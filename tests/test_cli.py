"""The command: verbs, flags, exit statuses and words."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import process_environment, rulespace

from experiments import cli
from framework import config

OUR_FOLDER = Path(cli.__file__).resolve().parent.parent
SHIPPED = sorted((config.shipped_gin_folder() / "experiments").glob("*.gin"))
HEAVY = (
    "tensorflow",
    "google.cloud.aiplatform",
    "google.cloud.storage",
    "kubernetes",
    "envpool",
    "matplotlib",
    "orbax",
    "xmanager",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["check", "--help"], ["diff", "a", "-h"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: rulespace")
    assert "--gin.NAME=VALUE" in printed


def test_help_of_a_verb_names_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "  --inner_updates=INNER_UPDATES  Agent updates that a meta-gradient reaches through.\n" in printed
    assert "  --format=FORMAT " in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chekc", "a"], "unknown command 'chekc'. Did you mean 'check'?"),
        (["frobnicate"], "unknown command 'frobnicate'. There are "),
        (["--debug", "check"], "'--debug' stands before the verb"),
        (["check"], "check is missing an argument: rulespace check CONFIG..."),
        (["diff", "a"], "diff is missing an argument: rulespace diff A B"),
        (["list", "heads", "torsos"], "list does not take 'torsos'"),
        (["check", "a", "--gin_fil=b"], "Did you mean: gin_file"),
        (["check", "a", "--gin.SEED"], "'--gin.SEED' sets nothing: write --gin.NAME=VALUE"),
        (["list", "--format=yaml"], "format"),
        (["run", "ppo_catch", "--workdir="], "--workdir names no folder: name one, or leave it out"),
    ],
)
def test_wrong_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_bindings_keep_their_order() -> None:
    words = ["c", "--gin.A=1", "--gin_bindings=A = 2", "--gin.s/B.c='x=y'", "--", "--gin.D=3"]
    rewritten = ["c", "--gin_bindings=A = 1", "--gin_bindings=A = 2", "--gin_bindings=s/B.c = 'x=y'", "--", "--gin.D=3"]
    assert cli.rewrite_bindings(words) == rewritten


def test_interruption(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupt)
    assert cli.main(["check", "a"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_unforeseen_errors_are_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(words: list[str]) -> int:
        raise OSError("the disk is full")

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert cli.main(["check", "a"]) == 1
    assert "the disk is full" in capsys.readouterr().err
    with pytest.raises(OSError, match="disk"):
        cli.main(["check", "a", "--debug"])


def test_check_reports_every_mistake_of_every_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.gin").write_text("X = 1\nY = pong\n")
    (folder / "b.gin").write_text("include 'c.gin'\n")
    assert cli.main(["check", "a.gin", "b.gin"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if line.startswith("a.gin:2: 'pong' is a bare word")]
    assert [line for line in errors if line.startswith("b.gin:1: cannot find 'c.gin'")]
    assert errors[-1] == f"{len(errors) - 1} mistakes"


@pytest.mark.skipif(not SHIPPED, reason="no shipped configs")
def test_shipped_configs_are_without_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    names = [path.stem for path in SHIPPED]
    assert cli.main(["check", *names]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.splitlines() == [f"{name}: ok" for name in names]


def test_one_config_does_not_end_the_check_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.gin").write_text("include 'experiments/ppo_gymnasium.gin'\nENV = 'Pendulum-v1'\n")
    (tmp_path / "other.gin").write_text("include 'experiments/a2c_catch.gin'\nTRAJECTORY_LENGHT = 3\n")
    assert cli.main(["check", str(tmp_path / "mine.gin"), str(tmp_path / "other.gin"), "ppo_catch"]) == 1
    captured = capsys.readouterr()
    first, second, count = captured.err.splitlines()
    assert "mine.gin: " in first
    assert "Pendulum-v1" in first
    assert "other.gin:2: macro 'TRAJECTORY_LENGHT' is never used" in second
    assert count == "2 mistakes"
    assert captured.out == "ppo_catch: ok\n"


def test_what_cannot_be_traced_is_told_with_the_components_it_came_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.gin").write_text(
        "include 'experiments/disco_catch.gin'\n"
        "Q_LOSS = [@loss_terms.Value(), @wrong/loss_terms.Value()]\n"
        "wrong/loss_terms.Value.target = 'pi_hat'\n"
    )
    assert cli.main(["check", str(tmp_path / "mine.gin")]) == 1
    assert "an update cannot be traced in loss_terms.Value > heads.CategoricalActionValue: " in capsys.readouterr().err


@pytest.mark.skipif(not SHIPPED, reason="no shipped configs")
def test_diff_of_a_config_with_itself_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diff", SHIPPED[0].stem, str(SHIPPED[0])]) == 0
    assert capsys.readouterr().out == ""


def test_list_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "numbers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "numbers"
    assert "  Hyperparameter(name: str, value: float)\n      A number that each agent carries" in "\n".join(lines)


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--format=json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert {"heads", "torsos", "loss_terms", "experiments"} <= described.keys()
    hyperparameter = next(item for item in described["numbers"] if item["name"] == "Hyperparameter")
    assert hyperparameter["parameters"][1] == {"name": "value", "type": "float", "required": True}


def test_list_of_an_unknown_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "head"]) == 1
    assert "there is no kind 'head'. Did you mean 'heads'?" in capsys.readouterr().err


def test_a_users_folder_does_not_hide_ours(folder: Path) -> None:
    (folder / "components").mkdir()
    (folder / "components/__init__.py").write_text("raise RuntimeError('the wrong one')")
    assert rulespace("list", "numbers", cwd=folder).returncode == 0


def test_another_package_of_our_name_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = type("Spec", (), {"submodule_search_locations": [str(folder / "components")]})()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    with pytest.raises(ImportError, match="has taken the name of ours"):
        cli._guard_own_packages()


def test_checks_are_quick_and_light(folder: Path) -> None:
    code = (
        "import sys; from experiments import cli; cli.main(['list', 'numbers'])\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder, env=process_environment()
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert time.monotonic() - started < 20  # 3 s on an idle machine.
