"""Scalar transforms and distributions over logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from framework.types import Array

HYPERBOLIC_SLOPE = 1e-3


def signed_log(x: Array) -> Array:
    """sign(x) log(1 + |x|)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def signed_hyperbolic(x: Array) -> Array:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + 1e-3 x (Pohlen et al., 2018)."""
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1.0) - 1.0) + HYPERBOLIC_SLOPE * x


def signed_parabolic(x: Array) -> Array:
    """The exact inverse of `signed_hyperbolic`."""
    slope = HYPERBOLIC_SLOPE
    root = jnp.sqrt(1.0 + 4.0 * slope * (slope + 1.0 + jnp.abs(x))) / (2.0 * slope) - 1.0 / (2.0 * slope)
    return jnp.sign(x) * (jnp.square(root) - 1.0)


def two_hot(x: Array, limit: int) -> Array:
    """Weights of the integer bins from -limit to limit whose mean is x: [...] to [..., 2 limit + 1].

    Values beyond the limit are clipped.
    """
    x = jnp.clip(x, -limit, limit)[..., None]
    bins = jnp.arange(-limit, limit + 1, dtype=jnp.float32)
    return jnp.maximum(0.0, 1.0 - jnp.abs(x - bins))


def project(returns: Array, probabilities: Array, atoms: Array) -> Array:
    """Probabilities of evenly spaced atoms [K] from those of other returns, both [..., K'] to [..., K].

    A return between two atoms is shared between them so that the mean stays; one beyond them counts as the outermost.

    Source: Bellemare et al., 2017, eq. 7.
    """
    spacing = (atoms[-1] - atoms[0]) / (atoms.shape[0] - 1)
    distance = jnp.abs(jnp.clip(returns, atoms[0], atoms[-1])[..., None] - atoms) / spacing
    return (probabilities[..., None] * jnp.maximum(0.0, 1.0 - distance)).sum(-2)


def huber(x: Array, threshold: float) -> Array:
    """x^2 / 2 within the threshold, and linear beyond it (Huber, 1964)."""
    size = jnp.abs(x)
    return jnp.where(size <= threshold, 0.5 * jnp.square(x), threshold * (size - 0.5 * threshold))


def expectation(logits: Array, values: Array) -> Array:
    """Mean of values [K, D] under softmax(logits): [..., K] to [..., D].

    Normalized after the product, which sums the weights along the way: one pass over the logits less.
    """
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    sums = weights @ jnp.concatenate([values, jnp.ones_like(values[:, :1])], axis=-1)
    return sums[..., :-1] / sums[..., -1:]


def expected_bin(logits: Array, limit: int) -> Array:
    """Mean of the integer bins from -limit to limit under softmax(logits): [..., K] to [...]."""
    bins = jnp.arange(-limit, limit + 1, dtype=jnp.float32)
    return expectation(logits, bins[:, None]).squeeze(-1)


def categorical_kl(p_logits: Array, q_logits: Array) -> Array:
    """KL(p || q) of categorical distributions given by logits [..., K] to [...]."""
    log_p = jax.nn.log_softmax(p_logits)
    return (jnp.exp(log_p) * (log_p - jax.nn.log_softmax(q_logits))).sum(axis=-1)


def entropy(logits: Array) -> Array:
    """Entropy of a categorical distribution [..., K] to [...]."""
    log_p = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_p) * log_p).sum(axis=-1)


def log_probability(logits: Array, action: Array) -> Array:
    """Log pi(a) of the actions taken: [..., A] and [...] to [...]."""
    return at_action(jax.nn.log_softmax(logits), action)


def importance_ratio(logits: Array, *, behaviour: Array, action: Array) -> Array:
    """pi(a) / mu(a) of the actions taken, pi and mu from logits: [..., A], [..., A] and [...] to [...]."""
    return jnp.exp(log_probability(logits, action) - log_probability(behaviour, action))


def at_action(x: Array, action: Array) -> Array:
    """The entry of each step's action: [T, B, A, ...] and [T, B] to [T, B, ...]."""
    index = action.reshape(action.shape + (1,) * (x.ndim - action.ndim))
    return jnp.take_along_axis(x, index, axis=action.ndim).squeeze(action.ndim)


def weighted_mean(x: Array, weight: Array) -> Array:
    """Mean over all steps that carry weight [] (0 where none does)."""
    return (x * weight).sum() / jnp.maximum(weight.sum(), 1.0)
