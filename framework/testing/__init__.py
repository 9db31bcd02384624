"""Conformance: what every component of a kind must do, as functions that raise ``AssertionError`` with the reason.

`check_component` builds an example of a registered class and checks it; the checks of the kinds take an instance, for
components in other configurations. Registering a component is what makes the test suite test it::

    import components.everything  # registers what the examples are made of
    import my_package
    import pytest
    from framework import testing

    @pytest.mark.parametrize(("kind", "cls"), testing.registered("my_package"))
    def test_my_components(kind: str, cls: type) -> None:
        testing.check_component(kind, cls)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework import registry
from framework.environment import Batched
from framework.interfaces import (
    Environment,
    HostEnvironment,
    Optimizer,
    PrioritizedReplay,
    Replay,
    Suite,
    TransposableOptimizer,
    Weights,
)
from framework.specs import described, spec_of
from framework.testing import examples
from framework.testing.discovery import check_bandit, check_lifetime, check_meta_objective, check_regularizer
from framework.testing.examples import EXAMPLE, Sizes
from framework.testing.expectations import (
    check_function,
    expect,
    expect_close,
    expect_same_form,
    expect_shape,
)
from framework.testing.host import check_host_environment
from framework.testing.networks import (
    check_action_model,
    check_head,
    check_initializer,
    check_lifetime_core,
    check_torso,
    check_trajectory_core,
)
from framework.testing.rules import (
    check_action_feature,
    check_behaviour,
    check_feature,
    check_loss_term,
    check_normalizer,
    check_number,
    check_target,
    check_value_estimator,
)
from framework.types import Array, Params, PyTree, TimeStep


def registered(*packages: str) -> list[tuple[str, type]]:
    """(kind, class) of all registered components that are defined in the given packages."""
    found = [(kind, cls) for kind in registry.kinds() for cls in registry.components_of(kind).values()]
    return [(kind, cls) for kind, cls in found if cls.__module__.split(".")[0] in packages]


def missing_package(cls: type) -> str | None:
    """Which package a component needs that is not installed, and what to do; ``None`` if nothing is missing."""
    needed = registry.requirement_of(cls)
    return None if needed is None or needed.is_met else needed.missing


def check_component(kind: str, cls: type) -> None:
    """Checks an example of a registered class against all that its kind asks for.

    Raises:
      AssertionError: with the component and what it does wrong.
    """
    try:
        check_configuration(cls)
        if kind in CHECKS:
            CHECKS[kind](examples.example(cls))
    except AssertionError as error:
        raise AssertionError(f"{kind}.{cls.__name__}: {error}") from error


def check_configuration(cls: type) -> None:
    """A component is documented, and two of the same configuration are equal, as jit and module sharing need."""
    expect(bool((cls.__doc__ or "").strip()), "it has no docstring: say in one sentence what it is")
    expect(not (cls.__doc__ or "").startswith(f"{cls.__name__}("), "its docstring is only its signature")
    one, other = examples.example(cls), examples.example(cls)
    expect(one == other, "two of the same configuration are not equal")
    expect(hash(one) == hash(other), "two of the same configuration have different hashes")


def check_optimizer(optimizer: Optimizer) -> None:
    """An optimizer descends, in proportion to the learning rate it is given, and accepts parameters that are none."""
    params = {"matrix": jnp.ones((3, 2)), "vector": jnp.full((4,), -2.0)}
    gradient, state, rate = params, optimizer.init(params), jnp.asarray(1e-2)
    change, after = check_function(optimizer.update, gradient, state, params, rate)
    expect_same_form(change, params, "the change")
    expect_same_form(after, state, "the state")
    descent = sum(jnp.vdot(c, g) for c, g in zip(jax.tree.leaves(change), jax.tree.leaves(gradient), strict=True))
    expect(descent < 0, "its change does not descend: it must be added to the parameters")
    twice, _ = optimizer.update(gradient, state, params, 2.0 * rate)
    expect_close(jax.tree.map(lambda x: x / 2.0, twice), change, "the change is not in proportion to the learning rate")
    nothing = jax.tree.map(jnp.zeros_like, params)
    check_function(optimizer.update, nothing, state, params, rate)
    expect(optimizer.update({}, optimizer.init({}), {}, rate)[0] == {}, "it fails where there are no parameters")
    if isinstance(optimizer, TransposableOptimizer):
        check_transpose(optimizer)


def check_transpose(optimizer: TransposableOptimizer) -> None:
    """What an optimizer says of meta-gradients through its updates is their derivative, and none of it is in params."""
    shapes = {"matrix": (3, 2), "vector": (4,)}

    def example(seed: int) -> Params:
        keyed = zip(shapes, jax.random.split(jax.random.key(seed)), strict=True)
        return {name: jax.random.normal(key, shapes[name]) for name, key in keyed}

    params, rate = example(0), jnp.asarray(1.0)
    gradients, cotangents = [example(seed) for seed in (1, 2, 3)], [example(seed) for seed in (4, 5, 6)]

    def changes(gradients: list[Params], params: Params) -> list[Params]:
        state, found = optimizer.init(params), []
        for gradient in gradients:
            change, state = optimizer.update(gradient, state, params, rate)
            found.append(change)
        return found

    expected, pull_back = jax.vjp(changes, gradients, params)
    of_gradients, of_params = pull_back(cotangents)
    message = "its changes depend on the parameters, of which 'transpose' says nothing: declare only 'update'"
    expect(not any(np.any(leaf) for leaf in jax.tree.leaves(of_params)), message)
    state, residuals = optimizer.init(params), []
    for gradient, change in zip(gradients, expected, strict=True):
        found, state, residual = optimizer.linearize(gradient, state, params, rate)
        expect_close(found, change, "'linearize' changes the parameters otherwise than 'update'")
        residuals.append(residual)
    of_state = optimizer.zero_cotangent(params)
    for number in reversed(range(len(gradients))):
        found, of_state = optimizer.transpose(residuals[number], cotangents[number], of_state, rate)
        expect_close(found, of_gradients[number], "'transpose' is not the derivative of 'update'")


def check_suite(suite: Suite) -> None:
    """A suite has differently named tasks, each of which can be played in its environment."""
    tasks = tuple(suite.tasks())
    expect(bool(tasks) and len(set(tasks)) == len(tasks), f"its tasks must be named and distinct, got {tasks}")
    levels: dict[Environment | HostEnvironment, list[PyTree]] = {}
    for task in tasks:
        environment, again = suite.environment(task), suite.environment(task)
        alike = environment == again and hash(environment) == hash(again)
        expect(alike, f"the environments that it gives for the task {task} are not equal, or differently hashed")
        levels.setdefault(environment, []).append(suite.level(task))
    on_host: dict[type, HostEnvironment] = {}
    for environment, of_tasks in levels.items():
        if isinstance(environment, HostEnvironment):
            expect(not jax.tree.leaves(of_tasks), "tasks of environments outside the device have no levels: give ()")
            on_host.setdefault(type(environment), environment)
        else:
            check_environment(environment, *of_tasks)
    for environment in on_host.values():  # One of each class: a suite of games would be played for minutes.
        check_host_environment(environment)


def check_environment(environment: Environment, *levels: PyTree, steps: int = 40) -> None:
    """An environment keeps its shapes, and terminates nowhere but at the last step of an episode, at all its levels."""
    spec, key = environment.spec, jax.random.key(0)
    for level in levels:
        expect_same_form(level, levels[0], "one of several levels of the same environment")
    task = check_function(environment.draw_task, key, levels[0])
    state, observation = check_function(environment.reset, key, task)
    found = spec_of(observation)
    expect(found == spec.observation, f"the first observation is {described(found)}, the spec says {spec.shown}")
    action = jnp.zeros((), jnp.int32)
    after, time_step = check_function(environment.step, key, task, state, action)
    expect_same_form(after, state, "the state after a step")
    zero = jnp.zeros(())
    expected = TimeStep(
        observation=observation,
        reward=zero,
        discount=zero,
        last=jnp.zeros((), bool),
        episode_numbers=dict.fromkeys(spec.episode_numbers, zero),
    )
    expect_same_form(time_step, expected, "the time step")

    batched = Batched(environment, 3)

    @jax.jit
    def play(key: Array, level: PyTree) -> TimeStep:
        task_key, reset_key, act_key, step_key = jax.random.split(key, 4)
        task = environment.draw_task(task_key, level)
        actions = jax.random.randint(act_key, (steps, batched.size), 0, spec.num_actions)

        def step(state: PyTree, inputs: tuple[Array, Array]) -> tuple[PyTree, TimeStep]:
            key, action = inputs
            return batched.step(key, task, state, action)

        state, _ = batched.reset(reset_key, task)
        return jax.lax.scan(step, state, (jax.random.split(step_key, steps), actions))[1]

    for level in levels:
        played = play(key, level)
        finite = [np.isfinite(x).all() for x in jax.tree.leaves((played.reward, played.observation))]
        expect(all(finite), "rewards and observations must be finite")
        expect(np.isin(played.discount, (0.0, 1.0)).all(), "discounts must be 0 or 1")
        expect(np.all(played.last | (played.discount > 0)), "an episode terminates without being over: set last")
        if spec.num_states is not None:
            states = np.asarray(played.observation)
            inside = states.min() >= 0 and states.max() < spec.num_states
            expect(inside, f"it shows states from {states.min()} to {states.max()}, the spec has {spec.num_states}")


def check_replay(replay: Replay) -> None:
    """A replay gives batches of the size it says, made of nothing but trajectories that it was given."""
    sizes = Sizes(steps=3, batch=2, actions=2)
    blank = examples.random_trajectory(np.random.default_rng(0), sizes)
    state = replay.init(blank)
    unrolls = replay.warm_up_unrolls(sizes.batch) + 1
    tags = 1.0 + jnp.arange(unrolls * sizes.batch, dtype=jnp.float32).reshape(unrolls, sizes.batch)
    for tag in tags:
        fresh = blank.replace(reward=jnp.broadcast_to(tag, blank.reward.shape))
        after = check_function(replay.insert, state, fresh)
        expect_same_form(after, state, "the state after an insertion")
        state = after
    batch = check_function(replay.sample, state, jax.random.key(0), fresh)
    expect_shape(batch.action, (sizes.steps, replay.batch(sizes.batch)), "a batch")
    expect(np.isin(batch.reward, tags).all(), "a batch holds what was never inserted")
    expect(np.all(batch.reward == batch.reward[:1]), "a batch mixes the steps of different trajectories")
    if isinstance(replay, PrioritizedReplay):
        expect(batch.importance is not None, "what is drawn more often must say how much it counts: set importance")
        expect_shape(batch.importance, batch.action.shape, "the importance")
        errors = 1.0 + jnp.arange(replay.batch(sizes.batch), dtype=jnp.float32)
        told = check_function(replay.reprioritize, state, jax.random.key(0), errors)
        expect_same_form(told, state, "the state that was told errors")


def check_weights(weights: Weights) -> None:
    """Weights have the form of the initial ones, or say in one line why they cannot."""
    initial = {EXAMPLE: jnp.zeros(3)}
    try:
        found = weights(initial)
    except Exception as refusal:
        expect(bool(str(refusal)) and "\n" not in str(refusal), f"it refuses without a reason: {refusal!r}")
    else:
        expect_same_form(found, initial, "the meta-parameters")


CHECKS: dict[str, Callable[[Any], None]] = {
    "heads": check_head,
    "torsos": check_torso,
    "initializers": check_initializer,
    "action_models": check_action_model,
    "features": check_feature,
    "action_features": check_action_feature,
    "trajectory_cores": check_trajectory_core,
    "lifetime_cores": check_lifetime_core,
    "targets": check_target,
    "value_estimators": check_value_estimator,
    "normalizers": check_normalizer,
    "loss_terms": check_loss_term,
    "behaviours": check_behaviour,
    "optimizers": check_optimizer,
    "suites": check_suite,
    "replays": check_replay,
    "weights": check_weights,
    "meta_objectives": check_meta_objective,
    "regularizers": check_regularizer,
    "lifetimes": check_lifetime,
    "bandits": check_bandit,
    "numbers": check_number,
}
"""The check of every kind that has a protocol; kinds of concrete classes are checked by what they are made of."""
