"""The root of every gin file: what is learned, by which rule, on what."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from framework.agent import Agent
from framework.interfaces import Number, Replay, Suite, Weights
from framework.numbers import Hyperparameter
from framework.registry import Problem, component
from framework.update_rule import UpdateRule, parts


@component("settings")
@dataclasses.dataclass(frozen=True)
class Evaluation:
    """When and how an agent's return is measured.

    Attributes:
      interval: steps per point of the learning curve, which is made of training episodes.
      episodes: complete episodes played after training, in separate environments with separate seeds.
    """

    interval: int = 50
    episodes: int = 100

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ValueError(f"interval must be at least 1, got {self.interval}")
        if self.episodes < 0:
            raise ValueError(f"episodes must not be negative, got {self.episodes}")


@component("settings")
@dataclasses.dataclass(frozen=True)
class Logging:
    """What a run writes while it runs; none of it changes its numbers.

    Attributes:
      interval: steps per logged point.
      checkpoint_interval: steps between checkpoints.
      keep_checkpoints: how many of the newest stay.
    """

    interval: int = 10
    checkpoint_interval: int = 200
    keep_checkpoints: int = 3

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1, got {getattr(self, field.name)}")


NO_IDENTITY = {"identity": False}
"""Marks fields that do not make an experiment another one: a run may be made longer, or logged otherwise."""


@component("experiments")
@dataclasses.dataclass(frozen=True)
class Experiment:
    """An agent that learns with an update rule in the environments of a suite.

    Attributes:
      rule: how the agent learns.
      agent: what learns.
      suite: what it learns on.
      replay: what it learns from.
      weights: where the rule's meta-parameters come from; frozen here.
      steps: agent updates.
      num_environments: environments the agent acts in at once (E).
      trajectory_length: steps acted per update (T).
      epochs: passes over an update's batch.
      minibatches: parts a pass splits the batch's trajectories into.
      seed: of all randomness.
      evaluation: how returns are measured.
      logging: what is written while it runs.
    """

    rule: UpdateRule
    agent: Agent
    suite: Suite
    replay: Replay
    weights: Weights
    steps: int = dataclasses.field(metadata=NO_IDENTITY)
    num_environments: int
    trajectory_length: int
    epochs: int = 1
    minibatches: int = 1
    seed: int = dataclasses.field(default=0, metadata=NO_IDENTITY)
    evaluation: Evaluation = Evaluation()
    logging: Logging = dataclasses.field(default=Logging(), metadata=NO_IDENTITY)

    def __post_init__(self) -> None:
        for name in ("num_environments", "trajectory_length", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.steps < 2**31:
            raise ValueError(f"steps must lie in [0, 2^31), got {self.steps}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in [0, 2^32), got {self.seed}")

    def hyperparameters(self) -> dict[str, float]:
        """The numbers a newborn agent carries."""
        return {part.name: part.value for part in parts(self) if isinstance(part, Hyperparameter)}

    def problems(self) -> Sequence[Problem]:
        """Everything inconsistent between the parts of the experiment."""
        return [*self.rule.problems(), *self.agent.problems(self.rule), *self._own_problems()]

    def _own_problems(self) -> Iterator[Problem]:
        if len(self.suite.tasks()) != 1:
            yield Problem(self, "suite", f"one task is trained on, the suite has {len(self.suite.tasks())}")
        batch = self.replay.batch(self.num_environments)
        if batch % self.minibatches:
            yield Problem(
                self, "minibatches", f"a batch of {batch} trajectories cannot be split into {self.minibatches}"
            )
        values: dict[str, Number] = {}
        for part in parts(self):
            if isinstance(part, Hyperparameter) and values.setdefault(part.name, part) != part:
                yield Problem(part, "value", f"the hyperparameter '{part.name}' has two initial values")
        if self.evaluation.interval % self.logging.interval:
            message = f"a point of the learning curve ({self.evaluation.interval} steps) must be whole logged points"
            yield Problem(self.logging, "interval", f"{message} ({self.logging.interval} steps)")
        if 0 < self.replay.capacity < self.num_environments:
            message = f"{self.replay.capacity} trajectories are fewer than the {self.num_environments} of one unroll"
            yield Problem(self.replay, "capacity", message)
        fresh = self.replay.fresh_of_batch(self.num_environments)
        if fresh > self.num_environments:
            message = (
                f"fresh={fresh} trajectories per batch, but only {self.num_environments} environments collect them"
            )
            yield Problem(self.replay, "fresh", message)
