"""The compiled parts between which agents wait for environments outside the device; all over the P agents of a group.

They are what agents on the device do, cut where the environments come in: see `framework.lifecycle`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from framework import keys
from framework.agent import Network
from framework.keys import Role
from framework.lifecycle import Lifecycle
from framework.population import Population
from framework.statistics import count_step
from framework.trees import select
from framework.types import (
    ActingParams,
    ActorState,
    AgentState,
    Array,
    GroupState,
    GroupStep,
    Mean,
    Observation,
    Params,
    PyTree,
    TimeStep,
    Trajectory,
)

Gathered = tuple[tuple[PyTree, PyTree], Sequence[Trajectory], Trajectory, Sequence[dict[str, Mean]]]
"""Learners at both windows' starts, the batch of each update, the validation trajectory, the means of each update."""


def next_action(
    network: Network,
    by: ActingParams,
    carry: PyTree,
    *,
    observation: Observation,
    last: Array,
    key: Array,
) -> tuple[Array, Array, PyTree]:
    """Sampled actions [E], the logits they were drawn from [E, A], and the torso's new carry.

    Args:
      network: the agent's.
      by: what it acts by.
      carry: the torso's, from before the observation; it is cleared here where an episode ended.
      observation: to act on [E, ...].
      last: whether the step that showed it ended an episode [E].
      key: of the draw.
    """
    logits, carry = network.policy(by, observation, network.cleared(carry, last))
    return jax.random.categorical(key, logits), logits, carry


@dataclasses.dataclass(frozen=True, eq=False)  # Compared and hashed by identity: a call shall not hash an experiment.
class HostPrograms:
    """The programs of a group.

    Attributes:
      population: its agents.
    """

    population: Population

    @staticmethod
    @functools.lru_cache
    def of(population: Population) -> HostPrograms:
        """Those of a population; equal ones share what is compiled."""
        return HostPrograms(population)

    @property
    def lifecycle(self) -> Lifecycle:
        return self.population.lifecycle

    @functools.partial(jax.jit, static_argnums=(0, 4))
    def unroll_keys(self, root: Array, counter: Array, number: Array, role: Role) -> Array:
        """Key data of an unroll, the first (0), second (1), ... of a role at a counter of updates [P, 2]."""

        def one(shared: tuple[Array, Array], agent_root: Array) -> Array:
            counter, number = shared
            return jax.random.key_data(jax.random.fold_in(keys.step_key(agent_root, counter, role), number))

        return self.population.agents.map(one, (counter, number), self.population.roots(root))

    @functools.partial(jax.jit, static_argnums=0)
    def act(
        self,
        by: ActingParams,
        carry: PyTree,
        *,
        observation: Observation,
        last: Array,
        unroll_keys: Array,
        index: Array,
    ) -> tuple[Array, Array, PyTree]:
        """Actions [P, E], their logits [P, E, A] and carries at a step of an unroll; see `next_action`."""

        def one(
            index: Array, by: ActingParams, carry: PyTree, observation: Observation, last: Array, unroll_key: Array
        ) -> tuple[Array, Array, PyTree]:
            key = jax.random.fold_in(jax.random.wrap_key_data(unroll_key), index)
            return next_action(self.lifecycle.network, by, carry, observation=observation, last=last, key=key)

        return self.population.agents.map(one, index, by, carry, observation, last, unroll_keys)

    @functools.partial(jax.jit, static_argnums=0)
    def acted(self, actor: ActorState, carry: PyTree, fresh: Trajectory, dummy: Array, numbers: Array) -> ActorState:
        """The actors after an unroll.

        Args:
          actor: before it.
          carry: after its last choice.
          fresh: its trajectory [P, T, E, ...].
          dummy: which steps no environment made [P, T, E].
          numbers: what episodes that ended had reached [P, T, E, numbers].
        """
        names = self.lifecycle.environment.spec.episode_numbers

        def one(
            _: PyTree, actor: ActorState, carry: PyTree, fresh: Trajectory, dummy: Array, numbers: Array
        ) -> ActorState:
            def count(statistics: PyTree, row: tuple[Array, Array, Array, dict[str, Array]]) -> tuple[PyTree, None]:
                return count_step(statistics, *row), None

            of_episodes = {name: numbers[..., index] for index, name in enumerate(names)}
            rows = (fresh.reward, fresh.last, dummy, of_episodes)
            statistics, _ = jax.lax.scan(count, actor.statistics, rows)
            shown = TimeStep(
                observation=jax.tree.map(lambda x: x[-1], fresh.observation),
                reward=fresh.reward[-1],
                discount=fresh.discount[-1],
                last=fresh.last[-1],
            )
            carry = self.lifecycle.network.cleared(carry, shown.last)
            return ActorState(env_state=(), time_step=shown, carry=carry, statistics=statistics)

        return self.population.agents.map(one, (), actor, carry, fresh, dummy, numbers)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def remember(
        self, agents: AgentState, memory: PyTree, actor: ActorState, fresh: Trajectory, places: Array
    ) -> AgentState:
        """The agents after an unroll that they do not learn from yet; only those of some places [P] have acted.

        What agents remember is given apart from them, here and in `learn`: its buffers are given away.
        """

        def one(
            _: PyTree, agent: AgentState, memory: PyTree, actor: ActorState, fresh: Trajectory, here: Array
        ) -> AgentState:
            agent = agent.replace(replay=memory)
            after = self.lifecycle.remember(agent.replace(actor=actor), fresh)
            return select(here, after, agent)

        return self.population.agents.map(one, (), agents, memory, actor, fresh, places)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
    def learn(
        self, meta_params: Params, agents: AgentState, memory: PyTree, fresh: Trajectory, root: Array, counter: Array
    ) -> tuple[AgentState, tuple[Trajectory, dict[str, Mean]]]:
        """What follows on acting; see `Lifecycle.learn`."""

        def one(
            given: tuple[Params, Array], agent: AgentState, memory: PyTree, fresh: Trajectory, agent_root: Array
        ) -> Any:
            return self.lifecycle.learn(given[0], agent.replace(replay=memory), fresh, agent_root, given[1])

        given = (meta_params, counter)
        return self.population.agents.map(one, given, agents, memory, fresh, self.population.roots(root))

    @functools.partial(jax.jit, static_argnums=0)
    def replay_window(
        self, meta_params: Params, agents: AgentState, root: Array, counter: Array
    ) -> tuple[AgentState, PyTree, PyTree]:
        """The window's kept updates; see `MetaStep.replay_window`."""

        def one(given: tuple[Params, Array], agent: AgentState, agent_root: Array) -> Any:
            return self.population.meta_step.replay_window(given[0], agent, agent_root, given[1])

        return self.population.agents.map(one, (meta_params, counter), agents, self.population.roots(root))

    @functools.partial(jax.jit, static_argnums=0)
    def differentiate(
        self, meta_params: Params, agents: AgentState, gathered: Gathered, root: Array, counter: Array
    ) -> GroupStep:
        """The meta-gradients from what was collected; see `MetaStep.differentiate`."""

        def one(given: tuple[Params, Array], agent: AgentState, gathered: Gathered, agent_root: Array) -> Any:
            starts, batches, validation, means = gathered
            meta_step = self.population.meta_step
            every_batch, every_mean = (jax.tree.map(lambda *x: jnp.stack(x), *each) for each in (batches, means))
            agent, collected, of_window = meta_step.collected(
                agent, starts, every_batch, validation, every_mean, root=agent_root, counter=given[1]
            )
            return meta_step.differentiate(given[0], agent, collected, of_window)

        given, roots = (meta_params, counter), self.population.roots(root)
        return self.population.group_step(*self.population.agents.map(one, given, agents, gathered, roots))

    @functools.partial(jax.jit, static_argnums=0)
    def over(self, agents: AgentState, lost: Array) -> Array:
        """Whose life is over, be it lost or lived to its end [P]."""
        return self.population.agents.gathered(self.population.over(agents, lost))

    @functools.partial(jax.jit, static_argnums=0)
    def recycled(
        self, group: GroupState, root: Array, counter: Array, over: Array, lost: Array, shown: TimeStep
    ) -> tuple[AgentState, PyTree]:
        """Newborn agents in the place of those whose lives are over; see `Population.recycled`."""
        return self.population.recycled(group, root, counter, over=over, lost=lost, shown=shown)

    @functools.partial(jax.jit, static_argnums=0)
    def summed(self, means: dict[str, Mean]) -> dict[str, Mean]:
        """Running means over agents [P]."""
        return self.population.summed(means)
