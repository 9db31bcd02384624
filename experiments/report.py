"""``rulespace report D...``: one HTML page on runs: results, what differs, learning curves, tables, environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.reporting.page import counted, page
from experiments.reporting.summary import experiments
from experiments.run_records import find_runs
from experiments.tables.columns import own_columns
from experiments.tables.papers import TABLES
from framework.runs.storage import disk_errors, write_atomically


def define_flags(options: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, "File of the page; else report.html in the first folder.", flag_values=options)


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    """Writes the page.

    Raises:
      UserError: a folder is not there, there is no run in any, or the disk refuses.
    """
    folders = [Path(argument) for argument in arguments]
    path = folders[0] / "report.html" if options.out is None else Path(options.out)
    runs = find_runs(folders)
    found = experiments(runs)
    tables = [(table, columns) for table in TABLES.values() if (columns := own_columns(table, runs))]
    text = page(f"Runs of {', '.join(arguments)}", found, tables)
    with disk_errors(f"write {path}", "--out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    parts = (counted(len(runs), "run"), counted(len(found), "experiment"), counted(len(tables), "table"))
    print(f"{path}: {parts[0]} of {parts[1]}, {parts[2]}")
    return 0
