"""What a meta-network sees of each step [T, B, D]."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from components.meta_networks.action_features import Source, advantage_of, embedding, output_of
from framework.context import FeatureContext
from framework.interfaces import ActionFeature
from framework.numbers import Carried, resolve
from framework.registry import component
from framework.transforms import at_action, signed_log
from framework.types import Array


@component("features")
@dataclasses.dataclass(frozen=True)
class Reward:
    """signed_log(r_t), or the reward itself.

    Attributes:
      raw: whether it is the reward itself, as in LPG.
    """

    raw: bool = False

    def __call__(self, context: FeatureContext) -> Array:
        reward = context.inputs.reward
        return (reward if self.raw else signed_log(reward))[..., None]


@component("features")
@dataclasses.dataclass(frozen=True)
class NotTerminal:
    """1 - terminal_t: 0 where the environment ended the episode."""

    def __call__(self, context: FeatureContext) -> Array:
        return (context.inputs.discount > 0).astype(jnp.float32)[..., None]


@component("features")
@dataclasses.dataclass(frozen=True)
class Scalar:
    """A number that is the same at each step, such as the discount factor that LPG is told.

    Attributes:
      value: a constant, or a number that the agent carries or that is learned.
    """

    value: float | Carried

    def __call__(self, context: FeatureContext) -> Array:
        value = jnp.asarray(resolve(self.value, context.inputs.hyperparameters), jnp.float32)
        return jnp.broadcast_to(value, (*context.inputs.action.shape, 1))


@component("features")
@dataclasses.dataclass(frozen=True)
class Progress:
    """How much of the agent's life is over, from 0 to 1: the same at each step.

    Source: Jackson et al., 2024 (temporally-aware LPG).
    """

    reads_progress: ClassVar[bool] = True

    def __call__(self, context: FeatureContext) -> Array:
        return jnp.broadcast_to(context.inputs.progress, (*context.inputs.action.shape, 1))


def _of_steps(context: FeatureContext, x: Array, *, next_step: bool) -> Array:
    """Numbers [T+1, B, D] of each step, and beside them those of the next where these are wanted."""
    return context.pair(x) if next_step else context.steps(x)


@component("features")
@dataclasses.dataclass(frozen=True)
class Value:
    """signed_log(v) of this step and the next.

    Attributes:
      next_step: whether the next step is seen as well.
    """

    next_step: bool = True

    def __call__(self, context: FeatureContext) -> Array:
        return _of_steps(context, signed_log(context.estimate("values"))[..., None], next_step=self.next_step)


@component("features")
@dataclasses.dataclass(frozen=True)
class Advantage:
    """The advantage of the action taken, as signed_log or normalized."""

    normalized: bool = False

    def __call__(self, context: FeatureContext) -> Array:
        return advantage_of(context, "advantages", normalized=self.normalized)


@component("features")
@dataclasses.dataclass(frozen=True)
class Prediction:
    """A learned embedding of the prediction softmax(y(s)), of this step and the next.

    Attributes:
      head: the prediction.
      source: network it is read from; the embedding is the same for both.
      sizes: of the embedding MLP's layers.
      next_step: whether the next step is seen as well, from which the rule can bootstrap.
    """

    head: str = "y"
    source: Source = "online"
    sizes: tuple[int, ...] = (16, 1)
    next_step: bool = True

    def __call__(self, context: FeatureContext) -> Array:
        x = embedding(context, self.head, self.sizes)(output_of(context, self.head, self.source))
        return _of_steps(context, x, next_step=self.next_step)


@component("features")
@dataclasses.dataclass(frozen=True)
class OfTakenAction:
    """An action feature at the action taken."""

    of: ActionFeature

    def __call__(self, context: FeatureContext) -> Array:
        return at_action(context.steps(context.compute(self.of)), context.inputs.action)


@component("features")
@dataclasses.dataclass(frozen=True)
class MeanOverActions:
    """The mean of an action feature over all actions."""

    of: ActionFeature

    def __call__(self, context: FeatureContext) -> Array:
        return context.steps(context.compute(self.of)).mean(axis=-2)


@component("features")
@dataclasses.dataclass(frozen=True)
class ExpectedOverActions:
    """sum_a pi(a|s) x(s, a) under the online policy, of this step and the next.

    Attributes:
      of: the action feature x.
      head: the policy.
      next_step: whether the next step is seen as well, from which the rule can bootstrap.
    """

    of: ActionFeature
    head: str = "logits"
    next_step: bool = True

    def __call__(self, context: FeatureContext) -> Array:
        policy = jax.lax.stop_gradient(jax.nn.softmax(context.inputs.outputs[self.head]))
        x = jnp.einsum("tba,tbad->tbd", policy, context.compute(self.of))
        return _of_steps(context, x, next_step=self.next_step)


@component("features")
@dataclasses.dataclass(frozen=True)
class MaximumOverActions:
    """max_a x(s, a), of this step and the next.

    Attributes:
      of: the action feature x.
      next_step: whether the next step is seen as well, from which the rule can bootstrap.
    """

    of: ActionFeature
    next_step: bool = True

    def __call__(self, context: FeatureContext) -> Array:
        x = context.compute(self.of).max(axis=-2)
        return _of_steps(context, x, next_step=self.next_step)


@component("features")
@dataclasses.dataclass(frozen=True)
class OfTarget:
    """A target's own numbers [T, B, D]; for the lifetime core, which runs after the targets."""

    target: str

    def __call__(self, context: FeatureContext) -> Array:
        return context.target(self.target)


@component("features")
@dataclasses.dataclass(frozen=True)
class EmbeddedTarget:
    """A categorical target through the embedding of the head it is for; for the lifetime core.

    Attributes:
      target: the target, as logits.
      head: the prediction whose embedding it shares.
      sizes: of the embedding MLP's layers.
    """

    target: str = "y_hat"
    head: str = "y"
    sizes: tuple[int, ...] = (16, 1)

    def __call__(self, context: FeatureContext) -> Array:
        return embedding(context, self.head, self.sizes)(context.target(self.target))
