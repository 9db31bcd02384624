"""The rules of the source tree that no single component can hold: who imports whom, and what must not be there."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    "framework": {"framework"},
    "components": {"framework", "components"},
    "experiments": {"framework", "components", "experiments"},
    "launch": {"framework", "launch"},
}
MAY_IMPORT_MORE = {"experiments.cli": {"launch"}}  # The verbs of the command are below it, whoever holds them.
JAX_LIBRARIES = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}


def sources(*packages: str) -> list[Path]:
    """Every Python file of some of our packages."""
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def module_name(path: Path) -> str:
    """The dotted name of one of our files."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


OURS = {module_name(path): path for path in sources(*MAY_IMPORT)}


def imports(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Every module that a file imports, wherever in it, by statement or by ``importlib.import_module("name")``."""
    for node in ast.walk(tree(path)):
        match node:
            case ast.Import(names=names):
                yield from ((node, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                for alias in names:
                    submodule = f"{module}.{alias.name}"
                    yield node, submodule if submodule in OURS else module
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield node, module


def top(module: str) -> str:
    return module.partition(".")[0]


def for_types_only(path: Path) -> set[ast.AST]:
    """What a file says in ``if TYPE_CHECKING``: none of it happens."""
    guarded = [n for n in ast.walk(tree(path)) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {inner for block in guarded for statement in block.body for inner in ast.walk(statement)}


def loaded_with(module: str) -> set[str]:
    """Everything that importing one of our modules may import: ours by full name, other libraries by their first."""
    seen: set[str] = set()
    ahead = [module]
    while ahead:
        current = ahead.pop()
        current = current if current in OURS else top(current)
        if current in seen:
            continue
        seen.add(current)
        ahead += [current.rpartition(".")[0]] if "." in current else []
        if current in OURS:
            skipped = for_types_only(OURS[current])
            ahead += [name for node, name in imports(OURS[current]) if node not in skipped]
    return seen - {module}


def test_packages_import_only_what_is_below_them() -> None:
    upward = [
        f"{place(path, node)}: {module} imports {name}"
        for module, path in OURS.items()
        for node, name in imports(path)
        if top(name) in MAY_IMPORT and top(name) not in MAY_IMPORT[top(module)] | MAY_IMPORT_MORE.get(module, set())
    ]
    assert not upward


def test_few_know_of_other_hosts() -> None:
    """A component, and most of the framework, sees the agents of one device: who asks for hosts has to ask on all."""
    of_hosts = re.compile(r"framework\.(hosts|failures|leaving)")
    may_ask = re.compile(
        r"framework\.(hosts|failures|parallel|host_environments\.worlds|checkpoint(_files)?|evaluate|runs\.loop)|experiments\.run"
    )
    asking = [
        f"{place(path, node)}: {module} imports {name}"
        for module, path in OURS.items()
        for node, name in imports(path)
        if of_hosts.fullmatch(name) and not may_ask.fullmatch(module)
    ]
    assert not asking
    assert sum(bool(of_hosts.fullmatch(module)) for module in OURS) == 3


def test_launching_needs_no_jax() -> None:
    loaded = {module: loaded_with(module) & JAX_LIBRARIES for module in OURS if top(module) == "launch"}
    assert not any(loaded.values()), loaded


def test_worker_processes_load_no_jax() -> None:
    """Else each would take seconds to start, and the memory of an accelerator."""
    outside = r"framework\.host_environments(\.(arrays|batch|crew|pool|streams|worker))?"
    of_workers = re.compile(rf"{outside}|components\.streams(\..+)?")
    workers = [module for module in OURS if of_workers.fullmatch(module)]
    assert len(workers) >= 12
    loaded = {module: loaded_with(module) & {*JAX_LIBRARIES, "gin"} for module in workers}
    assert not any(loaded.values()), loaded


def test_tensorflow_is_loaded_where_recordings_are_used_and_nowhere_else() -> None:
    """It takes ten seconds, and is no part of the install: `Requirement.module` loads it, and says where it is not."""
    slow = {"tensorflow", "seqio", "array_record"}
    named = [place(path, node) for path in OURS.values() for node, name in imports(path) if top(name) in slow]
    assert not named


def test_clients_of_a_cloud_are_loaded_by_who_asks_it_something() -> None:
    """They take a second, and are no part of the install."""
    clients = {"google", "requests"}
    at_once = [
        place(path, node)
        for module, path in OURS.items()
        for node, name in imports(path)
        if top(module) != "launch" and top(name) in clients and node in tree(path).body
    ]
    assert not at_once


def test_gin_is_imported_at_the_edge_only() -> None:
    edge = re.compile(r"framework\.(registry|(config|gin_files)(\.\w+)?)|launch\.sweep_file")
    inside = [
        place(path, node)
        for module, path in OURS.items()
        for node, name in imports(path)
        if top(name) == "gin" and not edge.fullmatch(module)
    ]
    assert not inside


def test_the_gin_folder_holds_gin_files_only() -> None:
    """An ``__init__.py`` there would hide the package of gin-config."""
    others = [path for path in (ROOT / "gin").rglob("*") if path.is_file() and path.suffix != ".gin"]
    assert not others


def test_no_module_is_named_utils() -> None:
    assert not [path for path in sources(*MAY_IMPORT, "tests") if re.fullmatch(r"_*utils?", path.stem)]


def component_names() -> set[str]:
    """Names of the registered components, as ``spelling`` compares them."""
    return {
        spelling(node.name)
        for path in sources("framework", "components")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and any("component(" in ast.unparse(d) for d in node.decorator_list)
    }


def spelling(name: str) -> str:
    """One spelling of ``PPOClip``, ``ppo_clip`` and ``ppo-clip``."""
    return re.sub(r"[_-]", "", name).lower()


def compared_strings(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """The strings, each with its place, that a file compares something with: by ``==``, ``in`` or ``match``."""
    for node in ast.walk(tree(path)):
        match node:
            case ast.Compare(ops=ops, left=left, comparators=comparators) if any(
                isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in ops
            ):
                compared = [left, *comparators]
            case ast.MatchValue(value=value):
                compared = [value]
            case _:
                continue
        for side in compared:
            members = side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]
            yield from ((m, m.value) for m in members if isinstance(m, ast.Constant) and isinstance(m.value, str))


def test_nothing_is_chosen_by_a_component_name() -> None:
    names = component_names()
    assert names, "no registered component was found: this test is out of date"
    dispatch = [
        f"{place(path, node)}: {string!r} is the name of a component"
        for path in sources("framework", "components")
        for node, string in compared_strings(path)
        if spelling(string) in names
    ]
    assert not dispatch


def test_components_take_no_arbitrary_keywords() -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    loose = [
        place(path, node)
        for path in sources("components")
        for node in ast.walk(tree(path))
        if isinstance(node, functions) and node.args.kwarg
    ]
    assert not loose


@functools.cache
def tracked_files() -> list[Path]:
    """The files of the repository."""
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if git.returncode:
        pytest.skip("not a git checkout")
    return [path for name in git.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_is_over_one_mebibyte() -> None:
    assert not [path for path in tracked_files() if path.stat().st_size > 2**20]


def test_no_file_names_a_folder_of_one_machine() -> None:
    machine_path = re.compile(rb"(?<![\w.~])/(?:home|root|tmp|work|Users)/[\w.]")
    texts = [(path, path.read_bytes()) for path in tracked_files() if path.suffix not in (".npz", ".png")]
    named = [
        f"{path.relative_to(ROOT)}:{number}"
        for path, text in texts
        for number, line in enumerate(text.splitlines(), 1)
        if machine_path.search(line)
    ]
    assert not named
