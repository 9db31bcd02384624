"""Configs as text: the merged and the operative gin file, the hash, and what differs between two trees."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gin

from framework import registry
from framework.config.reading import Key
from framework.config.values import Argument, Node
from framework.gin_files.literals import format_literal
from framework.gin_files.parsing import Macro, Reference

_LINE_LENGTH = 100
_UNSET = Argument("(not set)", None)  # A class that is passed on may leave parameters to whoever calls it.


def format_value(value: Any, reference: Callable[[Node], str] = str) -> str:
    """A value as a gin literal; ``reference`` writes planned components.

    Raises:
      ValueError: gin has no literal for it.
    """
    return format_literal(value, lambda other: _named(other, reference))


def _named(value: Any, reference: Callable[[Node], str]) -> str:
    """What stands for a value that is no literal."""
    match value:
        case Node():
            return reference(value)
        case Reference():
            matches = registry.matching_selectors(value.selector)
            return str(dataclasses.replace(value, selector=matches[0]) if len(matches) == 1 else value)
        case Macro():
            return str(value)
        case Path():
            return repr(str(value))
    return _constant(value)


def config_text(imports: Sequence[str], values: dict[Key, Any]) -> str:
    """Merged definitions as one gin file: imports, macros, then parameters in their order."""
    macros = [_line(str(key), value, format_value) for key, value in values.items() if not key.selector]
    bindings = [_line(str(key), value, format_value) for key, value in values.items() if key.selector]
    return "\n\n".join("\n".join(part) for part in (imports, macros, bindings) if part) + "\n"


def operative_text(imports: Sequence[str], root: Node) -> str:
    """Every parameter of every component, defaults included, as one gin file.

    Components of one class with different parameters are told apart by scopes (``Class_1``, ``Class_2``).
    """
    variants: dict[str, list[str]] = {}
    nodes: dict[str, Node] = {}
    for node in _nodes(root):
        form = _exact_form(node)
        if form not in nodes:
            nodes[form] = node
            variants.setdefault(node.selector, []).append(form)

    def scope(node: Node) -> str:
        forms = variants[node.selector]
        return f"{node.selector.split('.')[1]}_{forms.index(_exact_form(node)) + 1}/" if len(forms) > 1 else ""

    def write(value: Any) -> str:
        return format_value(value, lambda node: f"@{scope(node)}{str(node)[1:]}")

    blocks = ["\n".join(imports)] if imports else []
    for node in nodes.values():
        lines = []
        for name, argument in node.arguments.items():
            key = f"{scope(node)}{node.selector}.{name}"
            try:
                lines.append(_line(key, argument.value, write))
            except ValueError:  # Only a default can be such a value, so that leaving it out means the same.
                lines.append(f"# {key} = {type(argument.value).__name__} (default)")
        blocks.append("\n".join(lines or [f"# {scope(node)}{node.selector} has no parameters"]))
    return "\n\n".join(blocks) + "\n"


def config_hash(root: Node) -> str:
    """12 hexadecimal characters that depend on what is built alone, without the fields that are no identity."""
    canonical = json.dumps(_canonical(root, identity_only=True), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def differences(left: Node, right: Node, *, identity_only: bool = False) -> list[str]:
    """``path.to.parameter: left != right`` for everything that differs between two trees."""
    if left.selector != right.selector:
        return [f"{left} != {right}"]
    return list(_compare_nodes(left, right, "", identity_only))


def _compare_nodes(left: Node, right: Node, path: str, identity_only: bool) -> Iterator[str]:
    for name in dict.fromkeys((*left.arguments, *right.arguments)):
        here, there = left.arguments.get(name, _UNSET), right.arguments.get(name, _UNSET)
        if not identity_only or (here.identity and there.identity):
            yield from _compare(here.value, there.value, f"{path}.{name}" if path else name, identity_only)


def _compare(left: Any, right: Any, path: str, identity_only: bool) -> Iterator[str]:
    same_class = isinstance(left, Node) and isinstance(right, Node) and left.selector == right.selector
    if same_class and left.called == right.called:
        yield from _compare_nodes(left, right, path, identity_only)
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple) and _holds_nodes((*left, *right)):
        here, there = _labelled(left), _labelled(right)
        if list(here) != list(there):
            yield f"{path}: [{', '.join(here)}] != [{', '.join(there)}]"
        for label in here:
            if label in there:
                yield from _compare(here[label], there[label], f"{path}[{label}]", identity_only)
    elif isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        for key in left:
            yield from _compare(left[key], right[key], f"{path}[{key!r}]", identity_only)
    elif _canonical(left, identity_only) != _canonical(right, identity_only):
        yield f"{path}: {_short(left)} != {_short(right)}"


def _holds_nodes(items: Iterable[Any]) -> bool:
    return any(isinstance(item, Node) for item in items)


def _labelled(items: Sequence[Any]) -> dict[str, Any]:
    """Items by their class, numbered from the second of a class on, so that a list lines up with a longer one."""
    labelled: dict[str, Any] = {}
    for item in items:
        name = item.selector.split(".")[1] if isinstance(item, Node) else _short(item)
        count = sum(label.split("#")[0] == name for label in labelled)
        labelled[f"{name}#{count + 1}" if count else name] = item
    return labelled


def _short(value: Any) -> str:
    try:
        return format_value(value)
    except ValueError:
        return str(_canonical(value, identity_only=False))


def _canonical(value: Any, identity_only: bool) -> Any:
    """A value as nested lists that are equal exactly for equal values, and the same in every process."""
    match value:
        case Node():
            arguments = {
                name: _canonical(argument.value, identity_only)
                for name, argument in value.arguments.items()
                if argument.identity or not identity_only
            }
            return ["component", value.selector, value.called, arguments]
        case None | bool() | str():
            return value
        case enum.Enum():
            return ["constant", type(value).__name__, value.name]
        case int():
            return ["number", str(value)]
        case float():  # A default 1 of a float is the same as 1.0.
            return ["number", str(int(value)) if value.is_integer() else repr(value)]
        case Path():
            return str(value)
        case list() | tuple():
            return ["sequence", *(_canonical(item, identity_only) for item in value)]
        case dict():
            return ["dict", *sorted(([str(k), _canonical(v, identity_only)] for k, v in value.items()), key=str)]
    if callable(value) and hasattr(value, "__qualname__"):
        return ["object", value.__module__, value.__qualname__]
    text = repr(value)
    return ["object", type(value).__qualname__, "" if " at 0x" in text else text]


def _exact_form(node: Node) -> str:
    return json.dumps(_canonical(node, identity_only=False), sort_keys=True)


def _nodes(value: Any) -> Iterator[Node]:
    """All components of a tree, parents first."""
    match value:
        case Node():
            yield value
            for argument in value.arguments.values():
                yield from _nodes(argument.value)
        case list() | tuple():
            for item in value:
                yield from _nodes(item)
        case dict():
            for item in value.values():
                yield from _nodes(item)


def _constant(value: Any) -> str:
    name = next((name for name, constant in gin.config._CONSTANTS.items() if constant is value), None)
    if name is None:
        raise ValueError(f"no gin literal stands for a {type(value).__name__}")
    return f"%{name}"


def _line(key: str, value: Any, write: Callable[[Any], str]) -> str:
    line = f"{key} = {write(value)}"
    if len(line) <= _LINE_LENGTH or not isinstance(value, list | tuple):
        return line
    opening, closing = "[]" if isinstance(value, list) else "()"
    return "\n".join([f"{key} = {opening}", *(f"    {write(item)}," for item in value), closing])
