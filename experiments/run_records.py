"""Run folders as tables and reports read them: found below folders, without a config being built."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from framework.errors import UserError
from framework.runs.contract import COMMAND, Ending
from framework.runs.folder import RunFolder
from framework.runs.object_store import COPY, refuse_address

NOT_STARTED, UNFINISHED = "not started", "unfinished"
"""A run without a result; those that have one are as `Ending` says."""

SEEDS = frozenset({"SEED", "Experiment.seed", "experiments.Experiment.seed"})
"""Names by which a config sets its seed."""

_BOOKKEEPING = re.compile(r"(experiments\.)?Experiment\.(evaluation|logging)$|(\w+\.)?(Evaluation|Logging)\.")
"""Bindings that say when something is measured or written, and not what is learned."""

_STATEMENT = re.compile(r"^([A-Za-z_][\w./]*) = ?(.*)$")
_SCALE = "scale"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a run folder says of its run.

    Attributes:
      folder: where it is.
      config: the config that was run, as its file is called.
      gin_files: that the command added.
      bindings: {name: value as it was written} that the command added; the last of a name.
      settings: {name: value} of the whole configuration; empty before the run started.
      status: ``finished``, ``failed``, ``interrupted``, ``unfinished`` (it runs, or was killed) or ``not started``.
      small: whether the run is on a smaller scale than its config's: it read a gin file of a folder ``scale``.
      result: ``result.json``, or empty.
      start: of its latest start: arguments, versions, source, devices.
    """

    folder: Path
    config: str
    gin_files: tuple[str, ...]
    bindings: Mapping[str, str]
    settings: Mapping[str, str]
    status: str
    small: bool
    result: Mapping[str, Any]
    start: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        return self.status == Ending.FINISHED

    @property
    def discovers(self) -> bool:
        """Whether the run changes its rule: its agents' returns are then not those of a rule."""
        return self.settings.get("experiments.Experiment.discovery", "None") != "None"

    @property
    def seed(self) -> str:
        return str(self.result.get("seed", self.bindings.get("SEED", self.settings.get("SEED", "?"))))

    @property
    def agents(self) -> int:
        """How many agents learned."""
        return max(1, sum(len(of_task) for of_task in (self.result.get("final_returns") or {}).values()))

    @property
    def env_steps(self) -> float:
        """Steps that each agent took in its environments."""
        return float(self.result.get("env_steps", 0)) / self.agents

    def identity(self, left_out: Collection[str]) -> tuple[Any, ...]:
        """What is equal for runs of one experiment: all of the command but its seed and the names left out."""
        bindings = [item for item in self.bindings.items() if item[0] not in {*SEEDS, *left_out}]
        return (self.config, self.gin_files, tuple(sorted(bindings)))

    def label(self, left_out: Collection[str]) -> str:
        """The experiment's config, and what the command added to what is learned, but for how it was made small."""
        files = [file for file in self.gin_files if not is_scale(file)]
        told = [name for name in self.bindings if name not in {*SEEDS, *left_out} and not _BOOKKEEPING.match(name)]
        return ", ".join([self.config, *files, *(f"{name} = {self.bindings[name]}" for name in told)])

    def final_returns(self, task: str) -> list[float]:
        """Mean return of complete episodes after training, of each agent that learned a task."""
        return [value for value in (self.result.get("final_returns") or {}).get(task, ()) if value is not None]

    def curve(self, task: str) -> list[tuple[float, float]]:
        """Mean return of the training episodes over environment steps, of all agents, where any ended."""
        points = (self.result.get("returns") or {}).get(task, ())
        return [(float(steps), float(value)) for _, steps, value in points if value is not None]

    def tasks(self) -> list[str]:
        """The tasks of the run; none before its first result."""
        return list(self.result.get("returns") or self.result.get("final_returns") or {})


def find_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Every run below some folders, by path, and the units of sweeps there that were not started.

    Raises:
      UserError: a folder is not there, or there is no run in any.
    """
    for folder in folders:
        refuse_address(folder, COPY)
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: name folders that `rulespace run` or `rulespace launch` wrote to")
    found: dict[Path, RunRecord] = {}
    for folder in folders:
        for path in _run_folders(folder):
            found.setdefault(path.resolve(), read_run(path))
    for folder in folders:
        for sweep in sorted(folder.rglob("sweep.json")):
            for unit in _units(sweep):
                found.setdefault(unit.folder.resolve(), unit)
    if not found:
        raise UserError(f"there is no run in {', '.join(map(str, folders))}, nor in any folder below")
    return [found[path] for path in sorted(found)]


def grouped_runs(runs: Iterable[RunRecord], left_out: Collection[str]) -> list[list[RunRecord]]:
    """Runs by experiment: those of one differ in their seed, and in the names left out, alone."""
    grouped: dict[tuple[Any, ...], list[RunRecord]] = {}
    for run in runs:
        grouped.setdefault(run.identity(left_out), []).append(run)
    return list(grouped.values())


def shared_bindings(groups: Sequence[Sequence[RunRecord]]) -> set[str]:
    """Names that the commands of all groups bind to the same value: they tell none of several apart."""
    if len(groups) < 2:
        return set()
    return {name for name, _ in set.intersection(*(set(group[0].bindings.items()) for group in groups))}


def read_run(folder: Path) -> RunRecord:
    """The run of one folder that has been started.

    Raises:
      RunFolderError: a file of it is damaged.
    """
    run = RunFolder(folder)
    command, result = run.command() or {}, run.result()
    start = (command.get("starts") or [{}])[-1]
    config, gin_files, bindings = parse_arguments(start.get("arguments", []))
    return RunRecord(
        folder=folder,
        config=config,
        gin_files=gin_files,
        bindings=bindings,
        settings=parse_settings(run.saved_config_text() or ""),
        status=UNFINISHED if result is None else str(result.get("status", UNFINISHED)),
        small=is_small(start.get("arguments", [])),
        result=result or {},
        start=start,
    )


def parse_arguments(arguments: Sequence[str]) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """The config, the gin files and the bindings of ``rulespace run``'s arguments, however they are spelled."""
    words = list(arguments[1:] if arguments[:1] == ["run"] else arguments)
    config, files, bindings = "", [], {}
    for word in words:
        name, equals, value = word.partition("=")
        if not word.startswith("--"):
            config = config or PurePath(word).stem
        elif name == "--gin_file":
            files.append(value)
        elif name == "--gin_bindings":
            key, _, bound = value.partition("=")
            bindings[key.strip()] = bound.strip()
        elif name.startswith("--gin.") and equals:
            bindings[name.removeprefix("--gin.").strip()] = value.strip()
    return config, tuple(files), bindings


def is_small(arguments: Sequence[str]) -> bool:
    """Whether a command asks for a smaller scale: by a file of a folder ``scale``, or a config that includes one."""
    _, files, _ = parse_arguments(arguments)
    named = [word for word in arguments if not word.startswith("--") and word.endswith(".gin")]
    if any(map(is_scale, (*files, *named))):
        return True
    included = re.compile(rf"^include\s+['\"](?:.*/)?{_SCALE}/", re.MULTILINE)
    return any(included.search(Path(file).read_text(errors="replace")) for file in named if Path(file).is_file())


def is_scale(file: str) -> bool:
    """Whether a gin file makes experiments smaller: it lies in a folder ``scale``."""
    return PurePath(file).parent.name == _SCALE


def parse_settings(text: str) -> dict[str, str]:
    """{name: value} of a ``config.gin`` as runs write it: one statement begins at the start of a line."""
    settings: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if found := _STATEMENT.match(line):
            name = found[1]
            settings[name] = found[2]
        elif name and line.strip():
            settings[name] = f"{settings[name]} {line.strip()}".strip()
    return settings


def _run_folders(top: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(top):
        if COMMAND in files:
            below[:] = []  # A run folder holds no other.
            yield Path(folder)
        below.sort()


def _units(sweep: Path) -> Iterator[RunRecord]:
    """The units of a launched sweep, as runs that are not started."""
    try:
        units = json.loads(sweep.read_bytes())["units"]
        described = [(unit["name"], list(unit["arguments"])) for unit in units]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{sweep} describes no sweep ({error!r}): launch it again, or move the file away") from None
    for name, arguments in described:
        config, gin_files, bindings = parse_arguments(arguments)
        yield RunRecord(
            folder=sweep.parent / name,
            config=config,
            gin_files=gin_files,
            bindings=bindings,
            settings={},
            status=NOT_STARTED,
            small=is_small(arguments),
            result={},
            start={},
        )
