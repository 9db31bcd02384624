"""Errors that tell a user what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something outside the code is wrong; the message says in words what, where, and what to do about it."""


class EpisodeLostError(Exception):
    """An episode that a stream of environments was in the middle of cannot be gone on with; another one can begin."""


def check_named(what: str, names: Sequence[str]) -> None:
    """Refuses a list of names that has none, or one of them twice.

    Args:
      what: the parameter that lists them.
      names: what it lists.

    Raises:
      ValueError: it is refused.
    """
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{what} must be named, and each once, got {names}")


def closest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that ``name`` is most likely a misspelling of, if any is close."""
    lowered = {candidate.lower(): candidate for candidate in sorted(candidates, reverse=True) if candidate != name}
    matches = difflib.get_close_matches(name.lower(), lowered, n=1)
    return lowered[matches[0]] if matches else None


def did_you_mean(guess: str | None) -> str:
    """The end of a message: empty without a guess."""
    return f" Did you mean '{guess}'?" if guess else ""
