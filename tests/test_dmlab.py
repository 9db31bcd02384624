"""DMLab-30 as host environments, on a stand-in for the package with the interface that it documents."""

from __future__ import annotations

import csv
import sys
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from components.streams.dmlab import ACTIONS, CONTROLS, LabLevel
from components.suites.dmlab import LEVELS, DMLab30
from framework.errors import UserError
from framework.host_environments.pool import HostPool
from framework.requirements import Requirement
from framework.testing.host import check_host_environment

WATERMAZE = LabLevel("contributed/dmlab30/rooms_watermaze")


class Lab:
    """As ``docs/users/python_api.md`` of DeepMind Lab has it; an episode takes 40 frames."""

    made: list[Lab] = []  # noqa: RUF012

    def __init__(
        self,
        level: str,
        observations: list[str],
        config: dict[str, str] | None = None,
        renderer: str = "software",
        level_cache: Any = None,
    ) -> None:
        assert observations == ["RGB_INTERLEAVED"]
        assert all(isinstance(text, str) for pair in (config or {}).items() for text in pair)
        self.level, self.config, self.told, self.seeds = level, config or {}, [], []  # type: ignore[var-annotated]
        self.picture = np.zeros((int(self.config["height"]), int(self.config["width"]), 3), np.uint8)
        self.frame, self.closed = 40, False
        Lab.made.append(self)

    def reset(self, episode: int = -1, seed: int | None = None) -> bool:
        assert seed is not None
        assert 0 < seed < 2**31
        self.seeds.append(seed)
        self.random, self.frame = np.random.default_rng(seed), 0
        return True

    def is_running(self) -> bool:
        return self.frame < 40

    def observations(self) -> dict[str, np.ndarray]:
        if not self.is_running():
            raise RuntimeError("Environment in wrong status for call to observations()")
        self.picture[:] = self.random.integers(256)
        return {"RGB_INTERLEAVED": self.picture}

    def step(self, action: np.ndarray, num_steps: int = 1) -> float:
        assert self.is_running()
        assert action.dtype == np.intc
        assert action.shape == (7,)
        for spec, value in zip(self.action_spec(), action, strict=True):
            assert spec["min"] <= value <= spec["max"]
        self.told.append((action.tolist(), num_steps))
        self.frame += num_steps
        return float(action[3] * num_steps)

    def action_spec(self) -> list[dict[str, Any]]:
        limits = {0: 512, 1: 512}
        return [
            {"name": name, "min": -limits.get(index, index not in (4, 5, 6)), "max": limits.get(index, 1)}
            for index, name in enumerate(CONTROLS)
        ]

    def close(self) -> None:
        self.closed = True


class Elsewhere(Lab):
    """Lists its controls the other way round."""

    def step(self, action: np.ndarray, num_steps: int = 1) -> float:
        self.told.append((action.tolist(), num_steps))
        return 0.0

    def action_spec(self) -> list[dict[str, Any]]:
        return super().action_spec()[::-1]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> type[Lab]:
    """The package's class, as if it were installed."""
    monkeypatch.setattr(Requirement, "module", lambda *_: sys.modules[__name__])
    monkeypatch.setattr(Lab, "made", [])
    return Lab


@pytest.mark.usefixtures("lab")
def test_conforms() -> None:
    check_host_environment(WATERMAZE, steps=25)


def test_a_step_is_an_action_for_some_frames(lab: type[Lab]) -> None:
    stream = WATERMAZE.open((0,))
    assert stream.reset().shape == (72, 96, 3)
    rewards = [stream.step(action)[1] for action in range(9)]
    assert rewards == [4.0, -4.0, 0.0, 0.0, 0.0, 0.0, 4.0, 4.0, 0.0]
    assert lab.made[0].told == [(list(action), 4) for action in ACTIONS]
    assert len(set(ACTIONS)) == 9
    stream.close()
    assert lab.made[0].closed


def test_controls_are_told_apart_by_their_names(lab: type[Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "Lab", Elsewhere)
    stream = WATERMAZE.open((0,))
    stream.reset()
    stream.step(4)
    assert lab.made[0].told == [([0, 0, 0, 0, 0, 0, -20], 4)]


def test_time_that_has_run_out_terminates(lab: type[Lab]) -> None:
    """Nothing can be seen after it: the next episode is shown at once."""
    with HostPool([WATERMAZE] * 2, [(1,), (2,)], workers=0) as pool:
        pool.reset()
        rows = [pool.step(np.zeros(2, int)) for _ in range(11)]
    assert [row.last.tolist() for row in rows] == [[False] * 2] * 9 + [[True] * 2, [False] * 2]
    assert [row.discount[0] for row in rows] == [1.0] * 9 + [0.0, 1.0]
    assert not any(row.dummy.any() for row in rows)
    seeds = [seed for made in lab.made for seed in made.seeds]
    assert len(seeds) == len(set(seeds)) == 4


def test_the_suite_is_the_benchmark(lab: type[Lab]) -> None:
    assert tuple(sorted(LEVELS)) == LEVELS
    assert len(set(LEVELS)) == 30
    published = ROOT.parent / "shared" / "published" / "dmlab30.csv"
    if published.is_file():
        with published.open() as file:
            assert tuple(row["task"] for row in csv.DictReader(file)) == LEVELS
    training, test = DMLab30(), DMLab30(test=True)
    assert training.tasks() == test.tasks() == LEVELS
    name = "rooms_collect_good_objects_test"
    assert training.environment(name).level == "contributed/dmlab30/rooms_collect_good_objects_train"
    assert test.environment(name).level == "contributed/dmlab30/rooms_collect_good_objects_test"
    for suite in (training, test):
        suite.environment("rooms_watermaze").open((0,))
    assert [made.config.get("allowHoldOutLevels") for made in lab.made] == [None, "true"]
    assert [made.config.get("mixerSeed") for made in lab.made] == [None, str(0x600D5EED)]


def test_what_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Requirement, "_has_package", False)
    with pytest.raises(UserError, match=r"deepmind_lab is not installed: it has to be built, see https://github.com/"):
        WATERMAZE.open((0,))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"levels": ()}, "levels must be named"),
        ({"levels": ("rooms_watermaze",) * 2}, "each once"),
        ({"levels": ("room_watermaze",)}, "no level 'room_watermaze' in DMLab-30. Did you mean 'rooms_watermaze'"),
        ({"frame_skip": 0}, "frame_skip must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DMLab30(**wrong)
