"""Numbers that are not constants: carried by an agent, or emitted by the meta-network."""

from __future__ import annotations

import dataclasses

from framework.interfaces import Number
from framework.registry import component
from framework.types import Array


@component("numbers")
@dataclasses.dataclass(frozen=True)
class Hyperparameter:
    """A number that each agent carries, and that may differ between agents or move in time.

    Attributes:
      name: key in the agent's hyperparameters; the same name is the same number.
      value: of a newborn agent.
    """

    name: str
    value: float

    def resolve(self, hyperparameters: dict[str, Array], targets: dict[str, Array]) -> Array:
        return hyperparameters[self.name]


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


def resolve(
    number: float | Number, hyperparameters: dict[str, Array], targets: dict[str, Array] | None = None
) -> float | Array:
    """The present value of a constant or of a number that is carried or emitted."""
    if isinstance(number, Number):
        return number.resolve(hyperparameters, targets or {})
    return number
