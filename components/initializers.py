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


def orthonormal_columns(matrix: Array) -> Array:
    """An orthonormal basis [M, N], M >= N, of what each first few columns of a matrix span.

    Gram-Schmidt, every column twice, as once loses orthogonality to rounding (Giraud et al., 2005): the Q of the QR
    decomposition whose R has a positive diagonal. Not by `jnp.linalg.qr`: on the CPU, where a program has several of
    them, they can wait for each other's threads for ever (jaxlib 0.10.2).
    """

    def orthonormalize(index: Array, basis: Array) -> Array:
        column = basis[:, index]
        # Columns that are yet to come count as none.
        before = jnp.where(jnp.arange(basis.shape[1]) < index, basis, 0.0)
        for _ in range(2):
            column = column - before @ (before.T @ column)
        return basis.at[:, index].set(column / jnp.linalg.norm(column))

    return jax.lax.fori_loop(0, matrix.shape[1], orthonormalize, matrix)


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
        rows, columns = math.prod(shape[:-1]), shape[-1]
        drawn = jax.random.normal(key, (max(rows, columns), min(rows, columns)), dtype)
        matrix = orthonormal_columns(drawn)
        return self.scale * (matrix if rows >= columns else matrix.T).reshape(shape)
