"""DeepMind Lab's levels as streams of the package ``deepmind_lab`` (Beattie et al., 2016)."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from framework.requirements import Requirement
from framework.specs import EnvironmentSpec, Resume

PACKAGE = Requirement("deepmind_lab", "it has to be built, see https://github.com/google-deepmind/lab")

ROWS, COLUMNS = 72, 96
"""Of an observation, as Espeholt et al. (2018) train on."""

_OBSERVATION = "RGB_INTERLEAVED"

CONTROLS = (
    "LOOK_LEFT_RIGHT_PIXELS_PER_FRAME",
    "LOOK_DOWN_UP_PIXELS_PER_FRAME",
    "STRAFE_LEFT_RIGHT",
    "MOVE_BACK_FORWARD",
    "FIRE",
    "JUMP",
    "CROUCH",
)
"""What an action sets, in this order."""

ACTIONS = (
    (0, 0, 0, 1, 0, 0, 0),  # forward
    (0, 0, 0, -1, 0, 0, 0),  # backward
    (0, 0, -1, 0, 0, 0, 0),  # strafe left
    (0, 0, 1, 0, 0, 0, 0),  # strafe right
    (-20, 0, 0, 0, 0, 0, 0),  # look left
    (20, 0, 0, 0, 0, 0, 0),  # look right
    (-20, 0, 0, 1, 0, 0, 0),  # forward and look left
    (20, 0, 0, 1, 0, 0, 0),  # forward and look right
    (0, 0, 0, 0, 1, 0, 0),  # fire
)
"""The 9 discrete actions of Espeholt et al. (2018), appendix D, in this order."""


_MIXER_SEED = 0x600D5EED
"""What Espeholt et al. (2018) mix the seeds of test levels with."""


@dataclasses.dataclass(frozen=True)
class LabLevel:
    """A level of DeepMind Lab; an observation is an image [72, 96, 3] uint8, an action one of 9.

    Time that has run out is a termination, as in Espeholt et al. (2018): the package tells no limit apart, and shows
    nothing after the last step. Instructions, which some levels give as text, are not observed.

    Attributes:
      level: path of its script, such as ``contributed/dmlab30/rooms_watermaze``.
      frame_skip: frames for which an action is repeated.
      held_out: whether it is the level of the test: what is generated differs from all that training shows.
    """

    level: str
    frame_skip: int = 4
    held_out: bool = False

    resumes = Resume.NEW_EPISODE

    def __post_init__(self) -> None:
        if self.frame_skip < 1:
            raise ValueError(f"frame_skip must be at least 1, got {self.frame_skip}")

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec(
            observation_shape=(ROWS, COLUMNS, 3), num_actions=len(ACTIONS), observation_dtype="uint8"
        )

    def open(self, seed: Sequence[int]) -> LabStream:
        config = {"width": str(COLUMNS), "height": str(ROWS)}
        if self.held_out:
            config |= {"allowHoldOutLevels": "true", "mixerSeed": str(_MIXER_SEED)}
        lab = PACKAGE.module().Lab(self.level, [_OBSERVATION], config=config)
        return LabStream(self, lab, np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(seed)))))


class LabStream:
    """One lab, whose episodes are seeded one by one.

    Its state cannot be saved: a snapshot holds the generator of seeds, and a restored stream begins a new episode.
    """

    def __init__(self, level: LabLevel, lab: Any, generator: np.random.Generator) -> None:
        self._level, self._lab, self._generator = level, lab, generator
        names = [control["name"] for control in lab.action_spec()]
        order = [CONTROLS.index(name) for name in names]
        self._actions = [np.array([action[index] for index in order], np.intc) for action in ACTIONS]
        self._shown = np.zeros((ROWS, COLUMNS, 3), np.uint8)

    def reset(self) -> np.ndarray:
        self._lab.reset(seed=int(self._generator.integers(1, 2**31 - 1)))
        return self._observation()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool]:
        reward = float(self._lab.step(self._actions[action], num_steps=self._level.frame_skip))
        over = not self._lab.is_running()
        return (self._shown.copy() if over else self._observation()), reward, over, False

    def snapshot(self) -> bytes:
        return pickle.dumps(self._generator.bit_generator.state, protocol=4)

    def restore(self, snapshot: bytes) -> None:
        self._generator.bit_generator.state = pickle.loads(snapshot)

    def close(self) -> None:
        self._lab.close()

    def _observation(self) -> np.ndarray:
        # The lab writes the next picture to the same memory.
        self._shown = np.array(self._lab.observations()[_OBSERVATION], np.uint8)
        return self._shown
