"""Playing complete episodes with a policy that no longer changes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from framework import hosts, keys
from framework.agent import Network
from framework.environment import Batched
from framework.host_environments.arrays import STAND_STILL
from framework.host_environments.crew import usable_cores
from framework.host_environments.pool import HostPool
from framework.host_environments.programs import next_action
from framework.interfaces import HostEnvironment
from framework.lifecycle import Lifecycle
from framework.rollout import act, initial_actor
from framework.train import Trainer
from framework.types import ActingParams, ActorState, Array, LearnerState, Life, Observation, PyTree, TrainState

STEPS_PER_CALL = 256

STREAMS_OF_A_WORKER = 8
"""On the host, the least that a second process is started for."""


def final_returns(trainer: Trainer, state: TrainState) -> dict[str, list[float]] | None:
    """{task: mean return of each agent that ended on it}, group after group; ``None`` if no episodes were asked for.

    The episodes are complete ones, in environments of their own. All processes call it, each for its own agents.
    """
    episodes = trainer.experiment.evaluation.episodes
    if episodes == 0:
        return None
    key = keys.role_key(jnp.asarray(hosts.whole(state.root_key)), keys.Role.EVALUATION)
    own: list[tuple[int, int, str, float]] = []
    for population, group in zip(trainer.populations, state.groups, strict=True):
        agents = hosts.own_rows((group.agents.life, group.agents.learner))
        for row, place in enumerate(population.agents.own.tolist()):
            life, learner = jax.tree.map(lambda x, i=row: jnp.asarray(x[i]), agents)
            agent_key = jax.random.fold_in(jax.random.fold_in(key, population.index), place)
            returns = agent_returns(population.lifecycle, life, learner, agent_key, episodes=episodes)
            task = population.lifecycle.tasks[int(life.task_index)]
            own.append((population.index, place, task, float(returns.mean())))
    found: dict[str, list[float]] = {task: [] for task in trainer.tasks}
    for _, _, task, mean in sorted(agent for of_process in hosts.exchanged(own) for agent in of_process):
        found[task].append(mean)
    return found


def final_return(returns: dict[str, list[float]] | None) -> float | None:
    """Mean over all agents of their final returns."""
    return None if returns is None else float(np.mean([value for of_task in returns.values() for value in of_task]))


def agent_returns(lifecycle: Lifecycle, life: Life, learner: LearnerState, key: Array, *, episodes: int) -> np.ndarray:
    """Returns of complete episodes of one agent on the task of its life [episodes].

    Actions are sampled from its policy; where it acts by action values they are the best ones.
    """
    by, network = lifecycle.learner.acting_params(learner), lifecycle.network.greedy()
    if not lifecycle.on_host:
        environments = Batched(lifecycle.environments.environment, episodes)
        return episode_returns(network, environments, life.task, by, key)
    task = lifecycle.tasks[int(life.task_index)]
    environment = cast(HostEnvironment, lifecycle.group.suite.environment(task))
    words = [int(word) for word in jax.random.key_data(key)]
    seeds = [(*words, index) for index in range(episodes)]
    # At least one, so that an environment that hangs or crashes is told of and does not take the run with it.
    workers = max(1, min(usable_cores(), episodes // STREAMS_OF_A_WORKER))
    with HostPool([environment] * episodes, seeds, workers, lifecycle.group.environment_timeout) as pool:
        return host_episode_returns(network, pool, by, key)


def host_episode_returns(network: Network, pool: HostPool, by: ActingParams, key: Array) -> np.ndarray:
    """Returns of one complete episode in each stream of a pool [S], with actions drawn from the network's policy."""
    choose, carry, shown = _chooser(network), network.initial_carry(pool.num_streams), pool.reset()
    finished, returns, step = np.zeros(pool.num_streams, bool), np.zeros(pool.num_streams), 0
    while not finished.all():
        action, carry = choose(by, carry, shown.observation, shown.last, key, np.int32(step))
        shown = pool.step(np.where(finished, STAND_STILL, action))
        returns += np.where(finished, 0.0, shown.reward)
        finished |= shown.last
        step += 1
    return returns


@functools.lru_cache
def _chooser(network: Network) -> Callable[..., tuple[Array, PyTree]]:
    """Actions and carries at a step, compiled; looked up once, as hashing a network takes longer than a step."""

    @jax.jit
    def choose(
        by: ActingParams, carry: PyTree, observation: Observation, last: Array, key: Array, step: Array
    ) -> tuple[Array, PyTree]:
        key = jax.random.fold_in(key, step)
        action, _, carry = next_action(network, by, carry, observation=observation, last=last, key=key)
        return action, carry

    return choose


class _Episodes(struct.PyTreeNode):
    """The first episode in each environment: where the agent stands, which are over, and their returns so far [E]."""

    actor: ActorState
    finished: Array
    returns: Array


def episode_returns(network: Network, environments: Batched, task: PyTree, by: ActingParams, key: Array) -> np.ndarray:
    """Returns of one complete episode in each of the environments [E], with actions drawn from the network's policy.

    One episode each, so that short episodes do not count more often than long ones.
    """
    reset_key, act_key = jax.random.split(key)
    actor = jax.jit(initial_actor, static_argnums=(0, 1))(network, environments, task, reset_key)
    episodes = _Episodes(actor, finished=jnp.zeros(environments.size, bool), returns=jnp.zeros(environments.size))
    call = 0
    while not bool(episodes.finished.all()):
        key = jax.random.fold_in(act_key, call)
        episodes = _play(network, environments, episodes, task=task, by=by, key=key)
        call += 1
    return np.asarray(episodes.returns)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _play(
    network: Network, environments: Batched, episodes: _Episodes, *, task: PyTree, by: ActingParams, key: Array
) -> _Episodes:
    """Plays on until every environment has finished an episode, or for a limited number of steps."""

    def unfinished(carry: tuple[Array, _Episodes]) -> Array:
        step, episodes = carry
        return (step < STEPS_PER_CALL) & ~episodes.finished.all()

    def body(carry: tuple[Array, _Episodes]) -> tuple[Array, _Episodes]:
        step, before = carry
        key_of_step = jax.random.fold_in(key, step)
        actor, _ = act(network, environments, task=task, by=by, actor=before.actor, key=key_of_step)
        return step + 1, _Episodes(
            actor,
            finished=before.finished | actor.time_step.last,
            returns=before.returns + jnp.where(before.finished, 0.0, actor.time_step.reward),
        )

    _, episodes = jax.lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), episodes))
    return episodes
