"""From the text of a gin file to its statements, by gin's own parser, past every syntax error."""

from __future__ import annotations

import dataclasses
import re
import tokenize
from collections.abc import Iterator
from typing import Any, TypeAlias

from gin import config_parser
from gin.config_parser import BindingStatement, BlockDeclaration, ImportStatement, IncludeStatement

from framework.errors import closest, did_you_mean
from framework.gin_files.mistakes import Mistake

__all__ = [
    "BARE_WORD", "BindingStatement", "BlockDeclaration", "ImportStatement", "IncludeStatement", "Macro", "Reference",
    "Statement", "Unreadable", "parse", "references",
]  # fmt: skip

Statement: TypeAlias = BindingStatement | BlockDeclaration | ImportStatement | IncludeStatement

BARE_WORD = re.compile(r"^[A-Za-z_~./][\w.,:/~+-]*$")
"""What the command line takes as a text without quotes."""

_BINDING = re.compile(r"^(\s*)([A-Za-z_][\w./]*)\s*=(?!=)")
_STATEMENT = re.compile(r"^\s*[A-Za-z_][\w./]*\s*(=(?!=)|:\s*(#.*)?$)|^(include|import|from)\b")
_UNQUOTED = re.compile(r"Failed to parse token '-?([A-Za-z_]\w*)'")
_UNREADABLE = "__unreadable__"


@dataclasses.dataclass(frozen=True)
class Reference:
    """``@scope/Class()`` or, not called, ``@scope/Class``."""

    scope: tuple[str, ...]
    selector: str
    called: bool
    line: int = dataclasses.field(default=0, compare=False)

    def __str__(self) -> str:
        return f"@{'/'.join((*self.scope, self.selector))}{'()' if self.called else ''}"


@dataclasses.dataclass(frozen=True)
class Macro:
    """``%name``, or ``%scope/name``."""

    name: str
    line: int = dataclasses.field(default=0, compare=False)

    def __str__(self) -> str:
        return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """Stands for a value that is already reported as a mistake, and fits everywhere."""


def references(value: Any) -> Iterator[Reference | Macro]:
    """All references and macros in a value."""
    match value:
        case Reference() | Macro():
            yield value
        case list() | tuple():
            for item in value:
                yield from references(item)
        case dict():
            for item in (*value.keys(), *value.values()):
                yield from references(item)


def parse(text: str, file: str) -> tuple[list[Statement], list[Mistake]]:
    """The statements of a gin file, and its syntax errors.

    A binding that cannot be read keeps its name, with the value `Unreadable`, so that nothing else is reported
    because of it; the rest of the file is read as if it were in order.
    """
    lines = text.splitlines()
    mistakes: list[Mistake] = []
    while True:
        parser = _Parser("\n".join(lines) + "\n")
        try:
            return list(parser), mistakes
        except (SyntaxError, tokenize.TokenError) as error:
            line, message, start = _explain(error, parser, lines)
            mistakes.append(Mistake(file, line, message))
            _repair(lines, start)


class _Delegate(config_parser.ParserDelegate):
    """Keeps references and macros as they are written."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        *scope, selector = scoped_configurable_name.split("/")
        return Reference(tuple(scope), selector, evaluate)

    def macro(self, macro_name: str) -> Macro | Unreadable:
        return Unreadable() if macro_name == _UNREADABLE else Macro(macro_name)


class _Parser(config_parser.ConfigParser):
    """gin's parser, with the line of every reference, reading its first token only when asked for a statement."""

    def __init__(self, text: str) -> None:
        self.value_line = 0
        self._depth = 0
        self._text = text

    def __iter__(self) -> Iterator[Statement]:
        super().__init__(self._text, _Delegate())
        return self

    @property
    def within_value(self) -> bool:
        return self._depth > 0

    def parse_value(self) -> Any:
        line = self.current_token.start[0]
        if not self._depth:
            self.value_line = line
        self._depth += 1
        value = super().parse_value()
        self._depth -= 1
        return dataclasses.replace(value, line=line) if isinstance(value, Reference | Macro) else value


def _explain(error: SyntaxError | tokenize.TokenError, parser: _Parser, lines: list[str]) -> tuple[int, str, int]:
    """The line of a syntax error, what is wrong there in words, and the line where the broken statement starts."""
    text, line = (error.msg, error.lineno or 1) if isinstance(error, SyntaxError) else (error.args[0], error.args[1][0])
    line = min(line, len(lines))
    in_value = parser.within_value or text.startswith("Expected newline")
    start = parser.value_line if in_value else line
    content = lines[line - 1].strip()
    never_closed = parser.within_value and (
        "multi-line" in text or (line > start and _STATEMENT.match(lines[line - 1]))
    )
    if never_closed:
        return start, "a bracket that opens here is never closed", start
    if text.startswith("Expected indentation"):
        head = next((at for at in range(line - 1, 0, -1) if lines[at - 1].rstrip().endswith(":")), line)
        return head, f"'{lines[head - 1].strip()}' opens a block: indent the bindings below it", head
    if word := _UNQUOTED.search(text):
        return line, _bare_word(word[1]), start
    if text.startswith("Expected newline"):
        return line, f"cannot read '{content}': a value is a literal, not an expression; write out the result", start
    if "unterminated" in text or (text.startswith("Unable") and parser.current_token.string[:1] in ("'", '"')):
        return line, f"a quote is never closed: {content}", start
    if content.endswith("="):
        return line, f"'{content}' has no value after '='", start
    if "parse statement" in text or "Unexpected token" in text:
        return line, f"cannot read '{content}': write NAME = VALUE, Class.parameter = VALUE or include 'FILE'", start
    return line, f"cannot read '{content}': {text[:1].lower()}{text[1:].splitlines()[0].rstrip('.')}", start


def _bare_word(word: str) -> str:
    if word == "gin":
        return "'gin' is a bare word. Did you mean '%gin.REQUIRED'?"
    if guess := closest(word, ("True", "False", "None")):
        return f"'{word}' is a bare word.{did_you_mean(guess)}"
    return f"'{word}' is a bare word: quote it ('{word}') if it is a text; a component starts with @, a macro with %"


def _repair(lines: list[str], start: int) -> None:
    """Makes a broken binding readable, without its value, and blanks anything else: every call leaves less to read."""
    start = next(line for line in (*range(start, 0, -1), *range(start, len(lines) + 1)) if lines[line - 1].strip())
    binding = _BINDING.match(lines[start - 1])
    repaired = f"{binding[1]}{binding[2]} = %{_UNREADABLE}" if binding else ""
    lines[start - 1] = repaired if lines[start - 1] != repaired else ""
    for index in range(start, len(lines)):
        if _STATEMENT.match(lines[index]) or not lines[index].strip():
            break
        lines[index] = ""
