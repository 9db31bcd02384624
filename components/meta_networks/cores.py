"""Trajectory cores, which read one trajectory, and lifetime cores, which remember an agent's earlier updates."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from framework.layers import (
    GRU,
    LSTM,
    MLP,
    Attention,
    LayerNorm,
    Linear,
    LSTMGates,
    check_sizes,
    gru_step,
    lstm_step,
    truncated_normal,
)
from framework.registry import component
from framework.types import Array


@component("trajectory_cores")
class ReverseLSTM(nn.Module):
    """An LSTM from the last step to the first, cleared at episode ends, so that a step sees its own future only.

    Attributes:
      size: of the hidden state; 256 in Disco103 (Oh et al., 2025, Methods).
    """

    size: int = 256

    def __post_init__(self) -> None:
        check_sizes((self.size,))
        super().__post_init__()

    @nn.compact
    def __call__(self, features: Array, last: Array) -> Array:
        lstm = LSTM(self.size, reverse=True, name="lstm")
        hidden, _ = lstm(features, last, lstm.initial_carry(features.shape[1]))
        return hidden


@component("trajectory_cores")
class ReverseGRU(nn.Module):
    """A GRU from the last step to the first, cleared at episode ends.

    Attributes:
      size: of the hidden state; chosen as for the LSTM.
    """

    size: int = 256

    def __post_init__(self) -> None:
        check_sizes((self.size,))
        super().__post_init__()

    @nn.compact
    def __call__(self, features: Array, last: Array) -> Array:
        hidden = jnp.zeros((features.shape[1], self.size))
        return GRU(self.size, reverse=True, name="gru")(features, last, hidden)[0]


def own_future(last: Array) -> Array:
    """Whether step t sees step s [T, T, B]: itself and later ones, up to the end of its episode.

    Args:
      last: whether a step ended an episode [T, B].
    """
    steps = jnp.arange(last.shape[0])
    episode = jnp.cumsum(last, axis=0) - last  # numbered from 0; an episode's last step belongs to it
    return (steps[:, None] <= steps)[..., None] & (episode[:, None] == episode)


@component("trajectory_cores")
class Transformer(nn.Module):
    """Self-attention of each step to itself and to the later steps of its episode (Vaswani et al., 2017).

    Normalized before each layer, with rotary positions: what a step sees depends on distances alone. Oh et al. (2025)
    mention a transformer without its sizes; these are chosen.

    Attributes:
      size: width.
      layers: blocks of attention and MLP.
      heads: attention heads of a block.
      expansion: width of a block's hidden layer, in widths.
    """

    size: int = 128
    layers: int = 2
    heads: int = 4
    expansion: int = 4

    def __post_init__(self) -> None:
        check_sizes((self.size, self.layers, self.heads, self.expansion))
        if self.size % (2 * self.heads):
            raise ValueError(f"size must be a multiple of 2 heads = {2 * self.heads}, got {self.size}")
        super().__post_init__()

    @nn.compact
    def __call__(self, features: Array, last: Array) -> Array:
        visible = own_future(last)
        x = Linear(self.size, name="embedding")(features)
        for index in range(self.layers):
            attention = Attention(self.heads, name=f"attention_{index}")
            layers = MLP((self.expansion * self.size, self.size), name=f"layers_{index}")
            x = x + attention(LayerNorm(name=f"attention_norm_{index}")(x), visible)
            x = x + layers(LayerNorm(name=f"layers_norm_{index}")(x))
        return LayerNorm(name="norm")(x)


@component("trajectory_cores")
class StepMLP(nn.Module):
    """Fully connected layers on each step by itself: a rule that looks no further than its features.

    Attributes:
      sizes: of the layers, each followed by ReLU; chosen.
    """

    sizes: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        check_sizes(self.sizes)
        super().__post_init__()

    @nn.compact
    def __call__(self, features: Array, last: Array) -> Array:
        return nn.relu(MLP(self.sizes, name="layers")(features))


def mean_embedding(features: Array, weight: Array, size: int) -> Array:
    """The weighted mean over all steps of a linear embedding: [T, B, D] and [T, B] to [size]."""
    embedded = Linear(size, name="embedding")(features)
    return jnp.einsum("tbd,tb->d", embedded, weight) / jnp.maximum(weight.sum(), 1.0)


@component("lifetime_cores")
class MetaRNN(nn.Module):
    """An LSTM stepped once per agent update on the mean of an embedding over all steps.

    Attributes:
      size: of the hidden state; 128 in Disco103.
      embedding_size: of the linear map whose mean it reads; 16 in Disco103.

    Source: Oh et al., 2025, Methods, "Meta-RNN".
    """

    size: int = 128
    embedding_size: int = 16

    def __post_init__(self) -> None:
        check_sizes((self.size, self.embedding_size))
        super().__post_init__()

    @nn.compact
    def __call__(self, features: Array, weight: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden, cell = carry
        mean = mean_embedding(features, weight, self.embedding_size)
        of_input, of_hidden, bias = LSTMGates(self.size, name="gates")(self.embedding_size)
        return lstm_step(mean @ of_input + hidden @ of_hidden + bias, cell)

    def initial_carry(self) -> tuple[Array, Array]:
        return jnp.zeros(self.size), jnp.zeros(self.size)

    def read(self, carry: tuple[Array, Array]) -> Array:
        return carry[0]


@component("lifetime_cores")
class MetaGRU(nn.Module):
    """A GRU stepped once per agent update on the mean of an embedding over all steps.

    Attributes:
      size: of the hidden state; chosen as for the LSTM.
      embedding_size: of the linear map whose mean it reads.
    """

    size: int = 128
    embedding_size: int = 16

    def __post_init__(self) -> None:
        check_sizes((self.size, self.embedding_size))
        super().__post_init__()

    @nn.compact
    def __call__(self, features: Array, weight: Array, carry: Array) -> Array:
        mean = mean_embedding(features, weight, self.embedding_size)
        of_hidden = self.param("hidden", truncated_normal(), (self.size, 3 * self.size))
        return gru_step(Linear(3 * self.size, name="input")(mean), carry @ of_hidden, carry)

    def initial_carry(self) -> Array:
        return jnp.zeros(self.size)

    def read(self, carry: Array) -> Array:
        return carry
