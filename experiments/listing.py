"""``rulespace list [KIND]``: every registered component, by kind."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments.loading import everything
from framework import registry
from framework.config.values import type_name
from framework.errors import closest, did_you_mean

__all__ = ["everything", "main"]

WIDTH = 100
"""Columns of a line, short of words that are longer."""

SHOWN = 6
"""Entries of a default that are written out; of longer ones the first and the last are."""


def define_flags(options: flags.FlagValues) -> None:
    flags.DEFINE_enum("format", "text", ["text", "json"], "How to print.", flag_values=options)


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    known = registry.kinds()
    for kind in arguments:
        if kind not in known:
            guess = did_you_mean(closest(kind, known)) or f" There are {', '.join(known)}."
            print(f"there is no kind '{kind}'.{guess}", file=sys.stderr)
            return 1
    chosen = {kind: registry.components_of(kind) for kind in arguments or known}
    print(_as_json(chosen) if options.format == "json" else _as_text(chosen))
    return 0


def _as_text(chosen: dict[str, dict[str, type]]) -> str:
    blocks = [
        "\n".join([kind, *(line for cls in classes.values() for line in _entry(cls))])
        for kind, classes in chosen.items()
        if classes
    ]
    return "\n\n".join(blocks)


def _entry(cls: type) -> list[str]:
    """A component's lines: one where all of it fits, else its parameters, what it is and what it needs, in turn."""
    words = [part for part in (_signature(cls), _summary(cls), _needs(cls)) if part]
    line = f"  {'  '.join(words)}"
    return [line] if len(line) <= WIDTH else [wrapped for part in words for wrapped in _wrapped(part, part is words[0])]


def _wrapped(text: str, first: bool) -> list[str]:
    """Some of a component's words, in lines of their own; parameters are not parted where they need not be."""
    indents = ("  ", "        ") if first else ("      ", "      ")
    whole = ", ".join(part.replace(" ", "\xa0") if len(part) < WIDTH - 12 else part for part in text.split(", "))
    lines = textwrap.wrap(
        whole if first else text,
        WIDTH,
        initial_indent=indents[0],
        subsequent_indent=indents[1],
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\xa0", " ") for line in lines]


def _as_json(chosen: dict[str, dict[str, type]]) -> str:
    return json.dumps(
        {kind: [_described(cls) for cls in classes.values()] for kind, classes in chosen.items()}, indent=2
    )


def _signature(cls: type) -> str:
    parts = [
        f"{parameter.name}: {type_name(parameter.annotation)}"
        + ("" if parameter.required else f" = {_default(parameter.default)}")
        for parameter in registry.parameters(cls)
    ]
    return f"{cls.__name__}({', '.join(parts)})"


def _described(cls: type) -> dict[str, Any]:
    described = [
        {"name": parameter.name, "type": type_name(parameter.annotation), "required": parameter.required}
        | ({} if parameter.required else {"default": _plain(parameter.default)})
        for parameter in registry.parameters(cls)
    ]
    needed = registry.requirement_of(cls)
    package = {} if needed is None else {"requires": {"package": needed.package, "installed": needed.is_met}}
    return {"name": cls.__name__, "parameters": described, "summary": _summary(cls)} | package


def _summary(cls: type) -> str:
    # A dataclass without a docstring is given its signature as one.
    lines = (cls.__doc__ or "").strip().splitlines()
    return lines[0] if lines and not lines[0].startswith(f"{cls.__name__}(") else ""


def _needs(cls: type) -> str:
    """Which package a component needs, and how to get it where it is not there."""
    needed = registry.requirement_of(cls)
    if needed is None:
        return ""
    return f"(needs {needed.package}: {'installed' if needed.is_met else needed.advice})"


def _default(value: Any) -> str:
    if type(value) in (tuple, list):
        if len(value) > SHOWN:
            return f"({', '.join(map(_default, value[:2]))}, ..., {_default(value[-1])}: {len(value)} in all)"
        return f"({', '.join(map(_default, value))}{',' if len(value) == 1 else ''})"
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    text = repr(value)
    return type(value).__name__ if " at 0x" in text or "\n" in text else text


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else _default(value)
