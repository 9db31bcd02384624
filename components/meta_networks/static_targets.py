"""Targets in closed form: constants of the agent's parameters."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax

from framework.context import FeatureContext
from framework.numbers import Carried, check_positive, resolve
from framework.registry import component
from framework.types import Array


@component("targets")
@dataclasses.dataclass(frozen=True)
class Returns:
    """The value estimator's returns: what a value head shall predict [T, B]."""

    name: str = "q_hat"
    learned: ClassVar[bool] = False

    def __call__(self, context: FeatureContext) -> Array:
        return context.estimate("returns")


@component("targets")
@dataclasses.dataclass(frozen=True)
class Advantages:
    """The value estimator's advantages of the actions taken [T, B].

    Attributes:
      name: of the target.
      normalized: through the rule's normalizer.
    """

    name: str = "advantage"
    normalized: bool = False
    learned: ClassVar[bool] = False

    def __call__(self, context: FeatureContext) -> Array:
        field = "normalized_advantages" if self.normalized else "advantages"
        return context.estimate(field)


@component("targets")
@dataclasses.dataclass(frozen=True)
class NextPolicy:
    """The policy at the next step, pi(s_{t+1}), as logits [T, B, A]: what an auxiliary policy p(s, a) predicts."""

    name: str = "p_hat"
    head: str = "logits"
    learned: ClassVar[bool] = False

    def __call__(self, context: FeatureContext) -> Array:
        return jax.lax.stop_gradient(context.inputs.outputs[self.head][1:])


@component("targets")
@dataclasses.dataclass(frozen=True)
class ExponentiatedAdvantagePolicy:
    """pi_hat(a|s) ~ pi_old(a|s) exp(A(s, a) / epsilon), as logits [T, B, A].

    A(s_t, a) is the advantage for the action taken and 0 for the others; pi_old is the behaviour policy.

    Attributes:
      name: of the target.
      epsilon: temperature, in units of the advantages.
      normalized: whether the advantages go through the rule's normalizer.
    """

    name: str = "pi_hat"
    epsilon: float | Carried = 0.2
    normalized: bool = False
    learned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive("epsilon", self.epsilon)

    def __call__(self, context: FeatureContext) -> Array:
        advantages = context.estimate("normalized_advantages" if self.normalized else "advantages")
        taken = jax.nn.one_hot(context.inputs.action, context.num_actions)
        epsilon = resolve(self.epsilon, context.inputs.hyperparameters)
        return jax.nn.log_softmax(context.inputs.behaviour) + taken * (advantages / epsilon)[..., None]
