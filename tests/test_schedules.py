"""Numbers that move with an agent's experience, and how agents act by them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import lottery
import numpy as np
import pytest
from plain_updates import COMPILE_FAST

from components import behaviours, heads, optimizers, torsos
from components.meta_networks import static_targets
from framework.agent import Agent
from framework.errors import UserError
from framework.lifecycle import Lifecycle
from framework.numbers import ENV_STEPS, Hyperparameter, Schedule
from framework.specs import EnvironmentSpec


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_schedule_warms_up_and_then_moves(shape: str) -> None:
    schedule = Schedule(initial=3.0, final=1.0, env_steps=1100.0, warm_up=100.0, shape=shape)
    steps = jnp.asarray([0.0, 50.0, 100.0, 350.0, 600.0, 1100.0, 9000.0])
    quarter = 2.5 if shape == "linear" else 2.0 + np.cos(np.pi / 4)
    found = schedule.resolve({ENV_STEPS: steps}, {})
    np.testing.assert_allclose(found, [0.0, 1.5, 3.0, quarter, 2.0, 1.0, 1.0], rtol=1e-6)


def test_without_a_warm_up_it_begins_at_its_initial_value() -> None:
    assert float(Schedule(0.5, 2.0, 10.0).value(jnp.asarray(0.0))) == 0.5


def test_what_no_schedule_can_be() -> None:
    with pytest.raises(ValueError, match="env_steps must be more than warm_up=100, got 100"):
        Schedule(1.0, 0.0, 100.0, warm_up=100.0)
    with pytest.raises(ValueError, match="warm_up must not be negative"):
        Schedule(1.0, 0.0, 100.0, warm_up=-1.0)
    with pytest.raises(ValueError, match="name must not be 'env_steps', which schedules read"):
        Hyperparameter("env_steps", 1.0)
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        optimizers.Adam(Schedule(0.0, 1.0, 10.0))
    with pytest.raises(ValueError, match="learning_rate must be positive, or fall to 0"):
        optimizers.Adam(Schedule(1.0, -1.0, 10.0))
    with pytest.raises(ValueError, match="temperature must be positive"):
        static_targets.TopHalfWeights(temperature=Schedule(1.0, 1.0, 10.0, warm_up=1.0))
    with pytest.raises(ValueError, match=r"epsilon must lie in \[0, 1\]"):
        behaviours.EpsilonGreedy(epsilon=Schedule(2.0, 0.1, 10.0))


Q, SPEC = heads.CategoricalActionValue(limit=5), EnvironmentSpec((3,), 4)


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 1.0])
def test_epsilon_greedy(epsilon: float) -> None:
    output = jax.random.normal(jax.random.key(0), (6, 2, 4, Q.size(SPEC)))
    logits = behaviours.EpsilonGreedy(epsilon=epsilon)(output, Q, {})
    best = np.asarray(Q.read(output)).argmax(-1)
    expected = np.full((6, 2, 4), epsilon / 4)
    np.put_along_axis(expected, best[..., None], 1 - epsilon + epsilon / 4, axis=-1)
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=1e-6)


def test_epsilon_greedy_needs_action_values() -> None:
    with pytest.raises(UserError, match="the head 'v' does not predict the values of actions"):
        behaviours.EpsilonGreedy("v")(jnp.zeros((2, 1)), heads.Value(), {})


def test_a_learning_rate_follows_the_agents_own_updates() -> None:
    """Two environments of three steps are six environment steps an update."""
    (group,) = lottery.experiment(None, mortal=False).groups
    rate = Schedule(initial=1.0, final=0.0, env_steps=60.0)
    group = dataclasses.replace(group, agent=Agent(torsos.MLP((5,)), optimizers.SGD(rate)))
    lifecycle = Lifecycle(lottery.experiment(None).rule, group)
    state, trajectory = lifecycle.newborn_and_trajectory(jax.random.key(0))
    meta_params = lifecycle.initial_meta_params(jax.random.key(1))
    update = jax.jit(lifecycle.learner.update, compiler_options=COMPILE_FAST)
    after, _ = update(meta_params, state, trajectory, jax.random.key(2))
    later, _ = update(meta_params, state.replace(updates=jnp.asarray(5)), trajectory, jax.random.key(2))
    never, _ = update(meta_params, state.replace(updates=jnp.asarray(10)), trajectory, jax.random.key(2))
    for before, x, y, z in zip(*map(jax.tree.leaves, (s.params for s in (state, after, later, never))), strict=True):
        np.testing.assert_allclose(0.5 * (x - before), y - before, rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(z, before)
