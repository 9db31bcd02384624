"""The verb ``run``: trains a population, or discovers a rule, from where the run folder stands to the end."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from absl import flags

from experiments.loading import load_experiment
from experiments.results import outcome, summary
from framework import hosts, registry
from framework.checkpoint import Checkpoints, state_sha256
from framework.config import ConfigError, Loaded, first_difference
from framework.errors import UserError
from framework.evaluate import final_return, final_returns
from framework.exit_status import INTERRUPTED, OK
from framework.experiment import Experiment
from framework.failures import FailureWatch, explained
from framework.host_environments.worlds import Worlds
from framework.runs.contract import Ending
from framework.runs.curves import draw_learning_curve
from framework.runs.folder import RunFolder, open_run
from framework.runs.held_out import Measurement
from framework.runs.loop import advance
from framework.runs.metrics import MetricsWriter, Writer, WrittenElsewhere
from framework.runs.progress import Progress
from framework.runs.stopping import StopSignals
from framework.train import Trainer


def define_flags(options: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir", None, "Folder of the run, or gs://BUCKET/FOLDER; several hosts share it.", flag_values=options
    )
    meaning = "HOST:PORT of process 0, where several processes do one run; auto on TPU virtual machines and Slurm."
    flags.DEFINE_string("coordinator", None, meaning, flag_values=options)
    flags.DEFINE_integer("processes", None, "How many they are.", lower_bound=1, flag_values=options)
    flags.DEFINE_integer("process", None, "Which of them this is, from 0.", lower_bound=0, flag_values=options)


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    """Runs the experiment of a config; exit status 0 when it finished, 130 when it was stopped and saved."""
    if options.workdir == "":
        raise flags.IllegalFlagValueError("--workdir names no folder: name one, or leave it out")
    _join_others(options)
    signals = StopSignals()
    # One of several that ended while it compiles would leave the others waiting: they stop together, when steps begin.
    with FailureWatch() as watch, signals if hosts.count() > 1 else contextlib.nullcontext():
        return _run(arguments, options, watch, signals)


def _join_others(options: flags.FlagValues) -> None:
    coordinator, processes, process = options.coordinator, options.processes, options.process
    alone = coordinator in (None, "auto")
    if alone != (processes is None) or alone != (process is None):
        message = "--coordinator=HOST:PORT, --processes=N and --process=I go together (--coordinator=auto stands alone)"
        raise flags.IllegalFlagValueError(message)
    if process is not None and process >= processes:
        raise flags.IllegalFlagValueError(f"--process={process} is none of the {processes}: they are counted from 0")
    hosts.join(coordinator, processes, process)


def _run(arguments: Sequence[str], options: flags.FlagValues, watch: FailureWatch, signals: StopSignals) -> int:
    loaded = load_experiment(arguments[0], options)
    experiment = loaded.experiment
    _refuse_missing_packages(loaded.name, experiment)
    default = Path("runs") / loaded.name / f"{loaded.config_hash}-s{experiment.seed}"
    with open_run(options.workdir or str(default)) as folder:
        return _run_in(folder, loaded, command_words(arguments, options), watch, signals)


def _run_in(folder: RunFolder, loaded: Loaded, words: Sequence[str], watch: FailureWatch, signals: StopSignals) -> int:
    with folder.claimed() if hosts.is_writer() else contextlib.nullcontext():
        if hosts.by_writer(lambda: _is_over(folder, loaded, words)):
            return OK
        trainer = Trainer(loaded.experiment)

        def record(error: str) -> None:
            if hosts.is_writer():
                folder.write_result(outcome(folder, loaded, trainer, ending=Ending.FAILED, error=error))

        def last_words(error: str) -> str:
            try:
                record(error)
                return f"{error}; {_what_is_saved(folder, loaded.experiment) or f'{folder} holds no state yet'}"
            finally:
                folder.release()

        watch.last_words = last_words
        try:
            _refuse_unshared_folder(folder)
            result = train(folder, loaded, trainer, signals)
        except Exception as error:
            watch.settle(error)
            with contextlib.suppress(Exception):  # What failed may have been the disk: say that, not this.
                record(explained(error))
                if hosts.is_writer() and (saved := _what_is_saved(folder, loaded.experiment)):
                    print(saved)
            raise
        if hosts.is_writer():
            folder.write_result(result)
            print(_ending(folder, result))
        return OK if result["status"] == Ending.FINISHED else INTERRUPTED


def _checkpoints(folder: RunFolder, experiment: Experiment) -> Checkpoints:
    objects = None if folder.copy is None else folder.copy.objects.below(folder.checkpoints.name)
    keep = experiment.logging.keep_checkpoints
    # The points up to a checkpoint have to be there before it is: no run that continues writes them again.
    return Checkpoints(folder.checkpoints, keep=keep, objects=objects, before_completing=folder.publish)


def _what_is_saved(folder: RunFolder, experiment: Experiment) -> str | None:
    if saved := _checkpoints(folder, experiment).steps():
        command = "the same command" if hosts.count() == 1 else "the same command on every host"
        return f"{folder} holds the state of step {max(saved):,}; {command} goes on from there"
    return None


def _is_over(folder: RunFolder, loaded: Loaded, words: Sequence[str]) -> bool:
    """Whether a folder holds the finished run; if not, its start is recorded there."""
    experiment = loaded.experiment
    _refuse_other_experiment(folder, loaded)
    _refuse_fewer_steps(folder, experiment)
    if _is_finished(folder, experiment):
        print(f"{folder} is finished: {summary(folder.result() or {})}")
        return True
    folder.start(
        config=loaded.config_text,
        operative_config=loaded.operative_text,
        config_hash=loaded.config_hash,
        seed=experiment.seed,
        arguments=words,
    )
    return False


def _refuse_unshared_folder(folder: RunFolder) -> None:
    """Before hours of learning and not at the first checkpoint."""
    if not hosts.is_writer():
        folder.fetch()
    seen = hosts.exchanged(folder.command())
    if strangers := [str(process) for process, command in enumerate(seen) if command != seen[0]]:
        raise UserError(
            f"{folder} is not the same folder for process {', '.join(strangers)} as for process 0: name one that "
            "all hosts share with --workdir"
        )


def command_words(arguments: Sequence[str], options: flags.FlagValues) -> list[str]:
    """The words after ``rulespace`` that start this run again."""
    files = [f"--gin_file={file}" for file in options.gin_file]
    bindings = [f"--gin_bindings={binding}" for binding in options.gin_bindings]
    workdir = [f"--workdir={options.workdir}"] if options.workdir else []
    return ["run", *arguments, *files, *bindings, *workdir]


def _refuse_missing_packages(name: str, experiment: Experiment) -> None:
    """Before hours of compiling and not after them."""
    held_out = () if experiment.held_out is None else experiment.held_out.groups
    for group in (*experiment.groups, *held_out):
        if (needed := registry.requirement_of(type(group.suite))) is not None:
            try:
                needed.refuse_missing_package()
            except UserError as error:
                raise UserError(f"{name} learns on {type(group.suite).__name__}, and {error}") from None


def _refuse_other_experiment(folder: RunFolder, loaded: Loaded) -> None:
    saved_hash, saved_seed = folder.saved_config_hash(), folder.saved_seed()
    if saved_hash not in (None, loaded.config_hash):
        raise UserError(
            f"{folder} holds another experiment ({_difference(folder, loaded)}): choose another folder with "
            "--workdir, or undo the difference to continue it"
        )
    if saved_seed not in (None, loaded.experiment.seed):
        raise UserError(
            f"{folder} holds a run with seed {saved_seed}, not {loaded.experiment.seed}: choose another folder "
            "with --workdir, or that seed to continue it"
        )


def _difference(folder: RunFolder, loaded: Loaded) -> str:
    """How the experiment saved in a folder differs from the one asked for."""
    try:
        difference = first_difference(folder.saved_config_text() or "", loaded)
    except ConfigError:
        difference = None
    return difference or "it was saved by a version of rulespace with other components or defaults"


def _refuse_fewer_steps(folder: RunFolder, experiment: Experiment) -> None:
    saved = _checkpoints(folder, experiment).steps()
    reached = max([*saved, (folder.result() or {"steps": 0})["steps"]])
    if reached > experiment.steps:
        raise UserError(
            f"{folder} holds a run of {reached:,} steps, more than the {experiment.steps:,} asked for: "
            f"choose another folder with --workdir, or --gin.STEPS={reached}"
        )


def _is_finished(folder: RunFolder, experiment: Experiment) -> bool:
    result = folder.result()
    return result is not None and result["status"] == Ending.FINISHED and result["steps"] == experiment.steps


def _ending(folder: RunFolder, result: Mapping[str, Any]) -> str:
    if result["status"] == Ending.FINISHED:
        return f"finished: {summary(result)}\nresults in {folder}, curve in {folder}/{folder.learning_curve.name}"
    return f"stopped at step {result['steps']:,}, state saved in {folder}; the same command continues it"


def train(folder: RunFolder, loaded: Loaded, trainer: Trainer, signals: StopSignals) -> dict[str, Any]:
    """Trains to the last step or to a signal, and tells the outcome as ``result.json`` does."""
    experiment = trainer.experiment
    checkpoints = _checkpoints(folder, experiment)
    held_out = None if experiment.held_out is None else Measurement(experiment, experiment.held_out)
    for mesh in (trainer.populations[0].agents.mesh, *(held_out.meshes if held_out else ())):
        hosts.introduce(mesh)
    with contextlib.ExitStack() as closing:
        worlds = closing.enter_context(Worlds(trainer)) if trainer.on_host else None
        restored = checkpoints.restore(trainer.state_shapes())
        if restored is not None:
            if hosts.is_writer():
                print(f"continuing {folder} from step {restored[0]:,}")
            if worlds is not None:
                restored = restored[0], worlds.restore(functools.partial(checkpoints.file, restored[0]), restored[1])
        resume_step, state = restored if restored is not None else (None, trainer.init(worlds))
        if worlds is not None:
            worlds.files()  # What cannot be saved is refused before anything is learned.
        with (
            signals,
            _writer(folder, resume_step) as writer,
            Progress(
                experiment.steps, description=loaded.name, initial=resume_step or 0, stream=_shown(closing)
            ) as progress,
        ):
            reached = advance(
                trainer,
                state,
                worlds=worlds,
                held_out=held_out,
                checkpoints=checkpoints,
                writer=writer,
                progress=progress,
                stop=lambda: signals.requested is not None,
            )
        finished = reached.step == experiment.steps
        # The state is saved: whoever is stopped from here on evaluates it again.
        evaluated = final_returns(trainer, reached.state) if finished else None
        files = worlds.files() if worlds else None
    result = outcome(folder, loaded, trainer, ending=Ending.FINISHED if finished else Ending.INTERRUPTED)
    unit = "update" if experiment.discovery is None else "meta-step"
    if hosts.is_writer():
        draw_learning_curve(folder.learning_curve, result["returns"], title=loaded.name, unit=unit)
    return result | {
        "steps": reached.step,
        "env_steps": trainer.env_steps(reached.step, reached.state),
        "wall_seconds": reached.wall_seconds,
        "final_return": final_return(evaluated),
        "final_returns": evaluated,
        "state_sha256": state_sha256(reached.state, files),
        "meta_params_sha256": state_sha256(reached.state.meta_params),
    }


def _writer(folder: RunFolder, resume_step: int | None) -> contextlib.AbstractContextManager[Writer]:
    if hosts.is_writer():
        return MetricsWriter(folder.path, resume_step=resume_step, after_point=folder.publish_now_and_then)
    return contextlib.nullcontext(WrittenElsewhere())


def _shown(closing: contextlib.ExitStack) -> TextIO | None:
    """Where progress is shown: the writer's standard output."""
    return None if hosts.is_writer() else closing.enter_context(open(os.devnull, "w"))
