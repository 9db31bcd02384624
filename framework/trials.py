"""What a rule is worth: fresh agents learn with it, frozen, and their returns are told per agent and update."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from framework.group import Group
from framework.lifecycle import Lifecycle
from framework.parallel import Agents, mesh_for
from framework.population import Population
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

    def by_task(self, values: np.ndarray) -> np.ndarray:
        """Values of agents [P] as [runs, tasks], tasks in the order of their first agents."""
        names = list(dict.fromkeys(self.tasks))
        return np.stack([values[[task == name for task in self.tasks]] for name in names], axis=1)


@dataclasses.dataclass(frozen=True)
class Trials:
    """Fresh agents that learn with a rule; P agents of the group's tasks in turn, all in one program.

    Attributes:
      rule: the rule.
      group: the agents.
      updates: how many updates they make.
    """

    rule: UpdateRule
    group: Group
    updates: int

    @functools.cached_property
    def population(self) -> Population:
        group = dataclasses.replace(self.group, lifetime=None, bandit=None)
        agents = Agents(group.agents, group.chunk, mesh_for([group.agents]))
        return Population(Lifecycle(self.rule, group), 0, agents)

    def curves(
        self, meta_params: Params, root: Array, hyperparameters: Mapping[str, np.ndarray] | None = None
    ) -> Curves:
        """What the agents reach.

        Args:
          meta_params: the rule's parameters.
          root: key data that all randomness is folded from.
          hyperparameters: {name: value of each agent [P]}, in place of the configuration's.
        """
        given = {name: jnp.asarray(value, jnp.float32) for name, value in (hyperparameters or {}).items()}
        sums, counts = _run(self, meta_params, root, given)
        tasks = self.population.lifecycle.tasks
        names = tuple(tasks[index % len(tasks)] for index in range(self.group.agents))
        return Curves(names, np.asarray(sums), np.asarray(counts))


@functools.partial(jax.jit, static_argnums=0)
def _run(trials: Trials, meta_params: Params, root: Array, hyperparameters: dict[str, Array]) -> PyTree:
    population = trials.population
    lifecycle = population.lifecycle
    nobody, zero = jnp.zeros(population.count, jnp.int32), jnp.zeros((), jnp.int32)
    agents = population.births(root, zero, population.places(root, zero, nobody, (), staggered=False))
    own = agents.learner.hyperparameters | hyperparameters
    agents = agents.replace(learner=agents.learner.replace(hyperparameters=own))

    def live(meta_params: Params, agent: AgentState, agent_root: Array) -> PyTree:
        def update(agent: AgentState, counter: Array) -> tuple[AgentState, tuple[Array, Array]]:
            agent, (_, means) = lifecycle.advance(meta_params, agent, agent_root, counter)
            episodes = means["episode/return"]
            return agent, (episodes.total, episodes.weight)

        return jax.lax.scan(update, agent, jnp.arange(trials.updates))[1]

    return population.agents.map(live, meta_params, agents, population.roots(root))
