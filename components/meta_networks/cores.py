"""Trajectory cores, which read one trajectory, and lifetime cores, which remember an agent's earlier updates."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from framework.layers import LSTM, Linear, LSTMGates, lstm_step
from framework.registry import component
from framework.types import Array


@component("trajectory_cores")
class ReverseLSTM(nn.Module):
    """An LSTM from the last step to the first, cleared at episode ends, so that a step sees its own future only.

    Attributes:
      size: of the hidden state; 256 in Disco103 (Oh et al., 2025, Methods).
    """

    size: int = 256

    @nn.compact
    def __call__(self, features: Array, last: Array) -> Array:
        lstm = LSTM(self.size, reverse=True, name="lstm")
        hidden, _ = lstm(features, last, lstm.initial_carry(features.shape[1]))
        return hidden


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

    @nn.compact
    def __call__(self, features: Array, weight: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden, cell = carry
        embedded = Linear(self.embedding_size, name="embedding")(features)
        mean = jnp.einsum("tbd,tb->d", embedded, weight) / jnp.maximum(weight.sum(), 1.0)
        of_input, of_hidden, bias = LSTMGates(self.size, name="gates")(self.embedding_size)
        return lstm_step(mean @ of_input + hidden @ of_hidden + bias, cell)

    def initial_carry(self) -> tuple[Array, Array]:
        return jnp.zeros(self.size), jnp.zeros(self.size)

    def read(self, carry: tuple[Array, Array]) -> Array:
        return carry[0]
