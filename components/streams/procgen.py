"""ProcGen's games, stepped in batches by EnvPool (Cobbe et al., 2020; Weng et al., 2022)."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from framework.errors import UserError, closest, did_you_mean
from framework.host_environments.batch import BatchRow
from framework.requirements import Requirement
from framework.specs import EnvironmentSpec, Resume

PACKAGE = Requirement.of_extra(
    "envpool", "procgen", library="Qt5Gui", install_library="on Debian and Ubuntu, apt-get install libqt5gui5"
)

GAMES = (
    *("bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot", "heist", "jumper"),
    *("leaper", "maze", "miner", "ninja", "plunder", "starpilot"),
)
"""The 16 games."""

SIZE = 64
"""Rows and columns of an observation."""

NUM_ACTIONS = 15


@dataclasses.dataclass(frozen=True)
class ProcGenGame:
    """One game of ProcGen; an observation is an image [64, 64, 3] uint8, every episode is one of some levels.

    Episodes are cut off after the game's own limit, 500 to 6,000 steps.

    Attributes:
      game: name of the game.
      mode: how hard its levels are: ``easy`` or ``hard``.
      start_level, num_levels: which levels are drawn from, numbered from 0; ``num_levels=0`` for all there are.
    """

    game: str
    mode: Literal["easy", "hard"] = "hard"
    start_level: int = 0
    num_levels: int = 500

    resumes = Resume.NEW_EPISODE

    def __post_init__(self) -> None:
        if self.game not in GAMES:
            guess = did_you_mean(closest(self.game, GAMES))
            raise ValueError(f"there is no ProcGen game '{self.game}', only {', '.join(GAMES)}.{guess}")
        for name in ("start_level", "num_levels"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec(observation_shape=(SIZE, SIZE, 3), num_actions=NUM_ACTIONS, observation_dtype="uint8")

    def open(self, seed: Sequence[int]) -> BatchRow:
        return BatchRow(self.open_many([seed]), 0, alone=True)

    def open_many(self, seeds: Sequence[Sequence[int]], threads: int = 1) -> ProcGenBatch:
        return ProcGenBatch(self, seeds, threads)


class ProcGenBatch:
    """Several environments of one game.

    Their states cannot be saved. A row that is restored, before or after it was played, begins new episodes, on levels
    that follow from its seed and from how often it was restored; it is for all rows to be restored together.
    """

    def __init__(self, game: ProcGenGame, seeds: Sequence[Sequence[int]], threads: int) -> None:
        self._game, self._threads = game, threads
        # What the levels of a row follow from: its seed's words, and how often it was restored.
        self._sources: list[tuple[tuple[int, ...], int]] = [(tuple(seed), 0) for seed in seeds]
        self._pool: Any = None
        self._open()  # What is not installed is told now.

    def reset(self, rows: np.ndarray) -> np.ndarray:
        observation, info = self._open().reset(rows)
        self._refuse_other_levels(info)
        return np.asarray(observation)

    def step(self, rows: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        observation, reward, terminated, truncated, info = self._open().step(action.astype(np.int32), rows)
        self._refuse_other_levels(info)
        return np.asarray(observation), reward, terminated, truncated

    def snapshot(self, row: int) -> bytes:
        return pickle.dumps(self._sources[row], protocol=4)

    def restore(self, row: int, snapshot: bytes) -> None:
        seed, restored = pickle.loads(snapshot)
        self._sources[row] = seed, restored + 1
        self.close()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
        self._pool = None

    def __repr__(self) -> str:
        return f"EnvPool's {self._game!r}"

    def _open(self) -> Any:
        if self._pool is None:
            self._pool = library_pool(self._game, [seed_of(*source) for source in self._sources], self._threads)
        return self._pool

    def _refuse_other_levels(self, info: dict[str, Any]) -> None:
        game, levels = self._game, info["level_seed"]
        first, last = int(levels.min()), int(levels.max())
        if game.num_levels and not game.start_level <= first <= last < game.start_level + game.num_levels:
            raise RuntimeError(
                f"EnvPool shows the levels {first} to {last} of {game.game}, where {game.num_levels} from "
                f"{game.start_level} on were asked for"
            )


def seed_of(words: tuple[int, ...], restored: int = 0) -> int:
    """What EnvPool takes as the seed of one environment: 31 bits."""
    return int(np.random.SeedSequence([*words, restored]).generate_state(1)[0]) >> 1


def library_pool(game: ProcGenGame, seeds: Sequence[int], threads: int) -> Any:
    """EnvPool's environments of a game, one for each seed; stepped by some threads."""
    envpool = PACKAGE.module()
    try:
        return envpool.make_gymnasium(
            f"{game.game.capitalize()}{game.mode.capitalize()}-v0",
            num_envs=len(seeds),
            env_seed=list(seeds),
            num_threads=threads,
            channel_first=False,
            start_level=game.start_level,
            num_levels=game.num_levels,
        )
    except ImportError as error:
        raise UserError(
            f"ProcGen needs the library Qt 5 of the system, which cannot be loaded ({error}): {PACKAGE.install_library}"
        ) from error
