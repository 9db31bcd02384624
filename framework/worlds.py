"""Environments outside the device, and a step of an experiment that has some.

Agents on the host do what those on the device do, in the same functions; only acting goes back and forth. What the
environments are in the middle of is not part of the state: a checkpoint holds it beside the state, see `snapshot`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pickle
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from framework import keys
from framework.host import HostPool, HostStep
from framework.interfaces import HostEnvironment
from framework.keys import Role
from framework.lifecycle import Lifecycle
from framework.population import Population
from framework.rollout import choose, shown
from framework.train import Trainer
from framework.types import (
    ActorState,
    AgentState,
    Array,
    GroupState,
    GroupStep,
    Mean,
    Params,
    PyTree,
    TimeStep,
    TrainState,
    Trajectory,
)

STAND_STILL = -1
"""The action of a stream that is not stepped."""


@dataclasses.dataclass(frozen=True)
class HostPrograms:
    """The compiled parts between which the agents of a group wait for their environments; all over P agents."""

    population: Population

    @property
    def lifecycle(self) -> Lifecycle:
        return self.population.lifecycle

    @functools.partial(jax.jit, static_argnums=(0, 5))
    def choose(
        self, params: Params, actor: ActorState, root: Array, count: tuple[Array, Array], role: Role
    ) -> tuple[Array, Array, PyTree]:
        """Actions [P, E], their logits [P, E, A], and carries, at a step of an unroll (``count``: update, step)."""

        def one(count: tuple[Array, Array], params: Params, actor: ActorState, agent_root: Array) -> Any:
            key = jax.random.fold_in(keys.step_key(agent_root, count[0], role), count[1])
            return choose(self.lifecycle.network, params, actor, key)

        return self.population.agents.map(one, count, params, actor, self.population.roots(root))

    @functools.partial(jax.jit, static_argnums=0)
    def show(self, actor: ActorState, carry: PyTree, time_step: TimeStep, dummy: Array) -> ActorState:
        """The actors after their environments have shown a time step [P, E, ...]."""

        def one(_: PyTree, actor: ActorState, carry: PyTree, time_step: TimeStep, dummy: Array) -> ActorState:
            return shown(self.lifecycle.network, actor, carry, (), time_step, dummy)

        return self.population.agents.map(one, (), actor, carry, time_step, dummy)

    @functools.partial(jax.jit, static_argnums=0)
    def remember(self, agents: AgentState, fresh: Trajectory) -> AgentState:
        """The agents after an unroll that they do not learn from yet."""

        def one(_: PyTree, agent: AgentState, fresh: Trajectory) -> AgentState:
            return self.lifecycle.remember(agent, fresh)

        return self.population.agents.map(one, (), agents, fresh)

    @functools.partial(jax.jit, static_argnums=0)
    def learn(self, meta_params: Params, agents: AgentState, fresh: Trajectory, root: Array, counter: Array) -> Any:
        """What follows on acting; see `Lifecycle.learn`."""

        def one(given: tuple[Params, Array], agent: AgentState, fresh: Trajectory, agent_root: Array) -> Any:
            return self.lifecycle.learn(given[0], agent, fresh, agent_root, given[1])

        given = (meta_params, counter)
        return self.population.agents.map(one, given, agents, fresh, self.population.roots(root))

    @functools.partial(jax.jit, static_argnums=0)
    def replay_window(self, meta_params: Params, agents: AgentState, root: Array, counter: Array) -> Any:
        """The window's kept updates; see `Lifecycle.replay_window`."""

        def one(given: tuple[Params, Array], agent: AgentState, agent_root: Array) -> Any:
            return self.lifecycle.replay_window(given[0], agent, agent_root, given[1])

        return self.population.agents.map(one, (meta_params, counter), agents, self.population.roots(root))

    @functools.partial(jax.jit, static_argnums=0)
    def at_stride(self, index: Array, agents: AgentState, otherwise: PyTree) -> PyTree:
        """The learners at the next window's start; see `Lifecycle.at_stride`."""

        def one(index: Array, agent: AgentState, otherwise: PyTree) -> PyTree:
            return self.lifecycle.at_stride(index, agent.learner, otherwise)

        return self.population.agents.map(one, index, agents, otherwise)

    @functools.partial(jax.jit, static_argnums=0)
    def differentiate(
        self, meta_params: Params, agents: AgentState, gathered: Gathered, root: Array, counter: Array
    ) -> GroupStep:
        """The meta-gradients from what was collected; see `Lifecycle.differentiate`."""

        def one(given: tuple[Params, Array], agent: AgentState, gathered: Any, agent_root: Array) -> Any:
            starts, batches, validation, means = gathered
            agent, collected, means = self.lifecycle.collected(
                agent, starts, batches, validation, means, root=agent_root, counter=given[1]
            )
            return self.lifecycle.differentiate(given[0], agent, collected, means)

        given, roots = (meta_params, counter), self.population.roots(root)
        results = self.population.agents.map(one, given, agents, gathered, roots)
        return self.population.group_step(*results)

    @functools.partial(jax.jit, static_argnums=0)
    def over(self, agents: AgentState, lost: Array) -> Array:
        """Whose life is over [P]."""
        return self.population.over(agents, lost)

    @functools.partial(jax.jit, static_argnums=0)
    def recycled(self, group: GroupState, root: Array, counter: Array, over: Array, shown: TimeStep) -> Any:
        """Newborn agents in the place of those whose lives are over."""
        return self.population.recycled(group, root, counter, over, shown)

    @functools.partial(jax.jit, static_argnums=0)
    def summed(self, means: Sequence[dict[str, Mean]]) -> dict[str, Mean]:
        """Running means over updates and agents."""
        return jax.tree.map(lambda *x: sum(x), *(self.population.summed(each) for each in means))


Gathered = tuple[tuple[PyTree, PyTree], Trajectory, Trajectory, dict[str, Mean]]
"""Learners at both windows' starts, batches [P, S, ...], validation trajectories, means [P, S]."""


class HostGroup:
    """The agents of one group and their streams of environments."""

    def __init__(self, population: Population, root: np.ndarray, workers: int) -> None:
        self.population, self.programs = population, HostPrograms(population)
        self._root = root
        self._births = np.zeros(population.count, int)
        group = population.lifecycle.group
        self._size = group.num_environments
        places = [(p, e) for p in range(population.count) for e in range(self._size)]
        self.pool = HostPool([self._environment(p) for p, _ in places], [self._seed(p, e) for p, e in places], workers)

    def _environment(self, place: int) -> HostEnvironment:
        """That of the agent that now lives in a place."""
        lifecycle = self.population.lifecycle
        index = (place + int(self._births[place]) * self.population.count) % len(lifecycle.tasks)
        return cast(HostEnvironment, lifecycle.group.suite.environment(lifecycle.tasks[index]))

    def _seed(self, place: int, environment: int) -> tuple[int, ...]:
        words = (*map(int, self._root), self.population.index, place, int(self._births[place]), environment)
        return words

    def first_shown(self) -> TimeStep:
        """What all environments show first [P, E, ...]."""
        return self._time_step(self.pool.reset())[0]

    def _time_step(self, step: HostStep) -> tuple[TimeStep, np.ndarray]:
        """Arrays of streams as those of agents [P, E, ...], and where they are dummies."""
        places = (self.population.count, self._size)
        observation, reward, discount, last, dummy = (x.reshape(*places, *x.shape[1:]) for x in step)
        return TimeStep(observation=observation, reward=reward, discount=discount, last=last), dummy

    def unroll(
        self,
        agents: AgentState,
        root: Array,
        counter: Array,
        role: Role,
        *,
        steps: int | None = None,
        places: np.ndarray | None = None,
    ) -> tuple[AgentState, Trajectory]:
        """All agents act for T steps; where ``places`` [P] are given, the environments of the others stand still.

        Returns:
          The agents after the steps, and their trajectories [P, T, E, ...].
        """
        steps = steps or self.population.lifecycle.group.trajectory_length
        actor, params, carry = agents.actor, agents.learner.params, agents.actor.carry
        rows: list[tuple[Any, ...]] = []
        observations = [np.asarray(actor.time_step.observation)]
        for index in range(steps):
            action, logits, new_carry = self.programs.choose(
                params, actor, root, (counter, jnp.asarray(index, jnp.int32)), role
            )
            chosen = np.asarray(action)
            sent = chosen if places is None else np.where(places[:, None], chosen, STAND_STILL)
            self.pool.send(sent.reshape(-1))
            time_step, dummy = self._time_step(self.pool.receive())
            actor = self.programs.show(actor, new_carry, time_step, dummy)
            rows.append((chosen, time_step.reward, time_step.discount, time_step.last, np.asarray(logits)))
            observations.append(time_step.observation)
        action, reward, discount, last, behaviour = (np.stack(column, axis=1) for column in zip(*rows, strict=True))
        trajectory = Trajectory(
            observation=np.stack(observations, axis=1),
            action=action,
            reward=reward,
            discount=discount,
            last=last,
            behaviour=behaviour,
            carry=carry,
        )
        return agents.replace(actor=actor), jax.tree.map(jnp.asarray, trajectory)

    def warmed_up(self, agents: AgentState, root: Array, counter: Array, places: np.ndarray | None) -> AgentState:
        """Agents whose replays hold a batch; only those of the given places act."""
        for index in range(self.population.lifecycle.warm_up_unrolls):
            role_counter = counter * 0 + index
            acted, fresh = self.unroll(agents, root, role_counter, Role.WARM_UP, places=places)
            acted = self.programs.remember(acted, fresh)
            agents = acted if places is None else _chosen(jnp.asarray(places), acted, agents)
        return agents

    def step(self, meta_params: Params, group: GroupState, root: Array, counter: Array) -> GroupStep:
        """The group's part of a step."""
        agents, discovery = group.agents, self.population.lifecycle.discovery
        if discovery is None:
            agents, (_, means) = self._update(meta_params, agents, root, counter)
            return GroupStep(agents, None, None, self.programs.summed([means]))
        agents, start, next_start = self.programs.replay_window(meta_params, agents, root, counter)
        batches, means = [], []
        for index in range(discovery.new_updates):
            agents, (batch, mean) = self._update(meta_params, agents, root, counter + index)
            next_start = self.programs.at_stride(jnp.asarray(index), agents, next_start)
            batches.append(batch)
            means.append(mean)
        length = self.population.lifecycle.validation_length
        agents, validation = self.unroll(agents, root, counter, Role.VALIDATION, steps=length)
        stacked = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *batches)
        of_updates = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *means)
        gathered = ((start, next_start), stacked, validation, of_updates)
        return self.programs.differentiate(meta_params, agents, gathered, root, counter)

    def _update(self, meta_params: Params, agents: AgentState, root: Array, counter: Array) -> Any:
        agents, fresh = self.unroll(agents, root, counter, Role.ACT)
        return self.programs.learn(meta_params, agents, fresh, root, counter)

    def recycled(self, group: GroupState, root: Array, counter: Array, lost: Array) -> GroupState:
        """The group with newborn agents, in new environments, where lives are over."""
        over = np.asarray(self.programs.over(group.agents, lost))
        if not over.any():
            return group
        shown = jax.tree.map(lambda x: np.array(x), group.agents.actor.time_step)
        for place in np.flatnonzero(over):
            self._births[place] += 1
            for environment in range(self._size):
                stream = place * self._size + environment
                new = self.pool.replace(stream, self._environment(place), self._seed(place, environment))
                shown.observation[place, environment] = new
            shown.reward[place], shown.discount[place], shown.last[place] = 0.0, 1.0, False
        agents, bandit = self.programs.recycled(group, root, counter, jnp.asarray(over), shown)
        return group.replace(agents=self.warmed_up(agents, root, counter, over), bandit=bandit)

    def restore(self, snapshots: Sequence[bytes], group: GroupState) -> None:
        """Goes back to where the environments were when the state was saved."""
        self._births = np.array(group.agents.life.births)
        self.pool.restore(snapshots)


class Worlds:
    """All environments of an experiment that are outside the device; a context that closes them.

    Args:
      trainer: whose environments they are.
      workers: processes that step them, for each group; as many as there are cores by default.
    """

    def __init__(self, trainer: Trainer, workers: int | None = None) -> None:
        self._trainer = trainer
        root = np.asarray(keys.root_key(trainer.experiment.seed))
        count = (os.cpu_count() or 1) if workers is None else workers
        self._groups: dict[int, HostGroup] = {}
        try:
            for population in trainer.populations:
                if population.lifecycle.on_host:
                    self._groups[population.index] = HostGroup(population, root, count)
        except BaseException:
            self.close()
            raise

    def first_shown(self, root: Array) -> dict[int, TimeStep]:
        """{group: what its environments show first [P, E, ...]}."""
        return {index: group.first_shown() for index, group in self._groups.items()}

    def warmed_up(self, state: TrainState) -> TrainState:
        """The first state, with replays that hold a batch."""
        groups = list(state.groups)
        for index, host in self._groups.items():
            agents = host.warmed_up(groups[index].agents, state.root_key, jnp.zeros((), jnp.int32), None)
            groups[index] = groups[index].replace(agents=agents)
        return state.replace(groups=tuple(groups))

    def step(self, state: TrainState) -> TrainState:
        """The state after a step; groups on the device compute while those on the host wait for their environments."""
        counter = self._trainer.counter(state)
        on_device = [p.index for p in self._trainer.populations if p.index not in self._groups]
        parts = {index: _device_step(self._trainer, state, index) for index in on_device}
        for index, host in self._groups.items():
            parts[index] = host.step(state.meta_params, state.groups[index], state.root_key, counter)
        ordered = [parts[index] for index in sorted(parts)]
        after = _finish(self._trainer, state, ordered)
        groups = list(after.groups)
        for index, host in self._groups.items():
            if host.population.lives_end:
                sound = ordered[index].sound
                lost = jnp.zeros(host.population.count, bool) if sound is None else ~sound
                later = self._trainer.counter(after)
                groups[index] = host.recycled(groups[index], state.root_key, later, lost)
        return after.replace(groups=tuple(groups))

    def files(self) -> dict[str, bytes]:
        """{file: the states of a group's environments}, to be kept beside the state of the same step."""
        return {_file(index): pickle.dumps(host.pool.snapshot()) for index, host in self._groups.items()}

    def restore(self, read: Callable[[str], bytes], state: TrainState) -> None:
        """Goes back to `files`, which ``read`` gives by name, and to the state that they were kept beside."""
        for index, host in self._groups.items():
            host.restore(pickle.loads(read(_file(index))), state.groups[index])

    def close(self) -> None:
        """Ends all processes."""
        for host in self._groups.values():
            host.pool.close()

    def __enter__(self) -> Worlds:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _file(group: int) -> str:
    return f"environments_{group}.pickle"


@functools.partial(jax.jit, static_argnums=(0, 2))
def _device_step(trainer: Trainer, state: TrainState, index: int) -> GroupStep:
    return trainer.group_step(state, index)


@functools.partial(jax.jit, static_argnums=0)
def _finish(trainer: Trainer, state: TrainState, parts: Sequence[GroupStep]) -> TrainState:
    return trainer.finish(state, parts)


@jax.jit
def _chosen(places: Array, new: PyTree, old: PyTree) -> PyTree:
    """The new rows of some places [P], the old ones of all others."""
    return jax.tree.map(lambda n, o: jnp.where(places.reshape(-1, *[1] * (n.ndim - 1)), n, o), new, old)
