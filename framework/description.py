"""The vocabulary of descriptions: what is said of an experiment, for people and, field by field, as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Component:
    """A component and its configuration.

    Attributes:
      kind: that it is registered under; empty for a class that is not.
      name: of its class.
      parameters: {parameter: number, text, flag, ``None``, a component, or a list of them}, defaults included.
      changed: the parameters that differ from their defaults.
    """

    kind: str
    name: str
    parameters: dict[str, Any]
    changed: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class EnvironmentDescription:
    """Where the agent acts.

    Attributes:
      suite, task: the task and where it is from.
      observation_shape, observation_dtype: of one observation.
      num_actions: A.
    """

    suite: Component
    task: str
    observation_shape: tuple[int, ...]
    observation_dtype: str
    num_actions: int


@dataclasses.dataclass(frozen=True)
class HeadDescription:
    """An output of the agent's network.

    Attributes:
      name: of the head.
      shape: of the outputs that an update sees: [T+1, B, K], action-conditional heads [T+1, B, A, K].
      dtype: of the outputs.
      action_conditional: whether there is one output for each action.
      grown_by: ``torso`` (a linear layer on its embedding) or ``action_model``.
      component: the head.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    action_conditional: bool
    grown_by: str
    component: Component


@dataclasses.dataclass(frozen=True)
class ParameterArray:
    """One array of parameters: its path in the tree, shape, dtype, and number of elements."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    size: int


@dataclasses.dataclass(frozen=True)
class Parameters:
    """All parameters of a network.

    Attributes:
      count: number of parameters.
      parts: {top-level part: its number of parameters}.
      arrays: in path order.
    """

    count: int
    parts: dict[str, int]
    arrays: tuple[ParameterArray, ...]


@dataclasses.dataclass(frozen=True)
class AgentDescription:
    """The agent's network, and what trains it."""

    torso: Component
    action_model: Component | None
    optimizer: Component
    parameters: Parameters


@dataclasses.dataclass(frozen=True)
class FeatureDescription:
    """Something that a meta-network sees: how many numbers, per step or per action."""

    size: int
    component: Component


@dataclasses.dataclass(frozen=True)
class TargetDescription:
    """Something that heads are moved to: its shape in an update [T, B, ...], and whether it is learned."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    learned: bool
    component: Component


@dataclasses.dataclass(frozen=True)
class MetaNetworkDescription:
    """What computes the targets.

    Attributes:
      static: whether it has no parameters.
      weights: where its parameters come from; nothing has been read.
      features: what the trajectory core sees of each step, in order.
      core, core_size: the trajectory core, and how many numbers it tells of each step; 0 without one.
      lifetime_features: what the lifetime core sees of each step, in order.
      lifetime_core, lifetime_size: the lifetime core, and how many numbers it remembers; 0 without one.
      action_features: everything that is seen of each action.
      targets: in the order in which they are computed.
      parameters: the meta-parameters.
    """

    static: bool
    weights: Component
    features: tuple[FeatureDescription, ...]
    core: Component | None
    core_size: int
    lifetime_features: tuple[FeatureDescription, ...]
    lifetime_core: Component | None
    lifetime_size: int
    action_features: tuple[FeatureDescription, ...]
    targets: tuple[TargetDescription, ...]
    parameters: Parameters


@dataclasses.dataclass(frozen=True)
class LossTermDescription:
    """One term of the loss.

    Attributes:
      head: the head it moves.
      cost: its weight: a number, or the name of the hyperparameter or target that holds it.
      formula: the term without its cost.
      component: the term.
    """

    head: str
    cost: float | str
    formula: str
    component: Component


@dataclasses.dataclass(frozen=True)
class LossDescription:
    """The loss: the weighted mean over steps of ``formula``, the sum of the terms times their costs."""

    formula: str
    terms: tuple[LossTermDescription, ...]


@dataclasses.dataclass(frozen=True)
class RuleDescription:
    """The update rule, apart from its heads.

    Attributes:
      meta_network: what computes the targets.
      loss: what moves the heads to the targets.
      value_estimator, normalizer: where values and advantages come from.
      target_decay: of the target network; ``None`` without one.
      hyperparameters: {name: value of a newborn agent}.
    """

    meta_network: MetaNetworkDescription
    loss: LossDescription
    value_estimator: Component | None
    normalizer: Component | None
    target_decay: float | None
    hyperparameters: dict[str, float]


@dataclasses.dataclass(frozen=True)
class ScheduleDescription:
    """How much is acted and learned; an update of the agent is a step of the run.

    Attributes:
      updates: in the whole run.
      env_steps, env_steps_per_update, warm_up_env_steps: in all, per update, and before the first one.
      num_environments, trajectory_length: E and T; their product is the environment steps per update.
      epochs, minibatches: passes over the batch, and parts of a pass.
      gradient_steps_per_update: epochs x minibatches.
      batch_size: trajectories an update learns from, B.
      fresh, replayed: how many of them are just collected, and how many are drawn from the replay.
      replay: what the agent remembers.
      replay_capacity: trajectories remembered; 0 without a memory.
      replay_ratio: replayed / batch_size.
      uses_per_transition: how often a transition is learned from, on average.
      evaluation: how returns are measured.
      seed: of all randomness.
    """

    updates: int
    env_steps: int
    env_steps_per_update: int
    warm_up_env_steps: int
    num_environments: int
    trajectory_length: int
    epochs: int
    minibatches: int
    gradient_steps_per_update: int
    batch_size: int
    fresh: int
    replayed: int
    replay: Component
    replay_capacity: int
    replay_ratio: float
    uses_per_transition: float
    evaluation: Component
    seed: int


@dataclasses.dataclass(frozen=True)
class MemoryDescription:
    """Size of a run's state in megabytes (10^6 bytes).

    Attributes:
      parts: {part: size}; ``rule_carry`` is what else an agent carries between updates, ``actor`` its environments and
        where it stands in them.
      total: of all parts.
    """

    parts: dict[str, float]
    total: float


@dataclasses.dataclass(frozen=True)
class Description:
    """An experiment as it is composed."""

    environment: EnvironmentDescription
    heads: tuple[HeadDescription, ...]
    agent: AgentDescription
    rule: RuleDescription
    schedule: ScheduleDescription
    memory_megabytes: MemoryDescription
