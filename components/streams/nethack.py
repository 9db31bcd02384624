"""NetHack as streams of the NetHack Learning Environment (Küttler et al., 2020)."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from framework.errors import check_named
from framework.requirements import Requirement
from framework.specs import ArraySpec, EnvironmentSpec, Resume

PACKAGE = Requirement.of_extra("nle", "nethack")

OBSERVATION = {
    "glyphs": ArraySpec((21, 79), "int16"),
    "chars": ArraySpec((21, 79), "uint8"),
    "colors": ArraySpec((21, 79), "uint8"),
    "blstats": ArraySpec((27,), "int32"),
    "message": ArraySpec((256,), "uint8"),
}
"""What can be observed: the map in three ways, the numbers of the bottom line, the top line."""

NEVER = 2**31
"""As a limit of the package's own, for which it quits the game, shows what comes then, and calls it a termination. It
also counts steps without game time twice (version 1.3.0). Episodes are cut off here instead."""


@dataclasses.dataclass(frozen=True)
class NetHackTask:
    """A task of the NetHack Learning Environment; observations are dictionaries.

    Death, and whatever else ends a game, terminates an episode; limits cut it off.

    Attributes:
      challenge: whether it is the NetHack Challenge's (121 keys, a random role, menus are the agent's own) or the score
        task (23 actions, a human monk, menus are passed over, -0.01 for a step without game time).
      max_steps: limit of an episode, in steps.
      no_progress_steps: limit of steps in which no game time passes; ``None`` for none.
      seeded: whether games come from the stream's seed. The official challenge refuses any.
      observed: what is observed, of glyphs, chars, colors, blstats, message.
    """

    challenge: bool
    max_steps: int
    no_progress_steps: int | None
    seeded: bool
    observed: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("max_steps", "no_progress_steps"):
            if (limit := getattr(self, name)) is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, got {limit}")
        check_named("observed", self.observed)
        for name in self.observed:
            if name not in OBSERVATION:
                raise ValueError(f"observed has '{name}', and there are only {', '.join(OBSERVATION)}")

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec.of_parts(
            {name: OBSERVATION[name] for name in self.observed}, num_actions=121 if self.challenge else 23
        )

    @property
    def resumes(self) -> Resume:
        return Resume.REPLAYS if self.seeded else Resume.NEW_EPISODE

    def open(self, seed: Sequence[int]) -> NetHackStream:
        return NetHackStream(self, _environment(self), np.random.SeedSequence(list(seed)))


class NetHackStream:
    """One game after another.

    The game's state cannot be saved: a snapshot holds its seeds and the actions since it began, and restoring it plays
    them again. Where games are not seeded a restored stream begins a new one.
    """

    def __init__(self, task: NetHackTask, environment: Any, seeds: np.random.SeedSequence) -> None:
        self._task, self._environment = task, environment
        self._generator = np.random.Generator(np.random.PCG64(seeds))
        self._before = self._generator.bit_generator.state
        # What was done since the game began, and how much it was; only the actions of games with a seed are needed.
        self._actions: list[int] | None = None
        self._steps, self._idle, self._time = 0, 0, 0

    def reset(self) -> dict[str, np.ndarray]:
        self._before, self._actions = self._generator.bit_generator.state, []
        self._steps = self._idle = 0
        if self._task.seeded:
            core, display = self._generator.integers(2**31, size=2).tolist()
            self._environment.seed(core, display, reseed=False)
        observation, _ = self._environment.reset()
        self._time = int(observation["blstats"][_TIME])
        return self._copied(observation)

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool]:
        assert self._actions is not None
        self._steps += 1
        if self._task.seeded:
            self._actions.append(action)
        observation, reward, over, _, _ = self._environment.step(action)
        time = int(observation["blstats"][_TIME])
        self._idle, self._time = (self._idle + 1 if time == self._time else 0), time
        limit = self._task.no_progress_steps
        stuck = limit is not None and self._idle >= limit
        cut_off = not over and (stuck or self._steps >= self._task.max_steps)
        return self._copied(observation), float(reward), bool(over), cut_off

    def snapshot(self) -> bytes:
        actions = None if self._actions is None else np.array(self._actions, np.uint8).tobytes()
        return pickle.dumps((self._before, actions if self._task.seeded else None), protocol=4)

    def restore(self, snapshot: bytes) -> None:
        self._generator.bit_generator.state, actions = pickle.loads(snapshot)
        self._before, self._actions = self._generator.bit_generator.state, None
        if actions is not None:
            self.reset()
            for action in actions:
                self.step(action)

    def close(self) -> None:
        self._environment.close()

    def _copied(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        # The game writes the next observation to the same memory.
        return {name: np.array(observation[name], OBSERVATION[name].dtype) for name in self._task.observed}


_TIME = 20
"""Where the bottom line's numbers have the game time."""


def _environment(task: NetHackTask) -> Any:
    """A game; the limits of the package's own never apply."""
    tasks = PACKAGE.module("nle.env.tasks")
    settings = {
        "observation_keys": tuple(OBSERVATION),
        "save_ttyrec_every": 0,
        "max_episode_steps": NEVER,
        # Else the moon and the hour of the day have a part in the game.
        "fix_moon_phase": task.seeded,
    }
    if not task.challenge:
        return tasks.NetHackScore(**settings)
    challenge = _seedable_challenge() if task.seeded else tasks.NetHackChallenge
    return challenge(no_progress_timeout=NEVER, **settings)


@functools.cache
def _seedable_challenge() -> type:
    """The NetHack Challenge's task, which refuses seeds, without that refusal."""
    tasks = PACKAGE.module("nle.env.tasks")

    class SeedableChallenge(tasks.NetHackChallenge):  # type: ignore[name-defined]
        def seed(self, core: int, disp: int, reseed: bool = False) -> None:
            # The instance's own attribute of this name is what refuses.
            type(self.nethack).set_initial_seeds(self.nethack, core, disp, reseed)

    return SeedableChallenge
