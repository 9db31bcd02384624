"""The settings of each benchmark are those of the paper's table of hyperparameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.optimizers import AdamW
from components.replays import Uniform
from experiments import published
from framework.config import load, shipped_gin_folder
from framework.experiment import Experiment
from framework.numbers import Schedule

BENCHMARKS = sorted(path.stem for path in (shipped_gin_folder() / "benchmarks").glob("*.gin"))
FRAMES_OF_A_STEP = {"atari": 4, "dmlab30": 4}
WHOLE = {"crafter": 1}  # Environments that give a batch more fresh trajectories than its replay ratio asks for.


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, str]]:
    return {row["hyperparameter"]: row for row in published.rows("hyperparameters")}


def experiment_on(benchmark: str, folder: Path) -> Any:
    """An experiment with the benchmark's settings, on an environment that needs nothing installed."""
    file = folder / "experiment.gin"
    stacked = "FrameStack.torso = @torsos.MLP()\nFrameStack.frames = %FRAMES" if benchmark != "dmlab30" else ""
    file.write_text(
        f"""
include 'rules/disco.gin'
include 'suites/catch.gin'
include 'benchmarks/{benchmark}.gin'
Experiment.weights = @weights.Initial()
Group.agent = @Agent()
Agent.optimizer = %OPTIMIZER
Agent.action_model = @ActionLSTM()
Agent.torso = @torsos.{"FrameStack" if stacked else "MLP"}()
{stacked}
"""
    )
    return load(str(file), root=Experiment).experiment


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_settings(benchmark: str, tmp_path: Path, table: dict[str, dict[str, str]]) -> None:
    experiment = experiment_on(benchmark, tmp_path)
    (group,) = experiment.groups
    optimizer, replay, per_step = group.agent.optimizer, group.replay, FRAMES_OF_A_STEP.get(benchmark, 1)

    def asked(name: str) -> float:
        return float(table[name][benchmark])

    assert isinstance(optimizer, AdamW)
    rate = optimizer.learning_rate
    assert isinstance(rate, Schedule)
    assert (rate.initial, rate.final) == (asked("initial_learning_rate"), asked("end_learning_rate"))
    assert rate.shape == "cosine"
    assert (rate.initial == rate.final) == (table["learning_rate_schedule"][benchmark] == "constant")
    assert rate.warm_up == asked("learning_rate_warmup_env_steps") / per_step
    assert rate.env_steps == asked("environment_steps") / per_step
    assert optimizer.weight_decay == asked("weight_decay")
    assert optimizer.max_update == asked("max_abs_update")
    assert experiment.rule.value_estimator.discount == asked("discount_factor")
    if frames := table["frame_stacking"][benchmark]:
        assert group.agent.torso.frames == int(frames)
    assert isinstance(replay, Uniform)
    assert replay.batch_size == asked("batch_size")
    fresh = replay.batch_size * (1 - asked("replay_ratio"))
    assert replay.fresh == group.num_environments == WHOLE.get(benchmark, round(fresh))
    assert group.trajectory_length == asked("unroll_length")
    assert 0 <= asked("replay_buffer_size") - replay.capacity * group.trajectory_length < group.trajectory_length
    of_update = group.num_environments * group.trajectory_length
    assert 0 <= experiment.steps * of_update - asked("environment_steps") / per_step < of_update


def test_every_benchmark_of_the_table_has_its_settings(table: dict[str, dict[str, str]]) -> None:
    assert [name for name in next(iter(table.values())) if name != "hyperparameter"] == BENCHMARKS
