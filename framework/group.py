"""Groups: agents that are alike, side by side in one compiled program."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from framework.agent import Agent
from framework.host_environments.crew import PATIENCE
from framework.interfaces import Bandit, HostEnvironment, Lifetime, PrioritizedReplay, Replay, Suite
from framework.numbers import Hyperparameter
from framework.registry import NO_IDENTITY, Problem, component
from framework.update_rule import UpdateRule, parts


@component("groups")
@dataclasses.dataclass(frozen=True)
class Group:
    """Agents that share a network and the specification of their environments; vmapped, spread over devices.

    Attributes:
      agent: what each of them is.
      suite: what they learn on; agent i begins with task i, modulo the number of tasks.
      replay: what they learn from.
      num_environments: environments an agent acts in at once (E).
      trajectory_length: steps acted per update (T).
      agents: how many there are (P).
      epochs: passes over an update's batch.
      minibatches: parts a pass splits the batch into.
      minibatch_unit: what is shuffled before a pass is split: whole trajectories, or single steps, for torsos without
        memory and loss terms that see one step at a time.
      lifetime: how long they live, without end by default; the first ones live a random share of it, so that they are
        not all born anew at once, and the bandit counts what they reached like any other life's (chosen).
      bandit: chooses the hyperparameters of newborn agents; by default they are those of the configuration.
      chunk: agents of one device computed at once, to bound memory; all by default.
      environment_timeout: seconds after which an environment outside the device that does not answer is taken to hang,
        which stops the run.
      returns_by_agent: whether each agent's returns are logged beside those of all, for agents that are seeds.
    """

    agent: Agent
    suite: Suite
    replay: Replay
    num_environments: int
    trajectory_length: int
    agents: int = 1
    epochs: int = 1
    minibatches: int = 1
    minibatch_unit: Literal["trajectory", "step"] = "trajectory"
    lifetime: Lifetime | None = None
    bandit: Bandit | None = None
    chunk: int | None = None
    environment_timeout: float = dataclasses.field(default=PATIENCE, metadata=NO_IDENTITY)
    returns_by_agent: bool = False

    def __post_init__(self) -> None:
        for name in ("agents", "num_environments", "trajectory_length", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.environment_timeout <= 0:
            raise ValueError(f"environment_timeout must be positive, got {self.environment_timeout:g} seconds")
        if self.chunk is not None and (self.chunk < 1 or self.agents % self.chunk):
            raise ValueError(f"chunk must divide the {self.agents} agents, got {self.chunk}")

    def hyperparameters(self, rule: UpdateRule) -> dict[str, float]:
        """The numbers a newborn agent carries, short of a bandit's choice."""
        return {part.name: part.value for part in self._numbers(rule)}

    def _numbers(self, rule: UpdateRule) -> Iterator[Hyperparameter]:
        for owner in (rule, self.agent):
            yield from (part for part in parts(owner) if isinstance(part, Hyperparameter))

    def problems(self, rule: UpdateRule, *, trial: bool = False) -> list[Problem]:
        """Everything inconsistent between the parts of the group, and between it and the rule.

        Args:
          rule: how the agents learn.
          trial: whether the agents show what a rule is worth: with neither lifetime nor bandit, whatever is bound.
        """
        spec = self.suite.environment(self.suite.tasks()[0]).spec
        more = self._problems_of_a_trial() if trial else self._problems_of_lives(rule)
        return [*self.agent.problems(rule), *self.agent.problems_with(spec), *self._own_problems(rule), *more]

    def _own_problems(self, rule: UpdateRule) -> Iterator[Problem]:
        tasks = tuple(self.suite.tasks())
        first = self.suite.environment(tasks[0])
        for task in tasks[1:]:
            other = self.suite.environment(task)
            alike = other.spec == first.spec if isinstance(first, HostEnvironment) else other == first
            if not alike:
                message = f"the tasks {tasks[0]} and {task} are different environments: give each a group of its own"
                yield Problem(self, "suite", message)
                break
        batch, units = self.replay.batch(self.num_environments), "trajectories"
        if self.minibatch_unit == "step":
            batch, units = batch * self.trajectory_length, "steps"
            yield from self._problems_of_single_steps(rule)
        if batch % self.minibatches:
            message = f"a batch of {batch} {units} cannot be split into {self.minibatches} minibatches"
            yield Problem(self, "minibatches", f"{message}: choose a divisor of {batch}")
        values: dict[str, Hyperparameter] = {}
        for number in self._numbers(rule):
            if values.setdefault(number.name, number) != number:
                yield Problem(number, "value", f"the hyperparameter '{number.name}' has two initial values")
        if 0 < self.replay.capacity < self.num_environments:
            message = f"{self.replay.capacity} trajectories are fewer than the {self.num_environments} of one unroll"
            yield Problem(self.replay, "capacity", message)
        if isinstance(self.replay, PrioritizedReplay) and rule.value_estimator is None:
            message = "the replay's priorities are errors of value estimates: bind UpdateRule.value_estimator"
            yield Problem(self.replay, None, message)
        fresh = self.replay.fresh_of_batch(self.num_environments)
        if fresh > self.num_environments:
            message = (
                f"fresh={fresh} trajectories per batch, but only {self.num_environments} environments collect them"
            )
            yield Problem(self.replay, "fresh", message)

    def _problems_of_single_steps(self, rule: UpdateRule) -> Iterator[Problem]:
        needing = [f"the loss term {type(t).__name__}" for t in rule.loss if getattr(t, "reads_neighbours", False)]
        if self.agent.remembers(self.suite.environment(self.suite.tasks()[0]).spec):
            needing.insert(0, "the agent's torso")
        for what in needing:
            message = f"{what} needs steps in order, and minibatches of single steps are shuffled: bind 'trajectory'"
            yield Problem(self, "minibatch_unit", message)

    def _problems_of_a_trial(self) -> Iterator[Problem]:
        if isinstance(self.suite.environment(self.suite.tasks()[0]), HostEnvironment):
            message = "held-out agents learn on the device, and this suite's environments are outside it"
            yield Problem(self, "suite", message)

    def _problems_of_lives(self, rule: UpdateRule) -> Iterator[Problem]:
        tasks = tuple(self.suite.tasks())
        if self.lifetime is None and self.agents < len(tasks):
            message = (
                f"{self.agents} is fewer than the {len(tasks)} tasks, and lives do not end: give each task one, or "
                "bind 'lifetime'"
            )
            yield Problem(self, "agents", message)
        for part in parts(rule) if self.lifetime is None else ():
            if getattr(part, "reads_progress", False):
                message = f"{type(part).__name__} reads how much of a life is over, and these lives do not end"
                yield Problem(self, "lifetime", f"{message}: bind 'lifetime'")
        if self.bandit is not None:
            carried = self.hyperparameters(rule)
            for name in self.bandit.arms():
                if name not in carried:
                    known = ", ".join(carried) or "none"
                    message = f"no part of the agent or the rule reads the hyperparameter '{name}' (there are: {known})"
                    yield Problem(self.bandit, None, message)
            if self.lifetime is None:
                message = "the bandit learns from lifetimes that end, and these do not: bind 'lifetime'"
                yield Problem(self, "lifetime", message)
