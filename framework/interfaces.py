"""What a component of each kind must offer, and the kinds there are.

A component is a frozen dataclass (or a linen module, for networks) with annotated fields, registered by
``@component(kind)``. An annotation that names one of these protocols accepts any component of its kind.
Some field names carry meaning: ``head`` (and ``policy``) names a head of the agent that the component reads or moves,
``target`` (and ``old``) a target of the rule; that such a head or target exists is checked before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from framework.context import FeatureContext
from framework.specs import ArraySpec, EnvironmentSpec
from framework.types import (
    Array,
    Estimates,
    LossInputs,
    Observation,
    Params,
    PyTree,
    RegularizerInputs,
    RuleInputs,
    TimeStep,
    Trajectory,
)


@runtime_checkable
class Head(Protocol):
    """One output of the agent's network.

    Attributes:
      name: key in the network's outputs.
      action_conditional: whether there is one output for each action.
    """

    name: str
    action_conditional: bool

    def size(self, spec: EnvironmentSpec) -> int:
        """Number of outputs (per action, for an action-conditional head)."""


@runtime_checkable
class ValueHead(Head, Protocol):
    """A head that predicts returns."""

    def read(self, output: Array) -> Array:
        """The predicted return, from the head's raw output [..., K] to [...]."""

    def loss(self, output: Array, target: Array) -> Array:
        """Distance of the raw output [..., K] from returns [...]."""

    def formula(self, output: str, target: str) -> str:
        """The distance as a short formula."""


@runtime_checkable
class DistributionHead(ValueHead, Protocol):
    """A head that predicts how returns are distributed."""

    def distribution(self, output: Array) -> tuple[Array, Array]:
        """Returns and their probabilities, both [..., K], from the head's raw output [..., K]."""

    def project(self, returns: Array, probabilities: Array) -> Array:
        """What the head shall predict [..., K] where returns have the given probabilities, both [..., K']."""

    def distribution_loss(self, output: Array, target: Array) -> Array:
        """Distance of the raw output [..., K] from what `project` gave [..., K]."""

    def distribution_formula(self, output: str, target: str) -> str:
        """That distance as a short formula."""


@runtime_checkable
class Torso(Protocol):
    """A linen module from observations to an embedding."""

    def __call__(self, observation: Observation, reset: Array, carry: PyTree) -> tuple[Array, PyTree]:
        """Embeds T steps.

        Args:
          observation: [T, B, ...]; a dictionary of arrays for a torso that names the ``inputs`` it reads.
          reset: whether a new episode begins at a step: the carry is cleared before it [T, B].
          carry: recurrent carry before the first step [B, ...].

        Returns:
          The embedding [T, B, D] and the carry after the last step.
        """

    def initial_carry(self, batch: int) -> PyTree:
        """The carry at an episode's start; an empty tuple for memoryless torsos."""


@runtime_checkable
class SetUpTorso(Torso, Protocol):
    """A torso that must know beforehand what it will be shown."""

    def set_up_for(self, observation: ArraySpec | Mapping[str, ArraySpec]) -> Torso:
        """The torso for observations that are such arrays, or dictionaries of them."""


@runtime_checkable
class Initializer(Protocol):
    """What the weights of a layer are drawn from."""

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any = ...) -> Array:
        """Weights of a shape whose last axis is the layer's outputs, and the others what an output is a sum over."""


@runtime_checkable
class ActionModel(Protocol):
    """A linen module that grows the action-conditional heads on the torso's embedding."""

    def __call__(
        self, embedding: Array, action: Array | None, sizes: dict[str, int], num_actions: int
    ) -> dict[str, Array]:
        """{head: [T, B, A, size]} from an embedding [T, B, D]; [T, B, size] where actions [T, B] are given."""


@runtime_checkable
class Feature(Protocol):
    """Something the meta-network sees of each step."""

    def __call__(self, context: FeatureContext) -> Array:
        """Numbers of a step [T, B, D]."""


@runtime_checkable
class ActionFeature(Protocol):
    """Something the meta-network sees of each action at each step."""

    def __call__(self, context: FeatureContext) -> Array:
        """Numbers of an action [T, B, A, D]."""


@runtime_checkable
class TrajectoryCore(Protocol):
    """A linen module that reads the features of a whole trajectory."""

    def __call__(self, features: Array, last: Array) -> Array:
        """From features [T, B, D] to a summary of each step's future [T, B, D']; nothing crosses ``last`` [T, B]."""


@runtime_checkable
class LifetimeCore(Protocol):
    """A linen module with a memory that spans an agent's lifetime: one step per agent update."""

    def __call__(self, features: Array, weight: Array, carry: PyTree) -> PyTree:
        """The carry after an update, from its features [T, B, D] and the steps' weights [T, B]."""

    def initial_carry(self) -> PyTree:
        """The carry of a newborn agent."""

    def read(self, carry: PyTree) -> Array:
        """What the trajectory network sees of the carry [D]."""


@runtime_checkable
class Target(Protocol):
    """Something that heads are moved to, computed once per update.

    Attributes:
      name: key in the rule's targets.
      learned: whether it is an output of the meta-network.
    """

    name: str
    learned: bool

    def __call__(self, context: FeatureContext) -> Array:
        """The target [T, B, ...]; categorical targets as logits."""


@runtime_checkable
class ValueEstimator(Protocol):
    """Turns predicted values and rewards into returns and advantages."""

    head: str

    def __call__(self, inputs: RuleInputs, head: ValueHead) -> Estimates:
        """Values, returns, advantages of a trajectory."""


@runtime_checkable
class Normalizer(Protocol):
    """Puts advantages on a scale that does not depend on the rewards'."""

    def initial_carry(self) -> PyTree:
        """Statistics of a newborn agent."""

    def __call__(self, estimates: Estimates, weight: Array, carry: PyTree) -> tuple[Estimates, PyTree]:
        """The estimates with their normalized fields filled, and the new statistics."""


@runtime_checkable
class LossTerm(Protocol):
    """One term of the agent's loss.

    The loss of a step depends on that step alone, or on means over all that are shown with it: it is the same in
    whatever order they are shown. A term that looks at neighbouring steps says so by an attribute
    ``reads_neighbours``, which is true.

    Attributes:
      head: the head it moves.
      cost: its weight in the sum.
    """

    head: str
    cost: Any

    def __call__(self, inputs: LossInputs, head: Head) -> Array:
        """The loss of each step [T, B], for the head that the term's field ``head`` names."""

    def formula(self, head: Head) -> str:
        """The term as a short formula, without its cost."""


@runtime_checkable
class Behaviour(Protocol):
    """How an agent acts where it does not sample from its policy head.

    Attributes:
      head: the head it acts by.
    """

    head: str

    def __call__(self, output: Array, head: Head, hyperparameters: dict[str, Array]) -> Array:
        """Logits of the actions [..., A], from the head's raw output [..., A, K] or [..., K]."""

    def greedy(self) -> Behaviour:
        """The same without exploration: how the agent acts when it is evaluated."""


@runtime_checkable
class Optimizer(Protocol):
    """Turns gradients into changes of the parameters."""

    learning_rate: Any

    def init(self, params: Params) -> PyTree:
        """State of a newborn agent's optimizer."""

    def update(
        self, gradient: Params, state: PyTree, params: Params, learning_rate: float | Array
    ) -> tuple[Params, PyTree]:
        """The change to add to the parameters, and the new state."""


@runtime_checkable
class TransposableOptimizer(Optimizer, Protocol):
    """An optimizer that can say how meta-gradients flow back through its update, from a few saved numbers.

    Its changes depend on gradients alone: one that reads the parameters, as weight decay does, is an `Optimizer`.
    """

    def linearize(
        self, gradient: Params, state: PyTree, params: Params, learning_rate: float | Array
    ) -> tuple[Params, PyTree, PyTree]:
        """`update`, and what `transpose` must know of it: the less, the smaller the memory of a meta-gradient."""

    def zero_cotangent(self, params: Params) -> PyTree:
        """The cotangent of a state that nothing depends on."""

    def transpose(
        self, residual: PyTree, change: Params, state: PyTree, learning_rate: float | Array
    ) -> tuple[Params, PyTree]:
        """Cotangents of the gradient and of the state before, from those of the change and of the state after."""


@runtime_checkable
class Environment(Protocol):
    """One episode of a jittable environment; whoever runs several begins the next one.

    Randomness comes in as a key; levels, tasks and states are pytrees of arrays. A *level* tells apart the tasks that
    one environment serves; a *task* is what stays fixed for an agent's lifetime, drawn from a level.
    """

    spec: EnvironmentSpec

    def draw_task(self, key: Array, level: PyTree) -> PyTree:
        """The task of a lifetime; the level itself where nothing is drawn."""

    def reset(self, key: Array, task: PyTree) -> tuple[PyTree, Observation]:
        """State and first observation of a new episode."""

    def step(self, key: Array, task: PyTree, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """One step *within* an episode: the time step's observation is the episode's own."""


@runtime_checkable
class Suite(Protocol):
    """A named list of tasks and their environments.

    One that needs a package besides the install says so by a class attribute ``requires``, a
    `framework.requirements.Requirement`; its specifications are known without it.
    """

    def tasks(self) -> Sequence[str]:
        """Names of its tasks."""

    def environment(self, task: str) -> Environment | HostEnvironment:
        """The environment of a task; tasks whose environments are equal share one compiled program."""

    def level(self, task: str) -> PyTree:
        """What tells a task from the others of its environment: arrays of the same shapes; ``()`` if nothing does."""


@runtime_checkable
class SummarizedSuite(Suite, Protocol):
    """A suite whose benchmark reports something of several metrics taken together."""

    def summary(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """More metrics of a logged point, {group/name: number}, from those measured; NaN for what is unknown."""


class HostStream(Protocol):
    """One environment outside the device: a stream of episodes that can be stopped, saved and continued exactly.

    An observation is a NumPy array, or a dictionary of them where the specification has parts.
    """

    def reset(self) -> Observation:
        """First observation of a new episode."""

    def step(self, action: int) -> tuple[Observation, float, bool, bool]:
        """Observation, reward, whether the episode terminated, whether it was cut off by a limit."""

    def snapshot(self) -> bytes:
        """The whole state, random generators included."""

    def restore(self, snapshot: bytes) -> None:
        """Goes back to a state."""

    def close(self) -> None:
        """Frees what the stream holds."""


class MeasuredStream(HostStream, Protocol):
    """A stream whose episodes are measured by more than their returns."""

    def episode_numbers(self) -> Sequence[float]:
        """What the episode has reached by now, in the order of the specification's ``episode_numbers``."""


class HostBatch(Protocol):
    """Several environments outside the device that are stepped by one call; none resets itself."""

    def reset(self, rows: np.ndarray) -> Observation:
        """First observations of new episodes in some of them [n, ...]."""

    def step(self, rows: np.ndarray, action: np.ndarray) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray]:
        """Steps some of them, with actions [n].

        Returns:
          Observations [n, ...], rewards [n], whether episodes terminated [n] and whether limits cut them off [n] bool.
        """

    def snapshot(self, row: int) -> bytes:
        """The state of one of them."""

    def restore(self, row: int, snapshot: bytes) -> None:
        """Takes one of them back to a state."""

    def close(self) -> None:
        """Frees what they hold."""


class BatchedEnvironment(Protocol):
    """An environment outside the device of which many streams are opened at once.

    What it opens one by one is a `BatchRow`, or whatever goes on from the same snapshots.
    """

    def open_many(self, seeds: Sequence[Sequence[int]], threads: int = 1) -> HostBatch:
        """New streams, each from its seed's words alone: what one plays does not depend on the others.

        Args:
          seeds: of the streams.
          threads: that may step them.
        """


@runtime_checkable
class HostEnvironment(Protocol):
    """An environment outside the device, of which any number of streams can be opened; picklable.

    One whose streams do not go on from a snapshot exactly where they were says so by an attribute ``resumes``, a
    `framework.specs.Resume`; one whose randomness is not all the seed's by an attribute ``seeded``, which is false.
    One whose library steps many environments at once is a `BatchedEnvironment` as well, without episode numbers.
    """

    spec: EnvironmentSpec

    def open(self, seed: Sequence[int]) -> HostStream:
        """A new stream whose randomness all comes from the seed's words."""


@runtime_checkable
class Replay(Protocol):
    """What an agent remembers, and which of it an update learns from.

    Attributes:
      capacity: number of trajectories remembered; 0 without a memory.
    """

    capacity: int

    def init(self, example: PyTree) -> PyTree:
        """An empty memory for trajectories like ``example`` (batch axis 1)."""

    def insert(self, state: PyTree, trajectory: PyTree) -> PyTree:
        """Remembers fresh trajectories."""

    def sample(self, state: PyTree, key: Array, fresh: PyTree) -> PyTree:
        """The batch an update learns from."""

    def batch(self, num_environments: int) -> int:
        """How many trajectories an update learns from."""

    def fresh_of_batch(self, num_environments: int) -> int:
        """How many of them are the ones just collected, whatever is drawn."""

    def warm_up_unrolls(self, num_environments: int) -> int:
        """How many unrolls to act without learning before the first update."""


@runtime_checkable
class PrioritizedReplay(Replay, Protocol):
    """A replay that draws what was learned from with large errors more often."""

    def reprioritize(self, state: PyTree, key: Array, errors: Array) -> PyTree:
        """The memory, after learning from what ``sample`` draws from it with this key.

        Args:
          state: the memory that was sampled from.
          key: that it was sampled with.
          errors: mean absolute error of the value estimates of each trajectory of the batch [B].
        """


@runtime_checkable
class Weights(Protocol):
    """Where the rule's meta-parameters come from."""

    def __call__(self, initial: Params) -> Params:
        """The meta-parameters, shaped as ``initial``."""


@runtime_checkable
class MetaObjective(Protocol):
    """Judges the parameters that a rule led an agent to, on a validation trajectory that they collected."""

    def init(self, key: Array, spec: EnvironmentSpec) -> PyTree:
        """What it keeps for a newborn agent: a value function of such observations, moving averages."""

    def observe(self, state: PyTree, trajectory: Trajectory, logits: Array) -> tuple[PyTree, dict[str, Array]]:
        """Learns from a trajectory that the agent learns from; once per agent update, without meta-gradient.

        Args:
          state: what it keeps for the agent.
          trajectory: [T, B].
          logits: of the policy before the update [T+1, B, A].

        Returns:
          The new state, and numbers to log {name: []}.
        """

    def __call__(self, state: PyTree, trajectory: Trajectory, logits: Array) -> tuple[Array, dict[str, Array]]:
        """The loss of each step [T, B], and numbers to log {name: []}.

        Args:
          state: what it keeps for the agent; it carries no meta-gradient and does not change.
          trajectory: the validation trajectory [T, B].
          logits: of the policy that is judged [T+1, B, A]; the meta-gradient flows through them.
        """

    def formula(self) -> str:
        """The loss of a step as a short formula."""


@runtime_checkable
class Regularizer(Protocol):
    """A term of the meta-loss beside the meta-objective.

    Attributes:
      on: ``updates`` (its mean over the steps of every agent update, and over updates) or ``validation`` (its mean
        over the validation trajectory, under the final parameters).
      cost: its weight in the meta-loss.
    """

    on: str
    cost: float

    def __call__(self, inputs: RegularizerInputs) -> Array:
        """The term at each step [T, B]."""

    def formula(self) -> str:
        """The term as a short formula, without its cost."""


@runtime_checkable
class Lifetime(Protocol):
    """How long an agent lives before a newborn takes its place."""

    def draw(self, key: Array) -> Array:
        """A budget of environment steps [] float32."""


@runtime_checkable
class Bandit(Protocol):
    """Chooses the hyperparameters of newborn agents by how earlier ones fared on the same task."""

    def arms(self) -> dict[str, tuple[float, ...]]:
        """{hyperparameter: its value in each arm}."""

    def init(self, num_tasks: int) -> PyTree:
        """What is known before the first lifetime."""

    def choose(self, state: PyTree, key: Array, task: Array) -> Array:
        """An arm for a newborn agent on a task [] int32."""

    def record(self, state: PyTree, task: Array, arm: Array, score: Array) -> PyTree:
        """What is known after a lifetime with an arm [] that ended with a score []."""


@runtime_checkable
class Number(Protocol):
    """A number that an agent carries, or that the meta-network emits, in the place of a constant."""

    def resolve(self, hyperparameters: dict[str, Array], targets: dict[str, Array]) -> Array:
        """Its present value: [] or [T, B]."""

    def symbol(self) -> str:
        """What formulas write in its place."""


KINDS: dict[str, type] = {
    "heads": Head,
    "torsos": Torso,
    "initializers": Initializer,
    "action_models": ActionModel,
    "features": Feature,
    "action_features": ActionFeature,
    "trajectory_cores": TrajectoryCore,
    "lifetime_cores": LifetimeCore,
    "targets": Target,
    "value_estimators": ValueEstimator,
    "normalizers": Normalizer,
    "loss_terms": LossTerm,
    "behaviours": Behaviour,
    "optimizers": Optimizer,
    "suites": Suite,
    "replays": Replay,
    "weights": Weights,
    "meta_objectives": MetaObjective,
    "regularizers": Regularizer,
    "lifetimes": Lifetime,
    "bandits": Bandit,
    "numbers": Number,
}

COMPOSITE_KINDS = (
    "experiments",
    "discoveries",
    "groups",
    "agents",
    "head_networks",
    "rules",
    "meta_networks",
    "settings",
)
"""Kinds of the concrete classes that hold the others together; a field annotated with one takes it or a subclass."""
