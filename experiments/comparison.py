"""Which of several rules teaches fresh agents best: hyperparameters chosen on seen tasks, returns on unseen ones."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from framework import keys
from framework.aggregates import Interval, interquartile_mean, paired_bootstrap, stratified_bootstrap
from framework.errors import UserError
from framework.group import Group
from framework.keys import Role
from framework.trials import Curves, Trials
from framework.types import Array, Params
from framework.update_rule import UpdateRule

LATE_SHARE = 0.1
"""Share of the updates, the last ones, whose return says how good a rule is."""

POINTS = 25
"""Points of a learning curve."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """A rule, and the agents that learn with it.

    Attributes:
      name: for tables and pictures.
      rule: the rule.
      meta_params: its parameters.
      groups: agents on the tasks to compare on.
      arms: {hyperparameter: its value in each of the choices}; empty where there is nothing to choose.
    """

    name: str
    rule: UpdateRule
    meta_params: Params
    groups: tuple[Group, ...]
    arms: Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Learned:
    """What a contender's agents reached.

    Attributes:
      chosen: {hyperparameter: value}.
      scores: mean late return on the seen tasks of each choice.
      curves: {unseen task: what its agents reached [P, U]}.
      env_steps_per_update: {unseen task: environment steps of an agent's update}.
    """

    chosen: Mapping[str, float]
    scores: Sequence[float]
    curves: Mapping[str, Curves]
    env_steps_per_update: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How contenders are compared: each in the same worlds, with hyperparameters chosen in the same way.

    Agents of one compiled program learn first on the seen tasks, with every choice of hyperparameters, then on the
    unseen ones with the best choice. Agents of the same place meet the same world whoever the contender is.

    Attributes:
      seen: the tasks that hyperparameters are chosen on; all of one group.
      updates: that every agent makes.
      seed: of all randomness.
    """

    seen: tuple[str, ...]
    updates: int
    seed: int

    def refuse_what_does_not_fit(self, contenders: Sequence[Contender]) -> None:
        """Looks at the contenders' groups; nobody learns.

        Raises:
          UserError: what a contender is made of does not fit together; the seen tasks are in no group, or its agents
            are too few to try every choice on each of them; no task is unseen, or one is left to one agent alone; or
            the contenders would not learn from equally many environment steps.
        """
        for contender in contenders:
            self._refuse(contender)
        first, *others = contenders
        for other in others:
            for ours, theirs in zip(first.groups, other.groups, strict=True):
                steps = [group.num_environments * group.trajectory_length for group in (ours, theirs)]
                if steps[0] != steps[1]:
                    raise UserError(
                        f"an update of '{first.name}' is made after {steps[0]} environment steps and one of "
                        f"'{other.name}' after {steps[1]}: give both the same NUM_ENVIRONMENTS and TRAJECTORY_LENGTH"
                    )

    def _refuse(self, contender: Contender) -> None:
        if contender.arms:
            holder, count = self._holder(contender), _choices(contender)
            agents, least = holder.agents, count * len(self.seen)
            if agents < least:
                raise UserError(
                    f"{agents} agents cannot try {count} choices on {len(self.seen)} tasks: give the group of "
                    f"{', '.join(self.seen)} at least {least}"
                )
        for group in contender.groups:
            for problem in group.problems(contender.rule, trial=True):
                raise UserError(f"'{contender.name}' cannot learn on {group.suite.tasks()[0]}: {problem.message}")
            carried = group.hyperparameters(contender.rule)
            if unread := sorted(contender.arms.keys() - carried.keys()):
                raise UserError(f"there is a choice of {unread[0]}, which no part of '{contender.name}' reads")
            unseen = self._unseen(group)
            if group.agents < 2 * len(unseen):
                raise UserError(f"{group.agents} agents on {len(unseen)} tasks say nothing of luck: give each task two")
        if not any(map(self._unseen, contender.groups)):
            raise UserError(f"every task of '{contender.name}' is one of the discovery: give it tasks to be tried on")

    def learn(self, contender: Contender) -> Learned:
        """Chooses hyperparameters, then lets fresh agents learn.

        Raises:
          UserError: as `refuse_what_does_not_fit`; or too few episodes end for a late return to be known.
        """
        self._refuse(contender)
        trials = [_trials(contender.rule, group, self.updates) for group in contender.groups]
        chosen, scores = self._choose(contender)
        curves: dict[str, Curves] = {}
        env_steps: dict[str, int] = {}
        for index, trial in enumerate(trials):
            given = {name: np.full(trial.group.agents, value) for name, value in chosen.items()}
            unseen = self._unseen(trial.group)
            if not unseen:
                continue
            tasks = list(itertools.islice(itertools.cycle(unseen), trial.group.agents))
            reached = trial.curves(contender.meta_params, self._root(1 + index), tasks=tasks, hyperparameters=given)
            curves |= {task: reached.of_task(task) for task in unseen}
            for task in unseen:
                late_returns(curves[task])  # Refuses what cannot be told, before the next contender learns.
            env_steps |= dict.fromkeys(unseen, trial.env_steps_per_update)
        return Learned(chosen=chosen, scores=scores, curves=curves, env_steps_per_update=env_steps)

    def _unseen(self, group: Group) -> list[str]:
        return [task for task in group.suite.tasks() if task not in self.seen]

    def _holder(self, contender: Contender) -> Group:
        """The group that learns on the seen tasks."""
        for group in contender.groups:
            if set(self.seen) <= set(group.suite.tasks()):
                return group
        raise UserError(f"no group of '{contender.name}' has all of the tasks {', '.join(self.seen)}: give it one")

    def _choose(self, contender: Contender) -> tuple[dict[str, float], list[float]]:
        """The hyperparameters with the highest mean late return on the seen tasks; that of each choice."""
        if not contender.arms:
            return {}, []
        group, count = self._holder(contender), _choices(contender)
        holder = _trials(contender.rule, group, self.updates)
        place = np.arange(group.agents)
        arm, task = place % count, place // count % len(self.seen)
        reached = holder.curves(
            contender.meta_params,
            self._root(0),
            tasks=[self.seen[index] for index in task],
            hyperparameters={name: np.asarray(values)[arm] for name, values in contender.arms.items()},
        )
        late = reached.late_returns(LATE_SHARE)
        # Tasks count alike, however many agents tried a choice on each; a choice with which some agent completed no
        # episode at the end is worse than any other.
        of_tasks = [[np.mean(late[(arm == a) & (task == t)]) for t in range(len(self.seen))] for a in range(count)]
        scores = np.nan_to_num(np.mean(of_tasks, axis=1), nan=-np.inf)
        if not np.isfinite(scores).any():
            raise UserError(
                f"with no choice of {', '.join(contender.arms)} did every agent of '{contender.name}' complete an "
                f"episode in the last {LATE_SHARE:.0%} of {self.updates} updates: let agents make more updates"
            )
        best = int(np.argmax(scores))
        return {name: float(values[best]) for name, values in contender.arms.items()}, scores.tolist()

    def _root(self, part: int) -> Array:
        """Key data for choosing (0) and for the groups (1, 2, ...): nobody learns twice in the same world."""
        role = keys.role_key(keys.root_key(self.seed), Role.HELD_OUT)
        return jax.random.key_data(jax.random.fold_in(role, part))


@dataclasses.dataclass(frozen=True)
class Difference:
    """By how much ours is better than another.

    Attributes:
      interval: of the difference of interquartile means, with worlds drawn anew for both alike.
      standard_errors: the mean difference in a world, in its standard errors; ``None`` where all worlds agree.
    """

    interval: Interval
    standard_errors: float | None


@functools.lru_cache
def _trials(rule: UpdateRule, group: Group, updates: int) -> Trials:
    """Those that contenders of one rule share, whatever its parameters: their programs are compiled once."""
    return Trials(rule, group, updates)


def _choices(contender: Contender) -> int:
    return len(next(iter(contender.arms.values())))


def late_returns(curves: Curves) -> np.ndarray:
    """Each agent's mean return at the end [P].

    Raises:
      UserError: some agent finished no episode there.
    """
    late = curves.late_returns(LATE_SHARE)
    if np.isnan(late).any():
        raise UserError(
            f"{np.isnan(late).sum()} of {late.size} agents on {curves.tasks[0]} completed no episode in the last "
            f"{LATE_SHARE:.0%} of {curves.returns.shape[1]} updates: let agents make more updates"
        )
    return late


def mean_returns(curves: Curves) -> np.ndarray:
    """The area under each agent's learning curve, as a mean return: over the windows in which it ended episodes [P]."""
    windows = [curves.mean_returns(first, last) for first, last in _windows(curves)]
    return np.asarray(np.nanmean(windows, axis=0))


def _windows(curves: Curves) -> list[tuple[int, int]]:
    """The updates that each point of a learning curve stands for: the first, and the one after the last."""
    updates = curves.returns.shape[1]
    return list(itertools.pairwise(np.unique(np.linspace(0, updates, POINTS + 1).astype(int)).tolist()))


def interval(scores: np.ndarray) -> Interval:
    """The interquartile mean of agents' scores [P], each of which learned in a world of its own."""
    return stratified_bootstrap(scores[:, None], interquartile_mean)


def difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Of scores in the same worlds [P]."""
    of_worlds = ours - theirs
    error = of_worlds.std(ddof=1) / np.sqrt(of_worlds.size)
    return Difference(
        interval=paired_bootstrap(ours, theirs, interquartile_mean),
        standard_errors=float(of_worlds.mean() / error) if error > 1e-9 else None,
    )


def learning_curve(curves: Curves, env_steps_per_update: int) -> list[list[float | None]]:
    """``[env_steps, interquartile mean, low, high]`` of windows of updates; ``None`` where too few episodes ended."""
    points: list[list[float | None]] = []
    for first, last in _windows(curves):
        known = curves.mean_returns(first, last)
        known = known[np.isfinite(known)]
        middle = (first + last) / 2 * env_steps_per_update
        if known.size < 2:
            points.append([middle, None, None, None])
            continue
        found = interval(known)
        points.append([middle, found.estimate, found.low, found.high])
    return points


def as_json(comparison: Comparison, learned: Mapping[str, Learned], *, ours: str) -> dict[str, Any]:
    """All numbers of a comparison, for ``comparison.json``.

    Args:
      comparison: how it was made.
      learned: {contender: what its agents reached}.
      ours: the contender whose difference to each of the others is told.
    """
    rules = {name: _rule_as_json(of_rule) for name, of_rule in learned.items()}
    differences = {
        name: {
            task: dataclasses.asdict(difference(late_returns(learned[ours].curves[task]), late_returns(curves)))
            for task, curves in of_rule.curves.items()
        }
        for name, of_rule in learned.items()
        if name != ours
    }
    return {"updates": comparison.updates, "rules": rules, "differences": differences}


def _rule_as_json(learned: Learned) -> dict[str, Any]:
    tasks = {}
    for task, curves in learned.curves.items():
        late, over_all = late_returns(curves), mean_returns(curves)
        tasks[task] = {
            "late_return": dataclasses.asdict(interval(late)),
            "mean_return": dataclasses.asdict(interval(over_all)),
            "late_returns": late.tolist(),
            "mean_returns": over_all.tolist(),
            "curve": learning_curve(curves, learned.env_steps_per_update[task]),
        }
    return {"chosen": learned.chosen, "scores_of_choices": learned.scores, "tasks": tasks}
