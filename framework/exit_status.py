"""Exit statuses of the command, on which scripts may rely."""

from __future__ import annotations

OK = 0

FAILED = 1
"""With the reason in words."""

WRONG_USAGE = 2

INTERRUPTED = 130
"""By Ctrl-C or a signal; a run has saved its state."""
