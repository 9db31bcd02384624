"""From gin files and command-line bindings to one list of definitions."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gin.config_parser import BindingStatement, BlockDeclaration, ImportStatement, IncludeStatement

from framework import registry
from framework.errors import closest, did_you_mean
from framework.gin_files.folders import closest_file, listed, shipped_gin_folder, shown, text_of
from framework.gin_files.mistakes import COMMAND_LINE, Mistake, Place
from framework.gin_files.parsing import BARE_WORD, Reference, parse, references

OPTIONAL = "# rulespace: bindings of this file are optional"
"""A line by which a file says that it fits many experiments: what one of them does not have is passed over."""


class Key(NamedTuple):
    """What a definition defines: a parameter of a component in a scope, or a macro (with an empty selector)."""

    scope: str
    selector: str
    parameter: str

    def __str__(self) -> str:
        scope = f"{self.scope}/" if self.scope else ""
        return f"{scope}{self.selector}.{self.parameter}" if self.selector else self.parameter


@dataclasses.dataclass(frozen=True)
class Definition:
    """One binding or macro.

    Attributes:
      name: as it is written.
      key: what it defines; ``None`` if the name stands for nothing that exists.
      value: as parsed, with `Reference` and `Macro` in it.
      place: where it stands.
      guessed: whether ``key`` is only what the name was probably meant to be.
      optional: whether its file says that what an experiment does not have is passed over.
    """

    name: str
    key: Key | None
    value: Any
    place: Place
    guessed: bool = False
    optional: bool = False


@dataclasses.dataclass
class Reading:
    """All that was read, in order; incomplete if a file is missing, so that absences mean nothing."""

    definitions: list[Definition] = dataclasses.field(default_factory=list)
    imports: list[str] = dataclasses.field(default_factory=list)
    mistakes: list[Mistake] = dataclasses.field(default_factory=list)
    complete: bool = True


def read(config: str, gin_files: Sequence[str], bindings: Sequence[str]) -> Reading:
    """Reads a config, more files, then bindings of the command line: later ones win."""
    reader = _Reader(folders=["", os.path.dirname(config), str(shipped_gin_folder())])
    first = _config_path(config)
    if first is None:
        reader.reading.complete = False
        reader.reading.mistakes.append(Mistake(config, 0, _no_config(config)))
    else:
        reader.read_file(first, Place(config, 0))
    for file in gin_files:
        reader.include(file, Place(COMMAND_LINE, 0, f"--gin_file={file}"))
    for position, binding in enumerate(bindings, start=1):
        reader.read_binding(binding, position)
    return reader.reading


def read_text(text: str, name: str) -> Reading:
    """Reads a config that is not a file."""
    reader = _Reader(folders=["", str(shipped_gin_folder())])
    reader.read_statements(text, name)
    return reader.reading


class _Reader:
    def __init__(self, folders: list[str]) -> None:
        self.reading = Reading()
        self._folders = list(dict.fromkeys(folders))
        self._open: list[str] = []

    def include(self, file: str, place: Place) -> None:
        """Reads another file, found through the search path."""
        found = self._find(file)
        if found is None:
            self._wrong(place, self._not_found(file))
            guess = closest_file(file, self._includable())
            found = self._find(guess) if guess else None
            if found is None:
                self.reading.complete = False
                return
        if os.path.realpath(found) in self._open:
            self._wrong(place, f"'{file}' includes itself: {' -> '.join(map(os.path.basename, (*self._open, found)))}")
        else:
            self.read_file(found, place)

    def read_file(self, path: str, place: Place) -> None:
        """Reads a file; one that cannot be read is a mistake of the place that asks for it."""
        try:
            text = text_of(path)
        except (OSError, ValueError) as error:
            self._wrong(place, str(error))
            self.reading.complete = False
            return
        self._open.append(os.path.realpath(path))
        self.read_statements(text, shown(path))
        self._open.pop()

    def read_statements(self, text: str, file: str) -> None:
        statements, mistakes = parse(text, file)
        self.reading.mistakes += mistakes
        if not statements and not mistakes:
            self._wrong(Place(file, 1), "the file is empty: it binds nothing")
            self.reading.complete = False
        first_lines: dict[Key, int] = {}
        optional = OPTIONAL in map(str.strip, text.splitlines())
        for statement in statements:
            place = Place(file, statement.location.line_num)
            match statement:
                case IncludeStatement():
                    self.include(statement.filename, place)
                case ImportStatement():
                    self._import(statement, place)
                case BlockDeclaration():
                    self._selector(statement.selector, place)
                case BindingStatement():
                    self._check_repetition(self._define(statement, place, optional=optional), first_lines)

    def read_binding(self, text: str, position: int) -> None:
        """Reads one ``X = V`` of the command line, where V may be a bare word."""
        name, equals, value = (part.strip() for part in text.partition("="))
        place = Place(COMMAND_LINE, position, f"--gin.{name}={value}" if equals else f"--gin_bindings={text}")
        if not (name and equals):
            self._wrong(place, "a binding is NAME=VALUE or Class.parameter=VALUE")
            return
        if not value:
            self._wrong(place, f"{name} is given no value: write one behind '=', or leave it out")
            return
        source = f"{name} = {value}"
        statements, mistakes = parse(source, COMMAND_LINE)
        if mistakes and BARE_WORD.match(value):
            statements, mistakes = parse(f"{name} = {value!r}", COMMAND_LINE)
        self.reading.mistakes += [place.mistake(mistake.message) for mistake in mistakes]
        for statement in statements:
            if isinstance(statement, BindingStatement):
                self._define(statement, place)

    def _define(self, statement: BindingStatement, place: Place, *, optional: bool = False) -> Definition:
        scope = f"{statement.scope}/" if statement.scope else ""
        if statement.arg_name:
            name = f"{scope}{statement.selector}.{statement.arg_name}"
            # A block reports its unknown component once, at its head.
            selector, sure = self._selector(statement.selector, None if _in_block(statement) else place)
            key, known = self._parameter(statement, selector, sure, place)
            definition = Definition(name, key, statement.value, place, not (sure and known), optional)
        else:
            name = f"{scope}{statement.selector}"
            definition = Definition(name, Key("", "", name), statement.value, place, optional=optional)
        for reference in references(statement.value):
            if isinstance(reference, Reference):
                self._selector(reference.selector, place.at(reference.line), shown=str(reference))
        self.reading.definitions.append(definition)
        return definition

    def _selector(self, selector: str, place: Place | None, shown: str = "") -> tuple[str | None, bool]:
        """The complete selector, or else a guess; what is wrong is reported at ``place``."""
        matches = registry.matching_selectors(selector)
        if len(matches) == 1:
            return matches[0], True
        guess = guess_selector(selector)
        if place and matches:
            self._wrong(place, f"'{shown or selector}' is ambiguous: write one of {', '.join(matches)}")
        elif place:
            self._wrong(place, f"there is no component '{shown or selector}'.{did_you_mean(guess)}")
        complete = registry.matching_selectors(guess) if guess else ()
        return (complete[0] if len(complete) == 1 else None), False

    def _parameter(
        self, statement: BindingStatement, selector: str | None, sure: bool, place: Place
    ) -> tuple[Key | None, bool]:
        if selector is None:
            return None, False
        names = [parameter.name for parameter in registry.parameters(registry.component_class(selector))]
        if statement.arg_name in names:
            return Key(statement.scope, selector, statement.arg_name), True
        guess = closest(statement.arg_name, names)
        if sure:
            takes = f"It takes {', '.join(names)}." if names else "It takes none."
            what = f"{statement.selector} has no parameter '{statement.arg_name}'"
            self._wrong(place, f"{what}.{did_you_mean(guess)} {takes}")
        return (Key(statement.scope, selector, guess) if guess else None), False

    def _check_repetition(self, definition: Definition, first_lines: dict[Key, int]) -> None:
        key = definition.key
        if key is None or definition.guessed:
            return
        if key in first_lines:
            what = "parameter" if key.selector else "macro"
            self._wrong(definition.place, f"{what} '{definition.name}' is already set in line {first_lines[key]}")
        first_lines.setdefault(key, definition.place.line)

    def _import(self, statement: ImportStatement, place: Place) -> None:
        if statement.module.startswith("__gin__"):
            self._wrong(
                place, "gin's dynamic registration is not used here: import the module that registers components"
            )
            return
        name = statement.module.rpartition(".")[0] if statement.is_from else statement.module
        if os.getcwd() not in map(os.path.abspath, sys.path):
            sys.path.append(os.getcwd())  # At the end: a user's folder must not hide one of ours.
        try:
            module = importlib.import_module(name)
            if statement.is_from and not hasattr(module, statement.module.rpartition(".")[2]):
                importlib.import_module(statement.module)
        except Exception as error:  # A user's module may raise anything.
            self._wrong(place, f"cannot import '{statement.module}': {type(error).__name__}: {error}")
            self.reading.complete = False
            return
        if statement.format() not in self.reading.imports:
            self.reading.imports.append(statement.format())

    def _find(self, file: str) -> str | None:
        candidates = [os.path.join(folder, file) for folder in self._folders]
        files = [path for path in candidates if os.path.isfile(path)]
        return next(iter(files or filter(os.path.exists, candidates)), None)

    def _not_found(self, file: str) -> str:
        searched = ", ".join(shown(folder) if folder else "the working folder" for folder in self._folders)
        return f"cannot find '{file}' in {searched}.{did_you_mean(closest_file(file, self._includable()))}"

    def _includable(self) -> set[str]:
        """What the folders of the search path offer; of the user's only the top, which may be a large tree."""
        shipped = Path(self._folders[-1])
        names = {str(path.relative_to(shipped)) for path in shipped.rglob("*.gin")}
        names = names.union(*(listed(folder or ".") for folder in self._folders[:-1]))
        return {name for name in names if os.path.realpath(self._find(name) or "") not in self._open}

    def _wrong(self, place: Place, message: str) -> None:
        self.reading.mistakes.append(place.mistake(message))


def guess_selector(selector: str) -> str | None:
    """The component that an unknown selector was probably meant to be, as it would be written."""
    names = registry.all_selectors()
    short = closest(selector, {name.split(".")[1] for name in names}) if "." not in selector else None
    return short or closest(selector, names)


def _in_block(statement: BindingStatement) -> bool:
    return statement.location.char_num is not None


def _config_path(config: str) -> str | None:
    """The path of a config, which is a path itself or the name of a shipped one."""
    shipped = shipped_gin_folder()
    candidates = (config, str(shipped / "experiments" / f"{config}.gin"), str(shipped / config))
    return next((path for path in candidates if os.path.exists(path)), None)


def _no_config(config: str) -> str:
    folder = os.path.dirname(config)
    shipped = {path.stem for path in (shipped_gin_folder() / "experiments").glob("*.gin")}
    beside = {os.path.join(folder, name) for name in listed(folder or ".")}
    guess = closest(config, shipped) or closest_file(config, beside)
    return f"there is no such file, and no shipped config of that name.{did_you_mean(guess)}"
