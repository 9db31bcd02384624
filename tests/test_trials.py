"""Fresh agents that learn with a rule: whose worlds they meet, what they carry, and how their curves are read."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from components.meta_networks import features
from framework import keys
from framework.config import load
from framework.context import FeatureContext
from framework.experiment import Experiment, HeldOut
from framework.keys import Role
from framework.runs.held_out import Measurement
from framework.train import Trainer
from framework.trials import Curves, Trials
from framework.types import Array

UPDATES = 6
SIZES = ("NUM_ENVIRONMENTS = 4", "TRAJECTORY_LENGTH = 25")
ROOT = keys.root_key(3)


@functools.cache
def trials(config: str, agents: int = 3, *bindings: str) -> Trials:
    experiment = load(config, bindings=(*SIZES, *bindings), root=Experiment).experiment
    (group,) = experiment.groups
    return Trials(experiment.rule, dataclasses.replace(group, agents=agents), UPDATES)


def test_agents_are_spread_over_the_tasks() -> None:
    group = trials("a2c_small").group
    assert len(group.suite.tasks()) > 1
    found = trials("a2c_small", 5).curves({}, ROOT)
    tasks = tuple(group.suite.tasks())
    assert found.tasks == tuple(tasks[index % len(tasks)] for index in range(5))
    assert found.returns.shape == found.episodes.shape == (5, UPDATES)
    assert found.episodes.sum() > 0


def test_same_places_are_the_same_worlds_for_every_rule() -> None:
    """Before the first update every agent of a table acts at random: with the same luck, in the same world."""
    task = trials("a2c_small").group.suite.tasks()[0]
    one, other = (trials(config).curves({}, ROOT, tasks=[task] * 3) for config in ("a2c_small", "ppo_small"))
    np.testing.assert_array_equal(one.returns[:, 0], other.returns[:, 0])
    assert np.any(one.returns[:, 1:] != other.returns[:, 1:])
    assert len(set(one.returns[:, 0])) > 1
    again = trials("a2c_small").curves({}, ROOT, tasks=[task] * 3)
    np.testing.assert_array_equal(one.returns, again.returns)
    elsewhere = trials("a2c_small").curves({}, keys.root_key(4), tasks=[task] * 3)
    assert np.any(one.returns[:, 0] != elsewhere.returns[:, 0])


def test_hyperparameters_given_are_those_of_a_configuration() -> None:
    given = trials("a2c_small").curves({}, ROOT, hyperparameters={"learning_rate": np.array([7.0, 30.0, 7.0])})
    configured = trials("a2c_small", 3, "LEARNING_RATE = 7.0").curves({}, ROOT)
    np.testing.assert_allclose(given.returns[[0, 2]], configured.returns[[0, 2]], atol=1e-5)
    assert np.any(given.returns[1] != configured.returns[1])


def test_rules_with_other_parameters_share_a_program() -> None:
    of_lpg = trials("lpg_small", 3, "TRAJECTORY_LSTM_SIZE = 4", "PREDICTION_CATEGORIES = 3")
    experiment = load("lpg_small", bindings=SIZES, root=Experiment).experiment
    experiment = dataclasses.replace(experiment, rule=of_lpg.rule)
    one, other = (Trainer(experiment).initial_meta_params(jax.random.key(seed)) for seed in (0, 1))
    found = [of_lpg.curves(meta_params, ROOT).returns for meta_params in (one, other)]
    assert of_lpg._program._cache_size() == 1
    np.testing.assert_array_equal(found[0][:, 0], found[1][:, 0])
    assert np.any(found[0] != found[1])


SEEN: list[float] = []


@dataclasses.dataclass(frozen=True)
class WatchedProgress(features.Progress):
    """Writes down what it sees."""

    def __call__(self, context: FeatureContext) -> Array:
        jax.debug.callback(lambda progress: SEEN.append(float(progress)), context.inputs.progress)
        return super().__call__(context)


def test_a_trial_is_a_life() -> None:
    """A rule that reads how much of a life is over is told how much of the trial is."""
    of_lpg = trials("lpg_small", 1, "TRAJECTORY_LSTM_SIZE = 4", "PREDICTION_CATEGORIES = 3")
    network = dataclasses.replace(of_lpg.rule.meta_network, features=(features.Reward(), WatchedProgress()))
    watched = dataclasses.replace(of_lpg, rule=dataclasses.replace(of_lpg.rule, meta_network=network))
    experiment = load("lpg_small", bindings=SIZES, root=Experiment).experiment
    meta_params = Trainer(dataclasses.replace(experiment, rule=watched.rule)).initial_meta_params(jax.random.key(0))
    SEEN.clear()
    watched.curves(meta_params, ROOT)
    assert sorted({round(progress * UPDATES, 4) for progress in SEEN}) == list(range(UPDATES))


def test_held_out_tasks_are_measured_in_the_same_worlds_again_and_again() -> None:
    of_a2c = trials("a2c_small")
    experiment = load("a2c_small", bindings=SIZES, root=Experiment).experiment
    measurement = Measurement(experiment, HeldOut(groups=(of_a2c.group,), updates=UPDATES, interval=4))
    state = SimpleNamespace(meta_params={}, root_key=ROOT)
    found = measurement.measure(state)
    assert found == measurement.measure(state)
    assert found
    assert set(found) <= {f"held_out/{task}" for task in of_a2c.group.suite.tasks()}
    curves = of_a2c.curves({}, jax.random.key_data(jax.random.fold_in(keys.role_key(ROOT, Role.HELD_OUT), 0)))
    for task in curves.tasks:
        late = curves.of_task(task).late_returns()
        if np.isfinite(late).any():
            assert found[f"held_out/{task}"] == pytest.approx(np.nanmean(late))
    assert [step for step in range(1, 12) if measurement.is_due(step, 11)] == [4, 8, 11]


def test_mistakes_are_told() -> None:
    of_a2c = trials("a2c_small")
    tasks = of_a2c.group.suite.tasks()
    with pytest.raises(ValueError, match=f"tasks has nowhere, and the group has only {tasks[0]}"):
        of_a2c.curves({}, ROOT, tasks=["nowhere"] * 3)
    with pytest.raises(ValueError, match="tasks must be one for each of the 3 agents, got 2"):
        of_a2c.curves({}, ROOT, tasks=[tasks[0]] * 2)
    with pytest.raises(ValueError, match=r"reads 'alpha_y' \(there are: learning_rate\)"):
        of_a2c.curves({}, ROOT, hyperparameters={"alpha_y": np.ones(3)})
    with pytest.raises(ValueError, match="learning_rate must be one for each of the 3 agents, got 1"):
        of_a2c.curves({}, ROOT, hyperparameters={"learning_rate": np.ones(1)})


CURVES = Curves(
    tasks=("a", "b", "a", "b"),
    returns=np.array([[1.0, 4.0, 6.0], [0.0, 0.0, 5.0], [0.0, 8.0, 1.0], [2.0, 3.0, 0.0]]),
    episodes=np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0], [1.0, 4.0, 1.0], [1.0, 1.0, 0.0]]),
)


def test_returns_are_means_over_episodes() -> None:
    np.testing.assert_allclose(CURVES.mean_returns(0, 2), [5 / 3, np.nan, 8 / 5, 5 / 2])
    np.testing.assert_allclose(CURVES.mean_returns(0, 3), [11 / 6, 5.0, 9 / 6, 5 / 2])
    np.testing.assert_allclose(CURVES.late_returns(0.1), [2.0, 5.0, 1.0, np.nan])
    np.testing.assert_allclose(CURVES.late_returns(0.5), CURVES.mean_returns(1, 3))


def test_agents_of_a_task() -> None:
    of_b = CURVES.of_task("b")
    assert of_b.tasks == ("b", "b")
    np.testing.assert_array_equal(of_b.returns, CURVES.returns[[1, 3]])
    np.testing.assert_array_equal(CURVES.by_task(np.arange(4.0)), [[0.0, 1.0], [2.0, 3.0]])
