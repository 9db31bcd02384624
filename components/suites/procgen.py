"""ProcGen's games, on the host (Cobbe et al., 2020)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

from components.streams.procgen import GAMES, PACKAGE, ProcGenGame
from components.suites.without_levels import WithoutLevels
from framework.errors import check_named
from framework.registry import component
from framework.requirements import Requirement


@component("suites")
@dataclasses.dataclass(frozen=True)
class ProcGen(WithoutLevels):
    """ProcGen's games, one task each: images [64, 64, 3] uint8, 15 actions; as they are, 500 levels in hard mode.

    A run that is resumed begins new episodes: their states cannot be saved.

    Attributes:
      games: their names; by default all 16.
      mode: how hard levels are, ``easy`` or ``hard``.
      start_level: the first of the levels that are drawn from; 0 for training, 500 for the test levels.
      num_levels: how many there are; 500 for training, 1,000 for the test levels, 0 for all there are.
    """

    requires: ClassVar[Requirement] = PACKAGE

    games: tuple[str, ...] = GAMES
    mode: Literal["easy", "hard"] = "hard"
    start_level: int = 0
    num_levels: int = 500

    def __post_init__(self) -> None:
        check_named("games", self.games)
        for game in self.games:
            self.environment(game)

    def tasks(self) -> Sequence[str]:
        return self.games

    def environment(self, task: str) -> ProcGenGame:
        return ProcGenGame(task, self.mode, self.start_level, self.num_levels)
