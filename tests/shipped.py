"""Every shipped experiment, two steps of it in small; files of tests that run side by side share them out."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from running import points_of, result_of, run

from framework.config import load, shipped_gin_folder
from framework.experiment import Experiment
from framework.testing import missing_package

FILES = {path.stem: path for path in sorted((shipped_gin_folder() / "experiments").glob("*.gin"))}


def discovers(file: Path) -> bool:
    """Whether a file includes a meta-objective, by itself or in a file that it includes."""
    included = re.findall(r"^include '(.+)'", file.read_text(), re.MULTILINE)
    return any(name.startswith("meta/") or discovers(shipped_gin_folder() / name) for name in included)


DISCOVERIES = [name for name, path in FILES.items() if discovers(path)]
OTHERS = [name for name in FILES if name not in DISCOVERIES]


def assert_runs(name: str, folder: Path) -> None:
    """Two steps, or meta-steps, in small; what is described and checked in full is in other tests."""
    experiment = load(name, gin_files=["scale/tiny.gin"], root=Experiment).experiment
    for group in experiment.groups:
        if (missing := missing_package(type(group.suite))) is not None:
            pytest.skip(missing)
    assert run(name, "--gin_file=scale/tiny.gin", folder=folder) == 0
    discovery = experiment.discovery
    # A table of zeros moves with the first reward where nothing else moves it, and in two steps there may be none.
    sure_to_move = name not in ("a2c_gridworlds", "a2c_small", "ppo_small")
    result = result_of(folder)
    assert (result["status"], result["experiment"], result["steps"]) == ("finished", name, 2)
    assert math.isfinite(result["final_return"])
    points = points_of(folder)
    assert [point["step"] for point in points] == [1, 2]
    assert points[-1]["update/change_norm"] > 0 or not sure_to_move  # Where a rate warms up, the first change is 0.
    for point in points:
        # Within an update it may be that no episode ends, and in a quarter of a life that nobody is in it.
        unknown = {metric.partition("/")[0] for metric, value in point.items() if value is None}
        assert unknown <= {"episode", "return", "return_by_age", "return_by_agent", "achievement", "sokoban"}
        assert point["update/gradient_norm"] > 0 or not sure_to_move
        assert ("meta/loss" in point) is (discovery is not None)
        if discovery is not None:
            assert point["meta/gradient_norm"] > 0
            assert point["meta/change_norm"] > 0
            assert point["meta/replay_error"] < discovery.max_replay_error
            assert point["agents/lost"] == 0
