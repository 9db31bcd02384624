"""``rulespace bench``: its figures and their keys."""

from __future__ import annotations

import json
import math
import time

import jax.numpy as jnp
import pytest
from running import SMALL_DISCO, SMALL_PPO

from components.streams import nethack, procgen
from experiments import bench, cli

NEEDS = {"coinrun": procgen.PACKAGE, "nethack_score": nethack.PACKAGE}
FIGURES = {"seconds", "matmul_gflops", "work_gflop", "compile_seconds", "temp_megabytes", "flops"}


@pytest.fixture(autouse=True)
def small_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MATMUL_SIZE", 256)


def words_for(experiment: tuple[str, ...]) -> list[str]:
    config, *flags = experiment
    return ["bench", "learner", f"--config={config}", *flags, "--repetitions=3"]


@pytest.mark.parametrize(
    ("experiment", "batch", "steps", "has_meta_parameters"), [(SMALL_DISCO, 4, 3, True), (SMALL_PPO, 4, 4, False)]
)
def test_learner_as_json(
    capsys: pytest.CaptureFixture[str],
    experiment: tuple[str, ...],
    batch: int,
    steps: int,
    has_meta_parameters: bool,
) -> None:
    assert cli.main([*words_for(experiment), "--format=json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    figures = json.loads(line)
    assert figures.keys() >= FIGURES
    assert all(math.isfinite(figures[name]) and figures[name] > 0 for name in FIGURES)
    assert figures["work_gflop"] == pytest.approx(figures["seconds"] * figures["matmul_gflops"])
    assert figures["seconds"] < 10
    assert 0.1 < figures["matmul_gflops"] < 1e6
    assert (figures["what"], figures["batch"], figures["steps"]) == ("learner", batch, steps)
    assert figures["parameters"] > 0
    assert (figures["meta_parameters"] > 0) is has_meta_parameters


def test_learner_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words_for(SMALL_PPO)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} >= FIGURES
    assert len({len(line) - len(line.split(maxsplit=1)[1]) for line in lines}) == 1


@pytest.mark.parametrize("what", ["meta_gradient", "lpg"])
def test_parts_of_a_discovery(capsys: pytest.CaptureFixture[str], what: str) -> None:
    words = ["--config=lpg_small", "--gin_file=scale/tiny.gin", "--repetitions=1", "--format=json"]
    assert cli.main(["bench", what, *words]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures.keys() >= FIGURES
    assert all(math.isfinite(figures[name]) and figures[name] > 0 for name in FIGURES)
    assert figures["inner_updates"] == (20 if what == "meta_gradient" else 2)
    assert figures["meta_parameters"] > 0
    assert figures["parameters"] > 0


def test_median_of_runs_in_turn_with_the_product() -> None:
    calls = iter([0.0, 0.03, 0.01, 0.02])  # The first is a warm-up.

    def run() -> jnp.ndarray:
        time.sleep(next(calls))
        return jnp.zeros(())

    timing = bench.timed(run, repetitions=3)
    assert 0.02 <= timing.seconds < 0.03
    assert timing.matmul_gflops == pytest.approx(2 * 256**3 / timing.matmul_seconds / 1e9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lerner"], "there is no benchmark 'lerner'. Did you mean 'learner'?"),
        (["everything"], "there is no benchmark 'everything'. There is: learner"),
        (
            ["lpg", "--inner_updates=10"],
            "the benchmark 'lpg' knows no --inner_updates: it takes --batch",
        ),
        (["learner", "--suite=catch"], "the benchmark 'learner' knows no --suite: name an experiment on it"),
        (["actor", "--suite=procgenn"], "no shipped experiment is on a suite 'procgenn'. Did you mean 'procgen'?"),
        (["actor", "--suite=catch", "--config=ppo_catch"], "--suite and --config both name environments"),
        (["learner", "--config=ppo_gymnasium"], "only environments on the device are timed, and those of CartPole-v1"),
        (["learner", "--config=disco103_cacth"], "Did you mean 'disco103_catch'?"),
    ],
)
def test_unknown_names(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert cli.main(["bench", *words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("of", "task", "library"),
    [
        ("config=ppo_catch", "catch_8x8", False),
        ("suite=gymnasium", "CartPole-v1", False),
        ("suite=atari", "pong", True),
        ("suite=procgen", "coinrun", True),
        ("suite=nethack", "nethack_score", True),
    ],
)
def test_actor(capsys: pytest.CaptureFixture[str], of: str, task: str, library: bool) -> None:
    words = [f"--{of}", "--batch=2", "--steps=3", "--repetitions=1", "--format=json"]
    status = cli.main(["bench", "actor", *words])
    if status and task in NEEDS and not NEEDS[task].is_met:
        pytest.skip(NEEDS[task].missing)
    assert status == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["what"], figures["task"], figures["environments"], figures["steps"]) == ("actor", task, 2, 3)
    assert figures["steps_per_second"] > 0
    assert ("ratio" in figures) == library
    if library:
        expected = figures["steps_per_second"] / figures["raw_steps_per_second"]
        assert figures["ratio"] == pytest.approx(expected)
