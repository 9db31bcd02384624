"""Picking the levels of a suite by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from framework.errors import closest, did_you_mean


class Named(Protocol):
    @property
    def name(self) -> str: ...


L = TypeVar("L", bound=Named)


def named(levels: Sequence[L], name: str) -> L:
    """The level of a name.

    Raises:
      ValueError: there is none.
    """
    (level,) = selected(levels, "", (name,))
    return level


def selected(levels: Sequence[L], prefix: str, names: Sequence[str] | None) -> tuple[L, ...]:
    """The levels of some names, given without the prefix that they share; all if none are given.

    Raises:
      ValueError: a name stands for no level, or none is left.
    """
    if names is None:
        return tuple(levels)
    if not names:
        raise ValueError("names must list at least one task, or be None for all of them")
    known = {level.name.removeprefix(prefix): level for level in levels}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no task '{name}', only {', '.join(known)}.{did_you_mean(closest(name, known))}")
    return tuple(known[name] for name in names)
