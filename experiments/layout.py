"""How descriptions are written: components in a line, facts and numbers in aligned columns without boxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from framework.describe import weighted
from framework.description import (
    Component,
    LossTermDescription,
    NumberDescription,
    Parameters,
    RegularizerDescription,
)

_MOST_WRITTEN_OUT = 3  # Longer lists of components are counted.


class Section(NamedTuple):
    """A heading, a remark beside it, and what is below it."""

    title: str
    remark: str
    body: RenderableType


def component_text(component: Component, *, defaults: bool = True) -> str:
    """A component and its parameters, with or without those that are at their defaults."""
    shown = component.parameters if defaults else component.changed
    arguments = ", ".join(f"{name}={_value_text(component.parameters[name])}" for name in shown)
    return f"{component.name}({arguments})" if arguments else component.name


def signed(terms: Sequence[LossTermDescription | RegularizerDescription]) -> list[str]:
    """The terms of a sum, each with its sign and its cost."""
    return [f"+ {weighted(term)}".replace("+ -", "- ", 1) for term in terms]


def fact_table(facts: Mapping[str, str]) -> Table:
    """Names, and what is said of them."""
    return columns(((Text(name, "cyan"), fact) for name, fact in facts.items()))


def columns(rows: Iterable[Sequence[RenderableType]], right: Sequence[int] = ()) -> Table:
    """Aligned columns, all to the left but those at the indices ``right``."""
    rows = list(rows)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for index in range(max(map(len, rows), default=0)):
        table.add_column(justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def counted(count: int, what: str) -> str:
    """A number of things, in the plural but for one."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def parameter_count(parameters: Parameters) -> str:
    return f"{parameters.count:,} parameters in {len(parameters.arrays):,} arrays"


def shape_text(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _value_text(value: Any) -> str:
    match value:
        case NumberDescription():
            return value.symbol
        case Component():
            return component_text(value, defaults=False)
        case list() if len(value) > _MOST_WRITTEN_OUT and isinstance(value[0], Component):
            return f"{len(value)} {value[0].kind.replace('_', ' ')}"
        case list():
            return f"[{', '.join(map(_value_text, value))}]"
        case float():
            return f"{value:g}"
    return repr(value)
