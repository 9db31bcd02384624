"""Many different grid worlds, drawn from a seed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from components.suites.gridworld_environment import MOVES, GridLevel, GridworldEnvironment
from components.suites.gridworlds import Gridworld, Gridworlds
from framework.registry import component

SMALLEST, LARGEST = 5, 11
"""Rows and columns."""

MOST_TYPES, MOST_OBJECTS = 3, 3
"""Types of objects in a grid world, and objects of a type."""

TERMINATIONS = (0.0, 0.0, 0.1, 0.5, 1.0)
RESPAWNS = (0.0, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
LIMITS = (50, 500, 1000, 2000)
"""What probabilities and limits of steps are drawn from: the values of LPG's grid worlds."""

WALLS = 0.2
"""Share of cells that are walls, in every other grid world."""


@component("suites")
@dataclasses.dataclass(frozen=True)
class DrawnGridworlds:
    """Grid worlds drawn at random, once and for all: boards, on which every episode draws the objects' places anew.

    They vary in size, walls, objects, rewards, probabilities and length, within what LPG's grid worlds are (Oh et al.,
    2020). All is padded to 11 x 11 cells and 3 types of objects. The ranges are chosen.

    Attributes:
      count: how many; 57 in the ablation of DiscoRL's environments (Oh et al., 2025).
      seed: of the draws; a grid world does not depend on how many others there are.
    """

    count: int = 57
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 1000:
            raise ValueError(f"count must lie in [1, 1000], got {self.count}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in [0, 2^32), got {self.seed}")

    def tasks(self) -> Sequence[str]:
        return self._suite.tasks()

    def environment(self, task: str) -> GridworldEnvironment:
        return self._suite.environment(task)

    def level(self, task: str) -> GridLevel:
        return self._suite.level(task)

    @functools.cached_property
    def _suite(self) -> Gridworlds:
        levels = tuple(drawn_gridworld(self.seed, index) for index in range(self.count))
        return Gridworlds(levels, tabular=False, rows=LARGEST, columns=LARGEST, object_types=MOST_TYPES)


def drawn_gridworld(seed: int, index: int) -> Gridworld:
    """One grid world of a series; the first type of its objects is good, the others good or bad."""
    random = np.random.RandomState([seed, index])  # The one generator whose numbers never change.
    rows, columns = (int(random.randint(SMALLEST, LARGEST + 1)) for _ in range(2))
    objects = []
    for kind in range(int(random.randint(1, MOST_TYPES + 1))):
        many = int(random.randint(1, MOST_OBJECTS + 1))
        reward = 1.0 if kind == 0 or random.randint(2) else -1.0
        termination, respawn = (values[random.randint(len(values))] for values in (TERMINATIONS, RESPAWNS))
        objects.append((many, reward, termination, respawn))
    max_steps = LIMITS[random.randint(len(LIMITS))]
    walls = _walls(random, rows, columns) if random.randint(2) else ()
    return Gridworld(f"grid_{index:02d}", rows, columns, tuple(objects), max_steps, walls)


def _walls(random: np.random.RandomState, rows: int, columns: int) -> tuple[str, ...]:
    """Walls here and there, drawn as lines: all floor can be reached from all other floor."""
    floor = random.random_sample((rows, columns)) >= WALLS
    region = max(_regions(floor), key=len)
    return tuple("".join(".#"[(row, column) not in region] for column in range(columns)) for row in range(rows))


def _regions(floor: np.ndarray) -> list[set[tuple[int, int]]]:
    """The parts of the floor that no move leaves."""
    unseen = {(int(row), int(column)) for row, column in zip(*np.nonzero(floor), strict=True)}
    regions = []
    while unseen:
        pending, region = [unseen.pop()], set()
        while pending:
            row, column = pending.pop()
            region.add((row, column))
            near = {(row + down, column + right) for down, right in MOVES} & unseen
            unseen -= near
            pending += near
        regions.append(region)
    return regions
