"""The root of every gin file: who learns, by which rule, on what, and whether the rule itself is discovered."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from framework.discovery import Discovery
from framework.group import Group
from framework.interfaces import Weights
from framework.registry import NO_IDENTITY, Problem, component
from framework.update_rule import UpdateRule, parts, problems_of_reading


@component("settings")
@dataclasses.dataclass(frozen=True)
class Evaluation:
    """When and how agents' returns are measured.

    Attributes:
      interval: steps per point of the learning curve, which is made of training episodes.
      episodes: complete episodes each agent plays after training, in separate environments with separate seeds.
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


@component("settings")
@dataclasses.dataclass(frozen=True)
class HeldOut:
    """What a discovered rule is measured on while it is discovered: fresh agents on tasks it never saw.

    Attributes:
      groups: the agents and what they learn on.
      updates: agent updates of a measurement; its result is the return over the last tenth of them.
      interval: meta-steps between two measurements; one more is made at the end.
    """

    groups: tuple[Group, ...]
    updates: int
    interval: int

    def __post_init__(self) -> None:
        for name in ("updates", "interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.groups:
            raise ValueError("groups is empty: there is nothing to measure on")


@component("experiments")
@dataclasses.dataclass(frozen=True)
class Experiment:
    """A population of agents that learns with an update rule; with a discovery, the rule learns from them.

    Attributes:
      rule: how the agents learn.
      groups: the population.
      weights: where the rule's meta-parameters come from, or where their discovery begins.
      steps: agent updates, or meta-steps where the rule is discovered.
      discovery: how the rule is judged and moved; ``None`` where its meta-parameters are frozen.
      held_out: what a discovered rule is measured on meanwhile.
      seed: of all randomness.
      evaluation: how returns are measured.
      logging: what is written while it runs.
      notes: what whoever uses the experiment should know; said whenever it is loaded.
    """

    rule: UpdateRule
    groups: tuple[Group, ...]
    weights: Weights
    steps: int = dataclasses.field(metadata=NO_IDENTITY)
    discovery: Discovery | None = None
    held_out: HeldOut | None = None
    seed: int = dataclasses.field(default=0, metadata=NO_IDENTITY)
    evaluation: Evaluation = Evaluation()
    logging: Logging = dataclasses.field(default=Logging(), metadata=NO_IDENTITY)
    notes: tuple[str, ...] = dataclasses.field(default=(), metadata=NO_IDENTITY)

    def __post_init__(self) -> None:
        if not self.groups:
            raise ValueError("groups is empty: nobody learns")
        if not 0 <= self.steps < 2**31:
            raise ValueError(f"steps must lie in [0, 2^31), got {self.steps}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in [0, 2^32), got {self.seed}")

    def problems(self) -> Sequence[Problem]:
        """Everything inconsistent between the parts of the experiment."""
        held_out = () if self.held_out is None else self.held_out.groups
        groups = dict.fromkeys((*self.groups, *held_out))
        of_groups = [problem for group in groups for problem in group.problems(self.rule, trial=group in held_out)]
        return [*self.rule.problems(), *of_groups, *self._own_problems()]

    def _own_problems(self) -> Iterator[Problem]:
        for groups in (self.groups, () if self.held_out is None else self.held_out.groups):
            names: dict[str, Any] = {}
            for group in groups:
                for task in group.suite.tasks():
                    if names.setdefault(task, group) is not group:
                        message = f"the task '{task}' is in two groups: their returns could not be told apart"
                        yield Problem(group, "suite", message)
        if self.discovery is not None:
            if self.rule.behaviour is not None:
                message = "a rule is discovered by the policy gradient of its agents, who sample from the head 'logits'"
                yield Problem(self.rule, "behaviour", f"{message}: leave 'behaviour' out")
            for part in parts(self.discovery):
                yield from problems_of_reading(self.rule, part)
            if not any(target.learned for target in self.rule.meta_network.targets) and not self._learned_numbers():
                message = "the update rule is static: it has no meta-parameters to discover; leave 'discovery' out"
                yield Problem(self, "discovery", message)
        if self.held_out is not None:
            if self.discovery is None:
                message = "held-out tasks measure a rule that is discovered: bind 'discovery', or leave them out"
                yield Problem(self, "held_out", message)
            trained = {task for group in self.groups for task in group.suite.tasks()}
            for group in self.held_out.groups:
                tasks = group.suite.tasks()
                if seen := [task for task in tasks if task in trained]:
                    message = f"the rule is discovered on '{seen[0]}', so that it is not held out: rename or remove it"
                    yield Problem(group, "suite", message)
                if group.agents < len(tasks):
                    message = f"{group.agents} agents cannot measure {len(tasks)} tasks: give each task one"
                    yield Problem(group, "agents", message)
            if self.held_out.interval % self.logging.interval:
                message = f"a measurement ({self.held_out.interval} steps) must fall on a logged point"
                yield Problem(self.held_out, "interval", f"{message} ({self.logging.interval} steps)")
        if self.evaluation.interval % self.logging.interval:
            message = f"a point of the learning curve ({self.evaluation.interval} steps) must be whole logged points"
            yield Problem(self.logging, "interval", f"{message} ({self.logging.interval} steps)")

    def _learned_numbers(self) -> bool:
        return any(getattr(part, "learned", False) is True for part in parts(self.rule))
