"""Gymnasium's environments with discrete actions, on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from components.streams.gymnasium import GymnasiumEnvironment, refuse_unknown_id
from components.suites.without_levels import WithoutLevels
from framework.registry import component


@component("suites")
@dataclasses.dataclass(frozen=True)
class Gymnasium(WithoutLevels):
    """One environment of Gymnasium's: observations are Boxes, categories or a dictionary of these, actions discrete.

    Where its state cannot be saved, a run that is resumed plays the actions of running episodes again, if the
    environment repeats itself from a seed; else it begins new episodes.

    Attributes:
      id: its name in Gymnasium's registry, ``module:name`` for those that a module of one's own registers.
      max_steps: limit of an episode, in steps; ``None`` for the registered one.
    """

    id: str = "CartPole-v1"
    max_steps: int | None = None

    def __post_init__(self) -> None:
        refuse_unknown_id(self.id)
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps must be positive, or None for the registered limit, got {self.max_steps}")

    def tasks(self) -> Sequence[str]:
        return (self.id,)

    def environment(self, task: str) -> GymnasiumEnvironment:
        return GymnasiumEnvironment(task, self.max_steps)
