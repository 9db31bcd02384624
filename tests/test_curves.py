"""Pictures of several runs, and the returns of each agent that they show."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

from experiments import curves
from framework.config import load
from framework.experiment import Experiment
from framework.population import Population
from framework.runs.curves import Panel, draw_panels
from framework.runs.metrics import MetricsWriter
from framework.train import Trainer
from framework.types import Mean


def write_run(folder: Path, *, agents: int) -> Path:
    folder.mkdir()
    with MetricsWriter(folder, resume_step=None) as writer:
        for step in (10, 20, 30):
            own = {f"return_by_agent/0_{place}": float(step + place) for place in range(agents)}
            means = {"episode/return": step + 0.5, "return/catch_8x8": step + 0.5}
            writer.write(step, 1000 * step, 1.0, means | own)
    return folder


def test_a_panel_has_a_thin_line_for_each_agent(tmp_path: Path) -> None:
    panel = curves.panel_of(write_run(tmp_path / "run", agents=2))
    assert panel.title == "catch_8x8"
    assert panel.unit == "environment steps of an agent"
    assert panel.lines == {"mean of 2": [(5_000.0, 10.5), (10_000.0, 20.5), (15_000.0, 30.5)]}
    first, second = panel.members["mean of 2"]
    assert first == [(5_000.0, 10.0), (10_000.0, 20.0), (15_000.0, 30.0)]
    assert [value for _, value in second] == [11.0, 21.0, 31.0]


def test_runs_that_do_not_tell_their_agents_apart_have_one_line(tmp_path: Path) -> None:
    panel = curves.panel_of(write_run(tmp_path / "run", agents=0))
    assert panel.lines == {"mean": [(10_000.0, 10.5), (20_000.0, 20.5), (30_000.0, 30.5)]}
    assert not any(panel.members.values())


def test_the_command_draws_all_runs(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / name, agents=2)) for name in ("one", "other")]
    picture = tmp_path / "both.png"
    assert curves.main([*runs, f"--out={picture}", "--title=both"]) == 0
    height, width, _ = imread(picture).shape
    assert width > 2 * height


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curves.main([str(tmp_path), f"--out={tmp_path / 'picture.png'}"]) == 1
    assert (
        "holds no logged point of a run: name a folder that `rulespace run` has written to" in capsys.readouterr().err
    )
    assert not (tmp_path / "picture.png").exists()


def test_members_are_fainter_than_their_mean(tmp_path: Path) -> None:
    mean = [(float(x), 1.0) for x in range(20)]
    member = [(float(x), 0.0) for x in range(20)]
    panel = Panel(title="", lines={"a": mean}, unit="step", members={"a": [member, [(0.0, None)]]})
    draw_panels(tmp_path / "panel.png", [panel], title="")
    picture = imread(tmp_path / "panel.png")[..., :3]
    blue = np.array([0x00, 0x72, 0xB2]) / 255
    at = np.abs(picture - blue).max(-1) < 0.01
    assert at[: picture.shape[0] // 2].any()
    assert not at[picture.shape[0] // 2 :].any()
    tinted = picture[picture.shape[0] // 2 :]
    assert ((tinted[..., 2] - tinted[..., 0]) > 0.2).any()


def population(*, returns_by_agent: bool) -> tuple[Trainer, Population]:
    experiment = load("ppo_catch", root=Experiment).experiment
    group = dataclasses.replace(experiment.groups[0], agents=3, returns_by_agent=returns_by_agent)
    trainer = Trainer(dataclasses.replace(experiment, groups=(group,)))
    return trainer, trainer.populations[0]


def test_each_agents_returns_are_measured_where_they_are_asked_for() -> None:
    returns = Mean(total=jnp.asarray([6.0, 0.0, 5.0]), weight=jnp.asarray([2.0, 0.0, 1.0]))
    means = {"episode/return": returns, "policy/entropy": Mean(total=jnp.ones(3), weight=jnp.ones(3))}
    trainer, together = population(returns_by_agent=True)
    found = together.summed(means)
    own = {f"return_by_agent/0_{place}" for place in range(3)}
    assert found.keys() == means.keys() | own
    assert (float(found["episode/return"].total), float(found["episode/return"].weight)) == (11.0, 3.0)
    assert [float(found[name].total) for name in sorted(own)] == [6.0, 0.0, 5.0]
    assert [float(found[name].weight) for name in sorted(own)] == [2.0, 0.0, 1.0]
    assert own <= trainer.state_shapes().groups[0].means.keys()
    assert population(returns_by_agent=False)[1].summed(means).keys() == means.keys()
