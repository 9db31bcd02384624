"""Registration of components under ``kind.ClassName``, the name by which gin files refer to them."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import flax.linen as nn
import gin
from gin.selector_map import SelectorMap

from framework import interfaces
from framework.requirements import Requirement

_COMPONENTS = SelectorMap()

NO_IDENTITY = {"identity": False}
"""Metadata of fields that do not make an experiment another one: a run may be made longer, or logged otherwise."""

_LINEN_FIELDS = ("parent", "name")

C = TypeVar("C", bound=type)


class RegistrationError(TypeError):
    """A class that cannot be a component of the kind it was registered for."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of a component.

    Attributes:
      name: of the dataclass field.
      annotation: its resolved type.
      default: its default; ``dataclasses.MISSING`` if it must be given.
      identity: whether it tells experiments apart; a field with the metadata `NO_IDENTITY` does not.
    """

    name: str
    annotation: Any
    default: Any
    identity: bool = True

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that only the whole experiment can tell is wrong with one of its components.

    Attributes:
      component: the very object that is at fault.
      parameter: the parameter at fault, if it is one.
      message: what is wrong, and what to do.
    """

    component: object
    parameter: str | None
    message: str


def component(kind: str) -> Callable[[C], C]:
    """Registers a class as a component of a kind, after checking that it is one; the class itself is untouched.

    Raises:
      RegistrationError: the kind is unknown, the name is taken, or the class lacks something the kind asks for.
    """

    def register(cls: C) -> C:
        faults = list(_faults(cls, kind))
        if faults:
            raise RegistrationError(f"{cls.__module__}.{cls.__qualname__} cannot be registered: {'; '.join(faults)}")
        gin.register(cls, module=kind)
        _COMPONENTS[f"{kind}.{cls.__name__}"] = cls
        return cls

    return register


def kinds() -> tuple[str, ...]:
    """Names of all kinds, those with a protocol first."""
    return (*interfaces.KINDS, *interfaces.COMPOSITE_KINDS)


def components_of(kind: str) -> dict[str, type]:
    """{class name: class} of all registered components of a kind, sorted by name."""
    selectors = sorted(selector for selector, _ in _COMPONENTS.items() if selector.split(".")[0] == kind)
    return {selector.split(".")[1]: _COMPONENTS[selector] for selector in selectors}


def parameters(cls: type) -> tuple[Parameter, ...]:
    """The parameters of a component; linen's own fields are none."""
    hints = typing.get_type_hints(cls)
    hidden = _LINEN_FIELDS if issubclass(cls, nn.Module) else ()
    return tuple(
        Parameter(field.name, hints[field.name], _default(field), field.metadata.get("identity", True))
        for field in dataclasses.fields(cls)
        if field.init and field.name not in hidden
    )


def matching_selectors(selector: str) -> tuple[str, ...]:
    """All ``kind.ClassName`` that a possibly partial selector stands for, by gin's own rules."""
    return tuple(sorted(_COMPONENTS.matching_selectors(selector)))


def all_selectors() -> tuple[str, ...]:
    """Every registered ``kind.ClassName``."""
    return tuple(sorted(selector for selector, _ in _COMPONENTS.items()))


def component_class(selector: str) -> type:
    """The class registered under a complete ``kind.ClassName``."""
    cls: type = _COMPONENTS[selector]
    return cls


def selector_of(cls: type) -> str | None:
    """The ``kind.ClassName`` of a class; ``None`` if it is not registered."""
    return next((selector for selector, registered in _COMPONENTS.items() if registered is cls), None)


def requirement_of(cls: type) -> Requirement | None:
    """The package that a component needs besides the install; it says so by an attribute ``requires``."""
    needed: Requirement | None = getattr(cls, "requires", None)
    return needed


def missing_members(cls: type, protocol: type) -> tuple[str, ...]:
    """What a protocol asks for and a class has neither as a method, nor as an attribute, nor as a field."""
    # hasattr would find type.__call__ on every class, and no field without a default.
    fields = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    offered = fields.union(*(vars(base) for base in cls.__mro__))
    return tuple(name for name in sorted(_members(protocol)) if name not in offered)


def _members(protocol: type) -> set[str]:
    bases = [base for base in protocol.__mro__ if getattr(base, "_is_protocol", False) and base is not typing.Protocol]
    names = {name for base in bases for name in (*vars(base), *inspect.get_annotations(base))}
    return {name for name in names if name == "__call__" or not name.startswith("_")}


def _faults(cls: type, kind: str) -> Iterator[str]:
    if kind not in kinds():
        yield f"there is no kind '{kind}', only {', '.join(kinds())}"
        return
    if f"{kind}.{cls.__name__}" in _COMPONENTS:
        taken = _COMPONENTS[f"{kind}.{cls.__name__}"]
        yield f"the name '{kind}.{cls.__name__}' is taken by the class of module {taken.__module__}: choose another"
    # Looked up in the class itself: a subclass inherits its base's mark without being a dataclass of its own fields.
    is_frozen = "__dataclass_params__" in vars(cls) and vars(cls)["__dataclass_params__"].frozen
    if not is_frozen and not issubclass(cls, nn.Module):
        yield "it must be an nn.Module or a frozen dataclass (@dataclasses.dataclass(frozen=True) below @component)"
        return
    try:
        parameters(cls)
    except (NameError, TypeError, AttributeError) as error:
        yield f"the annotations of its fields cannot be resolved ({error}): import their types at the top of the module"
    missing = missing_members(cls, interfaces.KINDS[kind]) if kind in interfaces.KINDS else ()
    if missing:
        yield f"it lacks what {kind} must offer ({interfaces.KINDS[kind].__name__}): {', '.join(missing)}"


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return dataclasses.MISSING if field.default is gin.REQUIRED else field.default
