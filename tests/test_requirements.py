"""Packages that an install need not have: what is told of them, and what works without."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from absl import flags

import components.everything
from components.streams import atari as streams
from components.suites import minatar
from experiments import cli
from experiments.loading import load_config
from framework import registry
from framework.errors import UserError
from framework.requirements import Requirement
from framework.testing import missing_package

__all__ = ["components"]

NEEDING = {name: cls for name, cls in registry.components_of("suites").items() if registry.requirement_of(cls)}


def test_a_package_that_is_there_is_imported() -> None:
    here = Requirement.of_extra("json", "text")
    assert here.is_met
    assert here.module() is json
    assert here.module("json.decoder").__name__ == "json.decoder"
    with pytest.raises(UserError, match=r"json cannot be imported \(No module named 'json.nowhere'\): pip install"):
        here.module("json.nowhere")


def test_a_package_that_is_not_there_is_told() -> None:
    missing = Requirement.of_extra("no_such_package", "games")
    assert not missing.is_met
    with pytest.raises(
        UserError, match=r"^the package no_such_package is not installed: pip install 'rulespace\[games\]'$"
    ):
        missing.module()


def test_a_library_that_is_not_there_is_told() -> None:
    missing = Requirement.of_extra("json", "text", library="no_such_library", install_library="apt-get install it")
    assert not missing.is_met
    assert (
        missing.missing
        == "the system's library no_such_library, which json needs, is not installed: apt-get install it"
    )
    assert missing.module() is json  # It is for the package to say that it cannot go on.


def test_list_tells_what_suites_need(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"Crafter", "DMLab30", "MinAtar", "NetHackChallenge", "NetHackScore", "ProcGen"} == NEEDING.keys()
    for is_met, told in (
        (True, "(needs crafter: installed)"),
        (False, "(needs crafter: pip install 'rulespace[crafter]')"),
    ):
        monkeypatch.setattr(Requirement, "is_met", is_met)
        monkeypatch.setattr(Requirement, "_has_package", is_met)
        assert cli.main(["list", "suites"]) == 0
        printed = capsys.readouterr().out
        entries = {entry.split("(")[0]: entry for entry in re.split(r"^  (?=\w)", printed, flags=re.MULTILINE)}
        assert entries["Crafter"].rstrip().endswith(told)
        assert "needs" not in entries["Catch"]
        assert max(map(len, printed.splitlines())) <= 100
        assert cli.main(["list", "suites", "--format=json"]) == 0
        listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["suites"]}
        assert listed["ProcGen"]["requires"] == {"package": "envpool", "installed": is_met}
        assert "requires" not in listed["Catch"]


@pytest.mark.parametrize("name", NEEDING)
def test_specifications_are_known_without_the_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config can be checked and described on a machine that does not run it."""

    def refuse(*_: object) -> None:
        raise AssertionError("a package was imported")

    monkeypatch.setattr(Requirement, "module", refuse)
    suite = NEEDING[name]()
    assert all(suite.environment(task).spec.num_actions > 1 for task in suite.tasks())


def test_what_is_missing_is_said_of_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Requirement, "is_met", False)
    assert (
        missing_package(NEEDING["Crafter"]) == "the package crafter is not installed: pip install 'rulespace[crafter]'"
    )
    assert missing_package(registry.components_of("suites")["Catch"]) is None


def test_a_run_is_refused_before_anything_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Requirement, "_has_package", False)
    assert cli.main(["check", "ppo_procgen", "--gin_file=scale/tiny.gin"]) == 0
    assert cli.main(["run", "ppo_procgen", "--gin_file=scale/tiny.gin"]) == 1
    told = "ppo_procgen learns on ProcGen, and the package envpool is not installed: pip install 'rulespace[procgen]'"
    assert capsys.readouterr().err == f"{told}\n"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "package", "told"),
    [
        ("ppo_minatar", "gymnax", "pip install 'rulespace[minatar]'"),
        ("ppo_gymnasium", "gymnasium", "pip install gymnasium"),
        ("ppo_atari", "ale_py", "pip install ale-py"),
    ],
)
def test_a_config_that_cannot_be_looked_at_says_what_to_install(
    config: str, package: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for cached in (minatar.gymnax_game, minatar._form, streams._minimal_actions):
        cached.cache_clear()
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    own_actions = "--gin_bindings=FULL_ACTION_SPACE = False" if config == "ppo_atari" else "--gin.SEED=1"
    for verb in ("check", "describe"):
        assert cli.main([verb, config, own_actions]) == 1
        assert f": the package {package} is not installed: {told}\n" in capsys.readouterr().err


def test_what_is_left_out_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The tiny scale leaves DMLab-30 out, and only where there is any."""
    monkeypatch.setattr(Requirement, "_has_package", False)
    tiny, back = ["scale/tiny.gin"], ["DMLAB=@dmlab/Group()", "DMLAB_NOTE=None"]
    with_it = " ".join(f"--gin.{binding}" for binding in back)
    note = f"disco103: DMLab-30 is left out, for its package has to be built; with it: {with_it}\n"
    for name, files, bindings, told, groups in (
        ("disco103", [], [], "", 3),
        ("disco103", tiny, [], note, 2),
        ("disco103", tiny, back, "", 3),
        ("ppo_catch", tiny, [], "", 1),
    ):
        options = flags.FlagValues()
        flags.DEFINE_multi_string("gin_file", files, "", flag_values=options)
        flags.DEFINE_multi_string("gin_bindings", bindings, "", flag_values=options)
        options.mark_as_parsed()
        loaded = load_config(name, options)
        assert capsys.readouterr().err == told
        assert len(loaded.experiment.groups) == groups
