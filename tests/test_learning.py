"""Agents learn: hand-made rules and Disco103 on Catch, where a random policy returns about -0.7."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import pytest
from running import result_of, run

LEARNED = 0.95
SLOW = ("ppo_recurrent_catch", "ppo_kl_catch", "impala_catch", "vmpo_catch", "muesli_catch")
HAND_MADE = ("ppo_catch", "ppo_static_target_catch", "a2c_catch", *SLOW)
OF_ACTION_VALUES = (
    "c51_catch", "qr_dqn_catch", "rainbow_catch", "q_lambda_catch", "retrace_catch", "muesli_model_catch"
)  # fmt: skip
SEEDS = range(5)

# Disco103 as published, on the board of the authors' meta-training notebook and with a quarter of the agent: it
# learns within a minute.
SMALL_DISCO103 = (
    "--gin.ROWS=5",
    "--gin.COLUMNS=5",
    "--gin.TORSO_SIZES=(128, 128)",
    "--gin.ACTION_MODEL_SIZE=64",
    "--gin.HEAD_SIZES=(64,)",
    "--gin.BATCH_SIZE=32",
    "--gin.REPLAY_CAPACITY=256",
    "--gin.NUM_ENVIRONMENTS=16",
    "--gin.TRAJECTORY_LENGTH=8",
    "--gin.STEPS=650",
)


@pytest.fixture
def optimized() -> Iterator[None]:
    """Programs compiled as for a user, which is worth its time where many updates are made."""
    known = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", known)


def final_return(folder: Path, *words: str) -> float:
    assert run(*words, folder=folder) == 0
    value: float = result_of(folder)["final_return"]
    return value


@pytest.mark.parametrize(
    "config", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in HAND_MADE]
)
def test_hand_made_rules_learn(tmp_path: Path, config: str) -> None:
    assert final_return(tmp_path / "run", config) >= LEARNED


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS[1:])
@pytest.mark.parametrize("config", HAND_MADE)
def test_hand_made_rules_learn_with_other_seeds(tmp_path: Path, config: str, seed: int) -> None:
    assert final_return(tmp_path / "run", config, f"--gin.SEED={seed}") >= 0.9


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("config", OF_ACTION_VALUES)
def test_rules_of_action_values_learn(tmp_path: Path, config: str) -> None:
    assert final_return(tmp_path / "run", config, "--gin.Group.agents=5") >= LEARNED


@pytest.mark.usefixtures("disco103_weights", "optimized")
def test_disco103_learns(tmp_path: Path) -> None:
    assert final_return(tmp_path / "run", "disco103_catch", *SMALL_DISCO103) >= 0.8


@pytest.mark.slow
def test_random_meta_parameters_do_not(tmp_path: Path) -> None:
    initial = "--gin.Experiment.weights=@weights.Initial()"
    assert final_return(tmp_path / "run", "disco103_catch", *SMALL_DISCO103, initial) < 0.0


@pytest.mark.slow
@pytest.mark.usefixtures("disco103_weights", "optimized")
def test_disco103_learns_as_fast_as_the_authors_evaluation(tmp_path: Path) -> None:
    """Over five seeds, on windows of 50 updates: when the mean return first reaches 0.97, and where it ends."""
    reached = []
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        assert run("disco103_catch", f"--gin.SEED={seed}", folder=folder) == 0
        result = result_of(folder)
        assert result["steps"] == 1000
        ((_, curve),) = result["returns"].items()
        assert [step for step, _, _ in curve] == list(range(50, 1001, 50))
        reached.append(first_step_at(0.97, curve))
        late = [value for step, _, value in curve if step > 850]
        assert statistics.mean(late) >= 0.97, f"seed {seed} ends at {late}"
    assert statistics.median(reached) <= 750, reached
    assert max(reached) <= 900, reached


def first_step_at(value: float, curve: Sequence[Sequence[float]]) -> float:
    """End of the first window of a curve whose mean return is at least a value; infinity if there is none."""
    return next((step for step, _, mean in curve if mean >= value), float("inf"))
