"""What is wrong with a config, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from framework.errors import UserError

COMMAND_LINE = "command line"


@dataclasses.dataclass(frozen=True, order=True)
class Mistake:
    """One thing that is wrong; ``line`` 0 stands for the whole file, and counts arguments on the command line."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        has_line = self.line > 0 and self.file != COMMAND_LINE
        return f"{self.file}:{self.line}: {self.message}" if has_line else f"{self.file}: {self.message}"


class ConfigError(UserError):
    """A config that cannot be used: all its mistakes, sorted by file and line."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(sorted(set(mistakes)))
        super().__init__("\n".join(map(str, self.mistakes)))


@dataclasses.dataclass(frozen=True)
class Place:
    """Where something is written: a line of a file, or an argument of the command line."""

    file: str
    line: int
    argument: str = ""

    def at(self, line: int) -> Place:
        """Another line of the same file; an argument has one line only."""
        return self if self.argument else dataclasses.replace(self, line=line)

    def mistake(self, message: str) -> Mistake:
        return Mistake(self.file, self.line, f"{self.argument}: {message}" if self.argument else message)

    def __str__(self) -> str:
        return f"{COMMAND_LINE}: {self.argument}" if self.argument else f"{self.file}:{self.line}"
