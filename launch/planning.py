"""Before a grid is started: every unit's config is checked, and what all of it will cost is estimated."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import track

from framework.errors import UserError
from framework.gin_files.mistakes import COMMAND_LINE, ConfigError, Mistake
from launch.grid import GridUnit
from launch.processes import own_command, own_environment
from launch.states import State, UnitStatus
from launch.sweep import SEED, Unit

_SEED_FLAG = f"--gin.{SEED}="
_SEEDS = 2**32
_VALUE = re.compile(r"(--gin\.[^=]+)=.*?: ", re.DOTALL)


def checked(units: Sequence[Unit], folder_of: Callable[[Unit], str]) -> tuple[GridUnit, ...]:
    """The units with what each will be; configs that differ in the seed alone are checked once.

    The checks are made by one process of their own, on the CPU: they build and trace every experiment.

    Args:
      units: of a sweep.
      folder_of: gives the run folder of a unit.

    Raises:
      ConfigError: all mistakes of all units, each once.
    """
    first_of: dict[tuple[str, ...], Unit] = {}
    for unit in units:
        first_of.setdefault(_without_seed(unit), unit)
    answers = dict(zip(first_of, _ask([unit.arguments for unit in first_of.values()]), strict=True))
    _refuse_mistakes(units, answers)
    planned = []
    for unit in units:
        answer = answers[_without_seed(unit)]
        planned.append(
            GridUnit(
                name=unit.name,
                arguments=unit.in_folder(folder_of(unit)),
                folder=folder_of(unit),
                config_hash=answer["config_hash"],
                seed=unit.settings.get(SEED, answer["seed"]),
                steps=answer["steps"],
                env_steps=answer["env_steps"],
                parameters=answer["parameters"],
                memory_megabytes=answer["memory_megabytes"],
            )
        )
    return tuple(planned)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What is left to do of a grid.

    Attributes:
      units: that are not finished.
      env_steps: agent steps of them.
      largest_megabytes: memory of the largest unit's state.
      steps_per_second: agent steps of a unit; ``None`` if nobody knows.
      rate_source: where that is from, for people.
    """

    units: int
    env_steps: int
    largest_megabytes: float
    steps_per_second: float | None
    rate_source: str

    @property
    def unit_hours(self) -> float | None:
        """Hours that the units take one after the other."""
        return None if self.steps_per_second is None else self.env_steps / self.steps_per_second / 3600

    def text(self, *, side_by_side: int, chips: int) -> str:
        """The estimate in words.

        Args:
          side_by_side: units that run at once.
          chips: accelerators of a unit; 0 where there are none.
        """
        size = f"{self.env_steps:,} environment steps, at most {self.largest_megabytes:,.1f} MB of state a unit"
        if self.unit_hours is None:
            return f"{size}; hours: unknown until a unit has finished, or with --steps_per_second=RATE"
        hours = self.unit_hours / max(1, min(side_by_side, self.units))
        device_hours = f", {self.unit_hours * chips:,.1f} chip-hours" if chips else ""
        rate = f"{self.steps_per_second:,.0f} steps/s of a unit {self.rate_source}"
        return f"{size}; about {_duration(hours)} with {side_by_side} at once{device_hours} ({rate})"


def estimate(statuses: Sequence[UnitStatus], steps_per_second: float | None) -> Estimate:
    """What is left of a grid, at a given rate or at that of its finished units."""
    left = [status for status in statuses if status.state is not State.FINISHED]
    done = [status for status in statuses if status.state is State.FINISHED and status.wall_seconds > 0]
    source = "as given"
    if steps_per_second is None and done:
        steps_per_second = sum(status.env_steps for status in done) / sum(status.wall_seconds for status in done)
        source = f"as measured on {len(done)} finished"
    return Estimate(
        units=len(left),
        env_steps=sum(max(0, status.unit.env_steps - status.env_steps) for status in left),
        largest_megabytes=max((status.unit.memory_megabytes for status in statuses), default=0.0),
        steps_per_second=steps_per_second,
        rate_source=source,
    )


def _without_seed(unit: Unit) -> tuple[str, ...]:
    """The arguments that tell configs apart; a seed that can be none is checked as all else is."""
    return tuple(word for word in unit.arguments if not _is_seed(word))


def _is_seed(word: str) -> bool:
    value = word.removeprefix(_SEED_FLAG)
    return word.startswith(_SEED_FLAG) and value.isdecimal() and int(value) < _SEEDS


def _ask(argument_lists: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    environment = {**own_environment(), "JAX_PLATFORMS": "cpu"}
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            own_command("experiments.grid_check"), env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
        ) as checker,
    ):  # fmt: skip
        assert checker.stdin is not None
        assert checker.stdout is not None
        with contextlib.suppress(BrokenPipeError), checker.stdin as questions:  # It says why on its standard error.
            json.dump(argument_lists, questions)
        lines = _shown_in_terminal(checker.stdout, len(argument_lists))
        answers = [json.loads(line) for line in lines]
        if checker.wait() or len(answers) != len(argument_lists):
            said.seek(0)
            reason = said.read().strip() or f"it ended with status {checker.returncode}"
            raise UserError(f"the configs of the units could not be checked: {reason}")
    return answers


def _shown_in_terminal(lines: Iterable[str], number: int) -> Iterable[str]:
    """The lines, with a bar that says how many have come; large experiments take seconds each to check."""
    console = Console(stderr=True)
    what = "checking configs"
    return track(lines, what, number, console=console, transient=True, disable=not console.is_terminal)


def _refuse_mistakes(units: Sequence[Unit], answers: Mapping[tuple[str, ...], dict[str, Any]]) -> None:
    """Each mistake once, with the units that make it; values of an axis that share one are one."""
    makers: dict[tuple[str, int, str], list[str]] = collections.defaultdict(list)
    shown: dict[tuple[str, int, str], str] = {}
    for unit in units:
        for file, line, message in answers[_without_seed(unit)]["mistakes"]:
            # An argument's position differs between units, its text is the same.
            mistake = (file, 0 if file == COMMAND_LINE else line, _VALUE.sub(r"\1: ", message, count=1))
            shown.setdefault(mistake, message)
            makers[mistake].append(unit.name)
    if makers:
        raise ConfigError(
            Mistake(file, line, f"{shown[file, line, key]} ({_some(names, len(units))})")
            for (file, line, key), names in makers.items()
        )


def _some(names: Sequence[str], of: int) -> str:
    if len(names) == of:
        return "every unit"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _duration(hours: float) -> str:
    return str(datetime.timedelta(seconds=max(1, round(hours * 3600))))
