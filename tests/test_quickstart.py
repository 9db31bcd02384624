"""``make quickstart``: which runs it makes, and what it says where one cannot be made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.weights import WeightsError
from experiments import cli, quickstart


@pytest.fixture(autouse=True)
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that the quickstart gives; each leaves a result, as the real one would."""
    given: list[list[str]] = []

    def run(words: list[str]) -> int:
        given.append(words)
        folder = Path(words[-1].removeprefix("--workdir="))
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(
            json.dumps({"returns": {"catch_8x8": [[50, 1600, -0.5], [100, 3200, 0.9]]}})
        )
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "main", run)
    return given


def test_both_rules(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quickstart, "local_file", lambda published: Path(published.file))
    assert quickstart.main() == 0
    assert [words[:2] for words in commands] == [["run", "ppo_catch"], ["run", "disco103_catch"]]
    picture = Path("runs/quickstart/learning_curves.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.endswith(f"Results: runs/quickstart/\nLearning curves: {picture}\n")


def test_without_the_weights(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quickstart, "local_file", lambda published: None)
    assert quickstart.main() == 0
    assert [words[1] for words in commands] == ["ppo_catch"]
    assert "weights are not on this machine: `rulespace run disco103_catch` downloads them" in capsys.readouterr().out


def test_with_weights_that_are_not_the_published_ones(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> None:
        raise WeightsError("disco_103.npz is not the published file")

    monkeypatch.setattr(quickstart, "local_file", refuse)
    assert quickstart.main() == 0
    assert [words[1] for words in commands] == ["ppo_catch"]
    assert "is not the published file" in capsys.readouterr().err


def test_run_that_fails_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "local_file", lambda published: None)
    monkeypatch.setattr(cli, "main", lambda words: 130)
    assert quickstart.main() == 130
    assert not Path("runs/quickstart/learning_curves.png").exists()
