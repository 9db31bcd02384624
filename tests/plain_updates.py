"""An agent's update as it stands in a book: what the framework's own ways of differentiating are compared with."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from framework.inner_loop import InnerLoop
from framework.learner import select_trajectories
from framework.types import Array, LearnerState, Params, PyTree, Trajectory

COMPILE_FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiling takes most of the time of a test, and the least optimized program is just as right."""


def plain_update(
    loop: InnerLoop, meta_params: Params, state: LearnerState, trajectory: Trajectory, key: Array
) -> tuple[LearnerState, Array]:
    """One update written out with `jax.grad`, for jax to differentiate; and what the loop's regularizers say of it."""
    of = loop.learner
    targets, rule_carry, term = loop.compute_targets(meta_params, state, trajectory)
    batch = trajectory.action.shape[1]
    columns = jnp.arange(batch)[None]
    if not of.single_step:
        orders = jax.vmap(lambda key: jax.random.permutation(key, batch))(jax.random.split(key, of.epochs))
        columns = orders.reshape(-1, batch // of.minibatches)

    def step(carry: tuple[Params, PyTree], columns: Array) -> tuple[tuple[Params, PyTree], None]:
        params, opt_state = carry
        part, aims = select_trajectories((trajectory, targets), columns)
        gradient = jax.grad(lambda p: of.loss(p, aims, (part, state.hyperparameters))[0])(params)
        change, opt_state = of.optimizer.update(gradient, opt_state, params, of.learning_rate(state))
        return (jax.tree.map(jnp.add, params, change), opt_state), None

    (params, opt_state), _ = jax.lax.scan(step, (state.params, state.opt_state), columns)
    return of.moved(state, params, opt_state, rule_carry), term
