"""One agent of a group, from birth on: it acts, remembers, learns, and is asked where the rule should move.

Pure functions of one agent's state; a population maps them over its agents. All randomness is folded from the
agent's root key and a counter of its updates.
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
from framework.inner_loop import InnerLoop, regularization, taken
from framework.interfaces import Environment, HostEnvironment
from framework.keys import Role
from framework.learner import Learner
from framework.rollout import actor_at, initial_actor, unroll
from framework.statistics import mean_of, merged, with_sums_reset
from framework.types import (
    ActorState,
    AgentState,
    Array,
    Collected,
    Experience,
    LearnerState,
    Life,
    Mean,
    Outputs,
    Params,
    Place,
    PyTree,
    RegularizerInputs,
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
            self.rule, self.network, group.agent.optimizer, epochs=group.epochs, minibatches=group.minibatches
        )

    @functools.cached_property
    def inner_loop(self) -> InnerLoop:
        return InnerLoop(self.learner, tuple(r for r in self._discovery.regularizers if r.on == "updates"))

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
            per_update = self.env_steps_per_step / (1 if self.discovery is None else self.discovery.new_updates)
            agent = agent.replace(learner=agent.learner.replace(progress_per_update=per_update / budget))
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
        return self._example(self.group.trajectory_length)

    def _example(self, steps: int) -> Trajectory:
        spec, size = self.environment.spec, self.group.num_environments

        def of_steps(*shape: int, dtype: Any = jnp.float32) -> Any:
            return jax.ShapeDtypeStruct((steps, size, *shape), dtype)

        observation: Any = jax.ShapeDtypeStruct((steps + 1, size, *spec.observation_shape), spec.observation_dtype)
        return Trajectory(
            observation=observation,
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
        trajectory = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.example_batch)
        learner = self.learner.init(self.network.init(agent_key), self.hyperparameters())
        return self.rule.init(rule_key, self.learner.rule_inputs(learner, trajectory))

    def newborn_and_trajectory(self, key: Array) -> tuple[LearnerState, Trajectory]:
        """A newborn agent's learner and the first trajectory it would collect."""
        newborn_key, act_key = jax.random.split(key)
        agent = self.newborn(newborn_key, 0, self.hyperparameters())
        return agent.learner, self.act(agent, agent.actor, act_key)[1]

    def rehearsal(self, meta_params: Params, key: Array) -> dict[str, Mean]:
        """What a step of an agent measures; computed from zeros, for its names and to see that the parts fit."""
        fresh = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.example_trajectory)
        actor = jax.tree.map(lambda x: x[0], fresh.observation), fresh.reward[0], fresh.discount[0], fresh.last[0]
        agent = self.newborn(key, 0, self.hyperparameters(), TimeStep(*actor))
        agent = self.remember(agent, fresh)
        if self.discovery is not None:
            agent = agent.replace(objective=self.discovery.objective.init(key, self.environment.spec))
        root, zero = jax.random.key_data(key), jnp.zeros((), jnp.int32)
        agent, (_, means) = self.learn(meta_params, agent, fresh, root, zero)
        if self.discovery is None:
            return means
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.example_batch)
        of_updates = self.inner_loop.aim(meta_params, agent.learner, batch)[2]
        _, numbers = self.judge(agent.learner.params, fresh, agent.objective, of_updates)
        return means | {name: mean_of(number) for name, number in numbers.items()} | _of_gradient(zero, zero, 1.0)

    # Life

    def act(
        self, agent: AgentState, actor: ActorState, key: Array, steps: int | None = None
    ) -> tuple[ActorState, Trajectory]:
        """One unroll of an agent in its environments, from where ``actor`` stands."""
        steps = steps or self.group.trajectory_length
        return unroll(self.network, self.environments, agent.life.task, agent.learner.params, actor, key, steps)

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
        batch = replay.sample(memory, keys.step_key(root, counter, Role.REPLAY), fresh)
        targets, rule_carry, inputs = learner.aim(meta_params, agent.learner, batch)
        minibatch_key = keys.step_key(root, counter, Role.MINIBATCHES)
        state, numbers = learner.descend(agent.learner, batch, (targets, rule_carry), minibatch_key)
        objective = agent.objective
        if self.discovery is not None:
            objective, more = self.discovery.objective.observe(objective, batch, inputs.outputs[POLICY])
            numbers = numbers | {f"objective/{name}": value for name, value in more.items()}
        agent, means = self._lived(agent.replace(learner=state, replay=memory, objective=objective), fresh)
        return agent, (batch, {name: mean_of(value) for name, value in numbers.items()} | means)

    def _lived(self, agent: AgentState, fresh: Trajectory) -> tuple[AgentState, dict[str, Mean]]:
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

    # Discovery

    def replay_window(
        self, meta_params: Params, agent: AgentState, root: Array, counter: Array
    ) -> tuple[AgentState, LearnerState, LearnerState]:
        """Makes the window's kept updates again with the newer rule.

        Returns:
          The agent as it is after them; its learner at the window's start, and after the window's first S updates, as
          far as these are among the kept ones.
        """
        window, discovery = agent.window, self._discovery
        if not discovery.kept_updates:
            return agent, agent.learner, agent.learner

        def update(carry: tuple[LearnerState, LearnerState], given: tuple[Array, Experience]) -> tuple:
            state, next_start = carry
            index, step = given
            after, _ = self.learner.update(meta_params, state, step.trajectories, step.keys)
            state = jax.tree.map(functools.partial(jnp.where, step.valid), after, state)
            return (state, self._at_stride(index, state, next_start)), None

        kept = discovery.kept_updates
        replay_keys = self._update_keys(root, counter - kept, kept)
        experience = Experience(trajectories=window.trajectories, keys=replay_keys, valid=window.valid)
        (state, next_start), _ = jax.lax.scan(update, (window.start, window.start), (jnp.arange(kept), experience))
        return agent.replace(learner=state), window.start, next_start

    def _at_stride(self, index: Array, state: LearnerState, otherwise: LearnerState) -> LearnerState:
        """The state, if it is the one after the window's first S updates."""
        here = index == self._discovery.new_updates - 1
        return jax.tree.map(lambda new, old: jnp.where(here, new, old), state, otherwise)

    def _update_keys(self, root: Array, first: Array, count: int) -> Array:
        """Keys of the minibatches of successive updates [count]."""
        counters = first + jnp.arange(count)
        return jax.vmap(lambda counter: keys.step_key(root, counter, Role.MINIBATCHES))(counters)

    def collect(
        self, meta_params: Params, agent: AgentState, root: Array, counter: Array
    ) -> tuple[AgentState, Collected, dict[str, Mean]]:
        """S new updates after the window's kept ones, and a validation trajectory of the final parameters."""
        agent, start, next_start = self.replay_window(meta_params, agent, root, counter)

        def update(carry: tuple[AgentState, LearnerState], index: Array) -> tuple[Any, Any]:
            agent, next_start = carry
            agent, out = self.advance(meta_params, agent, root, counter + index)
            return (agent, self.at_stride(index, agent.learner, next_start)), out

        indices = jnp.arange(self._discovery.new_updates)
        (agent, next_start), (batches, means) = jax.lax.scan(update, (agent, next_start), indices)
        key = keys.step_key(root, counter, Role.VALIDATION)
        actor, validation = self.act(agent, agent.actor, key, self.validation_length)
        return self.collected(
            agent.replace(actor=actor), (start, next_start), batches, validation, means, root=root, counter=counter
        )

    def at_stride(self, index: Array, state: LearnerState, otherwise: LearnerState) -> LearnerState:
        """The state, if it follows on the window's first S updates; ``index`` counts the new ones."""
        kept = self._discovery.kept_updates
        return self._at_stride(index + kept, state, otherwise) if kept else otherwise

    def collected(
        self,
        agent: AgentState,
        starts: tuple[LearnerState, LearnerState],
        batches: Trajectory,
        validation: Trajectory,
        means: dict[str, Mean],
        *,
        root: Array,
        counter: Array,
    ) -> tuple[AgentState, Collected, dict[str, Mean]]:
        """What a meta-gradient is computed from, after acting and learning.

        Args:
          agent: after its validation trajectory.
          starts: its learner at this window's start and at the next one's.
          batches: what the new updates learned from [S, T, B, ...].
          validation: the validation trajectory.
          means: of each update [S].
          root: as for `collect`.
          counter: as for `collect`.
        """
        agent, lived = self._lived(agent, validation)
        means = jax.tree.map(lambda x: x.sum(0), means)
        means |= merged({name: means[name] for name in lived}, lived)
        experience = self._experience(agent, batches, root, counter)
        return agent, Collected(*starts, experience, validation), means

    def _experience(self, agent: AgentState, batches: Trajectory, root: Array, counter: Array) -> Experience:
        """What all N updates of the window learned from."""
        kept, count = self._discovery.kept_updates, self._discovery.inner_updates
        update_keys = self._update_keys(root, counter - kept, count)
        if not kept:
            return Experience(trajectories=batches, keys=update_keys)
        window = agent.window
        trajectories = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), window.trajectories, batches)
        valid = jnp.concatenate([window.valid, jnp.ones(self._discovery.new_updates, bool)])
        return Experience(trajectories=trajectories, keys=update_keys, valid=valid)

    def meta_loss(
        self,
        meta_params: Params,
        start: LearnerState,
        experience: Experience,
        validation: Trajectory,
        objective: PyTree,
    ) -> tuple[Array, tuple[Params, dict[str, Array]]]:
        """The meta-objective of the parameters that the window's updates lead to, with its regularizers [].

        Returns:
          The loss; the final parameters and numbers to log.
        """
        params, of_updates = self.inner_loop(meta_params, start, experience)
        loss, numbers = self.judge(params, validation, objective, of_updates)
        return loss, (params, numbers)

    def judge(
        self, params: Params, validation: Trajectory, objective: PyTree, of_updates: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The meta-loss of parameters [], and numbers to log.

        Args:
          params: that the rule led to.
          validation: a trajectory of theirs.
          objective: what the meta-objective keeps of the agent.
          of_updates: what regularizers say of the updates that led there [].
        """
        outputs = self.network.unroll(params, validation.observation, validation.last, validation.carry)
        per_step, numbers = self._discovery.objective(objective, validation, outputs[POLICY])
        weight = validation.weight
        judged = (per_step * weight).sum() / jnp.maximum(1.0, weight.sum())
        on_validation = self._on_validation(outputs, validation)
        loss = judged + on_validation + of_updates
        return loss, {f"objective/{name}": value for name, value in numbers.items()} | {
            "meta/loss": loss,
            "meta/objective": judged,
            "meta/regularization_on_validation": on_validation,
            "meta/regularization_on_updates": of_updates,
        }

    def _on_validation(self, outputs: Outputs, validation: Trajectory) -> Array:
        """The regularizers' weighted sum on the validation trajectory []."""
        seen = RegularizerInputs(
            outputs=taken(self.rule, outputs, validation.action),
            target_outputs=None,
            targets={},
            action=validation.action,
            weight=validation.weight,
        )
        return regularization([r for r in self._discovery.regularizers if r.on == "validation"], seen)

    def meta_step(
        self, meta_params: Params, agent: AgentState, root: Array, counter: Array
    ) -> tuple[AgentState, Params, Array, dict[str, Mean]]:
        """One agent's part of a meta-step: collect, then differentiate.

        Returns:
          The agent; its meta-gradient, limited in norm and zero where the agent is lost; whether it is sound [];
          running means to log.
        """
        agent, collected, means = self.collect(meta_params, agent, root, counter)
        return self.differentiate(meta_params, agent, collected, means)

    def differentiate(
        self, meta_params: Params, agent: AgentState, collected: Collected, means: dict[str, Mean]
    ) -> tuple[AgentState, Params, Array, dict[str, Mean]]:
        """The meta-gradient from what was collected; see `meta_step`."""
        discovery = self._discovery
        start, experience = collected.start, collected.experience
        given = jax.lax.stop_gradient((start, experience, collected.validation, agent.objective))
        (_, (params, numbers)), gradient = jax.value_and_grad(self.meta_loss, has_aux=True)(meta_params, *given)
        norm = global_norm(gradient)
        largest = largest_element(agent.learner.params)
        sound = jnp.isfinite(norm) & (largest <= discovery.max_parameter)  # a NaN is not below any limit
        limit = 1.0 if discovery.max_gradient_norm is None else clip_factor(norm, discovery.max_gradient_norm)
        gradient = jax.tree.map(lambda g: jnp.where(sound, g * limit, 0.0), gradient)
        error = replay_error(start.params, agent.learner.params, params)
        weight = sound.astype(jnp.float32)
        means = {name: _unless_lost(mean, sound) for name, mean in means.items()}
        means |= {name: mean_of(value, weight) for name, value in numbers.items()} | _of_gradient(norm, error, weight)
        if discovery.kept_updates:
            new = discovery.new_updates
            later = jax.tree.map(lambda x: x[new:], (experience.trajectories, experience.valid))
            agent = agent.replace(window=Window(collected.next_start, *later))
        return agent, gradient, sound, means


def _unless_lost(mean: Mean, sound: Array) -> Mean:
    """A mean of one agent; where the agent is lost and the mean too, it has seen nothing."""
    counts = sound | jnp.isfinite(mean.total)
    return jax.tree.map(lambda x: jnp.where(counts, x, 0.0), mean)


def _of_gradient(norm: Array, error: Array, weight: Array | float) -> dict[str, Mean]:
    return {"meta/gradient_norm": mean_of(norm, weight), "meta/replay_error": mean_of(error, weight)}


@dataclasses.dataclass(frozen=True)
class ImaginedLifecycle(Lifecycle):
    """An agent whose environments show nothing but zeros, to find out shapes of what happens on the host."""

    def act(
        self, agent: AgentState, actor: ActorState, key: Array, steps: int | None = None
    ) -> tuple[ActorState, Trajectory]:
        shapes = self._example(steps or self.group.trajectory_length)
        return actor, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def global_norm(tree: PyTree) -> Array:
    """Euclidean norm of all elements []."""
    squares = sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), start=jnp.zeros(()))
    return jnp.sqrt(squares)


def clip_factor(norm: Array, limit: float) -> Array:
    """What a gradient of a norm is multiplied with, so that its norm stays within a limit []."""
    return jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))


def largest_element(tree: PyTree) -> Array:
    """The largest magnitude of all elements []; NaN where one is."""
    largest = [jnp.abs(leaf).max(initial=0.0) for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.maximum, largest, jnp.zeros(()))


def replay_error(start: Params, collected: Params, replayed: Params) -> Array:
    """How far apart two ways of making the same updates end, as a share of the way made [].

    A way that is tiny beside the parameters counts as 1e-4 of them: rounding alone parts the ends by 1e-7.
    """
    apart = global_norm(jax.tree.map(jnp.subtract, collected, replayed))
    way = global_norm(jax.tree.map(jnp.subtract, collected, start))
    return apart / jnp.maximum(way, 1e-4 * global_norm(collected) + 1e-12)
