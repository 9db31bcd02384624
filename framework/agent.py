"""Agents: a torso, the heads that the update rule asks for, an optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from framework.errors import UserError
from framework.interfaces import ActionModel, Head, Optimizer, SetUpTorso, Torso
from framework.layers import Linear, Table
from framework.registry import Problem, component
from framework.specs import ArraySpec, EnvironmentSpec
from framework.types import ActingParams, Array, Observation, Outputs, Params, PyTree
from framework.update_rule import UpdateRule

HEAD_STDDEV = 0.01
"""Of the initial weights of heads on the torso (the authors' reference agent)."""


def inputs_of(torso: Torso) -> tuple[str, ...]:
    """The arrays of a dictionary that a torso reads, by name; none for one that reads a single array."""
    inputs: tuple[str, ...] = getattr(torso, "inputs", ())
    return inputs


def unread_inputs(torso: Torso, spec: EnvironmentSpec) -> str | None:
    """What is wrong where a torso reads a dictionary and is shown an array, or other arrays, or the other way."""
    name, inputs, parts = type(torso).__name__, inputs_of(torso), dict(spec.parts)
    for wanted in inputs:
        if wanted not in parts:
            return f"{name} reads '{wanted}', the environment shows {spec.shown}: use another torso"
    if parts and not inputs:
        return f"{name} reads one array, the environment shows {spec.shown}: use torsos.MultiInput or another"
    return None


def torso_for(torso: Torso, observation: ArraySpec | Mapping[str, ArraySpec]) -> Torso:
    """The torso, set up for what it will be shown where it must know."""
    return torso.set_up_for(observation) if isinstance(torso, SetUpTorso) else torso


def takes_index(torso: Torso) -> bool:
    """Whether a torso reads observations that are a state's index; it says so by an attribute ``takes_index``."""
    return getattr(torso, "takes_index", False)


class NetworkModule(nn.Module):
    """Torso, heads on its embedding, and the action model's heads.

    On an embedding that is a state's index [T, B] all heads are tables, and there is no action model.
    """

    torso: Torso
    heads: tuple[Head, ...]
    action_model: ActionModel | None
    spec: EnvironmentSpec

    @nn.compact
    def __call__(
        self,
        observation: Observation,
        reset: Array,
        carry: PyTree,
        action: Array | None = None,
        only: str | None = None,
    ) -> tuple[Outputs, PyTree]:
        embedding, carry = self.torso(observation, reset, carry)
        if jnp.issubdtype(embedding.dtype, jnp.integer):
            return self._tables(embedding, action, only), carry
        outputs: Outputs = {}
        conditional = {}
        for head in self.heads:
            if only is not None and head.name != only:
                continue
            size = head.size(self.spec)
            if head.action_conditional:
                conditional[head.name] = size
            else:
                outputs[head.name] = Linear(size, name=f"head_{head.name}", stddev=HEAD_STDDEV)(embedding)
        if conditional and self.action_model is not None:
            outputs |= self.action_model(embedding, action, conditional, self.spec.num_actions)
        return outputs, carry

    def _tables(self, state: Array, action: Array | None, only: str | None) -> Outputs:
        """The heads' outputs for states [T, B], from tables with a row for each."""
        if self.spec.num_states is None:
            raise UserError("heads can be tables only where observations are a state's index: choose another torso")
        outputs: Outputs = {}
        for head in self.heads:
            if only is not None and head.name != only:
                continue
            actions = (self.spec.num_actions,) if head.action_conditional else ()
            table = Table(self.spec.num_states, (*actions, head.size(self.spec)), name=f"head_{head.name}")
            outputs[head.name] = table(state, action if head.action_conditional else None)
        return outputs


@dataclasses.dataclass(frozen=True)
class Network:
    """An agent's network as functions of its parameters; time comes first, a single step is T = 1.

    Attributes:
      module: the linen module.
      spec: what the network is built for.
      rule: whose heads it has, and by which it acts.
    """

    module: NetworkModule
    spec: EnvironmentSpec
    rule: UpdateRule

    def init(self, key: Array) -> Params:
        """Parameters drawn at random."""
        observation = self.spec.arrays(lambda x: jnp.zeros((1, 1, *x.shape), x.dtype))
        return self.module.init(key, observation, jnp.zeros((1, 1), bool), self.initial_carry(1))["params"]

    def initial_carry(self, batch: int) -> PyTree:
        """The torso's carry at the start of episodes [B, ...]."""
        return self.module.torso.initial_carry(batch)

    def unroll(
        self, params: Params, observation: Observation, last: Array, carry: PyTree, action: Array | None = None
    ) -> Outputs:
        """Outputs for T+1 observations of a trajectory.

        Args:
          params: the parameters.
          observation: [T+1, B, ...].
          last: whether a transition ended an episode [T, B]: the carry is cleared before the next row.
          carry: before row 0 [B, ...].
          action: actions taken [T, B]; where given, action-conditional heads are computed for them alone.

        Returns:
          {head: [T+1, B, ...]}; action-conditional heads [T+1, B, A, ...], or, with ``action``, [T+1, B, ...],
          whose last row belongs to no action.
        """
        if action is not None:
            action = jnp.concatenate([action, action[-1:]])
        reset = resets(last)
        return self.module.apply({"params": params}, observation, reset, carry, action)[0]

    def policy(self, by: ActingParams, observation: Observation, carry: PyTree) -> tuple[Array, PyTree]:
        """Logits of what is done [B, A] at one step's observations [B, ...], and the torso's new carry.

        The carry must have been cleared where an episode ended; see `cleared`.
        """
        step, head = jax.tree.map(lambda x: x[None], observation), self.rule.acting_head
        reset = jnp.zeros((1, jax.tree.leaves(observation)[0].shape[0]), bool)
        outputs, carry = self.module.apply({"params": by.params}, step, reset, carry, only=head)
        return self.rule.policy(outputs[head][0], by.hyperparameters), carry

    def cleared(self, carry: PyTree, last: Array) -> PyTree:
        """The carry, set to its initial value where an episode ended [B]."""
        initial = self.initial_carry(last.shape[0])
        return jax.tree.map(lambda c, i: jnp.where(last.reshape(-1, *[1] * (c.ndim - 1)), i, c), carry, initial)


def resets(last: Array) -> Array:
    """Rows before which recurrent state is cleared [T+1, B], from the transitions that ended an episode [T, B].

    Row 0 is never reset: the carry that a trajectory starts from was cleared when its episode began.
    """
    return jnp.concatenate([jnp.zeros_like(last[:1]), last])


@component("agents")
@dataclasses.dataclass(frozen=True)
class Agent:
    """An agent; the update rule adds the heads.

    Attributes:
      torso: from observations to an embedding.
      optimizer: from gradients to changes of the parameters.
      action_model: grows the action-conditional heads; needed by rules that have such heads, but not by tables.
    """

    torso: Torso
    optimizer: Optimizer
    action_model: ActionModel | None = None

    def network(self, rule: UpdateRule, spec: EnvironmentSpec) -> Network:
        """The network with the rule's heads."""
        torso = torso_for(self.torso, spec.observation)
        return Network(NetworkModule(torso, rule.heads, self.action_model, spec), spec, rule)

    def problems(self, rule: UpdateRule) -> list[Problem]:
        """Whether the agent can grow the rule's heads."""
        conditional = [head.name for head in rule.heads if head.action_conditional]
        if takes_index(self.torso):
            if self.action_model is not None:
                message = (
                    f"heads on {type(self.torso).__name__} are tables, and nothing uses an action model: bind None"
                )
                return [Problem(self, "action_model", message)]
        elif conditional and self.action_model is None:
            names = ", ".join(conditional)
            return [Problem(self, "action_model", f"the action-conditional heads {names} need an action model")]
        return []

    def problems_with(self, spec: EnvironmentSpec) -> list[Problem]:
        """Whether the agent can read an environment's observations."""
        torso = type(self.torso).__name__
        if (message := unread_inputs(self.torso, spec)) is not None:
            return [Problem(self, "torso", message)]
        if takes_index(self.torso) and spec.num_states is None:
            message = f"{torso} reads a state's index, the environment shows {spec.shown}: use torsos.MLP or another"
            return [Problem(self, "torso", message)]
        if spec.num_states is not None and not takes_index(self.torso):
            message = f"{torso} would read the index of one of {spec.num_states} states as a number: use torsos.Tabular"
            return [Problem(self, "torso", message)]
        return []
