"""Conformance of what judges rules and looks after populations: meta-objectives, regularizers, lifetimes, bandits."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from framework.interfaces import Bandit, Lifetime, MetaObjective, Regularizer
from framework.testing import examples
from framework.testing.examples import SMALL, SMALLEST, World, permuted_batch, random_normal
from framework.testing.expectations import (
    check_function,
    expect,
    expect_close,
    expect_same_form,
    expect_shape,
    rotation,
)
from framework.transforms import at_action
from framework.types import Array, PyTree, RegularizerInputs, Trajectory, transition_weight

DRAWS = 200
"""Of lifetimes and arms: enough to tell a preference from none."""


def check_meta_objective(objective: MetaObjective) -> None:
    """A meta-objective judges the policy alone, each step by itself and none of weight 0, and learns without them."""
    rng = np.random.default_rng(0)
    observe, judge = jax.jit(objective.observe), jax.jit(objective)
    for sizes in (SMALLEST, SMALL):
        trajectory = _with_ends(examples.random_trajectory(rng, sizes))
        logits = random_normal(rng, sizes.steps + 1, sizes.batch, sizes.actions)
        state = objective.init(jax.random.key(0), sizes.spec)
        seen, numbers = check_function(objective.observe, state, trajectory, logits)
        expect_same_form(seen, state, "the state after a trajectory")
        loss, more = check_function(objective, seen, trajectory, logits)
        expect_shape(loss, (sizes.steps, sizes.batch), "the loss")
        for name, number in (numbers | more).items():
            expect_shape(number, (), f"the number '{name}'")
    expect(isinstance(objective.formula(), str), "its formula must be a string")

    of_jit = jax.jit(lambda: objective.init(jax.random.key(0), sizes.spec))()
    expect_close(of_jit, state, "what it begins with depends on more than the key and the specification")
    order = rotation(sizes.batch)
    renamed, renamed_logits = permuted_batch(trajectory, order), logits[:, order]
    expect_close(observe(state, renamed, renamed_logits)[0], seen, "the order of trajectories matters")
    expect_close(judge(seen, renamed, renamed_logits)[0], loss[:, order], "trajectories mix in the batch")

    unweighted = trajectory.replace(reward=trajectory.reward + 9.0 * (1.0 - trajectory.weight))
    expect_close(observe(state, unweighted, logits)[0], seen, "a step of weight 0 changes the state")
    expect_close(judge(seen, unweighted, logits)[0], loss, "a step of weight 0 changes the loss")
    nothing = trajectory.replace(discount=jnp.ones_like(trajectory.discount), last=jnp.ones_like(trajectory.last))
    still = jax.tree.leaves(observe(seen, nothing, logits))
    expect(
        all(np.isfinite(leaf).all() for leaf in still), "a trajectory of weight 0 leaves numbers that are not finite"
    )
    expect(not np.any(judge(seen, nothing, logits)[0]), "steps of weight 0 have a loss")

    def total(state: PyTree, logits: Array) -> Array:
        return judge(state, trajectory, logits)[0].sum()

    of_state, of_logits = jax.grad(total, argnums=(0, 1), allow_int=True)(seen, logits)
    expect(not _any_gradient(of_state), "its state takes a meta-gradient: stop it")
    expect(bool(np.isfinite(of_logits).all()) and np.any(np.asarray(of_logits)), "the policy receives no meta-gradient")


def _with_ends(trajectory: Trajectory) -> Trajectory:
    """The same with a termination and a cut in it, where it is long enough; else without any end."""
    discount, last = jnp.ones_like(trajectory.discount), jnp.zeros_like(trajectory.last)
    if trajectory.last.shape[0] > 2:
        last = last.at[1, 0].set(True).at[2, 1].set(True)
        discount = discount.at[1, 0].set(0.0)
    return trajectory.replace(discount=discount, last=last)


def _any_gradient(tree: PyTree) -> bool:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.dtype != jax.dtypes.float0]
    return any(np.any(np.asarray(leaf)) for leaf in leaves)


def check_regularizer(regularizer: Regularizer) -> None:
    """A regularizer has a value for each step, and a gradient by which the rule or the agent can lower it."""
    expect(regularizer.on in ("updates", "validation"), f"on must be 'updates' or 'validation', got {regularizer.on!r}")
    expect(math.isfinite(regularizer.cost), f"cost must be a number, got {regularizer.cost!r}")
    for sizes in (SMALLEST, SMALL):
        inputs = regularizer_inputs(examples.world(sizes), on_updates=regularizer.on == "updates")
        value = check_function(regularizer, inputs)
        expect_shape(value, (sizes.steps, sizes.batch), "its value")
        order = rotation(sizes.batch)
        expect_close(regularizer(permuted_batch(inputs, order)), value[:, order], "trajectories mix in the batch")
    expect(isinstance(regularizer.formula(), str), "its formula must be a string")

    def total(reached: PyTree) -> Array:
        return (inputs.weight * regularizer(inputs.replace(outputs=reached[0], targets=reached[1]))).sum()

    gradient = jax.grad(total)((inputs.outputs, inputs.targets))
    expect(_any_gradient(gradient), "neither the outputs nor the targets receive a gradient from it")


def regularizer_inputs(world: World, *, on_updates: bool) -> RegularizerInputs:
    """What a regularizer sees of a world."""
    inputs, heads = world.inputs, world.heads

    def taken(outputs: dict[str, Array]) -> dict[str, Array]:
        steps = {name: output[: world.sizes.steps] for name, output in outputs.items()}
        return {k: at_action(x, inputs.action) if heads[k].action_conditional else x for k, x in steps.items()}

    return RegularizerInputs(
        outputs=taken(inputs.outputs),
        target_outputs=taken(inputs.target_outputs or {}) if on_updates else None,
        targets=world.targets if on_updates else {},
        action=inputs.action,
        weight=transition_weight(inputs.discount, inputs.last),
    )


def check_lifetime(lifetime: Lifetime) -> None:
    """A lifetime is a positive number of environment steps, drawn by nothing but the key."""
    budget = check_function(lifetime.draw, jax.random.key(0))
    expect_shape(budget, (), "the budget")
    expect(budget.dtype == jnp.float32, f"the budget is of dtype {budget.dtype}, expected float32")
    budgets = jax.vmap(lifetime.draw)(jax.random.split(jax.random.key(1), DRAWS))
    expect(np.all(np.asarray(budgets) > 0), "a budget must be positive")


def check_bandit(bandit: Bandit) -> None:
    """A bandit turns to the arms that did well, on the task where they did."""
    arms = bandit.arms()
    counts = {len(values) for values in arms.values()}
    expect(len(counts) == 1 and 0 not in counts, f"each hyperparameter needs a value in every arm, got {arms}")
    (count,) = counts
    state = bandit.init(2)
    here, elsewhere = jnp.asarray(0, jnp.int32), jnp.asarray(1, jnp.int32)
    arm = check_function(bandit.choose, state, jax.random.key(0), here)
    expect(arm.shape == () and arm.dtype == jnp.int32, f"an arm must be one int32, got {arm.dtype}{arm.shape}")
    before, untouched = _chosen(bandit.choose, state, here), _chosen(bandit.choose, state, elsewhere)
    expect(bool(np.all((before >= 0) & (before < count))), f"it chooses arms that are none of {count}")
    good = jnp.asarray(count - 1, jnp.int32)
    after = check_function(bandit.record, state, here, good, jnp.asarray(10.0))
    expect_same_form(after, state, "what is known after a lifetime")
    preferred = int((_chosen(bandit.choose, after, here) == good).sum())
    expect(preferred >= int((before == good).sum()), "it turns away from an arm that did well")
    same = np.array_equal(_chosen(bandit.choose, after, elsewhere), untouched)
    expect(same, "a lifetime on one task changes what is chosen on another")


def _chosen(choose: Callable[..., Array], state: PyTree, task: Array) -> np.ndarray:
    """Arms chosen with many keys [DRAWS]."""
    keys = jax.random.split(jax.random.key(1), DRAWS)
    return np.asarray(jax.vmap(lambda key: choose(state, key, task))(keys))
