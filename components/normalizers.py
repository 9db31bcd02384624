"""Normalizers: put advantages on a scale that does not depend on the rewards'."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from flax import struct

from framework.registry import component
from framework.transforms import weighted_mean
from framework.types import Array, Estimates, PyTree


class Scale(NamedTuple):
    """Mean and variance of numbers []."""

    mean: Array
    variance: Array


class Moments(struct.PyTreeNode):
    """Exponential moving averages of the first two moments, and decay^updates, which corrects their bias []."""

    first: Array
    second: Array
    decay_product: Array

    def scale(self) -> Scale:
        """Mean and variance, with the bias corrected."""
        correction = 1.0 / jnp.maximum(1.0 - self.decay_product, 1e-12)
        mean = self.first * correction
        return Scale(mean, jnp.maximum(0.0, self.second * correction - jnp.square(mean)))


def initial_moments() -> Moments:
    return Moments(first=jnp.zeros(()), second=jnp.zeros(()), decay_product=jnp.ones(()))


def update_moments(moments: Moments, x: Array, weight: Array, decay: float) -> Moments:
    """Moments after seeing x [T, B] at steps of the given weight [T, B]; unchanged where no step carries weight."""
    kept = jnp.where(weight.sum() > 0, decay, 1.0)
    return Moments(
        first=kept * moments.first + (1.0 - kept) * weighted_mean(x, weight),
        second=kept * moments.second + (1.0 - kept) * weighted_mean(jnp.square(x), weight),
        decay_product=kept * moments.decay_product,
    )


def batch_scale(x: Array, weight: Array) -> Scale:
    """Mean and variance of x [T, B] over steps of the given weight [T, B].

    Deviations are squared, not numbers: those far from 0 would lose all digits of their variance.
    """
    mean = weighted_mean(x, weight)
    return Scale(mean, weighted_mean(jnp.square(x - mean), weight))


def normalize(scale: Scale, x: Array, *, subtract_mean: bool = True) -> Array:
    """(x - mean) / (sqrt(var + 1e-12) + 1e-6)."""
    return (x - scale.mean * subtract_mean) / (jnp.sqrt(scale.variance + 1e-12) + 1e-6)


def with_normalized(estimates: Estimates, advantages: Scale, errors: Scale) -> Estimates:
    """The estimates with their normalized fields filled; the errors keep their mean."""
    of_actions = estimates.action_advantages
    return estimates.replace(
        normalized_advantages=normalize(advantages, estimates.advantages),
        normalized_action_advantages=None if of_actions is None else normalize(advantages, of_actions),
        normalized_errors=normalize(errors, estimates.errors, subtract_mean=False),
    )


@component("normalizers")
@dataclasses.dataclass(frozen=True)
class MovingAverage:
    """Normalizes by bias-corrected moving averages over the agent's lifetime.

    Attributes:
      decay: of the averages, per update.

    Source: Oh et al., 2025, Methods.
    """

    decay: float = 0.99

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")

    def initial_carry(self) -> PyTree:
        return {"advantages": initial_moments(), "errors": initial_moments()}

    def __call__(self, estimates: Estimates, weight: Array, carry: PyTree) -> tuple[Estimates, PyTree]:
        advantages = update_moments(carry["advantages"], estimates.advantages, weight, self.decay)
        errors = update_moments(carry["errors"], estimates.errors, weight, self.decay)
        return with_normalized(estimates, advantages.scale(), errors.scale()), {
            "advantages": advantages,
            "errors": errors,
        }


@component("normalizers")
@dataclasses.dataclass(frozen=True)
class Batch:
    """Normalizes by the mean and the deviation of the batch at hand; carries nothing (Schulman et al., 2017)."""

    def initial_carry(self) -> PyTree:
        return ()

    def __call__(self, estimates: Estimates, weight: Array, carry: PyTree) -> tuple[Estimates, PyTree]:
        advantages, errors = batch_scale(estimates.advantages, weight), batch_scale(estimates.errors, weight)
        return with_normalized(estimates, advantages, errors), carry
