"""Sokoban on levels of our own, and on Boxoban's where a user has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax.numpy as jnp

from components.suites.boxoban_files import level_files, levels_of_folder
from components.suites.sokoban_environment import SokobanEnvironment
from components.suites.sokoban_generator import generated_levels
from framework.registry import component
from framework.types import Array


@component("suites")
@dataclasses.dataclass(frozen=True)
class Sokoban:
    """Sokoban of 10 x 10 cells: each episode is on a level drawn from a pool, which the agent holds (100 bytes each).

    Generated levels are not Boxoban's: scores on the two are different ones.

    Attributes:
      split: which of two series of generated levels, that share none.
      num_levels: size of the pool; with a folder, its first so many levels, or all of them if not given.
      num_boxes: of a generated level; 4 in Racanière et al. (2017).
      max_steps: limit of an episode, in steps; generated levels can be solved within.
      folder: of Boxoban level files (``*.txt``), such as ``boxoban-levels/unfiltered/train``, to be used instead.
    """

    split: Literal["train", "test"] = "train"
    num_levels: int | None = None
    num_boxes: int = 4
    max_steps: int = 120
    folder: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("num_levels", 1), ("num_boxes", 1), ("max_steps", 20)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.num_boxes > 6:
            raise ValueError(f"num_boxes must be at most 6, got {self.num_boxes}: there are few rooms for more")
        if self.folder is None:
            return
        if not level_files(self.folder):
            missing = "holds no file *.txt" if self.folder.is_dir() else "does not exist"
            raise ValueError(f"folder {self.folder} {missing}: name one of Boxoban's, or leave it out")
        for name in ("split", "num_boxes"):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(f"{name} has no meaning for levels from a folder: leave it out")

    def tasks(self) -> Sequence[str]:
        return (f"sokoban_{self.split}" if self.folder is None else f"boxoban_{self.folder.resolve().name}",)

    def environment(self, task: str) -> SokobanEnvironment:
        return SokobanEnvironment(self.max_steps)

    def level(self, task: str) -> Array:
        if self.folder is not None:
            return jnp.asarray(levels_of_folder(self.folder.resolve(), self.num_levels))
        count = 1000 if self.num_levels is None else self.num_levels
        return generated_levels(self.split, count, boxes=self.num_boxes, max_steps=self.max_steps)
