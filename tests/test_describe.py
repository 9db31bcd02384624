"""Descriptions: counts, shapes and formulas of shipped experiments, and the verb that prints them."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import components
from experiments import cli
from framework import config
from framework.cost import count_flops, measure_cost
from framework.describe import configuration, describe, loss_formula, weighted
from framework.description import Component, Description, LossTermDescription
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
    assert described.agent.parameters.parts == {
        "head_logits": 64 * 3 + 3,
        "head_v": 64 + 1,
        "torso": 2 * (64 * 64 + 64),
    }
    assert described.agent.parameters.count == 8_580


def test_environment() -> None:
    environment = description("ppo_catch", "ROWS = 5", "COLUMNS = 4").environment
    assert environment.task == "catch_5x4"
    assert environment.observation_shape == (5, 4, 1)
    assert (environment.observation_dtype, environment.num_actions) == ("float32", 3)
    assert environment.suite == Component("suites", "Catch", {"rows": 5, "columns": 4}, ("rows", "columns"))


@pytest.mark.parametrize("name", ["ppo_catch", "ppo_recurrent_catch"])
def test_memory_is_that_of_the_state(name: str) -> None:
    state = jax.eval_shape(trainer(name).init)
    leaves = jax.tree.leaves((state.agent, state.meta_params))
    memory = description(name).memory_megabytes
    assert memory.total == pytest.approx(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / 1e6)
    assert memory.parts["agent_params"] == pytest.approx(4e-6 * description(name).agent.parameters.count)
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
    experiment, schedule = trainer(name, *bindings).experiment, description(name, *bindings).schedule
    per_update = experiment.num_environments * experiment.trajectory_length
    assert schedule.env_steps_per_update == per_update
    assert schedule.warm_up_env_steps == warm_up * per_update
    assert schedule.env_steps == (experiment.steps + warm_up) * per_update
    assert schedule.fresh + schedule.replayed == schedule.batch_size
    assert (schedule.fresh, schedule.replay_capacity, schedule.uses_per_transition) == (fresh, capacity, uses)
    assert schedule.replay_ratio == pytest.approx(1 - fresh / schedule.batch_size)
    assert schedule.gradient_steps_per_update == experiment.epochs * experiment.minibatches


def test_configurations_name_what_differs_from_defaults() -> None:
    optimizer = configuration(trainer("disco103_catch").experiment.agent.optimizer)
    assert (optimizer.kind, optimizer.name) == ("optimizers", "Adam")
    assert optimizer.changed == ("learning_rate", "max_update")
    assert optimizer.parameters["learning_rate"] == 0.01
    assert optimizer.parameters["max_gradient_norm"] is None


# Formulas.


def test_loss_of_disco103() -> None:
    assert description("disco103_catch").rule.loss.formula == (
        "1 KL(pi_hat || logits) + 1 KL(y_hat || y) + 1 KL(z_hat || z(a)) + 1 (1 - last) KL(p_hat || p(a))"
        " + 0.2 CE(two_hot(h(q_hat)), q(a))"
    )


def test_loss_of_ppo() -> None:
    assert description("ppo_catch").rule.loss.formula == (
        "-1 min(rho advantage, clip(rho, 1 -+ 0.2) advantage) + 0.5 * 1/2 (v - v_hat)^2 - 0.01 H(logits)"
    )


def test_costs_that_are_no_constants_are_named() -> None:
    carried = ("loss_terms.Entropy.cost = @Hyperparameter()", "Hyperparameter.name = 'bonus'")
    described = description("ppo_catch", *carried, "Hyperparameter.value = 0.03")
    assert described.rule.loss.formula.endswith(" - bonus H(logits)")
    assert described.rule.hyperparameters == {"bonus": 0.03}
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
    image, kernel = jnp.ones((2, 3, 10, 10)), jnp.ones((8, 3, 3, 3))
    convolution = functools.partial(jax.lax.conv, window_strides=(1, 1), padding="VALID")
    assert flops(convolution, image, kernel) == 2 * (2 * 8 * 8 * 8) * (3 * 3 * 3)


def test_cost_counts_every_step_and_epoch_and_reads_no_weights() -> None:
    def unread(initial: Params, meta_network: object) -> Params:
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


# The verb.


@pytest.mark.parametrize("name", SHIPPED)
def test_text_is_plain_and_fits(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, name)
    assert text.isascii()
    assert "\x1b" not in text
    assert all(len(line) <= 80 and line == line.rstrip() for line in text.splitlines())
    titles = [line.split("  ")[0] for line in text.splitlines() if line and not line.startswith(" ")]
    expected = [
        "Heads",
        "Agent network",
        "Targets",
        "Meta-network",
        "Loss",
        "Learning",
        "Schedule",
        "State",
        "Bindings",
    ]
    assert [title for title in titles if title in expected] == expected
    assert titles[0] == name


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
    assert "  - 0.01 H(logits)" in lines
    assert not [line for line in lines if line.startswith("Features")]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(printed(capsys, "disco103_catch", "--format=json", "--gin.SEED=3"))
    fields = {field.name for field in dataclasses.fields(Description)}
    assert document.keys() == fields | {"name", "config_hash", "cost", "bindings"}
    expected = dataclasses.asdict(description("disco103_catch", "SEED = 3"))
    assert {name: document[name] for name in fields} == json.loads(json.dumps(expected))
    assert document["rule"]["meta_network"]["parameters"]["count"] == 754_778
    assert document["agent"]["optimizer"]["parameters"]["learning_rate"] == 0.01
    assert document["cost"] is None
    seeds = [binding for binding in document["bindings"] if binding["name"] == "SEED"]
    assert [(seed["value"], seed["overridden"]) for seed in seeds] == [("0", True), ("3", False)]
    assert all(binding["line"] > 0 and binding["file"] for binding in document["bindings"])


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
        started = time.monotonic()
        python(*arguments)
        return time.monotonic() - started

    bare, ours = [], []
    for _ in range(3):
        bare.append(seconds("-c", "import jax, flax, optax"))
        ours.append(seconds("-m", "experiments.cli", "describe", "disco103_catch"))
    # 3 s on an idle machine; a busy one imports the libraries more slowly too.
    assert statistics.median(ours) < max(3.0, 4 * statistics.median(bare))
