"""Sokoban levels by reverse play: a room is carved, boxes stand on their targets, and are pulled away from them.

The recipe is that of Racanière et al. (2017, appendix): a random walk carves patterns of floor, then moves are made
backwards. Chosen here: the patterns, and pulls that are drawn at random where the paper searches for good ones. Whoever
undoes the pulls in the opposite order has solved the level.

A board is a number for each row, with a bit for each column [10] uint32: what is done to all its cells is then done at
once, and a pool of levels takes no time. All around there are walls, so that nothing is ever shifted over an edge.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from framework.types import Array

SIZE = 10
"""Rows and columns of a board, the walls around it included."""

FLOOR, WALL, TARGET, BOX, PLAYER = range(5)
"""What a cell of a level holds; at the start nothing stands on a target."""

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Rows and columns that an action moves by: up, down, left, right."""

CARVING_STEPS = 30
"""Of the random walk that carves the room."""

TURN = 0.35
"""Probability that the walk turns before a step."""

PATTERNS = ((0, 7, 0), (2, 2, 2), (2, 6, 0), (0, 3, 2), (3, 3, 0), (0, 6, 6))
"""Three rows of three cells that become floor around a cell that the walk visits: lines, corners, squares."""

PULLS = 48
"""Pulls that are drawn for a level; it is what it was after the last one that left no box on a target."""

LATEST, AWAY = 6, 24
"""How much likelier it is to pull the box that was pulled last, and one that stands on a target."""

CHUNK = 256
"""Levels attempted side by side."""

FIRST_NUMBERS = {"train": 0, "test": 2**31}
"""Where the numbers of a split's levels begin; there are as many of each."""


class Solution(struct.PyTreeNode):
    """The pulls that led to a level, in the order in which they were made, and how many steps it takes to undo them.

    Attributes:
      box: cell that a box is pulled from, 10 x row + column [PULLS] int32.
      move: which of the moves it is pulled by [PULLS] int32; -1 where there was no pull.
      steps: those of the walks between them included [] int32.
    """

    box: Array
    move: Array
    steps: Array


class _Play(struct.PyTreeNode):
    """Boxes, player and the box that was pulled last [10] uint32; steps so far [] int32."""

    boxes: Array
    player: Array
    latest: Array
    steps: Array


@functools.partial(jax.jit, static_argnames=("split", "count", "boxes", "max_steps"))
def generated_levels(split: str, count: int, *, boxes: int, max_steps: int) -> Array:
    """The first so many levels of a split [count, 10, 10] uint8, each of which can be solved in ``max_steps``."""

    def more(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        pool, found, number = carry
        numbers = number + jnp.arange(CHUNK, dtype=jnp.uint32)
        sound, levels, _ = attempt_levels(numbers, boxes=boxes, max_steps=max_steps)
        places = jnp.where(sound, found + jnp.cumsum(sound) - 1, count)
        return pool.at[places].set(levels, mode="drop"), found + sound.sum(), number + CHUNK

    blank, first = jnp.zeros((count, SIZE, SIZE), jnp.uint8), jnp.asarray(FIRST_NUMBERS[split], jnp.uint32)
    pool, _, _ = jax.lax.while_loop(lambda carry: carry[1] < count, more, (blank, jnp.asarray(0), first))
    return pool


@functools.partial(jax.jit, static_argnames=("boxes", "max_steps"))
def attempt_levels(numbers: Array, *, boxes: int, max_steps: int) -> tuple[Array, Array, Solution]:
    """For each number, whether there is a level, the level [N, 10, 10] uint8, and how it is solved."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), numbers)
    return jax.vmap(functools.partial(_attempt, boxes=boxes, max_steps=max_steps))(keys)


def _attempt(key: Array, boxes: int, max_steps: int) -> tuple[Array, Array, Solution]:
    # All that is random at once, as uniform numbers: each draw by itself would take a second to compile.
    sizes = np.cumsum([2 + 3 * CARVING_STEPS, SIZE**2, PULLS])
    of_room, of_places, of_pulls, of_start = jnp.split(jax.random.uniform(key, (sizes[-1] + 1,)), sizes)
    floor = _carve(of_room)
    # A box can leave a cell if there are two more in a row.
    lines = [_moved(floor, move, 1) & _moved(floor, move, 2) for move in range(len(MOVES))]
    pullable = floor & _union(jnp.stack(lines))
    draws = jnp.where(_cells(pullable), of_places.reshape(SIZE, SIZE), -1.0).reshape(-1)
    _, places = jax.lax.top_k(draws, boxes + 1)
    targets, player = _sum_of_cells(places[:-1]), _sum_of_cells(places[-1:])
    start = _Play(boxes=targets, player=player, latest=jnp.zeros_like(floor), steps=jnp.zeros((), jnp.int32))

    def pull(carry: tuple, draw: Array) -> tuple[tuple, tuple[Array, Array]]:
        play, kept, kept_at, index = carry
        play, pulled = _pull(floor, targets, max_steps, play, draw)
        sound = ~(play.boxes & targets).any()
        kept = jax.tree.map(lambda new, old: jnp.where(sound, new, old), play, kept)
        return (play, kept, jnp.where(sound, index, kept_at), index + 1), pulled

    nothing, zero = jnp.asarray(-1), jnp.asarray(0)
    (_, play, kept_at, _), (box, move) = jax.lax.scan(pull, (start, start, nothing, zero), of_pulls)
    # The player has walked to some plain cell since, if the steps allow.
    free = floor & ~play.boxes
    near = _flood(free, play.player, max_steps - play.steps)
    begins, some = _choose(of_start[0], _cells(near & ~targets))
    walk = _walk(free, play.player, _rows(begins))
    level = jnp.full((SIZE, SIZE), WALL, jnp.uint8)
    for kind, where in (
        (FLOOR, _cells(floor)), (TARGET, _cells(targets)), (BOX, _cells(play.boxes)), (PLAYER, begins)
    ):  # fmt: skip
        level = jnp.where(where, jnp.uint8(kind), level)
    # In a room too small for them some of the places are walls.
    sound = some & (kept_at >= 0) & ~((targets | player) & ~pullable).any()
    move = jnp.where(jnp.arange(PULLS) <= kept_at, move, -1)
    return sound, level, Solution(box=box, move=move, steps=play.steps + walk)


def _carve(draws: Array) -> Array:
    """A connected room [10] uint32, from uniform numbers [2 + 3 CARVING_STEPS]."""
    start, (turns, moves, patterns) = draws[:2], draws[2:].reshape(3, CARVING_STEPS)
    start = 1 + (start * (SIZE - 2)).astype(jnp.int32)
    turns = (turns < TURN).at[0].set(True)
    moves = (moves * len(MOVES)).astype(jnp.int32)
    patterns = (patterns * len(PATTERNS)).astype(jnp.int32)

    def step(carry: tuple[Array, Array, Array], drawn: tuple[Array, Array, Array]) -> tuple[tuple, None]:
        cell, move, floor = carry
        turns, to, pattern = drawn
        move = jnp.where(turns, to, move)
        cell = jnp.clip(cell + jnp.asarray(MOVES)[move], 1, SIZE - 2)
        rows = jnp.asarray(PATTERNS, jnp.uint32)[pattern] << (cell[1] - 1).astype(jnp.uint32)
        carved = jax.lax.dynamic_update_slice(jnp.zeros_like(floor), rows, (cell[0] - 1,))
        return (cell, move, floor | carved), None

    blank = jnp.zeros(SIZE, jnp.uint32)
    (_, _, floor), _ = jax.lax.scan(step, (start, moves[0], blank), (turns, moves, patterns))
    inside = np.zeros(SIZE, np.uint32)
    inside[1:-1] = 2 ** (SIZE - 1) - 2
    return floor & inside


def _pull(floor: Array, targets: Array, max_steps: int, play: _Play, draw: Array) -> tuple[_Play, tuple[Array, Array]]:
    """Walks to a box and pulls it by a cell; where none can be pulled in the steps left, nothing happens."""
    free = floor & ~play.boxes
    reached = _flood(free, play.player, max_steps - 1 - play.steps)
    # The player stands next to a box, on the side that it is pulled to, and steps back from there.
    possible = jnp.stack(
        [play.boxes & _moved(reached, move, -1) & _moved(free, move, -2) for move in range(len(MOVES))]
    )
    likelier = (1 + (LATEST - 1) * _cells(play.latest)) * (1 + (AWAY - 1) * _cells(targets))
    chosen, some = _choose(draw, _cells(possible) * likelier)
    some &= play.steps < max_steps
    of_move = _rows(chosen)
    box = _union(of_move)
    beside = _union(jnp.stack([_moved(of_move[move], move, 1) for move in range(len(MOVES))]))
    behind = _union(jnp.stack([_moved(of_move[move], move, 2) for move in range(len(MOVES))]))
    # Undone, the first pull is the last push, after which nobody walks.
    walk = jnp.where(play.steps == 0, 0, _walk(free, play.player, beside))
    after = _Play(
        boxes=(play.boxes & ~box) | beside,
        player=behind,
        latest=beside,
        steps=play.steps + walk + 1,
    )
    cell, move = jnp.argmax(chosen.any(0).reshape(-1)), jnp.argmax(chosen.any((1, 2)))
    return jax.tree.map(lambda new, old: jnp.where(some, new, old), after, play), (cell, jnp.where(some, move, -1))


def _choose(draw: Array, weight: Array) -> tuple[Array, Array]:
    """Marks one of the cells by weight, from a uniform number (none where none has any), and whether one has."""
    upto = jnp.cumsum(weight.reshape(-1).astype(jnp.int32))
    drawn = jnp.floor(draw * upto[-1]).astype(jnp.int32)
    first = jnp.argmax(upto > drawn)
    some = upto[-1] > 0
    return (jnp.arange(weight.size) == first).reshape(weight.shape) & some, some


def _flood(free: Array, start: Array, steps: Array) -> Array:
    """Cells that are reached from one in some steps, over free ones."""
    return _spread(free, start, jnp.zeros_like(free), steps)[0]


def _walk(free: Array, start: Array, goal: Array) -> Array:
    """Steps of the shortest way to a cell that can be reached [] int32."""
    return _spread(free, start, goal, jnp.asarray(SIZE**2))[1]


def _spread(free: Array, start: Array, goal: Array, steps: Array) -> tuple[Array, Array]:
    """Goes on in all directions until a goal is reached, nothing is left to reach, or the steps are over."""

    def going_on(carry: tuple[Array, Array, Array]) -> Array:
        reached, before, step = carry
        return (step < steps) & (reached != before).any() & ~(reached & goal).any()

    def spread(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        reached, _, step = carry
        neighbours = [_moved(reached, move, 1) for move in range(len(MOVES))]
        return (reached | _union(jnp.stack(neighbours))) & free, reached, step + 1

    reached, _, step = jax.lax.while_loop(going_on, spread, (start, jnp.zeros_like(start), jnp.asarray(0)))
    return reached, step


def _moved(board: Array, move: int, cells: int) -> Array:
    """A board all of whose contents have gone some cells."""
    down, right = (length * cells for length in MOVES[move])
    if down:
        return jnp.roll(board, down, axis=-1)
    return board << right if right > 0 else board >> -right


def _union(boards: Array) -> Array:
    """All that is on some of the boards [K, 10]."""
    return functools.reduce(jnp.bitwise_or, list(boards))


def _cells(boards: Array) -> Array:
    """The bits of boards [..., 10] as [..., 10, 10] bool."""
    return (boards[..., None] >> jnp.arange(SIZE, dtype=jnp.uint32)) & 1 == 1


def _rows(cells: Array) -> Array:
    """Boards [..., 10] from their bits [..., 10, 10]."""
    return jnp.sum(jnp.where(cells, jnp.uint32(1) << jnp.arange(SIZE, dtype=jnp.uint32), 0), -1, dtype=jnp.uint32)


def _sum_of_cells(places: Array) -> Array:
    """The board with some cells, numbered 10 x row + column [K]."""
    return _rows((jnp.arange(SIZE**2) == places[:, None]).any(0).reshape(SIZE, SIZE))
