"""Grid worlds with objects to collect and to avoid: those of LPG (Oh et al. 2020), and one's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from components.suites.gridworld_environment import (
    FIRST_OBJECT,
    MOVES,
    WALL,
    Board,
    GridLevel,
    GridworldEnvironment,
    StateTable,
)
from components.suites.levels import named, selected
from framework.registry import component


@component("settings")
@dataclasses.dataclass(frozen=True)
class Gridworld:
    """A grid with objects; the defaults are a small one to try rules on.

    Attributes:
      name: of the task that it is.
      rows, columns: of the grid.
      objects: for each type (how many, reward for collecting one, probability that this ends the episode, probability
        of each step that an absent one comes back).
      max_steps: of an episode.
      walls: the grid drawn as lines of ``#`` (wall) and ``.`` (floor); without, all is floor.
    """

    name: str
    rows: int = 5
    columns: int = 5
    objects: tuple[tuple[int, float, float, float], ...] = ((1, 1.0, 0.0, 0.1), (1, -1.0, 0.5, 0.1))
    max_steps: int = 100
    walls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"the grid world '{self.name}'"
        if min(self.rows, self.columns, self.max_steps) < 1:
            raise ValueError(f"{where} needs at least 1 row, 1 column and 1 step: raise what is less")
        for count, reward, *probabilities in self.objects:
            if count < 1 or not np.isfinite(reward) or not all(0.0 <= p <= 1.0 for p in probabilities):
                given = (count, reward, *probabilities)
                raise ValueError(
                    f"{where} has the objects {given}: write (how many, reward, probability to terminate, probability "
                    "to come back), with at least one object and probabilities in [0, 1]"
                )
        if self.num_objects < 1:
            raise ValueError(f"{where} has no objects: without any, nothing is ever rewarded")
        if self.walls and [len(line) for line in self.walls] != [self.columns] * self.rows:
            raise ValueError(f"{where} has walls that are not drawn as {self.rows} lines of {self.columns} cells")
        if stray := sorted(set("".join(self.walls)) - set("#.")):
            raise ValueError(f"{where} has walls drawn with {stray}: a cell is '#' (wall) or '.' (floor)")
        floor = int(self.floor.sum())
        if floor <= self.num_objects:
            raise ValueError(f"{where} has {floor} floor cells, too few for {self.num_objects} objects and the agent")

    @property
    def floor(self) -> np.ndarray:
        """Which cells are floor [rows, columns] bool."""
        lines = self.walls or ("." * self.columns,) * self.rows
        return np.array([[cell == "." for cell in line] for line in lines])

    @property
    def num_objects(self) -> int:
        return sum(count for count, *_ in self.objects)

    @property
    def num_states(self) -> int:
        """Cells times combinations of objects that are there."""
        return self.rows * self.columns * 2**self.num_objects


def level_arrays(gridworld: Gridworld, environment: GridworldEnvironment) -> GridLevel:
    """A grid world in the sizes of an environment that it fits into."""
    cells = [(int(row), int(column)) for row, column in zip(*np.nonzero(gridworld.floor), strict=True)]
    site = {cell: index for index, cell in enumerate(cells)}
    neighbours = np.tile(np.arange(environment.num_sites)[:, None], (1, len(MOVES)))
    for (row, column), index in site.items():
        for action, (down, right) in enumerate(MOVES):
            neighbours[index, action] = site.get((row + down, column + right), index)

    objects = [(kind, *numbers) for kind, (count, *numbers) in enumerate(gridworld.objects) for _ in range(count)]
    kinds, reward, termination, respawn = _padded(np.array(objects).T, environment.num_objects)
    view: StateTable | Board
    if environment.board is None:
        states = np.array([(row * gridworld.columns + column) << gridworld.num_objects for row, column in cells])
        view = StateTable(jnp.asarray(_padded(states, environment.num_sites), jnp.int32))
    else:
        _, columns, layers = environment.board
        marks = np.array([(row * columns + column) * layers for row, column in cells])
        walls = np.zeros(environment.board, bool)
        walls[..., WALL] = True
        walls[: gridworld.rows, : gridworld.columns, WALL] = ~gridworld.floor
        view = Board(
            mark=jnp.asarray(_padded(marks, environment.num_sites), jnp.int32),
            layer=jnp.asarray(FIRST_OBJECT + kinds, jnp.int32),
            walls=jnp.asarray(walls),
        )
    return GridLevel(
        neighbours=jnp.asarray(neighbours, jnp.int32),
        num_sites=jnp.asarray(len(cells), jnp.int32),
        exists=jnp.arange(environment.num_objects) < len(objects),
        reward=jnp.asarray(reward, jnp.float32),
        termination=jnp.asarray(termination, jnp.float32),
        respawn=jnp.asarray(respawn, jnp.float32),
        max_steps=jnp.asarray(gridworld.max_steps, jnp.int32),
        view=view,
    )


def _padded(numbers: np.ndarray, size: int) -> np.ndarray:
    """Zeros behind the numbers of the last axis."""
    widths = [(0, 0)] * (numbers.ndim - 1) + [(0, size - numbers.shape[-1])]
    return np.pad(numbers, widths)


@component("suites")
@dataclasses.dataclass(frozen=True)
class Gridworlds:
    """Grid worlds of one's own, padded to one specification: one environment, whose levels are the tasks.

    Attributes:
      levels: the tasks.
      tabular: whether a state's index is observed and objects keep their places for a lifetime, or a board is observed
        and every episode draws them anew.
      num_states: size to pad the table of states to; the levels' largest if not given.
      rows, columns, object_types: sizes to pad boards to; the levels' largest if not given.
    """

    levels: tuple[Gridworld, ...]
    tabular: bool = True
    num_states: int | None = None
    rows: int | None = None
    columns: int | None = None
    object_types: int | None = None

    def __post_init__(self) -> None:
        names = self.tasks()
        if not names or len(set(names)) < len(names):
            raise ValueError(f"levels must be given and have different names, got {names}: rename some")
        if self.tabular and (largest := max(level.num_states for level in self.levels)) >= 2**31:
            raise ValueError(f"{largest} states are too many for a table: take fewer objects, or tabular=False")
        unused = ("rows", "columns", "object_types") if self.tabular else ("num_states",)
        for name in unused:
            if getattr(self, name) is not None:
                seen = "states" if self.tabular else "boards"
                raise ValueError(f"{name} has no meaning where {seen} are observed: leave it out, or change tabular")
        for name, smallest in self._smallest_sizes().items():
            given = getattr(self, name)
            if given is not None and given < smallest:
                raise ValueError(f"{name}={given} is less than the {smallest} that a level needs: raise it")

    def tasks(self) -> Sequence[str]:
        return tuple(level.name for level in self.levels)

    def environment(self, task: str) -> GridworldEnvironment:
        sizes = {name: getattr(self, name) or smallest for name, smallest in self._smallest_sizes().items()}
        board = (sizes["rows"], sizes["columns"], FIRST_OBJECT + sizes["object_types"])
        return GridworldEnvironment(
            num_sites=max(int(level.floor.sum()) for level in self.levels),
            num_objects=max(level.num_objects for level in self.levels),
            num_states=sizes["num_states"] if self.tabular else None,
            board=None if self.tabular else board,
        )

    def level(self, task: str) -> GridLevel:
        return level_arrays(named(self.levels, task), self.environment(task))

    def _smallest_sizes(self) -> dict[str, int]:
        return {
            "num_states": max(level.num_states for level in self.levels),
            "rows": max(level.rows for level in self.levels),
            "columns": max(level.columns for level in self.levels),
            "object_types": max(len(level.objects) for level in self.levels),
        }


DENSE = ((2, 1.0, 0.0, 0.05), (1, -1.0, 0.5, 0.1), (1, -1.0, 0.0, 0.5))
LONG_HORIZON = ((2, 1.0, 0.0, 0.01), (2, -1.0, 0.5, 1.0))

TWO_GAPS = (
    "....#....",
    ".........",
    "....#....",
    "....#....",
    "....#....",
    ".........",
    "....#....",
)
"""A column of walls with two gaps (the paper says only that there are walls)."""

FOUR_ROOMS = (
    ".....#.....",
    ".....#.....",
    "...........",
    ".....#.....",
    ".....#.....",
    "##.#####.##",
    ".....#.....",
    ".....#.....",
    "...........",
    ".....#.....",
    ".....#.....",
)
"""Four rooms with gaps of one cell between them (likewise)."""

TABULAR_GRIDWORLDS = (
    Gridworld("tabular_dense", 11, 11, DENSE, max_steps=500),
    Gridworld("tabular_sparse", 13, 13, ((1, 1.0, 1.0, 0.0), (1, -1.0, 1.0, 0.0)), max_steps=50),
    Gridworld("tabular_long_horizon", 11, 11, LONG_HORIZON, max_steps=1000),
    Gridworld(
        "tabular_longer_horizon", 7, 9, ((2, 1.0, 0.1, 0.01), (5, -1.0, 0.8, 1.0)), max_steps=2000, walls=TWO_GAPS
    ),
    Gridworld("tabular_long_dense", 11, 11, ((4, 1.0, 0.0, 0.005),), max_steps=2000, walls=FOUR_ROOMS),
)
"""The tabular grid worlds of Oh et al. 2020 (LPG), table of environments."""

RANDOM_GRIDWORLDS = (
    Gridworld("random_dense", 11, 11, DENSE, max_steps=500),
    Gridworld("random_long_horizon", 11, 11, LONG_HORIZON, max_steps=1000),
    Gridworld("random_small", 5, 7, ((2, 1.0, 0.0, 0.05), (2, -1.0, 0.5, 0.1)), max_steps=500),
    Gridworld("random_small_sparse", 5, 7, ((1, 1.0, 1.0, 1.0), (2, -1.0, 1.0, 1.0)), max_steps=50),
    Gridworld("random_very_dense", 11, 11, ((1, 1.0, 0.0, 1.0),), max_steps=2000),
)
"""The random grid worlds of Oh et al. 2020 (LPG), table of environments."""


@component("suites")
@dataclasses.dataclass(frozen=True)
class TabularGridworlds:
    """The five tabular grid worlds of LPG (Oh et al. 2020): objects keep their places for a lifetime.

    Attributes:
      names: which of dense, sparse, long_horizon, longer_horizon, long_dense; all if not given. The table of states has
        the size of the largest chosen: 8,064 for longer_horizon, 1,936 at most for the others.
    """

    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        self._suite()

    def tasks(self) -> Sequence[str]:
        return self._suite().tasks()

    def environment(self, task: str) -> GridworldEnvironment:
        return self._suite().environment(task)

    def level(self, task: str) -> GridLevel:
        return self._suite().level(task)

    def _suite(self) -> Gridworlds:
        return Gridworlds(selected(TABULAR_GRIDWORLDS, "tabular_", self.names), tabular=True)


@component("suites")
@dataclasses.dataclass(frozen=True)
class RandomGridworlds:
    """The five random grid worlds of LPG (Oh et al. 2020): boards, on which every episode draws places anew.

    Attributes:
      names: which of dense, long_horizon, small, small_sparse, very_dense; all if not given. Whichever are chosen,
        boards are padded to those of all five: 11 x 11 cells, 3 types of objects.
    """

    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        self._suite()

    def tasks(self) -> Sequence[str]:
        return self._suite().tasks()

    def environment(self, task: str) -> GridworldEnvironment:
        return self._suite().environment(task)

    def level(self, task: str) -> GridLevel:
        return self._suite().level(task)

    def _suite(self) -> Gridworlds:
        chosen = selected(RANDOM_GRIDWORLDS, "random_", self.names)
        return Gridworlds(chosen, tabular=False, rows=11, columns=11, object_types=3)
