"""Sokoban: levels that can be solved, moves as a slow simulator makes them, rewards, files of levels."""

from __future__ import annotations

import collections
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.suites.sokoban import Sokoban
from components.suites.sokoban_environment import KINDS, SokobanEnvironment
from components.suites.sokoban_generator import FIRST_NUMBERS, MOVES, attempt_levels, generated_levels
from framework.errors import UserError
from framework.testing import check_environment
from framework.types import transition_weight

UP, DOWN, LEFT, RIGHT = range(4)
TEXT = " #.$@"
Cell = tuple[int, int]


class Simulator:
    """Sokoban by the book, on sets of cells; a level is ten lines of text."""

    def __init__(self, lines: list[str], max_steps: int = 120) -> None:
        def cells(kinds: str) -> set[Cell]:
            return {(r, c) for r, line in enumerate(lines) for c, kind in enumerate(line) if kind in kinds}

        self.walls, self.targets, self.boxes = cells("#"), cells("."), cells("$")
        (self.player,) = cells("@")
        self.steps, self.max_steps = 0, max_steps

    def step(self, action: int) -> tuple[float, bool, bool]:
        """Reward, whether all boxes are on targets, whether the episode is over."""
        self.steps += 1
        reward = -0.1
        ahead, beyond = (tuple(x + k * m for x, m in zip(self.player, MOVES[action], strict=True)) for k in (1, 2))
        if ahead in self.boxes and beyond not in self.walls | self.boxes:
            self.boxes = (self.boxes - {ahead}) | {beyond}
            reward += (beyond in self.targets) - (ahead in self.targets)
        if ahead not in self.walls | self.boxes:
            self.player = ahead
        solved = self.boxes == self.targets
        return reward + 10.0 * solved, solved, solved or self.steps == self.max_steps

    def observation(self) -> np.ndarray:
        board = np.zeros((10, 10, len(KINDS)), bool)
        for row in range(10):
            for column in range(10):
                cell = (row, column)
                kind = "floor"
                for name, where in (("wall", self.walls), ("box", self.boxes), ("player", {self.player})):
                    kind = name if cell in where else kind
                if cell in self.targets:
                    kind = "target" if kind == "floor" else f"{kind} on target"
                board[row, column, KINDS.index(kind)] = True
        return board

    def way(self, goal: Cell) -> list[int]:
        """Actions that lead the player to a cell without pushing anything."""
        ways: dict[Cell, list[int]] = {self.player: []}
        queue = collections.deque(ways)
        while queue and goal not in ways:
            cell = queue.popleft()
            for action, (down, right) in enumerate(MOVES):
                other = (cell[0] + down, cell[1] + right)
                if other not in ways and other not in self.walls | self.boxes:
                    ways[other] = [*ways[cell], action]
                    queue.append(other)
        return ways[goal]


def lines_of(level: np.ndarray) -> list[str]:
    return ["".join(TEXT[cell] for cell in row) for row in level]


@functools.cache
def attempts() -> tuple[np.ndarray, np.ndarray, Any]:
    """Levels that are some, and their solutions."""
    sound, levels, solutions = attempt_levels(jnp.arange(256, dtype=jnp.uint32), boxes=4, max_steps=120)
    return tuple(jax.tree.map(lambda x: np.asarray(x)[np.asarray(sound)], (sound, levels, solutions)))


def test_every_level_is_solved_by_undoing_the_pulls() -> None:
    _, levels, solutions = attempts()
    assert len(levels) > 50
    for index, level in enumerate(levels):
        simulator, total, played = Simulator(lines_of(level)), 0.0, iter(undone(solutions, index))
        solved = over = False
        for goal, push in played:
            assert not over
            for action in [*simulator.way(goal), push]:
                reward, solved, over = simulator.step(action)
                total += reward
            if solved:  # Some pulls led from one solution to another.
                break
        assert solved
        left = sum(1 for _ in played)
        assert simulator.steps + left <= solutions.steps[index] <= 120
        assert simulator.steps == solutions.steps[index] or left
        assert total == pytest.approx(-0.1 * simulator.steps + 4 + 10)


def undone(solutions: Any, index: int) -> list[tuple[Cell, int]]:
    """Where to stand and where to push to, from a level to its solution."""
    pushes = []
    for box, move in zip(solutions.box[index], solutions.move[index], strict=True):
        if move >= 0:
            # The box was pulled to the next cell and the player to the one behind it.
            (row, column), (down, right) = divmod(int(box), 10), MOVES[move]
            pushes.append(((row + 2 * down, column + 2 * right), MOVES.index((-down, -right))))
    return pushes[::-1]


def test_levels_have_four_boxes_and_walls_around() -> None:
    _, levels, _ = attempts()
    for kind, count in ((2, 4), (3, 4), (4, 1)):
        assert ((levels == kind).sum((1, 2)) == count).all()
    assert (levels[:, [0, -1]] == 1).all()
    assert (levels[:, :, [0, -1]] == 1).all()
    assert len({level.tobytes() for level in levels}) == len(levels)
    assert len({(level == 1).tobytes() for level in levels}) == len(levels)


def test_a_pool_is_its_numbers() -> None:
    _, levels, _ = attempts()
    pool = np.asarray(generated_levels("train", 100, boxes=4, max_steps=120))
    np.testing.assert_array_equal(pool[:40], levels[:40])
    test = np.asarray(generated_levels("test", 100, boxes=4, max_steps=120))
    assert not {level.tobytes() for level in pool} & {level.tobytes() for level in test}
    assert FIRST_NUMBERS["test"] - FIRST_NUMBERS["train"] == 2**31


def test_no_level_is_made_where_shapes_alone_are_asked_for() -> None:
    """So that a config with many levels is checked and described at once."""
    suite = Sokoban(num_levels=10**6)
    assert jax.eval_shape(lambda: suite.level("sokoban_train")).shape == (10**6, 10, 10)


def test_levels_of_two_boxes() -> None:
    levels = np.asarray(Sokoban(num_levels=5, num_boxes=2).level("sokoban_train"))
    assert ((levels == 3).sum((1, 2)) == 2).all()
    assert ((levels == 2).sum((1, 2)) == 2).all()


@functools.cache
def compiled(max_steps: int = 120) -> tuple[Any, Any]:
    environment = SokobanEnvironment(max_steps)
    return jax.jit(environment.reset), jax.jit(environment.step)


def assert_same_play(level: np.ndarray, actions: list[int], max_steps: int = 120) -> Simulator:
    simulator, key = Simulator(lines_of(level), max_steps), jax.random.key(0)
    reset, step = compiled(max_steps)
    state, observation = reset(key, level[None])
    np.testing.assert_array_equal(observation, simulator.observation())
    for action in actions:
        state, time_step = step(key, level[None], state, jnp.asarray(action, jnp.int32))
        reward, solved, over = simulator.step(action)
        np.testing.assert_array_equal(time_step.observation, simulator.observation())
        assert float(time_step.reward) == pytest.approx(reward, abs=1e-5)
        assert (bool(time_step.last), float(time_step.discount)) == (over, 1.0 - solved)
        if over:
            break
    return simulator


@settings(max_examples=60)
@given(st.integers(0, 49), st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_moves_are_those_of_the_simulator(index: int, actions: list[int]) -> None:
    assert_same_play(attempts()[1][index], actions)


def drawn(*rows: str) -> np.ndarray:
    """A level of some rows, walls around it."""
    lines = ["#" * 10, *(f"#{row:#<8}#" for row in rows)]
    lines += ["#" * 10] * (10 - len(lines))
    return np.array([[TEXT.index(cell) for cell in line] for line in lines], np.uint8)


def test_pushing_through_a_target_pays_and_costs() -> None:
    level = drawn("@$. .", "  $  ")
    simulator = assert_same_play(level, [RIGHT, RIGHT, RIGHT, LEFT, LEFT, LEFT])
    assert simulator.boxes == {(1, 5), (2, 3)}  # Past the one target, onto the other.
    simulator = assert_same_play(drawn("@$$ ", "    "), [RIGHT, RIGHT, DOWN, UP])
    assert simulator.boxes == {(1, 2), (1, 3)}  # Two at once cannot be pushed.
    simulator = assert_same_play(drawn("@$.", "$. "), [RIGHT, LEFT, DOWN])
    assert simulator.player == (1, 1)  # One box at the wall, below the player.


def test_the_last_box_terminates_even_at_the_limit() -> None:
    level = drawn("@$.")
    reset, step = compiled(20)
    state, _ = reset(jax.random.key(0), level[None])
    _, ended = step(jax.random.key(0), level[None], state.replace(time=jnp.asarray(19)), jnp.asarray(RIGHT))
    assert float(ended.reward) == pytest.approx(10.9)
    assert (bool(ended.last), float(ended.discount)) == (True, 0.0)
    assert float(ended.episode_numbers["sokoban/solved"]) == 1.0
    _, ended = step(jax.random.key(0), level[None], state.replace(time=jnp.asarray(19)), jnp.asarray(UP))
    assert float(ended.reward) == pytest.approx(-0.1)
    assert (bool(ended.last), float(ended.discount)) == (True, 1.0)
    assert float(ended.episode_numbers["sokoban/solved"]) == 0.0
    assert float(transition_weight(ended.discount, ended.last)) == 0.0


def test_episodes_draw_from_all_levels() -> None:
    pool = Sokoban(num_levels=5, num_boxes=2).level("sokoban_train")
    reset = jax.vmap(SokobanEnvironment(120).reset, (0, None))
    states, _ = jax.jit(reset)(jax.random.split(jax.random.key(0), 200), pool)
    assert len({walls.tobytes() for walls in np.asarray(states.walls)}) == 5


# Files of levels.

ONE = "; 0\n##########\n#@ $.    #\n" + "##########\n" * 8
OTHER = "; 1\n" + "##########\n" * 7 + "#    .$ @#\n#        #\n##########\n"


def test_levels_from_files(tmp_path: Path) -> None:
    folder = tmp_path / "hard"
    folder.mkdir()
    (folder / "000.txt").write_text(f"{ONE}\n{OTHER}")
    (folder / "001.txt").write_text(ONE.replace("@ $.", "@ .$"))
    (folder / "README").write_text("not levels")
    suite = Sokoban(folder=folder)
    assert suite.tasks() == ("boxoban_hard",)
    pool = np.asarray(suite.level("boxoban_hard"))
    assert ["\n".join(lines_of(level)) for level in pool] == [
        text.partition("\n")[2].strip("\n") for text in (ONE, OTHER, ONE.replace("@ $.", "@ .$"))
    ]
    np.testing.assert_array_equal(Sokoban(folder=folder, num_levels=2).level("boxoban_hard"), pool[:2])
    check_environment(suite.environment("boxoban_hard"), suite.level("boxoban_hard"))
    with pytest.raises(UserError, match="holds 3 levels, 4 asked for: lower num_levels"):
        Sokoban(folder=folder, num_levels=4).level("boxoban_hard")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ONE.replace("    #", "    "), r"000.txt:3: '#@ \$\.    ' is no row of a level: write 10 of"),
        (ONE.replace("@ ", "+ "), r"000.txt:3: .* is no row"),
        (ONE.replace("@ ", "  "), "000.txt:2: this level has 0 players, 1 boxes and 1 targets"),
        (ONE.replace("$", " "), "has 1 players, 0 boxes and 1 targets"),
        (ONE.replace("    #", "     "), "000.txt:2: this level is open at its edge: it needs walls all around"),
        (ONE[:-11] + OTHER, "000.txt:11: a level of 9 lines ends here: one has 10 lines"),
        (ONE[:-11], "000.txt: the last level has 9 lines"),
        ("", "holds 0 levels, none asked for"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "000.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        Sokoban(folder=tmp_path).level("boxoban")


def test_mistakes_are_refused(tmp_path: Path) -> None:
    for wrong, message in (
        ({"num_levels": 0}, "num_levels must be at least 1"),
        ({"num_boxes": 7}, "num_boxes must be at most 6"),
        ({"max_steps": 3}, "max_steps must be at least 20"),
        ({"folder": tmp_path / "none"}, "none does not exist: name one of Boxoban's"),
        ({"folder": tmp_path}, r"holds no file \*\.txt"),
    ):
        with pytest.raises(ValueError, match=message):
            Sokoban(**wrong)  # type: ignore[arg-type]
    (tmp_path / "000.txt").write_text(ONE)
    with pytest.raises(ValueError, match="split has no meaning for levels from a folder"):
        Sokoban(folder=tmp_path, split="test")
