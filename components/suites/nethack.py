"""The tasks of the NetHack Learning Environment, on the host (Küttler et al., 2020)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from components.streams.nethack import OBSERVATION, PACKAGE, NetHackTask
from components.suites.without_levels import WithoutLevels
from framework.registry import component
from framework.requirements import Requirement


@component("suites")
@dataclasses.dataclass(frozen=True)
class NetHackScore(WithoutLevels):
    """The score task: 23 actions, a human monk, rewards are gains of score, -0.01 for a step without game time.

    A game's state cannot be saved: a run that is resumed plays the actions of running episodes again.

    Attributes:
      max_steps: limit of an episode, in steps; the task's 5,000.
      observed: what is observed, of glyphs, chars, colors, blstats, message.
    """

    requires: ClassVar[Requirement] = PACKAGE

    max_steps: int = 5000
    observed: tuple[str, ...] = tuple(OBSERVATION)

    def __post_init__(self) -> None:
        self.environment(*self.tasks())

    def tasks(self) -> Sequence[str]:
        return ("nethack_score",)

    def environment(self, task: str) -> NetHackTask:
        return NetHackTask(
            challenge=False, max_steps=self.max_steps, no_progress_steps=None, seeded=True, observed=self.observed
        )


@component("suites")
@dataclasses.dataclass(frozen=True)
class NetHackChallenge(WithoutLevels):
    """The task of the NetHack Challenge (Hambro et al., 2022): 121 keys, a random role, rewards are gains of score.

    Attributes:
      max_steps: limit of an episode, in steps; the challenge's 1 M.
      no_progress_steps: limit of steps in which no game time passes; the challenge's 10,000.
      seeded: whether games come from the run's seed, in a class of our own. The official one takes no seed: nothing
        repeats itself, and a run that is resumed begins new games.
      observed: what is observed, of glyphs, chars, colors, blstats, message.
    """

    requires: ClassVar[Requirement] = PACKAGE

    max_steps: int = 1_000_000
    no_progress_steps: int | None = 10_000
    seeded: bool = False
    observed: tuple[str, ...] = tuple(OBSERVATION)

    def __post_init__(self) -> None:
        self.environment(*self.tasks())

    def tasks(self) -> Sequence[str]:
        return ("nethack_challenge",)

    def environment(self, task: str) -> NetHackTask:
        return NetHackTask(
            challenge=True,
            max_steps=self.max_steps,
            no_progress_steps=self.no_progress_steps,
            seeded=self.seeded,
            observed=self.observed,
        )
