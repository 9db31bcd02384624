"""Environments and acting in them: Catch, episodes without end, no transition lost."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from components import heads, loss_terms, optimizers, torsos
from components.meta_networks import static_targets
from components.suites.catch import Catch, CatchEnvironment, CatchState
from components.value_estimators import GAE
from framework import statistics
from framework.agent import Agent, Network
from framework.environment import Batched
from framework.evaluate import episode_returns
from framework.meta_network import MetaNetwork
from framework.rollout import initial_actor, unroll
from framework.specs import EnvironmentSpec
from framework.testing import check_environment, check_suite
from framework.types import ActingParams, Array, PyTree, TimeStep, Trajectory
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

    def draw_task(self, key: Array, level: PyTree) -> PyTree:
        return level

    def reset(self, key: Array, task: PyTree) -> tuple[Array, Array]:
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, key: Array, task: PyTree, state: Array, action: Array) -> tuple[Array, TimeStep]:
        count = state + 1.0
        return count, TimeStep(observation=count[None], reward=count, discount=jnp.ones(()), last=count == self.limit)


def play(environment: CatchEnvironment | Counter, lengths: tuple[int, ...], size: int = 2) -> list[Trajectory]:
    """Trajectories of the given lengths, one after another."""
    network, batched = AGENT.network(RULE, environment.spec), Batched(environment, size)
    params = jax.jit(network.init)(jax.random.key(0))
    task = environment.draw_task(jax.random.key(3), ())
    actor = initial_actor(network, batched, task, jax.random.key(1))
    trajectories = []
    for index, length in enumerate(lengths):
        actor, trajectory = jax.jit(unroll, static_argnums=(0, 1, 6))(
            network, batched, task, ActingParams(params), actor, jax.random.key(4 + index), length
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
    state, observation = environment.reset(jax.random.key(0), ())
    column = int(state.ball_column)
    assert observation.shape == (8, 8, 1)
    assert observation[0, column, 0] == observation[7, 4, 0] == 1.0
    assert float(observation.sum()) == 2.0
    for row in range(1, 8):
        towards = 1 + int(np.sign(column - int(state.paddle)))
        state, time_step = step(jax.random.key(row), (), state, jnp.asarray(towards))
        assert bool(time_step.last) == (row == 7)
        assert float(time_step.reward) == float(time_step.last)
        assert float(time_step.discount) == 1.0 - float(time_step.last)
    assert (
        float(step(jax.random.key(0), (), environment.reset(jax.random.key(0), ())[0], jnp.asarray(0))[1].reward) == 0.0
    )


def test_a_missed_ball_costs_a_point() -> None:
    environment = Catch(rows=2, columns=9).environment("catch")
    for seed in range(5):
        state, _ = environment.reset(jax.random.key(seed), ())
        _, time_step = environment.step(jax.random.key(0), (), state, jnp.asarray(1))
        assert float(time_step.reward) == (1.0 if int(state.ball_column) == 4 else -1.0)


def test_balls_fall_from_every_column() -> None:
    environment = Catch(rows=3, columns=4).environment("catch")
    columns = jax.vmap(lambda key: environment.reset(key, ())[0].ball_column)(jax.random.split(jax.random.key(0), 64))
    assert set(np.asarray(columns).tolist()) == {0, 1, 2, 3}


def test_boards_must_have_a_bottom() -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        Catch(rows=1)


def test_statistics_count_completed_episodes() -> None:
    found = statistics.initial_statistics(2)
    for reward, last in (([1.0, 2.0], [False, True]), ([1.0, 5.0], [True, False])):
        found = statistics.count_step(found, jnp.asarray(reward), jnp.asarray(last))
    assert [float(x) for x in (found.completed, found.return_sum, found.length_sum)] == [2.0, 4.0, 3.0]
    anew = statistics.with_sums_reset(found)
    assert [float(x) for x in (anew.completed, anew.return_sum, anew.length_sum)] == [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(anew.running_return, [0.0, 5.0])


class Measured(CatchEnvironment):
    """Catch that tells how often a ball was caught."""

    @property
    def spec(self) -> EnvironmentSpec:
        return dataclasses.replace(super().spec, episode_numbers=("ball/caught",))

    def step(self, key: Array, task: PyTree, state: CatchState, action: Array) -> tuple[CatchState, TimeStep]:
        state, time_step = super().step(key, task, state, action)
        return state, time_step.replace(episode_numbers={"ball/caught": (time_step.reward > 0) * 1.0})


def test_episodes_are_measured_by_more_than_their_returns() -> None:
    environment = Measured(3, 3)
    check_environment(environment, ())
    network = AGENT.network(RULE, environment.spec)
    environments, params = Batched(environment, 8), jax.jit(network.init)(jax.random.key(0))
    actor = initial_actor(network, environments, (), jax.random.key(1))
    actor, trajectory = unroll(network, environments, (), ActingParams(params), actor, jax.random.key(2), 6)
    found = actor.statistics
    caught = float((trajectory.reward > 0).sum())
    assert float(found.completed) == 24
    assert 0 < caught < 24
    assert float(found.number_sums["ball/caught"]) == caught
    assert float(statistics.with_sums_reset(found).number_sums["ball/caught"]) == 0.0


def test_evaluation_plays_one_whole_episode_each() -> None:
    environment = Counter(limit=300)  # longer than one call
    network: Network = AGENT.network(RULE, environment.spec)
    params = jax.jit(network.init)(jax.random.key(0))
    returns = episode_returns(network, Batched(environment, 3), (), ActingParams(params), jax.random.key(0))
    np.testing.assert_allclose(returns, 300 * 301 / 2)


def test_a_termination_that_goes_on_is_found_out() -> None:
    class Careless(Counter):
        def step(self, key: Array, task: PyTree, state: Array, action: Array) -> tuple[Array, TimeStep]:
            state, time_step = super().step(key, task, state, action)
            return state, time_step.replace(discount=jnp.zeros(()))

    with pytest.raises(AssertionError, match="terminates without being over"):
        check_environment(Careless(), ())


@dataclasses.dataclass(frozen=True)
class Shaped:
    """A suite whose levels are arrays of different shapes."""

    def tasks(self) -> Sequence[str]:
        return ("one", "three")

    def environment(self, task: str) -> Counter:
        return Counter()

    def level(self, task: str) -> PyTree:
        return jnp.zeros(len(task))


def test_levels_of_different_forms_are_found_out() -> None:
    with pytest.raises(AssertionError, match="one of several levels of the same environment"):
        check_suite(Shaped())


def test_a_state_outside_the_table_is_found_out() -> None:
    @dataclasses.dataclass(frozen=True)
    class Table(Counter):
        spec: EnvironmentSpec = EnvironmentSpec((), 2, observation_dtype="int32", num_states=10)

        def reset(self, key: Array, task: PyTree) -> tuple[Array, Array]:
            return jnp.zeros(()), jnp.zeros((), jnp.int32)

        def step(self, key: Array, task: PyTree, state: Array, action: Array) -> tuple[Array, TimeStep]:
            state, time_step = super().step(key, task, state, action)
            return state, time_step.replace(observation=state.astype(jnp.int32))

    with pytest.raises(AssertionError, match="shows states from 1 to 40, the spec has 10"):
        check_environment(Table(), ())


@dataclasses.dataclass(frozen=True)
class Dice:
    """Throws dice that tell a step's key from a reset's."""

    spec: EnvironmentSpec = EnvironmentSpec((1,), 2)

    def draw_task(self, key: Array, level: PyTree) -> PyTree:
        return level

    def reset(self, key: Array, task: PyTree) -> tuple[Array, Array]:
        thrown = jax.random.uniform(key, (1,))
        return thrown, thrown

    def step(self, key: Array, task: PyTree, state: Array, action: Array) -> tuple[Array, TimeStep]:
        thrown = jax.random.uniform(key)
        return state, TimeStep(observation=state, reward=thrown, discount=jnp.ones(()), last=jnp.ones((), bool))


def test_no_two_environments_steps_or_resets_share_their_randomness() -> None:
    batched = Batched(Dice(), 50)
    first, _ = batched.reset(jax.random.key(0), ())
    second, time_step = batched.step(jax.random.key(1), (), first, jnp.zeros(50, jnp.int32))
    thrown = np.concatenate([np.ravel(first), np.ravel(second), np.ravel(time_step.reward)])
    assert len(np.unique(thrown)) == 150
    np.testing.assert_array_equal(time_step.observation, second)
