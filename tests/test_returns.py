"""Returns, advantages and their normalization against closed forms."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import heads, normalizers
from components import value_estimators as ve
from framework import transforms
from framework.interfaces import ValueEstimator, ValueHead
from framework.numbers import Hyperparameter
from framework.testing import examples
from framework.testing.examples import Sizes
from framework.types import Array, Estimates, RuleInputs

SIZES = st.sampled_from([Sizes(1, 1, 2), Sizes(2, 3, 3), Sizes(6, 2, 4)])  # each is a program of its own
SEEDS = st.integers(0, 2**16)
GAMMA = 0.9
V, Q = heads.Value(), heads.CategoricalActionValue(limit=5)
ESTIMATORS = ((ve.GAE(), V), (ve.VTrace(), V), (ve.TDLambda(), V), (ve.Retrace(), Q))
few = settings(max_examples=12)


@functools.partial(jax.jit, static_argnums=(0, 2))
def estimate(estimator: ValueEstimator, found: RuleInputs, head: ValueHead) -> Estimates:
    return estimator(found, head)


def inputs(sizes: Sizes, seed: int, *, on_policy: bool = False) -> RuleInputs:
    """Random inputs of a rule without a target network."""
    found = examples.random_rule_inputs(np.random.default_rng(seed), [heads.Policy(), V, Q], sizes)
    behaviour = found.outputs["logits"][:-1] if on_policy else found.behaviour
    return found.replace(target_outputs=None, behaviour=behaviour)


def never_cut(found: RuleInputs) -> RuleInputs:
    """The same with every episode's end a termination."""
    return found.replace(discount=1.0 - found.last, weight=jnp.ones(found.last.shape))


def discounted_returns(found: RuleInputs, state_values: Array) -> np.ndarray:
    """Rewards until the episode's end or the trajectory's, where the value takes over; a cut row has its own value."""
    values, reward, discount, weight = map(np.asarray, (state_values, found.reward, found.discount, found.weight))
    later, returns = values[-1], []
    for t in reversed(range(reward.shape[0])):
        later = np.where(weight[t] == 0, values[t], reward[t] + GAMMA * discount[t] * later)
        returns.append(later)
    return np.stack(returns[::-1])


@few
@given(SIZES, SEEDS)
def test_gae_with_lambda_1_is_the_discounted_return_minus_the_value(sizes: Sizes, seed: int) -> None:
    found = inputs(sizes, seed)
    estimates = estimate(ve.GAE(discount=GAMMA, lambda_=1.0), found, V)
    returns = discounted_returns(found, estimates.values)
    np.testing.assert_allclose(estimates.returns, returns, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(estimates.advantages, returns - estimates.values[:-1], rtol=1e-5, atol=1e-5)


@few
@given(SIZES, SEEDS)
def test_gae_with_lambda_0_is_the_one_step_error(sizes: Sizes, seed: int) -> None:
    found = inputs(sizes, seed)
    estimates = estimate(ve.GAE(discount=GAMMA, lambda_=0.0), found, V)
    one_step = estimate(ve.TDLambda(discount=GAMMA, lambda_=0.5), found, V)
    np.testing.assert_allclose(estimates.advantages, one_step.advantages, rtol=1e-5, atol=1e-5)


@few
@given(SIZES, SEEDS, st.sampled_from([0.0, 0.7, 1.0]))
def test_v_trace_on_policy_is_td_lambda(sizes: Sizes, seed: int, lambda_: float) -> None:
    found = inputs(sizes, seed, on_policy=True)
    v_trace = estimate(ve.VTrace(discount=GAMMA, lambda_=lambda_), found, V)
    td_lambda = estimate(ve.TDLambda(discount=GAMMA, lambda_=lambda_), found, V)
    np.testing.assert_allclose(v_trace.returns, td_lambda.returns, rtol=1e-5, atol=1e-5)


@few
@given(SIZES, SEEDS)
def test_retrace_on_policy_with_lambda_1_sums_corrected_errors(sizes: Sizes, seed: int) -> None:
    """G_t - q_t = sum over later steps of gamma^k (r + gamma v' - q), until the episode ends."""
    found = inputs(sizes, seed, on_policy=True)
    estimates = estimate(ve.Retrace(discount=GAMMA, lambda_=1.0), found, Q)
    taken = np.asarray(transforms.at_action(Q.read(found.outputs["q"])[:-1], found.action))
    discount = GAMMA * np.asarray(found.discount)
    errors = np.asarray(found.reward) + discount * np.asarray(estimates.values[1:]) - taken
    errors, discount = (np.where(np.asarray(found.weight) == 0, 0.0, x) for x in (errors, discount))
    later = np.zeros(sizes.batch)
    for t in reversed(range(sizes.steps)):
        later = errors[t] + discount[t] * later
        np.testing.assert_allclose(estimates.returns[t], taken[t] + later, rtol=1e-4, atol=1e-4)


@few
@given(SEEDS, st.integers(0, 4))
def test_what_happens_after_the_last_step_changes_nothing_before(seed: int, end: int) -> None:
    sizes = Sizes(steps=5, batch=2, actions=3)
    one, other = (inputs(sizes, seed + k) for k in range(2))
    last = jnp.zeros(one.last.shape, bool).at[end].set(True)
    for discount in (1.0 - last, jnp.ones(last.shape)):  # a termination, a cut
        weight = jnp.where(last & (discount > 0), 0.0, 1.0)
        one = one.replace(last=last, discount=discount, weight=weight)
        mixed = jax.tree.map(
            lambda a, b: jnp.concatenate([a[: end + 1], b[end + 1 :]]),
            (one.outputs, one.reward, one.action, one.behaviour),
            (other.outputs, other.reward, other.action, other.behaviour),
        )
        changed = one.replace(**dict(zip(("outputs", "reward", "action", "behaviour"), mixed, strict=True)))
        for estimator, head in ESTIMATORS:
            a, b = estimate(estimator, one, head), estimate(estimator, changed, head)
            np.testing.assert_array_equal(a.returns[: end + 1], b.returns[: end + 1])
            np.testing.assert_array_equal(a.advantages[: end + 1], b.advantages[: end + 1])


def test_a_time_limit_bootstraps_only_what_came_before_it() -> None:
    sizes = Sizes(steps=3, batch=1, actions=2)
    found = inputs(sizes, 0)
    last = jnp.asarray([[False], [True], [False]])
    found = found.replace(last=last, discount=jnp.ones((3, 1)), weight=jnp.asarray([[1.0], [0.0], [1.0]]))
    estimates = estimate(ve.GAE(discount=GAMMA, lambda_=0.95), found, V)
    values, reward = estimates.values[:, 0], found.reward[:, 0]
    np.testing.assert_allclose(estimates.returns[1, 0], values[1])
    np.testing.assert_allclose(estimates.returns[0, 0], reward[0] + GAMMA * values[1], rtol=1e-6)


def test_the_target_network_gives_values_to_bootstrap_from() -> None:
    sizes = Sizes(steps=4, batch=2, actions=3)
    found = never_cut(inputs(sizes, 0))
    slow = inputs(sizes, 1).outputs
    estimates = estimate(ve.Retrace(discount=GAMMA, lambda_=0.0), found.replace(target_outputs=slow), Q)
    policy, q = jax.nn.softmax(found.outputs["logits"]), Q.read(slow["q"])
    expected = found.reward + GAMMA * found.discount * (policy * q).sum(-1)[1:]
    np.testing.assert_allclose(estimates.returns, expected, rtol=1e-5, atol=1e-5)


def test_discounts_may_be_hyperparameters() -> None:
    found = inputs(Sizes(4, 2, 3), 0)
    number = Hyperparameter("gamma", value=0.5)
    carried = found.replace(hyperparameters={"gamma": jnp.asarray(GAMMA)})
    for estimator, head in ESTIMATORS:
        constant = dataclasses.replace(estimator, discount=GAMMA)(found, head)
        resolved = dataclasses.replace(estimator, discount=number)(carried, head)
        np.testing.assert_allclose(resolved.returns, constant.returns, rtol=1e-6)


@pytest.mark.parametrize("estimator", [ve.GAE, ve.VTrace, ve.TDLambda, ve.Retrace])
def test_discounts_lie_between_0_and_1(estimator: type) -> None:
    with pytest.raises(ValueError, match=r"discount must lie in \[0, 1\], got 1.5"):
        estimator(discount=1.5)
    with pytest.raises(ValueError, match=r"lambda_ must lie in \[0, 1\], got -1"):
        estimator(lambda_=-1.0)


# --- normalizers


def estimates_of(advantages: Array) -> Estimates:
    return Estimates(values=advantages, returns=advantages, advantages=advantages, errors=2.0 * advantages)


def test_moving_average_is_the_bias_corrected_one() -> None:
    rng, decay = np.random.default_rng(0), 0.9
    normalizer = normalizers.MovingAverage(decay)
    carry, first, second = normalizer.initial_carry(), 0.0, 0.0
    for update in range(1, 4):
        x = rng.normal(size=(4, 3)).astype(np.float32)
        weight = rng.integers(2, size=x.shape).astype(np.float32)
        found, carry = normalizer(estimates_of(jnp.asarray(x)), jnp.asarray(weight), carry)
        seen = x[weight > 0]
        first = decay * first + (1 - decay) * seen.mean()
        second = decay * second + (1 - decay) * (seen**2).mean()
        mean, square = first / (1 - decay**update), second / (1 - decay**update)
        deviation = np.sqrt(square - mean**2)
        np.testing.assert_allclose(found.normalized_advantages, (x - mean) / deviation, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.normalized_errors, 2 * x / (2 * deviation), rtol=1e-4, atol=1e-4)


def test_batch_normalizes_to_mean_0_and_deviation_1() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(3.0, 5.0, size=(6, 4)), jnp.float32)
    found, carry = normalizers.Batch()(estimates_of(x), jnp.ones(x.shape), ())
    assert carry == ()
    np.testing.assert_allclose(found.normalized_advantages.mean(), 0.0, atol=1e-5)
    np.testing.assert_allclose(found.normalized_advantages.std(), 1.0, rtol=1e-4)


def test_a_batch_far_from_0_keeps_its_deviation() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(5000.0, 1.0, size=(16, 16)), jnp.float32)
    found, _ = normalizers.Batch()(estimates_of(x), jnp.ones(x.shape), ())
    np.testing.assert_allclose(found.normalized_advantages.std(), 1.0, rtol=1e-3)


# --- transforms


@settings(max_examples=20)
@given(st.lists(st.floats(-5.0, 5.0, width=32), min_size=4, max_size=4))
def test_two_hot_round_trip(values: list[float]) -> None:
    x = jnp.asarray(values)
    weights = transforms.two_hot(x, limit=5)
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(transforms.expected_bin(jnp.log(weights), limit=5), x, rtol=1e-5, atol=1e-5)


@settings(max_examples=20)
@given(st.lists(st.floats(-3e4, 3e4, width=32), min_size=4, max_size=4))
def test_signed_parabolic_undoes_signed_hyperbolic(values: list[float]) -> None:
    x = jnp.asarray(values)
    there_and_back = transforms.signed_parabolic(transforms.signed_hyperbolic(x))
    np.testing.assert_allclose(there_and_back, x, rtol=5e-3, atol=5e-3)  # float32: the root cancels near 0


def test_a_categorical_value_reads_the_returns_it_was_told() -> None:
    head, returns = heads.CategoricalActionValue(limit=20), jnp.asarray([-200.0, -1.5, 0.0, 0.25, 300.0])
    logits = jnp.log(transforms.two_hot(transforms.signed_hyperbolic(returns), head.limit) + 1e-30)
    np.testing.assert_allclose(head.read(logits), returns, rtol=1e-2, atol=1e-2)
    gradient = jax.grad(lambda x: head.loss(x, returns).sum())(logits)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)
