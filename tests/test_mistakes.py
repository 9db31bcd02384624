"""Every kind of mistake in a config is found, at its line, in words that say what to do."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from framework.config import ConfigError, Mistake, load
from framework.interfaces import Number, Weights
from framework.registry import Problem, component


@component("weights")
@dataclasses.dataclass(frozen=True)
class TypoFile:
    path: str = "a"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise ValueError(f"scale must not be negative, got {self.scale}")
        if self.path == "explode":
            raise KeyError("explosive")

    def __call__(self, initial: Any) -> Any:
        return initial


@component("weights")
@dataclasses.dataclass(frozen=True)
class TypoMix:
    first: Weights
    others: tuple[Weights, ...] = ()

    def __call__(self, initial: Any) -> Any:
        return initial


@component("numbers")
@dataclasses.dataclass(frozen=True)
class TypoNumber:
    capacity: int

    def resolve(self, hyperparameters: Any, targets: Any) -> Any:
        return self.capacity

    def symbol(self) -> str:
        return "capacity"


@component("settings")
@dataclasses.dataclass(frozen=True)
class TypoTwin:
    size: int = 1


@component("rules")
@dataclasses.dataclass(frozen=True, eq=True)
class TypoRule:
    size: int = 1


@component("experiments")
@dataclasses.dataclass(frozen=True)
class TypoRoot:
    seed: int = 0
    rate: float = 0.1
    name: str = "x"
    fast: bool = False
    mode: Literal["train", "test"] = "train"
    sizes: tuple[int, ...] = ()
    pair: tuple[int, int] = (1, 2)
    weights: Weights = TypoFile()
    number: Number | None = None
    twin: TypoTwin | None = None
    make: Callable[[], Any] | None = None
    table: dict[str, float] = dataclasses.field(default_factory=dict)

    def problems(self) -> Sequence[Problem]:
        found = []
        if self.seed == 13:
            found.append(Problem(self, "seed", "13 brings bad luck"))
        if getattr(self.weights, "path", "") == "lost":
            found.append(Problem(self.weights, "path", "no such weights"))
            found.append(Problem(self.weights, None, "weights are odd"))
        if self.rate == 0.5:
            found.append(Problem(self.weights, None, "the default weights are odd"))
        return found


component("settings")(dataclasses.make_dataclass("TypoRule", [("size", int, 1)], frozen=True))

ROOT = "TypoRoot.seed = 1\n"
MIX = ROOT + "TypoRoot.weights = @TypoMix()\n"

MISTAKES = {
    "unknown component": (ROOT + "TypoFil.path = 'a'", 2, "no component 'TypoFil'. Did you mean 'TypoFile'?"),
    "unknown component of a block": (ROOT + "TypoFil:\n  path = 'a'\n  scale = 2", 2, "no component 'TypoFil'"),
    "unknown component with kind": (ROOT + "weight.TypoFile.path = 'a'", 2, "Did you mean 'weights.TypoFile'?"),
    "unknown reference": ("TypoRoot.weights = @TypoFle()", 1, "'@TypoFle()'. Did you mean 'TypoFile'?"),
    "unknown reference in a list": (MIX + "TypoMix.first = @TypoFile()\nTypoMix.others = [\n  @TypoFile(),\n"
                                    "  @TypoFyle(),\n]", 6, "no component '@TypoFyle()'"),
    "ambiguous name": (ROOT + "TypoRule.size = 2", 2, "write one of rules.TypoRule, settings.TypoRule"),
    "unknown parameter": ("TypoRoot.sede = 1", 1, "has no parameter 'sede'. Did you mean 'seed'? It takes seed, rate"),
    "unknown parameter of a block": ("TypoRoot:\n  seed = 1\n  zzzz = 2", 3, "TypoRoot has no parameter 'zzzz'"),
    "text for an int": ("TypoRoot.seed = 'a'", 1, "TypoRoot.seed wants int, got str 'a'"),
    "fraction for an int": ("TypoRoot.seed = 1.5", 1, "wants an integer, got 1.5"),
    "bool for an int": ("TypoRoot.seed = True", 1, "wants int, got bool True"),
    "int for a bool": ("TypoRoot.fast = 1", 1, "wants bool, got int 1"),
    "bool for a float": ("TypoRoot.rate = True", 1, "wants float, got bool True"),
    "number for a text": ("TypoRoot.name = 3", 1, "wants str, got int 3"),
    "None where it cannot be": ("TypoRoot.rate = None", 1, "wants float, got None"),
    "none of the choices": ("TypoRoot.mode = 'tran'", 1, "got str 'tran'. Did you mean 'train'?"),
    "wrong item": ("TypoRoot.sizes = [1, 'b']", 1, "TypoRoot.sizes wants int, got str 'b'"),
    "no list": ("TypoRoot.sizes = 3", 1, "wants tuple[int, ...], got int 3 (write it in [])"),
    "wrong length": ("TypoRoot.pair = [1]", 1, "wants tuple[int, int], got 1 items"),
    "wrong dict": ("TypoRoot.table = {'a': 'b'}", 1, "wants float, got str 'b'"),
    "wrong value in a macro": ("SEED = 'a'\nTypoRoot.seed = %SEED", 1, "TypoRoot.seed wants int, got str 'a'"),
    "wrong kind": ("TypoRoot.weights = @TypoNumber()\nTypoNumber.capacity = 1", 1,
                   "kind 'weights', got @numbers.TypoNumber() of kind 'numbers'"),
    "wrong kind in an optional": ("TypoRoot.number = @TypoFile()", 1, "kind 'numbers', got @weights.TypoFile()"),
    "wrong class": ("TypoRoot.twin = @TypoFile()", 1, "wants TypoTwin, got @weights.TypoFile()"),
    "component for a number": ("TypoRoot.seed = @TypoFile()", 1, "wants int, got @weights.TypoFile()"),
    "number for a component": ("TypoRoot.weights = 3", 1, "wants Weights, got int 3"),
    "missing parentheses": ("TypoRoot.weights = @TypoFile", 1, "write @weights.TypoFile()"),
    "component for a callable": ("TypoRoot.make = @TypoTwin()", 1, "got @settings.TypoTwin()"),
    "missing parameter": (ROOT + "TypoRoot.number = @TypoNumber()", 2, "TypoNumber.capacity is required"),
    "missing parameter below a macro": (ROOT + "R = @TypoNumber()\nTypoRoot.number = %R", 2, "capacity is required"),
    "required value": ("TypoRoot.seed = %gin.REQUIRED", 1, "a value is required here"),
    "required macro": ("\nSEED = %gin.REQUIRED\nTypoRoot.seed = %SEED", 2, "--gin.SEED=VALUE"),
    "undefined macro": ("TypoRoot.seed = %SEED", 1, "macro '%SEED' is not defined"),
    "misspelt macro": ("SEED = 1\nTypoRoot.seed = %SEDE", 2, "'%SEDE' is not defined. Did you mean 'SEED'?"),
    "unused macro": (ROOT + "\nSPEED = 2", 3, "macro 'SPEED' is never used"),
    "misspelt definition": ("SEED = 1\nTypoRoot.seed = %SEED\nSEDE = 2", 3, "never used. Did you mean 'SEED'?"),
    "macro twice": ("SEED = 1\nSEED = 2\nTypoRoot.seed = %SEED", 2, "macro 'SEED' is already set in line 1"),
    "parameter twice": ("TypoRoot.seed = 1\nTypoRoot:\n  seed = 2", 3, "already set in line 1"),
    "parameter twice under two names": (ROOT + "experiments.TypoRoot.seed = 2", 2, "already set in line 1"),
    "cyclic macros": ("A = %B\nB = [%A]\nTypoRoot.sizes = %A", 1, "macro 'A' is defined by itself: A -> B -> A"),
    "cyclic macros nobody needs": (ROOT + "A = %B\nB = %A", 2, "A -> B -> A"),
    "cyclic components": (MIX + "TypoMix.first = @TypoMix()", 3, "TypoMix -> TypoMix"),
    "component never built": (ROOT + "TypoTwin.size = 2", 2, "has no effect: nothing refers to @TypoTwin()"),
    "scope never entered": (MIX + "TypoMix.first = @outer/TypoFile()\nouetr/TypoFile.path = 'b'", 4,
                            "no TypoFile is built in scope 'ouetr'. Did you mean 'outer'?"),
    "replaced in every scope": (MIX + "TypoMix.first = @a/TypoFile()\nTypoFile.scale = 2\n"
                                "a/TypoFile.scale = 3", 4, "a/TypoFile.scale ("),
    "nothing for the root": ("# nothing\nX = 1", 1, "nothing is bound for TypoRoot"),
    "empty file": ("# nothing\n\n", 1, "the file is empty"),
    "bare word": ("TypoRoot.name = pong", 1, "'pong' is a bare word: quote it ('pong')"),
    "bare word in a list": ("TypoRoot.sizes = [\n  1,\n  two,\n]", 3, "'two' is a bare word"),
    "lower-case constant": ("TypoRoot.fast = true", 1, "'true' is a bare word. Did you mean 'True'?"),
    "bare REQUIRED": ("TypoRoot.seed = gin.REQUIRED", 1, "Did you mean '%gin.REQUIRED'?"),
    "expression": ("TypoRoot.seed = 3*1000", 1, "a value is a literal, not an expression"),
    "empty block": (ROOT + "TypoFile:\nTypoRoot.rate = 1.0", 2, "'TypoFile:' opens a block: indent the bindings"),
    "no value": ("TypoRoot.seed =\nTypoRoot.rate = 1", 1, "has no value after '='"),
    "open bracket": ("TypoRoot.sizes = [1, 2\nTypoRoot.seed = 1", 1, "bracket that opens here is never closed"),
    "open bracket at the end": (ROOT + "TypoRoot.sizes = [1,\n  2", 2, "bracket that opens here is never closed"),
    "open quote": (ROOT + "TypoRoot.name = 'x", 2, "a quote is never closed"),
    "not a statement": (ROOT + "seed 1", 2, "cannot read 'seed 1': write NAME = VALUE"),
    "call with arguments": ("TypoRoot.weights = @TypoFile('a')", 1, "cannot read"),
    "missing module": (ROOT + "import no_such_module", 2, "cannot import 'no_such_module': ModuleNotFoundError"),
    "dynamic registration": ("from __gin__ import dynamic_registration\n" + ROOT, 1, "registration is not used"),
    "missing include": ("include 'nope.gin'\n" + ROOT, 1, "cannot find 'nope.gin' in the working folder"),
    "include of itself": ("include 'config.gin'\n" + ROOT, 1, "includes itself: config.gin -> config.gin"),
    "include of a folder": ("include 'folder'\n" + ROOT, 1, "is a folder, not a gin file"),
    "include of Python": ("include 'code.py'\n" + ROOT, 1, "is a Python file, not a gin file"),
    "include without quotes": ("include base\n" + ROOT, 1, "bare word"),
    "include of another encoding": ("include 'latin.gin'\n" + ROOT, 1, "is not a text in UTF-8"),
    "constructor refuses": (ROOT + "TypoRoot.weights = @TypoFile()\nTypoFile.scale = -1", 3,
                            "TypoFile: scale must not be negative, got -1.0"),
    "constructor breaks": (ROOT + "TypoRoot.weights = @TypoFile()\nTypoFile.path = 'explode'", 2,
                           "TypoFile: KeyError: 'explosive'"),
    "problem of the root": ("TypoRoot.rate = 1\nTypoRoot.seed = 13", 2, "13 brings bad luck"),
    "problem of a parameter": (ROOT + "TypoRoot.weights = @TypoFile()\nTypoFile.path = 'lost'", 3, "no such weights"),
    "problem of a component": (ROOT + "TypoRoot.weights = @TypoFile()\nTypoFile.path = 'lost'", 2, "weights are odd"),
    "problem of a default": ("TypoRoot.rate = 0.5", 1, "the default weights are odd"),
}  # fmt: skip

PLURAL = {"problem of a parameter", "problem of a component", "bare word in a list"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "code.py").write_text("x = 1")
    (tmp_path / "latin.gin").write_bytes("# caf\xe9".encode("latin-1"))
    return tmp_path


def mistakes_of(text: str, **options: Any) -> list[Mistake]:
    Path("config.gin").write_text(text)
    with pytest.raises(ConfigError) as error:
        load("config.gin", root=TypoRoot, **options)
    return list(error.value.mistakes)


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_alone(name: str) -> None:
    text, line, message = MISTAKES[name]
    found = mistakes_of(text)
    assert any(mistake.line == line and message in mistake.message for mistake in found), found
    assert all(mistake.file == "config.gin" for mistake in found)
    if name not in PLURAL:
        assert len(found) == 1, found


def test_there_are_many_kinds() -> None:
    assert len(MISTAKES) >= 30


def test_all_at_once() -> None:
    text = """SEED = 1.5
SEED = 2.5
SPEDE = 3
include 'nope.gin'
TypoRoot:
    seed = %SEED
    raet = 0.1
    name = pong
    sizes = [1, 2
    mode = 'tran'
    weights = @TypoFyle()
TypoFile.scale = 'big'
seed 1
"""
    expected = {
        2: "already set",
        3: "never used. Did you mean 'SEED'?",
        4: "cannot find",
        7: "no parameter 'raet'. Did you mean 'rate'?",
        8: "bare word",
        9: "never closed",
        10: "Did you mean 'train'?",
        11: "Did you mean 'TypoFile'?",
        12: "wants float, got str 'big'",
        13: "cannot read",
    }
    found = mistakes_of(text)
    assert [mistake.line for mistake in found] == [2, *expected]
    assert "wants an integer, got 2.5" in found.pop(0).message
    assert all(expected[mistake.line] in mistake.message for mistake in found)


def test_mistakes_are_sorted_and_told_once() -> None:
    text = "M = @TypoFile()\nTypoRoot.weights = @TypoMix()\nTypoMix.first = %M\nTypoMix.others = [%M, %M]\n"
    found = mistakes_of(text + "TypoFile.path = 3\nTypoFile.scale = 'x'")
    assert [mistake.line for mistake in found] == [5, 6]


def test_a_mistake_names_file_and_line() -> None:
    Path("config.gin").write_text("\nTypoRoot.sede = 1")
    with pytest.raises(ConfigError, match=r"^config\.gin:2: TypoRoot has no parameter 'sede'"):
        load("config.gin", root=TypoRoot)


def test_mistakes_of_an_included_file() -> None:
    Path("base.gin").write_text("TypoRoot.seed = 'a'\nUNUSED = 1")
    found = mistakes_of("include 'base.gin'")
    assert [(mistake.file, mistake.line) for mistake in found] == [("base.gin", 1), ("base.gin", 2)]


def test_cycle_over_two_files() -> None:
    Path("a.gin").write_text("include 'config.gin'")
    (found,) = mistakes_of("include 'a.gin'\n" + ROOT)
    assert (found.file, found.line) == ("a.gin", 1)
    assert "config.gin -> a.gin -> config.gin" in found.message


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("SEDE = 1", "command line: --gin.SEDE=1: macro 'SEDE' is never used. Did you mean 'SEED'?"),
        ("SEED = abc", "command line: --gin.SEED=abc: TypoRoot.seed wants int, got str 'abc'"),
        ("TypoRoot.sede = 1", "command line: --gin.TypoRoot.sede=1: TypoRoot has no parameter 'sede'"),
        ("TypoRoot.seed = 1 + 1", "command line: --gin.TypoRoot.seed=1 + 1: cannot read"),
        ("SEED", "command line: --gin_bindings=SEED: a binding is NAME=VALUE"),
        ("SEED = ", "command line: --gin.SEED=: SEED is given no value: write one behind"),
        ("TypoRoot.weights = @Typofile()", "Did you mean 'TypoFile'?"),
    ],
)
def test_mistakes_on_the_command_line(binding: str, message: str) -> None:
    (found,) = mistakes_of("SEED = 1\nTypoRoot.seed = %SEED", bindings=[binding])
    assert message in str(found)


def test_mistakes_of_files_that_are_no_configs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "disco.gin").write_text(ROOT)
    for config, message in {
        "dicso.gin": "no such file, and no shipped config of that name. Did you mean 'disco.gin'?",
        "folder": "is a folder",
        "code.py": "is a Python file",
        "latin.gin": "is not a text in UTF-8",
    }.items():
        with pytest.raises(ConfigError) as error:
            load(config, root=TypoRoot)
        assert len(error.value.mistakes) == 1, config
        assert str(error.value).startswith(f"{config}: ")
        assert message in str(error.value)

    def forbidden(self: Path, encoding: str) -> str:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(ConfigError, match=r"'disco\.gin' cannot be read: Permission denied"):
        load("disco.gin", root=TypoRoot)


def test_missing_gin_file() -> None:
    (found,) = mistakes_of(ROOT, gin_files=["more.gin"])
    assert str(found).startswith("command line: --gin_file=more.gin: cannot find 'more.gin'")


def test_what_is_replaced_may_be_left_over(folder: Path) -> None:
    base = "TypoRoot.number = @TypoNumber()\nTypoNumber.capacity = %SIZE\nSIZE = 3\n"
    (folder / "base.gin").write_text(base + "W = @s/TypoFile()\ns/TypoFile.path = 'b'\nTypoRoot.weights = %W")
    (folder / "config.gin").write_text("include 'base.gin'\nTypoRoot.number = None\nW = @TypoFile()")
    loaded = load("config.gin", root=TypoRoot)
    assert loaded.experiment == TypoRoot()
    assert "TypoNumber" not in loaded.config_text


def test_what_is_bound_after_the_replacement_must_be_used(folder: Path) -> None:
    (folder / "base.gin").write_text("TypoRoot.number = @TypoNumber()\nTypoNumber.capacity = 3")
    found = mistakes_of("include 'base.gin'\nTypoRoot.number = None\nTypoNumber.capacity = 4")
    assert [(mistake.line, "has no effect" in mistake.message) for mistake in found] == [(3, True)]


def test_a_macro_set_after_the_replacement_of_what_used_it_is_in_vain(folder: Path) -> None:
    (folder / "base.gin").write_text("SIZE = 3\nSIZES = [%SIZE]\nTypoRoot.sizes = %SIZES")
    (folder / "many.gin").write_text("include 'base.gin'\nSIZES = [1, 2]")
    assert load("many.gin", root=TypoRoot).experiment.sizes == (1, 2)
    (found,) = mistakes_of("include 'many.gin'", bindings=["SIZE=4"])
    assert "macro 'SIZE' has no effect: SIZES (many.gin:2) replaced what it was used in" in str(found)


def test_a_macro_below_what_was_replaced_is_in_vain_too(folder: Path) -> None:
    (folder / "base.gin").write_text("TypoRoot.number = @TypoNumber()\nTypoNumber.capacity = %SIZE\nSIZE = 3")
    (folder / "none.gin").write_text("include 'base.gin'\nTypoRoot.number = None")
    assert load("none.gin", root=TypoRoot).experiment.number is None
    (found,) = mistakes_of("include 'none.gin'", bindings=["SIZE=4"])
    assert "macro 'SIZE' has no effect: TypoRoot.number (none.gin:2) replaced what it was used in" in str(found)


GOOD = """SEED = 1
# a comment
TypoRoot:
    seed = %SEED
    weights = @a/TypoMix()
    sizes = [1, [2,
             3]]
    table = {'a': 1}
TypoMix.first = @TypoFile()
a/TypoFile.path = "x"
"""
SCRAPS = ["", *"=@%()[]{:#$é", "'", '"""', "\\", "\n", "\n  ", "\t", "1e", "include "]


@given(st.integers(0, len(GOOD)), st.integers(0, 6), st.sampled_from(SCRAPS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_whatever_is_broken_is_told_in_words(position: int, deleted: int, inserted: str) -> None:
    Path("config.gin").write_text(GOOD[:position] + inserted + GOOD[position + deleted :])
    mistakes: Sequence[Mistake] = ()
    try:
        load("config.gin", root=TypoRoot)
    except ConfigError as error:
        mistakes = error.mistakes
    assert list(mistakes) == sorted(mistakes)
    assert all(mistake.file == "config.gin" and mistake.line > 0 for mistake in mistakes)
