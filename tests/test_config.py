"""Configs: values, scopes and macros as in gin, and texts that can be replayed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import gin
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework import config
from framework.config import ConfigError, Loaded, Node, load
from framework.config import text as config_text
from framework.config.values import Mismatch, coerce, type_name
from framework.gin_files.mistakes import Place
from framework.gin_files.parsing import parse
from framework.interfaces import TrajectoryCore, Weights
from framework.registry import component


@component("weights")
@dataclasses.dataclass(frozen=True)
class ConfigLeaf:
    """A leaf."""

    x: float = 0.0
    y: int = 0
    label: str = "leaf"

    def __call__(self, initial: Any) -> Any:
        return initial


@component("weights")
@dataclasses.dataclass(frozen=True)
class ConfigTree:
    """A tree."""

    left: Weights = ConfigLeaf(x=1)
    right: Weights | None = None
    more: tuple[Weights, ...] = ()

    def __call__(self, initial: Any) -> Any:
        return initial


@component("trajectory_cores")
class ConfigCore(nn.Module):
    """A core."""

    sizes: tuple[int, ...] = (1,)

    def __call__(self, features: Any, last: Any) -> Any:
        return features


@component("experiments")
@dataclasses.dataclass(frozen=True)
class ConfigRoot:
    """An experiment."""

    seed: int = dataclasses.field(default=0, metadata={"identity": False})
    rate: float = 1
    tree: Weights = ConfigTree()
    core: TrajectoryCore | None = None
    folder: Path = Path("a")
    make: Callable[..., Any] | None = None
    sizes: tuple[int, ...] = ()
    table: dict[str, float] = dataclasses.field(default_factory=dict)
    name: str = "run"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load_text(text: str, *bindings: str, name: str = "config.gin") -> Loaded:
    Path(name).write_text(text)
    return load(name, bindings=bindings, root=ConfigRoot)


RICH = """
import math
SEED = 1e3
LEAVES = [@ConfigLeaf(), None, [@s/ConfigLeaf()], %NOTHING]
NOTHING = None
ConfigRoot:
    seed = %SEED
    tree = @ConfigTree()
    core = @ConfigCore()
    folder = 'some/where'
    make = @outer/ConfigLeaf
    sizes = [1, [2.0, None], (3,)]
    table = {'a': 1, 'b': -2.5}
ConfigCore.sizes = [8, 8]
ConfigTree.right = @outer/ConfigTree()
ConfigTree.more = [%LEAVES, [%LEAVES]]
outer/ConfigTree.right = None
outer/ConfigTree.more = [@ConfigLeaf()]
ConfigLeaf.label = 'everywhere'
outer/ConfigLeaf.x = 5
LEAVES/ConfigLeaf.y = 7
s/ConfigLeaf.x = 1e999
"""


def test_rich_config_is_built() -> None:
    experiment = load_text(RICH).experiment
    assert experiment.seed == 1000
    assert type(experiment.seed) is int
    assert experiment.sizes == (1, 2, 3)
    assert experiment.table == {"a": 1.0, "b": -2.5}
    assert experiment.folder == Path("some/where")
    assert experiment.core == ConfigCore(sizes=(8, 8))
    assert experiment.make(y=3) == ConfigLeaf(x=5, y=3, label="everywhere")
    of_macro, of_scope = ConfigLeaf(y=7, label="everywhere"), ConfigLeaf(x=math.inf, label="everywhere")
    assert experiment.tree.more == (of_macro, of_scope, of_macro, of_scope)
    assert experiment.tree.right == ConfigTree(more=(ConfigLeaf(x=5, label="everywhere"),))
    assert experiment.tree.left == ConfigLeaf(x=1)


def test_class_without_bindings_is_passed_as_it_is() -> None:
    assert load_text("ConfigRoot.make = @ConfigLeaf").experiment.make is ConfigLeaf


@pytest.mark.parametrize("text", ["config_text", "operative_text"])
def test_texts_can_be_replayed(text: str) -> None:
    first = load_text(RICH)
    again = load_text(getattr(first, text), name="again.gin")
    assert dataclasses.replace(again.experiment, make=None) == dataclasses.replace(first.experiment, make=None)
    assert again.config_hash == first.config_hash
    assert first.differences(again) == []
    assert getattr(load_text(getattr(again, text), name="third.gin"), text) == getattr(again, text)


def test_operative_text_has_every_parameter() -> None:
    text = load_text("ConfigRoot.seed = 3").operative_text
    assert "experiments.ConfigRoot.rate = 1\n" in text
    assert "weights.ConfigLeaf.label = 'leaf'" in text


# Agreement with gin itself.


@gin.configurable(module="gin_twin")
@dataclasses.dataclass(frozen=True)
class GinLeaf:
    x: float = 0.0
    y: int = 0
    label: str = "leaf"


@gin.configurable(module="gin_twin")
@dataclasses.dataclass(frozen=True)
class GinTree:
    left: Any = GinLeaf(x=1)
    right: Any = None
    more: Any = ()


@gin.configurable(module="gin_twin")
@dataclasses.dataclass(frozen=True)
class GinRoot:
    tree: Any = GinTree()


def built_by_gin(text: str) -> Any:
    try:
        gin.parse_config(text.replace("Config", "Gin"))
        return _plain(GinRoot().tree)
    finally:
        gin.clear_config()


def built_by_us(text: str) -> Any:
    return _plain(load_text(text).experiment.tree)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)} if _is_node(value) else value


def _is_node(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


@pytest.mark.parametrize(
    "text",
    [
        "ConfigRoot.tree = @a/b/ConfigLeaf()\nConfigLeaf.x = 1.0\na/ConfigLeaf.y = 2\na/b/ConfigLeaf.label = 'ab'",
        "ConfigRoot.tree = @ConfigTree()\nConfigTree.left = @a/b/ConfigLeaf()\nConfigTree.right = @ConfigLeaf()\n"
        "ConfigLeaf.y = 3\na/ConfigLeaf.y = 2",
        # An unscoped reference is built in the surrounding scope, a scoped one in its own alone.
        "ConfigRoot.tree = @a/ConfigTree()\nConfigTree.left = @ConfigLeaf()\nConfigTree.right = @b/ConfigLeaf()\n"
        "a/ConfigLeaf.x = 3.0\nb/ConfigLeaf.y = 4",
        # What stands in a macro is built in the scope of the macro's name.
        "ConfigRoot.tree = @a/ConfigTree()\nConfigTree.left = %M\nM = @ConfigLeaf()\nM/ConfigLeaf.x = 8.0\n"
        "ConfigTree.right = @ConfigLeaf()\na/ConfigLeaf.x = 3.0",
        "ConfigRoot.tree = @ConfigTree()\nConfigTree.left = %s/M\ns/M = @ConfigLeaf()\ns/ConfigLeaf.x = 8.0",
        "A = %B\nB = 3.0\nConfigRoot.tree = @ConfigLeaf()\nConfigLeaf.x = %A",
        "ConfigRoot.tree = @ConfigTree()\nConfigTree.more = [@a/ConfigLeaf(), @ConfigLeaf()]\na/ConfigLeaf.y = 1",
        "ConfigRoot:\n  tree = @ConfigTree()\na/ConfigTree:\n  left = @ConfigLeaf()\n"
        "ConfigTree.right = @a/ConfigTree()\na/ConfigTree.right = None",
    ],
)
def test_agrees_with_gin(text: str) -> None:
    assert built_by_us(text) == built_by_gin(text)


SCOPES = st.sampled_from(["", "a/", "b/", "a/b/", "M/"])


@given(
    tree=st.sampled_from(["", "a/", "b/", "a/b/"]),
    parts=st.lists(SCOPES, min_size=3, max_size=3),
    by_macro=st.booleans(),
    bound=st.dictionaries(st.tuples(SCOPES, st.sampled_from("xy")), st.integers(1, 99), max_size=6),
)
def test_agrees_with_gin_on_any_scopes(
    tree: str, parts: Sequence[str], by_macro: bool, bound: dict[tuple[str, str], int]
) -> None:
    first, second, third = (f"@{part}ConfigLeaf()" for part in parts)
    lines = [f"ConfigRoot.tree = @{tree}ConfigTree()", f"ConfigTree.right = {second}", f"ConfigTree.more = [{third}]"]
    lines += [f"M = {first}", "ConfigTree.left = %M"] if by_macro else [f"ConfigTree.left = {first}"]
    lines += [f"{scope}ConfigLeaf.{name} = {float(v) if name == 'x' else v}" for (scope, name), v in bound.items()]
    lines = without_idle_bindings(lines)
    assert built_by_us("\n".join(lines)) == built_by_gin("\n".join(lines))


def without_idle_bindings(lines: list[str]) -> list[str]:
    """Leaves out the bindings without effect, about which gin is silent."""
    try:
        load_text("\n".join(lines))
    except ConfigError as error:
        idle = {mistake.line - 1 for mistake in error.mistakes if "has no effect" in mistake.message}
        return [line for position, line in enumerate(lines) if position not in idle]
    return lines


def test_leaves_no_state_in_gin() -> None:
    load_text(RICH)
    assert gin.config_str() == ""
    assert gin.operative_config_str() == ""


def test_gin_constants() -> None:
    gin.constant("config_test.ANSWER", 42)
    try:
        assert load_text("ConfigRoot.seed = %ANSWER").experiment.seed == 42
    finally:
        gin.clear_config(clear_constants=True)


# Files, order and the command line.


def test_later_wins(folder: Path) -> None:
    (folder / "base.gin").write_text("SEED = 1\nConfigRoot.seed = %SEED\nConfigRoot.rate = 1")
    (folder / "more.gin").write_text("ConfigRoot.rate = 3")
    (folder / "config.gin").write_text("include 'base.gin'\nConfigRoot.rate = 2")
    assert load("config.gin", root=ConfigRoot).experiment == ConfigRoot(seed=1, rate=2.0)
    loaded = load("config.gin", gin_files=["more.gin"], bindings=["SEED = 4", "SEED = 5"], root=ConfigRoot)
    assert loaded.experiment == ConfigRoot(seed=5, rate=3.0)
    shown = [(item.name, item.value, item.file, item.line, item.overridden) for item in loaded.bindings]
    assert shown == [
        ("SEED", "1", "base.gin", 1, True),
        ("ConfigRoot.seed", "%SEED", "base.gin", 2, False),
        ("ConfigRoot.rate", "1", "base.gin", 3, True),
        ("ConfigRoot.rate", "2", "config.gin", 2, True),
        ("ConfigRoot.rate", "3", "more.gin", 1, False),
        ("SEED", "4", "command line", 1, True),
        ("SEED", "5", "command line", 2, False),
    ]
    assert loaded.name == "config"


def test_includes_are_found_beside_the_config(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/base.gin").write_text("ConfigRoot.seed = 3")
    (folder / "sub/config.gin").write_text("include 'base.gin'")
    assert load("sub/config.gin", root=ConfigRoot).experiment.seed == 3
    (folder / "base.gin").write_text("ConfigRoot.seed = 4")  # The working folder comes first.
    assert load("sub/config.gin", root=ConfigRoot).experiment.seed == 4


def test_shipped_configs_are_found_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = folder / "shipped"
    (shipped / "experiments").mkdir(parents=True)
    (shipped / "experiments/catch.gin").write_text("include 'scale/small.gin'")
    (shipped / "scale").mkdir()
    (shipped / "scale/small.gin").write_text("ConfigRoot.seed = 9")
    monkeypatch.setattr("framework.config.reading.shipped_gin_folder", lambda: shipped)
    loaded = load("catch", root=ConfigRoot)
    assert (loaded.experiment.seed, loaded.name) == (9, "catch")
    with pytest.raises(ConfigError, match=r"cathc: .*Did you mean 'catch'\?"):
        load("cathc", root=ConfigRoot)


def test_shipped_folder_of_a_checkout() -> None:
    assert (config.shipped_gin_folder() / "experiments").is_dir()


@pytest.mark.parametrize(
    ("value", "expected"),
    [("pong", "pong"), ("'a b'", "a b"), ("runs/a-1.gin", "runs/a-1.gin"), ("%NAME", "of macro")],
)
def test_bare_words_on_the_command_line(value: str, expected: str) -> None:
    text = "NAME = 'of macro'\nConfigRoot.name = %NAME" if value == "%NAME" else "ConfigRoot.seed = 1"
    assert load_text(text, f"ConfigRoot.name = {value}").experiment.name == expected


def test_own_modules_can_be_imported(folder: Path) -> None:
    (folder / "config_test_own.py").write_text(
        "import dataclasses\nfrom framework.registry import component\n"
        "@component('weights')\n@dataclasses.dataclass(frozen=True)\nclass ConfigOwn:\n    size: int = 2\n"
        "    def __call__(self, initial):\n        return initial\n"
    )
    loaded = load_text("import config_test_own\nConfigRoot.tree = @ConfigOwn()\nConfigOwn.size = 4")
    assert loaded.experiment.tree.size == 4
    assert loaded.config_text.startswith("import config_test_own\n")


# Identity.


def test_hash_does_not_depend_on_the_layout(folder: Path) -> None:
    (folder / "base.gin").write_text("ConfigLeaf.x = 2\n")
    one = load_text("include 'base.gin'\nConfigRoot.tree = @ConfigLeaf()\nConfigRoot.sizes = [1, [2]]")
    two = load_text(
        "# other words\nS = (1, 2.0)\nL = 2.0\nConfigRoot:\n  sizes = %S\n  tree = @a/weights.ConfigLeaf()\n"
        "  rate = 1.0\na/ConfigLeaf.x = %L",
        name="two.gin",
    )
    assert one.config_hash == two.config_hash
    assert len(one.config_hash) == 12
    assert int(one.config_hash, 16) >= 0


def test_hash_depends_on_values_and_classes_but_not_on_the_seed() -> None:
    hashes = {load_text(f"ConfigRoot.seed = {seed}").config_hash for seed in range(3)}
    assert len(hashes) == 1
    others = [
        load_text(f"ConfigRoot.{line}").config_hash for line in ("rate = 2", "tree = @ConfigLeaf()", "sizes = [1]")
    ]
    assert len({*hashes, *others}) == 4


def test_differences_name_paths_and_values() -> None:
    left = load_text(
        "ConfigRoot.tree = @ConfigTree()\nConfigTree.more = [@ConfigLeaf()]\nConfigTree.right = @r/ConfigLeaf()"
    )
    right = load_text(
        "ConfigRoot.tree = @ConfigTree()\nConfigTree.more = [@ConfigLeaf(), @r/ConfigTree()]\nr/ConfigTree.more = []\n"
        "r/ConfigTree.right = None\n"
        "ConfigRoot.seed = 2\nConfigTree.right = @r/ConfigLeaf()\nr/ConfigLeaf.x = 2\nConfigRoot.core = @ConfigCore()"
    )
    assert left.differences(left) == []
    assert config.differences(left, right) == [
        "seed: 0 != 2",
        "tree.right.x: 0.0 != 2.0",
        "tree.more: [ConfigLeaf] != [ConfigLeaf, ConfigTree]",
        "core: None != @trajectory_cores.ConfigCore()",
    ]


def test_first_difference_ignores_what_is_no_identity() -> None:
    saved = load_text("ConfigRoot.seed = 1\nConfigRoot.rate = 2").config_text
    assert config.first_difference(saved, load_text("ConfigRoot.seed = 5\nConfigRoot.rate = 2.0")) is None
    assert config.first_difference(saved, load_text("ConfigRoot.rate = 3")) == "rate: 2.0 != 3.0"


def test_tree_knows_where_values_come_from() -> None:
    root = load_text("\nConfigRoot.tree = @ConfigLeaf()\nConfigLeaf.x = 2").root
    leaf = root.arguments["tree"].value
    assert isinstance(leaf, Node)
    assert leaf.place == Place("config.gin", 2)
    assert leaf.arguments["x"].place == Place("config.gin", 3)
    assert leaf.arguments["y"].place is None
    assert leaf.arguments["y"].value == 0


# Types.


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1e6, int, 1000000),
        (3, float, 3.0),
        (3, int | float, 3),
        (2.5, int | float, 2.5),
        (None, int | None, None),
        (3.0, int | None, 3),
        (3, float | Weights, 3.0),
        ("a", float | str, "a"),
        ("b", Literal["a", "b"], "b"),
        ("x/y", Path | None, Path("x/y")),
        ([1, [2, [None, (3,)]]], tuple[int, ...], (1, 2, 3)),
        ([1, None], tuple[int | None, ...], (1, None)),
        ([[1], None, [2, 3]], tuple[tuple[int, ...], ...], ((1,), (2, 3))),
        (["a"], Sequence[str], ("a",)),
        ([1], list[float], [1.0]),
        ([1, "a"], tuple[float, str], (1.0, "a")),
        ({"a": [1]}, dict[str, tuple[int, ...]], {"a": (1,)}),
        (object, Any, object),
    ],
)
def test_coercions(value: Any, annotation: Any, expected: Any) -> None:
    result = coerce(value, annotation)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (True, int),
        (True, float),
        (1, bool),
        (1.5, int),
        (math.nan, int),
        (math.inf, int),
        ("abc", Sequence[str]),
        ("a", int | float),
        (1, Literal[True]),
        (1, str),
        (None, int),
        ([], dict[str, int]),
        (1, Callable),
        (3, type[int]),
    ],
)
def test_refusals(value: Any, annotation: Any) -> None:
    with pytest.raises(Mismatch, match="wants"):
        coerce(value, annotation)


def test_types_are_named_as_written() -> None:
    assert type_name(dict[str, tuple[int, ...]] | None) == "dict[str, tuple[int, ...]] | None"
    assert type_name(Literal["a", 1]) == "'a' | 1"
    assert type_name(Callable[[int], Path]) == "Callable[[int], Path]"


NESTED = st.recursive(st.integers() | st.none(), lambda inner: st.lists(inner, max_size=4), max_leaves=12)


@given(st.lists(NESTED, max_size=5))
def test_flattening_keeps_the_order(value: list[Any]) -> None:
    def flat(item: Any) -> list[int]:
        return [number for part in item for number in flat(part)] if isinstance(item, list) else [item]

    expected = tuple(number for number in flat(value) if number is not None)
    assert coerce(value, tuple[int, ...]) == expected
    assert coerce(list(expected), tuple[int, ...]) == expected


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(LITERALS)
def test_values_survive_being_written(value: Any) -> None:
    statements, mistakes = parse(f"X = {config_text.format_value(value)}", "x")
    assert not mistakes
    assert statements[0].value == value
