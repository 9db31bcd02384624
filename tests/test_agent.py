"""Agents: networks that grow the rule's heads, and optimizers against numbers worked out by hand."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from components import action_models, convolutional_torsos, initializers, optimizers, torsos
from components import multi_input_torsos as torsos_of_parts
from framework.agent import Agent, HeadNetwork, Network, resets
from framework.config import load
from framework.experiment import Experiment
from framework.interfaces import Torso, TransposableOptimizer
from framework.testing import examples
from framework.testing.examples import Sizes
from framework.testing.expectations import expect_close
from framework.transforms import at_action
from framework.types import ActingParams, Array, Params, PyTree
from framework.update_rule import UpdateRule

SIZES = Sizes(steps=6, batch=2, actions=3)
SMALL_DISCO = str(Path(__file__).with_name("small_disco.gin"))
TORSOS = (torsos.MLP((8, 4)), torsos.RecurrentMLP((8,), memory=4))


@functools.cache
def disco() -> UpdateRule:
    return load("disco103_catch", gin_files=[SMALL_DISCO], root=Experiment).experiment.rule


@functools.cache
def network_and_params(torso: Torso) -> tuple[Network, Params]:
    agent = Agent(torso, optimizers.SGD(0.1), action_models.ActionLSTM(6, (5,)))
    network = agent.network(disco(), SIZES.spec)
    return network, jax.jit(network.init)(jax.random.key(0))


@pytest.mark.parametrize("torso", TORSOS)
def test_the_network_grows_the_rules_heads(torso: Torso) -> None:
    network, params = network_and_params(torso)
    batch = examples.random_trajectory(np.random.default_rng(0), SIZES, network.initial_carry(SIZES.batch))
    outputs = jax.jit(network.unroll)(params, batch.observation, batch.last, batch.carry)
    assert {name: x.shape for name, x in outputs.items()} == {
        head.name: examples.output_shape(head, SIZES) for head in disco().heads
    }
    taken = jax.jit(network.unroll)(params, batch.observation, batch.last, batch.carry, batch.action)
    for head in disco().heads:
        every = outputs[head.name][:-1]
        expected = at_action(every, batch.action) if head.action_conditional else every
        np.testing.assert_allclose(taken[head.name][:-1], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("torso", TORSOS)
def test_acting_step_by_step_is_the_unroll(torso: Torso) -> None:
    network, params = network_and_params(torso)
    batch = examples.random_trajectory(np.random.default_rng(0), SIZES)
    carry = network.initial_carry(SIZES.batch)
    whole = jax.jit(network.unroll)(params, batch.observation, batch.last, carry)["logits"]
    policy = jax.jit(network.policy)
    for t in range(SIZES.steps):
        logits, carry = policy(ActingParams(params), batch.observation[t], carry)
        np.testing.assert_allclose(logits, whole[t], rtol=1e-4, atol=1e-6)
        carry = network.cleared(carry, batch.last[t])


def test_an_unroll_over_an_episodes_end_is_two_unrolls() -> None:
    network, params = network_and_params(TORSOS[1])
    batch = examples.random_trajectory(np.random.default_rng(0), SIZES)
    carry, unroll = network.initial_carry(SIZES.batch), jax.jit(network.unroll)
    last = jnp.zeros_like(batch.last).at[2].set(True)
    whole = unroll(params, batch.observation, last, carry)
    before = unroll(params, batch.observation[:3], last[:2], carry)
    after = unroll(params, batch.observation[3:], last[3:], carry)
    expect_close(jax.tree.map(lambda *x: jnp.concatenate(x), before, after), whole, "memory crosses the end", 1e-5)
    never = unroll(params, batch.observation, jnp.zeros_like(last), carry)
    assert np.abs(whole["logits"][3:] - never["logits"][3:]).max() > 1e-6


def test_resets_come_one_row_after_the_last_step() -> None:
    last = jnp.asarray([[True, False], [False, True]])
    np.testing.assert_array_equal(resets(last), [[False, False], [True, False], [False, True]])


def test_action_conditional_heads_need_an_action_model() -> None:
    agent = Agent(torsos.MLP((8,)), optimizers.SGD(0.1))
    (problem,) = agent.problems(disco())
    assert problem.component is agent
    assert problem.parameter == "action_model"
    assert "the action-conditional heads z, p, q need an action model" in problem.message


# --- heads with networks of their own


def actor_critic(*networks: HeadNetwork, torso: Torso | None = None) -> Agent:
    return Agent(torso or torsos.MLP((8, 4)), optimizers.SGD(0.1), head_networks=networks)


@functools.cache
def ppo() -> UpdateRule:
    return load("ppo_catch", root=Experiment).experiment.rule


def test_heads_with_torsos_of_their_own_share_nothing() -> None:
    """Each output moves the parameters of its own network, and what is shared does not depend on the others."""
    agent = actor_critic(HeadNetwork("v", torsos.MLP((8, 4))))
    network = agent.network(ppo(), SIZES.spec)
    params = jax.jit(network.init)(jax.random.key(0))
    assert params.keys() == {"torso", "torso_v", "head_logits", "head_v"}
    batch = examples.random_trajectory(np.random.default_rng(0), SIZES, network.initial_carry(SIZES.batch))

    def total(params: Params, head: str) -> Array:
        return jnp.square(network.unroll(params, batch.observation, batch.last, batch.carry)[head]).sum()

    for head, own in (("logits", "torso"), ("v", "torso_v")):
        gradient = jax.jit(jax.grad(total), static_argnums=1)(params, head)
        moved = {name for name, part in gradient.items() if any(np.any(leaf) for leaf in jax.tree.leaves(part))}
        assert moved == {own, f"head_{head}"}
    alone = actor_critic().network(ppo(), SIZES.spec)
    shared = {name: params[name] for name in ("torso", "head_logits", "head_v")}
    expected = alone.unroll(shared, batch.observation, batch.last, ())["logits"]
    outputs = network.unroll(params, batch.observation, batch.last, batch.carry)
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-5)


def test_a_recurrent_torso_of_a_heads_own_remembers_while_acting() -> None:
    """The policy alone is computed when an agent acts; the value's memory goes on nevertheless."""
    agent = actor_critic(HeadNetwork("v", torsos.RecurrentMLP((8,), memory=4)))
    network = agent.network(ppo(), SIZES.spec)
    assert agent.remembers(SIZES.spec)
    assert not actor_critic(HeadNetwork("v", torsos.MLP((8,)))).remembers(SIZES.spec)
    params, carry = jax.jit(network.init)(jax.random.key(0)), network.initial_carry(SIZES.batch)
    batch = examples.random_trajectory(np.random.default_rng(0), SIZES)
    whole = jax.jit(network.unroll)(params, batch.observation, batch.last, carry)["v"]
    policy, middle = jax.jit(network.policy), SIZES.steps // 2
    for t in range(middle):
        carry = network.cleared(policy(ActingParams(params), batch.observation[t], carry)[1], batch.last[t])
    later = jax.jit(network.unroll)(params, batch.observation[middle:], batch.last[middle:], carry)["v"]
    np.testing.assert_allclose(later, whole[middle:], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("agent", "rule", "message"),
    [
        (actor_critic(HeadNetwork("w", torsos.MLP((8,)))), ppo, "there is no head 'w'. There are: logits, v."),
        (actor_critic(HeadNetwork("v")), ppo, "the head 'v' has nothing to itself: bind torso or initializer"),
        (
            Agent(
                torsos.MLP((8,)),
                optimizers.SGD(0.1),
                action_models.ActionLSTM(6, (5,)),
                (HeadNetwork("q", torsos.MLP((8,))),),
            ),
            disco,
            "the head 'q' is action-conditional: the action model grows it, on the torso",
        ),
        (
            actor_critic(HeadNetwork("v", torsos.MLP((8,))), torso=torsos.Tabular()),
            ppo,
            "heads on torsos.Tabular are tables, and have no more to themselves: leave 'v' out",
        ),
    ],
)
def test_what_no_head_can_have_to_itself(agent: Agent, rule: Callable[[], UpdateRule], message: str) -> None:
    (problem,) = agent.problems(rule())
    assert problem.component is agent.head_networks[0]
    assert (problem.parameter, problem.message) == ("head", message)


def test_networks_of_heads_are_named_once_and_read_what_there_is() -> None:
    with pytest.raises(ValueError, match="head_networks must name each head once, got v, v"):
        actor_critic(*[HeadNetwork("v", torsos.MLP((8,)))] * 2)
    reads_a_dictionary = torsos_of_parts.MultiInput(("position",), (torsos.MLP((4,)),))
    agent = actor_critic(HeadNetwork("v", reads_a_dictionary))
    (problem,) = agent.problems_with(SIZES.spec)
    assert problem.component is agent.head_networks[0]
    assert "MultiInput reads 'position', the environment shows" in problem.message


@pytest.mark.parametrize("torso", [torsos.MLP, convolutional_torsos.Convolutional])
def test_weights_are_drawn_from_the_initializer(torso: Callable[..., nn.Module]) -> None:
    """Kernels, of convolutions too, have orthogonal columns of one length, or such rows where these are fewer."""
    observation, reset = jnp.zeros((1, 1, 8, 8, 2)), jnp.zeros((1, 1), bool)
    module = torso(initializer=initializers.Orthogonal(3.0))
    params = jax.jit(module.init)(jax.random.key(0), observation, reset, ())["params"]
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    assert kernels
    for kernel in kernels:
        matrix = np.asarray(kernel.reshape(-1, kernel.shape[-1]))
        matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        np.testing.assert_allclose(matrix.T @ matrix, 9.0 * np.eye(matrix.shape[1]), atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (2, 2, 3, 8)])
def test_orthogonal_weights_are_those_of_jax(shape: tuple[int, ...]) -> None:
    """Of agents side by side too, and without LAPACK, whose decompositions can wait for each other for ever."""
    keys = jax.random.split(jax.random.key(0), 3)
    draw = jax.jit(jax.vmap(lambda key: initializers.Orthogonal(0.5)(key, shape)))
    theirs = [jax.nn.initializers.orthogonal(0.5)(key, shape) for key in keys]
    np.testing.assert_allclose(draw(keys), theirs, atol=1e-5)
    assert "lapack" not in draw.lower(keys).as_text()


def test_initializers_by_default_have_the_scale_of_their_inputs() -> None:
    for shape in ((400, 50), (5, 5, 16, 50)):
        weights = initializers.TruncatedNormal()(jax.random.key(0), shape)
        assert float(weights.std()) == pytest.approx(0.88 / 20.0, rel=0.03)  # 0.88: what the cut leaves of it.
    for build in (initializers.TruncatedNormal, initializers.Orthogonal):
        with pytest.raises(ValueError, match=r"must be positive, got -0\.5"):
            build(-0.5)


def test_a_final_activation_leaves_nothing_negative() -> None:
    observation, reset = jnp.ones((2, 3, 5)), jnp.zeros((2, 3), bool)
    linear, rectified = torsos.MLP((8,)), torsos.MLP((8,), final_activation=True)
    params = linear.init(jax.random.key(0), observation, reset, ())
    without, _ = linear.apply(params, observation, reset, ())
    assert (without < 0).any()
    np.testing.assert_array_equal(rectified.apply(params, observation, reset, ())[0], jnp.maximum(without, 0.0))


# --- optimizers

GRADIENTS = [np.asarray(g, np.float32) for g in ([0.5, -2.0, 1e-4], [0.4, 3.0, 0.0], [-1.0, 0.1, 1e-4])]


def changes(optimizer: optimizers.Adam | optimizers.SGD, rate: float) -> list[np.ndarray]:
    params: PyTree = {"x": jnp.zeros(3)}
    state, found = optimizer.init(params), []
    for gradient in GRADIENTS:
        change, state = optimizer.update({"x": jnp.asarray(gradient)}, state, params, jnp.asarray(rate))
        found.append(np.asarray(change["x"]))
    return found


@pytest.mark.parametrize("max_update", [None, 0.8])
def test_three_updates_of_adam(max_update: float | None) -> None:
    rate, b1, b2, eps = 0.1, 0.8, 0.95, 1e-3
    first, second = np.zeros(3), np.zeros(3)
    found = changes(optimizers.Adam(rate, b1, b2, eps, max_update=max_update), rate)
    for count, (gradient, change) in enumerate(zip(GRADIENTS, found, strict=True), start=1):
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient**2
        step = first / (1 - b1**count) / (np.sqrt(second / (1 - b2**count)) + eps)
        if max_update is not None:
            step = np.clip(step, -max_update, max_update)
        np.testing.assert_allclose(change, -rate * step, rtol=1e-5, atol=1e-9)


def test_three_updates_of_sgd() -> None:
    for gradient, change in zip(GRADIENTS, changes(optimizers.SGD(1.0), 0.1), strict=True):
        np.testing.assert_allclose(change, -0.1 * gradient, rtol=1e-6)


def test_weight_decay_shrinks_parameters_beside_the_step() -> None:
    rate, decay, params = jnp.asarray(0.1), 0.3, {"x": jnp.asarray([2.0, -4.0, 0.0])}
    gradient = {"x": jnp.asarray(GRADIENTS[0])}
    adam, adamw = optimizers.Adam(0.1, max_update=0.5), optimizers.AdamW(0.1, decay, max_update=0.5)
    step, state = adam.update(gradient, adam.init(params), params, rate)
    change, after = adamw.update(gradient, adamw.init(params), params, rate)
    np.testing.assert_allclose(change["x"], step["x"] - 0.1 * decay * params["x"], rtol=1e-6)
    np.testing.assert_array_equal(after.second["x"], state.second["x"])
    assert not isinstance(adamw, TransposableOptimizer)


def test_the_global_norm_is_limited_over_all_arrays() -> None:
    gradient: Params = {"a": jnp.asarray([3.0]), "b": jnp.asarray([[4.0]])}
    change, _ = optimizers.SGD(1.0, max_gradient_norm=0.5).update(gradient, (), gradient, 1.0)
    np.testing.assert_allclose([change["a"][0], change["b"][0, 0]], [-0.3, -0.4], rtol=1e-6)
    small: Params = jax.tree.map(lambda x: x / 100, gradient)
    change, _ = optimizers.SGD(1.0, max_gradient_norm=0.5).update(small, (), small, 1.0)
    np.testing.assert_allclose([change["a"][0], change["b"][0, 0]], [-0.03, -0.04], rtol=1e-6)


def test_adams_denominator_takes_no_meta_gradient() -> None:
    """The first update is g / (sqrt(sg(g^2)) + eps): with the denominator held fixed, its derivative is 1 / |g|."""
    adam = optimizers.Adam(1.0)

    def first_change(gradient: Array) -> Array:
        return adam.update({"x": gradient}, adam.init({"x": gradient}), {"x": gradient}, 1.0)[0]["x"].sum()

    gradient = jnp.asarray([0.5, -2.0, 3.0])
    np.testing.assert_allclose(jax.grad(first_change)(gradient), -1.0 / np.abs(gradient), rtol=1e-4)


@pytest.mark.parametrize("optimizer", [optimizers.Adam, optimizers.SGD])
def test_rates_and_limits_must_be_positive(optimizer: type) -> None:
    with pytest.raises(ValueError, match="learning_rate must be positive, got 0"):
        optimizer(learning_rate=0.0)
    with pytest.raises(ValueError, match="learning_rate must be finite, got inf"):
        optimizer(learning_rate=math.inf)
    with pytest.raises(ValueError, match="max_gradient_norm must be positive, got -1"):
        optimizer(learning_rate=1.0, max_gradient_norm=-1.0)
