"""Descriptions: counts, shapes and formulas of shipped experiments, and the verb that prints them."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import components.everything
from experiments import cli
from framework import config
from framework.configuration import configuration
from framework.cost import count_flops, measure_cost
from framework.describe import describe, loss_formula, weighted
from framework.description import Component, Description, LossTermDescription, NumberDescription
from framework.experiment import Experiment
from framework.train import Trainer
from framework.types import Params

__all__ = ["components"]

OUR_FOLDER = Path(cli.__file__).resolve().parent.parent
SHIPPED = sorted(path.stem for path in (config.shipped_gin_folder() / "experiments").glob("*.gin"))
HEAVY = ("tensorflow", "matplotlib", "orbax", "tensorboardX", "pandas", "gymnasium")


@functools.cache
def trainer(name: str, *bindings: str) -> Trainer:
    return Trainer(config.load(name, bindings=bindings, root=Experiment).experiment)


@functools.cache
def description(name: str, *bindings: str) -> Description:
    return describe(trainer(name, *bindings))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = list(sys.path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RULESPACE_WEIGHTS", str(tmp_path))  # Where there are none: reading them would fail.
    monkeypatch.setenv("COLUMNS", "80")
    yield tmp_path
    sys.path[:] = path


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["describe", *words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def term(cost: float | str, formula: str) -> LossTermDescription:
    return LossTermDescription(head="h", cost=cost, formula=formula, component=Component("", "", {}, ()))


# Counts and shapes.


def test_disco103_has_the_published_numbers_of_parameters() -> None:
    network = description("disco103_catch").rule.meta_network
    assert not network.static
    assert network.parameters.count == 754_778
    assert len(network.parameters.arrays) == 42
    assert sum(network.parameters.parts.values()) == sum(array.size for array in network.parameters.arrays) == 754_778
    assert network.weights == Component("weights", "Published", {"name": "disco103"}, ())


def test_disco103_sees_27_numbers_of_each_step() -> None:
    network = description("disco103_catch").rule.meta_network
    assert [feature.size for feature in network.features] == [1, 1, 1, 1, 2, 1, 1, 1, 2, 2, 1, 2, 2, 1, 2, 2, 2, 2]
    assert sum(feature.size for feature in network.features) == 27
    assert sum(feature.size for feature in network.lifetime_features) == 29
    assert {feature.component.name: feature.size for feature in network.action_features}["ActionEmbedding"] == 2
    assert (network.core_size, network.lifetime_size) == (256, 128)
    assert network.core == Component("trajectory_cores", "ReverseLSTM", {"size": 256}, ())


def test_heads_and_targets_of_disco103() -> None:
    described = description("disco103_catch")
    assert {head.name: (head.shape, head.grown_by) for head in described.heads} == {
        "logits": ((30, 64, 3), "torso"),
        "y": ((30, 64, 600), "torso"),
        "z": ((30, 64, 3, 600), "action_model"),
        "p": ((30, 64, 3, 3), "action_model"),
        "q": ((30, 64, 3, 601), "action_model"),
    }
    assert all(head.dtype == "float32" for head in described.heads)
    assert [(target.name, target.shape, target.learned) for target in described.rule.meta_network.targets] == [
        ("embedding", (29, 64, 1), True),
        ("y_hat", (29, 64, 600), True),
        ("z_hat", (29, 64, 600), True),
        ("pi_hat", (29, 64, 3), True),
        ("q_hat", (29, 64), False),
        ("p_hat", (29, 64, 3), False),
    ]


def test_ppo_is_static() -> None:
    described = description("ppo_catch", "TORSO_SIZES = (64, 64)")
    network = described.rule.meta_network
    assert network.static
    assert (network.parameters.count, network.parameters.arrays, network.features) == (0, (), ())
    assert network.core is network.lifetime_core is None
    (group,) = described.groups
    assert group.agent.parameters.parts == {
        "head_logits": 64 * 3 + 3,
        "head_v": 64 + 1,
        "torso": 2 * (64 * 64 + 64),
    }
    assert group.agent.parameters.count == 8_580


def test_environment() -> None:
    environment = description("ppo_catch", "ROWS = 5", "COLUMNS = 4").groups[0].environment
    assert environment.tasks == ("catch_5x4",)
    assert environment.observation_shape == (5, 4, 1)
    assert (environment.observation_dtype, environment.num_states, environment.num_actions) == ("float32", None, 3)
    assert environment.suite == Component("suites", "Catch", {"rows": 5, "columns": 4}, ("rows", "columns"))


def megabytes_of_state(trainer: Trainer) -> float:
    """Of the whole state, without the counter of steps, the root key and what is measured."""
    state = trainer.state_shapes()
    of_groups = [(group.agents, group.bandit) for group in state.groups]
    leaves = jax.tree.leaves((of_groups, state.meta_params, state.meta_optimizer))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / 1e6


@pytest.mark.parametrize("name", ["ppo_catch", "ppo_recurrent_catch"])
def test_memory_is_that_of_the_state(name: str) -> None:
    memory, (group,) = description(name).memory_megabytes, description(name).groups
    assert memory.total == pytest.approx(megabytes_of_state(trainer(name)))
    assert memory.total == pytest.approx(sum(memory.parts.values()))
    assert memory.parts["agent_params"] == pytest.approx(4e-6 * group.agent.parameters.count)
    assert memory.parts["target_params"] == 0


@pytest.mark.parametrize(
    ("name", "bindings", "fresh", "capacity", "warm_up", "uses"),
    [
        ("disco103_catch", (), 0, 1024, 31, 32.0),
        ("disco103_catch", ("Uniform.fresh = 2", "BATCH_SIZE = 8"), 2, 1024, 3, 4.0),
        ("ppo_catch", (), 32, 0, 0, 4.0),
    ],
)
def test_schedule(name: str, bindings: Sequence[str], fresh: int, capacity: int, warm_up: int, uses: float) -> None:
    experiment, whole = trainer(name, *bindings).experiment, description(name, *bindings).schedule
    (group,), schedule = experiment.groups, description(name, *bindings).groups[0].schedule
    per_update = group.num_environments * group.trajectory_length
    assert schedule.env_steps_per_update == schedule.env_steps_per_step == whole.env_steps_per_step == per_update
    assert (whole.steps, whole.updates) == (experiment.steps, experiment.steps)
    assert (whole.env_steps, whole.warm_up_env_steps) == (schedule.env_steps, schedule.warm_up_env_steps)
    assert schedule.warm_up_env_steps == warm_up * per_update
    assert schedule.env_steps == (experiment.steps + warm_up) * per_update
    assert schedule.fresh + schedule.replayed == schedule.batch_size
    assert (schedule.fresh, schedule.replay_capacity, schedule.uses_per_transition) == (fresh, capacity, uses)
    assert schedule.replay_ratio == pytest.approx(1 - fresh / schedule.batch_size)
    assert schedule.gradient_steps_per_update == group.epochs * group.minibatches
    assert schedule.validation_length is None


def test_configurations_name_what_differs_from_defaults() -> None:
    optimizer = configuration(trainer("disco103_catch").experiment.groups[0].agent.optimizer)
    assert (optimizer.kind, optimizer.name) == ("optimizers", "Adam")
    assert optimizer.changed == ("learning_rate", "max_update")
    assert optimizer.parameters["learning_rate"] == 0.01
    assert optimizer.parameters["max_gradient_norm"] is None


# Populations and discovery.

DISCOVERY = """
include 'rules/lpg.gin'
include 'agents/small_mlp.gin'
include 'suites/catch.gin'
include 'setups/evaluate_rule.gin'

STEPS = 7
PREDICTION_CATEGORIES = 5
TRAJECTORY_LSTM_SIZE = 6
TORSO_SIZES = (8,)
ROWS = 3
COLUMNS = 3
REPLAY_CAPACITY = 8
BATCH_SIZE = 4
TRAJECTORY_LENGTH = 3

Experiment.weights = @weights.Initial()
Experiment.groups = [@one/Group(), @two/Group()]
one/Group.agents = 4
one/Group.lifetime = @lifetimes.Fixed()
Fixed.env_steps = 1e6
two/Group.agents = 3
two/Group.suite = @two/suites.Catch()
two/suites.Catch.rows = 4
two/suites.Catch.columns = 5
two/Group.agent = @two/Agent()
two/Agent.optimizer = @two/optimizers.Adam()
two/optimizers.Adam.learning_rate = @rate/Hyperparameter()
rate/Hyperparameter.name = 'rate'
rate/Hyperparameter.value = 0.01
two/Group.lifetime = @lifetimes.Fixed()
two/Group.bandit = @bandits.Softmax()
bandits.Softmax.hyperparameters = [@rate/Choice()]
rate/Choice.name = 'rate'
rate/Choice.values = (0.02, 0.03)

Experiment.discovery = @Discovery()
Discovery.objective = @meta_objectives.ActorCritic()
Discovery.optimizer = @meta/optimizers.Adam()
meta_objectives.ActorCritic.value_network = @value/torsos.MLP()
value/torsos.MLP.sizes = (8,)
Discovery.regularizers = [@regularizers.Entropy(), @TargetMagnitude()]
Discovery.inner_updates = 5
Discovery.stride = 2
Discovery.validation_length = 6
meta/optimizers.Adam.learning_rate = 1e-3
TargetMagnitude.cost = 0.5

Experiment.held_out = @HeldOut()
HeldOut.groups = [@held/Group()]
HeldOut.updates = 11
HeldOut.interval = 20
held/Group.suite = @held/suites.Catch()
held/suites.Catch.rows = 6
"""
SHARED = ("Discovery.separate_optimizers = False", "Discovery.stride = None")


@pytest.fixture(scope="module")
def discovery(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("configs") / "discovery.gin"
    path.write_text(DISCOVERY)
    return str(path)


def test_groups_of_a_population(discovery: str) -> None:
    one, two = description(discovery).groups
    assert (one.agents, two.agents) == (4, 3)
    assert (one.environment.tasks, two.environment.tasks) == (("catch_3x3",), ("catch_4x5",))
    assert one.agent.parameters.parts["torso"] == 8 * (9 + 1)
    assert two.agent.parameters.parts["torso"] == 8 * (20 + 1)
    assert (one.bandit, one.arms, one.hyperparameters) == (None, {}, {"alpha_y": 0.5})
    assert two.hyperparameters == {"alpha_y": 0.5, "rate": 0.01}
    assert two.bandit is not None
    assert two.bandit.name == "Softmax"
    assert two.arms == {"rate": (0.02, 0.03)}
    assert two.lifetime == Component("lifetimes", "Fixed", {"env_steps": 1e6}, ("env_steps",))
    rate = two.agent.optimizer.parameters["learning_rate"]
    assert isinstance(rate, NumberDescription)
    assert rate.symbol == "rate"


def test_environment_steps_of_a_discovery(discovery: str) -> None:
    described, of_trainer = description(discovery), trainer(discovery).env_steps
    whole, groups = described.schedule, described.groups
    per_agent = 2 * (2 * 3) + 2 * 6  # S unrolls and the validation trajectory, of two environments.
    assert [group.schedule.env_steps_per_update for group in groups] == [6, 6]
    assert [group.schedule.validation_length for group in groups] == [6, 6]
    assert [group.schedule.env_steps_per_step for group in groups] == [4 * per_agent, 3 * per_agent]
    assert whole.env_steps_per_step == 7 * per_agent
    assert sum(group.schedule.env_steps for group in groups) == whole.env_steps == of_trainer(7)
    assert sum(group.schedule.warm_up_env_steps for group in groups) == whole.warm_up_env_steps == of_trainer(0)
    assert (whole.steps, whole.updates) == (7, 14)


def test_discovery(discovery: str) -> None:
    described = description(discovery)
    found = described.discovery
    assert found is not None
    assert found.meta_loss.formula == (
        f"mean_validation({found.meta_loss.objective})"
        " + 0.01 mean_validation(-H(logits)) + 0.5 mean_updates(mean(pi_hat^2))"
    )
    assert "A" in found.meta_loss.objective
    assert [(term.on, term.cost) for term in found.meta_loss.regularizers] == [("validation", 0.01), ("updates", 0.5)]
    assert (found.inner_updates, found.stride, found.separate_optimizers) == (5, 2, True)
    assert (found.objective.name, found.optimizer.name) == ("ActorCritic", "Adam")
    assert found.meta_parameters == described.rule.meta_network.parameters.count > 0
    assert (found.max_gradient_norm, found.max_parameter) == (1.0, 1e4)
    whole = description(discovery, *SHARED).discovery
    assert whole is not None
    assert (whole.stride, whole.separate_optimizers) == (5, False)


def test_held_out_agents_learn_without_discovery(discovery: str) -> None:
    held_out = description(discovery).held_out
    assert held_out is not None
    (group,) = held_out.groups
    assert group.environment.tasks == ("catch_6x3",)
    assert (held_out.updates, held_out.interval) == (11, 20)
    assert group.schedule.validation_length is None
    assert held_out.env_steps == group.schedule.env_steps == group.schedule.warm_up_env_steps + 11 * 6
    assert group.memory_megabytes.parts["objective"] == group.memory_megabytes.parts["meta_optimizer"] == 0


@pytest.mark.parametrize("bindings", [(), SHARED])
def test_memory_is_that_of_the_whole_state(discovery: str, bindings: Sequence[str]) -> None:
    described = description(discovery, *bindings)
    memory, groups = described.memory_megabytes, described.groups
    assert memory.total == pytest.approx(megabytes_of_state(trainer(discovery, *bindings)))
    assert memory.total == pytest.approx(sum(memory.parts.values()))
    for part, size in groups[0].memory_megabytes.parts.items():
        assert memory.parts[part] == pytest.approx(4 * size + 3 * groups[1].memory_megabytes.parts[part])
    optimizers = ("meta_optimizer", "shared_meta_optimizer")
    assert [memory.parts.get(part, 0) > 0 for part in optimizers] == ([False, True] if bindings else [True, False])
    assert (memory.parts["window"] > 0) == (not bindings)
    assert memory.parts["bandits"] > 0


TABULAR = (
    "Group.suite = @TabularGridworlds()",
    "TabularGridworlds.names = ('dense', 'sparse')",
    "Group.agents = 2",
    "Agent.torso = @Tabular()",
)


def test_tables(folder: Path) -> None:
    parts = ("rules/ppo", "agents/small_mlp", "setups/on_policy")
    lines = [*(f"include '{part}.gin'" for part in parts), *TABULAR]
    (folder / "tabular.gin").write_text("\n".join(lines))
    described = describe(trainer(str(folder / "tabular.gin")))
    (group,) = described.groups
    assert len(group.environment.tasks) == 2
    assert group.environment.num_states is not None
    assert group.environment.observation_shape == ()
    assert [head.grown_by for head in described.heads] == ["table", "table"]
    assert group.agent.parameters.parts == {
        "head_logits": 9 * group.environment.num_states,
        "head_v": group.environment.num_states,
    }


def test_environments_on_the_host(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gymnasium")
    parts = ("rules/ppo", "agents/small_mlp", "suites/gymnasium", "setups/on_policy")
    (folder / "host.gin").write_text("\n".join(f"include '{part}.gin'" for part in parts))
    found = trainer(str(folder / "host.gin"))
    described = describe(found)
    assert described.groups[0].environment.on_host
    assert described.memory_megabytes.total == pytest.approx(megabytes_of_state(found))
    text = " ".join(printed(capsys, "host.gin", "--cost").split())
    assert "outside the device observation float32 [4]" in text
    assert "Cost of one update, acting in environments on the host left out" in text
    learning = 2 * 32 * 16 * (4 * 64 + 64 * 64)  # Less than one pass over the batch.
    assert measure_cost(found).flops > learning


@pytest.mark.parametrize(
    ("suite", "resume"),
    [
        ("suites/nethack", "exactly where they were, after playing their episodes' actions again"),
        ("suites/nethack_challenge", "with new episodes: their states cannot be saved"),
    ],
)
def test_dictionaries_and_what_a_resume_loses(
    folder: Path, capsys: pytest.CaptureFixture[str], suite: str, resume: str
) -> None:
    parts = ("rules/ppo", "agents/nethack", suite, "setups/on_policy", "scale/tiny")
    (folder / "nethack.gin").write_text("\n".join(f"include '{part}.gin'" for part in parts))
    described = describe(trainer(str(folder / "nethack.gin")))
    environment = described.groups[0].environment
    assert environment.parts["glyphs"] == {"shape": (21, 79), "dtype": "int16"}
    assert environment.resume == resume
    text = " ".join(printed(capsys, "nethack.gin").split())
    assert "observation glyphs int16 [21, 79], blstats int32 [27], message uint8 [256]" in text
    assert f"resume environments go on {resume}" in text


def test_a_number_is_called_by_its_name_and_learned_ones_are_listed() -> None:
    learned = ("GAE.discount = @Learned()", "Learned.name = 'gamma'", "Learned.initial = 0.9", "Learned.maximum = 1")
    rule = description("ppo_catch", *learned, "Learned.minimum = 0").rule
    assert [number.symbol for number in rule.learned_numbers] == ["gamma"]
    assert rule.value_estimator is not None
    assert rule.value_estimator.parameters["discount"] == rule.learned_numbers[0]
    assert rule.meta_network.parameters.count == 1


# Formulas.


def test_loss_of_disco103() -> None:
    assert description("disco103_catch").rule.loss.formula == (
        "1 KL(pi_hat || logits) + 1 KL(y_hat || y) + 1 KL(z_hat || z(a)) + 1 (1 - last) KL(p_hat || p(a))"
        " + 0.2 CE(two_hot(h(q_hat)), q(a))"
    )


def test_loss_of_ppo() -> None:
    assert description("ppo_catch").rule.loss.formula == (
        "-1 min(rho advantage, clip(rho, 1 -+ 0.2) advantage) + 0.5 * 1/2 (v - v_hat)^2 - 0.04 H(logits)"
    )


def test_costs_that_are_no_constants_are_named() -> None:
    carried = ("loss_terms.Entropy.cost = @Hyperparameter()", "Hyperparameter.name = 'bonus'")
    described = description("ppo_catch", *carried, "Hyperparameter.value = 0.03")
    assert described.rule.loss.formula.endswith(" - bonus H(logits)")
    assert described.groups[0].hyperparameters == {"bonus": 0.03}
    emitted = ("loss_terms.Value.cost = @Output()", "Output.target = 'advantage'")
    assert " + advantage * 1/2 (v - v_hat)^2" in description("ppo_catch", *emitted).rule.loss.formula


@pytest.mark.parametrize(
    ("cost", "formula", "expected"),
    [
        (2.0, "f(x)", "2 f(x)"),
        (2.0, "-f(x)", "-2 f(x)"),
        (-2.0, "-f(x)", "2 f(x)"),
        (0.5, "f(x - y) - g(y)", "0.5 (f(x - y) - g(y))"),
        ("c", "-f(x)", "-c f(x)"),
        ("c", "1/2 x", "c * 1/2 x"),
        (1e-5, "x", "1e-05 x"),
    ],
)
def test_weighted_terms(cost: float | str, formula: str, expected: str) -> None:
    assert weighted(term(cost, formula)) == expected


FORMULAS = {"x": 3.0, "-x": -3.0, "x - y": -2.0, "-x + y": 2.0, "-(x + y)": -8.0, "(x + y)": 8.0, "2 * x": 6.0}


@given(st.lists(st.tuples(st.integers(-9, 9), st.sampled_from(sorted(FORMULAS))), min_size=1, max_size=4))
def test_a_loss_formula_means_the_sum_of_costs_times_terms(terms: list[tuple[int, str]]) -> None:
    text = loss_formula([term(cost / 4, formula) for cost, formula in terms])
    python = re.sub(r"(\d) ([xy(])", r"\1 * \2", text)
    assert eval(python, {"x": 3.0, "y": 5.0}) == pytest.approx(sum(cost / 4 * FORMULAS[name] for cost, name in terms))


# Costs.


def flops(function: Callable[..., Any], *arguments: jax.Array) -> int:
    return count_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_operations_are_counted() -> None:
    x, y = jnp.ones((5, 7)), jnp.ones((7, 3))
    product = 2 * 5 * 7 * 3
    assert flops(jnp.dot, x, y) == product
    assert flops(lambda x: jnp.tanh(x) + 1, x) == 0
    assert flops(jax.grad(lambda y: (x @ y).sum()), y) == 2 * product
    assert flops(jax.vmap(jnp.dot, (0, None)), jnp.ones((4, 5, 7)), y) == 4 * product
    assert flops(jax.checkpoint(jax.jit(jnp.dot)), x, y) == product
    assert flops(lambda p, x: jax.lax.cond(p, lambda x: x @ y, lambda x: x[:, :3], x), jnp.array(True), x) == product
    assert flops(lambda x: jax.lax.scan(lambda c, _: (c, c @ y), x, length=11), x) == 11 * product
    mesh = jax.sharding.AbstractMesh((5,), ("rows",))
    rows = jax.sharding.PartitionSpec("rows")
    spread = jax.shard_map(lambda x: x @ y, mesh=mesh, in_specs=(rows,), out_specs=rows)
    assert flops(spread, x) == product
    image, kernel = jnp.ones((2, 3, 10, 10)), jnp.ones((8, 3, 3, 3))
    convolution = functools.partial(jax.lax.conv, window_strides=(1, 1), padding="VALID")
    assert flops(convolution, image, kernel) == 2 * (2 * 8 * 8 * 8) * (3 * 3 * 3)


def test_cost_counts_every_step_and_epoch_and_reads_no_weights() -> None:
    def unread(initial: Params) -> Params:
        raise AssertionError("the weights were read")

    small = ("TORSO_SIZES = (8,)", "NUM_ENVIRONMENTS = 4", "TRAJECTORY_LENGTH = 3", "EPOCHS = 3", "MINIBATCHES = 2")
    experiment = trainer("ppo_catch", *small).experiment
    cost = measure_cost(Trainer(dataclasses.replace(experiment, weights=unread)))
    torso, policy, value = 64 * 8, 8 * 3, 8 * 1
    acting = 3 * 4 * 2 * (torso + policy)
    targets = (3 + 1) * 4 * 2 * (torso + policy + value)
    epoch = 2 * targets + (3 + 1) * 4 * 2 * (policy + value)  # Nothing wants the gradient of the observation.
    assert cost.flops == acting + targets + 3 * epoch
    assert cost.temp_megabytes is not None
    assert cost.temp_megabytes > 0
    assert cost.compile_seconds > 0
    assert cost.platform == jax.default_backend()


def flops_of_step(name: str, *bindings: str) -> int:
    found = trainer(name, *bindings)
    steps = found.program.trace(found.state_shapes(), jax.ShapeDtypeStruct((), jnp.int32))
    return count_flops(steps.jaxpr.jaxpr)


def test_cost_of_a_meta_step_is_that_of_all_agents_updates() -> None:
    small = ("NUM_ENVIRONMENTS = 2", "TRAJECTORY_LENGTH = 3", "TRAJECTORY_LSTM_SIZE = 6", "INNER_UPDATES = 4")
    one = flops_of_step("lpg_small", *small, "AGENTS = 1")
    assert flops_of_step("lpg_small", *small, "AGENTS = 3") == 3 * one
    update = flops_of_step("lpg_small", *small, "AGENTS = 1", "Experiment.discovery = None")
    assert 4 * 4 * update <= one < 8 * 4 * update  # Each is made once, and once more to be differentiated.


# The verb.


@pytest.mark.parametrize("name", SHIPPED)
def test_text_is_plain_and_fits(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, name)
    assert text.isascii()
    assert "\x1b" not in text
    assert all(len(line) <= 80 and line == line.rstrip() for line in text.splitlines())
    titles = [line.split("  ")[0] for line in text.splitlines() if line and not line.startswith(" ")]
    described = description(name)
    expected = (
        ["Heads"] + ["Agent network"] * (len(described.groups) == 1) + ["Targets", "Meta-network", "Loss", "Learning"]
    )
    expected += [] if described.discovery is None else ["Meta-loss", "Discovery"]
    expected += [] if described.held_out is None else ["Held out"]
    expected += ["Schedule", "State", "Bindings"]
    assert [title for title in titles if title in expected] == expected
    assert titles[0] == name


def test_one_agent_with_a_frozen_rule_reads_as_before_there_were_populations(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = printed(capsys, "ppo_catch").splitlines()
    assert lines[1].split() == ["task", "catch_8x8", "of", "Catch(rows=8,", "columns=8)"]
    text = "\n".join(lines[: [line.split("  ")[0] for line in lines].index("Bindings")])
    assert not re.search("Group|agents|meta-step|lifetime|bandit|Discovery", text)


def test_text_of_a_discovery(discovery: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, discovery)
    assert text.isascii()
    assert all(len(line) <= 80 for line in text.splitlines())
    plain = " ".join(text.split())
    assert "population 7 agents in 2 groups, on 2 tasks" in plain
    assert "Group 1 of 2 4 agents x 2 environments x 3 steps" in plain
    assert "Group 2 of 2 3 agents x 2 environments x 3 steps" in plain
    assert "learning_rate=rate" in plain
    assert "hyperparameters alpha_y = 0.5, rate one of 0.02, 0.03 bandit" in plain
    assert "- 0.01 H(logits) and the mean over its 5 updates and their steps of + 0.5 mean(pi_hat^2)" in plain
    assert "2 new updates (S) of every agent, after 3 updates made again" in plain
    assert "weights Initial, where discovery begins" in plain
    assert "Held out every 20 meta-steps" in plain
    assert "7 meta-steps, 14 updates of an agent" in plain
    memory = description(discovery).memory_megabytes
    assert f"State {memory.total:,.3f} MB" in plain


def test_text_of_many_agents_in_one_group(capsys: pytest.CaptureFixture[str]) -> None:
    plain = " ".join(printed(capsys, "ppo_catch", "--gin.Group.agents=3", "--gin.Group.chunk=1").split())
    (group,) = description("ppo_catch", "Group.agents = 3", "Group.chunk = 1").groups
    params = group.memory_megabytes.parts["agent_params"]
    assert "rule static population 3 agents in 1 group, on 1 task Group 3 agents x 32 environments x 16 steps" in plain
    assert "computed 1 agent of a device at once" in plain
    assert "1,536 environment steps per update; 768,000 in the run" in plain
    assert f"agent params {params:.3f} x 3 = {3 * params:.3f}" in plain


def test_agents_are_counted_by_task(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    parts = ("rules/ppo", "agents/small_mlp", "setups/on_policy")
    lines = [*(f"include '{part}.gin'" for part in parts), *TABULAR]
    (folder / "tabular.gin").write_text("\n".join(lines))

    def said(agents: int, *words: str) -> str:
        lifetime = ("--gin.Group.lifetime=@lifetimes.Fixed()", "--gin.lifetimes.Fixed.env_steps=9999")
        return " ".join(printed(capsys, "tabular.gin", f"--gin.Group.agents={agents}", *lifetime, *words).split())

    assert "agents 1 on each task optimizer" in said(2)
    assert "agents 2 on each task, one more on the first optimizer" in said(5)
    three = "--gin.TabularGridworlds.names=('dense', 'sparse', 'long_dense')"
    assert "agents one on each of the first 2, and later lives on the others" in said(2, three)


def test_what_each_of_some_devices_holds(discovery: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Four agents in one group and three in another have no divisor but 1; six and three are spread over three."""
    assert "7 agents on each of 1 of 8 devices" in " ".join(printed(capsys, discovery, "--devices=8").split())
    config = "ppo_catch", "Group.agents = 6"
    described = describe(trainer(*config), devices=4)
    assert described.devices is not None
    assert (described.devices.used, described.devices.agents) == (3, 2)
    of_agent, whole = described.groups[0].memory_megabytes.total, described.memory_megabytes.total
    assert described.devices.state_megabytes == pytest.approx(2 * of_agent + whole - 6 * of_agent)


def test_what_each_device_of_several_hosts_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """Twelve agents are spread over three of the four devices of each of two hosts."""
    words = "ppo_catch", "--gin.Group.agents=12"
    told = " ".join(printed(capsys, *words, "--devices=4", "--hosts=2").split())
    assert "2 agents on each of 6 of 8 devices of 2 hosts" in told
    assert cli.main(["describe", *words, "--devices=4", "--hosts=5"]) == 1
    assert "12 agents cannot be spread evenly over 5 hosts" in capsys.readouterr().err
    assert cli.main(["describe", *words, "--hosts=2"]) == 2
    assert "--hosts=2 needs --devices" in capsys.readouterr().err


def test_text_says_where_bindings_come_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.gin").write_text("include 'experiments/ppo_catch.gin'\n\nSTEPS = 7\n")
    lines = printed(capsys, "mine.gin", "--gin.SEED=3").splitlines()
    places = {" ".join(line.split()[1:]): line.split()[0] for line in lines[lines.index("") :] if " = " in line}
    assert places["STEPS = 7"] == "mine.gin:3"
    assert re.fullmatch(r"setups/on_policy\.gin:\d+", places["STEPS = 500 overridden"])
    assert [line.split() for line in lines[-1:]] == [["command", "line", "SEED", "=", "3"]]
    assert lines[0].endswith("seed 3")


def test_text_of_a_static_rule(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "ppo_catch").splitlines()
    assert "Meta-network  static: no parameters" in lines
    assert "  - 0.04 H(logits)" in lines
    assert not [line for line in lines if line.startswith("Features")]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(printed(capsys, "disco103_catch", "--format=json", "--gin.SEED=3"))
    fields = {field.name for field in dataclasses.fields(Description)}
    assert document.keys() == fields | {"name", "config_hash", "cost", "bindings"}
    expected = dataclasses.asdict(description("disco103_catch", "SEED = 3"))
    assert {name: document[name] for name in fields} == json.loads(json.dumps(expected))
    assert document["rule"]["meta_network"]["parameters"]["count"] == 754_778
    assert document["groups"][0]["agent"]["optimizer"]["parameters"]["learning_rate"] == 0.01
    assert document["cost"] is None
    seeds = [binding for binding in document["bindings"] if binding["name"] == "SEED"]
    assert [(seed["value"], seed["overridden"]) for seed in seeds] == [("0", True), ("3", False)]
    assert all(binding["line"] > 0 and binding["file"] for binding in document["bindings"])


def test_json_of_a_discovery(discovery: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(printed(capsys, discovery, "--format=json"))
    assert [group["agents"] for group in document["groups"]] == [4, 3]
    assert document["groups"][1]["agent"]["optimizer"]["parameters"]["learning_rate"]["symbol"] == "rate"
    assert document["discovery"]["meta_loss"]["regularizers"][1]["formula"] == "mean(pi_hat^2)"
    assert document["held_out"]["interval"] == 20


def test_json_with_cost(capsys: pytest.CaptureFixture[str]) -> None:
    small = (
        "--gin.EPOCHS=1",
        "--gin.MINIBATCHES=1",
        "--gin.TORSO_SIZES=(4,)",
        "--gin.NUM_ENVIRONMENTS=2",
        "--gin.TRAJECTORY_LENGTH=2",
    )
    document = json.loads(printed(capsys, "ppo_catch", "--format=json", "--cost", *small))
    assert document["cost"].keys() == {"platform", "flops", "temp_megabytes", "compile_seconds"}
    assert document["cost"]["flops"] > 0
    assert "GFLOP" in printed(capsys, "ppo_catch", "--cost", *small)


def test_other_formats_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["describe", "ppo_catch", "--format=md"]) == 2
    assert "--format=md: value should be one of <text|json>" in capsys.readouterr().err


def test_mistakes_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["describe", "ppo_catch", "--gin.STPES=3"]) == 1
    captured = capsys.readouterr()
    assert "STPES" in captured.err
    assert captured.out == ""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(OUR_FOLDER)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, env=environment)


def test_nothing_is_compiled_and_nothing_heavy_is_imported() -> None:
    code = f"""if True:
        import sys, jax
        compiled = []
        jax.monitoring.register_event_duration_secs_listener(
            lambda event, duration, **more: compiled.append(event) if "backend_compile" in event else None)
        from experiments import cli
        assert cli.main(["describe", "disco103_catch"]) == 0
        assert compiled == [], compiled
        assert not [name for name in {HEAVY} if name in sys.modules]
        (jax.numpy.ones(3) * 2).block_until_ready()
        assert compiled, "the listener hears nothing"
        """
    python("-c", code)


def test_it_is_quick() -> None:
    def seconds(*arguments: str) -> float:
        """Of the processor, which other processes do not lengthen as they do those of the clock."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python(*arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare, ours = [], []
    for _ in range(3):
        bare.append(seconds("-c", "import jax, flax, optax"))
        ours.append(seconds("-m", "experiments.cli", "describe", "disco_catch"))
    # 3 s on an idle machine; one that shares its caches imports the libraries more slowly too.
    assert min(ours) < max(3.0, 4 * min(bare))
