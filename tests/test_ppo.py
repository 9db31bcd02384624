"""PPO as its implementations have it, beside an update written out: networks apart, a clipped value, shuffled steps."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
import pytest

from components import heads, loss_terms, torsos
from components.distributional_heads import CategoricalReturns
from framework.config import load
from framework.errors import UserError
from framework.experiment import Experiment
from framework.group import Group
from framework.learner import Learner, select_steps
from framework.testing import examples
from framework.testing.examples import Sizes
from framework.testing.expectations import expect_close
from framework.types import Array, LearnerState, LossInputs, Params, PyTree, Trajectory

SIZES = Sizes(steps=6, batch=4, actions=3)
EPOCHS, MINIBATCHES, CLIP, DISCOUNT, DECAY, RATE = 2, 3, 0.2, 0.99, 0.95, 5e-3
KEY = jax.random.key(7)


@functools.cache
def experiment() -> Experiment:
    return load("ppo_minatar", root=Experiment).experiment


@functools.cache
def learner() -> Learner:
    rule, agent = experiment().rule, experiment().groups[0].agent
    network = agent.network(rule, SIZES.spec)
    return Learner(
        rule,
        network,
        agent.optimizer,
        epochs=EPOCHS,
        minibatches=MINIBATCHES,
        minibatch_unit="step",
        env_steps_per_update=SIZES.steps * SIZES.batch,
    )


def trajectory() -> Trajectory:
    """One whose episodes all end by termination, so that every step counts."""
    batch = examples.random_trajectory(np.random.default_rng(0), SIZES)
    return batch.replace(discount=1.0 - batch.last, carry=learner().network.initial_carry(SIZES.batch))


def tower(params: Params, torso: str, head: str, x: Array) -> Array:
    """Two layers with ReLU and a linear one."""
    layers = params[torso]["layers"]
    for layer in (layers["linear_0"], layers["linear_1"]):
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[head]["kernel"] + params[head]["bias"]


def policy_and_value(params: Params, observation: Array) -> tuple[Array, Array]:
    x = observation.reshape(*observation.shape[:-2], -1)
    return tower(params, "torso", "head_logits", x), tower(params, "torso_v", "head_v", x)[..., 0]


def advantages(batch: Trajectory, values: np.ndarray) -> np.ndarray:
    """Generalised advantages, step by step from the end."""
    found, following = np.zeros(batch.reward.shape), np.zeros(SIZES.batch)
    for t in reversed(range(SIZES.steps)):
        goes_on = 1.0 - np.asarray(batch.last[t])
        error = batch.reward[t] + DISCOUNT * goes_on * values[t + 1] - values[t]
        found[t] = following = error + DISCOUNT * DECAY * goes_on * following
    return found


def loss_of_steps(params: Params, steps: dict[str, Array]) -> Array:
    """The loss of steps [S], as PPO's implementations have it."""
    logits, value = policy_and_value(params, steps["observation"])
    log_policy, log_behaviour = jax.nn.log_softmax(logits), jax.nn.log_softmax(steps["behaviour"])
    taken = jnp.arange(value.shape[0]), steps["action"]
    ratio = jnp.exp(log_policy[taken] - log_behaviour[taken])
    advantage = (steps["advantage"] - steps["advantage"].mean()) / (steps["advantage"].std() + 1e-8)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage)
    kept = steps["value"] + jnp.clip(value - steps["value"], -CLIP, CLIP)
    of_value = 0.5 * jnp.maximum((value - steps["return"]) ** 2, (kept - steps["return"]) ** 2)
    entropy = -(jnp.exp(log_policy) * log_policy).sum(-1)
    return (-surrogate + 0.5 * of_value - 0.01 * entropy).mean()


def test_an_update_of_ppo_minatar_is_the_one_written_out() -> None:
    """The same network, losses, minibatches and optimizer, with optax's Adam; some way along the schedule."""
    of, batch, updates = learner(), trajectory(), 200
    state: LearnerState = of.init(jax.jit(of.network.init)(jax.random.key(1)), {})
    state = state.replace(updates=jnp.asarray(updates, jnp.int32))
    after, _ = jax.jit(of.update)({}, state, batch, KEY)

    values = np.asarray(policy_and_value(state.params, batch.observation)[1])
    of_steps = {
        "observation": batch.observation[:-1],
        "action": batch.action,
        "behaviour": batch.behaviour,
        "value": jnp.asarray(values[:-1]),
        "advantage": jnp.asarray(advantages(batch, values), jnp.float32),
        "return": jnp.asarray(advantages(batch, values) + values[:-1], jnp.float32),
    }
    flat = {name: x.reshape(SIZES.steps * SIZES.batch, *x.shape[2:]) for name, x in of_steps.items()}
    rate = RATE * (1.0 - updates * SIZES.steps * SIZES.batch / 4_997_120)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate, eps=1e-5))
    params, opt_state = state.params, optimizer.init(state.params)
    for key in jax.random.split(KEY, EPOCHS):
        for indices in jnp.split(jax.random.permutation(key, SIZES.steps * SIZES.batch), MINIBATCHES):
            gradient = jax.grad(loss_of_steps)(params, {name: x[indices] for name, x in flat.items()})
            change, opt_state = optimizer.update(gradient, opt_state)
            params = optax.apply_updates(params, change)
    moved: PyTree = jax.tree.map(jnp.subtract, after.params, state.params)
    expected: PyTree = jax.tree.map(jnp.subtract, params, state.params)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert largest > RATE
    for found, wanted in zip(jax.tree.leaves(moved), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-3 * largest)


def test_its_first_weights_are_orthogonal() -> None:
    params = jax.jit(learner().network.init)(jax.random.key(1))
    for torso in ("torso", "torso_v"):
        kernel = np.asarray(params[torso]["layers"]["linear_1"]["kernel"])
        np.testing.assert_allclose(kernel.T @ kernel, 2.0 * np.eye(64), atol=1e-5)
    for head, scale in (("head_logits", 0.01), ("head_v", 1.0)):
        kernel = np.asarray(params[head]["kernel"])
        np.testing.assert_allclose(kernel.T @ kernel, scale**2 * np.eye(kernel.shape[1]), atol=1e-6)


# --- minibatches of single steps


def test_steps_keep_what_belongs_to_them() -> None:
    batch = trajectory()
    targets = {"v_hat": batch.reward + 1.0}
    indices = jnp.asarray([0, 23, 5, 6])  # (t, b) = (0, 0), (5, 3), (1, 1), (1, 2)
    part, aims = select_steps((batch, targets), indices)
    at = np.asarray([0, 5, 1, 1]), np.asarray([0, 3, 1, 2])
    for name in ("action", "reward", "discount", "last", "behaviour"):
        np.testing.assert_array_equal(getattr(part, name)[:, 0], getattr(batch, name)[at])
    np.testing.assert_array_equal(part.observation[:-1, 0], batch.observation[at])
    np.testing.assert_array_equal(aims["v_hat"][:, 0], targets["v_hat"][at])
    assert part.observation.shape[:2] == (5, 1)


def test_all_steps_at_once_in_any_order_are_the_whole_batch() -> None:
    of, batch = learner(), trajectory()
    state = of.init(jax.jit(of.network.init)(jax.random.key(1)), {})
    targets = of.compute_targets({}, state, batch)[0]
    part, aims = select_steps((batch, targets), jax.random.permutation(KEY, SIZES.steps * SIZES.batch))
    numbers = of.hyperparameters(state)
    whole = of.loss(state.params, targets, (batch, numbers))
    shuffled = of.loss(state.params, aims, (part, numbers))
    expect_close(shuffled, whole, "the loss depends on the order of the steps", 1e-5)


@dataclasses.dataclass(frozen=True)
class Smoothness(loss_terms.Entropy):
    """Looks at the step before."""

    reads_neighbours: ClassVar[bool] = True


def problems_of(group: Group, **of_rule: Any) -> list[str]:
    rule = dataclasses.replace(experiment().rule, **of_rule)
    return [problem.message for problem in group.problems(rule)]


def test_what_needs_steps_in_order_is_not_split_into_steps() -> None:
    (group,) = experiment().groups
    assert problems_of(group) == []
    recurrent = dataclasses.replace(group.agent, torso=torsos.RecurrentMLP())
    (message,) = problems_of(dataclasses.replace(group, agent=recurrent))
    assert message == (
        "the agent's torso needs steps in order, and minibatches of single steps are shuffled: bind 'trajectory'"
    )
    assert not problems_of(dataclasses.replace(group, agent=recurrent, minibatch_unit="trajectory"))
    terms = (*experiment().rule.loss, Smoothness())
    assert [message.split(" needs")[0] for message in problems_of(group, loss=terms)] == ["the loss term Smoothness"]


def test_minibatches_divide_the_steps() -> None:
    (group,) = experiment().groups
    (message,) = problems_of(dataclasses.replace(group, minibatches=7))
    assert "a batch of 8192 steps cannot be split into 7 minibatches: choose a divisor of 8192" in message
    assert not problems_of(dataclasses.replace(group, minibatches=128))


# --- the clipped value, and advantages that are normalized in each minibatch


def loss_inputs(values: Array, targets: dict[str, Array]) -> LossInputs:
    shape = values.shape[:2]
    return LossInputs(
        outputs={"v": values, "logits": jnp.zeros((*shape, 3))},
        targets=targets,
        behaviour=jnp.zeros((*shape, 3)),
        action=jnp.zeros(shape, jnp.int32),
        reward=jnp.zeros(shape),
        discount=jnp.ones(shape),
        last=jnp.zeros(shape, bool),
        weight=jnp.ones(shape),
    )


def test_a_value_stops_where_it_has_moved_far_enough_towards_the_return() -> None:
    """Towards the return beyond the clip: no gradient. Away from it, or within the clip: that of the squared error."""
    term = loss_terms.Value("v", "v_hat", clip=0.5, old="v_old")
    old, target = jnp.zeros((1, 4)), jnp.asarray([[2.0, 2.0, -2.0, -2.0]])
    values = jnp.asarray([[0.3, 0.7, 0.7, -0.7]])[..., None]

    def loss(values: Array) -> Array:
        return term(loss_inputs(values, {"v_hat": target, "v_old": old}), heads.Value())

    np.testing.assert_allclose(loss(values), [[0.5 * 1.7**2, 0.5 * 1.5**2, 0.5 * 2.7**2, 0.5 * 1.5**2]], rtol=1e-5)
    slopes = jax.grad(lambda x: loss(x).sum())(values)[..., 0]
    np.testing.assert_allclose(slopes, [[-1.7, 0.0, 2.7, 0.0]], rtol=1e-5, atol=1e-6)


def test_the_clip_of_a_value_needs_a_scalar_and_old_values() -> None:
    with pytest.raises(ValueError, match=r"clip and old belong together: bind both or neither, got 0\.2 and None"):
        loss_terms.Value(clip=0.2)
    with pytest.raises(ValueError, match=r"clip must be positive, got 0\.0"):
        loss_terms.Value(clip=0.0, old="v_old")
    term, zeros = loss_terms.Value("v", "v_hat", clip=0.2, old="v_old"), jnp.zeros((2, 3))
    with pytest.raises(UserError, match=r"a clip needs a head that is a scalar .* 'v' has outputs \[51\]"):
        term(loss_inputs(jnp.zeros((2, 3, 51)), {"v_hat": zeros, "v_old": zeros}), CategoricalReturns())
    missing = dataclasses.replace(experiment().rule, loss=(loss_terms.ClippedSurrogate(), term))
    targets = dataclasses.replace(missing.meta_network, targets=missing.meta_network.targets[:2])
    (problem,) = dataclasses.replace(missing, meta_network=targets).problems()
    assert (problem.component, problem.parameter) == (term, "old")
    assert problem.message == "there is no target 'v_old'. There are: advantage, v_hat."


@pytest.mark.parametrize("term", [loss_terms.Surrogate(), loss_terms.ClippedSurrogate()])
def test_advantages_are_normalized_over_the_steps_that_count(term: Any) -> None:
    rng = np.random.default_rng(0)
    advantage = jnp.asarray(rng.normal(3.0, 5.0, size=(4, 5)), jnp.float32)
    weight = jnp.ones((4, 5)).at[1].set(0.0)
    inputs = loss_inputs(jnp.zeros((4, 5, 1)), {"advantage": advantage}).replace(weight=weight)
    counted = np.asarray(advantage)[np.asarray(weight) > 0]
    found = dataclasses.replace(term, normalized=True)(inputs, heads.Policy())
    np.testing.assert_allclose(found, -(advantage - counted.mean()) / counted.std(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(term(inputs, heads.Policy()), -advantage, rtol=1e-5)
