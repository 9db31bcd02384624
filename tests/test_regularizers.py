"""Regularizers against closed forms."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from components import regularizers
from framework.errors import UserError
from framework.testing.discovery import check_regularizer
from framework.testing.expectations import check_finite_difference
from framework.types import Array, RegularizerInputs

STEPS, BATCH, ACTIONS, CATEGORIES = 4, 3, 5, 7


def inputs(seed: int = 0) -> RegularizerInputs:
    """An update of a rule with pi_hat, y_hat and a scalar, or what there is of it on validation."""
    rng = np.random.default_rng(seed)

    def normal(*size: int) -> Array:
        return jnp.asarray(rng.normal(size=(STEPS, BATCH, *size)), jnp.float32)

    return RegularizerInputs(
        outputs={"logits": normal(ACTIONS), "y": normal(CATEGORIES), "z": normal(CATEGORIES)},
        target_outputs={"logits": normal(ACTIONS)},
        targets={"pi_hat": normal(ACTIONS), "y_hat": normal(CATEGORIES), "weight_hat": normal()},
        action=jnp.asarray(rng.integers(ACTIONS, size=(STEPS, BATCH)), jnp.int32),
        weight=jnp.asarray(rng.integers(2, size=(STEPS, BATCH)), jnp.float32).at[0, 0].set(1.0),
    )


def softmax(x: Array) -> np.ndarray:
    weights = np.exp(np.asarray(x, np.float64))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("head", ["logits", "y", "z"])
def test_entropy(head: str) -> None:
    found = inputs()
    p = softmax(found.outputs[head])
    regularizer = regularizers.Entropy(head)
    np.testing.assert_allclose(regularizer(found), (p * np.log(p)).sum(-1), rtol=1e-5)
    assert regularizer.on == "validation"
    assert regularizer.formula() == f"-H({head})"
    # Between 0 and -log n, where the head is uniform: it is lowered by spreading.
    uniform = found.replace(outputs={head: jnp.ones_like(found.outputs[head])})
    np.testing.assert_allclose(regularizer(uniform), -np.log(p.shape[-1]), rtol=1e-5)


def test_entropy_is_lowered_by_spreading() -> None:
    found = inputs()

    def of_logits(logits: Array) -> Array:
        return regularizers.Entropy("logits")(found.replace(outputs={"logits": logits}))

    logits = found.outputs["logits"]
    gradient = jax.grad(lambda x: of_logits(x).sum())(logits)
    check_finite_difference(lambda x: of_logits(x).sum(), logits, gradient)
    assert (of_logits(logits - 0.1 * gradient) < of_logits(logits)).all()
    most_likely = np.asarray(gradient)[np.asarray(logits) == np.asarray(logits).max(-1, keepdims=True)]
    assert (most_likely > 0).all()


def test_magnitude_of_a_vector_is_the_mean_square_of_its_entries() -> None:
    found = inputs()
    expected = np.square(np.asarray(found.targets["y_hat"])).mean(-1)
    np.testing.assert_allclose(regularizers.TargetMagnitude("y_hat")(found), expected, rtol=1e-5)
    gradient = jax.grad(_total(regularizers.TargetMagnitude("y_hat"), found))(found.targets)
    np.testing.assert_allclose(gradient["y_hat"], 2.0 / CATEGORIES * found.targets["y_hat"], rtol=1e-5)


def test_magnitude_of_a_scalar_is_its_square() -> None:
    found = inputs()
    regularizer = regularizers.TargetMagnitude("weight_hat", cost=5e-3)
    np.testing.assert_allclose(regularizer(found), np.square(found.targets["weight_hat"]), rtol=1e-6)
    gradient = jax.grad(_total(regularizer, found))(found.targets)
    np.testing.assert_allclose(gradient["weight_hat"], 2.0 * found.targets["weight_hat"], rtol=1e-6)


def test_magnitude_of_a_distribution_is_the_squared_norm_of_its_probabilities() -> None:
    found = inputs()
    regularizer = regularizers.TargetMagnitude("y_hat", normalized=True)
    np.testing.assert_allclose(regularizer(found), (softmax(found.targets["y_hat"]) ** 2).sum(-1), rtol=1e-5)
    assert regularizer.formula() == "|softmax(y_hat)|^2"
    total = _total(regularizer, found)
    check_finite_difference(total, found.targets, jax.grad(total)(found.targets))
    with pytest.raises(UserError, match="'weight_hat' is one number per step, no distribution: bind normalized"):
        regularizers.TargetMagnitude("weight_hat", normalized=True)(found)


def test_offset_is_the_squared_mean_over_the_steps_that_count() -> None:
    found = inputs()
    kept = np.asarray(found.targets["pi_hat"])[np.asarray(found.weight) > 0]
    value = regularizers.TargetOffset("pi_hat")(found)
    np.testing.assert_allclose(value, np.full((STEPS, BATCH), kept.mean() ** 2), rtol=1e-4)
    total = _total(regularizers.TargetOffset("pi_hat"), found)
    gradient = jax.grad(total)(found.targets)
    check_finite_difference(total, found.targets, gradient)
    assert not np.any(np.asarray(gradient["pi_hat"])[np.asarray(found.weight) == 0])
    # What a softmax sees of the logits is left alone.
    of_steps = np.asarray(gradient["pi_hat"])
    np.testing.assert_allclose(of_steps, np.broadcast_to(of_steps[..., :1], of_steps.shape))


def test_kl_to_the_target_network() -> None:
    found = inputs()
    regularizer = regularizers.TargetNetworkKL()
    p, q = softmax(found.target_outputs["logits"]), softmax(found.targets["pi_hat"])
    np.testing.assert_allclose(regularizer(found), (p * np.log(p / q)).sum(-1), rtol=1e-4)
    assert (regularizer.on, regularizer.formula()) == ("updates", "KL(logits' || pi_hat)")
    gradient = jax.grad(_total(regularizer, found))(found.targets)
    np.testing.assert_allclose(gradient["pi_hat"], q - p, atol=1e-5)
    same = found.replace(targets={"pi_hat": found.target_outputs["logits"] + 3.0})
    np.testing.assert_allclose(regularizer(same), 0.0, atol=1e-5)


def test_the_target_network_takes_no_gradient() -> None:
    found = inputs()

    def total(target_outputs: dict[str, Array]) -> Array:
        return regularizers.TargetNetworkKL()(found.replace(target_outputs=target_outputs)).sum()

    assert not np.any(jax.grad(total)(found.target_outputs)["logits"])


def _total(regularizer: Any, found: RegularizerInputs) -> Any:
    return lambda targets: regularizer(found.replace(targets=targets)).sum()


def test_what_is_not_there_is_named() -> None:
    found = inputs()
    with pytest.raises(UserError, match=r"TargetOffset: there is no target 'z_hat' \(there are pi_hat, y_hat"):
        regularizers.TargetOffset("z_hat")(found)
    with pytest.raises(UserError, match="TargetMagnitude: there is no target 'pi_hat'"):
        regularizers.TargetMagnitude()(found.replace(targets={}))
    with pytest.raises(UserError, match="TargetNetworkKL: the rule has no target network"):
        regularizers.TargetNetworkKL()(found.replace(target_outputs=None))


@dataclasses.dataclass(frozen=True)
class Constant(regularizers.Entropy):
    """Penalizes what nothing can change."""

    on: Literal["updates", "validation"] = "updates"

    def __call__(self, inputs: RegularizerInputs) -> Array:
        return jax.lax.stop_gradient(super().__call__(inputs))


@dataclasses.dataclass(frozen=True)
class Shifted(regularizers.Entropy):
    """Gives each trajectory its neighbour's term."""

    def __call__(self, inputs: RegularizerInputs) -> Array:
        return jnp.cumsum(super().__call__(inputs), axis=1)


@pytest.mark.parametrize(
    ("regularizer", "reason"),
    [
        (Constant(), "neither the outputs nor the targets receive a gradient"),
        (Shifted(), "trajectories mix in the batch"),
    ],
)
def test_regularizers_that_do_not_conform_are_found_out(regularizer: Any, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_regularizer(regularizer)
