"""Packages that are not part of the install, and what a user is told where one is missing."""

from __future__ import annotations

import ctypes.util
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
      library: a library of the system that the package needs as well, as a linker names it; ``None`` for none.
      install_library: the command that installs the library.
    """

    package: str
    install: str
    library: str | None = None
    install_library: str = ""

    @classmethod
    def of_extra(cls, package: str, extra: str, library: str | None = None, install_library: str = "") -> Requirement:
        """A package that one of rulespace's extras brings."""
        return cls(package, f"pip install 'rulespace[{extra}]'", library, install_library)

    @classmethod
    def of_install(cls, package: str) -> Requirement:
        """A package that the install brings, named as in the index: missing only where somebody has removed it."""
        return cls(package.replace("-", "_"), f"pip install {package}")

    @property
    def is_met(self) -> bool:
        """Whether the package is there, and its library; it is not imported."""
        return self._has_package and (self.library is None or ctypes.util.find_library(self.library) is not None)

    @property
    def _has_package(self) -> bool:
        return importlib.util.find_spec(self.package) is not None

    @property
    def missing(self) -> str:
        """What to say where something is not there."""
        if self._has_package and self.library is not None:
            return f"the system's library {self.library}, which {self.package} needs, is not installed: {self.advice}"
        return f"the package {self.package} is not installed: {self.install}"

    @property
    def advice(self) -> str:
        """How to get what is not there."""
        return self.install_library if self._has_package and self.library is not None else self.install

    def refuse_missing_package(self) -> None:
        """Says what to install; nothing is said of a library, which may be where the linker does not look.

        Raises:
          UserError: the package is not there.
        """
        if not self._has_package:
            raise UserError(self.missing)

    def module(self, name: str | None = None) -> Any:
        """A module of the package, by its full name; the package itself by default.

        Raises:
          UserError: the package is not there, or cannot be imported.
        """
        self.refuse_missing_package()
        try:
            return importlib.import_module(name or self.package)
        except ImportError as error:
            raise UserError(f"the package {self.package} cannot be imported ({error}): {self.install}") from error
