"""The parts that search spaces are made of: tables, cores, numbers in ranges, and the variants of the shipped rules."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_files import RULES, rule_of

from components import action_models, heads, loss_terms, optimizers, torsos, value_estimators
from components.meta_networks import cores, learned_targets, static_targets
from components.weights import DISCO103
from framework.agent import Agent, Network
from framework.errors import UserError
from framework.layers import Table
from framework.meta_network import MetaNetwork
from framework.numbers import Hyperparameter, Learned, Range
from framework.specs import EnvironmentSpec
from framework.testing import examples
from framework.testing.examples import Sizes, random_normal
from framework.testing.expectations import expect_close, init
from framework.types import ActingParams, Array, Params
from framework.update_rule import UpdateRule

SIZES = Sizes(steps=6, batch=3, actions=4)
STATES = EnvironmentSpec(observation_shape=(), num_actions=4, observation_dtype="int32", num_states=5)
VECTORS = EnvironmentSpec(observation_shape=(3,), num_actions=4)
HEADS = (heads.Policy(), heads.Prediction(categories=3), heads.ActionPrediction(categories=2))


# --- tables


def tabular(*of: Any) -> tuple[UpdateRule, Agent]:
    terms = tuple(loss_terms.Entropy(head=head.name) for head in of)
    rule = UpdateRule(heads=of, meta_network=MetaNetwork(targets=()), loss=terms)
    return rule, Agent(torso=torsos.Tabular(), optimizer=optimizers.SGD(1.0))


def network() -> tuple[Network, Params]:
    rule, agent = tabular(*HEADS)
    built = agent.network(rule, STATES)
    rng = np.random.default_rng(0)
    return built, jax.tree.map(lambda x: x + random_normal(rng, *x.shape), built.init(jax.random.key(0)))


def test_heads_of_a_tabular_agent_are_tables_of_zeros() -> None:
    rule, agent = tabular(*HEADS)
    params = agent.network(rule, STATES).init(jax.random.key(0))
    shapes = {name: tuple(leaf["table"].shape) for name, leaf in params.items()}
    assert shapes == {"head_logits": (5, 4), "head_y": (5, 3), "head_z": (5, 4, 2)}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(params))


def test_a_tabular_agent_reads_the_rows_of_its_states() -> None:
    built, params = network()
    states = jnp.asarray([[0, 4], [3, 3], [1, 0]], jnp.int32)
    action, last = jnp.asarray([[1, 2], [0, 3]], jnp.int32), jnp.zeros((2, 2), bool)
    of_all = built.unroll(params, states, last, ())
    for name, output in of_all.items():
        np.testing.assert_array_equal(output, params[f"head_{name}"]["table"][states])
    taken = built.unroll(params, states, last, (), action)["z"]
    np.testing.assert_array_equal(taken[1, 1], params["head_z"]["table"][3, 3])
    logits, _ = built.policy(ActingParams(params), states[0], ())
    np.testing.assert_array_equal(logits, params["head_logits"]["table"][states[0]])


def test_tables_can_be_differentiated_twice_and_side_by_side() -> None:
    """As products with one-hot vectors can, of which a gather is the same function."""
    rng = np.random.default_rng(0)
    table, direction = random_normal(rng, 2, 5, 4), random_normal(rng, 2, 5, 4)
    state = jnp.asarray(rng.integers(5, size=(2, 6, 3)), jnp.int32)

    def gathered(table: Array, state: Array) -> Array:
        return Table(5, (4,)).apply({"params": {"table": table}}, state)

    def multiplied(table: Array, state: Array) -> Array:
        return jax.nn.one_hot(state, 5) @ table

    def product(read: Any, table: Array, state: Array, direction: Array) -> tuple[Array, Array]:
        gradient = jax.grad(lambda table: jnp.sin(read(table, state)).sum())
        return jax.jvp(gradient, (table,), (direction,))

    one, other = (jax.vmap(functools.partial(product, f))(table, state, direction) for f in (gathered, multiplied))
    expect_close(one, other, "first and second derivatives")


def test_a_state_out_of_bounds_is_seen() -> None:
    built, params = network()
    logits, _ = built.policy(ActingParams(params), jnp.asarray([5], jnp.int32), ())
    assert np.all(np.isnan(logits))


def test_agents_say_that_they_cannot_read_an_environment() -> None:
    rule, table = tabular(heads.Policy())
    vector = dataclasses.replace(table, torso=torsos.MLP())
    assert table.problems(rule) == table.problems_with(STATES) == vector.problems_with(VECTORS) == []
    assert "reads a state's index, the environment shows float32[3]" in table.problems_with(VECTORS)[0].message
    assert "would read the index of one of 5 states as a number" in vector.problems_with(STATES)[0].message
    needless = dataclasses.replace(table, action_model=action_models.ActionLSTM())
    assert "nothing uses an action model" in needless.problems(rule)[0].message
    with pytest.raises(UserError, match="only where observations are a state's index"):
        table.network(rule, dataclasses.replace(STATES, num_states=None)).init(jax.random.key(0))


# --- cores

CORES = [
    cores.ReverseLSTM(5),
    cores.ReverseGRU(5),
    cores.Transformer(size=8, layers=2, heads=2),
    cores.StepMLP((5, 4)),
]


@pytest.mark.parametrize("core", CORES, ids=lambda core: type(core).__name__)
def test_a_summary_does_not_depend_on_what_came_before(core: nn.Module) -> None:
    """Neither on how many steps that were."""
    rng = np.random.default_rng(0)
    features = random_normal(rng, SIZES.steps, SIZES.batch, 3)
    _, last = examples.random_boundaries(rng, SIZES)
    params = init(core, features, last)
    whole = core.apply({"params": params}, features, last)
    expect_close(core.apply({"params": params}, features[2:], last[2:]), whole[2:], "the past matters")


@pytest.mark.parametrize("core", CORES[:3], ids=lambda core: type(core).__name__)
def test_recurrent_cores_and_transformers_see_the_future(core: nn.Module) -> None:
    features = random_normal(np.random.default_rng(0), SIZES.steps, 1, 3)
    last = jnp.zeros((SIZES.steps, 1), bool)
    params = init(core, features, last)
    gradient = jax.grad(lambda x: (core.apply({"params": params}, x, last)[0] ** 2).sum())(features)
    assert np.all(np.any(np.asarray(gradient[:, 0]), axis=-1))


@settings(max_examples=20)
@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_a_step_sees_itself_and_what_follows_in_its_episode(ends: list[bool]) -> None:
    visible = np.asarray(cores.own_future(jnp.asarray(ends)[:, None]))[..., 0]
    for t in range(len(ends)):
        for s in range(len(ends)):
            assert visible[t, s] == (s >= t and not any(ends[t:s]))


@pytest.mark.parametrize("core", CORES, ids=lambda core: type(core).__name__)
def test_agents_share_a_cores_weights_in_one_product(core: nn.Module) -> None:
    """Vmapped over agents, no product with the weights has agents as a batch axis."""
    features, last = jnp.zeros((2, SIZES.steps, SIZES.batch, 3)), jnp.zeros((2, SIZES.steps, SIZES.batch), bool)
    params = init(core, features[0], last[0])
    program = jax.make_jaxpr(jax.vmap(lambda x, last: core.apply({"params": params}, x, last)))(features, last)
    with_weights = [dimensions for right, dimensions in products(program.jaxpr) if right == 2]
    assert with_weights
    assert all(batch == ((), ()) for _, batch in with_weights)


def products(jaxpr: Any) -> list[tuple[int, Any]]:
    """Of every matrix product, inside loops too: the rank of its right side, and its dimension numbers."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append((equation.invars[1].aval.ndim, equation.params["dimension_numbers"]))
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", None)
            found += [] if inner is None else products(inner)
    return found


# --- numbers in ranges

RANGES = [Range(), Range(0.0, 1.0), Range(minimum=-2.0), Range(maximum=3.0)]


@pytest.mark.parametrize("within", RANGES, ids=str)
@given(value=st.floats(min_value=0.01, max_value=0.99))
@settings(max_examples=10)
def test_squashing_undoes_unsquashing(within: Range, value: float) -> None:
    assert float(within.squash(jnp.asarray(within.unsquash(value)))) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("within", RANGES, ids=str)
def test_squashed_numbers_grow_within_their_range(within: Range) -> None:
    values = np.asarray(within.squash(jnp.linspace(-5.0, 5.0, 11)))
    assert np.all(np.diff(values) > 0)
    assert within.minimum is None or values.min() > within.minimum
    assert within.maximum is None or values.max() < within.maximum


@pytest.mark.parametrize("build", [Learned, learned_targets.LearnedNumber])
def test_numbers_begin_inside_their_range(build: Any) -> None:
    with pytest.raises(ValueError, match=r"initial must lie strictly between 0\.0 and 1\.0, got 1\.0"):
        build(name="discount", initial=1.0, minimum=0.0, maximum=1.0)
    with pytest.raises(ValueError, match="minimum must be below maximum"):
        build(name="discount", initial=0.5, minimum=1.0, maximum=0.0)


def test_what_is_learned_may_not_leave_what_is_allowed() -> None:
    learned = Learned("discount", initial=0.9, minimum=0.0)
    with pytest.raises(ValueError, match=r"discount must lie in \[0, 1\], got Learned"):
        value_estimators.GAE(discount=learned)
    value_estimators.GAE(discount=dataclasses.replace(learned, maximum=1.0))
    with pytest.raises(ValueError, match="epsilon must be positive, got Learned"):
        static_targets.ExponentiatedAdvantagePolicy(epsilon=Learned("epsilon", initial=0.2))
    static_targets.ExponentiatedAdvantagePolicy(epsilon=Learned("epsilon", initial=0.2, minimum=0.0))
    static_targets.ExponentiatedAdvantagePolicy(epsilon=Hyperparameter("epsilon", value=0.2))


def test_names_of_learned_numbers_are_their_own() -> None:
    rule = rule_of("learned_ppo_weights")
    first = rule.loss[0]
    for cost, message in (
        (Learned("discount", initial=0.5, minimum=0.0), "the learned number 'discount' is configured in two ways"),
        (Learned("v_hat", initial=0.5), "a target is called 'v_hat' too"),
    ):
        changed = dataclasses.replace(rule, loss=(dataclasses.replace(first, cost=cost), *rule.loss[1:]))
        assert any(message in problem.message for problem in changed.problems())
    carried = (dataclasses.replace(first, cost=Hyperparameter("lambda", value=1.0)), *rule.loss[1:])
    problems = dataclasses.replace(rule, loss=carried).problems()
    assert any("a hyperparameter is called 'lambda' too" in problem.message for problem in problems)


# --- variants of the rules

LEARNED = sorted(path.stem for path in RULES.glob("*.gin") if path.stem.startswith(("disco", "lpg", "learned")))


@functools.cache
def meta_shapes(name: str, *bindings: str) -> Params:
    rule = rule_of(name, *bindings)
    inputs = examples.random_rule_inputs(np.random.default_rng(0), rule.heads, SIZES)
    inputs = inputs.replace(hyperparameters={"alpha_y": jnp.asarray(1.0)})
    shapes = jax.eval_shape(rule.init, jax.random.key(0), inputs)
    targets, _ = jax.eval_shape(rule.targets, shapes, inputs, rule.initial_carry())
    assert all(target.shape[:2] == (SIZES.steps, SIZES.batch) for target in targets.values())
    return shapes


def names(params: Params) -> set[str]:
    paths = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths}


def num_features(name: str) -> int:
    """What the trajectory LSTM of a rule sees of each step."""
    kernel = meta_shapes(name)["trajectory"]["core"]["lstm"]["gates"]["kernel"]
    return kernel.shape[0] - kernel.shape[1] // 4


def test_the_parameters_of_disco_are_those_of_the_published_weights() -> None:
    assert names(meta_shapes("disco")) == set(DISCO103.arrays)
    assert sum(leaf.size for leaf in jax.tree.leaves(meta_shapes("disco"))) == 754_778


@pytest.mark.parametrize("name", LEARNED)
def test_every_learned_rule_has_meta_parameters(name: str) -> None:
    assert names(meta_shapes(name))


@pytest.mark.parametrize(
    ("name", "features", "without"),
    [
        ("disco", 27, ()),
        ("disco_no_bootstrap", 21, ()),
        ("disco_no_y", 23, ("y",)),
        ("disco_no_z", 17, ("z",)),
        ("disco_no_predictions", 13, ("y", "z")),
        ("disco_no_p", 27, ("p",)),
        ("disco_no_q", 23, ("q",)),
        ("lpg", 6, ("z", "q", "p")),
        ("lpg_z", 11, ("q", "p")),
    ],
)
def test_what_a_variant_sees_and_predicts(name: str, features: int, without: tuple[str, ...]) -> None:
    assert num_features(name) == features
    rule = rule_of(name)
    assert {head.name for head in rule.heads} == {"logits", "y", "z", "p", "q"} - set(without)
    assert not any(f"embedding_{head}" in path for head in without for path in names(meta_shapes(name)))


@pytest.mark.parametrize("binding", ["TRAJECTORY_LSTM_SIZE = 64", "CORE = @Transformer()", "CORE = @StepMLP()"])
@pytest.mark.parametrize("name", ["disco", "lpg"])
def test_another_core_is_one_line(name: str, binding: str) -> None:
    assert names(meta_shapes(name, binding)) != set()
    assert jax.tree.map(jnp.shape, meta_shapes(name, binding)) != jax.tree.map(jnp.shape, meta_shapes(name))
