"""The parts of hand-made rules against recorded numbers, closed forms and what must hold for every shape."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import action_models, heads, loss_terms
from components import value_estimators as ve
from components.distributional_heads import CategoricalReturns, QuantileActionValue
from components.meta_networks import static_targets
from framework import transforms
from framework.context import FeatureContext
from framework.errors import UserError
from framework.interfaces import DistributionHead, Head, LossTerm, Target, ValueEstimator, ValueHead
from framework.testing import examples
from framework.testing.examples import Sizes
from framework.testing.expectations import init
from framework.transforms import at_action
from framework.types import Array, Estimates, LossInputs, Outputs, RuleInputs

SIZES = st.sampled_from([Sizes(1, 1, 2), Sizes(2, 3, 3), Sizes(6, 2, 4)])  # each is a program of its own
STEPS = st.sampled_from([1, 3, 8])
SEEDS = st.integers(0, 2**16)
GAMMA = 0.9
Q, V = heads.ScalarActionValue(), heads.Value()
few = settings(max_examples=6)


@dataclasses.dataclass(frozen=True)
class Parts:
    """The arrays of one parts file; T, B and A are in its name."""

    arrays: dict[str, np.ndarray]
    sizes: Sizes

    def __getitem__(self, name: str) -> Array:
        return jnp.asarray(self.arrays[name])

    def number(self, name: str) -> float:
        return float(self.arrays[f"out/{name}"])


@pytest.fixture
def parts(golden_file: Path) -> Parts:
    with np.load(golden_file, allow_pickle=False) as file:
        return Parts(dict(file), Sizes(*map(int, golden_file.stem.split("_")[1:])))


def assert_parity(parts: Parts, name: str, found: Array, shape: tuple[int, ...] | None = None) -> None:
    """Within 5e-4 of the recorded array's largest magnitude, plus 1e-5; [T, B] unless another shape is given."""
    expected = parts.arrays[f"out/{name}"]
    assert found.shape == expected.shape == (shape or (parts.sizes.steps, parts.sizes.batch)), name
    limit = 5e-4 * np.abs(expected).max() + 1e-5
    error = np.abs(np.asarray(found) - expected).max()
    assert error <= limit, f"{name}: off by {error:.2e}, allowed {limit:.2e}"


def rule_inputs(parts: Parts, outputs: Outputs, target_outputs: Outputs) -> RuleInputs:
    shape = (parts.sizes.steps, parts.sizes.batch)
    return RuleInputs(
        outputs={"logits": parts["logits"], **outputs},
        target_outputs={"logits": parts["behaviour_logits"], **target_outputs},
        behaviour=parts["behaviour_logits"][:-1],
        action=parts["actions"][:-1],
        reward=parts["rewards"],
        discount=parts["discounts"],
        last=jnp.zeros(shape, bool),
        weight=jnp.ones(shape),
        hyperparameters={},
        progress=jnp.zeros(()),
    )


def scalar_inputs(parts: Parts) -> RuleInputs:
    """Scalar action values and state values; q' is the target network's."""
    online = {"q": parts["q"][..., None], "v": parts["values"][..., None]}
    return rule_inputs(parts, online, {"q": parts["target_q"][..., None], "v": parts["values"][..., None]})


def loss_of(term: LossTerm, head: Head, inputs: RuleInputs, **targets: Array) -> Array:
    outputs = {name: x[:-1] for name, x in inputs.outputs.items()}
    if head.action_conditional:
        outputs[head.name] = at_action(outputs[head.name], inputs.action)
    return term(LossInputs.of_steps(inputs, outputs=outputs, targets=targets), head)


# --- against recorded numbers


@pytest.mark.golden("parts")
def test_action_value_estimators(parts: Parts) -> None:
    inputs, head = scalar_inputs(parts), heads.ScalarActionValue()
    retrace, q_lambda = parts.number("retrace_lambda"), parts.number("q_lambda_lambda")
    estimators = {
        "retrace_td": ve.Retrace(discount=1.0, lambda_=retrace),
        "double_q_td": ve.QLearning(discount=1.0),
        "q_learning_td": ve.QLearning(discount=1.0, double=False),
        "q_lambda_td": ve.QLambda(discount=1.0, lambda_=q_lambda),
    }
    for name, estimator in estimators.items():
        assert_parity(parts, name, estimator(inputs, head).errors)


@pytest.mark.golden("parts")
def test_state_value_estimators(parts: Parts) -> None:
    inputs, head = scalar_inputs(parts), heads.Value()
    n_step = ve.NStep(discount=1.0, steps=int(parts.number("n")))
    assert_parity(parts, "n_step_returns", n_step(inputs, head).returns)
    v_trace = ve.VTrace(discount=1.0, lambda_=1.0)(inputs, head)
    assert_parity(parts, "impala_errors", v_trace.errors)
    assert_parity(parts, "impala_pg_advantage", v_trace.advantages)
    ratio = transforms.importance_ratio(parts["logits"][:-1], behaviour=inputs.behaviour, action=inputs.action)
    assert_parity(parts, "importance_ratio", ratio)


def distribution_loss(head: DistributionHead, estimator: ValueEstimator, inputs: RuleInputs) -> Array:
    """The loss of a rule's three parts: estimator, target, term."""
    estimates = estimator(inputs, head)
    target = static_targets.ReturnDistributions()(FeatureContext(inputs, estimates))
    return loss_of(loss_terms.ReturnDistribution(), head, inputs, q_distribution=target)


@dataclasses.dataclass(frozen=True)
class SelectedBy(CategoricalReturns):
    """A categorical head whose greedy actions another head's values decide."""

    def read(self, output: Array) -> Array:
        return output[..., -1]

    def distribution(self, output: Array) -> tuple[Array, Array]:
        return super().distribution(output[..., :-1])


@pytest.mark.golden("parts")
def test_categorical_double_q_learning(parts: Parts) -> None:
    atoms = parts.arrays["c51_atoms"]
    head = CategoricalReturns(minimum=float(atoms[0]), maximum=float(atoms[-1]), atoms=len(atoms))
    np.testing.assert_allclose(head.support, atoms, rtol=1e-5, atol=1e-5)
    # The recorded loss selects by q: the head for it carries q beside its logits.
    selected = SelectedBy(minimum=head.minimum, maximum=head.maximum, atoms=head.atoms)
    online, slow = (
        jnp.concatenate([parts[logits], parts["q"][..., None]], axis=-1)
        for logits in ("c51_logits", "c51_target_logits")
    )
    estimates = ve.QLearning(discount=1.0)(rule_inputs(parts, {"q": online}, {"q": slow}), selected)
    inputs = rule_inputs(parts, {"q": parts["c51_logits"]}, {"q": parts["c51_target_logits"]})
    found = loss_of(loss_terms.ReturnDistribution(), head, inputs, q_distribution=estimates.return_distributions)
    assert_parity(parts, "c51_double_loss", found)


@pytest.mark.golden("parts")
def test_projection_onto_atoms(parts: Parts) -> None:
    returns, probabilities = parts["out/c51_project_in"], parts["out/c51_project_probs"]
    found = transforms.project(returns, probabilities, parts["c51_atoms"])
    assert_parity(parts, "c51_project_out", found, shape=parts.arrays["c51_atoms"].shape)


@pytest.mark.golden("parts")
def test_quantile_double_q_learning(parts: Parts) -> None:
    quantiles, slow = (jnp.moveaxis(parts[name], 2, 3) for name in ("quantiles", "target_quantiles"))
    head = QuantileActionValue(quantiles=quantiles.shape[-1], threshold=parts.number("quantile_huber"))
    middles = (np.arange(head.quantiles) + 0.5) / head.quantiles
    np.testing.assert_allclose(parts.arrays["out/quantile_tau"], middles, rtol=1e-5)
    inputs = rule_inputs(parts, {"q": quantiles}, {"q": slow})
    found = distribution_loss(head, ve.QLearning(discount=1.0), inputs)
    assert_parity(parts, "quantile_double_loss", found)


@pytest.mark.golden("parts")
def test_policy_losses(parts: Parts) -> None:
    inputs = scalar_inputs(parts)
    terms: dict[str, LossTerm] = {
        "ppo_clip_loss": loss_terms.ClippedSurrogate(epsilon=parts.number("ppo_epsilon")),
        "policy_gradient_loss": loss_terms.WeightedLogProbability(),
        "entropy_loss": loss_terms.Entropy(),
    }
    for name, term in terms.items():
        found = loss_of(term, heads.Policy(), inputs, advantage=parts["advantages"]).mean(axis=0)
        assert_parity(parts, f"{name}_mean_over_time", found, shape=(parts.sizes.batch,))


@pytest.mark.golden("parts")
def test_cmpo_policy(parts: Parts) -> None:
    inputs, q = scalar_inputs(parts), parts["q"]
    estimates = examples.random_estimates(np.random.default_rng(0), parts.sizes).replace(action_advantages=q)
    for source in ("target", "behaviour"):
        target = static_targets.CMPOPolicy(source=source, normalized=False)
        found = jax.nn.softmax(target(FeatureContext(inputs, estimates)))
        expected = dataclasses.replace(parts, arrays={"out/cmpo_policy": parts.arrays["out/cmpo_policy"][:-1]})
        assert_parity(expected, "cmpo_policy", found, shape=q[:-1].shape)


# --- closed forms, for any shape


def random_inputs(sizes: Sizes, seed: int, *of: Head, target_network: bool = True) -> RuleInputs:
    found = examples.random_rule_inputs(np.random.default_rng(seed), [heads.Policy(), *of], sizes)
    return found if target_network else found.replace(target_outputs=None)


@functools.partial(jax.jit, static_argnums=(0, 2))
def estimate(estimator: ValueEstimator, inputs: RuleInputs, head: ValueHead) -> Estimates:
    return estimator(inputs, head)


def n_steps_later(inputs: RuleInputs, steps: int, later: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Returns step by step: n rewards and what is predicted of the state after them, or of one that was cut off.

    Where the step's own state was, what is predicted of its action too.
    """
    reward, discount, weight = map(np.asarray, (inputs.reward, inputs.discount, inputs.weight))
    returns = np.zeros(reward.shape)
    for t, b in np.ndindex(*reward.shape):
        product, k = 1.0, t
        while True:
            if weight[k, b] == 0:
                returns[t, b] += own[t, b] if k == t else product * later[k, b]
                break
            returns[t, b] += product * reward[k, b]
            product *= GAMMA * discount[k, b]
            k += 1
            if k in (t + steps, reward.shape[0]):
                returns[t, b] += product * later[k, b]
                break
    return returns


@few
@given(SIZES, SEEDS, STEPS)
def test_n_step_returns(sizes: Sizes, seed: int, steps: int) -> None:
    inputs = random_inputs(sizes, seed, V)
    found = estimate(ve.NStep(discount=GAMMA, steps=steps), inputs, V)
    values = np.asarray(V.read(inputs.target_outputs["v"]))
    np.testing.assert_allclose(found.returns, n_steps_later(inputs, steps, values, values), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.advantages, found.returns - values[:-1], rtol=1e-4, atol=1e-5)


@few
@given(SIZES, SEEDS, STEPS, st.booleans(), st.booleans())
def test_q_learning(sizes: Sizes, seed: int, steps: int, double: bool, target_network: bool) -> None:
    inputs = random_inputs(sizes, seed, Q, target_network=target_network)
    found = estimate(ve.QLearning(discount=GAMMA, steps=steps, double=double), inputs, Q)
    online = np.asarray(Q.read(inputs.outputs["q"]))
    slow = np.asarray(Q.read(inputs.target_outputs["q"])) if target_network else online
    greedy = (online if double else slow).argmax(-1)
    later = np.take_along_axis(slow, greedy[..., None], axis=-1)[..., 0]
    own, taken = (np.asarray(at_action(jnp.asarray(x[:-1]), inputs.action)) for x in (slow, online))
    returns = n_steps_later(inputs, steps, later, own)
    np.testing.assert_allclose(found.returns, returns, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.errors, returns - taken, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.action_advantages, slow - later[..., None], rtol=1e-4, atol=1e-5)
    assert found.return_distributions is None


@few
@given(
    SIZES, SEEDS, st.sampled_from([ve.QLambda(discount=GAMMA, lambda_=0.0), ve.QLambda(discount=GAMMA, watkins=True)])
)
def test_q_lambda_without_later_returns_is_q_learning(sizes: Sizes, seed: int, estimator: ve.QLambda) -> None:
    """With lambda 0, and Watkins's where no action but the first is greedy."""
    inputs = random_inputs(sizes, seed, Q)
    worst = Q.read(inputs.target_outputs["q"]).argmin(-1)[:-1]
    inputs = inputs.replace(action=worst)
    found = estimate(estimator, inputs, Q).returns
    one_step = estimate(ve.QLearning(discount=GAMMA, double=False), inputs, Q).returns
    np.testing.assert_allclose(found, one_step, rtol=1e-5, atol=1e-6)


@few
@given(SIZES, SEEDS)
def test_q_lambda_of_greedy_actions_is_the_whole_return(sizes: Sizes, seed: int) -> None:
    """Watkins's with lambda 1: nothing ends a return before the episode does."""
    inputs = random_inputs(sizes, seed, Q, target_network=False)
    inputs = inputs.replace(action=Q.read(inputs.outputs["q"]).argmax(-1)[:-1])
    found = estimate(ve.QLambda(discount=GAMMA, lambda_=1.0, watkins=True), inputs, Q).returns
    values = np.asarray(Q.read(inputs.outputs["q"])).max(-1)
    np.testing.assert_allclose(found, n_steps_later(inputs, 99, values, values), rtol=1e-4, atol=1e-5)


HEADS = [CategoricalReturns(minimum=-30.0, maximum=30.0, atoms=121), QuantileActionValue(quantiles=5)]


@few
@given(SIZES, SEEDS, STEPS, st.sampled_from(HEADS))
def test_the_mean_of_a_distribution_of_returns_is_the_return(
    sizes: Sizes, seed: int, steps: int, head: DistributionHead
) -> None:
    """Where no mass lies near the outermost atoms."""
    inputs = random_inputs(sizes, seed, head)
    if isinstance(head, CategoricalReturns):
        narrow = jnp.square(head.support / 4.0)
        outputs, slow = ({"q": x["q"] - narrow} for x in (inputs.outputs, inputs.target_outputs))
        inputs = inputs.replace(outputs=outputs, target_outputs=slow)
    found = estimate(ve.QLearning(discount=GAMMA, steps=steps), inputs, head)
    distribution = found.return_distributions
    if isinstance(head, CategoricalReturns):
        mean = (distribution * head.support).sum(-1)
        np.testing.assert_allclose(distribution.sum(-1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(mean, found.returns, rtol=1e-3, atol=1e-3)
    else:
        np.testing.assert_allclose(distribution.mean(-1), found.returns, rtol=1e-4, atol=1e-5)


@few
@given(st.lists(st.floats(-1.0, 1.0, width=32), min_size=3, max_size=3), SEEDS)
def test_projection_keeps_the_mean_and_stays_within_the_atoms(returns: list[float], seed: int) -> None:
    atoms, x = jnp.linspace(-1.0, 1.0, 9), jnp.asarray(returns)
    probabilities = jax.nn.softmax(examples.random_normal(np.random.default_rng(seed), 3))
    found = transforms.project(x, probabilities, atoms)
    np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose((found * atoms).sum(), (x * probabilities).sum(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(transforms.project(x + 9.0, probabilities, atoms)[-1], 1.0, rtol=1e-5)
    np.testing.assert_allclose(transforms.project(atoms, found, atoms), found, rtol=1e-4, atol=1e-6)


def test_quantiles_of_two_returns() -> None:
    """Four quantiles that learn of returns 0 and 1, half of the time each, are 0, 0, 1, 1 but for Huber's rounding."""
    head = QuantileActionValue(quantiles=4, threshold=1e-3)
    target = jnp.asarray([0.0, 1.0])
    step = jax.grad(head.distribution_loss)
    x = jax.lax.fori_loop(0, 3000, lambda _, x: x - 2.0 * step(x, target), jnp.asarray([-0.4, 0.3, 0.6, 1.5]))
    np.testing.assert_allclose(x, [0.0, 0.0, 1.0, 1.0], atol=1e-2)


def test_the_huber_loss_is_linear_beyond_the_threshold() -> None:
    head = heads.ScalarActionValue(threshold=2.0)
    slopes = [
        jax.grad(lambda x: head.loss(x, jnp.zeros(())).sum())(jnp.asarray([x]))[0] for x in (-5.0, -1.0, 1.5, 4.0)
    ]
    np.testing.assert_allclose(slopes, [-2.0, -1.0, 1.5, 2.0])


# --- action models


def test_dueling_outputs_have_the_value_as_their_mean() -> None:
    """Per atom; and a constant added to all advantages changes nothing (Wang et al., 2016, eq. 9)."""
    module, embedding = action_models.Dueling((6,)), examples.random_normal(np.random.default_rng(0), 2, 3, 5)
    params = init(module, embedding, static=(None, {"q": 7}, 4))
    outputs = module.apply({"params": params}, embedding, None, {"q": 7}, 4)["q"]
    shifted = jax.tree.map(lambda x: x, params)
    shifted["advantage_q"]["actions"]["output"]["bias"] += jnp.tile(jnp.arange(7.0), 4)
    np.testing.assert_allclose(module.apply({"params": shifted}, embedding, None, {"q": 7}, 4)["q"], outputs, atol=1e-5)
    shifted["value_q"]["output"]["bias"] += 1.0
    found = module.apply({"params": shifted}, embedding, None, {"q": 7}, 4)["q"].mean(-2)
    np.testing.assert_allclose(found, outputs.mean(-2) + 1.0, atol=1e-5)


# --- targets and terms of policies


def target_of(target: Target, inputs: RuleInputs, estimates: Estimates) -> np.ndarray:
    return np.asarray(target(FeatureContext(inputs, estimates)))


@few
@given(SIZES, SEEDS)
def test_v_mpo_weighs_the_better_half(sizes: Sizes, seed: int) -> None:
    inputs, estimates = random_inputs(sizes, seed), examples.random_estimates(np.random.default_rng(seed), sizes)
    found = target_of(static_targets.TopHalfWeights(temperature=0.5), inputs, estimates)
    counts, advantages = np.asarray(inputs.weight) > 0, np.asarray(estimates.advantages)
    ranked = np.sort(advantages[counts])[::-1]
    kept = ranked[: (len(ranked) + 1) // 2]
    expected = np.where(counts & np.isin(advantages, kept), np.exp(advantages / 0.5), 0.0)
    expected = expected * counts.sum() / max(np.exp(kept / 0.5).sum(), 1e-9)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_v_mpo_without_a_step_that_counts_has_no_weights() -> None:
    sizes = Sizes(2, 2, 2)
    inputs, estimates = random_inputs(sizes, 0), examples.random_estimates(np.random.default_rng(0), sizes)
    found = target_of(static_targets.TopHalfWeights(), inputs.replace(weight=jnp.zeros((2, 2))), estimates)
    np.testing.assert_array_equal(found, 0.0)


@few
@given(SIZES, SEEDS, st.sampled_from([0.5, 1.0]))
def test_cmpo_moves_probabilities_by_no_more_than_the_limit(sizes: Sizes, seed: int, limit: float) -> None:
    inputs, estimates = random_inputs(sizes, seed), examples.random_estimates(np.random.default_rng(seed), sizes)
    estimates = estimates.replace(normalized_action_advantages=100.0 * estimates.action_advantages)
    found = target_of(static_targets.CMPOPolicy(limit=limit), inputs, estimates)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1.0, rtol=1e-5)
    moved = found - np.asarray(jax.nn.log_softmax(inputs.target_outputs["logits"][:-1]))
    assert np.all(moved.max(-1) - moved.min(-1) <= 2 * limit + 1e-4)
    nothing = estimates.replace(normalized_action_advantages=jnp.zeros_like(estimates.action_advantages))
    prior = jax.nn.log_softmax(inputs.behaviour)
    np.testing.assert_allclose(
        target_of(static_targets.CMPOPolicy(source="behaviour"), inputs, nothing), prior, rtol=1e-4, atol=1e-5
    )
    # A normalizer's mean is the same for all actions: it must not push them to the limit together.
    q = 0.1 * np.random.default_rng(seed).normal(size=(sizes.steps + 1, sizes.batch, sizes.actions))
    centred = q - (np.exp(jax.nn.log_softmax(inputs.target_outputs["logits"])) * q).sum(-1, keepdims=True)
    shifted = estimates.replace(normalized_action_advantages=jnp.asarray(centred - 50.0, jnp.float32))
    np.testing.assert_allclose(
        target_of(static_targets.CMPOPolicy(), inputs, shifted),
        jax.nn.log_softmax(jax.nn.log_softmax(inputs.target_outputs["logits"][:-1]) + np.clip(centred[:-1], -1.0, 1.0)),
        atol=1e-4,
    )
    later = target_of(static_targets.CMPOPolicy(limit=limit, next_step=True), inputs, estimates)
    np.testing.assert_allclose(later[:-1], found[1:], rtol=1e-6)
    assert later.shape == found.shape


@few
@given(SIZES, SEEDS)
def test_importance_weights_are_limited(sizes: Sizes, seed: int) -> None:
    inputs, estimates = random_inputs(sizes, seed), examples.random_estimates(np.random.default_rng(seed), sizes)
    found = target_of(static_targets.ImportanceWeightedAdvantages(limit=1.5), inputs, estimates)
    online, behaviour = (
        transforms.log_probability(x, inputs.action) for x in (inputs.outputs["logits"][:-1], inputs.behaviour)
    )
    expected = np.minimum(1.5, np.exp(np.asarray(online - behaviour))) * np.asarray(estimates.advantages)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("source", ["behaviour", "target"])
def test_the_old_policy(source: str) -> None:
    inputs = random_inputs(Sizes(3, 2, 4), 0)
    found = target_of(static_targets.OldPolicy(source=source), inputs, None)
    expected = {"behaviour": inputs.behaviour, "target": inputs.target_outputs["logits"][:-1]}[source]
    np.testing.assert_array_equal(found, expected)


def test_the_surrogate_is_the_clipped_one_where_nothing_is_clipped() -> None:
    inputs = random_inputs(Sizes(4, 3, 3), 0)
    advantage = examples.random_normal(np.random.default_rng(1), 4, 3)
    one = loss_of(loss_terms.Surrogate(), heads.Policy(), inputs, advantage=advantage)
    other = loss_of(loss_terms.ClippedSurrogate(epsilon=1e6), heads.Policy(), inputs, advantage=advantage)
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert loss_terms.Surrogate().formula(heads.Policy()) == "-rho advantage"


# --- what cannot work


def test_distributions_need_a_head_that_predicts_them() -> None:
    inputs = random_inputs(Sizes(2, 2, 2), 0, Q)
    with pytest.raises(
        UserError, match="the head 'q' \\(ScalarActionValue\\) does not predict how returns are distributed"
    ):
        loss_of(loss_terms.ReturnDistribution(), Q, inputs, q_distribution=jnp.zeros((2, 2, 1)))
    estimates = ve.QLearning()(inputs, Q)
    with pytest.raises(UserError, match="reads the return distributions"):
        static_targets.ReturnDistributions()(FeatureContext(inputs, estimates))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ve.QLearning(steps=0), "steps must be at least 1, got 0"),
        (lambda: ve.NStep(steps=0), "steps must be at least 1, got 0"),
        (lambda: ve.QLearning(discount=1.5), r"discount must lie in \[0, 1\], got 1.5"),
        (lambda: ve.QLambda(lambda_=-1.0), r"lambda_ must lie in \[0, 1\], got -1"),
        (lambda: CategoricalReturns(minimum=1.0, maximum=1.0), "minimum must be below maximum, got 1.0 and 1.0"),
        (lambda: CategoricalReturns(atoms=1), "atoms must be at least 2, got 1"),
        (lambda: QuantileActionValue(quantiles=0), "quantiles must be at least 1, got 0"),
        (lambda: QuantileActionValue(threshold=0.0), "threshold must be positive, got 0"),
        (lambda: heads.ScalarActionValue(threshold=-1.0), "threshold must be positive, got -1"),
        (lambda: heads.CategoricalValue(limit=0), "limit must be at least 1, got 0"),
        (lambda: static_targets.CMPOPolicy(limit=0.0), "limit must be positive, got 0"),
        (lambda: static_targets.CMPOPolicy(source="behaviour", next_step=True), "source must be 'target' where next_s"),
        (lambda: static_targets.TopHalfWeights(temperature=0.0), "temperature must be positive, got 0"),
        (lambda: static_targets.ImportanceWeightedAdvantages(limit=0.0), "limit must be positive, got 0"),
        (lambda: action_models.PerAction((0,)), "sizes must be positive"),
        (lambda: action_models.Dueling((0,)), "sizes must be positive"),
    ],
)
def test_ranges(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
