"""Writes files whole or not at all, and says in words what a disk refuses."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from framework.errors import UserError


class RunFolderError(UserError):
    """What is wrong with a run folder and what to do about it, in one sentence."""


_DISK_FULL = "the disk is full; free some space and run the same command again, it continues from the last checkpoint"
_READ_ONLY = "it cannot be written to; choose a folder that can be with {option}"
_NOT_A_FOLDER = "there is a file where a folder should be; move it away or choose another folder with {option}"
_REASONS = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: _DISK_FULL,
    errno.EFBIG: "the file is larger than this disk or this shell's `ulimit -f` allows; raise the limit",
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.ENOTDIR: _NOT_A_FOLDER,
    errno.EEXIST: _NOT_A_FOLDER,
}


@contextlib.contextmanager
def disk_errors(action: str, option: str = "--workdir") -> Iterator[None]:
    """Turns an ``OSError`` into a `RunFolderError`: ``cannot <action>: <why>; <what to do>``.

    Args:
      action: what was tried.
      option: of the command line, that names the folder.
    """
    try:
        yield
    except OSError as error:
        known = _REASONS.get(error.errno or 0)
        reason = (error.strerror or str(error)) if known is None else known.format(option=option)
        raise RunFolderError(f"cannot {action}: {reason}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file so that a kill or a power cut leaves the old content or the new, never a mixture."""
    temporary = path.with_name(f".{path.name}.saving")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def strict_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that every reader accepts: NaN and infinities, which JSON lacks, become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
