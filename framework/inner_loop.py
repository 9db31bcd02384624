"""N agent updates as one function that is differentiable in the meta-parameters, small in time and memory.

Two ways lead to the same derivatives. The generic one, for any optimizer and any split into minibatches, makes each
update once more while going backwards (`jax.checkpoint`). The direct one, for optimizers that declare their
transpose, keeps of each update its parameters, what the optimizer needs and the rule's small carry, and goes
backwards without another forward pass; target parameters are stepped back instead of kept.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from framework.interfaces import Regularizer, TransposableOptimizer
from framework.learner import Learner, gradient_product, mixed_mode_gradient
from framework.regularization import regularization, seen_of_update
from framework.trees import select, zeros_of
from framework.types import (
    Array,
    Experience,
    LearnerState,
    Params,
    PyTree,
    RuleCarry,
)

LARGEST_AMPLIFICATION = 10.0
"""Of rounding errors, up to which target parameters are stepped back: Disco103's decay has 0.9^-20 = 8.2."""


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """N updates of an agent, and what regularizers say of them.

    Attributes:
      learner: makes the updates.
      regularizers: those on updates.
      direct: whether to go backwards by the optimizer's transpose; by default wherever that is possible.
    """

    learner: Learner
    regularizers: tuple[Regularizer, ...] = ()
    direct: bool | None = None

    def __post_init__(self) -> None:
        if self.direct and not self.can_go_directly:
            raise ValueError("this optimizer, or this split into minibatches, has no direct way back")

    @property
    def can_go_directly(self) -> bool:
        """Whether an update is one step of an optimizer that declares its transpose."""
        return isinstance(self.learner.optimizer, TransposableOptimizer) and self.learner.single_step

    def __call__(self, meta_params: Params, start: LearnerState, experience: Experience) -> tuple[Params, Array]:
        """The parameters after N updates, and the mean over updates of the regularizers' weighted sum [].

        Differentiable in the meta-parameters.
        """
        direct = self.can_go_directly if self.direct is None else self.direct
        updates = _direct_updates if direct else _generic_updates
        params, regularization = updates(self, meta_params, start, experience)
        return params, regularization / experience.count

    def compute_targets(
        self, meta_params: Params, state: LearnerState, trajectory: Any
    ) -> tuple[dict[str, Array], RuleCarry, Array]:
        """An update's targets, the rule's new carry, and the regularizers' weighted sum []."""
        targets, rule_carry, inputs = self.learner.compute_targets(meta_params, state, trajectory)
        seen = seen_of_update(self.learner.rule, inputs, targets)
        return targets, rule_carry, regularization(self.regularizers, seen)


def _selected(valid: Array | None, new: PyTree, old: PyTree) -> PyTree:
    """The new values where an update took place, else the old ones."""
    return new if valid is None else select(valid, new, old)


def _generic_updates(
    loop: InnerLoop, meta_params: Params, start: LearnerState, experience: Experience
) -> tuple[Params, Array]:
    """Parameters after the updates and the sum of what regularizers say, for any optimizer."""

    def update(carry: tuple[LearnerState, Array], given: Experience) -> tuple[tuple[LearnerState, Array], None]:
        state, total = carry
        targets, rule_carry, term = loop.compute_targets(meta_params, state, given.trajectories)
        after, _ = loop.learner.descend(state, given.trajectories, targets, rule_carry, given.keys)
        return (_selected(given.valid, after, state), total + _selected(given.valid, term, 0.0)), None

    (end, total), _ = jax.lax.scan(jax.checkpoint(update), (start, jnp.zeros(())), experience)
    return end.params, total


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _direct_updates(
    loop: InnerLoop, meta_params: Params, start: LearnerState, experience: Experience
) -> tuple[Params, Array]:
    """The same for an optimizer with a transpose."""
    return _forward(loop, meta_params, start, experience)[0]


def _forward(loop: InnerLoop, meta_params: Params, start: LearnerState, experience: Experience) -> tuple[Any, Any]:
    learner = loop.learner
    keeps_targets = _keeps_target_params(learner, experience)

    def update(carry: tuple[LearnerState, Array], given: Experience) -> tuple[Any, Any]:
        state, total = carry
        trajectory, rate = given.trajectories, learner.learning_rate(state)
        targets, rule_carry, term = loop.compute_targets(meta_params, state, trajectory)
        gradient, _ = mixed_mode_gradient(
            learner.loss, state.params, targets, (trajectory, learner.hyperparameters(state))
        )
        change, opt_state, residual = learner.optimizer.linearize(gradient, state.opt_state, state.params, rate)  # type: ignore[attr-defined]
        after = learner.moved(state, jax.tree.map(jnp.add, state.params, change), opt_state, rule_carry)
        kept = state.replace(opt_state=(), target_params=state.target_params if keeps_targets else None)
        carry = _selected(given.valid, after, state), total + _selected(given.valid, term, 0.0)
        return carry, (kept, residual)

    (end, total), kept = jax.lax.scan(update, (start, jnp.zeros(())), experience)
    return (end.params, total), (meta_params, experience, kept, end.target_params)


def _backward(loop: InnerLoop, residuals: Any, cotangents: tuple[Params, Array]) -> tuple[Params, None, None]:
    learner = loop.learner
    optimizer: Any = learner.optimizer
    meta_params, experience, kept, last_target_params = residuals
    params_bar, total_bar = cotangents
    keeps_targets = _keeps_target_params(learner, experience)
    decay = learner.rule.target_decay

    def update(carry: Any, given: tuple[Experience, tuple[LearnerState, PyTree]]) -> tuple[Any, None]:
        meta_bar, params_bar, opt_bar, target_bar, carry_bar, target_params = carry
        step, (state, residual) = given
        trajectory = step.trajectories
        if decay is not None and not keeps_targets:
            before = jax.tree.map(lambda new, p: (new - (1.0 - decay) * p) / decay, target_params, state.params)
            target_params = _selected(step.valid, before, target_params)
            state = state.replace(target_params=target_params)

        def compute_targets(meta_params: Params, params: Params, target_params: Params, rule_carry: RuleCarry) -> Any:
            moved = state.replace(params=params, target_params=target_params, rule_carry=rule_carry)
            return loop.compute_targets(meta_params, moved, trajectory)

        (targets, _, _), pull_back = jax.vjp(
            compute_targets, meta_params, state.params, state.target_params, state.rule_carry
        )
        gradient_bar, opt_before = optimizer.transpose(residual, params_bar, opt_bar, learner.learning_rate(state))
        of_loss, targets_bar = gradient_product(
            learner.loss, state.params, targets, (trajectory, learner.hyperparameters(state)), gradient_bar
        )
        of_meta, of_params, of_target, of_carry = pull_back((targets_bar, carry_bar, total_bar))
        params_before = jax.tree.map(lambda x, y, z: x + y + z, params_bar, of_loss, of_params)
        if decay is not None:
            params_before = jax.tree.map(lambda x, y: x + (1.0 - decay) * y, params_before, target_bar)
            of_target = jax.tree.map(lambda x, y: x + decay * y, of_target, target_bar)
        moved = (params_before, opt_before, of_target, of_carry)
        moved = _selected(step.valid, moved, (params_bar, opt_bar, target_bar, carry_bar))
        of_meta = _selected(step.valid, of_meta, zeros_of(of_meta))
        return (jax.tree.map(jnp.add, meta_bar, of_meta), *moved, target_params), None

    def zeros(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), tree)

    first = (
        zeros_of(meta_params),
        params_bar,
        optimizer.zero_cotangent(params_bar),
        None if decay is None else zeros_of(params_bar),
        zeros(kept[0].rule_carry),
        None if keeps_targets else last_target_params,
    )
    (meta_bar, *_), _ = jax.lax.scan(update, first, (experience, kept), reverse=True)
    return meta_bar, None, None


def _keeps_target_params(learner: Learner, experience: Experience) -> bool:
    """Whether stepping the target parameters back would lose too many digits: they are then kept of each update."""
    decay, updates = learner.rule.target_decay, experience.keys.shape[0]
    return decay is not None and (decay == 0.0 or decay**-updates > LARGEST_AMPLIFICATION)


_direct_updates.defvjp(_forward, _backward)
