"""Conformance of what networks are made of: heads, torsos, action models, cores."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]

from framework.agent import inputs_of, takes_index, torso_for
from framework.interfaces import (
    ActionModel,
    DistributionHead,
    Head,
    Initializer,
    LifetimeCore,
    Torso,
    TrajectoryCore,
    ValueHead,
)
from framework.specs import ArraySpec, map_parts
from framework.testing.examples import SMALL, SMALLEST, Sizes, permuted_batch, random_normal
from framework.testing.expectations import (
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
from framework.types import Array, Observation, Params, PyTree


def check_head(head: Head) -> None:
    """A head has a size for every number of actions; a value head reads what its loss has learned."""
    expect(isinstance(head.name, str) and bool(head.name), "its name must be a string")
    expect(isinstance(head.action_conditional, bool), "action_conditional must be a bool")
    for sizes in (SMALLEST, SMALL):
        size = head.size(sizes.spec)
        expect(isinstance(size, int) and size > 0, f"its size must be a positive int, got {size}")
    if isinstance(head, ValueHead):
        check_value_head(head)
    if isinstance(head, DistributionHead):
        check_distribution_head(head)


def check_value_head(head: ValueHead) -> None:
    """Descending the loss towards a return makes the head read that return, within the bounds that it has if any."""
    least, largest = getattr(head, "minimum", -20.0), getattr(head, "maximum", 20.0)
    target = jnp.linspace(least, largest, 12).reshape(4, 3)
    output = random_normal(np.random.default_rng(0), 4, 3, head.size(SMALL.spec))
    expect_shape(check_function(head.read, output), (4, 3), "what it reads")
    expect_shape(check_function(head.loss, output, target), (4, 3), "its loss")
    optimizer = optax.adam(0.3)

    def step(carry: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
        output, state = carry
        change, state = optimizer.update(jax.grad(lambda x: head.loss(x, target).sum())(output), state)
        return (optax.apply_updates(output, change), state), None

    start = jnp.zeros_like(output)
    (learned, _), _ = jax.jit(lambda x: jax.lax.scan(step, (x, optimizer.init(x)), length=600))(start)
    expect_close(head.read(learned), target, "what it reads is not what its loss leads to", tolerance=0.02)
    expect(isinstance(head.formula("x", "G"), str), "its formula must be a string")


def check_distribution_head(head: DistributionHead) -> None:
    """A distribution is one whose mean is read; a return alone is the distribution that is sure of it."""
    output = random_normal(np.random.default_rng(0), 4, 3, head.size(SMALL.spec))
    returns, probabilities = check_function(head.distribution, output)
    expect_shape(returns, output.shape, "the returns")
    expect_shape(probabilities, output.shape, "their probabilities")
    expect_close(probabilities.sum(-1), jnp.ones((4, 3)), "the probabilities do not sum to 1")
    expect_close((returns * probabilities).sum(-1), head.read(output), "what it reads is not the distribution's mean")
    target = check_function(head.project, returns, probabilities)
    expect_shape(target, output.shape, "what it is moved to")
    expect_shape(check_function(head.distribution_loss, output, target), (4, 3), "the distributions' loss")
    expect(isinstance(head.distribution_formula("x", "z"), str), "its distributions' formula must be a string")
    sure = jnp.linspace(getattr(head, "minimum", -20.0), getattr(head, "maximum", 20.0), 12).reshape(4, 3, 1)
    of_one = head.distribution_loss(output, head.project(sure, jnp.ones_like(sure)))
    expect_close(of_one, head.loss(output, sure.squeeze(-1)), "a sure return has another loss than the return itself")


def check_torso(torso: Torso) -> None:
    """A torso embeds steps in order: in pieces as in one go, and never across the beginning of an episode."""
    given, rng = torso, np.random.default_rng(0)
    for sizes in (SMALLEST, SMALL):
        steps, batch = sizes.steps, sizes.batch
        observation = _observation(given, sizes, rng)
        shown = map_parts(lambda x: ArraySpec(x.shape[2:], x.dtype.name), observation)
        torso = torso_for(given, shown)
        module = cast(nn.Module, torso)
        reset = jnp.zeros((steps, batch), bool).at[steps // 2].set(steps > 1)
        carry = jax.tree.map(lambda x: _random(x.shape, x.dtype, rng), torso.initial_carry(batch))
        params = init(module, observation, reset, carry)

        @jax.jit
        def unroll(
            observation: Observation,
            reset: Array,
            carry: PyTree,
            params: Params = params,
            module: nn.Module = module,
        ) -> tuple[Array, PyTree]:
            return module.apply({"params": params}, observation, reset, carry)

        embedding, after = check_function(unroll, observation, reset, carry)
        size = () if takes_index(torso) else (embedding.shape[-1],)
        expect_shape(embedding, (steps, batch, *size), "the embedding")
        is_index = bool(jnp.issubdtype(embedding.dtype, jnp.integer))
        expect(is_index == takes_index(torso), "an embedding must be an index of a table where takes_index is set")
        expect_same_form(after, carry, "the carry after the last step")
        order = rotation(batch)
        turned = jax.tree.map(lambda x, order=order: x[:, order], observation)
        permuted = unroll(turned, reset[:, order], permuted_batch(carry, order, axis=0))
        expect_close(permuted[0], embedding[:, order], "trajectories mix in the batch")

    half = SMALL.steps // 2
    begun, rest = (jax.tree.map(lambda x, part=part: x[part], observation) for part in (slice(half), slice(half, None)))
    first, between = unroll(begun, reset[:half], carry)
    second, _ = unroll(rest, reset[half:], between)
    expect_close(jnp.concatenate([first, second]), embedding, "two pieces differ from one unroll")
    fresh, _ = unroll(rest, jnp.zeros_like(reset[half:]), torso.initial_carry(batch))
    expect_close(fresh, embedding[half:], "something crosses the beginning of an episode")
    check_gradient_reaches(lambda p: unroll(observation, reset, carry, p)[0], params)


def _observation(torso: Torso, sizes: Sizes, rng: np.random.Generator) -> Observation:
    """What a torso can read: indices, or vectors [T, B, ...].

    A torso that reads a dictionary says in ``parts`` what arrays, or in ``torsos`` who reads each of them.
    """
    parts: dict[str, ArraySpec] | None = getattr(torso, "parts", None)
    if parts is not None:
        return {
            name: _random((sizes.steps, sizes.batch, *x.shape), jnp.dtype(x.dtype), rng) for name, x in parts.items()
        }
    if inputs := inputs_of(torso):
        readers: Sequence[Torso] = getattr(torso, "torsos", ())
        return {name: _observation(reader, sizes, rng) for name, reader in zip(inputs, readers, strict=True)}
    if takes_index(torso):
        return jnp.asarray(rng.integers(7, size=(sizes.steps, sizes.batch)), jnp.int32)
    spec = sizes.spec
    return _random((sizes.steps, sizes.batch, *spec.observation_shape), jnp.dtype(spec.observation_dtype), rng)


def _random(shape: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator) -> Array:
    """Random numbers of any dtype; bytes for integers."""
    if jnp.issubdtype(dtype, jnp.floating):
        return random_normal(rng, *shape).astype(dtype)
    return jnp.asarray(rng.integers(256, size=shape), dtype)


def check_initializer(initializer: Initializer) -> None:
    """An initializer draws weights of any shape, and other ones with another key."""
    for shape in ((6, 4), (4, 6), (3, 3, 2, 5), (2, 1)):
        weights = check_function(lambda key, shape=shape: initializer(key, shape), jax.random.key(0))
        expect_shape(weights, shape, "the weights")
        expect(weights.dtype == jnp.float32, f"the weights are {weights.dtype}, expected float32")
        expect(np.any(np.asarray(weights)), "all weights are zero: what is before them would never learn")
        others = initializer(jax.random.key(1), shape)
        expect(not np.array_equal(weights, others), "the weights are the same with another key")


def check_action_model(model: ActionModel) -> None:
    """An action model gives the same outputs for all actions at once as for those taken alone."""
    module, widths = cast(nn.Module, model), {"one": 3, "other": 1}
    rng = np.random.default_rng(0)
    for sizes in (SMALLEST, SMALL):
        embedding = random_normal(rng, sizes.steps, sizes.batch, 7)
        action = jnp.asarray(rng.integers(sizes.actions, size=(sizes.steps, sizes.batch)), jnp.int32)
        params = init(module, embedding, static=(None, widths, sizes.actions))

        def every(params: Params, embedding: Array, actions: int = sizes.actions) -> dict[str, Array]:
            return cast(dict[str, Array], module.apply({"params": params}, embedding, None, widths, actions))

        def taken(params: Params, embedding: Array, action: Array, actions: int = sizes.actions) -> dict[str, Array]:
            return cast(dict[str, Array], module.apply({"params": params}, embedding, action, widths, actions))

        of_all, of_taken = check_function(every, params, embedding), check_function(taken, params, embedding, action)
        for name, width in widths.items():
            expect_shape(of_all[name], (sizes.steps, sizes.batch, sizes.actions, width), f"head '{name}'")
            expect_close(of_taken[name], at_action(of_all[name], action), "the action taken differs from all actions'")
    check_gradient_reaches(lambda p: jnp.concatenate(list(every(p, embedding).values()), axis=-1), params)


def check_trajectory_core(core: TrajectoryCore) -> None:
    """A trajectory core summarizes a step's own future, up to the end of the episode."""
    module, rng = cast(nn.Module, core), np.random.default_rng(0)
    for sizes in (SMALLEST, SMALL):
        steps, batch = sizes.steps, sizes.batch
        features = random_normal(rng, steps, batch, 6)
        middle = steps // 2
        last = jnp.zeros((steps, batch), bool).at[middle].set(True)
        params = init(module, features, last)
        read = jax.jit(functools.partial(module.apply, {"params": params}))
        summary = check_function(read, features, last)
        expect_shape(summary, (steps, batch, summary.shape[-1]), "the summary")
        order = rotation(batch)
        expect_close(read(features[:, order], last[:, order]), summary[:, order], "trajectories mix in the batch")
    other = features + random_normal(rng, *features.shape)
    later = jnp.concatenate([features[: middle + 1], other[middle + 1 :]])
    expect_close(read(later, last)[: middle + 1], summary[: middle + 1], "a step sees beyond its episode's end", 0.0)
    never = jnp.zeros_like(last)
    earlier = jnp.concatenate([other[:middle], features[middle:]])
    expect_close(read(earlier, never)[middle:], read(features, never)[middle:], "a step sees its past", 0.0)
    check_gradient_reaches(lambda p: cast(Array, module.apply({"params": p}, features, never)), params)


def check_lifetime_core(core: LifetimeCore) -> None:
    """A lifetime core takes in an update whatever the order of its trajectories, without steps of weight 0."""
    module, rng = cast(nn.Module, core), np.random.default_rng(0)
    for sizes in (SMALLEST, SMALL):
        features = random_normal(rng, sizes.steps, sizes.batch, 6)
        weight = jnp.ones((sizes.steps, sizes.batch)).at[0, 0].set(float(sizes.steps == 1))
        carry = core.initial_carry()
        params = init(module, features, weight, carry)
        update = jax.jit(functools.partial(module.apply, {"params": params}))
        after = check_function(update, features, weight, carry)
        expect_same_form(after, carry, "the carry after an update")
        expect(core.read(after).ndim == 1, "what is read of the carry must be a vector")
        order = rotation(sizes.batch)
        expect_close(update(features[:, order], weight[:, order], carry), after, "the order of trajectories matters")
    unweighted = features.at[0, 0].add(1.0)
    expect_close(update(unweighted, weight, carry), after, "a step of weight 0 matters", 0.0)

    def read(params: Params) -> Array:
        return core.read(module.apply({"params": params}, features, weight, after))

    check_gradient_reaches(read, params)
