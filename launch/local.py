"""A grid on this machine: jobs of XManager's local executor, so many at once, none of which outlives the launcher."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from framework.errors import UserError
from framework.host_environments.crew import usable_cores
from framework.runs.storage import strict_json
from launch.grid import GridFolder, GridUnit
from launch.places import Request, told
from launch.processes import ProcessId, own_command
from launch.states import State, UnitStatus, runs_here, status_of
from launch.xmanager_experiment import forget_errors, new_experiment, refuse_missing_xmanager

_ASK_AGAIN_SECONDS = 0.5
_LOOK_SECONDS = 0.1
_KILLED_WITHIN_SECONDS = 10.0  # A large process takes some time to go.

RUN = tuple(own_command("experiments.cli", "run"))
"""``rulespace run``, without a shell and whatever the search path finds under that name."""


class _Runner:
    """Runs units, and on SIGINT, SIGTERM or SIGHUP sees to it that they save their state and stop."""

    def __init__(self, grid: GridFolder, max_parallel: int, program: Sequence[str]) -> None:
        self._grid = grid
        self._program = program
        self._slots = asyncio.Semaphore(max_parallel)
        self._asked = 0

    async def run(self, units: Sequence[GridUnit], title: str) -> bool:
        """Whether it came to the end without being stopped; ``title`` names it in XManager's database."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # By nohup.
                loop.add_signal_handler(number, self._stop)
        async with _experiment(title) as experiment:
            await asyncio.gather(*(self._run_unit(experiment, unit) for unit in units))
        return not self._asked

    async def _run_unit(self, experiment: Any, unit: GridUnit) -> None:
        from xmanager import xm, xm_local

        async with self._slots:
            if not await self._wants_to_be_run(unit):
                return
            self._grid.job_record(unit.name).unlink(missing_ok=True)  # Of an earlier start.
            path, *arguments = self._job(unit)
            [executable] = experiment.package([xm.Packageable(xm.Binary(path=path), xm_local.Local.Spec())])
            work_unit = await experiment.add(
                xm.Job(
                    executable=executable,
                    executor=xm_local.Local(experimental_stream_output=False),
                    args=arguments,
                    name=unit.name,
                )
            )
            _tell(UnitStatus(unit, State.RUNNING))
            ended = asyncio.ensure_future(work_unit.wait_until_complete())
            while not ended.done():
                await asyncio.wait([ended], timeout=_ASK_AGAIN_SECONDS)
                if self._asked and not ended.done():
                    self._stop_job(unit)
            with contextlib.suppress(xm.ExperimentUnitFailedError):  # Its record says how it ended.
                ended.result()
            await self._gone(unit)
            _tell(status_of(self._grid, unit))

    def _job(self, unit: GridUnit) -> list[str]:
        """The command that runs a unit as a child of this process, and notes how it goes."""
        return own_command(
            "launch.job",
            f"--launcher={strict_json(ProcessId.of(os.getpid()).as_json())}",
            f"--record={self._grid.job_record(unit.name)}",
            f"--log={self._grid.log(unit.name)}",
            "--",
            *self._program,
            *unit.arguments,
        )

    async def _wants_to_be_run(self, unit: GridUnit) -> bool:
        """Waits while others run a unit: the job of a launcher that was killed needs a while to save its state."""
        if runs_here(self._grid, unit):
            print(f"waiting for {unit.name}, which another process runs", flush=True)
        while not self._asked and runs_here(self._grid, unit):
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
        standing = status_of(self._grid, unit)
        if standing.state is State.FINISHED:  # By another since we began.
            _tell(standing)
        return not self._asked and standing.state is not State.FINISHED

    async def _gone(self, unit: GridUnit) -> None:
        """Waits for the processes of a unit whose job has ended: it may have been killed before its run."""
        patience = _KILLED_WITHIN_SECONDS
        while patience > 0 and runs_here(self._grid, unit):
            await asyncio.sleep(_LOOK_SECONDS)
            if self._asked > 1:
                patience -= _LOOK_SECONDS

    def _stop(self) -> None:
        self._asked += 1
        if self._asked == 1:
            print("stopping: the units that run save their states; once more ends them at once", flush=True)

    def _stop_job(self, unit: GridUnit) -> None:
        """Asks a job to save its state and stop; when it was asked twice, ends all of it at once."""
        process = self._grid.running_job(unit.name)
        if process is None:  # It has only just begun, and looks for its launcher as soon as it runs.
            return
        if self._asked == 1:
            process.send(signal.SIGTERM)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(os.getpgid(process.pid), signal.SIGKILL)


@contextlib.asynccontextmanager
async def _experiment(title: str) -> AsyncIterator[Any]:
    """An experiment of XManager's local backend that leaves it to us who waits for which job."""
    from xmanager.xm_local import execution

    async with new_experiment(title) as experiment:
        try:
            yield experiment
        finally:
            # All jobs have ended. XManager would raise again what the first failed one did, without its name, and
            # would say at exit that it terminates them.
            experiment._experiment_units.clear()
            execution._local_jobs.clear()
            await forget_errors(experiment)


@dataclasses.dataclass(frozen=True)
class ThisMachine:
    """Runs the units here, one beside the other.

    Attributes:
      max_parallel: so many at once.
      program: what the arguments of a unit are given to.
    """

    max_parallel: int
    program: Sequence[str] = RUN
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
        return asyncio.run(_Runner(grid, self.max_parallel, self.program).run(units, title))


def _tell(status: UnitStatus) -> None:
    print(told(status), flush=True)


def place(request: Request) -> ThisMachine:
    if request.cluster or request.settings:
        raise UserError("--cluster describes TPUs: use it with --on=vertex or --on=gke")
    return ThisMachine(request.max_parallel or usable_cores())
