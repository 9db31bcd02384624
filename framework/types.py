"""The data that flows between agents, rules and environments.

Axes, used everywhere: N inner updates, P agents, T steps, B trajectories, E environments, A actions,
D features, K value bins, in the order ``[N, P, T, B, ...]``. Component code sees ``[T, B, ...]`` only.
All types are frozen pytrees that hold arrays and nothing else.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
PyTree = Any
Observation = Any  # An array, or a dictionary of arrays.
Params = Any
Outputs = dict[str, Array]


class TimeStep(struct.PyTreeNode):
    """What an environment shows after a reset or a step.

    Attributes:
      observation: the observation to act on; after an episode's end already the next episode's first [B, ...]. One
        array, or a dictionary of arrays: see `framework.specs.EnvironmentSpec`.
      reward: reward of the step just taken, 0 after a reset [B].
      discount: 0 where the episode terminated, else 1 [B].
      last: whether the step just taken ended an episode, by termination or by a limit [B].
      episode_numbers: {name: [B]}, what the episode has reached by now, for the names in the environment's
        specification; read where a step is the last one. Environments outside the device tell theirs elsewhere.
    """

    observation: Observation
    reward: Array
    discount: Array
    last: Array
    episode_numbers: dict[str, Array] = struct.field(default_factory=dict)


class Trajectory(struct.PyTreeNode):
    """T transitions of B environments. Row T of one trajectory is row 0 of the next: none is lost.

    Attributes:
      observation: [T+1, B, ...]; one array, or a dictionary of arrays.
      action: [T, B].
      reward: [T, B].
      discount: 0 where the episode terminated, else 1 [T, B].
      last: whether the transition ended an episode [T, B].
      behaviour: logits of the policy that acted [T, B, A].
      carry: the torso's recurrent carry before row 0 [B, ...]; an empty tuple for memoryless torsos.
      importance: weight in the loss of a trajectory that was drawn more or less often than others, the same at all its
        steps [T, B]; ``None``: 1.
    """

    observation: Observation
    action: Array
    reward: Array
    discount: Array
    last: Array
    behaviour: Array
    carry: PyTree = ()
    importance: Array | None = None

    @property
    def weight(self) -> Array:
        """1, and 0 for transitions cut off without their final observation [T, B] (float32)."""
        return transition_weight(self.discount, self.last)


def transition_weight(discount: Array, last: Array) -> Array:
    """0 for a transition that ended an episode without terminating it, 1 for all others (float32).

    After such a transition the next observation belongs to another episode: nothing may be learned from the
    pair, and returns must not leak across it.
    """
    return jnp.where(last & (discount > 0), 0.0, 1.0)


class RuleInputs(struct.PyTreeNode):
    """What an update rule sees of a trajectory and of the agent that learns from it.

    Attributes:
      outputs: {head: [T+1, B, ...]}; action-conditional heads [T+1, B, A, ...].
      target_outputs: the same from the target network; ``None`` for rules without one.
      behaviour: logits of the policy that acted [T, B, A].
      action, reward, discount, last, weight: as in `Trajectory` [T, B].
      hyperparameters: {name: []}, numbers that differ between agents or move in time.
      progress: fraction of the agent's lifetime that is over [] (0 where lifetimes have no end).
    """

    outputs: Outputs
    target_outputs: Outputs | None
    behaviour: Array
    action: Array
    reward: Array
    discount: Array
    last: Array
    weight: Array
    hyperparameters: dict[str, Array]
    progress: Array


class Estimates(struct.PyTreeNode):
    """Values and returns of a trajectory; what an estimator cannot tell is ``None``.

    Where the rule has a target network, what is bootstrapped from is the target network's: v' and q'.

    Attributes:
      values: v(s) of the online network [T+1, B].
      returns: estimate of the return from each step: a constant of the outputs, but not of a learned discount or decay
        [T, B].
      advantages: of the actions taken, over v'(s) [T, B].
      errors: returns minus the online network's own prediction of them [T, B].
      action_values: q'(s, a) [T+1, B, A].
      action_advantages: q'(s, a) - v'(s) [T+1, B, A].
      normalized_advantages, normalized_action_advantages, normalized_errors: the same through a normalizer.
      return_distributions: how the returns are distributed, in the form that the head is moved to [T, B, K].
    """

    values: Array
    returns: Array
    advantages: Array
    errors: Array
    action_values: Array | None = None
    action_advantages: Array | None = None
    normalized_advantages: Array | None = None
    normalized_action_advantages: Array | None = None
    normalized_errors: Array | None = None
    return_distributions: Array | None = None


class LossInputs(struct.PyTreeNode):
    """What a loss term sees.

    Attributes:
      outputs: {head: [T, B, ...]} of the parameters being moved; action-conditional heads at the action taken.
      targets: {target: [T, B, ...]}, computed once before the update.
      behaviour: logits of the policy that acted [T, B, A].
      action, reward, discount, last, weight: as in `Trajectory` [T, B].
    """

    outputs: Outputs
    targets: dict[str, Array]
    behaviour: Array
    action: Array
    reward: Array
    discount: Array
    last: Array
    weight: Array

    @classmethod
    def of_steps(
        cls,
        steps: Trajectory | RuleInputs,
        *,
        outputs: Outputs,
        targets: dict[str, Array],
    ) -> LossInputs:
        """Outputs and targets beside what was done and what came of it."""
        return cls(
            outputs=outputs,
            targets=targets,
            behaviour=steps.behaviour,
            action=steps.action,
            reward=steps.reward,
            discount=steps.discount,
            last=steps.last,
            weight=steps.weight,
        )


class RegularizerInputs(struct.PyTreeNode):
    """What a regularizer of the meta-objective sees of a training update or of the validation trajectory.

    Attributes:
      outputs: {head: [T, B, ...]} of the parameters before the update, of the final ones on validation;
        action-conditional heads at the action taken.
      target_outputs: the same from the target network; ``None`` on validation, and for rules without one.
      targets: {target: [T, B, ...]} of the update; empty on validation.
      action, weight: as in `Trajectory` [T, B].
    """

    outputs: Outputs
    target_outputs: Outputs | None
    targets: dict[str, Array]
    action: Array
    weight: Array


class Experience(struct.PyTreeNode):
    """What N agent updates learned from, so that they can be made again.

    Attributes:
      trajectories: [N, T, B, ...].
      keys: of the updates' minibatches [N].
      valid: whether an update took place; where not, it is passed over [N]. ``None``: all did.
    """

    trajectories: Trajectory
    keys: Array
    valid: Array | None = None

    @property
    def count(self) -> Array | int:
        """Number of updates that took place, at least 1."""
        return self.keys.shape[0] if self.valid is None else jnp.maximum(1.0, self.valid.sum())


class EpisodeStatistics(struct.PyTreeNode):
    """Returns of the running episodes, and sums over those completed since the last reading.

    Attributes:
      running_return, running_length: of each environment's episode so far [E].
      completed: number of episodes completed [].
      return_sum, length_sum: over the completed episodes [].
      dummy_steps: time steps that were none of the environments', but resets shown late [].
      number_sums: {name: sum over the completed episodes []}, of the specification's ``episode_numbers``.
    """

    running_return: Array
    running_length: Array
    completed: Array
    return_sum: Array
    length_sum: Array
    dummy_steps: Array
    number_sums: dict[str, Array] = struct.field(default_factory=dict)


class RuleCarry(struct.PyTreeNode):
    """What a rule remembers of an agent between updates: its lifetime core's state, its normalizer's statistics."""

    lifetime: PyTree
    normalizer: PyTree


class LearnerState(struct.PyTreeNode):
    """All that one agent update reads and writes.

    Attributes:
      params: the agent's parameters.
      opt_state: of the agent's optimizer.
      target_params: the slowly moving copy of the parameters, their one home; ``None`` for rules without one.
      rule_carry: what the rule carries between updates (lifetime core, moving averages).
      hyperparameters: {name: []}.
      updates: agent updates made [] int32.
      progress_per_update: share of its lifetime that an update takes []; 0 where lifetimes have no end.
    """

    params: Params
    opt_state: PyTree
    target_params: Params | None
    rule_carry: RuleCarry
    hyperparameters: dict[str, Array]
    updates: Array
    progress_per_update: Array

    @property
    def progress(self) -> Array:
        """Fraction of the lifetime that is over []."""
        return jnp.minimum(1.0, self.updates * self.progress_per_update)


class ActingParams(struct.PyTreeNode):
    """What an agent acts by: its parameters, and the numbers {name: []} that its behaviour may read."""

    params: Params
    hyperparameters: dict[str, Array] = struct.field(default_factory=dict)


class ActorState(struct.PyTreeNode):
    """Where an agent stands in its environments: states, last time step, torso carry, statistics [E, ...]."""

    env_state: PyTree
    time_step: TimeStep
    carry: PyTree
    statistics: EpisodeStatistics


class Life(struct.PyTreeNode):
    """An agent's lifetime: on what, with what, how long, and how well so far.

    Attributes:
      task: what its environments are reset to, drawn at birth.
      task_index: which of the group's tasks it is [] int32.
      arm: which of the bandit's arms its hyperparameters are from [] int32.
      age, budget: environment steps lived, and at which of them life ends [] int32.
      births: agents that have lived in this place before [] int32.
      return_sum, return_weight: exponentially weighted sums over the episodes completed []; their quotient is the
        score of the lifetime.
    """

    task: PyTree
    task_index: Array
    arm: Array
    age: Array
    budget: Array
    births: Array
    return_sum: Array
    return_weight: Array

    @property
    def score(self) -> Array:
        """The mean return of the latest episodes []; NaN before the first one."""
        return self.return_sum / self.return_weight


class Window(struct.PyTreeNode):
    """What the next meta-gradient reaches back to, where the window moves by fewer updates than it is long.

    Attributes:
      start: the learner before the window's first update.
      trajectories: the batches learned from since [N - S, T, B, ...].
      valid: whether the agent had been born by then [N - S].
    """

    start: LearnerState
    trajectories: Trajectory
    valid: Array


class AgentState(struct.PyTreeNode):
    """One agent: what it learned, where it stands, what it remembers, and what the rule's discovery keeps of it.

    Attributes:
      learner: parameters, and all else that an update reads and writes.
      actor: where it stands in its environments.
      replay: what it remembers.
      life: its lifetime.
      window: what the next meta-gradient reaches back to; ``()`` where the window moves by its whole length.
      objective: what the meta-objective keeps (its value function); ``()`` without discovery.
      meta_optimizer: of its meta-gradients; outlives it; ``()`` where agents share one.
    """

    learner: LearnerState
    actor: ActorState
    replay: PyTree
    life: Life
    window: PyTree = ()
    objective: PyTree = ()
    meta_optimizer: PyTree = ()


class Place(struct.PyTreeNode):
    """What an agent is born to.

    Attributes:
      task_index: its task [] int32.
      arm: the bandit's arm that its hyperparameters are from [] int32.
      births: agents that have lived there before [] int32.
      share: of the budget drawn that it lives []: less than 1 makes agents start staggered.
    """

    task_index: Array
    arm: Array
    births: Array
    share: Array


class Collected(struct.PyTreeNode):
    """What an agent's meta-gradient is computed from.

    Attributes:
      start, next_start: its learner before this window's first update, and before the next one's.
      experience: what the window's updates learned from.
      validation: a trajectory of the parameters they led to.
    """

    start: LearnerState
    next_start: LearnerState
    experience: Experience
    validation: Trajectory


class Mean(struct.PyTreeNode):
    """A running mean as the sum of what was seen, and of its weights []."""

    total: Array
    weight: Array


class GroupStep(struct.PyTreeNode):
    """A group's part of a step.

    Attributes:
      agents: after it [P, ...].
      gradient: their meta-gradients [P, ...]; ``None`` where the rule is frozen.
      sound: whose numbers are not lost [P]; ``None`` where the rule is frozen.
      means: running means to log.
    """

    agents: AgentState
    gradient: Params | None
    sound: Array | None
    means: dict[str, Mean]


class GroupState(struct.PyTreeNode):
    """The agents of a group [P, ...], what its bandit knows, and what was measured since the last logged point.

    Attributes:
      agents: every leaf with a leading axis P.
      bandit: ``()`` without one.
      extra_steps: environment steps that the number of steps does not tell: those of agents born later before their
        first update, less time steps that were none of the environments' [] int32.
      means: {name: running mean}.
      counts: {name: how often something happened []}.
    """

    agents: AgentState
    bandit: PyTree
    extra_steps: Array
    means: dict[str, Mean]
    counts: dict[str, Array]


class TrainState(struct.PyTreeNode):
    """The whole state of a run; nothing else survives a step, and this alone is checkpointed.

    Attributes:
      step: meta-steps made, or agent updates where the rule is frozen [] int32.
      root_key: key data all randomness is folded from [2] uint32.
      meta_params: the update rule's parameters; ``{}`` for static rules.
      meta_optimizer: of the mean meta-gradient, where agents share one optimizer; else ``()``.
      groups: the population.
      means: of the meta-step's own numbers.
    """

    step: Array
    root_key: Array
    meta_params: Params
    meta_optimizer: PyTree
    groups: tuple[GroupState, ...]
    means: dict[str, Mean]
