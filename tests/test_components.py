"""Conformance: every registered component does what its kind asks for, and one that does not is found out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import components.everything
from components import heads, loss_terms, optimizers
from components.meta_networks import features
from framework import testing
from framework.context import FeatureContext
from framework.errors import UserError
from framework.testing import networks as testing_networks
from framework.testing import rules as testing_rules
from framework.testing.examples import NoExampleError, example
from framework.testing.expectations import check_function
from framework.types import Array, Estimates, LossInputs, Params, PyTree, RuleInputs

__all__ = ["components"]


@pytest.mark.parametrize(("kind", "cls"), testing.registered("components", "framework"))
def test_conformance(kind: str, cls: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RULESPACE_WEIGHTS", str(tmp_path))  # Nothing is fetched for a test.
    try:
        testing.check_component(kind, cls)
    except UserError as absent:
        if "pip install" not in str(absent):
            raise
        pytest.skip(str(absent))


# --- components with one mistake each


@dataclasses.dataclass(frozen=True)
class UnreadableHead(heads.Value):
    """Reads something else than its loss has learned."""

    def read(self, output: Array) -> Array:
        return 2.0 * output.squeeze(-1)

    def loss(self, output: Array, target: Array) -> Array:
        return jnp.square(output.squeeze(-1) - target)


class ForgetfulTorso(nn.Module):
    """Takes no notice of resets."""

    @nn.compact
    def __call__(self, observation: Array, reset: Array, carry: PyTree) -> tuple[Array, PyTree]:
        x = nn.Dense(4)(observation.reshape(*observation.shape[:2], -1))
        summed = carry + jnp.cumsum(x, axis=0)
        return summed, summed[-1]

    def initial_carry(self, batch: int) -> PyTree:
        return jnp.zeros((batch, 4))


class ForwardCore(nn.Module):
    """Reads a trajectory from its beginning."""

    @nn.compact
    def __call__(self, features: Array, last: Array) -> Array:
        return jnp.cumsum(nn.Dense(4)(features), axis=0)


@dataclasses.dataclass(frozen=True)
class FirstAction:
    """Prefers an action for its number."""

    def __call__(self, context: FeatureContext) -> Array:
        return context.inputs.behaviour[..., :1]


@dataclasses.dataclass(frozen=True)
class BatchMean:
    """Mixes the trajectories of a batch."""

    def __call__(self, context: FeatureContext) -> Array:
        return jnp.cumsum(context.inputs.reward, axis=1)[..., None]


@dataclasses.dataclass(frozen=True)
class LeakyEstimator:
    """Bootstraps across the ends of episodes."""

    head: str = "v"

    def __call__(self, inputs: RuleInputs, head: heads.Value) -> Estimates:
        values = jax.lax.stop_gradient(head.read(inputs.outputs[self.head]))
        returns = inputs.reward + values[1:]
        return Estimates(values, returns, advantages=returns - values[:-1], errors=returns - values[:-1])


@dataclasses.dataclass(frozen=True)
class CountsEverything:
    """Normalizes by steps that carry no weight too."""

    def initial_carry(self) -> Array:
        return jnp.zeros(())

    def __call__(self, estimates: Estimates, weight: Array, carry: Array) -> tuple[Estimates, Array]:
        filled = estimates.replace(
            normalized_advantages=estimates.advantages,
            normalized_action_advantages=estimates.action_advantages,
            normalized_errors=estimates.errors,
        )
        return filled, 0.9 * carry + estimates.advantages.mean()


@dataclasses.dataclass(frozen=True)
class MovesAnotherHead(loss_terms.Entropy):
    """Says that it moves the policy, and moves y as well."""

    def __call__(self, inputs: LossInputs, head: Any) -> Array:
        return super().__call__(inputs, head) + inputs.outputs["y"].sum(-1)


@dataclasses.dataclass(frozen=True)
class IgnoresTheRate(optimizers.SGD):
    """Has a learning rate of its own."""

    def update(self, gradient: Params, state: PyTree, params: Params, learning_rate: Any) -> tuple[Params, PyTree]:
        return super().update(gradient, state, params, 0.1)


@dataclasses.dataclass(frozen=True)
class Decays(optimizers.Adam):
    """Adam with decoupled weight decay that still declares Adam's way back."""

    def update(self, gradient: Params, state: Any, params: Params, learning_rate: Any) -> tuple[Params, Any]:
        change, state = super().update(gradient, state, params, learning_rate)
        return jax.tree.map(lambda c, p: c - 1e-4 * learning_rate * p, change, params), state


@dataclasses.dataclass(frozen=True)
class Faster(optimizers.SGD):
    """Moves twice as far, and says nothing of it on the way back."""

    def update(self, gradient: Params, state: PyTree, params: Params, learning_rate: Any) -> tuple[Params, PyTree]:
        return super().update(gradient, state, params, 2.0 * learning_rate)


@dataclasses.dataclass(frozen=True)
class EmptySlots(components.replays.OnPolicy):
    """Gives back what it was never given."""

    def sample(self, state: PyTree, key: Array, fresh: Any) -> Any:
        return fresh.replace(reward=jnp.zeros_like(fresh.reward))


WRONG: list[tuple[Callable[[Any], None], Any, str]] = [
    (testing_networks.check_head, UnreadableHead(), "what it reads is not what its loss leads to"),
    (testing_networks.check_torso, ForgetfulTorso(), "something crosses the beginning of an episode"),
    (testing_networks.check_trajectory_core, ForwardCore(), "beyond its episode's end|sees its past"),
    (testing_rules.check_feature, FirstAction(), "numbered otherwise are treated otherwise"),
    (testing_rules.check_feature, BatchMean(), "trajectories mix"),
    (testing_rules.check_value_estimator, LeakyEstimator(), "see beyond the end of their episode"),
    (testing_rules.check_normalizer, CountsEverything(), "weight 0 changes the carry"),
    (testing_rules.check_loss_term, MovesAnotherHead(), "it moves the heads"),
    (testing.check_optimizer, IgnoresTheRate(1.0), "not in proportion to the learning rate"),
    (testing.check_optimizer, Decays(1.0), "its changes depend on the parameters"),
    (testing.check_optimizer, Faster(1.0), "'transpose' is not the derivative of 'update'"),
    (testing.check_replay, EmptySlots(), "what was never inserted"),
]


@pytest.mark.parametrize(("check", "component", "reason"), WRONG, ids=lambda x: type(x).__name__)
def test_what_does_not_conform_is_found_out(check: Callable[[Any], None], component: Any, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check(component)


@pytest.mark.parametrize("limit", [None, 0.5])
def test_limited_optimizers_conform(limit: float | None) -> None:
    """With limits that some of the numbers meet, too."""
    testing.check_optimizer(optimizers.Adam(1.0, max_update=limit, max_gradient_norm=limit))
    testing.check_optimizer(optimizers.SGD(1.0, max_gradient_norm=limit))


def mutating(inputs: dict[str, Array]) -> Array:
    inputs["x"] = inputs["x"] + 1.0
    return inputs["x"]


def random_without_a_key(inputs: dict[str, Array]) -> Array:
    return inputs["x"] + np.random.normal(size=3)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (mutating, "it changes its inputs"),
        (random_without_a_key, "randomness without a key"),
        (lambda inputs: jnp.log(-inputs["x"]), "not finite"),
    ],
)
def test_functions_that_are_not_pure_are_found_out(function: Callable[..., Any], reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_function(function, {"x": jnp.ones(3)})


def test_examples_fill_what_is_required() -> None:
    assert isinstance(example(features.MeanOverActions).of, object)
    assert example(components.replays.Uniform).capacity == 2

    @dataclasses.dataclass(frozen=True)
    class Unknown:
        parameter: dict[str, int]

    with pytest.raises(NoExampleError, match=r"Unknown\.parameter has no example: give it a default"):
        example(Unknown)
