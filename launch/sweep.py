"""A sweep: experiments, settings and seeds whose combinations are the units of a grid, each a complete command."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from framework.errors import UserError, did_you_mean
from framework.errors import closest as closest_name
from framework.gin_files.literals import format_literal
from framework.gin_files.parsing import Macro, Reference

EXPERIMENT, GIN_FILE, SEED = "experiment", "gin_file", "SEED"
_NOT_A_BINDING = (EXPERIMENT, GIN_FILE)
_LONGEST_NAME = 48
_GRIDS_OWN = ("jobs", "launches", "logs")  # What a grid's folder holds beside the folders of its units.
_REFERENCE = re.compile(r"@(?:[A-Za-z_]\w*/)*[A-Za-z_][\w.]*(?:\(\))?|%[A-Za-z_][\w./]*")


class SweepError(UserError):
    """What is wrong with a sweep, and what to write instead."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """One run of a grid.

    Attributes:
      name: tells it apart from the others; a DNS label, the name of its folder and of its log.
      settings: {axis: value} of everything by which units of the sweep differ, for tables and filters.
      arguments: all that comes after ``rulespace run``, but for the folder.
    """

    name: str
    settings: Mapping[str, Any]
    arguments: tuple[str, ...]

    def in_folder(self, folder: str) -> tuple[str, ...]:
        """The complete arguments of ``rulespace run``: copied into a shell they run this unit alone."""
        return (*self.arguments, f"--workdir={folder}")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A grid of experiments.

    Every combination of an experiment, a value of each axis of ``product``, a row of ``zip`` and a seed is a unit. Axes
    and bindings are named as in ``--gin.NAME=VALUE``; the axis ``gin_file`` adds files. A text that is as a whole an
    ``@reference`` or a ``%macro`` stands for that; every other value reaches the run as it is.

    Attributes:
      name: of the grid.
      experiments: configs, by path or shipped name; the outermost axis.
      product: {axis: values}, every combination.
      zip: {axis: values}, side by side: the first of each, then the second of each.
      bindings: {name: value} of every unit.
      gin_files: files added to every unit, after those of its axes.
      seeds: so many seeds from 0 on, or these; the innermost axis; ``None``: each experiment's own.
      exclude: units that have all settings of one of these are left out.
      only: units that have all settings of one of these are kept, if there are any.
      names: {axis or value: what it is called in the names of units}; an empty text leaves it out.
      runs: axes and bindings that name units of other grids, by folder: ``runs/GRID/UNIT``; see `beside`.
    """

    name: str
    experiments: Sequence[str]
    product: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    zip: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    gin_files: Sequence[str] = ()
    seeds: int | Sequence[int] | None = None
    exclude: Sequence[Mapping[str, Any]] = ()
    only: Sequence[Mapping[str, Any]] = ()
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    runs: Sequence[str] = ()

    def beside(self, folder_of: Callable[[str], str]) -> Sweep:
        """The sweep for a place that has its own run folders: units of other grids are where those have left them.

        Args:
          folder_of: gives the folder in that place, from the one that the sweep names.

        Raises:
          SweepError: the sweep has no axis or binding of a name in ``runs``.
        """
        known = [*self.product, *self.zip, *self.bindings]
        for name in self.runs:
            if name not in known:
                guess = did_you_mean(closest_name(name, known))
                raise SweepError(f"runs of {self.name}: there is no axis and no binding '{name}'.{guess}")
        axes = [
            {name: [*map(folder_of, values)] if name in self.runs else values for name, values in axis.items()}
            for axis in (self.product, self.zip)
        ]
        bindings = {name: folder_of(value) if name in self.runs else value for name, value in self.bindings.items()}
        return dataclasses.replace(self, product=axes[0], zip=axes[1], bindings=bindings)

    def units(self) -> tuple[Unit, ...]:
        """All units, in the order of the axes.

        Raises:
          SweepError: an axis is set twice, the lists of ``zip`` differ in length, a filter fits nothing, or two units
            are the same.
        """
        self._refuse_axes_set_twice()
        self._refuse_empty_axes()
        settings = self._filtered(list(self._combinations()))
        if not settings:
            raise SweepError(f"{self.name} has no units: its filters leave all of them out")
        return self._named(settings)

    def _refuse_axes_set_twice(self) -> None:
        axes = [EXPERIMENT, *self.product, *self.zip, *([SEED] if self.seeds is not None else [])]
        for axis in (*axes, *self.bindings):
            if (axes + list(self.bindings)).count(axis) > 1:
                raise SweepError(
                    f"{self.name} sets {axis} twice: name it in one of experiments, product, zip, bindings and seeds"
                )
        if wrong := [name for name in self.bindings if name in _NOT_A_BINDING]:
            raise SweepError(f"{self.name} sets {wrong[0]} in bindings: use experiments and gin_files")

    def _refuse_empty_axes(self) -> None:
        lists = {
            EXPERIMENT: self.experiments,
            **self.product,
            **self.zip,
            SEED: [0] if self.seeds is None else self.seeds,
        }
        if empty := [axis for axis, values in lists.items() if not values]:
            raise SweepError(f"{self.name} has no units: its axis {empty[0]} has no values")

    def _combinations(self) -> Iterator[dict[str, Any]]:
        lengths = {axis: len(values) for axis, values in self.zip.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{axis} has {length}" for axis, length in lengths.items())
            raise SweepError(f"the lists of zip in {self.name} must be of one length: {shown}")
        rows = [dict(zip(self.zip, row, strict=True)) for row in zip(*self.zip.values(), strict=True)] or [{}]
        seeds = range(self.seeds) if isinstance(self.seeds, int) else self.seeds
        seed_rows = [{}] if seeds is None else [{SEED: seed} for seed in seeds]
        products = [
            dict(zip(self.product, values, strict=True)) for values in itertools.product(*self.product.values())
        ]
        for experiment, product, row, seed in itertools.product(self.experiments, products, rows, seed_rows):
            yield {EXPERIMENT: experiment, **product, **row, **seed}

    def _filtered(self, settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for field, filters in (("exclude", self.exclude), ("only", self.only)):
            for wanted in filters:
                for axis in wanted:
                    if axis not in settings[0]:
                        guess = did_you_mean(closest_name(axis, settings[0]))
                        axes = ", ".join(settings[0])
                        raise SweepError(f"{field} of {self.name}: there is no axis '{axis}'.{guess} There are {axes}.")
                if not any(_fits(unit, wanted) for unit in settings):
                    raise SweepError(f"{field} of {self.name}: no unit has {_shown(wanted)}")
        kept = [unit for unit in settings if not any(_fits(unit, wanted) for wanted in self.exclude)]
        return [unit for unit in kept if any(_fits(unit, wanted) for wanted in self.only)] if self.only else kept

    def _named(self, settings: list[dict[str, Any]]) -> tuple[Unit, ...]:
        """Names say where on each axis a unit is; where they would be the same, or too long, a hash ends them.

        An axis of one value is named too, so that names stay as they are when it is given more.
        """
        names = [dns_label(self._label(unit), _LONGEST_NAME) for unit in settings]
        often = collections.Counter([*names, *_GRIDS_OWN])
        units: dict[tuple[str, ...], Unit] = {}
        for unit, name in zip(settings, names, strict=True):
            arguments = self._arguments(unit)
            if arguments in units:
                raise SweepError(f"{self.name} has the same unit twice: {shlex.join(arguments)}")
            ending = "" if often[name] == 1 else f"-{_hash(arguments, 12)}"
            exact = f"{name[: _LONGEST_NAME - len(ending)]}{ending}"
            units[arguments] = Unit(exact, unit, arguments)
        return tuple(units.values())

    def _label(self, unit: Mapping[str, Any]) -> str:
        words = []
        for axis, value in unit.items():
            if axis == SEED:
                words.append(f"s{value}")
                continue
            word = self.names.get(value) if isinstance(value, str) and value in self.names else _word(value)
            called = self.names.get(axis, "" if axis in _NOT_A_BINDING else axis.rpartition(".")[2])
            words.append("-".join(filter(None, (called, word))))
        return "-".join(filter(None, words)) or self.name

    def _arguments(self, unit: Mapping[str, Any]) -> tuple[str, ...]:
        files = [*_files(unit.get(GIN_FILE)), *self.gin_files]
        bindings = {**self.bindings, **{axis: value for axis, value in unit.items() if axis not in _NOT_A_BINDING}}
        return (
            unit[EXPERIMENT],
            *(f"--gin_file={file}" for file in files),
            *(f"--gin.{name}={rendered(value)}" for name, value in bindings.items()),
        )


def rendered(value: Any) -> str:
    """A value as gin reads it back, whatever is in it: texts are quoted, references and macros are not.

    Raises:
      SweepError: gin has no literal for it.
    """
    if isinstance(value, str) and _REFERENCE.fullmatch(value):
        return value
    return format_literal(value, _no_literal)


def dns_label(text: str, longest: int) -> str:
    """A text as a name that file systems, object stores and Kubernetes take: lower case, digits and dashes.

    What is too long is cut, and ends in a hash of the whole.

    Args:
      text: any.
      longest: characters that the name may have.
    """
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unit"
    if not label[0].isalpha():
        label = f"u{label}"
    if len(label) <= longest:
        return label
    ending = _hash([text], 8)
    return f"{label[: longest - len(ending) - 1].rstrip('-')}-{ending}"


def _no_literal(value: Any) -> str:
    if isinstance(value, Reference | Macro):
        return str(value)
    raise SweepError(f"gin has no literal for {value!r}, a {type(value).__name__}")


def _files(value: Any) -> list[str]:
    """The files that a value of the axis ``gin_file`` adds: one, several or none."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _fits(unit: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(unit[axis] == value for axis, value in wanted.items())


def _shown(settings: Mapping[str, Any]) -> str:
    return " and ".join(f"{axis} = {value!r}" for axis, value in settings.items())


def _word(value: Any) -> str:
    """A value as a word of a name: of a file its stem, of a number all its digits."""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:g}".replace(".", "p").replace("+", "").replace("-", "m")
    if isinstance(value, int | float) and value < 0:
        return f"m{-value:g}"
    if isinstance(value, str):
        return value.rpartition("/")[2].removesuffix(".gin")
    if isinstance(value, list | tuple):
        return "-".join(map(_word, value))
    return str(value)


def _hash(words: Iterable[str], digits: int) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:digits]
