"""Initializers: what the weights of a layer are drawn from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from framework.layers import truncated_normal
from framework.registry import component
from framework.types import Array


@component("initializers")
@dataclasses.dataclass(frozen=True)
class TruncatedNormal:
    """Normal weights, cut off at two standard deviations.

    Attributes:
      stddev: before the cut; ``None`` for 1 / sqrt(fan_in).
    """

    stddev: float | None = None

    def __post_init__(self) -> None:
        if self.stddev is not None and self.stddev <= 0:
            raise ValueError(f"stddev must be positive, got {self.stddev}")

    def __call__(self, key: Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        stddev = math.prod(shape[:-1]) ** -0.5 if self.stddev is None else self.stddev
        return truncated_normal(stddev)(key, shape, dtype)


@component("initializers")
@dataclasses.dataclass(frozen=True)
class Orthogonal:
    """Weights [fan_in, fan_out] whose columns, or rows where these are fewer, are orthogonal and of one length.

    Attributes:
      scale: that length; sqrt(2) keeps the size of what passes a layer with ReLU.

    Source: Saxe et al., 2014.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"scale must be positive, got {self.scale}")

    def __call__(self, key: Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.nn.initializers.orthogonal(self.scale)(key, shape, dtype)
