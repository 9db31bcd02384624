"""What a component of each kind must offer, and the kinds there are.

A component is a frozen dataclass (or a linen module, for networks) with annotated fields, registered by
``@component(kind)``. An annotation that names one of these protocols accepts any component of its kind.
Some field names carry meaning: ``head`` (and ``policy``) names a head of the agent that the component reads or moves,
``target`` a target of the rule; that such a head or target exists is checked before anything runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from framework.context import FeatureContext
from framework.specs import EnvironmentSpec
from framework.types import Array, Estimates, LossInputs, Params, PyTree, RuleInputs, TimeStep


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
class Torso(Protocol):
    """A linen module from observations to an embedding."""

    def __call__(self, observation: Array, reset: Array, carry: PyTree) -> tuple[Array, PyTree]:
        """Embeds T steps.

        Args:
          observation: [T, B, ...].
          reset: whether a new episode begins at a step: the carry is cleared before it [T, B].
          carry: recurrent carry before the first step [B, ...].

        Returns:
          The embedding [T, B, D] and the carry after the last step.
        """

    def initial_carry(self, batch: int) -> PyTree:
        """The carry at an episode's start; an empty tuple for memoryless torsos."""


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

    Attributes:
      head: the head it moves.
      cost: its weight in the sum.
      every_action: whether it needs the action-conditional heads at actions that were not taken.
    """

    head: str
    cost: Any
    every_action: bool

    def __call__(self, inputs: LossInputs, head: Head) -> Array:
        """The loss of each step [T, B], for the head that the term's field ``head`` names."""

    def formula(self, head: Head) -> str:
        """The term as a short formula, without its cost."""


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
class Environment(Protocol):
    """A jittable environment: one episode after another, without end.

    Randomness comes in as a key; the state is a pytree.
    """

    spec: EnvironmentSpec

    def reset(self, key: Array) -> tuple[PyTree, Array]:
        """State and first observation of a new episode."""

    def step(self, key: Array, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """One step *within* an episode: the time step's observation is the episode's own."""


@runtime_checkable
class Suite(Protocol):
    """A named list of environments."""

    def tasks(self) -> Sequence[str]:
        """Names of its tasks."""

    def environment(self, task: str) -> Environment:
        """The environment of a task."""


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
class Weights(Protocol):
    """Where the rule's meta-parameters come from."""

    def __call__(self, initial: Params, meta_network: Any) -> Params:
        """The meta-parameters, shaped as ``initial``."""


@runtime_checkable
class Number(Protocol):
    """A number that an agent carries, or that the meta-network emits, in the place of a constant."""

    def resolve(self, hyperparameters: dict[str, Array], targets: dict[str, Array]) -> Array:
        """Its present value: [] or [T, B]."""


KINDS: dict[str, type] = {
    "heads": Head,
    "torsos": Torso,
    "action_models": ActionModel,
    "features": Feature,
    "action_features": ActionFeature,
    "trajectory_cores": TrajectoryCore,
    "lifetime_cores": LifetimeCore,
    "targets": Target,
    "value_estimators": ValueEstimator,
    "normalizers": Normalizer,
    "loss_terms": LossTerm,
    "optimizers": Optimizer,
    "suites": Suite,
    "replays": Replay,
    "weights": Weights,
    "numbers": Number,
}

COMPOSITE_KINDS = ("experiments", "agents", "rules", "meta_networks", "settings")
"""Kinds of the concrete classes that hold the others together; a field annotated with one takes it or a subclass."""
