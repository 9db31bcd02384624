"""Catch: move a paddle under a falling ball (Mnih et al., 2014; as in bsuite)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from components.suites.without_levels import WithoutLevels
from framework.registry import component
from framework.specs import EnvironmentSpec
from framework.types import Array, PyTree, TimeStep


class CatchState(struct.PyTreeNode):
    """Where ball and paddle are: row and column of the ball, column of the paddle [] int32."""

    ball_row: Array
    ball_column: Array
    paddle: Array


@dataclasses.dataclass(frozen=True)
class CatchEnvironment:
    """One Catch board. The ball falls a row a step; reward +-1 when it reaches the paddle's row, then the end."""

    rows: int
    columns: int

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec(observation_shape=(self.rows, self.columns, 1), num_actions=3)

    def draw_task(self, key: Array, level: PyTree) -> PyTree:
        return level

    def reset(self, key: Array, task: PyTree) -> tuple[CatchState, Array]:
        state = CatchState(
            ball_row=jnp.zeros((), jnp.int32),
            ball_column=jax.random.randint(key, (), 0, self.columns),
            paddle=jnp.full((), self.columns // 2, jnp.int32),
        )
        return state, self._observe(state)

    def step(self, key: Array, task: PyTree, state: CatchState, action: Array) -> tuple[CatchState, TimeStep]:
        paddle = jnp.clip(state.paddle + action - 1, 0, self.columns - 1)
        state = CatchState(ball_row=state.ball_row + 1, ball_column=state.ball_column, paddle=paddle)
        last = state.ball_row == self.rows - 1
        caught = jnp.where(state.ball_column == paddle, 1.0, -1.0)
        return state, TimeStep(
            observation=self._observe(state),
            reward=jnp.where(last, caught, 0.0),
            discount=jnp.where(last, 0.0, 1.0),
            last=last,
        )

    def _observe(self, state: CatchState) -> Array:
        board = jnp.zeros((self.rows, self.columns, 1))
        return board.at[state.ball_row, state.ball_column].set(1.0).at[self.rows - 1, state.paddle].set(1.0)


@component("suites")
@dataclasses.dataclass(frozen=True)
class Catch(WithoutLevels):
    """Catch on a board of rows x columns; actions left, stay, right; episodes of rows - 1 steps.

    Attributes:
      rows, columns: of the board; 8 x 8 in the authors' evaluation, 5 x 5 in their meta-training notebook.
    """

    rows: int = 8
    columns: int = 8

    def __post_init__(self) -> None:
        if self.rows < 2 or self.columns < 1:
            raise ValueError(f"a board needs at least 2 rows and 1 column, got {self.rows} x {self.columns}")

    def tasks(self) -> Sequence[str]:
        return (f"catch_{self.rows}x{self.columns}",)

    def environment(self, task: str) -> CatchEnvironment:
        return CatchEnvironment(self.rows, self.columns)
