"""Training: an agent acts, remembers, and learns with its update rule; one state in, one state out."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from framework import keys, statistics
from framework.agent import Network
from framework.environment import Batched, refuse_mismatched_environment
from framework.experiment import Experiment
from framework.keys import Role
from framework.learner import Learner
from framework.rollout import initial_actor, unroll
from framework.types import ActorState, AgentState, Array, LearnerState, Params, TrainState, Trajectory


@dataclasses.dataclass(frozen=True)
class Trainer:
    """An experiment bound to its environments and networks; holds no state."""

    experiment: Experiment

    @functools.cached_property
    def task(self) -> str:
        return self.experiment.suite.tasks()[0]

    @functools.cached_property
    def environments(self) -> Batched:
        return Batched(self.experiment.suite.environment(self.task), self.experiment.num_environments)

    @functools.cached_property
    def network(self) -> Network:
        return self.experiment.agent.network(self.experiment.rule, self.environments.environment.spec)

    @functools.cached_property
    def learner(self) -> Learner:
        e = self.experiment
        return Learner(e.rule, self.network, e.agent.optimizer, epochs=e.epochs, minibatches=e.minibatches)

    @property
    def warm_up_unrolls(self) -> int:
        """Unrolls before the first update, until the replay holds a batch."""
        return self.experiment.replay.warm_up_unrolls(self.experiment.num_environments)

    def env_steps(self, step: int) -> int:
        """Environment steps taken after a number of updates, those before the first one included."""
        unrolls = step + self.warm_up_unrolls
        return unrolls * self.experiment.num_environments * self.experiment.trajectory_length

    def example_trajectory(self) -> Trajectory:
        """Shapes of one unroll's trajectory; nothing is computed."""
        return jax.eval_shape(lambda: self.newborn_and_trajectory(jax.random.key(0)))[1]

    def newborn_and_trajectory(self, key: Array) -> tuple[LearnerState, Trajectory]:
        """A newborn agent's learner and the first trajectory it would collect."""
        newborn_key, act_key = jax.random.split(key)
        learner, actor = self.newborn(newborn_key)
        return learner, self.act(learner, actor, act_key)[1]

    def initial_meta_params(self, key: Array) -> Params:
        """Meta-parameters drawn at random; ``{}`` for a static rule."""
        agent_key, rule_key = jax.random.split(key)
        learner, trajectory = self.newborn_and_trajectory(agent_key)
        return self.experiment.rule.init(rule_key, self.learner.rule_inputs(learner, trajectory))

    def init(self) -> TrainState:
        """The state before the first update: a newborn agent, its replay filled as far as a batch needs.

        Raises:
          UserError: where the rule's weights cannot be had.
        """
        root = keys.root_key(self.experiment.seed)
        initial = jax.jit(self.initial_meta_params)(keys.role_key(root, Role.META_PARAMS))
        meta_params = self.experiment.weights(initial, self.experiment.rule.meta_network)
        return jax.jit(self.init_with)(jax.tree.map(jnp.asarray, meta_params), root)

    def init_with(self, meta_params: Params, root: Array) -> TrainState:
        """The state before the first update, with the rule's parameters and the root key given."""
        agent = self._initial_agent(root)
        step = jnp.zeros((), jnp.int32)
        _, metrics = jax.eval_shape(self._agent_step, meta_params, agent, root, step)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
        return TrainState(step=step, root_key=root, meta_params=meta_params, agent=agent, metrics=zeros)

    def state_shapes(self) -> TrainState:
        """Shapes of the whole state, from tracing a first update; nothing is computed.

        Raises:
          UserError: where the environment is not what it says it is, or the parts do not fit together.
        """
        refuse_mismatched_environment(self.environments.environment)
        root = jax.ShapeDtypeStruct((2,), jnp.uint32)
        return jax.eval_shape(self.init_with, self.meta_params_shapes(), root)

    def meta_params_shapes(self) -> Params:
        """Shapes of the meta-parameters; nothing is computed."""
        return jax.eval_shape(lambda: self.initial_meta_params(jax.random.key(0)))

    def newborn(self, key: Array) -> tuple[LearnerState, ActorState]:
        """A newborn agent's learner, and the agent at the start of its environments."""
        params_key, reset_key = jax.random.split(key)
        hyperparameters = {k: jnp.asarray(v, jnp.float32) for k, v in self.experiment.hyperparameters().items()}
        learner = self.learner.init(self.network.init(params_key), hyperparameters)
        return learner, initial_actor(self.network, self.environments, reset_key)

    def _initial_agent(self, root: Array) -> AgentState:
        learner, actor = self.newborn(keys.role_key(root, Role.PARAMS))
        replay = self.experiment.replay.init(self.example_trajectory())

        def act(step: Array, carry: tuple) -> tuple:
            actor, replay = carry
            actor, trajectory = self.act(learner, actor, keys.step_key(root, step, Role.WARM_UP))
            return actor, self.experiment.replay.insert(replay, trajectory)

        actor, replay = jax.lax.fori_loop(0, self.warm_up_unrolls, act, (actor, replay))
        return AgentState(learner=learner, actor=actor, replay=replay)

    def act(self, learner: LearnerState, actor: ActorState, key: Array) -> tuple[ActorState, Trajectory]:
        """One unroll of the agent in its environments."""
        length = self.experiment.trajectory_length
        return unroll(self.network, self.environments, learner.params, actor, key, length)

    def _agent_step(
        self, meta_params: Params, agent: AgentState, root: Array, step: Array
    ) -> tuple[AgentState, dict[str, Array]]:
        """One round of acting, remembering, learning; with the numbers to log {name: []}."""
        replay = self.experiment.replay
        actor, fresh = self.act(agent.learner, agent.actor, keys.step_key(root, step, Role.ACT))
        memory = replay.insert(agent.replay, fresh)
        batch = replay.sample(memory, keys.step_key(root, step, Role.REPLAY), fresh)
        minibatch_key = keys.step_key(root, step, Role.MINIBATCHES)
        learner, losses = self.learner.update(meta_params, agent.learner, batch, minibatch_key)
        episodes, statistics_ = statistics.read(actor.statistics)
        metrics = dict(losses)
        metrics |= {f"episode/{name}": value for name, value in episodes.items()} | {"updates": jnp.ones(())}
        return AgentState(learner=learner, actor=actor.replace(statistics=statistics_), replay=memory), metrics

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def steps(self, state: TrainState, count: Array) -> TrainState:
        """The state after a number of updates; metrics are summed up in it."""

        def body(_: Array, state: TrainState) -> TrainState:
            agent, metrics = self._agent_step(state.meta_params, state.agent, state.root_key, state.step)
            summed = jax.tree.map(jnp.add, state.metrics, metrics)
            return state.replace(step=state.step + 1, agent=agent, metrics=summed)

        return jax.lax.fori_loop(0, count, body, state)


def mean_metrics(state: TrainState) -> dict[str, float]:
    """Means since the metrics were last reset; NaN for the return where no episode was completed."""
    sums = {name: float(value) for name, value in jax.device_get(state.metrics).items()}
    updates, episodes = max(sums.pop("updates"), 1.0), sums.pop("episode/completed")
    means = {"episode/completed": episodes}
    for name in ("return", "length"):
        total = sums.pop(f"episode/{name}_sum")
        means[f"episode/{name}"] = total / episodes if episodes else float("nan")
    return means | {name: value / updates for name, value in sums.items()}


def with_metrics_reset(state: TrainState) -> TrainState:
    """The state with metrics that start to sum anew."""
    return state.replace(metrics=jax.tree.map(jnp.zeros_like, state.metrics))
