"""Atari games, on the host (Bellemare et al., 2013)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from components.streams.atari import ATARI57, AtariGame
from components.suites.without_levels import WithoutLevels
from framework.errors import check_named
from framework.registry import component


@component("suites")
@dataclasses.dataclass(frozen=True)
class Atari(WithoutLevels):
    """Atari games, one task each; as they are, the protocol of Machado et al. (2018).

    Observations are single grey frames [84, 84, 1] uint8: an agent's torso stacks them.

    Attributes:
      games: names of the ROMs, such as ``ms_pacman``; by default the benchmark's 57.
      sticky: whether each emulator frame repeats the frame before's action with probability 0.25.
      full_action_space: whether there are 18 actions, or those alone that a game takes notice of; with 18, all games
        make one group.
      max_noops: an episode begins with up to so many frames without action, their number drawn uniformly from 0.
      frame_skip: emulator frames of a step.
      max_frames: limit of an episode, in emulator frames (108,000 are half an hour).
      clip_rewards: whether rewards are their signs.
      end_with_life: whether a lost life terminates an episode, as in Mnih et al. (2015); the next one goes on with the
        game, and only the one after the last life begins another. Returns are then those of lives.
    """

    games: tuple[str, ...] = ATARI57
    sticky: bool = True
    full_action_space: bool = True
    max_noops: int = 0
    frame_skip: int = 4
    max_frames: int = 108_000
    clip_rewards: bool = False
    end_with_life: bool = False

    def __post_init__(self) -> None:
        check_named("games", self.games)
        for game in self.games:
            self.environment(game)

    def tasks(self) -> Sequence[str]:
        return self.games

    def environment(self, task: str) -> AtariGame:
        return AtariGame(
            game=task,
            sticky=self.sticky,
            full_action_space=self.full_action_space,
            max_noops=self.max_noops,
            frame_skip=self.frame_skip,
            max_frames=self.max_frames,
            clip_rewards=self.clip_rewards,
            end_with_life=self.end_with_life,
        )
