"""The one update of an agent, for every rule: targets once, then the gradient of the loss towards them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, Protocol

import jax
import jax.numpy as jnp

from framework.interfaces import Optimizer
from framework.numbers import ENV_STEPS, resolve
from framework.programs import written_out
from framework.trees import global_norm
from framework.types import (
    ActingParams,
    Array,
    LearnerState,
    LossInputs,
    Outputs,
    Params,
    PyTree,
    RuleCarry,
    RuleInputs,
    Trajectory,
)
from framework.update_rule import UpdateRule

Given = tuple[Trajectory, dict[str, Array]]
"""What a loss depends on and no gradient reaches: a trajectory and the agent's hyperparameters."""

Loss = Callable[[Params, dict[str, Array], Given], tuple[Array, dict[str, Array]]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mixed_mode_gradient(
    loss: Loss, params: Params, targets: dict[str, Array], given: Given
) -> tuple[Params, dict[str, Array]]:
    """The gradient of a loss in the parameters, itself differentiable by forward-over-reverse, and the loss's terms.

    A product with the second derivatives is one forward derivative of a reverse one: nothing of the gradient's own
    computation is kept for it. Nothing flows back through the terms.

    Source: Oh et al., 2025, Methods; Kemaev et al., 2025.
    """
    return jax.grad(loss, has_aux=True)(params, targets, given)


def gradient_product(
    loss: Loss, params: Params, targets: dict[str, Array], given: Given, direction: Params
) -> tuple[Params, dict[str, Array]]:
    """The second derivatives of a loss by parameters and (parameters, targets), times a direction of parameters."""

    def gradients(params: Params) -> tuple[Params, dict[str, Array]]:
        return jax.grad(lambda p, t: loss(p, t, given)[0], argnums=(0, 1))(params, targets)

    return jax.jvp(gradients, (params,), (direction,))[1]


def _mixed_mode_forward(loss, params, targets, given):  # type: ignore[no-untyped-def]
    return mixed_mode_gradient(loss, params, targets, given), (params, targets, given)


def _mixed_mode_backward(loss, residuals, cotangents):  # type: ignore[no-untyped-def]
    params, targets, given = residuals
    return (*gradient_product(loss, params, targets, given, cotangents[0]), None)


mixed_mode_gradient.defvjp(_mixed_mode_forward, _mixed_mode_backward)


class Unrolls(Protocol):
    """What the learner needs of a network; see `framework.agent.Network.unroll`."""

    def unroll(
        self, params: Params, observation: Array, last: Array, carry: PyTree, action: Array | None = None
    ) -> Outputs: ...


@dataclasses.dataclass(frozen=True)
class Learner:
    """An update rule bound to a network and an optimizer.

    Attributes:
      rule: the update rule.
      network: the agent's network.
      optimizer: the agent's optimizer.
      epochs: passes over the batch per update.
      minibatches: parts into which a pass splits the batch.
      minibatch_unit: what is shuffled before a pass is split: the B trajectories, or the T x B steps one by one, which
        is for networks without memory.
      env_steps_per_update: environment steps that an update takes, by which schedules move; ``None`` without any.
    """

    rule: UpdateRule
    network: Unrolls
    optimizer: Optimizer
    epochs: int = 1
    minibatches: int = 1
    minibatch_unit: Literal["trajectory", "step"] = "trajectory"
    env_steps_per_update: float | None = None

    def init(
        self, params: Params, hyperparameters: dict[str, Array], progress_per_update: Array | float = 0.0
    ) -> LearnerState:
        """State of a newborn agent with the given parameters."""
        return LearnerState(
            params=params,
            opt_state=self.optimizer.init(params),
            target_params=params if self.rule.uses_target_network else None,
            rule_carry=self.rule.initial_carry(),
            hyperparameters=hyperparameters,
            updates=jnp.zeros((), jnp.int32),
            progress_per_update=jnp.asarray(progress_per_update, jnp.float32),
        )

    def hyperparameters(self, state: LearnerState) -> dict[str, Array]:
        """What the agent carries, and how far its schedules are {name: []}."""
        if self.env_steps_per_update is None:
            return state.hyperparameters
        return state.hyperparameters | {ENV_STEPS: state.updates * self.env_steps_per_update}

    def acting_params(self, state: LearnerState) -> ActingParams:
        """What the agent acts by."""
        return ActingParams(params=state.params, hyperparameters=self.hyperparameters(state))

    def rule_inputs(self, state: LearnerState, trajectory: Trajectory) -> RuleInputs:
        """What the rule sees: the trajectory through the online and the target network."""
        target_outputs = None
        if self.rule.uses_target_network:
            target_outputs = self._unroll(state.target_params, trajectory)
        return RuleInputs(
            outputs=self._unroll(state.params, trajectory),
            target_outputs=target_outputs,
            behaviour=trajectory.behaviour,
            action=trajectory.action,
            reward=trajectory.reward,
            discount=trajectory.discount,
            last=trajectory.last,
            weight=trajectory.weight,
            hyperparameters=self.hyperparameters(state),
            progress=state.progress,
        )

    def _unroll(self, params: Params, trajectory: Trajectory, action: Array | None = None) -> Outputs:
        return self.network.unroll(params, trajectory.observation, trajectory.last, trajectory.carry, action)

    def compute_targets(
        self, meta_params: Params, state: LearnerState, trajectory: Trajectory
    ) -> tuple[dict[str, Array], RuleCarry, RuleInputs]:
        """The targets of an update, the rule's new carry, and the inputs that both were computed from.

        The targets are computed once, from the parameters before the update; they are differentiable in the
        meta-parameters and, through the predictions that the meta-network reads, in the parameters.
        """
        inputs = self.rule_inputs(state, trajectory)
        targets, rule_carry = self.rule.targets(meta_params, inputs, state.rule_carry)
        return targets, rule_carry, inputs

    def loss(self, params: Params, targets: dict[str, Array], given: Given) -> tuple[Array, dict[str, Array]]:
        """Weighted mean over steps of the loss terms [], and the mean of each term {name: []}."""
        trajectory, hyperparameters = given
        steps = trajectory.action.shape[0]
        outputs = self._unroll(params, trajectory, trajectory.action)
        taken = {name: output[:steps] for name, output in outputs.items()}
        inputs = LossInputs.of_steps(trajectory, outputs=taken, targets=targets)
        weight = inputs.weight
        normalizer = 1.0 / jnp.maximum(weight.sum(), 1.0)
        if trajectory.importance is not None:
            weight = weight * trajectory.importance
        terms = self.rule.loss_terms_per_step(inputs, hyperparameters)
        means = {name: (weight * term).sum() * normalizer for name, term in terms.items()}
        return sum(means.values(), start=jnp.zeros(())), means

    def descend(
        self, state: LearnerState, trajectory: Trajectory, targets: dict[str, Array], rule_carry: RuleCarry, key: Array
    ) -> tuple[LearnerState, dict[str, Array]]:
        """Moves the parameters towards the targets.

        Args:
          state: the learner's state before the update.
          trajectory: what to learn from [T, B].
          targets: what to move to, of the whole batch.
          rule_carry: the rule's new carry.
          key: decides how epochs are split into minibatches.

        Returns:
          The new state, and numbers to log {group/name: []}.
        """

        def step(carry: tuple[Params, PyTree], part: tuple[Trajectory, dict[str, Array]]) -> tuple:
            params, opt_state = carry
            gradient, terms = mixed_mode_gradient(self.loss, params, part[1], (part[0], self.hyperparameters(state)))
            change, opt_state = self.optimizer.update(gradient, opt_state, params, self.learning_rate(state))
            return (jax.tree.map(jnp.add, params, change), opt_state), self.metrics(terms, gradient, change)

        carry, parts = (state.params, state.opt_state), (trajectory, targets)
        if self.single_step:
            (params, opt_state), metrics = step(carry, parts)
        else:
            (params, opt_state), metrics = self._scan_minibatches(step, carry, parts, key)
        return self.moved(state, params, opt_state, rule_carry), metrics

    @property
    def single_step(self) -> bool:
        """Whether an update is one step of the optimizer on the whole batch."""
        return self.epochs == self.minibatches == 1

    def learning_rate(self, state: LearnerState) -> float | Array:
        """The optimizer's learning rate for an agent."""
        return resolve(self.optimizer.learning_rate, self.hyperparameters(state))

    def metrics(self, terms: dict[str, Array], gradient: Params, change: Params) -> dict[str, Array]:
        """Numbers to log of one step of the optimizer."""
        means = {f"loss/{name}": mean for name, mean in terms.items()}
        return means | {"update/gradient_norm": _norm(gradient), "update/change_norm": _norm(change)}

    def update(
        self, meta_params: Params, state: LearnerState, trajectory: Trajectory, key: Array
    ) -> tuple[LearnerState, dict[str, Array]]:
        """One agent update: the targets once, then the gradient of the loss towards them."""
        targets, rule_carry, _ = self.compute_targets(meta_params, state, trajectory)
        return self.descend(state, trajectory, targets, rule_carry, key)

    def moved(self, state: LearnerState, params: Params, opt_state: PyTree, rule_carry: RuleCarry) -> LearnerState:
        """The state after an update that led to the given parameters."""
        return state.replace(
            params=params,
            opt_state=opt_state,
            target_params=self._moved_target_params(state),
            rule_carry=rule_carry,
            updates=state.updates + 1,
        )

    def _moved_target_params(self, state: LearnerState) -> Params | None:
        """The target parameters, moved once per update towards the parameters from before it."""
        decay = self.rule.target_decay
        if decay is None:
            return None
        return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.target_params, state.params)

    def _scan_minibatches(self, descend, carry, parts, key):  # type: ignore[no-untyped-def]
        """Runs ``descend`` over shuffled minibatches of every epoch; metrics are their means."""
        steps, batch = parts[0].action.shape
        of_steps = self.minibatch_unit == "step"
        batch, select = (steps * batch, select_steps) if of_steps else (batch, select_trajectories)
        size = batch // self.minibatches
        order = jax.vmap(lambda k: jax.random.permutation(k, batch))(jax.random.split(key, self.epochs))
        order = order[:, : size * self.minibatches].reshape(self.epochs * self.minibatches, size)

        def step(carry, indices):  # type: ignore[no-untyped-def]
            return descend(carry, select(parts, indices))

        carry, metrics = jax.lax.scan(step, carry, order, unroll=written_out(carry[0]) or 1)
        return carry, jax.tree.map(jnp.mean, metrics)


def select_trajectories(
    parts: tuple[Trajectory, dict[str, Array]], columns: Array
) -> tuple[Trajectory, dict[str, Array]]:
    """The trajectories (and their targets) of the given columns of the batch axis."""
    trajectory, targets = parts
    timed = jax.tree.map(lambda x: x[:, columns], (trajectory.replace(carry=()), targets))
    carry = jax.tree.map(lambda x: x[columns], trajectory.carry)
    return timed[0].replace(carry=carry), timed[1]


def select_steps(parts: tuple[Trajectory, dict[str, Array]], indices: Array) -> tuple[Trajectory, dict[str, Array]]:
    """The steps (and their targets) of the given indices t B + b [S], as one trajectory that is not in order.

    Its steps have nothing to do with each other, nor its last observation with any: a network without memory gives
    each the outputs that it had in its own trajectory.
    """
    trajectory, targets = parts

    def pick(x: Array, indices: Array) -> Array:
        return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])[indices][:, None]

    timed = jax.tree.map(lambda x: pick(x, indices), (trajectory.replace(observation=()), targets))
    rows = jnp.concatenate([indices, indices[-1:]])
    return timed[0].replace(observation=jax.tree.map(lambda x: pick(x, rows), trajectory.observation)), timed[1]


def _norm(tree: PyTree) -> Array:
    """Global norm, to look at: it carries no gradient."""
    return global_norm(jax.lax.stop_gradient(tree))
