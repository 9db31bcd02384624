"""What a meta-network sees of each action: numbers [T+1, B, A, D], or [T, B, A, D] where only steps acted have them.

Policies are under stop-gradient unless they are told otherwise, values and advantages are constants of the networks'
outputs; predictions are not: the meta-gradient flows through them alone (Oh et al., 2025, Methods).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp

from framework.context import FeatureContext
from framework.errors import UserError
from framework.interfaces import ActionFeature
from framework.layers import ActionEquivariantBlock, DistributionMLP
from framework.registry import component
from framework.transforms import signed_log
from framework.types import Array

Source = Literal["online", "target"]


def output_of(context: FeatureContext, head: str, source: Source) -> Array:
    """The raw output of a head, of the online or of the target network [T+1, B, ...]."""
    outputs = context.inputs.outputs if source == "online" else context.inputs.target_outputs
    if outputs is None:
        raise UserError(f"the rule has no target network to read '{head}' from: bind UpdateRule.target_decay")
    return outputs[head]


@component("action_features")
@dataclasses.dataclass(frozen=True)
class Policy:
    """pi(a|s) of the online, target or behaviour policy.

    Attributes:
      source: whose policy.
      head: the policy's head.
      differentiable: whether the meta-gradient flows through it too.
    """

    source: Literal["online", "target", "behaviour"] = "online"
    head: str = "logits"
    differentiable: bool = False

    def __call__(self, context: FeatureContext) -> Array:
        policy = jax.nn.softmax(self._logits(context))[..., None]
        return policy if self.differentiable else jax.lax.stop_gradient(policy)

    def _logits(self, context: FeatureContext) -> Array:
        if self.source == "behaviour":
            return context.inputs.behaviour
        return output_of(context, self.head, self.source)


@component("action_features")
@dataclasses.dataclass(frozen=True)
class Prediction:
    """A learned embedding of the action-conditional prediction softmax(z(s, a)).

    Attributes:
      head: the prediction.
      source: network it is read from; the embedding is the same for both.
      sizes: of the embedding MLP's layers.
    """

    head: str = "z"
    source: Source = "online"
    sizes: tuple[int, ...] = (16, 1)

    def __call__(self, context: FeatureContext) -> Array:
        return embedding(context, self.head, self.sizes)(output_of(context, self.head, self.source))


def _named_embedding(sizes: tuple[int, ...], name: str) -> DistributionMLP:
    return DistributionMLP(sizes, name=name)


def embedding(context: FeatureContext, head: str, sizes: tuple[int, ...]) -> DistributionMLP:
    """The network's one embedding of a head's distributions, from their logits."""
    build = functools.partial(_named_embedding, sizes)
    return context.module(("embedding", head, sizes), build, f"embedding_{head}")


@component("action_features")
@dataclasses.dataclass(frozen=True)
class ActionValue:
    """signed_log(q(s, a)) of the value estimator."""

    def __call__(self, context: FeatureContext) -> Array:
        return signed_log(context.estimate("action_values"))[..., None]


def advantage_of(context: FeatureContext, field: str, *, normalized: bool) -> Array:
    """An advantage of the estimates, as signed_log or normalized [..., 1]."""
    advantage = context.estimate(f"normalized_{field}") if normalized else signed_log(context.estimate(field))
    return advantage[..., None]


@component("action_features")
@dataclasses.dataclass(frozen=True)
class ActionAdvantage:
    """q(s, a) - v(s), as signed_log or normalized."""

    normalized: bool = False

    def __call__(self, context: FeatureContext) -> Array:
        return advantage_of(context, "action_advantages", normalized=self.normalized)


@component("action_features")
@dataclasses.dataclass(frozen=True)
class TakenAction:
    """1 for the action that was taken, 0 for the others."""

    def __call__(self, context: FeatureContext) -> Array:
        return jax.nn.one_hot(context.inputs.action, context.num_actions)[..., None]


def _named_block(size: int, name: str) -> ActionEquivariantBlock:
    return ActionEquivariantBlock(size, name=name)


@component("action_features")
@dataclasses.dataclass(frozen=True)
class ActionEmbedding:
    """Features of each action through layers whose weights all actions share.

    Attributes:
      of: the action features it embeds.
      sizes: of the action-equivariant blocks.
    """

    of: tuple[ActionFeature, ...]
    sizes: tuple[int, ...] = (16, 2)

    def __call__(self, context: FeatureContext) -> Array:
        x = jnp.concatenate([context.steps(context.compute(feature)) for feature in self.of], axis=-1)
        for index, size in enumerate(self.sizes):
            build = functools.partial(_named_block, size)
            x = context.module((self, index), build, "action_block")(x)
        return x
