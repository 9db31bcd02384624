"""Trajectories of a run's agents in fresh environments, and what their networks say of them."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator

import jax
import numpy as np
from flax import struct

from experiments.analyses.restoring import RestoredRun
from framework import keys
from framework.errors import UserError
from framework.host_environments.worlds import HostGroup, in_turns
from framework.interfaces import Target
from framework.keys import Role
from framework.lifecycle import Lifecycle
from framework.population import Population
from framework.rollout import actor_at, initial_actor, unroll
from framework.types import AgentState, Array, LearnerState, Life, Params, RuleCarry, RuleInputs, Trajectory
from framework.update_rule import UpdateRule


class Played(struct.PyTreeNode):
    """Fresh trajectories of P agents, seen through their networks.

    Attributes:
      trajectory: [P, T, E, ...], observations [P, T+1, E, ...].
      inputs: what the update rule sees of them [P, ...].
      values: v(s), by the rule's value estimator [P, T+1, E]; ``None`` for a rule without one.
    """

    trajectory: Trajectory
    inputs: RuleInputs
    values: Array | None

    def of_each_agent(self, run: RestoredRun) -> list[tuple[RuleInputs, RuleCarry]]:
        """What the rule sees of each agent, and what it carries for it [P]; ``run`` is the one that was played."""
        seen = self.inputs, run.agents.learner.rule_carry
        return [jax.tree.map(lambda x, i=index: x[i], seen) for index in range(run.population.count)]


def with_outputs(inputs: RuleInputs, change: Callable[[dict[str, Array]], dict[str, Array]]) -> RuleInputs:
    """Inputs in which the outputs of the online and of the target network, where there is one, are changed alike."""
    of_target = None if inputs.target_outputs is None else change(inputs.target_outputs)
    return inputs.replace(outputs=change(inputs.outputs), target_outputs=of_target)


@dataclasses.dataclass(frozen=True)
class PredictionTarget:
    """A prediction whose meaning the rule decides, and the target that the meta-network emits for it.

    Attributes:
      head: the prediction's name, such as 'y'.
      target: the target's, such as 'y_hat'.
      action_conditional: whether the prediction is one for each action.
    """

    head: str
    target: str
    action_conditional: bool

    @property
    def taken(self) -> str:
        """The name of the prediction at the action taken: 'z_a' for 'z'."""
        return f"{self.head}_a" if self.action_conditional else self.head


def prediction_targets(rule: UpdateRule) -> tuple[PredictionTarget, ...]:
    """The predictions that a rule's meta-network gives a meaning to; none for a static rule."""

    def found(target: Target) -> Iterator[PredictionTarget]:
        head = getattr(target, "head", None)
        if target.learned and head is not None:
            yield PredictionTarget(head, target.name, rule.head(head).action_conditional)

    return tuple(each for target in rule.meta_network.targets for each in found(target))


def refuse_without_predictions(rule: UpdateRule) -> tuple[PredictionTarget, ...]:
    """The predictions of a rule that has some.

    Raises:
      UserError: the rule has none.
    """
    targets = prediction_targets(rule)
    if not targets:
        raise UserError(
            "the run's rule emits no target for a prediction of the agents: analyse a run of a rule that does, such as "
            "lpg_small, disco_catch or disco103_catch"
        )
    return targets


def play(run: RestoredRun, *, streams: int, steps: int | None = None, seed: int = 0) -> Played:
    """Every agent of a group acts in fresh environments of the task of its life; nobody learns.

    Args:
      run: whose agents act.
      streams: environments of each agent (E).
      steps: of a trajectory (T); as many as the agents learn from by default.
      seed: of environments and actions.
    """
    of_run = run.population
    group = dataclasses.replace(of_run.lifecycle.group, num_environments=streams)
    if steps is not None:
        group = dataclasses.replace(group, trajectory_length=steps)
    population = Population(Lifecycle(run.rule, group), of_run.index, of_run.agents)
    # Through a role of its own: a seed equal to the run's must not play the environments that the agents learned in.
    root = jax.random.key_data(keys.role_key(keys.root_key(seed), Role.EVALUATION))
    if population.lifecycle.on_host:
        trajectory = _play_on_host(population, run.agents, root)
    else:
        trajectory = _play_on_device(population, run.agents.learner, run.agents.life, root)
    return _seen(population, run.meta_params, run.agents.learner, trajectory)


@functools.partial(jax.jit, static_argnums=0)
def _play_on_device(population: Population, learners: LearnerState, lives: Life, root: Array) -> Trajectory:
    lifecycle = population.lifecycle

    def one(_: None, learner: LearnerState, life: Life, agent_root: Array) -> Trajectory:
        reset_key, act_key = jax.random.split(keys.role_key(agent_root, Role.EVALUATION))
        actor = initial_actor(lifecycle.network, lifecycle.environments, life.task, reset_key)
        by, steps = lifecycle.learner.acting_params(learner), lifecycle.group.trajectory_length
        _, trajectory = unroll(
            lifecycle.network, lifecycle.environments, task=life.task, by=by, actor=actor, key=act_key, steps=steps
        )
        return trajectory

    return population.agents.map(one, None, learners, lives, population.roots(root))


def _play_on_host(population: Population, agents: AgentState, root: Array) -> Trajectory:
    lifecycle = population.lifecycle
    worlds = HostGroup(population, np.asarray(root), os.cpu_count() or 1, births=np.array(agents.life.births))
    try:
        shown = worlds.first_shown()
        actor = jax.vmap(functools.partial(actor_at, lifecycle.network, ()))(shown)
        bare = agents.replace(actor=actor, replay=(), window=(), objective=(), meta_optimizer=())
        act_keys = jax.vmap(lambda r: jax.random.key_data(keys.role_key(r, Role.EVALUATION)))(population.roots(root))
        acted = worlds.unroll(bare, act_keys, steps=lifecycle.group.trajectory_length)
        return in_turns({0: acted})[0][1]
    finally:
        worlds.pool.close()


@functools.partial(jax.jit, static_argnums=0)
def _seen(population: Population, meta_params: Params, learners: LearnerState, trajectory: Trajectory) -> Played:
    learner, rule = population.lifecycle.learner, population.lifecycle.rule

    def one(meta_params: Params, state: LearnerState, trajectory: Trajectory) -> Played:
        inputs = learner.rule_inputs(state, trajectory)
        known = rule.with_learned_numbers(meta_params, inputs)
        estimates, _ = rule.estimate(known, state.rule_carry.normalizer)
        return Played(trajectory, inputs, None if estimates is None else estimates.values)

    return population.agents.map(one, meta_params, learners, trajectory)
