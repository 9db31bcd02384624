"""Layers that several networks are built from."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from framework.interfaces import Initializer
from framework.transforms import expectation
from framework.types import Array


def truncated_normal(stddev: float | None = None) -> nn.initializers.Initializer:
    """Normal cut off at two standard deviations; ``stddev`` defaults to 1 / sqrt(fan_in)."""

    def initialize(key: Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        scale = shape[0] ** -0.5 if stddev is None else stddev
        return scale * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)

    return initialize


def check_sizes(sizes: Sequence[int]) -> None:
    """Refuses layers without a size.

    Raises:
      ValueError: where a size is not positive.
    """
    if any(size < 1 for size in sizes):
        raise ValueError(f"sizes must be positive, got {tuple(sizes)}")


class Linear(nn.Module):
    """A linear layer with zero biases: [..., D] to [..., size].

    All leading axes are one for the product: the weights' gradient is then one product too, without transposed copies.

    Attributes:
      size: outputs.
      stddev: of truncated-normal weights; see `truncated_normal`.
      initializer: of the weights, in the place of these.
    """

    size: int
    stddev: float | None = None
    initializer: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        initializer = truncated_normal(self.stddev) if self.initializer is None else self.initializer
        kernel = self.param("kernel", initializer, (x.shape[-1], self.size))
        bias = self.param("bias", nn.initializers.zeros, (self.size,))
        flat = x.reshape(-1, x.shape[-1]) @ kernel + bias
        return flat.reshape(*x.shape[:-1], self.size)


class MLP(nn.Module):
    """Linear layers with ReLU between them and none after the last: [..., D] to [..., sizes[-1]].

    Attributes:
      sizes: of the layers.
      initializer: of their weights; by default as for `Linear`.
    """

    sizes: tuple[int, ...]
    initializer: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for index, size in enumerate(self.sizes):
            layer = Linear(size, name=f"linear_{index}", initializer=self.initializer)
            x = layer(x if index == 0 else nn.relu(x))
        return x


class ExpectedLinear(nn.Module):
    """A linear layer on a distribution given by its logits: W^T softmax(x) + b, [..., K] to [..., size]."""

    size: int

    @nn.compact
    def __call__(self, logits: Array) -> Array:
        kernel = self.param("kernel", truncated_normal(), (logits.shape[-1], self.size))
        return expectation(logits, kernel) + self.param("bias", nn.initializers.zeros, (self.size,))


class DistributionMLP(nn.Module):
    """An MLP on a distribution given by its logits: [..., K] to [..., sizes[-1]]."""

    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, logits: Array) -> Array:
        x = ExpectedLinear(self.sizes[0], name="linear_0")(logits)
        for index, size in enumerate(self.sizes[1:], start=1):
            x = Linear(size, name=f"linear_{index}")(nn.relu(x))
        return x


class ActionEquivariantBlock(nn.Module):
    """One layer shared by all actions that also sees their mean: relu(W [x_a, mean_a x]).

    From [..., A, D] to [..., A, size].
    Permuting the actions of the input permutes those of the output (Oh et al., 2025, Methods).
    """

    size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        mean = jnp.broadcast_to(x.mean(axis=-2, keepdims=True), x.shape)
        return nn.relu(Linear(self.size, name="linear")(jnp.concatenate([x, mean], axis=-1)))


def lstm_step(gates: Array, cell: Array) -> tuple[Array, Array]:
    """LSTM cell from its summed gates [..., 4 H], ordered input, candidate, forget, output, and its cell [..., H].

    c' = sigmoid(f + 1) c + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c').

    Returns:
      The new hidden state and cell [..., H].
    """
    i, g, f, o = jnp.split(gates, 4, axis=-1)
    cell = nn.sigmoid(f + 1.0) * cell + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(cell), cell


class LSTMGates(nn.Module):
    """The one linear map of an LSTM from its input and hidden state to its gates, in two parts.

    Apart, so that the inputs' share (or the hidden state's, where many inputs meet one state) is computed once.
    """

    size: int

    @nn.compact
    def __call__(self, input_size: int) -> tuple[Array, Array, Array]:
        """The kernel's rows for the input [D, 4 H] and for the hidden state [H, 4 H], and the bias [4 H]."""
        kernel = self.param("kernel", truncated_normal(), (input_size + self.size, 4 * self.size))
        bias = self.param("bias", nn.initializers.zeros, (4 * self.size,))
        return kernel[:input_size], kernel[input_size:], bias


class LSTM(nn.Module):
    """An LSTM over T steps whose state can be cleared before a step."""

    size: int
    reverse: bool = False

    @nn.compact
    def __call__(self, x: Array, reset: Array, carry: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        """From x [T, B, D], reset [T, B], carry (hidden, cell) [B, H] to hidden [T, B, H] and the last carry."""
        of_input, of_hidden, bias = LSTMGates(self.size, name="gates")(x.shape[-1])

        def step(carry: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            gates, reset = inputs
            hidden, cell = jax.tree.map(lambda s: jnp.where(reset[:, None], 0.0, s), carry)
            hidden, cell = lstm_step(gates + hidden @ of_hidden, cell)
            return (hidden, cell), hidden

        carry, hidden = jax.lax.scan(step, carry, (x @ of_input + bias, reset), reverse=self.reverse)
        return hidden, carry

    def initial_carry(self, batch: int) -> tuple[Array, Array]:
        return jnp.zeros((batch, self.size)), jnp.zeros((batch, self.size))


def gru_step(of_input: Array, of_hidden: Array, hidden: Array) -> Array:
    """GRU cell from the input's and the hidden state's shares of the gates [..., 3 H], and its hidden state [..., H].

    Ordered reset r, update u, candidate n; n = tanh(n_x + sigmoid(r) n_h), h' = sigmoid(u) h + (1 - sigmoid(u)) n
    (Cho et al., 2014, with the reset gate after the hidden state's product).
    """
    (r_x, u_x, n_x), (r_h, u_h, n_h) = (jnp.split(share, 3, axis=-1) for share in (of_input, of_hidden))
    update = nn.sigmoid(u_x + u_h)
    return update * hidden + (1.0 - update) * jnp.tanh(n_x + nn.sigmoid(r_x + r_h) * n_h)


class GRU(nn.Module):
    """A GRU over T steps whose state can be cleared before a step."""

    size: int
    reverse: bool = False

    @nn.compact
    def __call__(self, x: Array, reset: Array, hidden: Array) -> tuple[Array, Array]:
        """From x [T, B, D], reset [T, B], hidden state [B, H] to all hidden states [T, B, H] and the last."""
        of_hidden = self.param("hidden", truncated_normal(), (self.size, 3 * self.size))

        def step(hidden: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            gates, reset = inputs
            hidden = jnp.where(reset[:, None], 0.0, hidden)
            hidden = gru_step(gates, hidden @ of_hidden, hidden)
            return hidden, hidden

        gates = Linear(3 * self.size, name="input")(x)
        last, every = jax.lax.scan(step, hidden, (gates, reset), reverse=self.reverse)
        return every, last


class Table(nn.Module):
    """One row of outputs for each state, zero at first: nothing is known of a state that was never visited.

    Rows are gathered, and their gradients added up by scatter; a product with one-hot vectors would cost as many
    operations per step as there are states. A row out of bounds reads as NaN.

    Attributes:
      num_states: rows.
      shape: of a row's outputs.
    """

    num_states: int
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, state: Array, action: Array | None = None) -> Array:
        """From states [T, B] to [T, B, *shape]; at actions [T, B], the rows' first axis, to [T, B, *shape[1:]]."""
        table = self.param("table", nn.initializers.zeros, (self.num_states, *self.shape))
        index = (state,) if action is None else (state, action)
        return table.at[index].get(mode="fill", fill_value=jnp.nan)


def rotated(x: Array) -> Array:
    """Rotary position encoding: pairs of channels turned by angles that grow with the step, [T, ..., 2 C].

    Products of two encoded vectors then depend on the distance of their steps alone (Su et al., 2021).
    """
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-jnp.arange(half) / half)
    angle = (jnp.arange(x.shape[0])[:, None] * frequency).reshape(-1, *[1] * (x.ndim - 2), half)
    one, other = x[..., :half], x[..., half:]
    turned = (one * jnp.cos(angle) - other * jnp.sin(angle), one * jnp.sin(angle) + other * jnp.cos(angle))
    return jnp.concatenate(turned, axis=-1)


class Attention(nn.Module):
    """Self-attention of each step to the steps that a mask lets it see.

    Attributes:
      heads: attention heads; they divide the width.
    """

    heads: int

    @nn.compact
    def __call__(self, x: Array, visible: Array) -> Array:
        """From x [T, B, D] and whether step t sees step s [T, T, B] to [T, B, D]."""
        width = x.shape[-1]
        projected = Linear(3 * width, name="projections")(x).reshape(*x.shape[:2], 3 * self.heads, -1)
        query, key, value = jnp.split(projected, 3, axis=2)
        scores = jnp.einsum("tbhd,sbhd->tsbh", rotated(query), rotated(key)) * query.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(visible[..., None], scores, -jnp.inf), axis=1)
        attended = jnp.einsum("tsbh,sbhd->tbhd", weights, value)
        return Linear(width, name="output")(attended.reshape(x.shape))


class LayerNorm(nn.Module):
    """Each vector to mean 0 and variance 1, then scaled and shifted by parameters (Ba et al., 2016)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + 1e-6) * scale + bias
