"""Packages that are not part of the install, and what a user is told where one is missing."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from typing import Any

from framework.errors import UserError


@dataclasses.dataclass(frozen=True)
class Requirement:
    """A package that a component needs and that an install need not have.

    Attributes:
      package: name that it is imported by.
      install: the command that installs it, or where to read how.
    """

    package: str
    install: str

    @classmethod
    def of_extra(cls, package: str, extra: str) -> Requirement:
        """A package that one of rulespace's extras brings."""
        return cls(package, f"pip install 'rulespace[{extra}]'")

    @property
    def is_met(self) -> bool:
        """Whether the package is there; it is not imported."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def missing(self) -> str:
        """What to say where it is not there."""
        return f"the package {self.package} is not installed: {self.install}"

    def module(self, name: str | None = None) -> Any:
        """A module of the package, by its full name; the package itself by default.

        Raises:
          UserError: the package is not there, or cannot be imported.
        """
        if not self.is_met:
            raise UserError(self.missing)
        try:
            return importlib.import_module(name or self.package)
        except ImportError as error:
            raise UserError(f"the package {self.package} cannot be imported ({error}): {self.install}") from error
