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
class NumberDescription(Component):
    """A number that is not a constant.

    Attributes:
      symbol: what formulas write in its place.
    """

    symbol: str


@dataclasses.dataclass(frozen=True)
class EnvironmentDescription:
    """Where the agents of a group act.

    Attributes:
      suite, tasks: the tasks and where they are from; agents begin with them in turn.
      on_host: whether the environments are outside the device.
      resume: how those outside the device go on after an interruption; ``None`` on the device.
      observation_shape, observation_dtype: of one observation; ``()`` where it is a dictionary of arrays.
      parts: {name: {shape, dtype}} of the arrays of a dictionary; empty where an observation is one array.
      num_states: how many states there are, where an observation is the index of one.
      num_actions: A.
    """

    suite: Component
    tasks: tuple[str, ...]
    on_host: bool
    resume: str | None
    observation_shape: tuple[int, ...]
    observation_dtype: str
    parts: dict[str, dict[str, Any]]
    num_states: int | None
    num_actions: int


@dataclasses.dataclass(frozen=True)
class HeadDescription:
    """An output of the agent's network.

    Attributes:
      name: of the head.
      shape: of the outputs that an update sees: [T+1, B, K], action-conditional heads [T+1, B, A, K].
      dtype: of the outputs.
      action_conditional: whether there is one output for each action.
      grown_by: ``torso`` (a linear layer on its embedding), ``own_torso`` (the same on one that no other head reads),
        ``action_model``, or ``table`` (a row for each state).
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
    head_networks: tuple[Component, ...]
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
      behaviour: how agents act; ``None`` where they sample from the head ``logits``.
      target_decay: of the target network; ``None`` without one.
      learned_numbers: numbers that are meta-parameters.
    """

    meta_network: MetaNetworkDescription
    loss: LossDescription
    value_estimator: Component | None
    normalizer: Component | None
    behaviour: Component | None
    target_decay: float | None
    learned_numbers: tuple[NumberDescription, ...]


@dataclasses.dataclass(frozen=True)
class MemoryDescription:
    """Size of a state in megabytes (10^6 bytes).

    Running means and counters, some bytes each, are left out, and what environments outside the device hold.

    Attributes:
      parts: {part: size}. Of an agent, ``rule_carry`` is what its learner carries beside parameters and optimizer,
        ``actor`` its environments and where it stands in them, ``life`` its task and age, ``window`` the batches that
        the next meta-gradient reaches back to, ``objective`` what the meta-objective keeps.
      total: of all parts.
    """

    parts: dict[str, float]
    total: float


@dataclasses.dataclass(frozen=True)
class GroupScheduleDescription:
    """How much the agents of a group act, and what an agent's update learns from.

    Attributes:
      num_environments, trajectory_length: E and T of each agent.
      validation_length: steps of the trajectory that judges an agent; ``None`` without discovery.
      env_steps_per_update: of one agent: E x T.
      env_steps_per_step: of all agents, in a step of the run (an update of each, or a meta-step).
      warm_up_env_steps, env_steps: of all agents, before the first update, and in the whole run.
      epochs, minibatches: passes over the batch, and parts of a pass.
      minibatch_unit: what is shuffled before a pass is split: each ``trajectory`` as a whole, or each ``step``.
      gradient_steps_per_update: epochs x minibatches.
      batch_size: trajectories an update learns from, B.
      fresh, replayed: how many of them are just collected, and how many are drawn from the replay.
      replay: what an agent remembers.
      replay_capacity: trajectories remembered; 0 without a memory.
      replay_ratio: replayed / batch_size.
      uses_per_transition: how often a transition is learned from, on average.
    """

    num_environments: int
    trajectory_length: int
    validation_length: int | None
    env_steps_per_update: int
    env_steps_per_step: int
    warm_up_env_steps: int
    env_steps: int
    epochs: int
    minibatches: int
    minibatch_unit: str
    gradient_steps_per_update: int
    batch_size: int
    fresh: int
    replayed: int
    replay: Component
    replay_capacity: int
    replay_ratio: float
    uses_per_transition: float


@dataclasses.dataclass(frozen=True)
class GroupDescription:
    """Agents that are alike.

    Attributes:
      agents: how many there are (P).
      chunk: how many of one device are computed at once; ``None`` for all.
      environment: where they act.
      agent: what each of them is.
      hyperparameters: {name: value of a newborn agent}, short of a bandit's choice.
      bandit: chooses the hyperparameters of newborn agents; ``None`` without one.
      arms: {hyperparameter: its value in each of the bandit's arms}; empty without one.
      lifetime: how long they live; ``None`` for lives without end.
      schedule: how much they act and learn.
      memory_megabytes: the state of one agent.
    """

    agents: int
    chunk: int | None
    environment: EnvironmentDescription
    agent: AgentDescription
    hyperparameters: dict[str, float]
    bandit: Component | None
    arms: dict[str, tuple[float, ...]]
    lifetime: Component | None
    schedule: GroupScheduleDescription
    memory_megabytes: MemoryDescription


@dataclasses.dataclass(frozen=True)
class RegularizerDescription:
    """A term of the meta-loss beside the meta-objective.

    Attributes:
      on: ``updates`` or ``validation``: the steps that it is the mean over.
      cost: its weight.
      formula: the term at a step, without its cost.
      component: the term.
    """

    on: str
    cost: float
    formula: str
    component: Component


@dataclasses.dataclass(frozen=True)
class MetaLossDescription:
    """What a rule is judged by, for each agent.

    Attributes:
      formula: the whole; ``mean_validation`` is over the steps of the validation trajectory under the final parameters,
        ``mean_updates`` over the steps of all N updates.
      objective: the meta-objective at a step of the validation trajectory, as a formula.
      regularizers: the other terms.
    """

    formula: str
    objective: str
    regularizers: tuple[RegularizerDescription, ...]


@dataclasses.dataclass(frozen=True)
class DiscoveryDescription:
    """How the rule is judged and moved.

    Attributes:
      meta_loss: what it is judged by.
      objective: the meta-objective.
      optimizer: of the meta-parameters.
      separate_optimizers: whether each agent has one of its own; else one moves by the mean meta-gradient.
      meta_parameters: how many there are.
      inner_updates: agent updates that a meta-gradient reaches through (N).
      stride: how many of them are new in each meta-step (S).
      max_gradient_norm: limit of each agent's meta-gradient; ``None`` for no limit.
      max_parameter: an agent with a larger one is lost: it contributes nothing and is born anew.
      max_faulty_share: share of the agents' meta-steps between two logged points that may be lost.
      max_replay_error: how far the differentiated updates may end from those collected, as a share of the way.
    """

    meta_loss: MetaLossDescription
    objective: Component
    optimizer: Component
    separate_optimizers: bool
    meta_parameters: int
    inner_updates: int
    stride: int
    max_gradient_norm: float | None
    max_parameter: float
    max_faulty_share: float
    max_replay_error: float


@dataclasses.dataclass(frozen=True)
class HeldOutDescription:
    """What the rule is measured on while it is discovered.

    Attributes:
      groups: fresh agents and what they learn on.
      updates: of each agent in a measurement.
      interval: meta-steps between two measurements.
      env_steps: of a measurement, which count towards nothing else.
    """

    groups: tuple[GroupDescription, ...]
    updates: int
    interval: int
    env_steps: int


@dataclasses.dataclass(frozen=True)
class ScheduleDescription:
    """How long the run is.

    Attributes:
      steps: meta-steps, or agent updates where the rule is frozen.
      updates: of an agent, in the whole run.
      env_steps, env_steps_per_step, warm_up_env_steps: of all agents: in all, per step, and before the first one.
      evaluation: how returns are measured.
      seed: of all randomness.
    """

    steps: int
    updates: int
    env_steps: int
    env_steps_per_step: int
    warm_up_env_steps: int
    evaluation: Component
    seed: int


@dataclasses.dataclass(frozen=True)
class DevicesDescription:
    """What the devices of a machine, or of many, would hold of a run.

    Attributes:
      count: how many there are on all hosts.
      hosts: how many hosts do the run together.
      used: over how many of them agents are spread.
      agents: on each of these, in all groups.
      state_megabytes: on each of these: its agents, and the rule, which all of them hold.
    """

    count: int
    hosts: int
    used: int
    agents: int
    state_megabytes: float


@dataclasses.dataclass(frozen=True)
class Description:
    """An experiment as it is composed.

    Attributes:
      groups: the population.
      heads: of its first group's agents.
      rule: how the agents learn; shapes are those of the first group.
      discovery: how the rule is judged and moved; ``None`` where it is frozen.
      held_out: what it is measured on meanwhile.
      schedule: how long the run is.
      memory_megabytes: the whole state; an agent's parts summed over all agents.
      devices: how that is spread over devices; ``None`` where none were asked for.
    """

    groups: tuple[GroupDescription, ...]
    heads: tuple[HeadDescription, ...]
    rule: RuleDescription
    discovery: DiscoveryDescription | None
    held_out: HeldOutDescription | None
    schedule: ScheduleDescription
    memory_megabytes: MemoryDescription
    devices: DevicesDescription | None = None
