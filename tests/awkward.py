"""Values that shells, services and parsers like to change."""

from __future__ import annotations

from typing import Any

VALUES: tuple[Any, ...] = (
    "two words", "it's", 'say "x"', "$HOME $(HOME) $$", "back\\slash\\n", "line\nbreak", "a=b,c;d", "--flag", "ü", "",
    "@", None, True, [1, 2.5, "x y"], ("$(A)",), {"k": [None]}, float("inf"), -1e-30,
)  # fmt: skip
BINDINGS = {f"VALUE_{number}": value for number, value in enumerate(VALUES)}
