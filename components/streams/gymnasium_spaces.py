"""What Gymnasium's spaces are to an agent: arrays of an observation, numbers of actions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from framework.errors import UserError
from framework.host_environments.arrays import Observation
from framework.specs import ArraySpec, EnvironmentSpec, map_parts

SUPPORTED = (
    "supported are observations of Box or Discrete spaces, or of a Dict of these, and Discrete actions: choose another "
    "environment, or wrap this one (gymnasium.wrappers.FlattenObservation makes one Box of nested spaces) and register "
    "it under a name of its own"
)


@dataclasses.dataclass(frozen=True)
class Translation:
    """One array of an observation, from what Gymnasium shows.

    Boxes keep the dtype uint8 and are float32 otherwise, single numbers are vectors of one; one of n categories is a
    vector of n with a 1.

    Attributes:
      array: what it is to an agent.
      categories: of a Discrete space; ``None`` for a Box.
      first: of the categories.
    """

    array: ArraySpec
    categories: int | None = None
    first: int = 0

    @classmethod
    def of(cls, space: Any) -> Translation | None:
        """That of a space; none where it is neither a Box nor Discrete."""
        from gymnasium import spaces

        if isinstance(space, spaces.Box):
            return cls(ArraySpec(space.shape or (1,), "uint8" if space.dtype == np.uint8 else "float32"))
        if isinstance(space, spaces.Discrete):
            return cls(ArraySpec((int(space.n),)), int(space.n), int(space.start))
        return None

    def __call__(self, shown: Any) -> np.ndarray:
        """A copy, which no later step changes."""
        if self.categories is None:
            array = np.array(shown, self.array.dtype)
            return array.reshape(1) if array.ndim == 0 else array
        row = np.zeros(self.categories, np.float32)
        row[int(shown) - self.first] = 1.0
        return row


@dataclasses.dataclass(frozen=True)
class Spaces:
    """The spaces of an environment.

    Attributes:
      parts: the array that an observation is, or the arrays that it is made of, by name.
      num_actions, first_action: the actions, as Gymnasium numbers them.
    """

    parts: Translation | Mapping[str, Translation]
    num_actions: int
    first_action: int

    @classmethod
    def of(cls, name: str, environment: Any) -> Spaces:
        """Those of Gymnasium's environment of a name.

        Raises:
          UserError: they are of other kinds than the supported ones.
        """
        from gymnasium import spaces

        observation, action = environment.observation_space, environment.action_space
        if not isinstance(action, spaces.Discrete):
            raise UserError(f"Gymnasium's {name} has actions {action}; {SUPPORTED}")
        parts: dict[str, Translation] = {}
        of_parts = observation.spaces if isinstance(observation, spaces.Dict) else {"": observation}
        for part, space in of_parts.items():
            translation = Translation.of(space)
            if translation is None or not isinstance(part, str):
                where = f"observations {observation}" if part == "" else f"in its observations {part!r}, {space}"
                raise UserError(f"Gymnasium's {name} has {where}; {SUPPORTED}")
            parts[part] = translation
        return cls(
            parts if isinstance(observation, spaces.Dict) else parts[""],
            num_actions=int(action.n),
            first_action=int(action.start),
        )

    @property
    def spec(self) -> EnvironmentSpec:
        if isinstance(self.parts, Translation):
            array = self.parts.array
            return EnvironmentSpec(array.shape, self.num_actions, observation_dtype=array.dtype)
        return EnvironmentSpec.of_parts({name: part.array for name, part in self.parts.items()}, self.num_actions)

    def shown(self, observation: Any) -> Observation:
        """An observation, as an agent is shown it."""
        return map_parts(lambda translation, part: translation(part), self.parts, observation)
