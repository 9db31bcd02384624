"""Environments and acting in them: Catch, episodes without end, no transition lost."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from components import heads, loss_terms, optimizers, torsos
from components.meta_networks import static_targets
from components.suites.catch import Catch, CatchEnvironment
from components.value_estimators import GAE
from framework import statistics
from framework.agent import Agent, Network
from framework.environment import Batched
from framework.evaluate import episode_returns
from framework.meta_network import MetaNetwork
from framework.rollout import initial_actor, unroll
from framework.specs import EnvironmentSpec
from framework.testing import check_environment
from framework.types import Array, TimeStep, Trajectory
from framework.update_rule import UpdateRule

RULE = UpdateRule(
    heads=(heads.Policy(),),
    meta_network=MetaNetwork((static_targets.Advantages(),)),
    loss=(loss_terms.WeightedLogProbability(),),
    value_estimator=GAE(),
)
AGENT = Agent(torsos.RecurrentMLP((4,), memory=3), optimizers.SGD(0.1))


@dataclasses.dataclass(frozen=True)
class Counter:
    """Counts its steps: the observation and the reward are the count; an episode ends at the limit, or never."""

    limit: int = 10**6
    spec: EnvironmentSpec = EnvironmentSpec((1,), 2)

    def reset(self, key: Array) -> tuple[Array, Array]:
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, key: Array, state: Array, action: Array) -> tuple[Array, TimeStep]:
        count = state + 1.0
        return count, TimeStep(observation=count[None], reward=count, discount=jnp.ones(()), last=count == self.limit)


def play(environment: CatchEnvironment | Counter, lengths: tuple[int, ...], size: int = 2) -> list[Trajectory]:
    """Trajectories of the given lengths, one after another."""
    network, batched = AGENT.network(RULE, environment.spec), Batched(environment, size)
    params = jax.jit(network.init)(jax.random.key(0))
    actor = initial_actor(network, batched, jax.random.key(1))
    trajectories = []
    for index, length in enumerate(lengths):
        actor, trajectory = jax.jit(unroll, static_argnums=(0, 1, 5))(
            network, batched, params, actor, jax.random.key(2 + index), length
        )
        trajectories.append(trajectory)
    return trajectories


def test_no_transition_is_lost_between_trajectories() -> None:
    parts, (whole,) = play(Counter(), (3, 3, 3)), play(Counter(), (9,))
    for name in ("reward", "discount", "last"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    for before, after in itertools.pairwise(parts):
        np.testing.assert_array_equal(before.observation[-1], after.observation[0])


def test_the_step_that_ends_an_episode_begins_the_next() -> None:
    (trajectory,) = play(Counter(limit=3), (7,), size=1)
    np.testing.assert_array_equal(trajectory.reward[:, 0], [1, 2, 3, 1, 2, 3, 1])
    np.testing.assert_array_equal(trajectory.observation[:, 0, 0], [0, 1, 2, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(trajectory.last[:, 0], [0, 0, 1, 0, 0, 1, 0])
    # A limit, not a termination: cut off without its final observation.
    np.testing.assert_array_equal(trajectory.weight[:, 0], [1, 1, 0, 1, 1, 0, 1])


def test_what_acted_is_what_is_learned_from() -> None:
    """The recurrent policy that acted gives the same logits when its trajectories are unrolled, across episode ends."""
    environment = Catch(rows=4, columns=3).environment("catch")
    network = AGENT.network(RULE, environment.spec)
    params = jax.jit(network.init)(jax.random.key(0))
    for trajectory in play(environment, (5, 5)):
        assert trajectory.last.any()
        outputs = network.unroll(params, trajectory.observation, trajectory.last, trajectory.carry)
        np.testing.assert_allclose(outputs["logits"][:-1], trajectory.behaviour, rtol=1e-4, atol=1e-6)


def test_the_same_key_is_the_same_play() -> None:
    environment = Catch(rows=4, columns=3).environment("catch")
    one, other = play(environment, (4,))[0], play(environment, (4,))[0]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def test_catch_is_played_as_described() -> None:
    environment = Catch(rows=8, columns=8).environment("catch")
    step = jax.jit(environment.step)
    state, observation = environment.reset(jax.random.key(0))
    column = int(state.ball_column)
    assert observation.shape == (8, 8, 1)
    assert observation[0, column, 0] == observation[7, 4, 0] == 1.0
    assert float(observation.sum()) == 2.0
    for row in range(1, 8):
        towards = 1 + int(np.sign(column - int(state.paddle)))
        state, time_step = step(jax.random.key(row), state, jnp.asarray(towards))
        assert bool(time_step.last) == (row == 7)
        assert float(time_step.reward) == float(time_step.last)
        assert float(time_step.discount) == 1.0 - float(time_step.last)
    assert float(step(jax.random.key(0), environment.reset(jax.random.key(0))[0], jnp.asarray(0))[1].reward) == 0.0


def test_a_missed_ball_costs_a_point() -> None:
    environment = Catch(rows=2, columns=9).environment("catch")
    for seed in range(5):
        state, _ = environment.reset(jax.random.key(seed))
        _, time_step = environment.step(jax.random.key(0), state, jnp.asarray(1))
        assert float(time_step.reward) == (1.0 if int(state.ball_column) == 4 else -1.0)


def test_balls_fall_from_every_column() -> None:
    environment = Catch(rows=3, columns=4).environment("catch")
    columns = jax.vmap(lambda key: environment.reset(key)[0].ball_column)(jax.random.split(jax.random.key(0), 64))
    assert set(np.asarray(columns).tolist()) == {0, 1, 2, 3}


def test_boards_must_have_a_bottom() -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        Catch(rows=1)


def test_statistics_count_completed_episodes() -> None:
    found = statistics.initial_statistics(2)
    for reward, last in (([1.0, 2.0], [False, True]), ([1.0, 5.0], [True, False])):
        found = statistics.count_step(found, jnp.asarray(reward), jnp.asarray(last))
    sums, anew = statistics.read(found)
    assert {name: float(x) for name, x in sums.items()} == {"completed": 2.0, "return_sum": 4.0, "length_sum": 3.0}
    assert float(anew.completed) == 0.0
    np.testing.assert_array_equal(anew.running_return, [0.0, 5.0])


def test_evaluation_plays_one_whole_episode_each() -> None:
    environment = Counter(limit=300)  # longer than one call
    network: Network = AGENT.network(RULE, environment.spec)
    params = jax.jit(network.init)(jax.random.key(0))
    returns = episode_returns(network, Batched(environment, 3), params, jax.random.key(0))
    np.testing.assert_allclose(returns, 300 * 301 / 2)


def test_a_termination_that_goes_on_is_found_out() -> None:
    class Careless(Counter):
        def step(self, key: Array, state: Array, action: Array) -> tuple[Array, TimeStep]:
            state, time_step = super().step(key, state, action)
            return state, time_step.replace(discount=jnp.zeros(()))

    with pytest.raises(AssertionError, match="terminates without being over"):
        check_environment(Careless())
