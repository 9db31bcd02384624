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
Params = Any
Outputs = dict[str, Array]


class TimeStep(struct.PyTreeNode):
    """What an environment shows after a reset or a step.

    Attributes:
      observation: the observation to act on; after an episode's end already the next episode's first [B, ...].
      reward: reward of the step just taken, 0 after a reset [B].
      discount: 0 where the episode terminated, else 1 [B].
      last: whether the step just taken ended an episode, by termination or by a limit [B].
    """

    observation: Array
    reward: Array
    discount: Array
    last: Array


class Trajectory(struct.PyTreeNode):
    """T transitions of B environments. Row T of one trajectory is row 0 of the next: none is lost.

    Attributes:
      observation: [T+1, B, ...].
      action: [T, B].
      reward: [T, B].
      discount: 0 where the episode terminated, else 1 [T, B].
      last: whether the transition ended an episode [T, B].
      behaviour: logits of the policy that acted [T, B, A].
      carry: the torso's recurrent carry before row 0 [B, ...]; an empty tuple for memoryless torsos.
    """

    observation: Array
    action: Array
    reward: Array
    discount: Array
    last: Array
    behaviour: Array
    carry: PyTree = ()

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
      returns: estimate of the return from each step, under stop-gradient [T, B].
      advantages: returns minus v'(s), of the actions taken [T, B].
      errors: returns minus the online network's own prediction of them [T, B].
      action_values: q'(s, a) [T+1, B, A].
      action_advantages: q'(s, a) - v'(s) [T+1, B, A].
      normalized_advantages, normalized_action_advantages, normalized_errors: the same through a normalizer.
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


class LossInputs(struct.PyTreeNode):
    """What a loss term sees.

    Attributes:
      outputs: {head: [T, B, ...]} of the parameters being moved; action-conditional heads at the action taken.
      targets: {target: [T, B, ...]}, computed once before the update.
      every_action: {head: [T, B, A, ...]} for terms that set ``every_action``; else ``None``.
      behaviour: logits of the policy that acted [T, B, A].
      action, reward, discount, last, weight: as in `Trajectory` [T, B].
    """

    outputs: Outputs
    targets: dict[str, Array]
    every_action: Outputs | None
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
        every_action: Outputs | None,
    ) -> LossInputs:
        """Outputs and targets beside what was done and what came of it."""
        return cls(
            outputs=outputs,
            targets=targets,
            every_action=every_action,
            behaviour=steps.behaviour,
            action=steps.action,
            reward=steps.reward,
            discount=steps.discount,
            last=steps.last,
            weight=steps.weight,
        )


class EpisodeStatistics(struct.PyTreeNode):
    """Returns of the running episodes, and sums over those completed since the last reading.

    Attributes:
      running_return, running_length: of each environment's episode so far [E].
      completed: number of episodes completed [].
      return_sum, length_sum: over the completed episodes [].
    """

    running_return: Array
    running_length: Array
    completed: Array
    return_sum: Array
    length_sum: Array


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
    """

    params: Params
    opt_state: PyTree
    target_params: Params | None
    rule_carry: RuleCarry
    hyperparameters: dict[str, Array]
    updates: Array


class ActorState(struct.PyTreeNode):
    """Where an agent stands in its environments: states, last time step, torso carry, statistics [E, ...]."""

    env_state: PyTree
    time_step: TimeStep
    carry: PyTree
    statistics: EpisodeStatistics


class AgentState(struct.PyTreeNode):
    """One agent: what it learned, where it stands, and what it remembers."""

    learner: LearnerState
    actor: ActorState
    replay: PyTree


class TrainState(struct.PyTreeNode):
    """The whole state of a run; nothing else survives a step, and this alone is checkpointed.

    Attributes:
      step: agent updates made [] int32.
      root_key: key data all randomness is folded from [2] uint32.
      meta_params: the update rule's parameters; ``{}`` for static rules.
      agent: the agent.
      metrics: {name: []} sums since the last logged point.
    """

    step: Array
    root_key: Array
    meta_params: Params
    agent: AgentState
    metrics: dict[str, Array]
