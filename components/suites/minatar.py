"""MinAtar's games on the device, as gymnax has them (Young and Tian, 2019; Lange, 2022)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from components.suites.without_levels import WithoutLevels
from framework.errors import closest, did_you_mean
from framework.registry import component
from framework.requirements import Requirement
from framework.specs import EnvironmentSpec
from framework.types import Array, PyTree, TimeStep

PACKAGE = Requirement.of_extra("gymnax", "minatar")

GAMES = {
    "asterix": ("Asterix-MinAtar", 4, 5),
    "breakout": ("Breakout-MinAtar", 4, 3),
    "freeway": ("Freeway-MinAtar", 7, 3),
    "seaquest": ("Seaquest-MinAtar", 10, 6),
    "space_invaders": ("SpaceInvaders-MinAtar", 6, 4),
}
"""Of each game gymnax's name, planes and actions: known without gymnax, so that configs can be checked without it."""


@functools.cache
def gymnax_game(game: str) -> Any:
    """The environment of a game in gymnax.

    Raises:
      UserError: gymnax is not installed, or cannot be used.
    """
    gymnax = PACKAGE.module()
    with jax.ensure_compile_time_eval():  # It holds arrays, which must be numbers whoever is being traced.
        return gymnax.make(GAMES[game][0])[0]


@dataclasses.dataclass(frozen=True)
class MinAtarGame:
    """One game of MinAtar, with the actions that it takes notice of; observations are binary planes [10, 10, C].

    Attributes:
      game: its name.
      max_steps: of an episode, which is then cut off; ``None`` for gymnax's limit.
    """

    game: str
    max_steps: int | None = None

    @property
    def spec(self) -> EnvironmentSpec:
        _, planes, actions = GAMES[self.game]
        return EnvironmentSpec((10, 10, planes), actions, observation_dtype="bool")

    def draw_task(self, key: Array, level: PyTree) -> PyTree:
        return level

    def reset(self, key: Array, task: PyTree) -> tuple[PyTree, Array]:
        environment = gymnax_game(self.game)
        observation, state = environment.reset_env(key, self._params)
        return self._typed(state), observation > 0

    def step(self, key: Array, task: PyTree, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        # Not `step`, which begins a new episode by itself.
        environment = gymnax_game(self.game)
        observation, state, reward, terminated, _ = environment.step_env(key, state, action, self._params)
        terminated = jnp.asarray(terminated, bool)
        return self._typed(state), TimeStep(
            observation=observation > 0,
            reward=jnp.asarray(reward, jnp.float32),
            discount=jnp.where(terminated, 0.0, 1.0),
            last=terminated | environment.is_truncated(state, self._params),
        )

    @property
    def _params(self) -> Any:
        params = gymnax_game(self.game).default_params
        return params if self.max_steps is None else params.replace(max_steps_in_episode=self.max_steps)

    def _typed(self, state: PyTree) -> PyTree:
        """A state whose leaves are arrays of the dtypes that they have after a step; gymnax's change at the first."""
        form = _form(self.game)
        return jax.tree.map(lambda x, of: jnp.asarray(x, of.dtype), state, form)


@functools.cache
def _form(game: str) -> PyTree:
    """Shapes and dtypes of a state after a step."""
    environment = gymnax_game(game)
    params = environment.default_params

    def second(key: Array) -> PyTree:
        _, state = environment.reset_env(key, params)
        return environment.step_env(key, state, jnp.zeros((), jnp.int32), params)[1]

    return jax.eval_shape(second, jax.random.key(0))


@component("suites")
@dataclasses.dataclass(frozen=True)
class MinAtar(WithoutLevels):
    """A game of MinAtar on the device: binary planes [10, 10, C], and the actions that the game takes notice of.

    As in gymnax, limits of steps cut episodes off (MinAtar itself has none, but for Freeway, which ends after 2,500).

    Attributes:
      game: asterix, breakout, freeway, seaquest or space_invaders.
      max_steps: limit of an episode, in steps; ``None`` for gymnax's, 1,000 or, in Freeway, 2,500.
    """

    requires: ClassVar[Requirement] = PACKAGE

    game: str = "breakout"
    max_steps: int | None = None

    def __post_init__(self) -> None:
        if self.game not in GAMES:
            guess = did_you_mean(closest(self.game, GAMES))
            raise ValueError(f"there is no MinAtar game '{self.game}', only {', '.join(GAMES)}.{guess}")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps must be positive, or None for gymnax's limit, got {self.max_steps}")

    def tasks(self) -> Sequence[str]:
        return (f"minatar_{self.game}",)

    def environment(self, task: str) -> MinAtarGame:
        return MinAtarGame(self.game, self.max_steps)
