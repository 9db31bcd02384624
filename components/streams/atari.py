"""Atari games as streams that can be stopped, saved and continued exactly: one emulator each."""

from __future__ import annotations

import dataclasses
import functools
import math
import pickle
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from framework.errors import closest, did_you_mean
from framework.requirements import Requirement
from framework.specs import EnvironmentSpec

PACKAGE = Requirement.of_install("ale-py")

SIZE = 84
"""Rows and columns of an observation (Mnih et al., 2015)."""

REPEAT_PROBABILITY = 0.25
"""That a frame repeats the action before (Machado et al., 2018, section 5.1)."""

NUM_ACTIONS = 18
"""Of the full action space: every position of the stick, with and without the button."""

NOOP = 0

ATARI57 = (
    *("alien", "amidar", "assault", "asterix", "asteroids", "atlantis", "bank_heist", "battle_zone", "beam_rider"),
    *("berzerk", "bowling", "boxing", "breakout", "centipede", "chopper_command", "crazy_climber", "defender"),
    *("demon_attack", "double_dunk", "enduro", "fishing_derby", "freeway", "frostbite", "gopher", "gravitar", "hero"),
    *("ice_hockey", "jamesbond", "kangaroo", "krull", "kung_fu_master", "montezuma_revenge", "ms_pacman"),
    *("name_this_game", "phoenix", "pitfall", "pong", "private_eye", "qbert", "riverraid", "road_runner", "robotank"),
    *("seaquest", "skiing", "solaris", "space_invaders", "star_gunner", "surround", "tennis", "time_pilot"),
    *("tutankham", "up_n_down", "venture", "video_pinball", "wizard_of_wor", "yars_revenge", "zaxxon"),
)
"""The 57 games of the benchmark, in lexicographic order."""


class Emulator(Protocol):
    """The part of ``ale_py.ALEInterface`` that a stream uses."""

    def act(self, action: int) -> int: ...
    def game_over(self, *, with_truncation: bool) -> bool: ...
    def lives(self) -> int: ...
    def reset_game(self) -> None: ...
    def getScreenDims(self) -> tuple[int, int]: ...
    def getScreenGrayscale(self, screen: np.ndarray) -> None: ...
    def cloneSystemState(self) -> Any: ...
    def restoreSystemState(self, state: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class AtariGame:
    """One Atari game; an observation is a single grey frame [84, 84, 1] uint8.

    A step repeats its action for some emulator frames and shows the maximum of the last two, made smaller. The need
    to press fire is not treated in any way. An episode is cut off at ``max_frames``.

    Attributes:
      game: name of the ROM, such as ``ms_pacman``.
      sticky: whether each emulator frame repeats the frame before's action with probability 0.25.
      full_action_space: whether there are 18 actions, or those alone that the game takes notice of.
      max_noops: an episode begins with up to so many frames without action, their number drawn uniformly from 0.
      frame_skip: emulator frames of a step.
      max_frames: limit of an episode, in emulator frames, those without action included.
      clip_rewards: whether rewards are their signs.
      end_with_life: whether a lost life terminates an episode, as in Mnih et al. (2015); the next one goes on with the
        game, and only the one after the last life begins another. Returns are then those of lives.
    """

    game: str
    sticky: bool = True
    full_action_space: bool = True
    max_noops: int = 0
    frame_skip: int = 4
    max_frames: int = 108_000
    clip_rewards: bool = False
    end_with_life: bool = False

    def __post_init__(self) -> None:
        refuse_unknown_game(self.game)
        if self.max_noops < 0:
            raise ValueError(f"max_noops must not be negative, got {self.max_noops}")
        if self.frame_skip < 1:
            raise ValueError(f"frame_skip must be at least 1, got {self.frame_skip}")
        if self.max_frames < self.max_noops + self.frame_skip:
            raise ValueError(
                f"max_frames {self.max_frames} leaves no step after max_noops {self.max_noops} "
                f"with frame_skip {self.frame_skip}"
            )

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec(
            observation_shape=(SIZE, SIZE, 1), num_actions=len(self.actions), observation_dtype="uint8"
        )

    @property
    def actions(self) -> tuple[int, ...]:
        """The emulator's number of each action."""
        return tuple(range(NUM_ACTIONS)) if self.full_action_space else _minimal_actions(self.game)

    def open(self, seed: Sequence[int]) -> AtariStream:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(seed))))
        return AtariStream(self, _emulator(self.game), generator)


class AtariStream:
    """One emulator, and the randomness that is kept out of it.

    The emulator's own sticky actions do not survive its being saved, so it runs without them, one frame at a time, and
    the stream draws for each frame whether the action before is repeated.
    """

    def __init__(self, game: AtariGame, emulator: Emulator, generator: np.random.Generator) -> None:
        self._game, self._emulator, self._generator = game, emulator, generator
        self._actions = game.actions
        self._previous = NOOP
        self._frames = 0
        self._goes_on = False  # Whether the game goes on with the next episode.
        shape = emulator.getScreenDims()
        self._screens = [np.empty(shape, np.uint8), np.empty(shape, np.uint8)]
        self._shrink = Shrinking.between(shape, (SIZE, SIZE))

    def reset(self) -> np.ndarray:
        if not self._goes_on:
            self._begin_game()
        self._goes_on = False
        screen = self._screens[1]
        self._emulator.getScreenGrayscale(screen)
        return self._shrink(screen)[..., None]

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool]:
        game, emulator, wanted = self._game, self._emulator, self._actions[action]
        repeats = (self._generator.random(game.frame_skip) < REPEAT_PROBABILITY).tolist() if game.sticky else None
        reward, over, before_last, lives = 0, False, False, emulator.lives()
        for frame in range(game.frame_skip):
            if repeats is None or not repeats[frame]:
                self._previous = wanted
            reward += emulator.act(self._previous)
            self._frames += 1
            over = emulator.game_over(with_truncation=False)
            if over or self._frames >= game.max_frames:
                break
            if frame == game.frame_skip - 2:
                emulator.getScreenGrayscale(self._screens[0])
                before_last = True
        earlier, latest = self._screens
        emulator.getScreenGrayscale(latest)
        if before_last:
            np.maximum(earlier, latest, out=latest)
        shown = float(np.sign(reward)) if game.clip_rewards else float(reward)
        cut_off = not over and self._frames >= game.max_frames
        self._goes_on = game.end_with_life and not over and not cut_off and emulator.lives() < lives
        return self._shrink(latest)[..., None], shown, over or self._goes_on, cut_off

    def snapshot(self) -> bytes:
        state = self._emulator.cloneSystemState()
        random = self._generator.bit_generator.state
        return zlib.compress(pickle.dumps((state, self._previous, self._frames, self._goes_on, random)), level=1)

    def restore(self, snapshot: bytes) -> None:
        state, self._previous, self._frames, self._goes_on, random = pickle.loads(zlib.decompress(snapshot))
        self._emulator.restoreSystemState(state)
        self._generator.bit_generator.state = random

    def close(self) -> None:
        """Nothing: the emulator goes with the stream."""

    def _begin_game(self) -> None:
        """A new game, after some frames without action where that is asked for."""
        self._begin()
        if self._game.max_noops:
            for _ in range(int(self._generator.integers(self._game.max_noops + 1))):
                self._emulator.act(NOOP)
                self._frames += 1
                if self._emulator.game_over(with_truncation=False):
                    self._begin()

    def _begin(self) -> None:
        self._emulator.reset_game()
        self._previous, self._frames = NOOP, 0


@dataclasses.dataclass(frozen=True, eq=False)
class Shrinking:
    """Makes grey frames smaller; each pixel of the result is the mean over the area it covers, ties rounded to even.

    What OpenCV calls INTER_AREA. The weights are whole numbers, so that all sums are exact in float32 and every machine
    shows the same pixels. Rows are few sums of whole rows; columns are the product with one block of a matrix that
    repeats itself along the diagonal. The full matrices would take several times as long.

    Attributes:
      rows: of the frame that a row of the result covers [C, size] int.
      row_weights: how much of each it covers [C, size] float32.
      block: the weights of the columns, as far as they do not repeat [columns / n, size / n] float32.
      area: sum of the weights of one pixel of the result.
    """

    rows: np.ndarray
    row_weights: np.ndarray
    block: np.ndarray
    area: np.float32

    @classmethod
    @functools.lru_cache
    def between(cls, source: tuple[int, int], target: tuple[int, int]) -> Shrinking:
        """From frames of one size, in rows and columns, to another."""
        rows, row_weights = _cover(source[0], target[0])
        blocks = math.gcd(source[1], target[1])
        block = _overlaps(source[1] // blocks, target[1] // blocks).astype(np.float32)
        return cls(rows, row_weights, block, row_weights[:, 0].sum() * block[:, 0].sum())

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """From frames [rows, columns] uint8 to the smaller size, uint8."""
        tall = np.einsum("crw,cr->rw", frame[self.rows].astype(np.float32), self.row_weights)
        sums = (tall.reshape(-1, len(self.block)) @ self.block).reshape(len(tall), -1)
        return np.rint(sums / self.area).astype(np.uint8)


def _overlaps(source: int, target: int) -> np.ndarray:
    """How far each of ``target`` equal parts covers each of ``source`` pixels, in whole numbers [source, target]."""
    parts, pixels = np.arange(target) * source, np.arange(source)[:, None] * target
    overlaps = np.minimum(parts + source, pixels + target) - np.maximum(parts, pixels)
    return np.clip(overlaps, 0, None) // math.gcd(source, target)


def _cover(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``source`` pixels each of ``target`` equal parts covers, and how far, in whole numbers [C, target]."""
    overlaps = _overlaps(source, target)
    covered = int((overlaps > 0).sum(axis=0).max())
    # At the far edge a part may cover fewer: it begins earlier, with pixels of weight 0.
    first = np.minimum((overlaps > 0).argmax(axis=0), source - covered)
    chosen = first + np.arange(covered)[:, None]
    return chosen, np.take_along_axis(overlaps, chosen, axis=0).astype(np.float32)


def refuse_unknown_game(game: str) -> None:
    """Looks a game up among the ROMs.

    Raises:
      ValueError: it is not there.
    """
    if game in ATARI57:
        return
    known = PACKAGE.module("ale_py.roms").get_all_rom_ids()  # Half a second that other suites need not spend.
    if game not in known:
        guess = did_you_mean(closest(game, known))
        raise ValueError(f"there is no Atari game '{game}'; games are named as in ms_pacman.{guess}")


def _emulator(game: str) -> Any:
    ale_py, roms = PACKAGE.module(), PACKAGE.module("ale_py.roms")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # Else a banner for each stream.
    emulator = ale_py.ALEInterface()
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.setInt("random_seed", 0)  # Without sticky actions of its own nothing depends on it.
    emulator.loadROM(roms.get_rom_path(game))
    return emulator


@functools.lru_cache
def _minimal_actions(game: str) -> tuple[int, ...]:
    return tuple(action.value for action in _emulator(game).getMinimalActionSet())
