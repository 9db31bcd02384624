"""Sokoban: boxes are pushed onto targets (rules and rewards as in Racanière et al., 2017).

A step costs 0.1; a box pushed onto a target earns 1, one pushed off a target costs 1, and the last one onto its target
earns 10 more, where the episode terminates. Any other episode is cut off at a limit of steps. Whatever cannot be moved,
or is behind what is pushed, makes the player stay. There are four actions (up, down, left, right), and none that does
nothing; observations show cells by kind instead of pixels (chosen).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from components.suites.sokoban_generator import BOX, MOVES, PLAYER, SIZE, TARGET, WALL
from framework.specs import EnvironmentSpec
from framework.types import Array, TimeStep

KINDS = ("floor", "wall", "target", "box", "player", "box on target", "player on target")
"""What a cell can be seen to be; the first five are those of a level."""


SOLVED = "sokoban/solved"
"""Measured of every episode: 1 where all boxes came onto targets (Racanière et al., 2017)."""


class SokobanState(struct.PyTreeNode):
    """Walls, targets and boxes [10, 10] bool; row and column of the player [2], and steps made [] int32."""

    walls: Array
    targets: Array
    boxes: Array
    player: Array
    time: Array


@dataclasses.dataclass(frozen=True)
class SokobanEnvironment:
    """Episodes on levels of a pool [L, 10, 10] uint8, each drawn with equal probability.

    Attributes:
      max_steps: of an episode.
    """

    max_steps: int

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec(
            (SIZE, SIZE, len(KINDS)), len(MOVES), observation_dtype="bool", episode_numbers=(SOLVED,)
        )

    def draw_task(self, key: Array, level: Array) -> Array:
        return level

    def reset(self, key: Array, task: Array) -> tuple[SokobanState, Array]:
        cells = task[jax.random.randint(key, (), 0, task.shape[0])]
        state = SokobanState(
            walls=cells == WALL,
            targets=cells == TARGET,
            boxes=cells == BOX,
            player=jnp.stack(jnp.unravel_index(jnp.argmax(cells.reshape(-1) == PLAYER), cells.shape)).astype(jnp.int32),
            time=jnp.zeros((), jnp.int32),
        )
        return state, _observe(state)

    def step(self, key: Array, task: Array, state: SokobanState, action: Array) -> tuple[SokobanState, TimeStep]:
        move = jnp.asarray(MOVES)[action]
        # There are walls all around: what is ahead is on the board, and nothing behind a wall matters.
        ahead, beyond = tuple(state.player + move), tuple(state.player + 2 * move)
        pushes = state.boxes[ahead]
        stays = state.walls[ahead] | (pushes & (state.walls[beyond] | state.boxes[beyond]))
        pushed = pushes & ~stays
        boxes = state.boxes.at[ahead].min(~pushed).at[beyond].max(pushed)
        state = state.replace(boxes=boxes, player=jnp.where(stays, state.player, state.player + move))
        state = state.replace(time=state.time + 1)
        onto = state.targets[beyond].astype(jnp.float32) - state.targets[ahead].astype(jnp.float32)
        solved = ~(boxes & ~state.targets).any()
        return state, TimeStep(
            observation=_observe(state),
            reward=-0.1 + jnp.where(pushed, onto, 0.0) + jnp.where(solved, 10.0, 0.0),
            discount=jnp.where(solved, 0.0, 1.0),
            last=solved | (state.time >= self.max_steps),
            episode_numbers={SOLVED: solved.astype(jnp.float32)},
        )


def _observe(state: SokobanState) -> Array:
    """Which of the kinds each cell is [10, 10, 7] bool."""
    player = jnp.zeros_like(state.walls).at[tuple(state.player)].set(True)
    kinds = (
        ~(state.walls | state.targets | state.boxes | player),
        state.walls,
        state.targets & ~state.boxes & ~player,
        state.boxes & ~state.targets,
        player & ~state.targets,
        state.boxes & state.targets,
        player & state.targets,
    )
    return jnp.stack(kinds, axis=-1)
