"""One agent of a group, from birth on: it acts, remembers, learns and grows old.

Pure functions of one agent's state; a population maps them over its agents. All randomness is folded from the
agent's root key and the number of updates that the run has made.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp

from framework import keys
from framework.agent import Network
from framework.discovery import Discovery
from framework.environment import Batched
from framework.group import Group
from framework.interfaces import Environment, HostEnvironment, PrioritizedReplay
from framework.keys import Role
from framework.learner import Learner
from framework.regularization import regularizer_means, seen_of_update
from framework.rollout import actor_at, initial_actor, unroll
from framework.statistics import mean_of, with_sums_reset
from framework.transforms import entropy, weighted_mean
from framework.trees import zeros_of
from framework.types import (
    ActorState,
    AgentState,
    Array,
    LearnerState,
    Life,
    Mean,
    Params,
    Place,
    PyTree,
    TimeStep,
    Trajectory,
    Window,
)
from framework.update_rule import POLICY, UpdateRule

ENDLESS = 2**31 - 1
"""Budget of a life without end, in environment steps: the largest an int32 holds."""

SCORE_DECAY = 0.9
"""Of the weight of earlier episodes in a lifetime's score, per update that completes an episode (chosen)."""

DUMMY_STEPS = "dummy_steps"
"""Name under which the steps are told that no environment made."""

AGES = ("first", "second", "third", "fourth")
"""Quarters of a lifetime, by which returns are reported."""


@dataclasses.dataclass(frozen=True)
class Lifecycle:
    """What one agent of a group does with an update rule.

    Attributes:
      rule: how it learns.
      group: what it is and where it lives.
      discovery: how the rule is judged; ``None`` where it is frozen.
    """

    rule: UpdateRule
    group: Group
    discovery: Discovery | None = None

    @functools.cached_property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.group.suite.tasks())

    @functools.cached_property
    def environment(self) -> Environment | HostEnvironment:
        """The environment of all tasks; on the host, that of the first one, whose specification they share."""
        return self.group.suite.environment(self.tasks[0])

    @property
    def on_host(self) -> bool:
        """Whether the environments are outside the device."""
        return isinstance(self.environment, HostEnvironment)

    @functools.cached_property
    def environments(self) -> Batched:
        return Batched(cast(Environment, self.environment), self.group.num_environments)

    @functools.cached_property
    def network(self) -> Network:
        return self.group.agent.network(self.rule, self.environment.spec)

    @functools.cached_property
    def learner(self) -> Learner:
        group = self.group
        return Learner(
            self.rule,
            self.network,
            group.agent.optimizer,
            epochs=group.epochs,
            minibatches=group.minibatches,
            minibatch_unit=group.minibatch_unit,
            env_steps_per_update=self.env_steps_per_update,
        )

    @property
    def _discovery(self) -> Discovery:
        if self.discovery is None:
            raise ValueError("the rule is frozen: this lifecycle has no discovery")
        return self.discovery

    @property
    def levels(self) -> PyTree:
        """What tells the tasks apart, stacked [tasks, ...]."""
        return jax.tree.map(lambda *x: jnp.stack(x), *(self.group.suite.level(task) for task in self.tasks))

    @property
    def warm_up_unrolls(self) -> int:
        """Unrolls before the first update, until the replay holds a batch."""
        return self.group.replay.warm_up_unrolls(self.group.num_environments)

    @property
    def env_steps_per_unroll(self) -> int:
        return self.group.num_environments * self.group.trajectory_length

    @property
    def validation_length(self) -> int:
        return self._discovery.validation_length or self.group.trajectory_length

    @property
    def env_steps_per_step(self) -> int:
        """Environment steps of a meta-step, or of an update where the rule is frozen."""
        if self.discovery is None:
            return self.env_steps_per_unroll
        validation = self.group.num_environments * self.validation_length
        return self.discovery.new_updates * self.env_steps_per_unroll + validation

    @property
    def env_steps_per_update(self) -> float:
        """Environment steps of an agent's update; of a discovery, with its share of the validation trajectories."""
        return self.env_steps_per_step / (1 if self.discovery is None else self.discovery.new_updates)

    # Birth

    def newborn(
        self, key: Array, task_index: Array | int, hyperparameters: dict[str, Array], shown: TimeStep | None = None
    ) -> AgentState:
        """An agent at the start of its environments, whose replay is empty.

        Args:
          key: of all that is drawn.
          task_index: its task.
          hyperparameters: what it carries.
          shown: what environments on the host show it first; drawn otherwise.
        """
        params_key, task_key, reset_key = jax.random.split(key, 3)
        learner = self.learner.init(self.network.init(params_key), hyperparameters)
        task: PyTree = ()
        if shown is None:
            level = jax.tree.map(lambda x: x[task_index], self.levels)
            task = self.environments.environment.draw_task(task_key, level)
            actor = initial_actor(self.network, self.environments, task, reset_key)
        else:
            actor = actor_at(self.network, (), shown)
        return AgentState(
            learner=learner,
            actor=actor,
            replay=self.group.replay.init(self.example_trajectory),
            life=Life(
                task=task,
                task_index=jnp.asarray(task_index, jnp.int32),
                arm=jnp.zeros((), jnp.int32),
                age=jnp.zeros((), jnp.int32),
                budget=jnp.full((), ENDLESS, jnp.int32),
                births=jnp.zeros((), jnp.int32),
                return_sum=jnp.zeros(()),
                return_weight=jnp.zeros(()),
            ),
        )

    def hyperparameters(self, arm: Array | int = 0) -> dict[str, Array]:
        """What a newborn agent carries: the configuration's numbers, and in their place those of a bandit's arm."""
        values = {k: jnp.asarray(v, jnp.float32) for k, v in self.group.hyperparameters(self.rule).items()}
        if self.group.bandit is not None:
            values |= {k: jnp.asarray(v, jnp.float32)[arm] for k, v in self.group.bandit.arms().items()}
        return values

    def birth(self, key: Array, place: Place, shown: TimeStep | None = None) -> AgentState:
        """A newborn agent, with a replay that holds a batch where its environments are on the device.

        Args:
          key: of all that is drawn.
          place: what it is born to.
          shown: as for `newborn`.
        """
        newborn_key, act_key, budget_key, objective_key = jax.random.split(key, 4)
        agent = self.newborn(newborn_key, place.task_index, self.hyperparameters(place.arm), shown)
        budget = jnp.full((), ENDLESS, jnp.int32)
        if self.group.lifetime is not None:
            drawn = jnp.maximum(1.0, self.group.lifetime.draw(budget_key) * place.share)
            budget = jnp.minimum(drawn, float(ENDLESS - 2**7)).astype(jnp.int32)
            per_update = self.env_steps_per_update
            learning = jnp.maximum(budget - self.warm_up_unrolls * self.env_steps_per_unroll, per_update)
            agent = agent.replace(learner=agent.learner.replace(progress_per_update=per_update / learning))
        agent = agent.replace(life=agent.life.replace(arm=place.arm, budget=budget, births=place.births))
        if self.discovery is not None:
            objective = self.discovery.objective.init(objective_key, self.environment.spec)
            agent = agent.replace(objective=objective, window=self._empty_window(agent.learner))
        if shown is not None or not self.warm_up_unrolls:
            return agent

        def act(index: Array, agent: AgentState) -> AgentState:
            actor, trajectory = self.act(agent, agent.actor, jax.random.fold_in(act_key, index))
            return self.remember(agent.replace(actor=actor), trajectory)

        return jax.lax.fori_loop(0, self.warm_up_unrolls, act, agent)

    def remember(self, agent: AgentState, fresh: Trajectory) -> AgentState:
        """The agent after an unroll that it does not learn from yet."""
        age = agent.life.age + self._steps_of(agent.actor, fresh)
        replay = self.group.replay.insert(agent.replay, fresh)
        counted = agent.actor.statistics.replace(dummy_steps=jnp.zeros(()))  # Each dummy makes the agent younger once.
        actor = agent.actor.replace(statistics=counted)
        return agent.replace(actor=actor, replay=replay, life=agent.life.replace(age=age))

    def _steps_of(self, actor: ActorState, fresh: Trajectory) -> Array:
        """Environment steps of an unroll: all but dummies [] int32."""
        steps = fresh.action.shape[0] * fresh.action.shape[1]
        return steps - actor.statistics.dummy_steps.astype(jnp.int32)

    def _empty_window(self, learner: LearnerState) -> PyTree:
        kept = self._discovery.kept_updates
        if not kept:
            return ()
        zeros = jax.tree.map(lambda x: jnp.zeros((kept, *x.shape), x.dtype), self.example_batch)
        return Window(start=learner, trajectories=zeros, valid=jnp.zeros(kept, bool))

    @functools.cached_property
    def example_trajectory(self) -> Trajectory:
        """Shapes of one unroll's trajectory."""
        return self.example(self.group.trajectory_length)

    def example(self, steps: int) -> Trajectory:
        spec, size = self.environment.spec, self.group.num_environments

        def of_steps(*shape: int, dtype: Any = jnp.float32) -> Any:
            return jax.ShapeDtypeStruct((steps, size, *shape), dtype)

        return Trajectory(
            observation=spec.arrays(lambda x: jax.ShapeDtypeStruct((steps + 1, size, *x.shape), x.dtype)),
            action=of_steps(dtype=jnp.int32),
            reward=of_steps(),
            discount=of_steps(),
            last=of_steps(dtype=bool),
            behaviour=of_steps(spec.num_actions),
            carry=jax.eval_shape(lambda: self.network.initial_carry(size)),
        )

    @functools.cached_property
    def example_batch(self) -> Trajectory:
        """Shapes of the batch that an update learns from."""

        def sample(fresh: Trajectory) -> Trajectory:
            replay = self.group.replay
            return replay.sample(replay.init(self.example_trajectory), jax.random.key(0), fresh)

        return jax.eval_shape(sample, self.example_trajectory)

    def initial_meta_params(self, key: Array) -> Params:
        """Meta-parameters drawn at random, for trajectories of these shapes; ``{}`` for a static rule."""
        agent_key, rule_key = jax.random.split(key)
        trajectory = zeros_of(self.example_batch)
        learner = self.learner.init(self.network.init(agent_key), self.hyperparameters())
        return self.rule.init(rule_key, self.learner.rule_inputs(learner, trajectory))

    def newborn_and_trajectory(self, key: Array) -> tuple[LearnerState, Trajectory]:
        """A newborn agent's learner and the first trajectory it would collect."""
        newborn_key, act_key = jax.random.split(key)
        agent = self.newborn(newborn_key, 0, self.hyperparameters())
        return agent.learner, self.act(agent, agent.actor, act_key)[1]

    # Life

    def act(
        self, agent: AgentState, actor: ActorState, key: Array, steps: int | None = None
    ) -> tuple[ActorState, Trajectory]:
        """One unroll of an agent in its environments, from where ``actor`` stands."""
        steps = steps or self.group.trajectory_length
        by = self.learner.acting_params(agent.learner)
        return unroll(self.network, self.environments, task=agent.life.task, by=by, actor=actor, key=key, steps=steps)

    def advance(
        self, meta_params: Params, agent: AgentState, root: Array, counter: Array
    ) -> tuple[AgentState, tuple[Trajectory, dict[str, Mean]]]:
        """One round of acting, remembering, learning; with the batch learned from, and running means to log."""
        actor, fresh = self.act(agent, agent.actor, keys.step_key(root, counter, Role.ACT))
        return self.learn(meta_params, agent.replace(actor=actor), fresh, root, counter)

    def learn(
        self, meta_params: Params, agent: AgentState, fresh: Trajectory, root: Array, counter: Array
    ) -> tuple[AgentState, tuple[Trajectory, dict[str, Mean]]]:
        """What follows on acting: remembering and one update."""
        replay, learner = self.group.replay, self.learner
        memory = replay.insert(agent.replay, fresh)
        replay_key = keys.step_key(root, counter, Role.REPLAY)
        batch = replay.sample(memory, replay_key, fresh)
        targets, rule_carry, inputs = learner.compute_targets(meta_params, agent.learner, batch)
        if isinstance(replay, PrioritizedReplay):
            memory = replay.reprioritize(memory, replay_key, self.rule.errors(meta_params, inputs))
        minibatch_key = keys.step_key(root, counter, Role.MINIBATCHES)
        state, numbers = learner.descend(agent.learner, batch, targets, rule_carry, minibatch_key)
        policy = self.rule.policy(inputs.outputs[self.rule.acting_head], inputs.hyperparameters)
        numbers["policy/entropy"] = weighted_mean(entropy(policy[: inputs.action.shape[0]]), inputs.weight)
        objective = agent.objective
        if self.discovery is not None:
            objective, more = self.discovery.objective.observe(objective, batch, inputs.outputs[POLICY])
            numbers |= {f"objective/{name}": value for name, value in more.items()}
            regularizers = self.discovery.regularizers_on("updates")
            numbers |= regularizer_means(regularizers, seen_of_update(self.rule, inputs, targets))
        agent, means = self.lived(agent.replace(learner=state, replay=memory, objective=objective), fresh)
        return agent, (batch, {name: mean_of(value) for name, value in numbers.items()} | means)

    def lived(self, agent: AgentState, fresh: Trajectory) -> tuple[AgentState, dict[str, Mean]]:
        """The agent, older by an unroll, and the returns of the episodes that ended in it, by task and by age."""
        statistics, life = agent.actor.statistics, agent.life
        completed = statistics.completed
        kept = jnp.where(completed > 0, SCORE_DECAY, 1.0)
        age = life.age + self._steps_of(agent.actor, fresh)
        episode_return = statistics.return_sum / completed
        means = {
            "episode/return": mean_of(episode_return, completed),
            "episode/length": mean_of(statistics.length_sum / completed, completed),
            DUMMY_STEPS: mean_of(statistics.dummy_steps),
        }
        for name, total in statistics.number_sums.items():
            means[name] = mean_of(total / completed, completed)
        for index, task in enumerate(self.tasks):
            means[f"return/{task}"] = mean_of(episode_return, jnp.where(life.task_index == index, completed, 0.0))
        if self.group.lifetime is not None:
            quarter = jnp.minimum(3, (4.0 * age / life.budget).astype(jnp.int32))
            for index, name in enumerate(AGES):
                weight = jnp.where(quarter == index, completed, 0.0)
                means[f"return_by_age/{name}_quarter"] = mean_of(episode_return, weight)
        life = life.replace(
            age=age,
            return_sum=kept * life.return_sum + statistics.return_sum,
            return_weight=kept * life.return_weight + completed,
        )
        actor = agent.actor.replace(statistics=with_sums_reset(statistics))
        return agent.replace(actor=actor, life=life), means
