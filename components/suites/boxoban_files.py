"""Files of Boxoban levels, as published by Guez et al. (2018): ten lines of ten characters after a line ``; number``.

A cell is ``#`` (wall), a space (floor), ``.`` (target), ``$`` (box) or ``@`` (player).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from components.suites.sokoban_generator import BOX, FLOOR, PLAYER, SIZE, TARGET, WALL
from framework.errors import UserError

CELLS = {" ": FLOOR, "#": WALL, ".": TARGET, "$": BOX, "@": PLAYER}


@functools.lru_cache
def levels_of_folder(folder: Path, count: int | None) -> np.ndarray:
    """The first so many levels of a folder's files, all if no number is given [L, 10, 10] uint8.

    Raises:
      UserError: a file holds something else, or there are fewer levels.
    """
    levels: list[np.ndarray] = []
    for file in level_files(folder):
        for level in _levels(file):
            if count is not None and len(levels) == count:
                break
            levels.append(level)
    if not levels or len(levels) < (count or 0):
        raise UserError(f"{folder} holds {len(levels)} levels, {count or 'none'} asked for: lower num_levels")
    return np.stack(levels)


def level_files(folder: Path) -> list[Path]:
    """The files of levels in a folder, by name."""
    return sorted(folder.glob("*.txt"))


def _levels(file: Path) -> Iterator[np.ndarray]:
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as levels ({error}): put back a sound copy") from None
    rows: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(";"):
            if rows:
                raise UserError(f"{file}:{number}: a level of {len(rows)} lines ends here: one has {SIZE} lines")
            continue
        if len(line) != SIZE or set(line) - set(CELLS):
            raise UserError(f"{file}:{number}: '{line}' is no row of a level: write {SIZE} of '#', ' ', '.', '$', '@'")
        rows.append(line)
        if len(rows) == SIZE:
            yield _level(rows, f"{file}:{number - SIZE + 1}")
            rows = []
    if rows:
        raise UserError(f"{file}: the last level has {len(rows)} lines: one has {SIZE} lines")


def _level(rows: list[str], where: str) -> np.ndarray:
    cells = np.array([[CELLS[cell] for cell in row] for row in rows], np.uint8)
    players, boxes, targets = (int((cells == kind).sum()) for kind in (PLAYER, BOX, TARGET))
    if players != 1 or boxes != targets or not boxes:
        raise UserError(
            f"{where}: this level has {players} players, {boxes} boxes and {targets} targets: it needs one player, "
            "and a target for each box"
        )
    if (np.concatenate([cells[[0, -1]].ravel(), cells[:, [0, -1]].ravel()]) != WALL).any():
        raise UserError(f"{where}: this level is open at its edge: it needs walls all around")
    return cells
