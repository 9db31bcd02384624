"""Action models: from the torso's embedding to the action-conditional heads."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from framework.agent import HEAD_STDDEV
from framework.layers import MLP, Linear, LSTMGates, check_sizes, lstm_step
from framework.registry import component
from framework.transforms import at_action
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


class _Outputs(nn.Module):
    """An MLP whose outputs are near zero at first, as those of heads on the torso: [T, B, D] to [T, B, size]."""

    hidden_sizes: tuple[int, ...]
    size: int

    @nn.compact
    def __call__(self, embedding: Array) -> Array:
        x = nn.relu(MLP(self.hidden_sizes, name="hidden")(embedding)) if self.hidden_sizes else embedding
        return Linear(self.size, name="output", stddev=HEAD_STDDEV)(x)


class _OutputsPerAction(nn.Module):
    """The same with outputs for each action: [T, B, D] to [T, B, A, size]."""

    hidden_sizes: tuple[int, ...]
    size: int
    num_actions: int

    @nn.compact
    def __call__(self, embedding: Array) -> Array:
        flat = _Outputs(self.hidden_sizes, self.num_actions * self.size, name="actions")(embedding)
        return flat.reshape(*embedding.shape[:-1], self.num_actions, self.size)


@component("action_models")
class PerAction(nn.Module):
    """Outputs of their own for each action, by an MLP per head on the embedding (Mnih et al., 2015).

    Attributes:
      hidden_sizes: hidden layers of each head's MLP; none by default: one layer.
    """

    hidden_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_sizes(self.hidden_sizes)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, embedding: Array, action: Array | None, sizes: dict[str, int], num_actions: int
    ) -> dict[str, Array]:
        outputs = {}
        for head, size in sizes.items():
            every = _OutputsPerAction(self.hidden_sizes, size, num_actions, name=f"head_{head}")(embedding)
            outputs[head] = every if action is None else at_action(every, action)
        return outputs


@component("action_models")
class Dueling(nn.Module):
    """V(s) + A(s, a) - mean_a A(s, a), by two MLPs per head on the embedding (Wang et al., 2016, eq. 9).

    For each output of a head by itself, and so for each atom's logit of a distribution (Hessel et al., 2018).

    Attributes:
      hidden_sizes: hidden layers of either MLP.
    """

    hidden_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_sizes(self.hidden_sizes)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, embedding: Array, action: Array | None, sizes: dict[str, int], num_actions: int
    ) -> dict[str, Array]:
        outputs = {}
        for head, size in sizes.items():
            value = _Outputs(self.hidden_sizes, size, name=f"value_{head}")(embedding)
            advantage = _OutputsPerAction(self.hidden_sizes, size, num_actions, name=f"advantage_{head}")(embedding)
            every = value[..., None, :] + advantage - advantage.mean(axis=-2, keepdims=True)
            outputs[head] = every if action is None else at_action(every, action)
        return outputs
