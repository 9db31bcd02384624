"""A group of agents: born staggered, mapped over, and replaced when their lives are over."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from framework import keys
from framework.keys import Role
from framework.lifecycle import ENDLESS, Lifecycle
from framework.meta_step import MetaStep
from framework.parallel import Agents
from framework.rehearsal import ImaginedLifecycle
from framework.trees import select
from framework.types import AgentState, Array, GroupState, GroupStep, Life, Mean, Params, Place, PyTree, TimeStep


@dataclasses.dataclass(frozen=True)
class Population:
    """The agents of one group.

    Attributes:
      lifecycle: what one of them does.
      index: which of the experiment's groups they are.
      agents: how a function of one is computed for all.
    """

    lifecycle: Lifecycle
    index: int
    agents: Agents

    @property
    def count(self) -> int:
        return self.lifecycle.group.agents

    @property
    def lives_end(self) -> bool:
        """Whether agents can make place for others: by age, or because their numbers are lost."""
        return self.lifecycle.discovery is not None or self.lifecycle.group.lifetime is not None

    @functools.cached_property
    def meta_step(self) -> MetaStep:
        """One agent's part of a meta-step."""
        return MetaStep(self.lifecycle)

    @property
    def shown_shapes(self) -> TimeStep:
        """Shapes of what environments on the host show [P, E, ...]."""
        spec, places = self.lifecycle.environment.spec, (self.count, self.lifecycle.group.num_environments)
        number, flag = _shape(places, jnp.float32), _shape(places, bool)
        observation = spec.arrays(lambda x: _shape((*places, *x.shape), x.dtype))
        return TimeStep(observation=observation, reward=number, discount=number, last=flag)

    def roots(self, root: Array) -> Array:
        """The agents' root keys [P, 2]."""
        return keys.agent_roots(root, self.index, self.count)

    def places(self, root: Array, counter: Array, births: Array, bandit: PyTree, *, staggered: bool) -> Place:
        """What agents of all places are born to [P].

        Args:
          root: the run's root key.
          counter: of agent updates so far [].
          births: agents that have lived in each place before [P].
          bandit: what the group's bandit knows.
          staggered: whether they live a random share of their budget only.
        """
        tasks, group = len(self.lifecycle.tasks), self.lifecycle.group

        def place(bandit: PyTree, agent_root: Array, index: Array, births: Array) -> Place:
            arm_key, share_key = jax.random.split(keys.step_key(agent_root, counter, Role.PLACE))
            task_index = (index + births * self.count) % tasks
            arm = jnp.zeros((), jnp.int32)
            if group.bandit is not None:
                arm = group.bandit.choose(bandit, arm_key, task_index).astype(jnp.int32)
            share = jax.random.uniform(share_key) if staggered else jnp.ones(())
            return Place(task_index=task_index, arm=arm, births=births, share=share)

        return jax.vmap(place, (None, 0, 0, 0))(bandit, self.roots(root), jnp.arange(self.count), births)

    def newborn(self, root: Array, counter: Array, places: Place, shown: TimeStep | None = None) -> AgentState:
        """Newborn agents in all places [P]; ``shown`` is what environments on the host show first [P, E, ...]."""

        def birth(counter: Array, agent_root: Array, place: Place, shown: TimeStep | None) -> AgentState:
            return self.lifecycle.birth(keys.step_key(agent_root, counter, Role.BIRTH), place, shown)

        return self.agents.map(birth, counter, self.roots(root), places, shown)

    def init(self, meta_params: Params, root: Array, shown: TimeStep | None = None) -> GroupState:
        """The group before its first step, with nothing measured."""
        bandit: PyTree = ()
        if self.lifecycle.group.bandit is not None:
            bandit = self.lifecycle.group.bandit.init(len(self.lifecycle.tasks))
        nobody, zero = jnp.zeros(self.count, jnp.int32), jnp.zeros((), jnp.int32)
        staggered = self.lifecycle.group.lifetime is not None
        agents = self.newborn(root, zero, self.places(root, zero, nobody, bandit, staggered=staggered), shown)
        discovery = self.lifecycle.discovery
        if discovery is not None and discovery.separate_optimizers:
            one = discovery.optimizer.init(meta_params)
            every = jax.tree.map(lambda x: jnp.broadcast_to(x, (self.count, *x.shape)), one)
            agents = agents.replace(meta_optimizer=every)
        return GroupState(agents=agents, bandit=bandit, extra_steps=zero, means={}, counts={})

    def step(self, meta_params: Params, agents: AgentState, root: Array, counter: Array) -> GroupStep:
        """The group's part of a step: an update of every agent, or its part of a meta-step."""
        lifecycle = self.lifecycle

        def one(given: tuple[Params, Array], agent: AgentState, agent_root: Array) -> Any:
            meta_params, counter = given
            if lifecycle.discovery is not None:
                return self.meta_step(meta_params, agent, agent_root, counter)
            agent, (_, means) = lifecycle.advance(meta_params, agent, agent_root, counter)
            return agent, None, None, means

        return self.group_step(*self.agents.map(one, (meta_params, counter), agents, self.roots(root)))

    def group_step(
        self, agents: AgentState, gradient: Params | None, sound: Array | None, means: dict[str, Mean]
    ) -> GroupStep:
        """What came of the agents [P, ...], with means over them."""
        return GroupStep(agents, gradient, self.agents.gathered(sound), self.summed(means))

    @property
    def returns_by_agent(self) -> tuple[str, ...]:
        """Under which names the agents' own returns are measured; none where they are not asked for."""
        places = range(self.count if self.lifecycle.group.returns_by_agent else 0)
        return tuple(f"return_by_agent/{self.index}_{place}" for place in places)

    def summed(self, means: dict[str, Mean]) -> dict[str, Mean]:
        """Running means over agents [P], in their order, and those of each agent's returns where they are asked for."""
        of_agents = self.agents.gathered(means)
        returns = of_agents["episode/return"]
        own = {name: jax.tree.map(lambda x, p=p: x[p], returns) for p, name in enumerate(self.returns_by_agent)}
        return jax.tree.map(lambda x: x.sum(0), of_agents) | own

    @functools.cached_property
    def imagined(self) -> Population:
        """The same agents, whose environments show nothing but zeros: their steps have the shapes of real ones."""
        lifecycle = self.lifecycle
        imagined = ImaginedLifecycle(lifecycle.rule, lifecycle.group, lifecycle.discovery)
        return dataclasses.replace(self, lifecycle=imagined)

    def over(self, agents: AgentState, lost: Array) -> Array:
        """Whose life is over, be it lost or lived to its end [P]."""
        life = self.agents.gathered(agents.life)
        return lost | ((life.age >= life.budget) & (life.budget < ENDLESS))

    def recycled(
        self,
        group: GroupState,
        root: Array,
        counter: Array,
        *,
        over: Array,
        lost: Array,
        shown: TimeStep | None = None,
    ) -> tuple[AgentState, PyTree]:
        """Agents whose lives are over make place for newborn ones.

        Args:
          group: after a step.
          root: the run's root key.
          counter: of agent updates so far, this step's included [].
          over: whose lives are over [P].
          lost: who of them is lost: what they reached says nothing good of their hyperparameters [P].
          shown: what environments on the host show first, where a life begins [P, E, ...].

        Returns:
          The agents, and what the bandit knows.
        """
        life = self.agents.gathered(group.agents.life)
        bandit = self._recorded(group.bandit, life, over=over, lost=lost)

        def reborn(agents: AgentState) -> AgentState:
            places = self.places(root, counter, life.births + 1, bandit, staggered=False)
            newborn = self.newborn(root, counter, places, shown).replace(meta_optimizer=agents.meta_optimizer)
            return select(over, newborn, agents)

        return jax.lax.cond(over.any(), reborn, lambda agents: agents, group.agents), bandit

    def _recorded(self, bandit: PyTree, life: Life, *, over: Array, lost: Array) -> PyTree:
        """What the bandit knows after the lives that are over, in the order of the agents."""
        component = self.lifecycle.group.bandit
        if component is None:
            return bandit

        def record(state: PyTree, of_agent: tuple[Life, Array, Array]) -> tuple[PyTree, None]:
            life, over, lost = of_agent
            score = jnp.where(lost, jnp.nan, life.score)
            recorded = component.record(state, life.task_index, life.arm, score)
            return select(over, recorded, state), None

        return jax.lax.scan(record, bandit, (life.replace(task=()), over, lost))[0]


def _shape(shape: tuple[int, ...], dtype: Any) -> Any:
    """The place of an array, in a tree of shapes."""
    return jax.ShapeDtypeStruct(shape, dtype)
