"""Targets in closed form: constants of the agent's parameters."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from components.meta_networks.action_features import output_of
from framework.context import FeatureContext
from framework.numbers import Carried, check_positive, resolve
from framework.registry import component
from framework.transforms import importance_ratio
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
class OldValues:
    """The values v(s) from before the update [T, B]: what a value loss can keep new ones close to."""

    name: str = "v_old"
    learned: ClassVar[bool] = False

    def __call__(self, context: FeatureContext) -> Array:
        return context.steps(context.estimate("values"))


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
class ReturnDistributions:
    """How the value estimator's returns are distributed: what a head that predicts distributions moves to [T, B, K]."""

    name: str = "q_distribution"
    learned: ClassVar[bool] = False

    def __call__(self, context: FeatureContext) -> Array:
        return context.estimate("return_distributions")


@component("targets")
@dataclasses.dataclass(frozen=True)
class ImportanceWeightedAdvantages:
    """min(limit, pi(a) / mu(a)) A of the actions taken, pi from before the update [T, B].

    With V-trace the ratio is in its advantages already.

    Attributes:
      name: of the target.
      limit: largest weight of an action.
      policy: the policy head.
      normalized: whether the advantages go through the rule's normalizer.

    Source: Hessel et al., 2021, section 4.1.
    """

    name: str = "advantage"
    limit: float = 1.0
    policy: str = "logits"
    normalized: bool = False
    learned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive("limit", self.limit)

    def __call__(self, context: FeatureContext) -> Array:
        inputs = context.inputs
        logits = context.steps(jax.lax.stop_gradient(inputs.outputs[self.policy]))
        ratio = importance_ratio(logits, behaviour=inputs.behaviour, action=inputs.action)
        return jnp.minimum(self.limit, ratio) * context.estimate(
            "normalized_advantages" if self.normalized else "advantages"
        )


@component("targets")
@dataclasses.dataclass(frozen=True)
class TopHalfWeights:
    """V-MPO's weights of the actions taken [T, B]: exp(A / temperature) in the better half of a batch, 0 in the other.

    Their mean over steps is 1, so that the mean of -log pi(a) times them is V-MPO's sum of -log pi(a) psi.

    Attributes:
      name: of the target.
      temperature: in units of the advantages. V-MPO moves it by a Lagrangian; here it is a number like any other.
      normalized: whether the advantages go through the rule's normalizer.

    Source: Song et al., 2020, section 4.1.
    """

    name: str = "psi"
    temperature: float | Carried = 1.0
    normalized: bool = False
    learned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def __call__(self, context: FeatureContext) -> Array:
        advantages = context.estimate("normalized_advantages" if self.normalized else "advantages")
        temperature = resolve(self.temperature, context.inputs.hyperparameters)
        counts = context.inputs.weight > 0
        ranked = jnp.sort(jnp.where(counts, advantages, -jnp.inf), axis=None)
        half = (counts.sum() + 1) // 2
        better = counts & (advantages >= ranked[ranked.size - jnp.maximum(1, half)])
        largest = jnp.where(counts.any(), ranked[-1], 0.0)
        weights = jnp.where(better, jnp.exp((jnp.where(better, advantages, largest) - largest) / temperature), 0.0)
        return counts.sum() * weights / jnp.maximum(weights.sum(), 1.0)


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


@component("targets")
@dataclasses.dataclass(frozen=True)
class OldPolicy:
    """The policy that acted, or the target network's, as logits [T, B, A]: what a policy shall stay close to.

    Attributes:
      name: of the target.
      source: whose policy.
      head: the policy's head.
    """

    name: str = "pi_old"
    source: Literal["behaviour", "target"] = "behaviour"
    head: str = "logits"
    learned: ClassVar[bool] = False

    def __call__(self, context: FeatureContext) -> Array:
        return context.steps(_logits(context, self.source, self.head))


@component("targets")
@dataclasses.dataclass(frozen=True)
class CMPOPolicy:
    """pi_CMPO(a|s) ~ pi_prior(a|s) exp(clip(A(s, a), -limit, limit)), as logits [T, B, A].

    Attributes:
      name: of the target.
      limit: of the advantages.
      source: whose policy is the prior.
      head: the policy's head.
      normalized: whether the advantages go through the rule's normalizer. It subtracts the mean of what was returned,
        which would push all actions of a state to the same limit: they are centred under the prior again.
      next_step: whether it is the one at the next step, which a one-step model predicts of a state and an action.

    Source: Hessel et al., 2021, eq. 9; section 4.2 for the model.
    """

    name: str = "pi_cmpo"
    limit: float = 1.0
    source: Literal["target", "behaviour"] = "target"
    head: str = "logits"
    normalized: bool = True
    next_step: bool = False
    learned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive("limit", self.limit)
        if self.next_step and self.source == "behaviour":
            raise ValueError("source must be 'target' where next_step is set: who acted next is not known at the end")

    def __call__(self, context: FeatureContext) -> Array:
        field = "normalized_action_advantages" if self.normalized else "action_advantages"
        advantages, prior = context.estimate(field), _logits(context, self.source, self.head)
        steps = slice(1, None) if self.next_step else slice(context.num_steps)
        prior, advantages = jax.nn.log_softmax(prior[steps]), advantages[steps]
        if self.normalized:
            advantages -= (jnp.exp(prior) * advantages).sum(-1, keepdims=True)
        return jax.nn.log_softmax(prior + jnp.clip(advantages, -self.limit, self.limit))


def _logits(context: FeatureContext, source: Literal["target", "behaviour"], head: str) -> Array:
    """Logits of a policy that is a constant of the update: who acted [T, B, A], or the target network [T+1, B, A]."""
    if source == "behaviour":
        return context.inputs.behaviour
    return jax.lax.stop_gradient(output_of(context, head, source))
