"""Update rules: static ones have no parameters, learned ones treat trajectories and actions alike."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import heads, loss_terms
from components.meta_networks import action_features, features, learned_targets
from framework.config import load
from framework.experiment import Experiment
from framework.meta_network import MetaNetwork
from framework.testing import examples
from framework.testing.examples import Sizes, permuted_batch
from framework.testing.expectations import check_function, expect_close
from framework.testing.rules import loss_inputs
from framework.transforms import log_probability
from framework.types import Array, LossInputs, Params, PyTree, RuleInputs
from framework.update_rule import UpdateRule

STATIC = (
    "ppo_catch",
    "a2c_catch",
    "ppo_static_target_catch",
    "ppo_recurrent_catch",
    "ppo_kl_catch",
    "impala_catch",
    "vmpo_catch",
    "muesli_catch",
)
SIZES = Sizes(steps=4, batch=3, actions=3)
COMPILE_FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SMALL_DISCO = str(Path(__file__).with_name("small_disco.gin"))


@functools.cache
def rule(name: str) -> UpdateRule:
    """The rule of a shipped experiment; learned ones in their smallest form."""
    return load(name, gin_files=[SMALL_DISCO] if "disco" in name else (), root=Experiment).experiment.rule


def inputs(of: UpdateRule, sizes: Sizes = SIZES, seed: int = 0) -> RuleInputs:
    return examples.random_rule_inputs(np.random.default_rng(seed), of.heads, sizes)


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
def targets(of: UpdateRule, meta_params: Params, found: RuleInputs) -> dict[str, Array]:
    return of.targets(meta_params, found, of.initial_carry())[0]


@functools.cache
def meta_params(name: str) -> Params:
    return jax.jit(rule(name).init, compiler_options=COMPILE_FAST)(jax.random.key(0), inputs(rule(name)))


@pytest.mark.parametrize("name", STATIC)
def test_static_rules_have_no_meta_parameters(name: str) -> None:
    assert meta_params(name) == {}
    found, optimizer = inputs(rule(name)), optax.adam(1e-3)

    def total(params: Params) -> Array:
        return sum((x.sum() for x in targets(rule(name), params, found).values()), start=jnp.zeros(()))

    gradient = jax.grad(total)({})
    change, _ = optimizer.update(gradient, optimizer.init({}))
    assert optax.apply_updates({}, change) == {}


@pytest.mark.parametrize("name", STATIC)
def test_static_rules_take_no_notice_of_meta_parameters(name: str) -> None:
    found = inputs(rule(name))
    expect_close(targets(rule(name), {"x": jnp.ones(3)}, found), targets(rule(name), {}, found), "they matter", 0.0)


@pytest.mark.parametrize("name", [*STATIC, "disco103_catch"])
def test_targets_are_a_pure_function(name: str) -> None:
    carry = rule(name).initial_carry()
    found, after = check_function(rule(name).targets, meta_params(name), inputs(rule(name)), carry)
    assert jax.tree.structure(after) == jax.tree.structure(carry)
    assert all(x.shape[:2] == (SIZES.steps, SIZES.batch) for x in found.values())


@pytest.mark.parametrize("name", [*STATIC, "disco103_catch"])
def test_permuting_the_batch_permutes_the_targets(name: str) -> None:
    found, order = inputs(rule(name)), np.asarray([2, 0, 1])
    permuted = targets(rule(name), meta_params(name), permuted_batch(found, order))
    expected = permuted_batch(targets(rule(name), meta_params(name), found), order)
    expect_close(permuted, expected, "trajectories mix in the batch")


@settings(max_examples=6)
@given(st.permutations(range(SIZES.actions)), st.integers(0, 100))
def test_disco_does_not_see_how_actions_are_numbered(order: list[int], seed: int) -> None:
    disco = rule("disco103_catch")
    found, permutation = inputs(disco, seed=seed), np.asarray(order)
    world = examples.World(
        sizes=SIZES,
        heads={head.name: head for head in disco.heads},
        inputs=found,
        estimates=examples.random_estimates(np.random.default_rng(0), SIZES),
        summary=jnp.zeros(()),
        targets={},
    )
    renumbered = examples.permuted_actions(world, permutation).inputs
    params = meta_params("disco103_catch")
    one, other = targets(disco, params, found), targets(disco, params, renumbered)
    expect_close(other["pi_hat"], one["pi_hat"][..., permutation], "pi_hat")
    for name in ("y_hat", "z_hat", "q_hat"):
        expect_close(other[name], one[name], name)


def test_every_meta_parameter_matters() -> None:
    """What leads to the meta-RNN matters one update later; a newborn's memory is empty, so that takes three."""
    disco = rule("disco103_catch")

    batches = jax.tree.map(lambda *x: jnp.stack(x), *[inputs(disco, seed=update) for update in range(3)])

    @functools.partial(jax.jit, compiler_options=COMPILE_FAST)
    @jax.grad
    def gradient(params: Params) -> Array:
        def update(carry: PyTree, batch: RuleInputs) -> tuple[PyTree, Array]:
            found, carry = disco.targets(params, batch, carry)
            rng = np.random.default_rng(0)
            return carry, sum((found[k] * rng.normal(size=found[k].shape)).sum() for k in ("pi_hat", "y_hat", "z_hat"))

        return jax.lax.scan(update, disco.initial_carry(), batches)[1].sum()

    dead = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(meta_params("disco103_catch")))
        if not np.any(np.asarray(leaf))
    ]
    assert dead == []


def test_meta_gradient_flows_through_predictions_alone() -> None:
    """Policies and values are seen under stop-gradient, y and z are not."""
    disco, found = rule("disco103_catch"), inputs(rule("disco103_catch"))
    carry = disco.initial_carry()
    carry = carry.replace(lifetime=jax.tree.map(jnp.ones_like, carry.lifetime))  # an empty memory hides the summary

    @functools.partial(jax.jit, compiler_options=COMPILE_FAST)
    @jax.grad
    def gradient(outputs: dict[str, Array]) -> Array:
        values = disco.targets(meta_params("disco103_catch"), found.replace(outputs=outputs), carry)[0]
        return sum((jnp.sin(x).sum() for x in values.values()), start=jnp.zeros(()))

    assert {name for name, leaf in gradient(found.outputs).items() if np.any(leaf)} == {"y", "z"}


# --- the policy gradient


def term_inputs(seed: int, *, on_policy: bool) -> LossInputs:
    rng = np.random.default_rng(seed)
    found = examples.random_trajectory(rng, SIZES)
    logits = found.behaviour if on_policy else examples.random_normal(rng, *found.behaviour.shape)
    return LossInputs(
        outputs={"logits": logits},
        targets={"advantage": examples.random_normal(rng, *found.reward.shape)},
        behaviour=found.behaviour,
        action=found.action,
        reward=found.reward,
        discount=found.discount,
        last=found.last,
        weight=found.weight,
    )


@functools.partial(jax.jit, static_argnums=0)
def term_gradient(term: Any, found: LossInputs) -> Array:
    def loss(logits: Array) -> Array:
        return term(found.replace(outputs={"logits": logits}), heads.Policy()).sum()

    return jax.grad(loss)(found.outputs["logits"])


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_ppo_at_the_behaviour_parameters_is_the_policy_gradient(seed: int) -> None:
    found = term_inputs(seed, on_policy=True)
    ppo = term_gradient(loss_terms.ClippedSurrogate(), found)
    policy_gradient = term_gradient(loss_terms.WeightedLogProbability(), found)
    np.testing.assert_allclose(ppo, policy_gradient, rtol=1e-4, atol=1e-6)


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_ppo_stops_where_the_ratio_has_moved_far_enough(seed: int) -> None:
    found = term_inputs(seed, on_policy=False)
    gradient = np.abs(np.asarray(term_gradient(loss_terms.ClippedSurrogate(epsilon=0.2), found))).sum(-1)
    online, behaviour = (log_probability(x, found.action) for x in (found.outputs["logits"], found.behaviour))
    ratio, advantage = np.exp(np.asarray(online - behaviour)), np.asarray(found.targets["advantage"])
    moved = ((ratio > 1.2) & (advantage > 0)) | ((ratio < 0.8) & (advantage < 0))
    assert np.all(gradient[moved] == 0.0)
    assert np.all(gradient[~moved] > 0.0)


def test_the_target_policy_of_ppo_is_the_old_one_tilted_by_the_advantage() -> None:
    static = rule("ppo_static_target_catch")
    found = inputs(static)
    estimates, _ = static.estimate(found, static.initial_carry().normalizer)
    epsilon = static.meta_network.targets[0].epsilon
    tilted = np.asarray(jax.nn.softmax(found.behaviour)).copy()
    for t, b in np.ndindex(*found.action.shape):
        tilted[t, b, found.action[t, b]] *= np.exp(estimates.advantages[t, b] / epsilon)
    expected = tilted / tilted.sum(-1, keepdims=True)
    pi_hat = jax.nn.softmax(targets(static, {}, found)["pi_hat"])
    np.testing.assert_allclose(pi_hat, expected, rtol=1e-4, atol=1e-6)


# --- losses


def test_the_loss_is_the_sum_of_its_terms_times_their_costs() -> None:
    world = examples.world(SIZES)
    found = loss_inputs(world)
    terms = (loss_terms.Entropy(cost=2.0), loss_terms.Value(cost=0.5))
    of = dataclasses.replace(rule("disco103_catch"), heads=tuple(world.heads.values()), loss=terms)
    expected = 2.0 * terms[0](found, of.head("logits")) + 0.5 * terms[1](found, of.head("q"))
    np.testing.assert_allclose(sum(of.loss_terms_per_step(found, {}).values()), expected, rtol=1e-5)


def test_the_next_policy_is_not_predicted_across_an_episodes_end() -> None:
    found = loss_inputs(examples.world(SIZES)).replace(last=jnp.ones((SIZES.steps, SIZES.batch), bool))
    assert not np.any(loss_terms.NextPolicyKL()(found, heads.NextPolicy()))


# --- what cannot work


def test_rules_say_what_is_inconsistent() -> None:
    disco = rule("disco103_catch")
    broken = dataclasses.replace(
        disco,
        heads=(*disco.heads, heads.Value()),
        loss=(loss_terms.PolicyKL(target="pi_hatt"), loss_terms.Value(head="w")),
        target_decay=None,
    )
    messages = [problem.message for problem in broken.problems()]
    assert any("no target 'pi_hatt'. Did you mean 'pi_hat'?" in message for message in messages)
    assert any("no head 'w'" in message for message in messages)
    assert any("nothing reads the head 'v'" in message for message in messages)
    assert any("nothing reads the target 'z_hat'" in message for message in messages)
    assert any("reads the target network, and the rule has none" in message for message in messages)
    assert disco.problems() == []


def test_learned_targets_need_a_trajectory_core() -> None:
    with pytest.raises(ValueError, match="the learned targets y_hat need a trajectory core"):
        MetaNetwork(targets=(learned_targets.LearnedPrediction(),))


def test_equal_configurations_share_their_parameters() -> None:
    """One embedding of y for the online and the target network; another one where its sizes differ."""
    disco = rule("disco103_catch")
    assert {name for name in meta_params("disco103_catch")["trajectory"] if name.startswith("embedding_")} == {
        "embedding_y",
        "embedding_z",
    }
    more = features.MeanOverActions(action_features.Prediction(sizes=(3, 1)))
    network = dataclasses.replace(disco.meta_network, features=(*disco.meta_network.features, more))
    wider = dataclasses.replace(disco, meta_network=network)
    shapes = jax.eval_shape(wider.init, jax.random.key(0), inputs(wider))
    assert "embedding_z_2" in shapes["trajectory"]
