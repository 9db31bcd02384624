"""Reads sweeps from gin files: ``Sweep.field = VALUE``, own macros, includes, and the overrides of the command line."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from framework.errors import closest, did_you_mean
from framework.gin_files.folders import closest_file, listed, shipped_gin_folder, shown, text_of
from framework.gin_files.mistakes import COMMAND_LINE, ConfigError, Mistake
from framework.gin_files.parsing import BARE_WORD, BindingStatement, IncludeStatement, Macro, Unreadable, parse
from launch.sweep import Sweep

SMALL = "small"
_FIELDS = tuple(field.name for field in dataclasses.fields(Sweep))
_SMALL_FIELDS = tuple(f"small_{name}" for name in _FIELDS if name not in ("name", "names", "runs"))
_SWEEP = "Sweep."
_NO_SWEEP = (
    "an experiment, and no sweep: rulespace run {0} runs it, Sweep.experiments = ['{0}'] in a file makes a sweep"
)


@dataclasses.dataclass(frozen=True)
class SweepFile:
    """A sweep as it was read.

    Attributes:
      sweep: what to run.
      scale: ``small`` or empty, for the scale of the papers.
      text: of the file, and of the overrides as comments.
    """

    sweep: Sweep
    scale: str
    text: str


def read_sweep(name: str, *, scale: str = "", gin_files: Sequence[str] = (), bindings: Sequence[str] = ()) -> SweepFile:
    """Reads a sweep.

    Args:
      name: path of a gin file, or the name of a shipped one in ``sweeps/``.
      scale: ``small`` adds the files of ``Sweep.small``, and takes ``Sweep.small_<field>`` where there is one for a
        field; empty leaves these alone.
      gin_files: files added to every unit, after all others.
      bindings: ``X = V``: of the sweep where X is ``Sweep.<field>``, else of every unit.

    Raises:
      ConfigError: all mistakes of the file.
    """
    reader = _Reader(name)
    path = reader.read_named(name)
    unit_bindings = reader.read_bindings(bindings)
    values = reader.checked()
    fields = {field: values[field] for field in _FIELDS if field in values}
    if scale:
        if not any(field == SMALL or field in _SMALL_FIELDS for field in values):
            raise ConfigError(
                [Mistake(shown(path), 0, "there is no small version of this sweep: it has no Sweep.small")]
            )
        fields |= {field: values[f"small_{field}"] for field in _FIELDS if f"small_{field}" in values}
        fields["gin_files"] = [*fields.get("gin_files", ()), *values.get(SMALL, ())]
    fields["gin_files"] = [*fields.get("gin_files", ()), *gin_files]
    fields["bindings"] = {**fields.get("bindings", {}), **unit_bindings}
    for axes in ("product", "zip"):  # What the command line says is no axis any more.
        fields[axes] = {axis: row for axis, row in fields.get(axes, {}).items() if axis not in unit_bindings}
    if "SEED" in unit_bindings:
        fields.pop("seeds", None)
    overrides = "".join(f"# {line}\n" for line in (*(f"gin_file {file}" for file in gin_files), *bindings))
    sweep = Sweep(**{"name": Path(path).stem, **fields})
    return SweepFile(sweep, scale, text_of(path) + overrides)


class _Reader:
    def __init__(self, name: str) -> None:
        self.mistakes: list[Mistake] = []
        self._name = name
        self._folders = ["", os.path.dirname(name), str(shipped_gin_folder())]
        self._fields: dict[str, tuple[Any, Mistake]] = {}
        self._macros: dict[str, tuple[Any, Mistake]] = {}
        self._used: set[str] = set()
        self._binds = False
        self._open: list[str] = []

    def read_named(self, name: str) -> str:
        shipped = shipped_gin_folder()
        candidates = (name, str(shipped / "sweeps" / f"{name}.gin"), str(shipped / name))
        path = next(filter(os.path.isfile, candidates), None)
        if path is None and (shipped / "experiments" / f"{name}.gin").is_file():
            raise ConfigError([Mistake(name, 0, _NO_SWEEP.format(name))])
        if path is None:
            folder = os.path.dirname(name)
            names = {Path(file).stem for file in listed(str(shipped / "sweeps"))}
            guess = closest(name, names) or closest_file(name, {os.path.join(folder, x) for x in listed(folder or ".")})
            offered = "" if guess else f" Shipped are {', '.join(sorted(names))}."
            message = f"there is no such file, and no shipped sweep of that name.{did_you_mean(guess)}{offered}"
            raise ConfigError([Mistake(name, 0, message)])
        self._read_file(path, Mistake(name, 0, ""))
        if not self._fields and self._binds:
            raise ConfigError([Mistake(name, 0, _NO_SWEEP.format(name))])
        return path

    def read_bindings(self, bindings: Sequence[str]) -> dict[str, Any]:
        """The bindings that are meant for every unit; those of the sweep itself replace what the file says."""
        of_units: dict[str, Any] = {}
        for position, binding in enumerate(bindings, start=1):
            name, equals, text = (part.strip() for part in binding.partition("="))
            place = Mistake(COMMAND_LINE, position, "")
            if not (name and equals and text):
                self._wrong(place, f"--gin_bindings={binding}: a binding is NAME=VALUE or Class.parameter=VALUE")
                continue
            value, mistakes = _value(name, text)
            for mistake in mistakes:
                self._wrong(place, f"--gin.{name}={text}: {mistake.message}")
            if name.startswith(_SWEEP):
                self._field(name.removeprefix(_SWEEP), value, place)
            else:
                of_units[name] = value
        return of_units

    def checked(self) -> dict[str, Any]:
        """The fields, with own macros replaced, if all of them are what they must be."""
        values = {}
        for field, (value, place) in self._fields.items():
            value = self._resolved(value)
            complaint = None if _holds_unreadable(value) else _FORMS[field.removeprefix("small_")](value)
            if complaint:
                self._wrong(place, f"Sweep.{field} {complaint}")
            values[field] = (
                [value] if field.removeprefix("small_") == "experiments" and isinstance(value, str) else value
            )
        for macro in self._macros.keys() - self._used:
            bindings = f"Sweep.bindings = {{'{macro}': VALUE}}"
            self._wrong(
                self._macros[macro][1], f"nothing of the sweep uses {macro}; to set it in every unit: {bindings}"
            )
        if "experiments" not in values and not self.mistakes:
            self._wrong(Mistake(self._name, 0, ""), "Sweep.experiments is missing: it lists the configs to run")
        if self.mistakes:
            raise ConfigError(self.mistakes)
        return values

    def _read_file(self, path: str, asked_by: Mistake) -> None:
        try:
            text = text_of(path)
        except (OSError, ValueError) as error:
            self._wrong(asked_by, str(error))
            return
        self._open.append(os.path.realpath(path))
        statements, mistakes = parse(text, shown(path))
        self.mistakes += mistakes
        lines: dict[str, int] = {}
        for statement in statements:
            place = Mistake(shown(path), statement.location.line_num, "")
            if isinstance(statement, BindingStatement):
                name = f"{statement.selector}.{statement.arg_name}".rstrip(".")
                if lines.setdefault(name, place.line) != place.line:
                    self._wrong(place, f"{name} is set in line {lines[name]} already")
            match statement:
                case IncludeStatement():
                    self._include(statement.filename, place)
                case BindingStatement() if statement.selector == "Sweep" and statement.arg_name and not statement.scope:
                    self._field(statement.arg_name, statement.value, place)
                case BindingStatement() if not statement.arg_name and not statement.scope:
                    self._macros[statement.selector] = (statement.value, place)
                case BindingStatement():
                    self._binds = True
                    what = f"{statement.selector}.{statement.arg_name}"
                    self._wrong(place, f"a sweep binds nothing itself: write Sweep.bindings = {{'{what}': VALUE}}")
                case _:
                    self._wrong(place, "a sweep has lines Sweep.FIELD = VALUE, NAME = VALUE and include 'FILE'")
        self._open.pop()

    def _include(self, file: str, place: Mistake) -> None:
        path = next(filter(os.path.isfile, (os.path.join(folder, file) for folder in self._folders)), None)
        if path is None:
            guess = closest_file(file, {f"sweeps/{name}" for name in listed(str(shipped_gin_folder() / "sweeps"))})
            self._wrong(place, f"cannot find '{file}'.{did_you_mean(guess)}")
        elif os.path.realpath(path) in self._open:
            self._wrong(place, f"'{file}' includes itself")
        else:
            self._read_file(path, place)

    def _field(self, field: str, value: Any, place: Mistake) -> None:
        known = (*_FIELDS, SMALL, *_SMALL_FIELDS)
        if field in known:
            self._fields[field] = (value, place)
        else:
            guess = did_you_mean(closest(field, known))
            self._wrong(place, f"a sweep has no '{field}'.{guess} It has {', '.join((*_FIELDS, SMALL))}.")

    def _resolved(self, value: Any, within: tuple[str, ...] = ()) -> Any:
        """A value in which the macros of the sweep are what they stand for; all others are the units' own."""
        match value:
            case Macro() if value.name in within:
                self._wrong(self._macros[value.name][1], f"{value.name} stands for itself")
                return Unreadable()
            case Macro() if value.name in self._macros:
                self._used.add(value.name)
                return self._resolved(self._macros[value.name][0], (*within, value.name))
            case list() | tuple():
                return type(value)(self._resolved(item, within) for item in value)
            case dict():
                return {self._resolved(key, within): self._resolved(item, within) for key, item in value.items()}
        return value

    def _wrong(self, place: Mistake, message: str) -> None:
        self.mistakes.append(dataclasses.replace(place, message=message))


def _value(name: str, text: str) -> tuple[Any, list[Mistake]]:
    """The value of ``--gin.NAME=TEXT``, where TEXT may be a bare word."""
    statements, mistakes = parse(f"{name} = {text}", COMMAND_LINE)
    if mistakes and BARE_WORD.match(text):
        statements, mistakes = parse(f"{name} = {text!r}", COMMAND_LINE)
    binding = next((statement for statement in statements if isinstance(statement, BindingStatement)), None)
    return (binding.value if binding else Unreadable()), mistakes


def _holds_unreadable(value: Any) -> bool:
    match value:
        case list() | tuple():
            return any(map(_holds_unreadable, value))
        case dict():
            return any(map(_holds_unreadable, (*value.keys(), *value.values())))
    return isinstance(value, Unreadable)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _is_settings(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_axes(value: Any) -> bool:
    return _is_settings(value) and all(isinstance(row, list | tuple) for row in value.values())


def _is_seeds(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(type(seed) is int and seed >= 0 for seed in value)
    return value is None or (type(value) is int and value > 0)


def _is_filters(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_settings, value))


def _must_be(fits: Callable[[Any], bool], form: str) -> Callable[[Any], str | None]:
    return lambda value: None if fits(value) else f"must be {form}, and is {value!r}"


_FORMS: Mapping[str, Callable[[Any], str | None]] = {
    "name": _must_be(lambda value: isinstance(value, str) and bool(value), "a text"),
    "experiments": _must_be(
        lambda value: bool(value) and (isinstance(value, str) or _is_texts(value)), "a list of configs"
    ),
    "product": _must_be(_is_axes, "a dictionary of lists, {'NAME': [VALUES]}"),
    "zip": _must_be(_is_axes, "a dictionary of lists of one length, {'NAME': [VALUES]}"),
    "bindings": _must_be(_is_settings, "a dictionary {'NAME': VALUE}"),
    "gin_files": _must_be(_is_texts, "a list of gin files"),
    "runs": _must_be(_is_texts, "a list of axes and bindings that name run folders"),
    "seeds": _must_be(_is_seeds, "how many seeds, or a list of them"),
    "exclude": _must_be(_is_filters, "a list of dictionaries {'NAME': VALUE}"),
    "only": _must_be(_is_filters, "a list of dictionaries {'NAME': VALUE}"),
    "names": _must_be(_is_settings, "a dictionary {'NAME': 'short name'}"),
    SMALL: _must_be(_is_texts, "a list of gin files"),
}
