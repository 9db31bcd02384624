"""Value-based rules: what they learn from actions at random is enough to act well."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from components.replays import LEAST_PRIORITY, Prioritized
from framework.config import load
from framework.experiment import Experiment
from framework.interfaces import DistributionHead, ValueHead
from framework.lifecycle import Lifecycle
from framework.types import AgentState, Array, Params, Place, TimeStep, Trajectory

RULES = ("dqn", "q_lambda", "c51", "qr_dqn", "rainbow")

UPDATES = 250
EPISODES = 64


SETUPS = {"rainbow": "prioritized"}
"""Where not from fresh trajectories alone."""


def experiment(folder: Path, rule: str) -> Experiment:
    """Agents with a value-based rule and a dueling network on a small board of Catch."""
    file = folder / f"{rule}.gin"
    file.write_text(f"""# Acts at random, whatever is learned.
include 'rules/{rule}.gin'
include 'agents/small_action_values.gin'
include 'suites/catch.gin'
include 'setups/{SETUPS.get(rule, "on_policy")}.gin'

EPSILON = 1.0
ACTION_MODEL = @Dueling()
TARGET_DECAY = 0.9
LEARNING_RATE = 3e-3
ROWS = 5
COLUMNS = 5
""")
    bindings = {
        "c51": ["MINIMUM = -2.0", "MAXIMUM = 2.0"],
        "rainbow": ["MINIMUM = -2.0", "MAXIMUM = 2.0"],
        "qr_dqn": ["QUANTILES = 20"],
    }
    return load(str(file), bindings=bindings.get(rule, []), root=Experiment).experiment


@pytest.mark.parametrize("rule", RULES)
def test_are_built_of_what_they_need(tmp_path: Path, rule: str) -> None:
    built = experiment(tmp_path, rule).rule
    assert [head.name for head in built.heads] == ["q"]
    assert [term.head for term in built.loss] == ["q"]
    assert isinstance(built.head("q"), DistributionHead) == (rule in ("c51", "qr_dqn", "rainbow"))


def greedy_return(lifecycle: Lifecycle, params: Params, key: Array) -> Array:
    """Mean return of episodes in which the actions of largest value are taken."""
    environment, network = lifecycle.environments.environment, lifecycle.network
    head = lifecycle.rule.head("q")
    assert isinstance(head, ValueHead)

    def play(key: Array) -> Array:
        state, observation = environment.reset(key, ())

        def step(carry: tuple, _: None) -> tuple[tuple, Array]:
            state, observation, over = carry
            outputs = network.unroll(params, observation[None, None], jnp.zeros((0, 1), bool), ())
            action = head.read(outputs["q"])[0, 0].argmax(-1)
            state, shown = environment.step(key, (), state, action)
            assert isinstance(shown, TimeStep)
            return (state, shown.observation, over | shown.last), jnp.where(over, 0.0, shown.reward)

        return jax.lax.scan(step, (state, observation, jnp.zeros((), bool)), length=environment.rows - 1)[1].sum()

    return jax.vmap(play)(jax.random.split(key, EPISODES)).mean()


def born(lifecycle: Lifecycle, root: Array) -> AgentState:
    zero = jnp.zeros((), jnp.int32)
    return lifecycle.birth(root, Place(task_index=zero, arm=zero, births=zero, share=jnp.ones(())))


@pytest.mark.parametrize("rule", ["dqn", *(pytest.param(rule, marks=pytest.mark.slow) for rule in RULES[1:])])
def test_greedy_actions_of_what_is_learned_at_random_are_good(tmp_path: Path, rule: str) -> None:
    found = experiment(tmp_path, rule)
    lifecycle = Lifecycle(found.rule, found.groups[0])

    @jax.jit
    def learned(root: Array) -> Array:
        agent = born(lifecycle, root)
        data = jax.random.key_data(root)
        agent = jax.lax.fori_loop(0, UPDATES, lambda i, agent: lifecycle.advance({}, agent, data, i)[0], agent)
        return greedy_return(lifecycle, agent.learner.params, root)

    assert learned(jax.random.key(0)) >= 0.9


# --- replay by priority


def test_an_update_tells_the_replay_how_far_off_its_values_were(tmp_path: Path) -> None:
    found, root = experiment(tmp_path, "dqn"), jax.random.key(0)
    group = dataclasses.replace(found.groups[0], replay=Prioritized(capacity=12, batch_size=6), num_environments=4)
    lifecycle = Lifecycle(found.rule, group)

    @jax.jit
    def advanced() -> tuple[AgentState, AgentState, Trajectory, Array]:
        before = lifecycle.newborn(root, 0, lifecycle.hyperparameters())
        after, (batch, _) = lifecycle.advance({}, before, jax.random.key_data(root), jnp.asarray(0))
        errors = found.rule.errors({}, lifecycle.learner.rule_inputs(before.learner, batch))
        return before, after, batch, errors

    before, after, batch, errors = advanced()
    assert batch.importance.shape == batch.action.shape
    np.testing.assert_array_equal(before.replay.priorities, 0.0)
    told = np.asarray(after.replay.priorities)
    of_drawn = np.asarray(errors) + LEAST_PRIORITY
    remembered = after.replay.ring.trajectories.observation
    for slot, priority in enumerate(told[:4]):
        same = np.all(batch.observation == remembered[slot][:, None], axis=(0, 2, 3, 4))
        expected = of_drawn[same].max() if same.any() else 1.0  # of a fresh one, until it is drawn
        np.testing.assert_allclose(priority, expected, rtol=1e-4)
    np.testing.assert_array_equal(told[4:], 0.0)


def test_the_loss_counts_each_trajectory_by_its_importance(tmp_path: Path) -> None:
    found = experiment(tmp_path, "dqn")
    lifecycle = Lifecycle(found.rule, found.groups[0])
    learner, trajectory = jax.jit(lifecycle.newborn_and_trajectory)(jax.random.key(0))
    targets, _, _ = lifecycle.learner.compute_targets({}, learner, trajectory)
    columns = trajectory.action.shape[1]

    @jax.jit
    def loss(importance: Array | None) -> Array:
        given = (trajectory.replace(importance=importance), learner.hyperparameters)
        return lifecycle.learner.loss(learner.params, targets, given)[0]

    one_by_one = jax.vmap(loss)(jnp.eye(columns)[:, None, :] * jnp.ones(trajectory.action.shape))
    np.testing.assert_allclose(one_by_one.sum(), loss(None), rtol=1e-4)
    weights = jnp.linspace(0.0, 1.0, columns)
    weighted = loss(jnp.broadcast_to(weights, trajectory.action.shape))
    np.testing.assert_allclose(weighted, (weights * one_by_one).sum(), rtol=1e-4)


def test_priorities_need_a_value_estimator(tmp_path: Path) -> None:
    found = experiment(tmp_path, "rainbow")
    without = dataclasses.replace(found.rule, value_estimator=None, normalizer=None)
    messages = [problem.message for problem in found.groups[0].problems(without)]
    assert "the replay's priorities are errors of value estimates: bind UpdateRule.value_estimator" in messages
