"""Environments outside the device, and a step of an experiment that has some.

Agents on the host do what those on the device do, in the same functions; only acting goes back and forth. What the
environments are in the middle of is not part of the state: a checkpoint holds it beside the state, see `Worlds.files`.

Groups act in turns: whatever waits for its environments is a generator that yields as soon as they know what to do.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Generator, Mapping
from types import TracebackType
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from framework import hosts, keys
from framework.host_environments.arrays import STAND_STILL, HostStep
from framework.host_environments.crew import usable_cores
from framework.host_environments.pool import HostPool
from framework.host_environments.programs import HostPrograms
from framework.interfaces import HostEnvironment
from framework.keys import Role
from framework.population import Population
from framework.programs import compiled
from framework.specs import map_parts
from framework.statistics import without_episodes
from framework.train import Trainer
from framework.types import (
    ActorState,
    AgentState,
    Array,
    GroupState,
    GroupStep,
    Observation,
    Params,
    TimeStep,
    TrainState,
    Trajectory,
)

T = TypeVar("T")

InTurns = Generator[None, None, T]
"""What acts, and yields while its environments are stepped; in the end it returns T."""


class HostGroup:
    """The agents of one group and their streams of environments.

    Args:
      population: the agents.
      root: the run's root key.
      workers: processes that step the environments; 0 steps them in this one.
      births: agents that have lived in each place before, which tells the tasks of those that live there now [P].
    """

    def __init__(
        self, population: Population, root: np.ndarray, workers: int, births: np.ndarray | None = None
    ) -> None:
        self.population, self._programs = population, HostPrograms.of(population)
        self._agents, self._own = population.agents, population.agents.own
        self._root = [int(word) for word in root]
        self._births = np.zeros(population.count, int) if births is None else births
        self._size = population.lifecycle.group.num_environments
        places = [(p, e) for p in self._own.tolist() for e in range(self._size)]
        self.pool = HostPool(
            [self._environment(p) for p, _ in places],
            [self._seed(p, e) for p, e in places],
            workers,
            population.lifecycle.group.environment_timeout,
        )

    def _environment(self, place: int) -> HostEnvironment:
        """That of the agent that now lives in a place."""
        lifecycle = self.population.lifecycle
        index = (place + int(self._births[place]) * self.population.count) % len(lifecycle.tasks)
        return cast(HostEnvironment, lifecycle.group.suite.environment(lifecycle.tasks[index]))

    def _seed(self, place: int, environment: int) -> tuple[int, ...]:
        return (*self._root, self.population.index, place, int(self._births[place]), environment)

    def first_shown(self) -> TimeStep:
        """What all environments show first [P, E, ...]."""
        shown = self._agents.spread(self._of_agents(self.pool.reset()))
        return TimeStep(observation=shown.observation, reward=shown.reward, discount=shown.discount, last=shown.last)

    def _of_agents(self, step: HostStep) -> HostStep:
        """Rows of streams [S, ...] as those of this process's agents [own, E, ...]."""
        of_agents = jax.tree.map(lambda x: x.reshape(len(self._own), self._size, *x.shape[1:]), step)
        return cast(HostStep, of_agents)

    def unroll(
        self, agents: AgentState, unroll_keys: Array, *, steps: int, places: np.ndarray | None = None
    ) -> InTurns[tuple[ActorState, Trajectory]]:
        """All agents act for T steps; where ``places`` [P] are given, the environments of the others stand still.

        Returns:
          The actors after the steps, and their trajectories [P, T, E, ...].
        """
        actor, carry = agents.actor, agents.actor.carry
        by = self.population.lifecycle.learner.acting_params(agents.learner)
        shown = hosts.own_rows(actor.time_step)
        here = None if places is None else places[self._own]
        observation, last = shown.observation, shown.last
        observations: list[Observation] = [observation]
        rows: list[tuple[np.ndarray, ...]] = []
        for index in range(steps):
            given_observation, given_last = self._agents.given((observation, last))
            drawn, logits, carry = self._programs.act(
                by,
                carry,
                observation=given_observation,
                last=given_last,
                unroll_keys=unroll_keys,
                index=np.int32(index),
            )
            action = hosts.own_rows(drawn)
            self.pool.send(_only(here, action).reshape(-1))
            of_policy = hosts.own_rows(logits)  # Fetched while the environments are stepped.
            yield
            observation, reward, discount, last, dummy, numbers = self._of_agents(self.pool.receive())
            observations.append(observation)
            rows.append((action, reward, discount, last, of_policy, dummy, numbers))
        columns = [
            jax.tree.map(lambda *x: np.stack(x, axis=1), *column) for column in (observations, *zip(*rows, strict=True))
        ]
        seen, chosen, rewards, discounts, ends, behaviour, dummies, of_episodes = self._agents.spread(tuple(columns))
        fresh = Trajectory(
            observation=seen,
            action=chosen,
            reward=rewards,
            discount=discounts,
            last=ends,
            behaviour=behaviour,
            carry=actor.carry,
        )
        return self._programs.acted(actor, carry, fresh, dummies, of_episodes), fresh

    def warmed_up(
        self, agents: AgentState, root: Array, counter: Array, places: np.ndarray | None = None
    ) -> InTurns[AgentState]:
        """Agents whose replays hold a batch; only those of the given places [P] act."""
        lifecycle = self.population.lifecycle
        here = np.ones(self.population.count, bool) if places is None else places
        for number in range(lifecycle.warm_up_unrolls):
            unroll_keys = self._programs.unroll_keys(root, counter, np.int32(number), Role.WARM_UP)
            steps = lifecycle.group.trajectory_length
            actor, fresh = yield from self.unroll(agents, unroll_keys, steps=steps, places=places)
            agents = self._programs.remember(agents.replace(replay=()), agents.replay, actor, fresh, here)
        return agents

    def step(self, meta_params: Params, agents: AgentState, root: Array, counter: Array) -> InTurns[GroupStep]:
        """The group's part of a step; the buffers of what the agents remember are given away."""
        discovery = self.population.lifecycle.discovery
        if discovery is None:
            agents, (_, means) = yield from self._update(meta_params, agents, root, counter)
            return GroupStep(agents, None, None, self._programs.summed(means))
        memory, agents = agents.replay, agents.replace(replay=())
        agents, start, next_start = self._programs.replay_window(meta_params, agents, root, counter)
        agents = agents.replace(replay=memory)
        batches, means_of_updates = [], []
        for index in range(discovery.new_updates):
            agents, (batch, means) = yield from self._update(meta_params, agents, root, counter + index)
            if discovery.begins_next_window(index + discovery.kept_updates):
                next_start = agents.learner
            batches.append(batch)
            means_of_updates.append(means)
        unroll_keys = self._programs.unroll_keys(root, counter, np.int32(0), Role.VALIDATION)
        length = self.population.lifecycle.validation_length
        actor, validation = yield from self.unroll(agents, unroll_keys, steps=length)
        gathered = ((start, next_start), batches, validation, means_of_updates)
        memory, agents = agents.replay, agents.replace(actor=actor, replay=())
        part = self._programs.differentiate(meta_params, agents, gathered, root, counter)
        return part.replace(agents=part.agents.replace(replay=memory))

    def _update(self, meta_params: Params, agents: AgentState, root: Array, counter: Array) -> InTurns[Any]:
        unroll_keys = self._programs.unroll_keys(root, counter, np.int32(0), Role.ACT)
        steps = self.population.lifecycle.group.trajectory_length
        actor, fresh = yield from self.unroll(agents, unroll_keys, steps=steps)
        memory, agents = agents.replay, agents.replace(actor=actor, replay=())
        return self._programs.learn(meta_params, agents, memory, fresh=fresh, root=root, counter=counter)

    def recycled(self, group: GroupState, root: Array, counter: Array, sound: Array | None) -> InTurns[GroupState]:
        """The group with newborn agents, in new environments, where lives are over.

        Args:
          group: after a step.
          root: the run's root key.
          counter: of agent updates so far, this step's included [].
          sound: whose numbers are not lost [P]; ``None`` where none can be.
        """
        lost = np.zeros(self.population.count, bool) if sound is None else ~np.asarray(sound)
        over = np.asarray(self._programs.over(group.agents, lost))
        if not over.any():
            return group
        self._births[over] += 1
        shown = jax.tree.map(np.array, hosts.own_rows(group.agents.actor.time_step))
        for row in np.flatnonzero(over[self._own]).tolist():
            place = int(self._own[row])
            for environment in range(self._size):
                stream, seed = row * self._size + environment, self._seed(place, environment)
                first = self.pool.replace(stream, self._environment(place), seed)
                map_parts(lambda x, new, at=(row, environment): x.__setitem__(at, new), shown.observation, first)
            shown.reward[row], shown.discount[row], shown.last[row] = 0.0, 1.0, False
        agents, bandit = self._programs.recycled(group, root, counter, over, lost, self._agents.given(shown))
        agents = yield from self.warmed_up(agents, root, counter, over)
        warm_up = jnp.where(over, agents.life.age, 0).sum()
        return group.replace(agents=agents, bandit=bandit, extra_steps=group.extra_steps + warm_up)

    def files(self) -> dict[str, bytes]:
        """{file: the states of an agent's environments}, of this process's agents."""
        snapshots, size = self.pool.snapshot(), self._size
        return {
            self._file(place): pickle.dumps(snapshots[row * size : (row + 1) * size])
            for row, place in enumerate(self._own.tolist())
        }

    def restore(self, read: Callable[[str], bytes], group: GroupState) -> GroupState:
        """Goes back to where the environments were when the state was saved; the state, less episodes that are lost."""
        self._births = hosts.whole(group.agents.life.births).copy()
        snapshots = [state for place in self._own.tolist() for state in pickle.loads(read(self._file(place)))]
        lost = self.pool.restore(snapshots).reshape(self._own.size, self._size)
        if not any(hosts.exchanged(bool(lost.any()))):
            return group
        agents = group.agents
        statistics = without_episodes(agents.actor.statistics, self._agents.given(lost))
        return group.replace(agents=agents.replace(actor=agents.actor.replace(statistics=statistics)))

    def _file(self, place: int) -> str:
        return f"environments_{self.population.index}_{place}.pickle"


class Worlds:
    """All environments of an experiment that are outside the device; a context that closes them.

    Args:
      trainer: whose environments they are.
      workers: processes that step those of a group, 0 for this one; by default the groups share as many as there are
        cores. No number depends on it.
    """

    def __init__(self, trainer: Trainer, workers: int | None = None) -> None:
        self._trainer, self._finish = trainer, _finishing(trainer)
        on_host = [population for population in trainer.populations if population.lifecycle.on_host]
        self._on_device = {p.index: _stepping(p) for p in trainer.populations if p not in on_host}
        if workers is None:
            workers = max(1, usable_cores() // max(1, len(on_host)))
        root = np.asarray(keys.root_key(trainer.experiment.seed))
        self._groups: dict[int, HostGroup] = {}
        try:
            for population in on_host:
                self._groups[population.index] = HostGroup(population, root, workers)
        except BaseException:
            self.close()
            raise

    def first_shown(self) -> dict[int, TimeStep]:
        """{group: what its environments show first [P, E, ...]}."""
        return {index: host.first_shown() for index, host in self._groups.items()}

    def warmed_up(self, state: TrainState) -> TrainState:
        """The first state, with replays that hold a batch."""
        root, counter = state.root_key, self._trainer.counter(state)
        of_groups = in_turns(
            {index: host.warmed_up(state.groups[index].agents, root, counter) for index, host in self._groups.items()}
        )
        return _with_groups(state, {index: self._warm(state.groups[index], index, a) for index, a in of_groups.items()})

    def _warm(self, group: GroupState, index: int, agents: AgentState) -> GroupState:
        """A group whose agents have acted for the first time; what their ages lack were dummies."""
        population = self._groups[index].population
        unrolls = population.count * population.lifecycle.warm_up_unrolls
        dummies = unrolls * population.lifecycle.env_steps_per_unroll - agents.life.age.sum()
        return group.replace(agents=agents, extra_steps=group.extra_steps - dummies)

    def step(self, state: TrainState) -> TrainState:
        """The state after a step; its buffers are given away.

        Groups on the device compute while those on the host act, and while one of these waits for its environments the
        others go on.
        """
        counter, groups = self._trainer.counter(state), state.groups
        parts: dict[int, GroupStep] = {
            index: step(state.meta_params, groups[index].agents, state.root_key, counter)
            for index, step in self._on_device.items()
        }
        parts |= in_turns(
            {
                index: host.step(state.meta_params, groups[index].agents, state.root_key, counter)
                for index, host in self._groups.items()
            }
        )
        # The agents are those of the parts: what they were before is given away already.
        state = state.replace(groups=tuple(group.replace(agents=()) for group in groups))
        state = self._finish(state, [parts[index] for index in sorted(parts)])
        later = self._trainer.counter(state)
        recycling = {
            index: host.recycled(state.groups[index], state.root_key, later, parts[index].sound)
            for index, host in self._groups.items()
            if host.population.lives_end
        }
        return _with_groups(state, in_turns(recycling))

    def files(self) -> dict[str, bytes]:
        """{file: the states of an agent's environments}, to be kept beside the state of the same step.

        Of the agents on this process's devices: those of others are theirs to save.
        """
        return {name: content for host in self._groups.values() for name, content in host.files().items()}

    def restore(self, read: Callable[[str], bytes], state: TrainState) -> TrainState:
        """Goes back to `files`, which ``read`` gives by name.

        Args:
          read: gives a file's content by its name.
          state: that the files were kept beside.

        Returns:
          The state, in which episodes that could not be saved have not begun.
        """
        restored = {index: host.restore(read, state.groups[index]) for index, host in self._groups.items()}
        return _with_groups(state, restored)

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


def _only(places: np.ndarray | None, action: np.ndarray) -> np.ndarray:
    """The actions [P, E] of some places [P]; environments elsewhere stand still."""
    return action if places is None else np.where(places[:, None], action, STAND_STILL)


def in_turns(tasks: Mapping[int, InTurns[T]]) -> dict[int, T]:
    """What each of several tasks returns; one goes on while the environments of the others are stepped."""
    results: dict[int, T] = {}
    while len(results) < len(tasks):
        for index in [index for index in tasks if index not in results]:
            try:
                next(tasks[index])
            except StopIteration as end:
                results[index] = end.value
    return results


def _with_groups(state: TrainState, groups: Mapping[int, GroupState]) -> TrainState:
    """The state with other groups in the place of some."""
    return state.replace(groups=tuple(groups.get(index, group) for index, group in enumerate(state.groups)))


# Compiled functions are looked up once and then called: to hash an experiment takes longer than some steps.


@functools.lru_cache
def _stepping(population: Population) -> Callable[..., GroupStep]:
    """`Population.step`; the agents' buffers are given away."""
    return compiled(population.step, donate_argnums=1)


@functools.lru_cache
def _finishing(trainer: Trainer) -> Callable[..., TrainState]:
    """`Trainer.finish`."""
    return compiled(trainer.finish, out_shardings=trainer.placement)
