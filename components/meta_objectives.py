"""Meta-objectives: how good the policy is that an update rule led to, as a policy gradient on a validation trajectory.

Each learns a value function beside the agent, from the trajectories that the agent learns from; neither it nor its
estimates carry a meta-gradient. Where an episode was cut off (weight 0) the advantage, and so the loss, is 0.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from components.normalizers import Moments, initial_moments, normalize, update_moments
from components.optimizers import Adam
from components.torsos import MLP
from components.value_estimators import v_trace
from framework.agent import HEAD_STDDEV, resets, torso_for, unread_inputs
from framework.errors import UserError
from framework.interfaces import Number, Optimizer, Torso
from framework.layers import Linear, Table
from framework.registry import component
from framework.specs import ArraySpec, EnvironmentSpec, map_parts
from framework.transforms import importance_ratio, log_probability, signed_parabolic, weighted_mean
from framework.types import Array, Observation, Params, PyTree, Trajectory

VALUE_NETWORK: Torso = MLP((256, 256))
"""Torso of the value function in the authors' meta-training notebook."""

VALUE_OPTIMIZER = cast(Optimizer, Adam(learning_rate=1e-3, max_update=1.0))
"""That of the value function in the same notebook; the paper has a learning rate of 3e-4."""


class ValueNetwork(nn.Module):
    """One number for each observation: linear in a torso's embedding, or an entry of a table of states."""

    torso: Torso
    num_states: int | None

    @nn.compact
    def __call__(self, observation: Observation, last: Array) -> Array:
        """From observations [T+1, B, ...] and the ends of episodes [T, B] to [T+1, B]."""
        if self.num_states is not None:
            return Table(self.num_states, (1,), name="value")(observation).squeeze(-1)
        carry = self.torso.initial_carry(last.shape[1])
        embedding, _ = self.torso(observation, resets(last), carry)
        return Linear(1, stddev=HEAD_STDDEV, name="value")(embedding).squeeze(-1)


class ValueState(struct.PyTreeNode):
    """A value function's parameters and its optimizer's state."""

    params: Params
    opt_state: PyTree


@dataclasses.dataclass(frozen=True)
class _PolicyGradient:
    """What the objectives share: a value function that is learned by one optimizer step per agent update."""

    discount: float
    value_network: Torso = VALUE_NETWORK
    optimizer: Optimizer = VALUE_OPTIMIZER

    def __post_init__(self) -> None:
        if not 0.0 <= self.discount <= 1.0:
            raise ValueError(f"discount must lie in [0, 1], got {self.discount}")
        if isinstance(self.optimizer.learning_rate, Number):
            raise ValueError("optimizer must have a constant learning rate: a value function has no hyperparameters")

    def _ratio(self, trajectory: Trajectory, logits: Array) -> Array:
        """How much likelier the actions are now than when they were taken, for V-trace to clip at 1 [T, B]."""
        ratio = importance_ratio(logits[:-1], behaviour=trajectory.behaviour, action=trajectory.action)
        return jax.lax.stop_gradient(ratio)

    def _network(self, observation: ArraySpec | dict[str, ArraySpec], num_states: int | None) -> ValueNetwork:
        """For observations that are such arrays, or indices of states."""
        torso = self.value_network if num_states is not None else torso_for(self.value_network, observation)
        return ValueNetwork(torso, num_states)

    def _outputs(self, params: Params, trajectory: Trajectory) -> Array:
        """The value network's outputs [T+1, B]."""
        table = params["value"].get("table")
        num_states = None if table is None else table.shape[0]
        shown = map_parts(lambda x: ArraySpec(x.shape[2:], x.dtype.name), trajectory.observation)
        network = self._network(shown, num_states)
        return cast(Array, network.apply({"params": params}, trajectory.observation, trajectory.last))

    def _initial_value(self, key: Array, spec: EnvironmentSpec) -> ValueState:
        observation = spec.arrays(lambda x: jnp.zeros((2, 1, *x.shape), x.dtype))
        if (message := unread_inputs(self.value_network, spec)) is not None:
            raise UserError(f"the value network cannot read the observations: {message}")
        network = self._network(spec.observation, spec.num_states)
        params = network.init(key, observation, jnp.zeros((1, 1), bool))["params"]
        return ValueState(params=params, opt_state=self.optimizer.init(params))

    def _estimate(self, values: Array, trajectory: Trajectory, logits: Array, lambda_: float) -> tuple[Array, Array]:
        """How far V-trace's targets are from the values, and its advantages [T, B]; constants both."""
        targets, advantages = v_trace(
            trajectory.reward,
            self.discount * trajectory.discount,
            values,
            rho=self._ratio(trajectory, logits),
            lambda_=lambda_,
            cut=trajectory.weight == 0,
        )
        return jax.lax.stop_gradient((targets - values[:-1], advantages))

    def _learn(self, value: ValueState, trajectory: Trajectory, errors: Array) -> tuple[ValueState, Array]:
        """One optimizer step on 1/2 (u - sg(u + error))^2, u the network's outputs; also the loss []."""

        def loss(params: Params) -> Array:
            outputs = self._outputs(params, trajectory)[:-1]
            of_steps = 0.5 * jnp.square(outputs - jax.lax.stop_gradient(outputs + errors))
            return weighted_mean(of_steps, trajectory.weight)

        mean, gradient = jax.value_and_grad(loss)(value.params)
        rate = self.optimizer.learning_rate
        change, opt_state = self.optimizer.update(gradient, value.opt_state, value.params, rate)
        return ValueState(params=jax.tree.map(jnp.add, value.params, change), opt_state=opt_state), mean


def policy_gradient(trajectory: Trajectory, logits: Array, advantages: Array) -> Array:
    """-log pi(a) A of each step, 0 at those of weight 0 [T, B]; only the policy takes a gradient."""
    return -log_probability(logits[:-1], trajectory.action) * jax.lax.stop_gradient(trajectory.weight * advantages)


class ActorCriticState(struct.PyTreeNode):
    """The value function, and the moments of its advantages and errors over the agent's life."""

    value: ValueState
    advantages: Moments
    errors: Moments


@component("meta_objectives")
@dataclasses.dataclass(frozen=True)
class ActorCritic(_PolicyGradient):
    """-log pi(a) times V-trace's advantage, normalized by moving averages over the agent's life.

    The value function's error is normalized too before it moves the network's output; the output is moved where it is,
    before it is read through h^-1, as in the authors' code. An agent's recurrent carry is not the value network's:
    where that has a memory, it begins each trajectory with an empty one.

    Attributes:
      discount: gamma.
      value_network: torso of the value function, for observations that are not indices of states.
      optimizer: of the value function.
      lambda_: decay of the traces.
      squashed: whether values are read through h^-1, the inverse of the signed hyperbolic transform.
      decay: of the moving averages, per update.

    Source: Oh et al., 2025, Methods, "Meta-optimisation"; Espeholt et al., 2018.
    """

    discount: float = 0.997
    lambda_: float = 0.95
    squashed: bool = True
    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.lambda_ <= 1.0:
            raise ValueError(f"lambda_ must lie in [0, 1], got {self.lambda_}")
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")

    def init(self, key: Array, spec: EnvironmentSpec) -> ActorCriticState:
        value = self._initial_value(key, spec)
        return ActorCriticState(value=value, advantages=initial_moments(), errors=initial_moments())

    def observe(
        self, state: ActorCriticState, trajectory: Trajectory, logits: Array
    ) -> tuple[ActorCriticState, dict[str, Array]]:
        values = self._values(state, trajectory)
        errors, advantages = self._estimate(values, trajectory, logits, self.lambda_)
        weight = trajectory.weight
        of_errors = update_moments(state.errors, errors, weight, self.decay)
        of_advantages = update_moments(state.advantages, advantages, weight, self.decay)
        normalized = normalize(of_errors.scale(), errors, subtract_mean=False)
        value, loss = self._learn(state.value, trajectory, normalized)
        metrics = {"value_loss": loss, "value_error": weighted_mean(jnp.abs(errors), weight)}
        return ActorCriticState(value=value, advantages=of_advantages, errors=of_errors), metrics

    def __call__(
        self, state: ActorCriticState, trajectory: Trajectory, logits: Array
    ) -> tuple[Array, dict[str, Array]]:
        state, weight = jax.lax.stop_gradient(state), trajectory.weight
        values = self._values(state, trajectory)
        _, advantages = self._estimate(values, trajectory, logits, self.lambda_)
        moments = update_moments(state.advantages, advantages, weight, self.decay)
        normalized = normalize(moments.scale(), advantages)
        metrics = {
            "value": weighted_mean(values[:-1], weight),
            "advantage": weighted_mean(advantages, weight),
            "normalized_advantage": weighted_mean(normalized, weight),
            "clipped_ratio": weighted_mean(jnp.minimum(1.0, self._ratio(trajectory, logits)), weight),
        }
        return policy_gradient(trajectory, logits, normalized), metrics

    def formula(self) -> str:
        return "-log softmax(logits)_a normalized(A), A from V-trace"

    def _values(self, state: ActorCriticState, trajectory: Trajectory) -> Array:
        """The predicted returns [T+1, B]."""
        outputs = self._outputs(state.value.params, trajectory)
        return signed_parabolic(outputs) if self.squashed else outputs


@component("meta_objectives")
@dataclasses.dataclass(frozen=True)
class Reinforce(_PolicyGradient):
    """-log pi(a) times the return to go minus a learned baseline, which also stands for what follows the trajectory.

    The baseline regresses on the same returns. How returns end with the trajectory, the baseline's network and the
    correction are chosen: the paper is silent.

    Attributes:
      discount: gamma; 0.99 in public versions of LPG.
      value_network: torso of the baseline, for observations that are not indices of states.
      optimizer: of the baseline.
      off_policy: whether each step is weighted with min(1, pi / mu), as V-trace does with lambda 1: for trajectories
        from replay or of other parameters than those that are judged.

    Source: Oh et al., 2020, Section 3.3; Williams, 1992.
    """

    discount: float = 0.99
    off_policy: bool = False

    def init(self, key: Array, spec: EnvironmentSpec) -> ValueState:
        return self._initial_value(key, spec)

    def observe(self, state: ValueState, trajectory: Trajectory, logits: Array) -> tuple[ValueState, dict[str, Array]]:
        errors, _ = self._estimate(self._outputs(state.params, trajectory), trajectory, logits, lambda_=1.0)
        state, loss = self._learn(state, trajectory, errors)
        metrics = {"value_loss": loss, "value_error": weighted_mean(jnp.abs(errors), trajectory.weight)}
        return state, metrics

    def __call__(self, state: ValueState, trajectory: Trajectory, logits: Array) -> tuple[Array, dict[str, Array]]:
        values = self._outputs(jax.lax.stop_gradient(state.params), trajectory)
        _, advantages = self._estimate(values, trajectory, logits, lambda_=1.0)
        metrics = {
            "value": weighted_mean(values[:-1], trajectory.weight),
            "advantage": weighted_mean(advantages, trajectory.weight),
            "clipped_ratio": weighted_mean(jnp.minimum(1.0, self._ratio(trajectory, logits)), trajectory.weight),
        }
        return policy_gradient(trajectory, logits, advantages), metrics

    def formula(self) -> str:
        return f"-log softmax(logits)_a {'min(1, rho) ' if self.off_policy else ''}(G - v)"

    def _ratio(self, trajectory: Trajectory, logits: Array) -> Array:
        return super()._ratio(trajectory, logits) if self.off_policy else jnp.ones(trajectory.action.shape)
