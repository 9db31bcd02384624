"""What a rule is worth: fresh agents learn with it, frozen, and their returns are told per agent and update."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.group import Group
from framework.lifecycle import Lifecycle
from framework.parallel import Agents, mesh_for
from framework.population import Population
from framework.programs import compiler_options
from framework.types import AgentState, Array, Params, PyTree
from framework.update_rule import UpdateRule


@dataclasses.dataclass(frozen=True)
class Curves:
    """What fresh agents reached at each of their updates.

    Attributes:
      tasks: name of each agent's task [P].
      returns: sum of the returns of the episodes that ended in an update [P, U].
      episodes: number of these episodes [P, U].
    """

    tasks: tuple[str, ...]
    returns: np.ndarray
    episodes: np.ndarray

    def mean_returns(self, first: int, last: int) -> np.ndarray:
        """Mean return of each agent's episodes in the updates [first, last); NaN where none ended [P]."""
        episodes = self.episodes[:, first:last].sum(1)
        with np.errstate(invalid="ignore"):
            return self.returns[:, first:last].sum(1) / episodes

    def late_returns(self, share: float = 0.1) -> np.ndarray:
        """Mean return of each agent over the last share of its updates [P]."""
        updates = self.returns.shape[1]
        return self.mean_returns(updates - max(1, math.ceil(share * updates)), updates)

    def of_task(self, task: str) -> Curves:
        """Those of one task's agents."""
        chosen = np.array([name == task for name in self.tasks])
        return Curves((task,) * int(chosen.sum()), self.returns[chosen], self.episodes[chosen])

    def by_task(self, values: np.ndarray) -> np.ndarray:
        """Values of agents [P] as [runs, tasks], tasks in the order of their first agents."""
        names = list(dict.fromkeys(self.tasks))
        return np.stack([values[[task == name for task in self.tasks]] for name in names], axis=1)


@dataclasses.dataclass(frozen=True)
class Trials:
    """Fresh agents that learn with a rule; P agents in one program, compiled once for any rule parameters and tasks.

    Attributes:
      rule: the rule.
      group: the agents; they live for all of the updates, and no bandit chooses for them.
      updates: how many updates they make.
    """

    rule: UpdateRule
    group: Group
    updates: int

    @functools.cached_property
    def population(self) -> Population:
        group = dataclasses.replace(self.group, lifetime=None, bandit=None)
        agents = Agents(group.agents, group.chunk, mesh_for([group.agents], repeated=True))
        return Population(Lifecycle(self.rule, group), 0, agents)

    @property
    def env_steps_per_update(self) -> int:
        """Environment steps that an agent makes in an update."""
        return self.population.lifecycle.env_steps_per_unroll

    def curves(
        self,
        meta_params: Params,
        root: Array,
        *,
        tasks: Sequence[str] | None = None,
        hyperparameters: Mapping[str, np.ndarray] | None = None,
    ) -> Curves:
        """What the agents reach.

        Agents of the same place, root and task meet the same world, whatever rule they learn with.

        Args:
          meta_params: the rule's parameters.
          root: key data that all randomness is folded from.
          tasks: name of each agent's task [P]; the group's tasks in turn if not given.
          hyperparameters: {name: value of each agent [P]}, in place of the configuration's.

        Raises:
          ValueError: there is no such task or hyperparameter, or not one for each agent.
        """
        known, count = self.population.lifecycle.tasks, self.group.agents
        names = tuple(tasks) if tasks is not None else tuple(known[index % len(known)] for index in range(count))
        if unknown := sorted(set(names).difference(known)):
            raise ValueError(f"tasks has {unknown[0]}, and the group has only {', '.join(known)}: choose among these")
        given = {name: jnp.asarray(value, jnp.float32) for name, value in (hyperparameters or {}).items()}
        carried = self.group.hyperparameters(self.rule)
        if unknown := sorted(given.keys() - carried.keys()):
            message = f"no part of the agents or the rule reads '{unknown[0]}' (there are: {', '.join(carried)})"
            raise ValueError(f"hyperparameters: {message}")
        lengths = {"tasks": len(names)} | {name: value.size for name, value in given.items()}
        for name, length in lengths.items():
            if length != count:
                raise ValueError(f"{name} must be one for each of the {count} agents, got {length}")
        task_index = jnp.asarray([known.index(name) for name in names], jnp.int32)
        sums, counts = self._program(meta_params, root, task_index, given)
        return Curves(names, np.asarray(sums), np.asarray(counts))

    @functools.cached_property
    def _program(self) -> Any:
        """From the rule's parameters, a root key, tasks [P] and hyperparameters to returns and episodes [P, U]."""
        return jax.jit(self._live, compiler_options=compiler_options())

    def _live(self, meta_params: Params, root: Array, task_index: Array, hyperparameters: dict[str, Array]) -> PyTree:
        population = self.population
        lifecycle = population.lifecycle
        nobody, zero = jnp.zeros(population.count, jnp.int32), jnp.zeros((), jnp.int32)
        places = population.places(root, zero, nobody, (), staggered=False).replace(task_index=task_index)
        agents = population.newborn(root, zero, places)
        own = agents.learner.hyperparameters | hyperparameters
        per_update = jnp.full(population.count, 1.0 / self.updates, jnp.float32)
        agents = agents.replace(learner=agents.learner.replace(hyperparameters=own, progress_per_update=per_update))

        def live(meta_params: Params, agent: AgentState, agent_root: Array) -> PyTree:
            def update(agent: AgentState, counter: Array) -> tuple[AgentState, tuple[Array, Array]]:
                agent, (_, means) = lifecycle.advance(meta_params, agent, agent_root, counter)
                episodes = means["episode/return"]
                return agent, (episodes.total, episodes.weight)

            return jax.lax.scan(update, agent, jnp.arange(self.updates))[1]

        return population.agents.gathered(population.agents.map(live, meta_params, agents, population.roots(root)))
