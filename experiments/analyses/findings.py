"""What an analysis found, and how it is written down: numbers, a picture, a paragraph."""

from __future__ import annotations

import dataclasses
import os
import shutil
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from experiments.analyses.restoring import RestoredRun
from framework.errors import UserError
from framework.runs.curves import save_figure
from framework.runs.storage import disk_errors, strict_json, sync_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Findings:
    """The result of an analysis.

    Attributes:
      numbers: all that was measured, as JSON knows it.
      paragraph: what was measured and how, and what came out.
      draw: draws the picture into an empty figure; ``None`` where there is nothing to draw.
      write_files: writes more files into a folder; ``None`` where there are none.
    """

    numbers: Mapping[str, Any]
    paragraph: str
    draw: Callable[[Figure], None] | None = None
    write_files: Callable[[Path], None] | None = None


class Analysis(Protocol):
    """A question about a run: a frozen dataclass whose fields are how it is asked, and the command's flags.

    Attributes:
      title: above what was found.
    """

    title: ClassVar[str]

    def __call__(self, run: RestoredRun) -> Findings:
        """What the run answers."""


def parameter(default: Any, meaning: str) -> Any:
    """A field of an analysis: a flag of the command with its meaning."""
    return dataclasses.field(default=default, metadata={"meaning": meaning})


def write(findings: Findings, folder: Path, *, title: str, overwrite: bool = False) -> None:
    """Writes ``numbers.json``, ``figure.png`` and ``findings.md`` into a folder that appears whole or not at all.

    Args:
      findings: what to write.
      folder: which must not be there.
      title: of the paragraph.
      overwrite: whether an earlier folder makes place.

    Raises:
      UserError: the folder is there, or the disk refuses.
    """
    refuse_existing(folder, overwrite=overwrite)
    building = folder.with_name(f".{folder.name}.{os.getpid()}.saving")
    with disk_errors(f"write {folder}", "--out"):
        try:
            building.mkdir(parents=True)
            write_atomically(building / "numbers.json", f"{strict_json(findings.numbers, indent=1)}\n".encode())
            picture = ""
            if findings.draw is not None:
                _write_picture(building / "figure.png", findings.draw)
                picture = f"\n![{title}](figure.png)\n"
            text = f"# {title}\n\n{textwrap.fill(findings.paragraph, 120)}\n{picture}"
            write_atomically(building / "findings.md", text.encode())
            if findings.write_files is not None:
                findings.write_files(building)
            if overwrite and folder.exists():
                removed = folder.rename(folder.with_name(f".{folder.name}.{os.getpid()}.removed"))
                building.rename(folder)
                shutil.rmtree(removed)
            else:
                building.rename(folder)
            sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise


def refuse_existing(folder: Path, *, overwrite: bool) -> None:
    """What was found before is kept, unless it is said that it may go.

    Raises:
      UserError: the folder is there.
    """
    if folder.exists() and not overwrite:
        raise UserError(f"{folder} holds an earlier analysis: name another folder by --out, or give --overwrite")


def _write_picture(path: Path, draw: Callable[[Figure], None]) -> None:
    # The object API: pyplot would keep every figure, and may look for a display.
    from matplotlib.figure import Figure

    figure = Figure(dpi=130, layout="constrained")
    draw(figure)
    save_figure(figure, path, "--out")
