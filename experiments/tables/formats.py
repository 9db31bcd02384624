"""A sheet as Markdown, CSV, HTML or LaTeX; whatever a cell holds is shown as text."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence

from experiments.tables.sheet import Cell, Row, Sheet

STYLE = """\
:root { color-scheme: light dark; --ink: #1d1d1f; --faint: #6b6b70; --line: #d9d9de; --paper: #ffffff;
  --shade: #f5f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --faint: #a0a0a8; --line: #3a3a40; --paper: #161618; --shade: #202024; }
}
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 78rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; margin: .5rem 0;
  border-top: 1.5px solid var(--ink); border-bottom: 1.5px solid var(--ink); }
th, td { padding: .18rem .7rem; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 1px solid var(--ink); font-weight: 600; vertical-align: bottom; white-space: normal; }
tr.summary:not(.summary ~ .summary) td { border-top: 1px solid var(--line); }
.wide th:first-child, .wide td:first-child { position: sticky; left: 0; background: var(--paper); }
tbody tr:hover, .wide tbody tr:hover td:first-child { background: var(--shade); }
@media (max-width: 34rem) { th, td { padding: .18rem .4rem; } }
.notes { font-size: .82rem; color: var(--faint); }
ol.notes { padding-left: 1.4rem; }
"""
"""Of pages with tables, in light and dark."""


def markdown(sheet: Sheet) -> str:
    """GitHub's Markdown: columns are aligned in plain text, too."""

    def text(cell: Cell) -> str:
        marks = f"<sup>{','.join(map(str, cell.notes))}</sup>" if cell.notes else ""
        return _escaped_markdown(cell.text) + marks

    lines = [[text(cell) for cell in cells] for cells in (sheet.head, *(row.cells for row in sheet.rows))]
    widths = [max(3, *(len(line[index]) for line in lines)) for index in range(len(sheet.head))]

    def written(line: Sequence[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        return f"| {' | '.join([first.strip().ljust(widths[0]), *others])} |"

    rule = "| " + " | ".join("-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
    notes = [f"{number}. {_escaped_markdown(note)}" for number, note in enumerate(sheet.footnotes, 1)]
    body = "\n".join([written(lines[0]), rule, *map(written, lines[1:])])
    above = f"**{_escaped_markdown(sheet.title)}.** {_escaped_markdown(sheet.caption)}"
    return f"{above}\n\n{body}\n\n" + "".join(f"{note}\n" for note in notes)


def comma_separated(sheet: Sheet) -> str:
    """RFC 4180: heads and rows alone."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows(
        [cell.exact or cell.text for cell in cells] for cells in (sheet.head, *(row.cells for row in sheet.rows))
    )
    return file.getvalue()


def html_table(sheet: Sheet) -> str:
    """A ``table`` with its notes, for a page that has `STYLE`."""

    def cell(cell: Cell, tag: str) -> str:
        marks = f"<sup>{','.join(map(str, cell.notes))}</sup>" if cell.notes else ""
        return f"<{tag}>{html.escape(cell.text)}{marks}</{tag}>"

    def row(row: Row) -> str:
        kind = ' class="summary"' if row.summary else ""
        return f"<tr{kind}>{''.join(cell(c, 'td') for c in row.cells)}</tr>"

    head = "".join(cell(c, "th") for c in sheet.head)
    body = "\n".join(map(row, sheet.rows))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in sheet.footnotes)
    return (
        f'<p class="notes">{html.escape(sheet.caption)}</p>\n'
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f'<tbody>\n{body}\n</tbody></table></div>\n<ol class="notes">{notes}</ol>\n'
    )


def html_page(sheet: Sheet) -> str:
    """A page of its own, without anything from elsewhere."""
    title = html.escape(sheet.title)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n'
        f"<h1>{title}</h1>\n{html_table(sheet)}</html>\n"
    )


def latex(sheet: Sheet) -> str:
    """A ``table`` to be read into a document; it needs no packages."""

    def text(cell: Cell) -> str:
        marks = f"\\textsuperscript{{{','.join(map(str, cell.notes))}}}" if cell.notes else ""
        return _escaped_latex(cell.text) + marks

    lines = [f"\\begin{{tabular}}{{l{'r' * (len(sheet.head) - 1)}}}", "\\hline"]
    lines += [" & ".join(map(text, sheet.head)) + " \\\\", "\\hline"]
    for before, row in zip((None, *sheet.rows[:-1]), sheet.rows, strict=True):
        if row.summary and before is not None and not before.summary:
            lines.append("\\hline")
        lines.append(" & ".join(map(text, row.cells)) + " \\\\")
    lines += ["\\hline", "\\end{tabular}"]
    notes = [f"\\textsuperscript{{{n}}}~{_escaped_latex(note)}" for n, note in enumerate(sheet.footnotes, 1)]
    caption = f"\\caption{{{_escaped_latex(sheet.title)}. {_escaped_latex(sheet.caption)}}}"
    body = "\n".join([caption, "\\footnotesize", *lines, "\\par\\medskip\\raggedright", "\\\\\n".join(notes)])
    return f"\\begin{{table}}\n\\centering\n{body}\n\\end{{table}}\n"


FORMATS: Mapping[str, Callable[[Sheet], str]] = {
    "md": markdown,
    "csv": comma_separated,
    "html": html_page,
    "tex": latex,
}

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip


def _escaped_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", _one_line(text))


def _escaped_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
