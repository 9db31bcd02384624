"""DMLab-30, on the host (Beattie et al., 2016; Espeholt et al., 2018)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from components.streams.dmlab import PACKAGE, LabLevel
from components.suites.without_levels import WithoutLevels
from framework.errors import check_named, closest, did_you_mean
from framework.registry import component
from framework.requirements import Requirement

LEVELS = (
    *("explore_goal_locations_large", "explore_goal_locations_small", "explore_object_locations_large"),
    *("explore_object_locations_small", "explore_object_rewards_few", "explore_object_rewards_many"),
    *("explore_obstructed_goals_large", "explore_obstructed_goals_small", "language_answer_quantitative_question"),
    *("language_execute_random_task", "language_select_described_object", "language_select_located_object"),
    *("lasertag_one_opponent_large", "lasertag_one_opponent_small", "lasertag_three_opponents_large"),
    *("lasertag_three_opponents_small", "natlab_fixed_large_map", "natlab_varying_map_randomized"),
    *("natlab_varying_map_regrowth", "psychlab_arbitrary_visuomotor_mapping", "psychlab_continuous_recognition"),
    *("psychlab_sequential_comparison", "psychlab_visual_search", "rooms_collect_good_objects_test"),
    *("rooms_exploit_deferred_effects_test", "rooms_keys_doors_puzzle", "rooms_select_nonmatching_object"),
    *("rooms_watermaze", "skymaze_irreversible_path_hard", "skymaze_irreversible_path_varied"),
)
"""The 30 levels in lexicographic order, by the names that scores are published under."""


@component("suites")
@dataclasses.dataclass(frozen=True)
class DMLab30(WithoutLevels):
    """The levels of DMLab-30, one task each: images [72, 96, 3] uint8 and the 9 actions of Espeholt et al. (2018).

    A run that is resumed begins new episodes: their states cannot be saved.

    Attributes:
      levels: their names, ``rooms_collect_good_objects_test`` also for its training level; by default all 30.
      test: whether they are the levels of the test: two have levels of their own for training, and what others
        generate is kept apart.
      frame_skip: frames for which an action is repeated; 4 in Espeholt et al. (2018).
    """

    requires: ClassVar[Requirement] = PACKAGE

    levels: tuple[str, ...] = LEVELS
    test: bool = False
    frame_skip: int = 4

    def __post_init__(self) -> None:
        check_named("levels", self.levels)
        for level in self.levels:
            if level not in LEVELS:
                guess = did_you_mean(closest(level, LEVELS))
                raise ValueError(f"there is no level '{level}' in DMLab-30.{guess}")
            self.environment(level)

    def tasks(self) -> Sequence[str]:
        return self.levels

    def environment(self, task: str) -> LabLevel:
        script = task if self.test or not task.endswith("_test") else f"{task.removesuffix('_test')}_train"
        return LabLevel(f"contributed/dmlab30/{script}", self.frame_skip, held_out=self.test)
