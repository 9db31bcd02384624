"""Outputs of an agent's network."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from framework.registry import component
from framework.specs import EnvironmentSpec
from framework.transforms import expected_bin, huber, signed_hyperbolic, signed_parabolic, two_hot
from framework.types import Array


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


@component("heads")
@dataclasses.dataclass(frozen=True)
class Policy:
    """Logits of the policy pi(s), one per action."""

    name: str = "logits"
    action_conditional: ClassVar[bool] = False

    def size(self, spec: EnvironmentSpec) -> int:
        return spec.num_actions


@component("heads")
@dataclasses.dataclass(frozen=True)
class Prediction:
    """A categorical prediction y(s) whose meaning the update rule decides (Oh et al., 2020)."""

    name: str = "y"
    categories: int = 600
    action_conditional: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_at_least("categories", self.categories, 2)

    def size(self, spec: EnvironmentSpec) -> int:
        return self.categories


@component("heads")
@dataclasses.dataclass(frozen=True)
class ActionPrediction:
    """A categorical prediction z(s, a) whose meaning the update rule decides (Oh et al., 2025)."""

    name: str = "z"
    categories: int = 600
    action_conditional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_at_least("categories", self.categories, 2)

    def size(self, spec: EnvironmentSpec) -> int:
        return self.categories


@component("heads")
@dataclasses.dataclass(frozen=True)
class NextPolicy:
    """Logits p(s, a) of the policy at the state that an action leads to (Oh et al., 2025)."""

    name: str = "p"
    action_conditional: ClassVar[bool] = True

    def size(self, spec: EnvironmentSpec) -> int:
        return spec.num_actions


@component("heads")
@dataclasses.dataclass(frozen=True)
class Value:
    """The value v(s), a scalar regressed with half the squared error."""

    name: str = "v"
    action_conditional: ClassVar[bool] = False

    def size(self, spec: EnvironmentSpec) -> int:
        return 1

    def read(self, output: Array) -> Array:
        return output.squeeze(-1)

    def loss(self, output: Array, target: Array) -> Array:
        return 0.5 * jnp.square(self.read(output) - target)

    def formula(self, output: str, target: str) -> str:
        return f"1/2 ({output} - {target})^2"


@component("heads")
@dataclasses.dataclass(frozen=True)
class ScalarActionValue:
    """The action value q(s, a), a scalar regressed with half the squared error or, more robustly, the Huber loss.

    Attributes:
      name: of the head.
      threshold: error beyond which the loss is linear, in units of the returns; ``None``: never. DQN has 1.

    Source: Mnih et al., 2015, Methods.
    """

    name: str = "q"
    threshold: float | None = None
    action_conditional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.threshold is not None and self.threshold <= 0:
            raise ValueError(f"threshold must be positive, got {self.threshold}")

    def size(self, spec: EnvironmentSpec) -> int:
        return 1

    def read(self, output: Array) -> Array:
        return output.squeeze(-1)

    def loss(self, output: Array, target: Array) -> Array:
        error = self.read(output) - target
        return 0.5 * jnp.square(error) if self.threshold is None else huber(error, self.threshold)

    def formula(self, output: str, target: str) -> str:
        error = f"({output} - {target})"
        return f"1/2 {error}^2" if self.threshold is None else f"Huber{error}"


@dataclasses.dataclass(frozen=True)
class _Categorical:
    """A value as a distribution over the integer bins from -limit to limit.

    Returns are squashed by the signed hyperbolic transform, encoded two-hot, and learned by cross-entropy
    (Schrittwieser et al., 2020).
    """

    name: str
    limit: int = 300

    def __post_init__(self) -> None:
        _check_at_least("limit", self.limit, 1)

    def size(self, spec: EnvironmentSpec) -> int:
        return 2 * self.limit + 1

    def read(self, output: Array) -> Array:
        return signed_parabolic(expected_bin(output, self.limit))

    def loss(self, output: Array, target: Array) -> Array:
        return -(two_hot(signed_hyperbolic(target), self.limit) * jax.nn.log_softmax(output)).sum(-1)

    def formula(self, output: str, target: str) -> str:
        return f"CE(two_hot(h({target})), {output})"


@component("heads")
@dataclasses.dataclass(frozen=True)
class CategoricalValue(_Categorical):
    """The value v(s) as a distribution over the integer bins from -limit to limit.

    Returns are squashed by the signed hyperbolic transform, encoded two-hot, and learned by cross-entropy
    (Schrittwieser et al., 2020; Hessel et al., 2021).
    """

    name: str = "v"
    action_conditional: ClassVar[bool] = False


@component("heads")
@dataclasses.dataclass(frozen=True)
class CategoricalActionValue(_Categorical):
    """The action value q(s, a) as a distribution over the integer bins from -limit to limit.

    Returns are squashed by the signed hyperbolic transform, encoded two-hot, and learned by cross-entropy
    (Schrittwieser et al., 2020; Oh et al., 2025).
    """

    name: str = "q"
    action_conditional: ClassVar[bool] = True
