"""A grid on this machine: jobs of XManager's local executor, so many at once, none of which outlives the launcher."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from absl import flags

from framework.errors import UserError
from framework.host_crew import usable_cores
from framework.runs.storage import strict_json
from launch.grid import GridFolder, GridUnit
from launch.places import Request, told
from launch.processes import ProcessId, own_command
from launch.states import State, UnitStatus, status_of

_ASK_AGAIN_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class LocalJob:
    """What XManager is asked to run for a unit: a program of this machine, with its exact arguments."""

    name: str
    executable: str
    arguments: tuple[str, ...]


RUN = tuple(own_command("experiments.cli", "run"))
"""``rulespace run``, without a shell and whatever the search path finds under that name."""


def local_job(grid: GridFolder, unit: GridUnit, program: Sequence[str] = RUN) -> LocalJob:
    """The job of a unit, as a child of this process; ``program`` is what its arguments are given to."""
    supervised = own_command(
        "launch.job",
        f"--launcher={strict_json(ProcessId.of(os.getpid()).as_json())}",
        f"--record={grid.job_record(unit.name)}",
        f"--log={grid.log(unit.name)}",
        "--",
        *program,
        *unit.arguments,
    )
    return LocalJob(unit.name, supervised[0], tuple(supervised[1:]))


def run_here(
    grid: GridFolder,
    units: Sequence[GridUnit],
    *,
    title: str,
    max_parallel: int,
    tell: Callable[[UnitStatus], None],
    program: Sequence[str] = RUN,
) -> bool:
    """Runs units to their ends, or until SIGINT, SIGTERM or SIGHUP; then those that run save their state and stop.

    Args:
      grid: their grid, claimed by the caller.
      units: that are to run.
      title: of the experiment in XManager's database.
      max_parallel: units that run at once.
      tell: hears of every start and every end of a unit.
      program: what the arguments of a unit are given to.

    Returns:
      Whether it came to the end without being stopped.
    """
    return asyncio.run(_Runner(grid, max_parallel, tell, program).run(units, title))


class _Runner:
    def __init__(
        self, grid: GridFolder, max_parallel: int, tell: Callable[[UnitStatus], None], program: Sequence[str]
    ) -> None:
        self._program = program
        self._grid = grid
        self._tell = tell
        self._slots = asyncio.Semaphore(max_parallel)
        self._asked = 0

    async def run(self, units: Sequence[GridUnit], title: str) -> bool:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop)
        async with _experiment(title) as experiment:
            await asyncio.gather(*(self._run_unit(experiment, unit) for unit in units))
        return not self._asked

    async def _run_unit(self, experiment: Any, unit: GridUnit) -> None:
        from xmanager import xm, xm_local

        async with self._slots:
            if self._asked:
                return
            self._grid.job_record(unit.name).unlink(missing_ok=True)  # Of an earlier start.
            job = local_job(self._grid, unit, self._program)
            [executable] = experiment.package([xm.Packageable(xm.Binary(path=job.executable), xm_local.Local.Spec())])
            work_unit = await experiment.add(
                xm.Job(
                    executable=executable,
                    executor=xm_local.Local(experimental_stream_output=False),
                    args=list(job.arguments),
                    name=job.name,
                )
            )
            self._tell(UnitStatus(unit, State.RUNNING))
            ended = asyncio.ensure_future(work_unit.wait_until_complete())
            while not ended.done():
                await asyncio.wait([ended], timeout=_ASK_AGAIN_SECONDS)
                if self._asked and not ended.done():
                    self._stop_job(unit)
            with contextlib.suppress(xm.ExperimentUnitFailedError):  # Its record says how it ended.
                ended.result()
            self._tell(status_of(self._grid, unit))

    def _stop(self) -> None:
        self._asked += 1

    def _stop_job(self, unit: GridUnit) -> None:
        """Asks a job to save its state and stop; when it was asked twice, ends all of it at once."""
        record = self._grid.process_of(unit.name)
        if record is None:  # It has only just begun, and looks for its launcher as soon as it runs.
            return
        process = ProcessId(**record["process"])
        if self._asked == 1:
            process.send(signal.SIGTERM)
        elif process.alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(os.getpgid(process.pid), signal.SIGKILL)


@contextlib.asynccontextmanager
async def _experiment(title: str) -> AsyncIterator[Any]:
    """An experiment of XManager's local backend that leaves it to us who waits for which job."""
    from xmanager import xm_local
    from xmanager.xm_local import execution

    if not flags.FLAGS.is_parsed():  # XManager's own settings are absl flags, and have defaults.
        flags.FLAGS(["rulespace"])
    async with xm_local.create_experiment(title) as experiment:
        try:
            yield experiment
        finally:
            # All jobs have ended. XManager would raise again what the first failed one did, without its name, and
            # would say at exit that it terminates them.
            experiment._experiment_units.clear()
            execution._local_jobs.clear()
            while not experiment._running_tasks.empty():
                with contextlib.suppress(Exception):
                    await asyncio.wrap_future(experiment._running_tasks.get_nowait())


@dataclasses.dataclass(frozen=True)
class ThisMachine:
    """Runs the units here, one beside the other.

    Attributes:
      max_parallel: so many at once.
    """

    max_parallel: int
    chips: int = 0

    @property
    def description(self) -> str:
        return f"this machine, {self.max_parallel} at once"

    def folder_of(self, grid: GridFolder, name: str) -> str:
        return str(grid.run_folder(name))

    def manifests(self, grid: GridFolder, units: Sequence[GridUnit]) -> Mapping[str, str]:
        """XManager's jobs: what it packages, with which executor, and the arguments."""
        return {
            f"{unit.name}.json": strict_json(
                {
                    "name": unit.name,
                    "executable": {"binary": "rulespace"},
                    "executor": "xm_local.Local",
                    "args": ["run", *unit.arguments],
                },
                indent=2,
            )
            for unit in units
        }

    def preflight(self) -> None:
        refuse_missing_xmanager()

    def run(self, grid: GridFolder, units: Sequence[GridUnit], title: str) -> bool:
        return run_here(
            grid,
            units,
            title=title,
            max_parallel=self.max_parallel,
            tell=lambda status: print(told(status), flush=True),
        )


def refuse_missing_xmanager() -> None:
    """Raises `framework.errors.UserError` where grids cannot be launched from."""
    if importlib.util.find_spec("xmanager") is None:
        raise UserError("grids are run by XManager, which is not installed: pip install 'rulespace[launch]'")


def place(request: Request) -> ThisMachine:
    if request.cluster or request.settings:
        raise UserError("--cluster describes TPUs: use it with --on=vertex or --on=gke")
    return ThisMachine(request.max_parallel or usable_cores())
