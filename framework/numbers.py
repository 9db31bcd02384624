"""Numbers that are not constants: carried by an agent, scheduled, learned with the rule, or emitted by it."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from framework.interfaces import Number
from framework.registry import component
from framework.types import Array

ENV_STEPS = "env_steps"
"""Under which an agent's hyperparameters hold how many environment steps its updates have taken []."""


@component("numbers")
@dataclasses.dataclass(frozen=True)
class Hyperparameter:
    """A number that each agent carries, and that may differ between agents.

    Attributes:
      name: key in the agent's hyperparameters; the same name is the same number.
      value: of a newborn agent.
    """

    name: str
    value: float

    def __post_init__(self) -> None:
        if self.name == ENV_STEPS:
            raise ValueError(f"name must not be '{ENV_STEPS}', which schedules read")

    def resolve(self, hyperparameters: dict[str, Array], targets: dict[str, Array]) -> Array:
        return hyperparameters[self.name]

    def symbol(self) -> str:
        return self.name


@component("numbers")
@dataclasses.dataclass(frozen=True)
class Schedule:
    """A number that moves with an agent's experience: up from 0 at first, then from an initial to a final value.

    Attributes:
      initial: value at the end of the warm-up.
      final: value from ``env_steps`` on.
      env_steps: environment steps that an agent's updates have taken when the final value is reached; of a discovery
        with their validation trajectories, and without those from before the first update, which fill a replay.
      warm_up: environment steps in which the number rises from 0 to ``initial``; they are part of ``env_steps``.
      shape: how it moves between the two: along a straight line, or half a cosine.
    """

    initial: float
    final: float
    env_steps: float
    warm_up: float = 0.0
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        for name in ("initial", "final", "env_steps", "warm_up"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")
        if self.warm_up < 0:
            raise ValueError(f"warm_up must not be negative, got {self.warm_up}")
        if self.env_steps <= self.warm_up:
            raise ValueError(f"env_steps must be more than warm_up={self.warm_up:g}, got {self.env_steps:g}")

    def resolve(self, hyperparameters: dict[str, Array], targets: dict[str, Array]) -> Array:
        return self.value(hyperparameters[ENV_STEPS])

    def value(self, env_steps: Array) -> Array:
        """The number after some environment steps [...]."""
        way = jnp.clip((env_steps - self.warm_up) / (self.env_steps - self.warm_up), 0.0, 1.0)
        if self.shape == "cosine":
            way = 0.5 - 0.5 * jnp.cos(jnp.pi * way)
        value = self.initial + (self.final - self.initial) * way
        return value * jnp.minimum(1.0, env_steps / self.warm_up) if self.warm_up else value

    def symbol(self) -> str:
        return f"({self.initial:g} to {self.final:g})"


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers between two bounds, as a smooth image of the whole real line.

    Attributes:
      minimum, maximum: the bounds, which are never reached; ``None`` for no bound.
    """

    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        if self.minimum is not None and self.maximum is not None and self.minimum >= self.maximum:
            raise ValueError(f"minimum must be below maximum, got {self.minimum} and {self.maximum}")

    def squash(self, x: Array) -> Array:
        """From any number into the range: a sigmoid between two bounds, a softplus beyond one."""
        if self.minimum is not None and self.maximum is not None:
            return self.minimum + (self.maximum - self.minimum) * jax.nn.sigmoid(x)
        if self.minimum is not None:
            return self.minimum + jax.nn.softplus(x)
        if self.maximum is not None:
            return self.maximum - jax.nn.softplus(-x)
        return x

    def unsquash(self, value: float) -> float:
        """The number that is squashed to a value.

        Raises:
          ValueError: where the value does not lie strictly within the range.
        """
        above = math.inf if self.minimum is None else value - self.minimum
        below = math.inf if self.maximum is None else self.maximum - value
        if above <= 0 or below <= 0:
            raise ValueError(f"initial must lie strictly between {self.minimum} and {self.maximum}, got {value}")
        if self.minimum is not None and self.maximum is not None:
            return math.log(above / below)
        if self.minimum is not None:
            return _inverse_softplus(above)
        if self.maximum is not None:
            return -_inverse_softplus(below)
        return value


def _inverse_softplus(y: float) -> float:
    return y + math.log(-math.expm1(-y))


@component("numbers")
@dataclasses.dataclass(frozen=True)
class Learned:
    """A number that is discovered with the rule: one meta-parameter, the same for all agents and steps.

    Loss terms find it among the targets [T, B], value estimators, features and targets among the hyperparameters [].

    Attributes:
      name: key in the meta-parameters; the same name is the same number.
      initial: where discovery starts.
      minimum, maximum: bounds that it never reaches; ``None`` for no bound.
    """

    name: str
    initial: float
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        if self.name == ENV_STEPS:
            raise ValueError(f"name must not be '{ENV_STEPS}', which schedules read")
        self.range.unsquash(self.initial)

    @property
    def range(self) -> Range:
        return Range(self.minimum, self.maximum)

    def init(self) -> Array:
        """The meta-parameter that discovery starts from []."""
        return jnp.asarray(self.range.unsquash(self.initial), jnp.float32)

    def value(self, meta_param: Array) -> Array:
        """The number that a meta-parameter stands for []."""
        return self.range.squash(meta_param)

    def resolve(self, hyperparameters: dict[str, Array], targets: dict[str, Array]) -> Array:
        return (hyperparameters | targets)[self.name]

    def symbol(self) -> str:
        return self.name


@component("numbers")
@dataclasses.dataclass(frozen=True)
class Output:
    """A number that the meta-network emits, so that it is discovered with the rule.

    Attributes:
      target: name of a target with one number per step [T, B].
    """

    target: str

    def resolve(self, hyperparameters: dict[str, Array], targets: dict[str, Array]) -> Array:
        return targets[self.target]

    def symbol(self) -> str:
        return self.target


Own = Hyperparameter | Schedule
"""Numbers that the agent has by itself: what optimizers and behaviours may be given."""

Carried = Own | Learned
"""Numbers that are known before the targets are: what value estimators, features and targets may be given."""


def resolve(
    number: float | Number, hyperparameters: dict[str, Array], targets: dict[str, Array] | None = None
) -> float | Array:
    """The present value of a constant or of a number that is carried, learned or emitted."""
    if isinstance(number, Number):
        return number.resolve(hyperparameters, targets or {})
    return number


def check_fraction(name: str, number: float | Number) -> None:
    """Refuses a number that may lie outside [0, 1]; what an agent carries is not known yet.

    Raises:
      ValueError: with the name of the parameter.
    """
    inside = _least(number) >= 0.0 and _largest(number) <= 1.0
    if not inside and not isinstance(number, Hyperparameter | Output):
        raise ValueError(f"{name} must lie in [0, 1], got {number}")


def check_positive(name: str, number: float | Number) -> None:
    """Refuses a number that is infinite or may be zero or negative; what an agent carries is not known yet.

    Raises:
      ValueError: with the name of the parameter.
    """
    if number == math.inf:
        raise ValueError(f"{name} must be finite, got {number}")
    # The bounds of a learned number are never reached: above a minimum of 0 it is positive.
    positive = _least(number) >= 0.0 if isinstance(number, Learned) else _least(number) > 0.0
    if not positive and not isinstance(number, Hyperparameter | Output):
        raise ValueError(f"{name} must be positive, got {number}")


def _least(number: float | Number) -> float:
    if isinstance(number, Schedule):
        return min(number.initial, number.final, 0.0 if number.warm_up else number.initial)
    if isinstance(number, Learned) and number.minimum is not None:
        return number.minimum
    return -math.inf if isinstance(number, Number) else number


def _largest(number: float | Number) -> float:
    if isinstance(number, Schedule):
        return max(number.initial, number.final)
    if isinstance(number, Learned) and number.maximum is not None:
        return number.maximum
    return math.inf if isinstance(number, Number) else number
