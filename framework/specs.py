"""Shapes and sizes that networks and rules are built for."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """What an agent must know of an environment.

    Attributes:
      observation_shape: of one observation, without batch axes.
      num_actions: number of discrete actions.
      observation_dtype: its NumPy name.
      num_states: number of states, where an observation is a state's index; ``None`` for all others.
      episode_numbers: what an episode is measured by besides its return and length; metrics tell the means over
        episodes under these names, ``group/name``.
    """

    observation_shape: tuple[int, ...]
    num_actions: int
    observation_dtype: str = "float32"
    num_states: int | None = None
    episode_numbers: tuple[str, ...] = ()
