"""What the parts of a meta-network look at."""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable
from typing import Any

import jax.numpy as jnp

from framework.errors import UserError
from framework.types import Array, Estimates, RuleInputs


class FeatureContext:
    """What features and targets may look at, and where what they share is computed once.

    Attributes:
      inputs: the trajectory and the outputs of the networks.
      estimates: values and advantages; ``None`` for rules without a value estimator.
      targets: the targets computed so far {name: [T, B, ...]}.
    """

    def __init__(self, inputs: RuleInputs, estimates: Estimates | None, targets: dict[str, Array] | None = None):
        self.inputs = inputs
        self.estimates = estimates
        self._summary: Array | None = None
        self.targets: dict[str, Array] = {} if targets is None else targets
        self._values: dict[Hashable, Array] = {}
        self._modules: dict[Hashable, Any] = {}
        self._names: collections.Counter[str] = collections.Counter()

    @property
    def num_steps(self) -> int:
        return self.inputs.action.shape[0]

    @property
    def num_actions(self) -> int:
        return self.inputs.behaviour.shape[-1]

    @property
    def summarized(self) -> Array:
        """The trajectory core's output [T, B, D].

        Raises:
          UserError: while the features themselves are computed, or in a meta-network without a core.
        """
        if self._summary is None:
            raise UserError("the trajectory core's output is there for targets only, in a meta-network with a core")
        return self._summary

    def summarize(self, summary: Array) -> None:
        """Makes the trajectory core's output known to the targets."""
        self._summary = summary

    def target(self, name: str) -> Array:
        """A target that has been computed [T, B, ...].

        Raises:
          UserError: where it has not, as while the trajectory core's features are computed.
        """
        if name not in self.targets:
            known = ", ".join(self.targets) or "none"
            raise UserError(
                f"the target '{name}' is not known yet (known are: {known}): features of targets are for the lifetime "
                "core, which runs after all of them"
            )
        return self.targets[name]

    def compute(self, feature: Callable[[FeatureContext], Array]) -> Array:
        """The value of a feature; equal features are computed once."""
        if feature not in self._values:
            self._values[feature] = feature(self)
        return self._values[feature]

    def module(self, configuration: Hashable, build: Callable[[str], Any], name: str) -> Any:
        """The one module of this network for a configuration: equal configurations share their parameters.

        Args:
          configuration: what tells modules apart.
          build: makes the module, given its name.
          name: of its parameters; numbered where other configurations have taken it.
        """
        if configuration not in self._modules:
            self._names[name] += 1
            number = self._names[name]
            self._modules[configuration] = build(name if number == 1 else f"{name}_{number}")
        return self._modules[configuration]

    def estimate(self, field: str) -> Array:
        """A field of the estimates.

        Raises:
          UserError: where the rule's value estimator or normalizer does not provide it.
        """
        value = None if self.estimates is None else getattr(self.estimates, field)
        if value is None:
            source = "normalizer" if field.startswith("normalized") else "value_estimator"
            raise UserError(
                f"something reads the {field.replace('_', ' ')}, which the rule's {source} does not provide: bind "
                f"UpdateRule.{source}, or one that does"
            )
        return value

    def steps(self, x: Array) -> Array:
        """The rows of steps acted: [T+1 or T, ...] to [T, ...]."""
        return x[: self.num_steps]

    def pair(self, x: Array) -> Array:
        """Each step's numbers beside the next step's: [T+1, B, D] to [T, B, 2 D].

        Where an episode was cut off (weight 0) the next row is another episode's: the step's own stand in for it.
        """
        if x.shape[0] != self.num_steps + 1:
            raise UserError(f"a pair of steps needs a row for the last observation, got {x.shape[0]} rows")
        following = jnp.where(self.inputs.weight[..., None] == 0, x[:-1], x[1:])
        return jnp.concatenate([x[:-1], following], axis=-1)
