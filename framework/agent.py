"""Agents: a torso, the heads that the update rule asks for, an optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from framework.errors import UserError, closest, did_you_mean
from framework.interfaces import ActionModel, Head, Initializer, Optimizer, SetUpTorso, Torso
from framework.layers import Linear, Table
from framework.registry import Problem, component
from framework.specs import ArraySpec, EnvironmentSpec
from framework.types import ActingParams, Array, Observation, Outputs, Params, PyTree
from framework.update_rule import UpdateRule, problems_of_reading

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
            remedy = did_you_mean(closest(wanted, parts)) or " Use another torso."
            return f"{name} reads '{wanted}', the environment shows {spec.shown}.{remedy}"
    if parts and not inputs:
        return f"{name} reads one array, the environment shows {spec.shown}: use torsos.MultiInput or another"
    return None


def torso_for(torso: Torso, observation: ArraySpec | Mapping[str, ArraySpec]) -> Torso:
    """The torso, set up for what it will be shown where it must know."""
    return torso.set_up_for(observation) if isinstance(torso, SetUpTorso) else torso


def takes_index(torso: Torso) -> bool:
    """Whether a torso reads observations that are a state's index; it says so by an attribute ``takes_index``."""
    return getattr(torso, "takes_index", False)


@component("head_networks")
@dataclasses.dataclass(frozen=True)
class HeadNetwork:
    """What a head has to itself in an agent's network.

    Attributes:
      head: its name; not an action-conditional one, which the action model grows.
      torso: what it reads the observation by; ``None`` for the agent's torso, which it shares with the other heads.
      initializer: of the weights of its linear layer on the torso; by default truncated normal with deviation 0.01.
    """

    head: str
    torso: Torso | None = None
    initializer: Initializer | None = None

    def set_up_for(self, observation: ArraySpec | Mapping[str, ArraySpec]) -> HeadNetwork:
        """The same, for observations that are such arrays, or dictionaries of them."""
        return self if self.torso is None else dataclasses.replace(self, torso=torso_for(self.torso, observation))


class NetworkModule(nn.Module):
    """Torso, heads on its embedding, and the action model's heads.

    On an embedding that is a state's index [T, B] all heads are tables, and there is no action model.
    Where heads have torsos of their own, the carry is a pair: the shared torso's, and theirs {head: carry}.
    """

    torso: Torso
    heads: tuple[Head, ...]
    action_model: ActionModel | None
    spec: EnvironmentSpec
    head_networks: tuple[HeadNetwork, ...] = ()

    @property
    def own_torsos(self) -> dict[str, Torso]:
        """{head: the torso that it has to itself}."""
        return {network.head: network.torso for network in self.head_networks if network.torso is not None}

    @nn.compact
    def __call__(
        self,
        observation: Observation,
        reset: Array,
        carry: PyTree,
        action: Array | None = None,
        only: str | None = None,
    ) -> tuple[Outputs, PyTree]:
        own_embeddings: dict[str, Array] = {}
        if self.own_torsos:
            carry, own_carries = carry
            own_embeddings, own_carries = self._embed_for_heads(observation, reset, own_carries)
        embedding, carry = self.torso(observation, reset, carry)
        if self.own_torsos:
            carry = carry, own_carries
        initializers = {network.head: network.initializer for network in self.head_networks}
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
                layer = Linear(
                    size, name=f"head_{head.name}", stddev=HEAD_STDDEV, initializer=initializers.get(head.name)
                )
                outputs[head.name] = layer(own_embeddings.get(head.name, embedding))
        if conditional and self.action_model is not None:
            outputs |= self.action_model(embedding, action, conditional, self.spec.num_actions)
        return outputs, carry

    def _embed_for_heads(
        self, observation: Observation, reset: Array, carries: dict[str, PyTree]
    ) -> tuple[dict[str, Array], dict[str, PyTree]]:
        """The embeddings that heads have to themselves {head: [T, B, D]}, and their torsos' new carries."""
        embeddings, after = {}, {}
        for head, torso in self.own_torsos.items():
            module = cast(nn.Module, torso).copy(name=f"torso_{head}")
            embeddings[head], after[head] = module(observation, reset, carries[head])
        return embeddings, after

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
        """The torsos' carry at the start of episodes [B, ...]."""
        shared = self.module.torso.initial_carry(batch)
        own = {head: torso.initial_carry(batch) for head, torso in self.module.own_torsos.items()}
        return (shared, own) if own else shared

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

    def greedy(self) -> Network:
        """The network of an agent that acts without exploration, as it is evaluated; a policy is sampled from."""
        return dataclasses.replace(self, rule=self.rule.greedy())

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
      head_networks: what heads have to themselves; by default all share the torso.
    """

    torso: Torso
    optimizer: Optimizer
    action_model: ActionModel | None = None
    head_networks: tuple[HeadNetwork, ...] = ()

    def __post_init__(self) -> None:
        named = [network.head for network in self.head_networks]
        if len(set(named)) < len(named):
            raise ValueError(f"head_networks must name each head once, got {', '.join(named)}")

    @property
    def torsos(self) -> tuple[Torso, ...]:
        """The shared torso, and those that heads have to themselves."""
        return (self.torso, *(network.torso for network in self.head_networks if network.torso is not None))

    def remembers(self, spec: EnvironmentSpec) -> bool:
        """Whether what the agent does at a step in an environment depends on earlier ones."""
        torsos = [torso_for(torso, spec.observation) for torso in self.torsos]
        return any(jax.tree.leaves(jax.eval_shape(lambda t=torso: t.initial_carry(1))) for torso in torsos)

    def network(self, rule: UpdateRule, spec: EnvironmentSpec) -> Network:
        """The network with the rule's heads."""
        shown = spec.observation
        own = tuple(network.set_up_for(shown) for network in self.head_networks)
        module = NetworkModule(torso_for(self.torso, shown), rule.heads, self.action_model, spec, own)
        return Network(module, spec, rule)

    def problems(self, rule: UpdateRule) -> list[Problem]:
        """Whether the agent can grow the rule's heads."""
        return [*self._problems_of_heads(rule), *self._problems_of_head_networks(rule)]

    def _problems_of_head_networks(self, rule: UpdateRule) -> Iterator[Problem]:
        conditional = [head.name for head in rule.heads if head.action_conditional]
        for network in self.head_networks:
            yield from problems_of_reading(rule, network)
            if network.torso is None and network.initializer is None:
                message = f"the head '{network.head}' has nothing to itself: bind torso or initializer"
                yield Problem(network, "head", message)
            elif network.head in conditional:
                message = f"the head '{network.head}' is action-conditional: the action model grows it, on the torso"
                yield Problem(network, "head", message)
            elif any(takes_index(torso) for torso in self.torsos):
                message = (
                    f"heads on torsos.Tabular are tables, and have no more to themselves: leave '{network.head}' out"
                )
                yield Problem(network, "head", message)

    def _problems_of_heads(self, rule: UpdateRule) -> list[Problem]:
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
        owners: tuple[Agent | HeadNetwork, ...] = (self, *self.head_networks)
        for owner in owners:
            if owner.torso is not None and (message := unread_inputs(owner.torso, spec)) is not None:
                return [Problem(owner, "torso", message)]
        if takes_index(self.torso) and spec.num_states is None:
            message = f"{torso} reads a state's index, the environment shows {spec.shown}: use torsos.MLP or another"
            return [Problem(self, "torso", message)]
        if spec.num_states is not None and not takes_index(self.torso):
            message = f"{torso} would read the index of one of {spec.num_states} states as a number: use torsos.Tabular"
            return [Problem(self, "torso", message)]
        return []
