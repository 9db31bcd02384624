"""Gymnasium's environments as streams that can be stopped, saved and continued."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from components.streams.gymnasium_spaces import Spaces
from components.streams.gymnasium_streams import ReplayedStream, SavedStream, digest_of
from framework.errors import UserError, closest, did_you_mean
from framework.requirements import Requirement
from framework.specs import EnvironmentSpec, Resume

if TYPE_CHECKING:
    from framework.interfaces import HostStream

PACKAGE = Requirement.of_install("gymnasium")


@dataclasses.dataclass(frozen=True)
class GymnasiumEnvironment:
    """A registered environment of Gymnasium with discrete actions; see `Spaces` for what observations are.

    Its streams are saved whole where the environment pickles whole. Where it does not, they play the actions of the
    running episode again; and where it does not repeat itself from a seed either, they begin new episodes. Which of
    these holds is tried out on its first steps.

    Attributes:
      id: its name in Gymnasium's registry, ``module:name`` for those that a module of one's own registers.
      max_steps: limit of an episode, in steps; ``None`` for the registered one.
    """

    id: str
    max_steps: int | None = None

    @property
    def spec(self) -> EnvironmentSpec:
        return _spec(self.id, self.max_steps)

    @property
    def resumes(self) -> Resume:
        return _resumes(self)

    @property
    def seeded(self) -> bool:
        """Whether it repeats itself from a seed."""
        return self.resumes is not Resume.NEW_EPISODE

    def open(self, seed: Sequence[int]) -> SavedStream | ReplayedStream:
        if self.resumes is Resume.EXACTLY:
            return self.open_saved(seed)
        return self.open_replayed(seed, repeats=self.seeded)

    def open_saved(self, seed: Sequence[int]) -> SavedStream:
        """A stream whose snapshots hold the environment."""
        return SavedStream(*self._made(), np.random.SeedSequence(list(seed)))

    def open_replayed(self, seed: Sequence[int], *, repeats: bool = True) -> ReplayedStream:
        """A stream whose snapshots hold what leads to where the environment is, if it repeats itself."""
        return ReplayedStream(*self._made(), np.random.SeedSequence(list(seed)), repeats=repeats)

    def _made(self) -> tuple[Any, Spaces]:
        environment = _make(self.id, self.max_steps)
        return environment, Spaces.of(self.id, environment)


_TRIED = 20
"""Steps in which it is tried out how streams of an environment can go on."""


@functools.lru_cache
def _resumes(environment: GymnasiumEnvironment) -> Resume:
    """How streams of an environment go on from a snapshot, tried out on its first steps.

    Raises:
      UserError: the environment cannot be made, or a step of it fails.
    """
    actions = np.random.default_rng(0).integers(environment.spec.num_actions, size=2 * _TRIED).tolist()
    try:
        if _goes_on(environment, actions):
            return Resume.EXACTLY
        return Resume.REPLAYS if _repeats_itself(environment, actions) else Resume.NEW_EPISODE
    except UserError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"Gymnasium's {environment.id} fails in its first steps, in {place.filename}, line {place.lineno}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _goes_on(environment: GymnasiumEnvironment, actions: Sequence[int]) -> bool:
    """Whether a pickle of the environment is all of it: it plays on as the environment itself does."""
    with contextlib.closing(environment.open_saved((0,))) as stream:
        if stream.holds_arguments_only:
            return False
        _play(stream, actions[:_TRIED], begin=True)
        try:
            snapshot = stream.snapshot()
        except UserError:
            return False
        expected = _play(stream, actions[_TRIED:])
        with contextlib.closing(environment.open_saved((1,))) as other:
            try:
                other.restore(snapshot)
            except Exception:  # Whatever a class does that was not made to be read from a pickle.
                return False
            return _play(other, actions[_TRIED:]) == expected


def _repeats_itself(environment: GymnasiumEnvironment, actions: Sequence[int]) -> bool:
    """Whether two streams from one seed play the same."""
    played = []
    for _ in range(2):
        with contextlib.closing(environment.open_replayed((0,))) as stream:
            played.append(_play(stream, actions, begin=True))
    return played[0] == played[1]


def _play(stream: HostStream, actions: Sequence[int], *, begin: bool = False) -> list[Any]:
    """What a stream shows, in a form that can be compared."""
    played: list[Any] = [digest_of(stream.reset())] if begin else []
    for action in actions:
        observation, *others = stream.step(action)
        played.append((digest_of(observation), *others))
        if any(others[1:]):
            played.append(digest_of(stream.reset()))
    return played


def refuse_unknown_id(name: str) -> None:
    """Looks an environment up in Gymnasium's registry.

    Raises:
      ValueError: it is not there, or the module that registers it cannot be imported.
      UserError: Gymnasium is not installed.
    """
    gymnasium = PACKAGE.module()  # Half a second that other suites need not spend.
    if not name:
        raise ValueError("id is empty: name an environment of Gymnasium, such as CartPole-v1")
    module, _, own = name.rpartition(":")
    if module:
        _import(module)  # It registers what it has.
    try:
        gymnasium.spec(own)
    except gymnasium.error.Error as error:
        if isinstance(error, gymnasium.error.NamespaceNotFound):
            guess = " An id that a package registers is named with the package, as in ale_py:ALE/Pong-v5."
        else:
            likely = closest(own, gymnasium.registry)
            guess = did_you_mean(f"{module}:{likely}" if module and likely else likely)
        # Gymnasium's own guesses are without the version that an id has.
        reason = "" if guess else f" ({error})"
        raise ValueError(f"Gymnasium has no environment '{name}'{reason}.{guess}") from error


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:  # Whatever somebody's own module does wrong.
        raise ValueError(f"the module {module} cannot be imported: {type(error).__name__}: {error}") from error


def _make(name: str, max_steps: int | None) -> Any:
    gymnasium = PACKAGE.module()
    try:
        return gymnasium.make(name, max_episode_steps=max_steps, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f"Gymnasium's {name} cannot be made: {error}") from error
    except Exception as error:  # Whatever the constructor of somebody's own environment does wrong.
        raise UserError(f"Gymnasium's {name} cannot be made: {type(error).__name__}: {error}") from error


@functools.lru_cache
def _spec(name: str, max_steps: int | None) -> EnvironmentSpec:
    with contextlib.closing(_make(name, max_steps)) as environment:
        return Spaces.of(name, environment).spec
