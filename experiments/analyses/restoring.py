"""A run as it stands in one of its checkpoints: what every analysis begins with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from absl import flags

from experiments.loading import load_config
from framework.checkpoint import restore_newest
from framework.errors import UserError
from framework.experiment import Experiment
from framework.group import Group
from framework.population import Population
from framework.runs.contract import CONFIG
from framework.runs.folder import RunFolder
from framework.runs.object_store import COPY, refuse_address
from framework.train import Trainer
from framework.types import AgentState, Params, TrainState
from framework.update_rule import UpdateRule


@dataclasses.dataclass(frozen=True)
class RestoredRun:
    """A run's experiment, and its state at a step.

    Attributes:
      folder: of the run.
      trainer: the experiment, bound to its environments and networks.
      state: the whole state.
      step: of the run.
      group: which of its groups is looked at.
    """

    folder: Path
    trainer: Trainer
    state: TrainState
    step: int
    group: int = 0

    def __post_init__(self) -> None:
        count = len(self.trainer.populations)
        if not 0 <= self.group < count:
            raise UserError(f"the run has {count} groups, the first is 0: there is no group {self.group}")

    @property
    def name(self) -> str:
        """Of the run, for people."""
        return self.folder.resolve().name

    @property
    def experiment(self) -> Experiment:
        return self.trainer.experiment

    @property
    def rule(self) -> UpdateRule:
        return self.experiment.rule

    @property
    def meta_params(self) -> Params:
        """The rule's parameters at the step; ``{}`` for static rules."""
        return self.state.meta_params

    @property
    def population(self) -> Population:
        """The group that is looked at."""
        return self.trainer.populations[self.group]

    @property
    def agents(self) -> AgentState:
        """Its agents [P, ...]."""
        return self.state.groups[self.group].agents

    @property
    def tasks(self) -> list[str]:
        """The task of each agent [P]."""
        return [self.population.lifecycle.tasks[int(index)] for index in self.agents.life.task_index]

    @property
    def described(self) -> str:
        """Which run and step, in words."""
        group: Group = self.population.lifecycle.group
        agents = f"{group.agents} agent{'s' if group.agents > 1 else ''}"
        unit = "meta-step" if self.experiment.discovery is not None else "update"
        return f"{self.name}, {unit} {self.step:,}, {agents} of group {self.group}"


def restored(path: Path, options: flags.FlagValues, *, step: int | None = None, group: int = 0) -> RestoredRun:
    """A run at a step, by its own saved configuration.

    Args:
      path: the run's folder, or the folder above it where it holds one run alone.
      options: of the command line; what they bind replaces what the run was configured with.
      step: the step; the newest with a sound checkpoint by default.
      group: the group to look at.

    Raises:
      UserError: where there is no such run, checkpoint or group.
    """
    folder = RunFolder(_run_folder(path))
    loaded = load_config(str(folder.path / CONFIG), options)
    trainer = Trainer(loaded.experiment)
    found = restore_newest(folder.checkpoints, trainer.state_shapes(), at=step)
    if found is None:
        raise UserError(f"the run in {folder.path} has not saved a checkpoint yet: wait for its first one")
    return RestoredRun(folder=folder.path, trainer=trainer, state=found[1], step=found[0], group=group)


def _run_folder(path: Path) -> Path:
    refuse_address(path, COPY)
    if (path / CONFIG).is_file():
        return path
    runs = sorted(config.parent for config in path.glob(f"*/{CONFIG}"))
    if len(runs) == 1:
        return runs[0]
    if runs:
        names = ", ".join(run.name for run in runs)
        raise UserError(f"{path} holds several runs: name the folder of one of them ({names})")
    missing = "there is no run in" if path.is_dir() else "there is no folder"
    raise UserError(f"{missing} {path}: name the folder that `rulespace run` has written to")
