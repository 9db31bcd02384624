"""Optimizers of agents, rules and value functions: from gradients to changes of the parameters."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from framework.numbers import Own, Schedule, check_positive
from framework.registry import component
from framework.trees import zeros_of
from framework.types import Array, Params, PyTree


def clip_global_norm(gradient: Params, limit: float | None) -> Params:
    """The gradient, scaled down to a global norm of at most ``limit``."""
    if limit is None:
        return gradient
    squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient))
    norm = jnp.sqrt(jnp.maximum(squares, 1e-24))  # bounded inside the root, whose slope at 0 is infinite
    return jax.tree.map(lambda leaf: leaf * jnp.minimum(1.0, limit / norm), gradient)


def _clip_residual(gradient: Params, limit: float | None) -> PyTree:
    """What the transpose of `clip_global_norm` needs: the gradient where there is a limit, else nothing."""
    return () if limit is None else gradient


def _clip_transpose(residual: PyTree, cotangent: Params, limit: float | None) -> Params:
    if limit is None:
        return cotangent
    (cotangent,) = jax.vjp(lambda gradient: clip_global_norm(gradient, limit), residual)[1](cotangent)
    return cotangent


def _check_rate(name: str, value: float | Own | None) -> None:
    """Refuses a rate or a limit that is not positive; a schedule may begin or end at 0."""
    if isinstance(value, Schedule):
        if value.initial <= 0 or value.final < 0:
            raise ValueError(f"{name} must be positive, or fall to 0, got {value}")
    elif value is not None:
        check_positive(name, value)


class AdamState(struct.PyTreeNode):
    """Moving averages of the gradient and its square, and the number of updates [] int32."""

    first: Params
    second: Params
    count: Array


@component("optimizers")
@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam whose denominator takes no meta-gradient, each element of its update clipped, then the learning rate.

    Attributes:
      learning_rate: step size.
      b1, b2: decay of the moving averages of the gradient and of its square.
      eps: added to the root.
      max_update: limit of each element before the learning rate; ``None`` for no limit.
      max_gradient_norm: limit of the gradient's global norm; ``None`` for no limit.

    Source: Kingma and Ba, 2015; Oh et al., 2025, Methods, "Agent optimiser".
    """

    learning_rate: float | Own
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    max_update: float | None = None
    max_gradient_norm: float | None = None

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "max_update", "max_gradient_norm"):
            _check_rate(name, getattr(self, name))
        for name in ("b1", "b2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    def init(self, params: Params) -> PyTree:
        zeros = zeros_of(params)
        return AdamState(first=zeros, second=zeros, count=jnp.zeros((), jnp.int32))

    def update(
        self, gradient: Params, state: AdamState, params: Params, learning_rate: Array | float
    ) -> tuple[Params, AdamState]:
        gradient = clip_global_norm(gradient, self.max_gradient_norm)
        count = state.count + 1
        first = jax.tree.map(lambda m, g: self.b1 * m + (1.0 - self.b1) * g, state.first, gradient)
        second = jax.tree.map(lambda v, g: self.b2 * v + (1.0 - self.b2) * jnp.square(g), state.second, gradient)
        first_correction = 1.0 / (1.0 - self.b1**count)
        second_correction = 1.0 / (1.0 - self.b2**count)

        def change(m: Array, v: Array) -> Array:
            step = m * first_correction / (jnp.sqrt(jax.lax.stop_gradient(v * second_correction)) + self.eps)
            if self.max_update is not None:
                step = jnp.clip(step, -self.max_update, self.max_update)
            return -learning_rate * step

        return jax.tree.map(change, first, second), AdamState(first=first, second=second, count=count)

    def linearize(
        self, gradient: Params, state: AdamState, params: Params, learning_rate: Array | float
    ) -> tuple[Params, AdamState, PyTree]:
        change, new_state = self.update(gradient, state, params, learning_rate)
        correction = 1.0 / (1.0 - self.b1**new_state.count)
        second_correction = 1.0 / (1.0 - self.b2**new_state.count)

        def slope(m: Array, v: Array) -> Array:
            slope = correction / (jnp.sqrt(v * second_correction) + self.eps)
            if self.max_update is None:
                return slope
            return jnp.where(jnp.abs(m * slope) < self.max_update, slope, 0.0)

        slopes = jax.tree.map(slope, new_state.first, new_state.second)
        return change, new_state, (slopes, _clip_residual(gradient, self.max_gradient_norm))

    def zero_cotangent(self, params: Params) -> Params:
        return zeros_of(params)

    def transpose(
        self, residual: PyTree, change: Params, state: Params, learning_rate: Array | float
    ) -> tuple[Params, Params]:
        # The denominator takes no meta-gradient: only the first moment, in ``state``, carries one.
        slopes, clipped = residual
        first = jax.tree.map(lambda m, c, s: m - learning_rate * s * c, state, change, slopes)
        gradient = jax.tree.map(lambda m: (1.0 - self.b1) * m, first)
        before = jax.tree.map(lambda m: self.b1 * m, first)
        return _clip_transpose(clipped, gradient, self.max_gradient_norm), before


@component("optimizers")
@dataclasses.dataclass(frozen=True)
class AdamW:
    """`Adam` with decoupled weight decay: what is left of the parameters after an update is 1 - learning_rate * decay.

    The decay is added after each element of the update was clipped (chosen: the papers do not say).

    Attributes:
      learning_rate, b1, b2, eps, max_update, max_gradient_norm: as for `Adam`.
      weight_decay: decay of all parameters, times the learning rate.

    Source: Loshchilov and Hutter, 2019.
    """

    learning_rate: float | Own
    weight_decay: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    max_update: float | None = None
    max_gradient_norm: float | None = None

    def __post_init__(self) -> None:
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        _ = self._adam  # Its other numbers are checked there.

    @property
    def _adam(self) -> Adam:
        return Adam(self.learning_rate, self.b1, self.b2, self.eps, self.max_update, self.max_gradient_norm)

    def init(self, params: Params) -> PyTree:
        return self._adam.init(params)

    def update(
        self, gradient: Params, state: AdamState, params: Params, learning_rate: Array | float
    ) -> tuple[Params, AdamState]:
        change, state = self._adam.update(gradient, state, params, learning_rate)
        shrink = learning_rate * self.weight_decay
        return jax.tree.map(lambda c, p: c - shrink * p, change, params), state


@component("optimizers")
@dataclasses.dataclass(frozen=True)
class SGD:
    """Plain gradient descent.

    Attributes:
      learning_rate: step size.
      max_gradient_norm: limit of the gradient's global norm; ``None`` for no limit.
    """

    learning_rate: float | Own
    max_gradient_norm: float | None = None

    def __post_init__(self) -> None:
        for name in ("learning_rate", "max_gradient_norm"):
            _check_rate(name, getattr(self, name))

    def init(self, params: Params) -> PyTree:
        return ()

    def update(
        self, gradient: Params, state: PyTree, params: Params, learning_rate: Array | float
    ) -> tuple[Params, PyTree]:
        gradient = clip_global_norm(gradient, self.max_gradient_norm)
        return jax.tree.map(lambda g: -learning_rate * g, gradient), state

    def linearize(
        self, gradient: Params, state: PyTree, params: Params, learning_rate: Array | float
    ) -> tuple[Params, PyTree, PyTree]:
        return *self.update(gradient, state, params, learning_rate), _clip_residual(gradient, self.max_gradient_norm)

    def zero_cotangent(self, params: Params) -> PyTree:
        return ()

    def transpose(
        self, residual: PyTree, change: Params, state: PyTree, learning_rate: Array | float
    ) -> tuple[Params, PyTree]:
        gradient = jax.tree.map(lambda c: -learning_rate * c, change)
        return _clip_transpose(residual, gradient, self.max_gradient_norm), state
