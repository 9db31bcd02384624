"""Planned components, and whether a value fits the type of a parameter."""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from framework import interfaces, registry
from framework.errors import closest, did_you_mean
from framework.gin_files.mistakes import Place
from framework.gin_files.parsing import Unreadable

_SEQUENCES = (tuple, list, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)
_SCALARS = (bool, int, float, str)


@dataclasses.dataclass(frozen=True, eq=False)
class Argument:
    """The value of a component's parameter: a literal, a `Node`, or a sequence or dict of them.

    Attributes:
      value: the value, in the parameter's type.
      place: where it is bound; ``None`` for a default.
      identity: whether it tells experiments apart.
    """

    value: Any
    place: Place | None
    identity: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A component as the config describes it.

    Attributes:
      selector: its ``kind.ClassName``.
      scope: the scope it is built in.
      called: whether the component is built, or its class is passed on (``@Class`` without parentheses).
      arguments: {parameter: argument}, defaults included.
      place: of the reference that asks for it.
    """

    selector: str
    scope: tuple[str, ...]
    called: bool
    arguments: Mapping[str, Argument]
    place: Place

    @property
    def cls(self) -> type:
        return registry.component_class(self.selector)

    @property
    def kind(self) -> str:
        return self.selector.split(".")[0]

    def __str__(self) -> str:
        return f"@{self.selector}{'()' if self.called else ''}"


class Mismatch(Exception):
    """A value that does not fit a type; ``place`` is known for components."""

    def __init__(self, message: str, place: Place | None = None) -> None:
        self.place = place
        super().__init__(message)


def coerce(value: Any, annotation: Any) -> Any:
    """A value in the type that an annotation asks for.

    ``int`` takes an integral float, ``float`` an int, neither a bool. In a sequence, ``None`` is dropped and nested
    lists are flattened, unless its items may themselves be ``None`` or sequences. A protocol of a kind takes that
    kind's components, a class its own and its subclasses', a callable also a class that is not called.

    Raises:
      Mismatch: the value does not fit.
    """
    origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if isinstance(value, Unreadable) or annotation in (Any, object):
        return value
    if origin is typing.Annotated:
        return coerce(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, annotation)
    if origin is typing.Literal:
        return _literal(value, annotation)
    if origin in _SEQUENCES:
        return _sequence(value, annotation)
    if origin in _MAPPINGS:
        return _mapping(value, annotation)
    if origin is collections.abc.Callable:
        return _callable(value, annotation)
    if origin is type:
        return _class(value, annotation)
    if origin in (int, float):
        return _number(value, origin)
    if origin is Path and isinstance(value, str):
        return Path(value)
    if isinstance(value, Node):
        return _component(value, origin)
    if annotation is None or annotation is types.NoneType:
        fits = value is None
    else:
        fits = isinstance(origin, type) and not _is_protocol(origin) and isinstance(value, origin)
        fits = fits and (origin is bool or not isinstance(value, bool))
    if not fits:
        raise _wants(annotation, value)
    return value


def type_name(annotation: Any) -> str:
    """An annotation as it is written, without modules."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is types.NoneType or annotation is None:
        return "None"
    if annotation is Ellipsis:
        return "..."
    if isinstance(annotation, list):
        return f"[{', '.join(map(type_name, annotation))}]"
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_name, arguments))
    if origin is typing.Literal:
        return " | ".join(map(repr, arguments))
    name = getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(type_name, arguments))}]" if arguments else name


def shown(value: Any) -> str:
    """A value with its type, for a message."""
    if value is None or isinstance(value, Node):
        return f"{value}"
    return f"{type(value).__name__} {value!r}" if isinstance(value, _SCALARS) else type(value).__name__


def _one_of(value: Any, annotation: Any) -> Any:
    members = [member for member in typing.get_args(annotation) if member is not types.NoneType]
    if value is None and len(members) < len(typing.get_args(annotation)):
        return None
    if len(members) == 1:
        return coerce(value, members[0])
    if type(value) in members:  # 1 stays an int where int | float is asked for.
        return value
    for member in members:
        try:
            return coerce(value, member)
        except Mismatch:
            continue
    raise _wants(annotation, value)


def _literal(value: Any, annotation: Any) -> Any:
    choices = typing.get_args(annotation)
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        texts = [choice for choice in choices if isinstance(choice, str)]
        guess = closest(value, texts) if isinstance(value, str) else None
        raise Mismatch(f"wants {type_name(annotation)}, got {shown(value)}.{did_you_mean(guess)}")
    return value


def _sequence(value: Any, annotation: Any) -> Any:
    if not isinstance(value, list | tuple):
        advice = " (write [])" if value is None else " (write it in [])"
        raise Mismatch(f"wants {type_name(annotation)}, got {shown(value)}{advice}", _place(value))
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation) or annotation
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise Mismatch(f"wants {type_name(annotation)}, got {len(value)} items")
        return tuple(coerce(item, argument) for item, argument in zip(value, arguments, strict=True))
    item_type = arguments[0] if arguments else Any
    items = [coerce(item, item_type) for item in _flat(value, item_type)]
    return items if origin is list else tuple(items)


def _flat(value: list[Any] | tuple[Any, ...], item_type: Any) -> Iterator[Any]:
    options = {typing.get_origin(option) or option for option in (item_type, *typing.get_args(item_type))}
    for item in value:
        if isinstance(item, list | tuple) and options.isdisjoint(_SEQUENCES):
            yield from _flat(item, item_type)
        elif item is not None or types.NoneType in options:
            yield item


def _mapping(value: Any, annotation: Any) -> Any:
    if not isinstance(value, dict):
        raise _wants(annotation, value)
    key_type, item_type = typing.get_args(annotation) or (Any, Any)
    return {coerce(key, key_type): coerce(item, item_type) for key, item in value.items()}


def _number(value: Any, wanted: type) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wants(wanted, value)
    if wanted is float:
        return float(value)
    if isinstance(value, float) and not value.is_integer():
        raise Mismatch(f"wants an integer, got {value!r}")
    return int(value)


def _callable(value: Any, annotation: Any) -> Any:
    if isinstance(value, Node):
        fits = not value.called or any("__call__" in vars(base) for base in value.cls.__mro__)
    else:
        fits = callable(value)
    if not fits:
        raise _wants(annotation, value)
    return value


def _class(value: Any, annotation: Any) -> Any:
    bound = next(iter(typing.get_args(annotation)), object)
    if isinstance(value, Node) and value.called:
        raise Mismatch(f"wants a class, got {value}: leave out the parentheses", value.place)
    cls = value.cls if isinstance(value, Node) else value
    if not isinstance(cls, type) or (
        isinstance(bound, type) and not _is_protocol(bound) and not issubclass(cls, bound)
    ):
        raise _wants(annotation, value)
    return value


def _component(node: Node, wanted: Any) -> Node:
    kind = next((kind for kind, protocol in interfaces.KINDS.items() if protocol is wanted), None)
    if kind is not None:
        fits = node.kind == kind
        what = f"a component of kind '{kind}'"
    elif _is_protocol(wanted):
        lacks = registry.missing_members(node.cls, wanted)
        fits = not lacks
        what = f"{type_name(wanted)} (a component with {', '.join(lacks)})"
    else:
        fits = isinstance(wanted, type) and issubclass(node.cls, wanted)
        what = type_name(wanted)
    if not fits:
        raise Mismatch(f"wants {what}, got {node} of kind '{node.kind}'", node.place)
    if not node.called:
        raise Mismatch(f"wants a component, got the class {node}: write {node}()", node.place)
    return node


def _is_protocol(annotation: Any) -> bool:
    return bool(getattr(annotation, "_is_protocol", False))


def _wants(annotation: Any, value: Any) -> Mismatch:
    if isinstance(value, Node):
        return Mismatch(f"wants {type_name(annotation)}, got {value} of kind '{value.kind}'", value.place)
    return Mismatch(f"wants {type_name(annotation)}, got {shown(value)}")


def _place(value: Any) -> Place | None:
    return value.place if isinstance(value, Node) else None
