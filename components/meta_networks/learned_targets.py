"""Targets that the meta-network emits."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from framework.context import FeatureContext
from framework.interfaces import ActionFeature
from framework.layers import ActionEquivariantBlock, Linear, check_sizes
from framework.numbers import Range
from framework.registry import component
from framework.types import Array

HEAD_STDDEV = 0.3
"""Of the initial weights of learned targets (Oh et al., 2025, the authors' code)."""


@component("targets")
@dataclasses.dataclass(frozen=True)
class LearnedPrediction:
    """Logits that a prediction head shall move to: linear in the trajectory core's output.

    Attributes:
      name: of the target.
      head: the head it is for; sizes the target.
    """

    name: str = "y_hat"
    head: str = "y"
    learned: ClassVar[bool] = True

    def __call__(self, context: FeatureContext) -> Array:
        size = context.inputs.outputs[self.head].shape[-1]
        return Linear(size, name=self.name, stddev=HEAD_STDDEV)(context.summarized)


@component("targets")
@dataclasses.dataclass(frozen=True)
class LearnedPolicy:
    """Policy logits that the policy shall move to, from weights that all actions share.

    Attributes:
      name: of the target.
      action_features: what is known of each action, beside the trajectory core's output.
      sizes: of the action-equivariant blocks.
    """

    action_features: tuple[ActionFeature, ...]
    name: str = "pi_hat"
    sizes: tuple[int, ...] = (16,)
    learned: ClassVar[bool] = True

    def __call__(self, context: FeatureContext) -> Array:
        of_actions = [context.steps(context.compute(feature)) for feature in self.action_features]
        summary = context.summarized[..., None, :]
        copies = jnp.broadcast_to(summary, (*summary.shape[:2], context.num_actions, summary.shape[-1]))
        x = jnp.concatenate([copies, *of_actions], axis=-1)
        for index, size in enumerate(self.sizes):
            x = ActionEquivariantBlock(size, name=f"{self.name}_block_{index}")(x)
        return Linear(1, name=self.name, stddev=HEAD_STDDEV)(x).squeeze(-1)


@component("targets")
@dataclasses.dataclass(frozen=True)
class LearnedEmbedding:
    """Numbers that no head moves to: what the trajectory core tells the lifetime core [T, B, size].

    Attributes:
      name: of the target.
      size: how many numbers per step.
    """

    name: str = "embedding"
    size: int = 1
    learned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_sizes((self.size,))

    def __call__(self, context: FeatureContext) -> Array:
        return Linear(self.size, name=self.name, stddev=HEAD_STDDEV)(context.summarized)


@component("targets")
@dataclasses.dataclass(frozen=True)
class LearnedNumber:
    """One number per step that the meta-network emits, such as LPG's pi_hat or the weight of a loss term [T, B].

    Attributes:
      name: of the target.
      initial: its value where the core's output is zero.
      minimum, maximum: bounds that it never reaches; ``None`` for no bound.
    """

    name: str = "number"
    initial: float = 0.0
    minimum: float | None = None
    maximum: float | None = None
    learned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.range.unsquash(self.initial)

    @property
    def range(self) -> Range:
        return Range(self.minimum, self.maximum)

    def __call__(self, context: FeatureContext) -> Array:
        x = Linear(1, name=self.name, stddev=HEAD_STDDEV)(context.summarized).squeeze(-1)
        return self.range.squash(x + self.range.unsquash(self.initial))
