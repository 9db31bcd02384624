"""The numbers that the papers print, as data; see SOURCES.md for where each is from."""

from __future__ import annotations

import csv
from pathlib import Path

_FOLDER = Path(__file__).parent


def rows(name: str) -> list[dict[str, str]]:
    """The rows of one of the CSV files, by the names of its columns, with numbers as they are printed."""
    with (_FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def columns(name: str) -> dict[str, dict[str, float]]:
    """{column: {task: score}} of a file whose first column names tasks."""
    table = rows(name)
    key, *others = table[0]
    return {column: {row[key]: float(row[column]) for row in table} for column in others}


def row(name: str, wanted: str) -> dict[str, float]:
    """{column: number} of one row of a file whose first column names rows."""
    key, *_ = rows(name)[0]
    (found,) = [line for line in rows(name) if line[key] == wanted]
    return {column: float(value) for column, value in found.items() if column != key}
