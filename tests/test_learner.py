"""The one update of an agent: what it moves, once and by how much, and what it must take no notice of."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import action_models, heads, loss_terms, optimizers, torsos
from components.meta_networks import action_features, cores, features, learned_targets
from framework.agent import Agent
from framework.config import load
from framework.experiment import Experiment
from framework.interfaces import Optimizer
from framework.learner import Learner
from framework.meta_network import MetaNetwork
from framework.numbers import Hyperparameter
from framework.testing import examples
from framework.testing.examples import Sizes, permuted_batch
from framework.testing.expectations import check_function, expect_close
from framework.types import Array, LearnerState, Params, Trajectory
from framework.update_rule import UpdateRule

SIZES = Sizes(steps=4, batch=4, actions=3)
SMALL_DISCO = str(Path(__file__).with_name("small_disco.gin"))
RATE = 0.1
PLAIN = optimizers.SGD(RATE)
KEY = jax.random.key(7)
COMPILE_FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@functools.cache
def rule(name: str) -> UpdateRule:
    return load(name, gin_files=[SMALL_DISCO] if "disco" in name else (), root=Experiment).experiment.rule


@functools.cache
def learner(name: str, optimizer: Optimizer = PLAIN, **options: int) -> Learner:
    agent = Agent(torsos.MLP((8,)), optimizer, action_models.ActionLSTM(6, (5,)))
    return Learner(rule(name), agent.network(rule(name), SIZES.spec), optimizer, **options)


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
def update(of: Learner, meta_params: Params, state: LearnerState, batch: Trajectory, key: Array) -> tuple:
    return of.update(meta_params, state, batch, key)


def trajectory(seed: int = 0) -> Trajectory:
    return examples.random_trajectory(np.random.default_rng(seed), SIZES)


@functools.cache
def newborn(of: Learner) -> tuple[Params, LearnerState]:
    """Meta-parameters, and an agent with a target network of its own."""
    init = jax.jit(of.network.init, compiler_options=COMPILE_FAST)
    state = of.init(init(jax.random.key(1)), {})
    if of.rule.uses_target_network:
        state = state.replace(target_params=init(jax.random.key(2)))

    @functools.partial(jax.jit, compiler_options=COMPILE_FAST)
    def meta_params(state: LearnerState, batch: Trajectory) -> Params:
        return of.rule.init(KEY, of.rule_inputs(state, batch))

    return meta_params(state, trajectory()), state


def updated(of: Learner, batch: Trajectory) -> tuple[LearnerState, dict[str, Array]]:
    meta_params, state = newborn(of)
    return update(of, meta_params, state, batch, KEY)


def targets_of(of: Learner, batch: Trajectory) -> dict[str, Array]:
    meta_params, state = newborn(of)
    return _targets(of, meta_params, state, batch)


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
def _targets(of: Learner, meta_params: Params, state: LearnerState, batch: Trajectory) -> dict[str, Array]:
    return of.rule.targets(meta_params, of.rule_inputs(state, batch), state.rule_carry)[0]


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
def gradient_of_loss(of: Learner, params: Params, batch: Trajectory, targets: dict[str, Array]) -> Params:
    return jax.grad(lambda p: of.loss(p, targets, (batch, {}))[0])(params)


@pytest.mark.parametrize("name", ["ppo_catch", "disco103_catch"])
def test_an_update_is_the_plain_gradient_step(name: str) -> None:
    of = learner(name)
    _, state = newborn(of)
    gradient = gradient_of_loss(of, state.params, trajectory(), targets_of(of, trajectory()))
    expected = jax.tree.map(lambda p, g: p - RATE * g, state.params, gradient)
    after, _ = updated(of, trajectory())
    expect_close(after.params, expected, "it is another step", 1e-5)
    assert int(after.updates) == 1


def test_an_update_is_pure() -> None:
    of = learner("ppo_catch")
    meta_params, state = newborn(of)
    check_function(of.update, meta_params, state, trajectory(), KEY)


def test_epochs_and_minibatches_use_every_trajectory_once_per_epoch() -> None:
    """For a small learning rate, the sum of all steps is that of as many gradients of the whole batch."""
    rate = 1e-4
    of = learner("a2c_catch", optimizers.SGD(rate), epochs=3, minibatches=2)
    _, state = newborn(of)
    batch = trajectory()
    batch = batch.replace(discount=1.0 - batch.last)  # equal weights in every minibatch
    gradient = gradient_of_loss(of, state.params, batch, targets_of(of, batch))
    after, _ = updated(of, batch)
    moved = jax.tree.map(lambda new, old: (new - old) / (-rate * 6), after.params, state.params)
    expect_close(moved, gradient, "some trajectories are used more often than others", 5e-3)


def test_targets_are_computed_once_for_all_epochs() -> None:
    once, twice = (learner("ppo_static_target_catch", epochs=n) for n in (1, 2))
    targets = targets_of(twice, trajectory())
    params, _ = updated(once, trajectory())
    gradient = gradient_of_loss(twice, params.params, trajectory(), targets)
    expected = jax.tree.map(lambda p, g: p - RATE * g, params.params, gradient)
    expect_close(updated(twice, trajectory())[0].params, expected, "the second epoch has other targets", 1e-5)


def test_target_params_move_once_towards_the_params_from_before() -> None:
    of = learner("disco103_catch", epochs=2, minibatches=2)
    _, state = newborn(of)
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state.target_params, state.params)
    expect_close(updated(of, trajectory())[0].target_params, expected, "target parameters", 1e-6)


def test_a_newborns_target_params_are_its_params() -> None:
    of = learner("disco103_catch")
    params = newborn(of)[1].params
    assert of.init(params, {}).target_params is params
    assert learner("ppo_catch").init(params, {}).target_params is None


@pytest.mark.parametrize("name", ["ppo_catch", "a2c_catch", "ppo_static_target_catch"])
def test_a_static_rule_is_unchanged_by_any_meta_parameters(name: str) -> None:
    of = learner(name)
    _, state = newborn(of)
    none, some = (update(of, meta, state, trajectory(), KEY)[0] for meta in ({}, {"x": jnp.ones(3)}))
    expect_close(some.params, none.params, "they matter", 0.0)


@settings(max_examples=5)
@given(st.integers(0, 1000))
def test_a_step_of_weight_0_contributes_nothing(seed: int) -> None:
    """Neither its action nor its reward reach the loss, the gradient or the moving averages."""
    of = learner("ppo_catch")
    batch, other = trajectory(seed), trajectory(seed + 1)
    cut = batch.weight == 0
    changed = batch.replace(
        action=jnp.where(cut, other.action, batch.action),
        reward=jnp.where(cut, 100.0 * other.reward, batch.reward),
        behaviour=jnp.where(cut[..., None], other.behaviour, batch.behaviour),
    )
    expect_close(updated(of, changed), updated(of, batch), "it contributes", 1e-6)


def test_disco_neither_averages_nor_learns_from_a_step_of_weight_0() -> None:
    of, batch = learner("disco103_catch"), trajectory()
    cut = batch.weight == 0
    assert cut.any()
    changed = batch.replace(reward=jnp.where(cut, 100.0, batch.reward))
    one, other = (updated(of, b)[0].rule_carry.normalizer for b in (batch, changed))
    expect_close(other, one, "the moving averages see it", 1e-6)
    targets = targets_of(of, batch)
    moved = {name: jnp.where(cut.reshape(*cut.shape, *[1] * (x.ndim - 2)), 9.0, x) for name, x in targets.items()}
    params = newborn(of)[1].params
    gradients = [gradient_of_loss(of, params, batch, t) for t in (targets, moved)]
    expect_close(*gradients, "the gradient sees it", 1e-6)


def test_a_batch_of_weight_0_moves_nothing() -> None:
    of, blank = learner("ppo_catch"), trajectory()
    batch = blank.replace(last=jnp.ones_like(blank.last), discount=jnp.ones_like(blank.discount))
    after, metrics = updated(of, batch)
    expect_close(after.params, newborn(of)[1].params, "the parameters move", 0.0)
    assert all(np.isfinite(x) for x in metrics.values())


def test_the_order_of_trajectories_does_not_matter() -> None:
    of, order = learner("disco103_catch"), np.asarray([2, 0, 3, 1])
    one, other = updated(of, trajectory())[0], updated(of, permuted_batch(trajectory(), order))[0]
    expect_close(other, one, "it matters", 1e-5)


def test_the_learning_rate_may_be_a_hyperparameter() -> None:
    constant = learner("a2c_catch")
    carried = learner("a2c_catch", optimizers.SGD(Hyperparameter("rate", 1.0)))
    _, state = newborn(constant)
    after, _ = update(carried, {}, state.replace(hyperparameters={"rate": jnp.asarray(RATE)}), trajectory(), KEY)
    expect_close(after.params, updated(constant, trajectory())[0].params, "it is another rate", 1e-6)


def test_every_parameter_of_the_agent_is_moved_by_the_loss() -> None:
    of = learner("disco103_catch")
    params = newborn(of)[1].params
    gradient = gradient_of_loss(of, params, trajectory(), targets_of(of, trajectory()))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.any(leaf), f"{jax.tree_util.keystr(path)} receives no gradient"


@pytest.fixture
def float64() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def smooth_rule() -> UpdateRule:
    """Predictions and a meta-RNN, and nothing under stop-gradient: its gradient is the true derivative."""
    y, z = features.Prediction(), action_features.Prediction()
    slow_y, slow_z = features.Prediction(source="target"), action_features.Prediction(source="target")
    seen = (y, slow_y, features.MeanOverActions(z), features.MeanOverActions(slow_z), features.OfTakenAction(z))
    network = MetaNetwork(
        targets=(
            learned_targets.LearnedPrediction("y_hat", "y"),
            learned_targets.LearnedPrediction("z_hat", "z"),
            learned_targets.LearnedPolicy((action_features.ActionEmbedding((z, slow_z)),)),
        ),
        features=seen,
        core=cores.ReverseLSTM(4),
        lifetime_features=(*seen, features.EmbeddedTarget()),
        lifetime_core=cores.MetaRNN(4, 3),
    )
    terms = (loss_terms.PolicyKL(), loss_terms.PredictionKL(), loss_terms.PredictionKL("z", "z_hat"))
    of_agent = (heads.Policy(), heads.Prediction(categories=4), heads.ActionPrediction(categories=4))
    return UpdateRule(of_agent, network, terms, target_decay=0.9)


def test_meta_gradient_equals_finite_differences(float64: None) -> None:
    """In float64, through three updates, in a random direction of all meta-parameters."""
    sgd = optimizers.SGD(0.5)  # Adam leaves out a part of its derivative
    agent = Agent(torsos.MLP((6,)), sgd, action_models.ActionLSTM(4, (4,)))
    of = Learner(smooth_rule(), agent.network(smooth_rule(), SIZES.spec), sgd)
    rng = np.random.default_rng(0)
    random = functools.partial(jax.tree.map, lambda x: rng.normal(size=x.shape))
    params = random(of.network.init(KEY))
    state, batch = of.init(params, {}), trajectory()
    meta_params = random(jax.eval_shape(of.rule.init, KEY, of.rule_inputs(state, batch)))
    direction, projection = random(meta_params), random(params)

    def after_updates(step: Array) -> Array:
        moved = jax.tree.map(lambda x, d: x + step * d, meta_params, direction)

        def body(state: LearnerState, _: None) -> tuple[LearnerState, None]:
            return of.update(moved, state, batch, KEY)[0], None

        final = jax.lax.scan(body, state, length=3)[0].params
        return sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (final, projection)), strict=True))

    value_and_slope = jax.jit(jax.value_and_grad(after_updates), compiler_options=COMPILE_FAST)
    epsilon = 1e-6
    above, at, below = (value_and_slope(jnp.asarray(step)) for step in (epsilon, 0.0, -epsilon))
    assert at[1].dtype == np.float64
    assert float(at[1]) == pytest.approx(float(above[0] - below[0]) / (2 * epsilon), rel=1e-5)
