"""Action models: from the torso's embedding to the action-conditional heads."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from framework.layers import MLP, Linear, LSTMGates, check_sizes, lstm_step
from framework.registry import component
from framework.types import Array


@component("action_models")
class ActionLSTM(nn.Module):
    """One LSTM step per action from the embedding, then an MLP per head (Oh et al., 2025; after Muesli).

    The hidden state before the step is the same for all actions, so its share of the gates is computed once.

    Attributes:
      size: of the LSTM.
      head_sizes: hidden layers of each head's MLP.
    """

    size: int = 128
    head_sizes: tuple[int, ...] = (128,)

    def __post_init__(self) -> None:
        check_sizes((self.size, *self.head_sizes))
        super().__post_init__()

    @nn.compact
    def __call__(
        self, embedding: Array, action: Array | None, sizes: dict[str, int], num_actions: int
    ) -> dict[str, Array]:
        cell = Linear(self.size, name="cell")(embedding)
        of_action, of_hidden, bias = LSTMGates(self.size, name="gates")(num_actions)
        gates = jnp.tanh(cell) @ of_hidden + bias
        if action is None:
            gates, cell = gates[..., None, :] + of_action, cell[..., None, :]
        else:
            gates = gates + jax.nn.one_hot(action, num_actions) @ of_action
        hidden, _ = lstm_step(gates, cell)
        return {head: MLP((*self.head_sizes, size), name=f"head_{head}")(hidden) for head, size in sizes.items()}
