"""The parts of hand-made rules against recorded numbers, closed forms and what must hold for every shape."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from components import heads, loss_terms
from components import value_estimators as ve
from components.distributional_heads import CategoricalReturns, QuantileActionValue
from components.meta_networks import static_targets
from framework import transforms
from framework.context import FeatureContext
from framework.interfaces import DistributionHead, Head, LossTerm, ValueEstimator
from framework.testing import examples
from framework.testing.examples import Sizes
from framework.transforms import at_action
from framework.types import Array, LossInputs, Outputs, RuleInputs

SIZES = st.builds(Sizes, steps=st.integers(1, 5), batch=st.integers(1, 3), actions=st.integers(2, 4))
SEEDS = st.integers(0, 2**16)
GAMMA = 0.9
few = settings(max_examples=8)


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
    assert_parity(parts, "importance_ratio", ve.importance_ratio(inputs, parts["logits"]))


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
