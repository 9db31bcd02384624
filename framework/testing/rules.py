"""Conformance of what update rules are made of: features, targets, estimators, normalizers, loss terms, numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from framework import registry
from framework.interfaces import (
    ActionFeature,
    Behaviour,
    Feature,
    LossTerm,
    Normalizer,
    Number,
    Target,
    ValueEstimator,
    ValueHead,
)
from framework.numbers import ENV_STEPS
from framework.testing import examples
from framework.testing.examples import EXAMPLE, SMALL, SMALLEST, InContext, Sizes, World, permuted_batch, random_normal
from framework.testing.expectations import (
    check_finite_difference,
    check_function,
    check_gradient_reaches,
    expect,
    expect_close,
    expect_same_form,
    expect_shape,
    init,
    rotation,
)
from framework.transforms import at_action
from framework.types import Array, LossInputs, RuleInputs, transition_weight


@functools.cache
def _world(sizes: Sizes, components: tuple[str, ...]) -> World:
    return examples.world(sizes)


def check_in_context(component: Callable[..., Array]) -> list[tuple[World, Array]]:
    """Checks a feature or target by itself, and that neither trajectories nor actions have a place of their own.

    Returns:
      The worlds it was computed in, with its values.
    """
    module = InContext(component)
    worlds = [_world(sizes, registry.all_selectors()) for sizes in (SMALLEST, SMALL)]
    params = [init(module, *world.context) for world in worlds]
    compute = jax.jit(lambda params, *context: module.apply({"params": params}, *context))
    values = [check_function(compute, p, *world.context) for p, world in zip(params, worlds, strict=True)]

    world, value = worlds[-1], values[-1]
    order = rotation(world.sizes.batch)
    permuted = compute(params[-1], *permuted_batch(world.context, order))
    expect_close(permuted, value[:, order], "trajectories mix in the batch")
    # A value with an axis of actions is renumbered with them; any other does not see their numbers.
    sizes = [(world.sizes.actions, value.shape[2:]) for world, value in zip(worlds, values, strict=True)]
    axes = [axis for axis in range(2, value.ndim) if all(shape[axis - 2] == actions for actions, shape in sizes)]
    order = rotation(world.sizes.actions)
    renumbered = compute(params[-1], *examples.permuted_actions(world, order).context)
    expected = functools.reduce(lambda x, axis: jnp.take(x, order, axis=axis), axes, value)
    expect_close(renumbered, expected, "actions that are numbered otherwise are treated otherwise")
    if params[-1]:
        check_gradient_reaches(lambda p: compute(p, *world.context), params[-1])
    return list(zip(worlds, values, strict=True))


def check_feature(feature: Feature) -> None:
    """A feature is a vector for each step."""
    for world, value in check_in_context(feature):
        expect_shape(value, (world.sizes.steps, world.sizes.batch, value.shape[-1]), "the feature")


def check_action_feature(feature: ActionFeature) -> None:
    """An action feature is a vector for each action, with or without the row of the last observation."""
    for world, value in check_in_context(feature):
        steps, batch, actions = world.sizes.steps, world.sizes.batch, world.sizes.actions
        expect(value.shape[0] in (steps, steps + 1), f"it has {value.shape[0]} rows for {steps} steps")
        expect_shape(value[:steps], (steps, batch, actions, value.shape[-1]), "the action feature")


def check_target(target: Target) -> None:
    """A target has a value for each step, and meta-parameters exactly if it is learned."""
    expect(isinstance(target.learned, bool), "learned must be a bool")
    for world, value in check_in_context(target):
        expect(value.shape[:2] == (world.sizes.steps, world.sizes.batch), f"the target has shape {value.shape}")
    has_params = bool(init(InContext(target), *world.context))
    expect(has_params == target.learned, f"its learned is {target.learned}, and that it has parameters is {has_params}")


def check_value_estimator(estimator: ValueEstimator) -> None:
    """Estimates are constants of the outputs; returns see the episode ahead, and are the own value where it is cut."""
    rng = np.random.default_rng(0)
    for sizes in (SMALLEST, SMALL):
        world = _world(sizes, registry.all_selectors())
        expect(estimator.head in world.heads, f"no registered head is called '{estimator.head}' by default")
        estimate = jax.jit(functools.partial(estimator, head=cast(ValueHead, world.heads[estimator.head])))
        shape, rows = (sizes.steps, sizes.batch), (sizes.steps + 1, sizes.batch)
        found = check_function(estimate, world.inputs)
        expect_shape(found.values, rows, "values")
        for name in ("returns", "advantages", "errors"):
            expect_shape(getattr(found, name), shape, name)
        order = rotation(sizes.batch)
        expect_close(estimate(permuted_batch(world.inputs, order)), permuted_batch(found, order), "trajectories mix")

    inputs = world.inputs

    def total(outputs: dict[str, Array]) -> Array:
        found = estimate(inputs.replace(outputs=outputs, target_outputs=outputs))
        return sum((leaf.sum() for leaf in jax.tree.leaves(found)), start=jnp.zeros(()))

    gradient = jax.grad(total)(inputs.outputs)
    stop = "estimates carry a gradient to the outputs they are made from: stop it there"
    expect(not any(np.any(leaf) for leaf in jax.tree.leaves(gradient)), stop)
    changed = jax.tree.map(lambda x: x + random_normal(rng, *x.shape), _changeable(inputs))
    middle = sizes.steps // 2
    for discount in (0.0, 1.0):
        discounts = jnp.ones(shape).at[middle].set(discount)
        last = jnp.zeros(shape, bool).at[middle].set(True)
        boundary = {"discount": discounts, "last": last, "weight": transition_weight(discounts, last)}
        before = inputs.replace(target_outputs=None, **boundary)
        later = jax.tree.map(
            lambda a, b: jnp.concatenate([a[: middle + 1], b[middle + 1 :]]), _changeable(inputs), changed
        )
        one, other = estimate(before), estimate(before.replace(**later))
        for name in ("returns", "advantages"):
            left, right = (getattr(x, name)[: middle + 1] for x in (one, other))
            expect_close(left, right, f"{name} see beyond the end of their episode", 0.0)
    own = one.values[:-1] if one.action_values is None else at_action(one.action_values[:-1], inputs.action)
    expect_close(one.returns[middle], own[middle], "where an episode was cut off, the return is not the own value")


def _changeable(inputs: RuleInputs) -> dict[str, Any]:
    """What of a rule's inputs may be changed at will from some step on."""
    return {"outputs": inputs.outputs, "reward": inputs.reward, "behaviour": inputs.behaviour}


def check_normalizer(normalizer: Normalizer) -> None:
    """A normalizer fills the normalized fields, and takes no notice of steps with weight 0."""
    rng = np.random.default_rng(0)
    for sizes in (SMALLEST, SMALL):
        estimates = examples.random_estimates(rng, sizes, normalized=False)
        weight = jnp.ones((sizes.steps, sizes.batch)).at[0, 0].set(float(sizes.steps == 1))
        carry = normalizer.initial_carry()
        found, after = check_function(normalizer, estimates, weight, carry)
        expect_same_form(after, carry, "the carry")
        for name in ("advantages", "action_advantages", "errors"):
            expect_same_form(getattr(found, f"normalized_{name}"), getattr(estimates, name), f"normalized_{name}")
            expect_close(getattr(found, name), getattr(estimates, name), f"it changes the {name} themselves", 0.0)
    unchanged = check_function(normalizer, estimates, jnp.zeros_like(weight), after)[1]
    expect_close(unchanged, after, "a batch of weight 0 changes the carry", 0.0)
    advantages, errors = (x.at[0, 0].add(9.0) for x in (estimates.advantages, estimates.errors))
    _, unmoved = check_function(normalizer, estimates.replace(advantages=advantages, errors=errors), weight, carry)
    expect_close(unmoved, after, "a step of weight 0 changes the carry", 0.0)
    of_states, _ = normalizer(estimates.replace(action_values=None, action_advantages=None), weight, carry)
    expect(of_states.normalized_action_advantages is None, "it needs the actions' advantages, which not all rules have")


def check_loss_term(term: LossTerm) -> None:
    """A loss term has a value for each step, and its gradient moves its head and no other."""
    for sizes in (SMALLEST, SMALL):
        world = _world(sizes, registry.all_selectors())
        expect(term.head in world.heads, f"no registered head is called '{term.head}' by default")
        head = world.heads[term.head]
        inputs = loss_inputs(world)
        loss = jax.jit(functools.partial(term, head=head))
        value = check_function(loss, inputs)
        expect_shape(value, (sizes.steps, sizes.batch), "the loss")
        order = rotation(sizes.batch)
        expect_close(loss(permuted_batch(inputs, order)), value[:, order], "trajectories mix in the batch")
        if not getattr(term, "reads_neighbours", False):
            order = rotation(sizes.steps)
            shuffled = loss(permuted_batch(inputs, order, axis=0))
            expect_close(shuffled, value[order], "a step's loss depends on its neighbours: set reads_neighbours")
    expect(isinstance(term.formula(head), str), "its formula must be a string")

    def total(outputs: dict[str, Array]) -> Array:
        return loss(inputs.replace(outputs=outputs)).sum()

    gradient = jax.grad(total)(inputs.outputs)
    moved = [name for name, leaf in gradient.items() if np.any(leaf)]
    expect(moved == [term.head], f"it moves the heads {moved}, and says '{term.head}'")
    check_finite_difference(total, inputs.outputs, gradient)


def loss_inputs(world: World) -> LossInputs:
    """What a loss term sees of a world."""
    inputs, heads = world.inputs, world.heads
    every = {name: output[: world.sizes.steps] for name, output in inputs.outputs.items()}
    taken = {k: at_action(x, inputs.action) if heads[k].action_conditional else x for k, x in every.items()}
    return LossInputs.of_steps(inputs, outputs=taken, targets=world.targets)


def check_behaviour(behaviour: Behaviour) -> None:
    """A behaviour gives a distribution over the actions at any leading axes, in the order of its head's actions."""
    hyperparameters = {EXAMPLE: jnp.asarray(0.5), ENV_STEPS: jnp.asarray(100.0)}
    for sizes in (SMALLEST, SMALL):
        world = _world(sizes, registry.all_selectors())
        expect(behaviour.head in world.heads, f"no registered head is called '{behaviour.head}' by default")
        head, output = world.heads[behaviour.head], world.inputs.outputs[behaviour.head]
        logits = check_function(lambda x, numbers, h=head: behaviour(x, h, numbers), output, hyperparameters)
        expect_shape(logits, (sizes.steps + 1, sizes.batch, sizes.actions), "the logits")
        expect(bool(jnp.isfinite(logits).all()), "some logits are not finite: their entropy would be no number")
        step = behaviour(output[0], head, hyperparameters)
        expect_close(step, logits[0], "a single step is treated otherwise than a trajectory")
        greedy = jax.nn.softmax(behaviour.greedy()(output, head, hyperparameters))
        expect_close(greedy.max(-1), jnp.ones(greedy.shape[:-1]), "its greedy form explores")
        expect(bool((greedy.argmax(-1) == logits.argmax(-1)).all()), "its greedy form prefers another action")


def check_number(number: Number) -> None:
    """A number is one for the agent, or one for each step."""
    targets = {EXAMPLE: jnp.ones((SMALL.steps, SMALL.batch))}
    value = check_function(number.resolve, {EXAMPLE: jnp.asarray(0.5), ENV_STEPS: jnp.asarray(100.0)}, targets)
    expect(value.shape in ((), (SMALL.steps, SMALL.batch)), f"it has shape {value.shape}")
    expect(isinstance(number.symbol(), str), "its symbol is no text")
