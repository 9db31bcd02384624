"""LPG and learned loss weights: numbers against a second implementation, meta-gradients against finite differences."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_files import rule_of

from components import heads, loss_terms, optimizers, torsos
from framework.agent import Agent, Network
from framework.learner import Learner
from framework.numbers import Hyperparameter
from framework.specs import EnvironmentSpec
from framework.testing import examples
from framework.testing.examples import Sizes
from framework.testing.expectations import check_finite_difference
from framework.testing.rules import loss_inputs
from framework.types import Array, LearnerState, LossInputs, Params, RuleInputs, Trajectory
from framework.update_rule import UpdateRule, parts

SIZES = Sizes(steps=6, batch=3, actions=4)
SPEC = EnvironmentSpec(observation_shape=(), num_actions=4, observation_dtype="int32", num_states=5)
SMALL = ("PREDICTION_CATEGORIES = 7", "TRAJECTORY_LSTM_SIZE = 5")
ALPHA_Y = 0.3


@functools.cache
def small(name: str, *bindings: str) -> UpdateRule:
    """A rule of gin/rules with networks as small as they can be."""
    sizes = {"learned_ppo_weights": (), "learned_ppo_outputs": SMALL[1:]}.get(name, SMALL)
    return rule_of(name, *sizes, *bindings)


def random_like(tree: Params, seed: int = 0) -> Params:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 0.5 * examples.random_normal(rng, *x.shape), tree)


def inputs_of(rule: UpdateRule) -> RuleInputs:
    found = examples.random_rule_inputs(np.random.default_rng(1), rule.heads, SIZES)
    return found.replace(target_outputs=None, hyperparameters={"alpha_y": jnp.asarray(ALPHA_Y)})


# --- a second implementation of LPG


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def lpg_targets(params: Any, inputs: RuleInputs, discount: float) -> tuple[np.ndarray, np.ndarray]:
    """pi_hat [T, B] and the logits of y_hat [T, B, K], step by step."""
    phi, network = params["embedding_y"], params["core"]["lstm"]["gates"]
    policy, y = softmax(np.asarray(inputs.outputs["logits"])), softmax(np.asarray(inputs.outputs["y"]))

    def embed(p: np.ndarray) -> np.ndarray:
        hidden = np.maximum(p @ phi["linear_0"]["kernel"] + phi["linear_0"]["bias"], 0.0)
        return hidden @ phi["linear_1"]["kernel"] + phi["linear_1"]["bias"]

    steps, batch = inputs.action.shape
    pi_hat, y_hat = np.zeros((steps, batch)), np.zeros((steps, batch, y.shape[-1]))
    for b in range(batch):
        hidden, cell = np.zeros(5), np.zeros(5)
        for t in reversed(range(steps)):
            if inputs.last[t, b]:
                hidden, cell = np.zeros(5), np.zeros(5)
            following = t if inputs.weight[t, b] == 0 else t + 1  # a limit hides the next state
            terminal = float(inputs.discount[t, b] == 0)
            x = [inputs.reward[t, b], 1.0 - terminal, discount, policy[t, b, inputs.action[t, b]]]
            x = np.concatenate([np.asarray(x), embed(y[t, b]), embed(y[following, b])])
            i, g, f, o = np.split(np.concatenate([x, hidden]) @ network["kernel"] + network["bias"], 4)
            cell = sigmoid(f + 1.0) * cell + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(cell)
            pi_hat[t, b] = (hidden @ params["pi_hat"]["kernel"] + params["pi_hat"]["bias"])[0]
            y_hat[t, b] = hidden @ params["y_hat"]["kernel"] + params["y_hat"]["bias"]
    return pi_hat, y_hat


def test_targets_and_loss_are_those_of_the_paper() -> None:
    rule = small("lpg", "DISCOUNT = 0.9")
    inputs = inputs_of(rule)
    meta_params = random_like(rule.init(jax.random.key(0), inputs))
    found, _ = jax.jit(rule.targets)(meta_params, inputs, rule.initial_carry())
    pi_hat, y_hat = lpg_targets(jax.tree.map(np.asarray, meta_params["trajectory"]), inputs, 0.9)
    assert set(found) == {"pi_hat", "y_hat"}
    np.testing.assert_allclose(found["pi_hat"], pi_hat, atol=1e-5)
    np.testing.assert_allclose(found["y_hat"], y_hat, atol=1e-5)

    steps = {name: output[:-1] for name, output in inputs.outputs.items()}
    seen = LossInputs.of_steps(inputs, outputs=steps, targets=found)
    terms = rule.loss_terms_per_step(seen, inputs.hyperparameters)
    policy, y, aim = softmax(np.asarray(steps["logits"])), softmax(np.asarray(steps["y"])), softmax(y_hat)
    taken = np.take_along_axis(policy, np.asarray(inputs.action)[..., None], -1)[..., 0]
    expected = -np.log(taken) * pi_hat + ALPHA_Y * (y * np.log(y / aim)).sum(-1)
    np.testing.assert_allclose(sum(terms.values()), expected, rtol=1e-4, atol=1e-5)


def test_the_target_of_the_policy_may_have_either_sign_and_any_size() -> None:
    rule = small("lpg")
    inputs = inputs_of(rule)
    meta_params = rule.init(jax.random.key(0), inputs)
    output = jax.tree.map(lambda x: -100.0 * x, meta_params["trajectory"]["pi_hat"])
    turned = {"trajectory": meta_params["trajectory"] | {"pi_hat": output}}
    one, other = (rule.targets(params, inputs, rule.initial_carry())[0]["pi_hat"] for params in (meta_params, turned))
    np.testing.assert_allclose(other, -100.0 * one, rtol=1e-4)


def test_the_two_directions_of_the_divergence() -> None:
    """LPG's is the mean of log(y / y_hat) under y, DiscoRL's that of log(y_hat / y) under y_hat."""
    found = loss_inputs(examples.world(SIZES))
    y, y_hat = softmax(np.asarray(found.outputs["y"])), softmax(np.asarray(found.targets["y_hat"]))
    lpg = loss_terms.ReversePredictionKL()(found, heads.Prediction())
    disco = loss_terms.PredictionKL()(found, heads.Prediction())
    np.testing.assert_allclose(lpg, (y * np.log(y / y_hat)).sum(-1), rtol=1e-3)
    np.testing.assert_allclose(disco, (y_hat * np.log(y_hat / y)).sum(-1), rtol=1e-3)
    assert loss_terms.ReversePredictionKL().formula(heads.Prediction()) == "KL(y || y_hat)"
    assert loss_terms.PredictionKL().formula(heads.Prediction()) == "KL(y_hat || y)"


# --- meta-gradients


def trajectory(seed: int) -> Trajectory:
    """Of states, all at once: the agent of these tests is a table."""
    rng = np.random.default_rng(seed)
    states = jnp.asarray(rng.integers(SPEC.num_states or 0, size=(SIZES.steps + 1, SIZES.batch)), jnp.int32)
    found = examples.random_trajectory(rng, SIZES)
    return found.replace(observation=states, behaviour=0.2 * found.behaviour)


def learner_of(rule: UpdateRule) -> tuple[Learner, Network]:
    agent = Agent(torso=torsos.Tabular(), optimizer=optimizers.SGD(1.0))
    assert agent.problems(rule) + agent.problems_with(SPEC) == []
    network = agent.network(rule, SPEC)
    return Learner(rule, network, agent.optimizer), network


def newborn(learner: Learner, network: Network) -> LearnerState:
    hyperparameters = {p.name: jnp.asarray(p.value) for p in parts(learner.rule) if isinstance(p, Hyperparameter)}
    return learner.init(random_like(network.init(jax.random.key(0)), seed=3), hyperparameters)


def after_updates(learner: Learner, meta_params: Params, state: LearnerState, updates: int) -> Array:
    """A smooth function of the agent's parameters after updates []."""
    for update in range(updates):
        state, _ = learner.update(meta_params, state, trajectory(update), jax.random.key(update))
    leaves, rng = jax.tree.leaves(state.params), np.random.default_rng(5)
    return sum((jnp.sin(3.0 * x) * rng.normal(size=x.shape)).sum() for x in leaves)


@pytest.mark.parametrize(
    ("name", "bindings", "updates"),
    [
        ("lpg", (), 2),
        ("lpg", ("CORE = @ReverseGRU()", "ReverseGRU.size = 5"), 2),
        ("lpg_z", (), 1),
        ("learned_ppo_weights", (), 2),
        ("learned_ppo_outputs", (), 1),
    ],
    ids=["lpg", "lpg_gru", "lpg_z", "learned_ppo_weights", "learned_ppo_outputs"],
)
def test_meta_gradients_are_slopes(name: str, bindings: tuple[str, ...], updates: int) -> None:
    """Through whole agent updates: where no gradient is stopped on the way, it is that of the function."""
    learner, network = learner_of(small(name, *bindings))
    state = newborn(learner, network)
    inputs = learner.rule_inputs(state, trajectory(0))
    meta_params = learner.rule.init(jax.random.key(0), inputs)
    if "trajectory" in meta_params:
        meta_params = meta_params | {"trajectory": random_like(meta_params["trajectory"])}
    function = jax.jit(functools.partial(after_updates, learner, state=state, updates=updates))
    gradient = jax.jit(jax.grad(functools.partial(after_updates, learner, state=state, updates=updates)))(meta_params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    check_finite_difference(function, meta_params, gradient)
    if "numbers" in meta_params:
        for number in meta_params["numbers"]:
            check_number_slope(function, meta_params, number, float(gradient["numbers"][number]))


def check_number_slope(function: Any, meta_params: Params, number: str, gradient: float, step: float = 1e-2) -> None:
    values = []
    for change in (step, -step):
        numbers = meta_params["numbers"] | {number: meta_params["numbers"][number] + change}
        values.append(float(function(meta_params | {"numbers": numbers})))
    slope = (values[0] - values[1]) / (2.0 * step)
    assert gradient == pytest.approx(slope, rel=0.05, abs=2e-4), number


# --- learned numbers


def test_learned_ppo_weights_begin_as_ppo() -> None:
    ppo, learned = rule_of("ppo_static_target"), small("learned_ppo_weights")
    inputs = inputs_of(ppo)
    meta_params = learned.init(jax.random.key(0), inputs)
    assert jax.tree.leaves(jax.tree.map(jnp.shape, meta_params)) == []
    assert set(meta_params) == {"numbers"}
    assert len(meta_params["numbers"]) == 6
    steps = {name: output[:-1] for name, output in inputs.outputs.items()}

    def loss(rule: UpdateRule, params: Params) -> dict[str, Array]:
        targets, _ = rule.targets(params, inputs, rule.initial_carry())
        seen = LossInputs.of_steps(inputs, outputs=steps, targets=targets)
        return rule.loss_terms_per_step(seen, {})

    found = loss(learned, meta_params)
    for name, term in loss(ppo, {}).items():
        np.testing.assert_allclose(found[name], term, rtol=1e-4, atol=1e-5)
    assert set(found) - set(loss(ppo, {})) == {"2_Entropy_logits"}


def test_returns_let_the_gradient_through_to_the_discount_and_not_to_the_values() -> None:
    rule = small("learned_ppo_weights")
    inputs = inputs_of(rule)
    meta_params = rule.init(jax.random.key(0), inputs)

    def total(meta_params: Params, outputs: dict[str, Array]) -> Array:
        targets, _ = rule.targets(meta_params, inputs.replace(outputs=outputs), rule.initial_carry())
        return jnp.sin(targets["v_hat"]).sum() + jnp.sin(targets["pi_hat"]).sum()

    of_numbers, of_outputs = jax.grad(total, argnums=(0, 1))(meta_params, inputs.outputs)
    moved = {name for name, leaf in of_numbers["numbers"].items() if leaf != 0}
    assert moved == {"discount", "lambda", "epsilon"}
    assert not any(np.any(leaf) for leaf in of_outputs.values())
