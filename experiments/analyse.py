"""The verb ``analyse``: asks a run what its rule does and what its agents' predictions mean."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.analyses.findings import Analysis, refuse_existing, write
from experiments.analyses.registered import ANALYSES
from experiments.analyses.restoring import restored
from framework.errors import UserError, closest, did_you_mean

_DEFINE: dict[type, Callable[..., Any]] = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    bool: flags.DEFINE_bool,
}


def define_flags(options: flags.FlagValues) -> None:
    flags.DEFINE_integer("step", None, "The checkpoint to analyse; the newest by default.", flag_values=options)
    flags.DEFINE_integer("group", 0, "The group of agents to analyse.", flag_values=options)
    flags.DEFINE_string("out", None, "Folder of the results; RUN/analyses/WHAT by default.", flag_values=options)
    flags.DEFINE_bool("overwrite", False, "Whether earlier results may go.", flag_values=options)
    for name, askers in _parameters().items():
        meanings = dict.fromkeys(field.metadata["meaning"] for field in askers.values())
        (kind,) = {_kind(ANALYSES[what], name) for what in askers}
        _DEFINE[kind](name, None, f"{' Or: '.join(meanings)} ({', '.join(askers)})", flag_values=options)


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    """Analyses a run, writes what was found into a folder, and prints the paragraph."""
    what, path = arguments[0], Path(arguments[1])
    analysis = _analysis(what, options)
    run = restored(path, options, step=options.step, group=options.group)
    folder = Path(options.out) if options.out else run.folder / "analyses" / what
    refuse_existing(folder, overwrite=options.overwrite)  # Before minutes of work and not after them.
    findings = analysis(run)
    write(findings, folder, title=type(analysis).title, overwrite=options.overwrite)
    print(f"{findings.paragraph}\n\nresults in {folder}")
    return 0


def _analysis(what: str, options: flags.FlagValues) -> Analysis:
    """The analysis of a name, asked as the flags say."""
    if what not in ANALYSES:
        guess = did_you_mean(closest(what, ANALYSES)) or f" There are {', '.join(ANALYSES)}."
        raise UserError(f"there is no analysis '{what}'.{guess}")
    given = {name: options[name].value for name in _parameters() if options[name].value is not None}
    takes = [field.name for field in dataclasses.fields(ANALYSES[what])]  # type: ignore[arg-type]
    for name in given:
        if name not in takes:
            known = ", ".join(f"--{each}" for each in takes)
            raise UserError(f"the analysis '{what}' knows no --{name}: it takes {known}")
    try:
        return ANALYSES[what](**given)
    except ValueError as error:
        raise UserError(f"analyse {what}: {error}") from error


def _parameters() -> dict[str, dict[str, dataclasses.Field[Any]]]:
    """{parameter: {analysis that has it: its field}}, sorted by name."""
    found: dict[str, dict[str, dataclasses.Field[Any]]] = {}
    for what, cls in ANALYSES.items():
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            found.setdefault(field.name, {})[what] = field
    return dict(sorted(found.items()))


def _kind(cls: type, name: str) -> type:
    """The type of a parameter's value; ``None`` besides it is its being not given."""
    annotation = typing.get_type_hints(cls)[name]
    if isinstance(annotation, types.UnionType):
        (annotation,) = (kind for kind in typing.get_args(annotation) if kind is not types.NoneType)
    kind: type = annotation
    return kind
