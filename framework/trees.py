"""Trees of arrays: their sizes, zeros of given shapes, one or the other of two."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from framework.types import Array, PyTree


def global_norm(tree: PyTree) -> Array:
    """Euclidean norm of all elements []."""
    squares = sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), start=jnp.zeros(()))
    return jnp.sqrt(squares)


def clip_factor(norm: Array, limit: float) -> Array:
    """What a gradient of a norm is multiplied with, so that its norm stays within a limit []."""
    return jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))


def largest_element(tree: PyTree) -> Array:
    """The largest magnitude of all elements []; NaN where one is."""
    largest = [jnp.abs(leaf).max(initial=0.0) for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.maximum, largest, jnp.zeros(()))


def zeros_of(shapes: PyTree) -> PyTree:
    """Zeros in the place of every array, or shape, of a tree."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def select(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    """The new tree where a condition holds, else the old one: for whole trees [], or row by row [P]."""

    def one(new: Array, old: Array) -> Array:
        return jnp.where(condition.reshape(*condition.shape, *[1] * (new.ndim - condition.ndim)), new, old)

    return jax.tree.map(one, new, old)
