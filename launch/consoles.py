"""How tables are printed."""

from __future__ import annotations

from rich.console import Console

_ENDLESS = 10_000


def wide_console() -> Console:
    """Fits a terminal; in a file or a pipe a row is a line, however long it is."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_ENDLESS)
