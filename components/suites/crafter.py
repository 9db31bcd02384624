"""Crafter, on the host (Hafner, 2022)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

from components.streams.crafter import ACHIEVEMENT_NUMBERS, PACKAGE, CrafterWorld, crafter_score
from components.suites.without_levels import WithoutLevels
from framework.registry import component
from framework.requirements import Requirement

SCORE = "achievement/score"


@component("suites")
@dataclasses.dataclass(frozen=True)
class Crafter(WithoutLevels):
    """Crafter with its reward: images [64, 64, 3] uint8, 17 actions, every episode in a new world.

    Metrics tell in which share of the episodes each of the 22 achievements was reached, and the benchmark's score of
    these shares.

    Attributes:
      max_steps: limit of an episode, in steps; the benchmark's 10,000.
    """

    requires: ClassVar[Requirement] = PACKAGE

    max_steps: int = 10_000

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")

    def tasks(self) -> Sequence[str]:
        return ("crafter",)

    def environment(self, task: str) -> CrafterWorld:
        return CrafterWorld(self.max_steps)

    def summary(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The score of the episodes that ended since the last logged point."""
        return {SCORE: crafter_score([numbers[name] for name in ACHIEVEMENT_NUMBERS])}
