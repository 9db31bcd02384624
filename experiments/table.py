"""``rulespace table NAME D...``: a table of a paper, with its published columns and those that run folders fill."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.run_records import find_runs
from experiments.tables.columns import own_columns
from experiments.tables.definitions import Table
from experiments.tables.formats import FORMATS
from experiments.tables.papers import TABLES
from experiments.tables.sheet import sheet
from framework.errors import UserError, closest, did_you_mean


def define_flags(options: flags.FlagValues) -> None:
    flags.DEFINE_enum("format", "md", list(FORMATS), "How it is written.", flag_values=options)
    flags.DEFINE_string("figures", None, "Folder for figures of the columns of our own.", flag_values=options)


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    """Prints a table, or, without a name, which there are.

    Raises:
      UserError: there is no such table, or nothing of it in the folders.
    """
    if not arguments:
        width = max(map(len, TABLES))
        print("\n".join(f"{name:<{width}}  {table.title}; {table.source}" for name, table in TABLES.items()))
        return 0
    name, *folders = arguments
    table = table_of(name)
    columns = own_columns(table, find_runs([Path(folder) for folder in folders])) if folders else []
    if folders and not columns:
        raise UserError(
            f"no run in {', '.join(folders)} belongs to the table {name}, whose tasks are {_some(table.tasks)}"
            + (f" and whose configs are {', '.join(table.experiments)}" if table.only else "")
        )
    if options.figures is not None:
        if not columns:
            raise UserError("figures are of runs: name the folders that hold them, as in `rulespace table NAME D`")
        # Matplotlib takes a second to load.
        from experiments.figures import draw_table

        for path in draw_table(Path(options.figures), table, columns):
            print(f"wrote {path}", file=sys.stderr)
    print(FORMATS[options.format](sheet(table, columns)), end="")
    if not folders:
        print(f"\n{how_to_fill(table)}", file=sys.stdout if options.format == "md" else sys.stderr)
    return 0


def table_of(name: str) -> Table:
    """A table by its name.

    Raises:
      UserError: there is none.
    """
    if name not in TABLES:
        guess = did_you_mean(closest(name, TABLES)) or f" There are {', '.join(TABLES)}."
        raise UserError(f"there is no table '{name}'.{guess}")
    return TABLES[name]


def how_to_fill(table: Table) -> str:
    """The commands that fill a table with columns of our own, in small here and at the paper's scale."""
    lines = ["Columns of your own, in small on this machine:", ""]
    sweeps = list(filter(None, (table.before, table.sweep, table.beside)))
    filling = [f"runs/{name}" for name in sweeps if name != table.before]
    lines += [f"    rulespace launch {name} --on=local --scale=small" for name in sweeps]
    lines += [f"    rulespace table {table.name} {' '.join(f'{folder}-small' for folder in filling)}"]
    lines += ["", "and at the paper's scale:", ""]
    for name in sweeps:
        # Their results are in the bucket until they are fetched.
        lines += [f"    rulespace launch {name} --on=vertex", f"    rulespace status runs/{name} --watch"]
    lines += [f"    rulespace table {table.name} {' '.join(filling)}"]
    return "\n".join(lines)


def _some(tasks: Sequence[str]) -> str:
    return ", ".join(tasks[:4]) + (", ..." if len(tasks) > 4 else "")
