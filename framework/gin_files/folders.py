"""Where gin files are, shipped ones and a user's, and what a missing name was probably meant to be."""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path

from framework.errors import closest


def shipped_gin_folder() -> Path:
    """The gin files that come with the package: beside the code in a checkout, data in an installed wheel."""
    checkout = Path(__file__).resolve().parents[2] / "gin"
    if (checkout / "experiments").is_dir():  # In site-packages this is the gin library.
        return checkout
    try:
        experiments = importlib.resources.files("rulespace_configs").joinpath("experiments")
    except ModuleNotFoundError as error:
        raise FileNotFoundError(f"no shipped gin files in {checkout} or in rulespace_configs: reinstall") from error
    return Path(str(experiments)).parent


def text_of(path: str) -> str:
    """The text of a gin file; OSError or ValueError say in words why there is none."""
    name = shown(path)
    if os.path.isdir(path):
        raise ValueError(f"'{name}' is a folder, not a gin file")
    if path.endswith(".py"):
        raise ValueError(f"'{name}' is a Python file, not a gin file: to use its components, write import MODULE")
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"'{name}' is not a text in UTF-8") from None
    except OSError as error:
        raise OSError(f"'{name}' cannot be read: {error.strerror or error}") from None


def shown(path: str) -> str:
    """A path as people write it: relative within the working folder."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def closest_file(file: str, candidates: set[str]) -> str | None:
    """The gin file most like a name; the common suffix does not make two names alike."""
    guess = closest(file.removesuffix(".gin"), {name.removesuffix(".gin") for name in candidates})
    return f"{guess}.gin" if guess else None


def listed(folder: str) -> set[str]:
    """Names of the gin files that a folder holds itself."""
    return {path.name for path in Path(folder).glob("*.gin")} if os.path.isdir(folder) else set()
