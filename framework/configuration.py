"""Components as they are configured: what descriptions say of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from framework import registry
from framework.description import Component, NumberDescription
from framework.interfaces import Number


def configuration(component: Any) -> Component:
    """A component's parameters, with those of the components inside it."""
    return describe_number(component) if isinstance(component, Number) else _component(component)


def describe_number(number: Number) -> NumberDescription:
    """A number's parameters, and what it is called."""
    return NumberDescription(**vars(_component(number)), symbol=number.symbol())


def _component(component: Any) -> Component:
    values = _values(component)
    return Component(
        kind=kind_of(component),
        name=type(component).__name__,
        parameters={parameter.name: configured(value) for parameter, value in values},
        changed=tuple(p.name for p, value in values if p.required or value != p.default),
    )


def _values(component: Any) -> list[tuple[registry.Parameter, Any]]:
    return [(parameter, getattr(component, parameter.name)) for parameter in registry.parameters(type(component))]


def kind_of(component: Any) -> str:
    """The kind that a component is registered under; empty for one that is not."""
    selector = registry.selector_of(type(component))
    return selector.split(".")[0] if selector else ""


def configured(value: Any) -> Any:
    """A parameter's value, with components described and all other objects named."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [configured(item) for item in value]
        case dict():
            return {str(key): configured(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return configuration(value)
    return getattr(value, "__name__", type(value).__name__)
