"""The verb ``run``: trains an agent in a run folder, from where the folder stands to the end."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments.loading import load_experiment
from framework import keys
from framework.checkpoint import Checkpoints, state_sha256
from framework.config import Loaded, first_difference
from framework.environment import Batched, check_environment
from framework.errors import UserError
from framework.evaluate import episode_returns
from framework.experiment import Experiment
from framework.metrics import MetricsWriter, read_metrics
from framework.progress import Progress
from framework.run_folder import RunFolder
from framework.stopping import StopSignals
from framework.storage import RunFolderError
from framework.train import Trainer, mean_metrics, with_metrics_reset
from framework.types import TrainState

OK, INTERRUPTED = 0, 130
POLL_SECONDS = 1.0
"""How long the device is kept busy between two looks at the signals and the clock."""


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    """Runs the experiment of a config; exit status 0 when it finished, 130 when it was stopped and saved."""
    loaded = load_experiment(arguments[0], options)
    experiment = loaded.experiment
    default = Path("runs") / loaded.name / f"{loaded.config_hash}-s{experiment.seed}"
    folder = RunFolder(Path(options.workdir) if options.workdir else default)
    with folder.claimed():
        _refuse_other_experiment(folder, loaded)
        _refuse_fewer_steps(folder, experiment)
        if _is_finished(folder, experiment):
            print(f"{folder.path} is finished: {_summary(folder.result() or {})}")
            return OK
        folder.start(
            config=loaded.config_text,
            operative_config=loaded.operative_text,
            config_hash=loaded.config_hash,
            seed=experiment.seed,
            arguments=command_words(arguments, options),
        )
        run = Run(folder, loaded.name, loaded.config_hash, experiment)
        try:
            result = run.to_the_end()
        except Exception as error:
            with contextlib.suppress(RunFolderError):  # What failed may have been the disk: say that, not this.
                folder.write_result(run.outcome("failed", error=str(error) or type(error).__name__))
            raise
        folder.write_result(result)
        print(_ending(folder, result))
        return OK if result["status"] == "finished" else INTERRUPTED


def command_words(arguments: Sequence[str], options: flags.FlagValues) -> list[str]:
    """The words after ``rulespace`` that start this run again."""
    files = [f"--gin_file={file}" for file in options.gin_file]
    bindings = [f"--gin_bindings={binding}" for binding in options.gin_bindings]
    workdir = [f"--workdir={options.workdir}"] if options.workdir else []
    return ["run", *arguments, *files, *bindings, *workdir]


def _refuse_other_experiment(folder: RunFolder, loaded: Loaded) -> None:
    saved_hash, saved_seed = folder.saved_config_hash(), folder.saved_seed()
    if saved_hash not in (None, loaded.config_hash):
        difference = first_difference(folder.saved_config_text() or "", loaded)
        raise UserError(
            f"{folder.path} holds another experiment ({difference}): choose another folder with --workdir, "
            "or undo the difference to continue it"
        )
    if saved_seed not in (None, loaded.experiment.seed):
        raise UserError(
            f"{folder.path} holds a run with seed {saved_seed}, not {loaded.experiment.seed}: choose another folder "
            "with --workdir, or that seed to continue it"
        )


def _refuse_fewer_steps(folder: RunFolder, experiment: Experiment) -> None:
    saved = Checkpoints(folder.checkpoints, keep=experiment.logging.keep_checkpoints).steps()
    reached = max([*saved, (folder.result() or {"steps": 0})["steps"]])
    if reached > experiment.steps:
        raise UserError(
            f"{folder.path} holds a run of {reached:,} steps, more than the {experiment.steps:,} asked for: "
            "choose another folder with --workdir"
        )


def _is_finished(folder: RunFolder, experiment: Experiment) -> bool:
    result = folder.result()
    return result is not None and result["status"] == "finished" and result["steps"] == experiment.steps


def _summary(result: Mapping[str, Any]) -> str:
    final = result["final_return"]
    text = "no episodes evaluated" if final is None else f"final return {final:.4g}"
    return f"{text} after {result['steps']:,} steps, {result['env_steps']:,} environment steps"


def _ending(folder: RunFolder, result: Mapping[str, Any]) -> str:
    if result["status"] == "finished":
        return f"finished: {_summary(result)}\nresults in {folder.path}, curve in {folder.learning_curve}"
    return f"stopped at step {result['steps']:,}, state saved in {folder.path}; the same command continues it"


@dataclasses.dataclass
class Run:
    """One run: an experiment, its folder, and how far it has come."""

    folder: RunFolder
    name: str
    config_hash: str
    experiment: Experiment
    state: TrainState | None = None
    wall_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.trainer = Trainer(self.experiment)

    def to_the_end(self) -> dict[str, Any]:
        """Trains to the last step or to a signal, and tells the outcome."""
        check_environment(self.trainer.environments.environment)
        settings = self.experiment.logging
        checkpoints = Checkpoints(self.folder.checkpoints, keep=settings.keep_checkpoints)
        restored = checkpoints.restore(jax.eval_shape(self.trainer.init_with, self.trainer.meta_params_shapes()))
        resume_step, self.state = restored if restored is not None else (None, self.trainer.init())
        step = resume_step or 0
        if resume_step is not None:
            print(f"continuing {self.folder.path} from step {resume_step:,}")

        with (
            StopSignals() as signals,
            MetricsWriter(self.folder.path, resume_step=resume_step) as writer,
            Progress(self.experiment.steps, description=self.name, initial=step) as progress,
        ):
            begin = time.monotonic() - writer.wall_seconds_before
            saved = resume_step
            chunk = 1
            while step < self.experiment.steps and signals.requested is None:
                count = min(chunk, self._next_stop(step) - step)
                started = time.monotonic()
                self.state = self.trainer.steps(self.state, jnp.asarray(count, jnp.int32))
                jax.block_until_ready(self.state.step)
                now = time.monotonic()
                chunk = max(1, min(2 * chunk, int(count * POLL_SECONDS / max(now - started, 1e-3))))
                step += count
                self.wall_seconds = now - begin
                if self._at(step, settings.interval):
                    self._log(writer, progress, step, count / (now - started))
                if self._at(step, settings.checkpoint_interval):
                    checkpoints.save(step, self.state)
                    saved = step
            if saved != step:
                checkpoints.save(step, self.state)
            self.wall_seconds = time.monotonic() - begin
        stopped = step < self.experiment.steps
        return self.outcome("interrupted" if stopped else "finished", evaluate=not stopped)

    def _next_stop(self, step: int) -> int:
        """The next step at which something is written."""
        settings = self.experiment.logging
        intervals = (settings.interval, settings.checkpoint_interval)
        return min(self.experiment.steps, *((step // interval + 1) * interval for interval in intervals))

    def _at(self, step: int, interval: int) -> bool:
        return step % interval == 0 or step == self.experiment.steps

    def _log(self, writer: MetricsWriter, progress: Progress, step: int, updates_per_second: float) -> None:
        assert self.state is not None
        means = mean_metrics(self.state)
        self.state = with_metrics_reset(self.state)
        speed = updates_per_second * self.experiment.num_environments * self.experiment.trajectory_length
        writer.write(
            step, self.trainer.env_steps(step), self.wall_seconds, means | {"speed/env_steps_per_second": speed}
        )
        progress.update(step, episode_return=means["episode/return"], env_steps_per_second=speed)

    def outcome(self, status: str, *, evaluate: bool = False, error: str | None = None) -> dict[str, Any]:
        """What ``result.json`` says."""
        step = 0 if self.state is None else int(self.state.step)
        points = [point for point in read_metrics(self.folder.path) if point["step"] <= step]
        returns = {self.trainer.task: windows(points, self.experiment.evaluation.interval)}
        if self.state is not None:
            from framework.curves import draw_learning_curve

            draw_learning_curve(self.folder.learning_curve, returns, title=self.name)
        return {
            "status": status,
            "experiment": self.name,
            "config_hash": self.config_hash,
            "seed": self.experiment.seed,
            "steps": step,
            "env_steps": self.trainer.env_steps(step),
            "wall_seconds": self.wall_seconds,
            "final_return": self._final_return() if evaluate else None,
            "returns": returns,
            "state_sha256": None if self.state is None else state_sha256(self.state),
            "meta_params_sha256": None if self.state is None else state_sha256(self.state.meta_params),
            "error": error,
        }

    def _final_return(self) -> float | None:
        """Mean return of complete episodes in environments of their own."""
        episodes = self.experiment.evaluation.episodes
        if episodes == 0:
            return None
        assert self.state is not None
        environments = Batched(self.trainer.environments.environment, episodes)
        key = keys.role_key(self.state.root_key, keys.Role.EVALUATION)
        params = self.state.agent.learner.params
        return float(episode_returns(self.trainer.network, environments, params, key).mean())


def windows(points: Iterable[Mapping[str, Any]], interval: int) -> list[list[float | int | None]]:
    """``[step, env_steps, mean episode return]`` of every window of steps in which an episode was completed.

    Args:
      points: the logged points, with ``episode/completed`` and ``episode/return``.
      interval: steps of a window; a multiple of the points' interval.
    """
    rows: dict[int, list[Mapping[str, Any]]] = {}
    for point in points:
        rows.setdefault(-(-point["step"] // interval), []).append(point)
    curve: list[list[float | int | None]] = []
    for window in rows.values():
        episodes = sum(point["episode/completed"] for point in window)
        total = sum(
            point["episode/return"] * point["episode/completed"] for point in window if point["episode/completed"]
        )
        curve.append([window[-1]["step"], window[-1]["env_steps"], total / episodes if episodes else None])
    return curve
