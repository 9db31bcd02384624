"""Torsos: from observations to the embedding that the heads share."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from framework.interfaces import Initializer
from framework.layers import LSTM, check_sizes
from framework.layers import MLP as Layers
from framework.registry import component
from framework.types import Array, PyTree


def unit_bytes(observation: Array) -> Array:
    """As float32: bytes are scaled to [0, 1], other numbers kept."""
    numbers = observation.astype(jnp.float32)
    return numbers / 255.0 if observation.dtype == jnp.uint8 else numbers


@component("torsos")
class MLP(nn.Module):
    """Fully connected layers with ReLU between them, on the flattened observation.

    Attributes:
      sizes: of the layers; (512, 512) in the authors' reference agent.
      final_activation: whether ReLU follows on the last layer too; it does not in the authors' reference agent.
      initializer: of the layers' weights; by default truncated normal with deviation 1 / sqrt(fan_in).
    """

    sizes: tuple[int, ...] = (512, 512)
    final_activation: bool = False
    initializer: Initializer | None = None

    def __post_init__(self) -> None:
        check_sizes(self.sizes)
        super().__post_init__()

    @nn.compact
    def __call__(self, observation: Array, reset: Array, carry: PyTree) -> tuple[Array, PyTree]:
        flat = unit_bytes(observation.reshape((*observation.shape[:2], -1)))
        embedding = Layers(self.sizes, self.initializer, name="layers")(flat)
        return nn.relu(embedding) if self.final_activation else embedding, carry

    def initial_carry(self, batch: int) -> PyTree:
        return ()


@component("torsos")
class RecurrentMLP(nn.Module):
    """Fully connected layers, then an LSTM over time whose memory ends with the episode.

    Attributes:
      sizes: of the layers.
      memory: size of the LSTM's hidden state.
    """

    sizes: tuple[int, ...] = (256,)
    memory: int = 128

    def __post_init__(self) -> None:
        check_sizes((*self.sizes, self.memory))
        super().__post_init__()

    @nn.compact
    def __call__(self, observation: Array, reset: Array, carry: PyTree) -> tuple[Array, PyTree]:
        flat = unit_bytes(observation.reshape((*observation.shape[:2], -1)))
        embedded = nn.relu(Layers(self.sizes, name="layers")(flat))
        return LSTM(self.memory, name="lstm")(embedded, reset, carry)

    def initial_carry(self, batch: int) -> PyTree:
        return LSTM(self.memory, parent=None).initial_carry(batch)


@component("torsos")
class Tabular(nn.Module):
    """Passes the state's index on: heads on it are tables with a row for each state, and nothing is shared."""

    takes_index: ClassVar[bool] = True

    @nn.compact
    def __call__(self, observation: Array, reset: Array, carry: PyTree) -> tuple[Array, PyTree]:
        return observation, carry

    def initial_carry(self, batch: int) -> PyTree:
        return ()
