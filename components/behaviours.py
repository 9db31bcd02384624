"""How agents act where they do not sample from a policy head."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from framework.errors import UserError
from framework.interfaces import Head, ValueHead
from framework.numbers import Own, check_fraction, resolve
from framework.registry import component
from framework.types import Array

LEAST_PROBABILITY = 1e-8
"""Of an action, so that its logarithm is a number where epsilon is 0."""


@component("behaviours")
@dataclasses.dataclass(frozen=True)
class EpsilonGreedy:
    """The action of the highest value, or with probability epsilon any action (Watkins, 1989; Mnih et al., 2015).

    Attributes:
      head: an action-value head.
      epsilon: probability of an action drawn uniformly, the best one included.
    """

    head: str = "q"
    epsilon: float | Own = 0.05

    def __post_init__(self) -> None:
        check_fraction("epsilon", self.epsilon)

    def __call__(self, output: Array, head: Head, hyperparameters: dict[str, Array]) -> Array:
        if not (isinstance(head, ValueHead) and head.action_conditional):
            raise UserError(f"behaviours.EpsilonGreedy: the head '{head.name}' does not predict the values of actions")
        values = head.read(output)
        actions = values.shape[-1]
        epsilon = resolve(self.epsilon, hyperparameters)
        greedy = jax.nn.one_hot(values.argmax(-1), actions)
        return jnp.log(jnp.maximum((1.0 - epsilon) * greedy + epsilon / actions, LEAST_PROBABILITY))

    def greedy(self) -> EpsilonGreedy:
        return dataclasses.replace(self, epsilon=0.0)
