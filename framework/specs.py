"""Shapes and sizes that networks and rules are built for."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class Resume(enum.Enum):
    """How environments outside the device go on from a snapshot, in words."""

    EXACTLY = "exactly where they were"
    REPLAYS = "exactly where they were, after playing their episodes' actions again"
    NEW_EPISODE = "with new episodes: their states cannot be saved"


def resume_of(environment: Any) -> Resume:
    """How streams of an environment go on from a snapshot; exactly, unless it says otherwise by ``resumes``."""
    resume: Resume = getattr(environment, "resumes", Resume.EXACTLY)
    return resume


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """An array of an observation.

    Attributes:
      shape: without batch axes.
      dtype: its NumPy name.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """What an agent must know of an environment.

    An observation is one array, or, where there are ``parts``, a dictionary of arrays.

    Attributes:
      observation_shape: of one observation, without batch axes; ``()`` where it has parts.
      num_actions: number of discrete actions.
      observation_dtype: its NumPy name.
      num_states: number of states, where an observation is a state's index; ``None`` for all others.
      episode_numbers: what an episode is measured by besides its return and length; metrics tell the means over
        episodes under these names, ``group/name``.
      parts: (name, array) of each array of a dictionary; see `of_parts`.
    """

    observation_shape: tuple[int, ...]
    num_actions: int
    observation_dtype: str = "float32"
    num_states: int | None = None
    episode_numbers: tuple[str, ...] = ()
    parts: tuple[tuple[str, ArraySpec], ...] = ()

    @classmethod
    def of_parts(
        cls, parts: Mapping[str, ArraySpec], num_actions: int, episode_numbers: tuple[str, ...] = ()
    ) -> EnvironmentSpec:
        """An environment whose observations are dictionaries of arrays."""
        return cls((), num_actions, episode_numbers=episode_numbers, parts=tuple(parts.items()))

    @property
    def observation(self) -> ArraySpec | dict[str, ArraySpec]:
        """The array that an observation is, or the arrays that it is made of, by name."""
        return dict(self.parts) if self.parts else ArraySpec(self.observation_shape, self.observation_dtype)

    def arrays(self, make: Callable[[ArraySpec], T]) -> T | dict[str, T]:
        """Something made for the array of an observation, or for each of its arrays, by name."""
        return map_parts(make, self.observation)

    @property
    def shown(self) -> str:
        """What observations are, in words."""
        return described(self.observation)


def map_parts(do: Callable[..., Any], first: Any, *others: Any) -> Any:
    """What a function makes of an observation: of the array, or of each array of a dictionary; needs no JAX."""
    if isinstance(first, Mapping):
        return {name: do(part, *(other[name] for other in others)) for name, part in first.items()}
    return do(first, *others)


def form(array: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of an array: what must agree between observations and their specification, fast to compare."""
    return array.shape, array.dtype


def spec_of(observation: Any) -> ArraySpec | dict[str, ArraySpec]:
    """Shapes and dtypes of an observation, or of whatever has them."""
    arrays: ArraySpec | dict[str, ArraySpec] = map_parts(lambda x: ArraySpec(tuple(x.shape), x.dtype.name), observation)
    return arrays


def described(arrays: ArraySpec | Mapping[str, ArraySpec]) -> str:
    """Arrays in words, such as ``uint8[84, 84, 1]`` or ``glyphs int16[21, 79], message uint8[256]``."""
    if isinstance(arrays, Mapping):
        return ", ".join(f"{name} {array}" for name, array in arrays.items())
    return str(arrays)
