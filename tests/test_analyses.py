"""The analyses of runs, on data and rules whose answers are known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import running

from components.heads import Policy, Prediction
from components.loss_terms import PolicyKL
from components.suites.gridworlds import Gridworld, Gridworlds
from experiments import cli
from experiments.analyses import maps
from experiments.analyses.findings import Findings, write
from experiments.analyses.horizon import by_distance, changes, summary
from experiments.analyses.playing import refuse_without_predictions
from experiments.analyses.predictions import Predictions, discounted_returns, future_entropy, large_reward_ahead
from experiments.analyses.regression import Classification, CrossValidation, Regression
from experiments.analyses.sweeps import Effect, at_distances, over_categories, over_rewards, swept_step
from framework.config import load
from framework.context import FeatureContext
from framework.errors import UserError
from framework.experiment import Experiment
from framework.runs.folder import RunFolder
from framework.types import Array, Params, PyTree, RuleInputs
from framework.update_rule import UpdateRule

STEPS, BATCH, CATEGORIES, ACTIONS = 7, 4, 3, 2

# Regression


def samples(rng: np.random.Generator, trajectories: int = 40, steps: int = 50) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=(trajectories * steps, 3)).astype(np.float32)
    return x, np.repeat(np.arange(trajectories), steps)


def scores(question: Regression | Classification, x: np.ndarray, truth: np.ndarray, trajectory: np.ndarray) -> float:
    found = CrossValidation(steps=400).scores(
        question, (64, 64), x=x, truth=truth[:, None], weight=np.ones((len(x), 1)), trajectory=trajectory
    )
    assert found.shape == (5, 1)
    return float(found.mean())


def test_a_function_of_the_input_is_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    x, trajectory = samples(rng)
    function = np.tanh(x[:, 0]) + 0.5 * x[:, 1] - 3.0
    assert scores(Regression(), x, function, trajectory) > 0.99
    noise = rng.normal(size=len(x))
    assert -0.1 < scores(Regression(), x, noise, trajectory) < 0.05


def test_a_class_that_the_input_tells_is_found_and_a_coin_is_not() -> None:
    rng = np.random.default_rng(1)
    x, trajectory = samples(rng)
    assert scores(Classification(), x, (x[:, 0] + x[:, 1] > 0).astype(np.float32), trajectory) > 0.97
    rare = (rng.random(len(x)) < 0.2).astype(np.float32)
    assert scores(Classification(), x, rare, trajectory) == pytest.approx(1.0 - rare.mean(), abs=0.02)


def test_what_only_the_own_trajectory_tells_is_not_told() -> None:
    """Each trajectory has a number of its own, which its inputs betray: folds of single steps would find R^2 1."""
    rng = np.random.default_rng(2)
    trajectory = np.repeat(np.arange(40), 50)
    betrayed, number = rng.normal(size=(40, 3)), rng.normal(size=40)
    x = (betrayed[trajectory] + 0.01 * rng.normal(size=(2000, 3))).astype(np.float32)
    assert scores(Regression(), x, number[trajectory], trajectory) < 0.3


def test_steps_whose_truth_is_unknown_do_not_count() -> None:
    rng = np.random.default_rng(3)
    x, trajectory = samples(rng)
    truth, known = x[:, :1] * 2.0, rng.random((len(x), 1)) < 0.7
    validation = CrossValidation(steps=400)
    wrong = np.where(known, truth, 100.0)
    given = {"x": x, "weight": known.astype(np.float32), "trajectory": trajectory}
    assert validation.scores(Regression(), (64, 64), truth=wrong, **given).mean() > 0.99


def test_too_few_trajectories_are_refused() -> None:
    x = np.zeros((9, 1), np.float32)
    with pytest.raises(ValueError, match="9 trajectories are too few for 5 folds: record more streams"):
        CrossValidation().scores(Regression(), (4,), x=x, truth=x, weight=x + 1, trajectory=np.arange(9))


# Truths


def test_entropy_ahead_ends_with_the_episode() -> None:
    entropy = np.array([[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]])
    last = np.array([[False, False, True, False, False, False]])
    found, known = future_entropy(entropy, last, window=2)
    assert known.tolist() == [[True, True, False, True, False, False]]
    assert found[known].tolist() == [3.0, 4.0, 24.0]


def test_large_rewards_ahead_end_with_the_episode() -> None:
    reward = np.array([[0.0, 0.0, 1.0, 0.0, 0.0, 1.0]])
    last = np.array([[False, True, False, False, False, False]])
    found, known = large_reward_ahead(reward, last, window=2, threshold=1.0)
    assert known.tolist() == [[True] * 6]  # What is found is known, even where the window passes the end.
    assert found.tolist() == [[False, False, True, False, True, True]]
    found, known = large_reward_ahead(np.zeros((1, 6)), last, window=2, threshold=1.0)
    assert known.tolist() == [[True, True, True, True, True, False]]
    assert not found.any()


def test_returns_are_known_where_little_is_missing() -> None:
    recording = {
        "reward": np.array([[1.0, 2.0, 4.0, 8.0, 1.0, 1.0]]),
        "last": np.array([[False, True, False, True, False, False]]),
        "discount": np.array([[1.0, 0.0, 1.0, 1.0, 1.0, 1.0]]),
    }
    returns, known = discounted_returns(recording, discount=0.2)
    np.testing.assert_allclose(returns, [[1.4, 2.0, 5.6, 8.0, 1.2, 1.0]])
    assert known.tolist() == [[True, True, False, False, True, False]]  # Step 3 was cut off by a limit.


def synthetic_recording(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Agents whose y says which reward comes next and how random the policy will be; whose policy says neither."""
    shape = (40, 40)
    event = rng.random(shape) < 0.3
    entropies = rng.random(shape)
    soon = np.concatenate([entropies[:, 1:], np.zeros((40, 1))], axis=1)
    return {
        "reward": event * 1.0,
        "last": np.zeros(shape, bool),
        "discount": np.ones(shape),
        "entropy": entropies,
        "y": np.stack([event * 2.0, soon, rng.normal(size=shape)], axis=-1),
        "pi": rng.normal(size=(*shape, 2)),
    }


def test_predictions_that_tell_the_future_are_told_from_those_that_do_not() -> None:
    recording = synthetic_recording(np.random.default_rng(4))
    inputs = {name: recording[name] for name in ("pi", "y")}
    found = Predictions(window=1, samples=1200, fit_steps=100).measure(recording, inputs)
    entropy, reward = found["scores"]["entropy"]["inputs"], found["scores"]["large_reward"]
    assert entropy["y"]["entropy"]["mean"] > 0.95
    assert abs(entropy["pi"]["entropy"]["mean"]) < 0.1
    assert reward["inputs"]["y"]["large_reward"]["mean"] > 0.99
    assert reward["majority"] == pytest.approx(0.7, abs=0.05)
    assert reward["inputs"]["pi"]["large_reward"]["mean"] == pytest.approx(reward["majority"], abs=0.05)
    assert found["large_reward_threshold"] == 1.0


# Rules that are known


@dataclasses.dataclass(frozen=True)
class BootstrapsFrom:
    """The prediction ``ahead`` steps later in the same episode; nothing is told where the episode is over."""

    ahead: int
    name: str = "y_hat"
    head: str = "y"
    learned: ClassVar[bool] = True

    def __call__(self, context: FeatureContext) -> Array:
        y, steps = context.inputs.outputs[self.head], context.num_steps
        rows = jnp.arange(steps) + self.ahead
        ended = jnp.cumsum(context.inputs.last, axis=0)
        before = jnp.concatenate([jnp.zeros_like(ended[:1]), ended])
        reached = jnp.minimum(rows, steps)
        inside = (rows <= steps)[:, None] & (before[reached] == before[:-1])
        return jnp.where(inside[..., None], y[reached], 0.0)


@dataclasses.dataclass(frozen=True)
class RewardAndPrediction:
    """Three times the reward, plus the reward of the next step, plus twice the next y's probability of category 2."""

    name: str = "pi_hat"
    learned: ClassVar[bool] = True

    def __call__(self, context: FeatureContext) -> Array:
        reward = context.inputs.reward
        following = jnp.concatenate([reward[1:], jnp.zeros_like(reward[:1])])
        y = jax.nn.softmax(context.inputs.outputs["y"])[1:, :, 2]
        return 3.0 * reward + following + 2.0 * y


@dataclasses.dataclass(frozen=True)
class Doubled:
    """Policy logits of half the temperature."""

    name: str = "pi_hat"
    learned: ClassVar[bool] = True

    def __call__(self, context: FeatureContext) -> Array:
        return 2.0 * context.steps(context.inputs.outputs["logits"])


@dataclasses.dataclass(frozen=True)
class Computes:
    """A meta-network without parameters whose targets count as learned."""

    targets: tuple[Any, ...]

    def initial_carry(self) -> tuple[()]:
        return ()

    def __call__(self, meta_params: Params, inputs: RuleInputs, estimates: None, carry: PyTree) -> tuple[Any, PyTree]:
        context = FeatureContext(inputs, estimates)
        return {target.name: target(context) for target in self.targets}, carry


def known_rule(*targets: Any) -> UpdateRule:
    network: Any = Computes(targets)
    return UpdateRule(heads=(Policy(), Prediction(categories=CATEGORIES)), meta_network=network, loss=(PolicyKL(),))


def rule_inputs(rng: np.random.Generator, last: np.ndarray) -> RuleInputs:
    shape = (STEPS, BATCH)
    return RuleInputs(
        outputs={
            "logits": jnp.asarray(rng.normal(size=(STEPS + 1, BATCH, ACTIONS))),
            "y": jnp.asarray(rng.normal(size=(STEPS + 1, BATCH, CATEGORIES))),
        },
        target_outputs=None,
        behaviour=jnp.zeros((*shape, ACTIONS)),
        action=jnp.zeros(shape, jnp.int32),
        reward=jnp.asarray(rng.normal(size=shape)),
        discount=jnp.where(last, 0.0, 1.0),
        last=jnp.asarray(last),
        weight=jnp.ones(shape),
        hyperparameters={},
        progress=jnp.zeros(()),
    )


@pytest.mark.parametrize("planted", [0, 1, 3])
def test_a_planted_horizon_is_found(planted: int) -> None:
    rng = np.random.default_rng(planted)
    last = np.zeros((STEPS, BATCH), bool)
    last[3, :2] = True
    rule, inputs = known_rule(BootstrapsFrom(planted)), rule_inputs(rng, last)
    found = changes(rule, "y", ("y_hat",), {}, inputs, rule.initial_carry(), jax.random.key(0))["y_hat"]
    curve = summary(by_distance(np.asarray(found)[None], last[None]))
    assert curve["peak"] == curve["reach"] == planted
    assert curve["change"][planted] > 0.1
    assert [k for k, change in enumerate(curve["change"]) if change > 0] == [planted]
    assert np.nansum(curve["across"]) == 0.0


def test_pairs_are_counted_by_whether_an_episode_ends_between_them() -> None:
    last = np.zeros((1, 3, 1), bool)
    last[0, 1] = True
    found = by_distance(np.ones((1, 4, 3, 1)), last)
    assert found["pairs"].tolist() == [3.0, 2.0, 0.0, 0.0]  # Rows 0 and 1, and 2 and 3, are of one episode.
    np.testing.assert_array_equal(found["across"], [np.nan, 1.0, 1.0, 1.0])


def test_a_known_rule_is_explained() -> None:
    rng = np.random.default_rng(5)
    last = np.zeros((STEPS, BATCH), bool)
    last[2, 0] = True
    rule, inputs = known_rule(RewardAndPrediction()), rule_inputs(rng, last)
    effect, carry, step = Effect(rule, "pi_hat"), rule.initial_carry(), 3
    rewards = np.linspace(-1.0, 1.0, 5)
    swept = np.asarray(over_rewards(effect, step, jnp.asarray(rewards), {}, inputs, carry))
    by_reward = at_distances(swept[None], last[None], step, row=step)
    slopes = (by_reward[:, -1] - by_reward[:, 0]) / 2.0
    np.testing.assert_allclose(slopes, [3.0, 1.0, 0.0, 0.0], atol=1e-5)
    swept = np.asarray(over_categories(effect, "y", step + 1, {}, inputs, carry))
    by_category = at_distances(swept[None], last[None], step, row=step + 1)
    np.testing.assert_allclose(by_category[0] - by_category[0, 0], [0.0, 0.0, 2.0 * (0.9 - 0.05)], atol=1e-5)
    np.testing.assert_allclose(np.ptp(by_category[1:], axis=1), 0.0, atol=1e-6)


def test_a_step_with_a_past_is_swept() -> None:
    last = np.zeros((1, 9, 1), bool)
    last[0, [3, 7]] = True
    assert swept_step(last) == 2  # Steps 3 and 7 end episodes, and step 6 leaves too little behind it.
    assert swept_step(np.zeros((1, 9, 1), bool)) == 5


def test_effects_on_a_policy_are_changes_of_its_logarithm() -> None:
    rule = known_rule(Doubled())
    inputs = rule_inputs(np.random.default_rng(6), np.zeros((STEPS, BATCH), bool))
    logits = inputs.outputs["logits"][:STEPS]
    expected = jax.nn.log_softmax(2.0 * logits)[..., 0] - jax.nn.log_softmax(logits)[..., 0]
    found = Effect(rule, "pi_hat")({}, inputs, rule.initial_carry())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert float(jnp.abs(found).max()) > 0.1


# Maps


def test_sites_are_placed_as_they_are_drawn() -> None:
    walls = (".#.", "...", ".#.")
    suite = Gridworlds((Gridworld("cross", 3, 3, ((1, 1.0, 0.0, 0.0),), walls=walls),))
    level = suite.level("cross")
    cells = [(row, column) for row in range(3) for column in range(3) if walls[row][column] == "."]
    assert maps.places_of_sites(level).tolist() == [list(cell) for cell in cells]
    assert maps.distances(level, np.array([0])).tolist() == [0, 2, 1, 1, 2, 2, 2]


def test_a_map_shows_what_differs_between_cells() -> None:
    rng = np.random.default_rng(7)
    planted, common = rng.normal(size=6), rng.normal(size=(2, 1, 3))
    predictions = common + 0.1 * np.array([[0.0], [1.0]])[..., None] * planted[:, None] * np.array([1.0, -1.0, 0.0])
    found = [maps.Snapshot(index, prediction, prediction, 0.0) for index, prediction in enumerate(predictions)]
    component, explained = maps.principal_component(found)
    assert explained == pytest.approx(1.0)
    np.testing.assert_allclose(component[0], 0.0, atol=1e-9)
    assert abs(np.corrcoef(component[1], planted)[0, 1]) == pytest.approx(1.0)


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A discovery on Catch and on grid worlds."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    logging = running.intervals(logging=1, checkpoints=1, evaluation=1, episodes=1)
    assert running.run(running.SMALL_DISCOVERY, *logging, folder=folder, steps=2) == 0
    return folder


def analyse(*words: str) -> int:
    return cli.main(["analyse", *words])


@pytest.mark.parametrize(
    ("what", "flags"),
    [
        ("horizon", ["--group=1", "--streams=2", "--step=1"]),
        ("map", ["--group=1", "--task=tall", "--updates=3", "--snapshots=3"]),
        ("rule", ["--group=1", "--streams=2", "--rewards=3"]),
    ],
)
def test_an_analysis_writes_numbers_a_picture_and_a_paragraph(
    what: str, flags: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / what
    assert analyse(what, str(run), f"--out={out}", *flags) == 0
    printed = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"numbers.json", "figure.png", "findings.md"}
    numbers = json.loads((out / "numbers.json").read_text())
    assert numbers["source"]
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert " ".join((out / "findings.md").read_text().split("\n\n")[1].split()) == printed.split("\n\n")[0]
    assert analyse(what, str(run), f"--out={out}", *flags) == 1
    assert "holds an earlier analysis: name another folder by --out, or give --overwrite" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path != out]


def test_results_go_into_the_run_folder_and_the_run_goes_on(run: Path) -> None:
    assert analyse("horizon", str(run.parent), "--streams=2") == 0
    first = (run / "analyses" / "horizon" / "numbers.json").read_bytes()
    assert RunFolder(run).result() is not None
    with RunFolder(run).claimed():  # Its own files have not become another's.
        pass
    # The same is said again, and may take the place of what was said before.
    assert analyse("horizon", str(run), "--streams=2", "--overwrite") == 0
    assert (run / "analyses" / "horizon" / "numbers.json").read_bytes() == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["horizn", "{run}"], "there is no analysis 'horizn'. Did you mean 'horizon'?"),
        (["horizon", "{run}/nowhere"], "there is no folder"),
        (["horizon", "{run}/checkpoints"], "there is no run in"),
        (["horizon", "{run}", "--step=77"], "holds no checkpoint of step 77 (there are: 1, 2)"),
        (["horizon", "{run}", "--group=7"], "the run has 2 groups, the first is 0: there is no group 7"),
        (["horizon", "{run}", "--window=3"], "the analysis 'horizon' knows no --window: it takes --streams"),
        (["horizon", "{run}", "--streams=0"], "analyse horizon: streams and steps must be at least 1"),
        (["map", "{run}", "--group=0"], "a map needs a grid world"),
        (["map", "{run}", "--group=1", "--task=tal"], "the group has no task 'tal'. Did you mean 'tall'?"),
        (["rule", "{run}", "--target=pihat"], "the run's rule has no target 'pihat'. Did you mean 'pi_hat'?"),
        (["record", "{run}", "--format=tfrecords"], "there is no format 'tfrecords'. Did you mean 'tfrecord'?"),
        (["predictions", "{run}", "--streams=1", "--steps=9", "--window=2"], "trajectories tell the entropy"),
    ],
)
def test_mistakes_are_told(
    words: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyse(*(word.format(run=run) for word in words), f"--out={tmp_path / 'out'}") == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_a_rule_without_predictions_has_no_horizon() -> None:
    with pytest.raises(UserError, match="the run's rule emits no target for a prediction of the agents"):
        refuse_without_predictions(load("ppo_catch", root=Experiment).experiment.rule)


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    def fails(figure: object) -> None:
        raise UserError("the picture cannot be drawn")

    with pytest.raises(UserError, match="cannot be drawn"):
        write(Findings({"a": 1}, "What it found.", fails), tmp_path / "deep" / "found", title="Found")
    assert not list((tmp_path / "deep").iterdir())
