"""Grid worlds drawn from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from components.suites.drawn_gridworlds import DrawnGridworlds, drawn_gridworld
from components.suites.gridworlds import Gridworld

WORLDS = [drawn_gridworld(0, index) for index in range(57)]


def test_a_drawn_world_never_changes() -> None:
    """A rule that was discovered on it can be discovered again."""
    assert WORLDS[3] == Gridworld(
        name="grid_03",
        rows=8,
        columns=7,
        objects=((2, 1.0, 0.1, 0.01), (3, -1.0, 0.5, 0.005)),
        max_steps=500,
        walls=(".#..###", "#......", "..#..#.", "....#..", ".##.##.", ".......", ".#.#...", "......#"),
    )


def test_worlds_differ() -> None:
    assert len({repr((w.rows, w.columns, w.objects, w.max_steps, w.walls)) for w in WORLDS}) == 57
    assert drawn_gridworld(1, 3) != WORLDS[3]
    for vary in (lambda w: w.rows, lambda w: w.max_steps, lambda w: bool(w.walls), lambda w: len(w.objects)):
        assert len(set(map(vary, WORLDS))) > 1


def test_a_world_does_not_depend_on_how_many_there_are() -> None:
    few, many = DrawnGridworlds(count=2), DrawnGridworlds()
    assert (few.tasks(), len(many.tasks())) == (("grid_00", "grid_01"), 57)
    of_few, of_many = few.level("grid_01"), many.level("grid_01")
    sites = int(of_few.num_sites)
    np.testing.assert_array_equal(of_few.neighbours[:sites], of_many.neighbours[:sites])
    assert many.environment("grid_00").spec.observation_shape == (11, 11, 5)


def test_all_floor_can_be_reached() -> None:
    for world in WORLDS:
        reached = np.zeros_like(world.floor)
        reached[tuple(np.argwhere(world.floor)[0])] = True
        for _ in range(world.floor.size):
            around = np.pad(reached, 1)
            near = [around[i : i + world.rows, j : j + world.columns] for i in range(3) for j in range(3)]
            reached = np.any(near, axis=0) & world.floor
        np.testing.assert_array_equal(reached, world.floor)


@pytest.mark.parametrize(("wrong", "message"), [({"count": 0}, "count must lie"), ({"seed": -1}, "seed must lie")])
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DrawnGridworlds(**wrong)
