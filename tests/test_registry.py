"""Registration: what it accepts, what it refuses, and in which words."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import flax.linen as nn
import pytest

from framework import interfaces, registry
from framework.registry import RegistrationError, component, components_of, kinds, parameters


@component("weights")
@dataclasses.dataclass(frozen=True)
class RegistryWeights:
    """Weights for tests."""

    path: str
    scale: float = 1.0
    tags: tuple[str, ...] = dataclasses.field(default_factory=tuple)
    note: str = dataclasses.field(default="", metadata={"identity": False})

    def __call__(self, initial: Any) -> Any:
        return initial


@component("trajectory_cores")
class RegistryCore(nn.Module):
    """A core for tests."""

    size: int = 4

    def __call__(self, features: Any, last: Any) -> Any:
        return features


def test_class_is_untouched() -> None:
    assert RegistryWeights("a") == RegistryWeights(path="a", scale=1.0)
    assert components_of("weights")["RegistryWeights"] is RegistryWeights
    assert type(RegistryCore(size=3)) is RegistryCore


def test_parameters_are_fields_with_types_and_defaults() -> None:
    path, scale, tags, note = parameters(RegistryWeights)
    assert (path.name, path.annotation, path.required) == ("path", str, True)
    assert (scale.annotation, scale.default, scale.required) == (float, 1.0, False)
    assert tags.default == ()
    assert (note.identity, path.identity) == (False, True)


def test_linen_fields_are_no_parameters() -> None:
    assert [parameter.name for parameter in parameters(RegistryCore)] == ["size"]


def test_kinds_are_those_of_the_interfaces() -> None:
    assert set(kinds()) == {*interfaces.KINDS, *interfaces.COMPOSITE_KINDS}
    assert components_of("no_such_kind") == {}


def test_partial_selectors_match_as_in_gin() -> None:
    assert registry.matching_selectors("RegistryCore") == ("trajectory_cores.RegistryCore",)
    assert registry.matching_selectors("trajectory_cores.RegistryCore") == ("trajectory_cores.RegistryCore",)
    assert registry.matching_selectors("cores.RegistryCore") == ()


def refuse(kind: str, cls: type, message: str) -> None:
    with pytest.raises(RegistrationError, match=message):
        component(kind)(cls)
    assert cls not in components_of(kind).values()


def test_unknown_kind_is_refused() -> None:
    refuse("weigths", type("Lost", (), {}), "there is no kind 'weigths'")


def test_name_that_is_taken_is_refused() -> None:
    twin = dataclasses.make_dataclass("RegistryWeights", [], frozen=True, namespace={"__call__": lambda self: None})
    refuse("weights", twin, "'weights.RegistryWeights' is taken by the class of module .*test_registry")


def test_same_name_under_another_kind_is_fine() -> None:
    cls = dataclasses.make_dataclass("RegistryCore", [], frozen=True)
    assert component("settings")(cls) is cls
    assert len(registry.matching_selectors("RegistryCore")) == 2
    registry._COMPONENTS.pop("settings.RegistryCore")


@pytest.mark.parametrize(
    "cls",
    [
        type("Plain", (), {"__call__": lambda self: None}),
        dataclasses.make_dataclass("Mutable", [], namespace={"__call__": lambda self: None}),
        type("Heir", (RegistryWeights,), {}),
    ],
)
def test_only_frozen_dataclasses_and_modules_are_components(cls: type) -> None:
    refuse("weights", cls, "must be an nn.Module or a frozen dataclass")


def test_missing_methods_and_fields_are_named() -> None:
    refuse("weights", dataclasses.make_dataclass("NoCall", [], frozen=True), r"lacks .*\(Weights\): __call__")
    head = dataclasses.make_dataclass("HalfHead", [("name", str)], frozen=True)
    refuse("heads", head, r"\(Head\): action_conditional, .*size")


def test_unresolvable_annotation_is_refused() -> None:
    cls = dataclasses.make_dataclass("Vague", [("x", "NoSuchType")], frozen=True)
    refuse("settings", cls, "annotations of its fields cannot be resolved.*NoSuchType")


def test_members_of_inherited_protocols_count() -> None:
    class Named(Protocol):
        name: str

    class Sized(Named, Protocol):
        def size(self) -> int: ...

    half = dataclasses.make_dataclass("Half", [("name", str)], frozen=True)
    assert registry.missing_members(half, Sized) == ("size",)
    assert registry.missing_members(object, Sized) == ("name", "size")
