"""Recorded trajectories: what is written, what seqio makes of it, and that it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import running

from experiments import cli
from experiments.analyses import datasets
from experiments.analyses.datasets import FORMATS, Batches, Description, read_recording, register_mixture, register_task
from framework.errors import UserError
from framework.requirements import Requirement

needs_seqio = pytest.mark.skipif(
    not (datasets.SEQIO.is_met and datasets.ARRAY_RECORD.is_met), reason="pip install 'rulespace[data]'"
)


def recording(count: int = 24, first: int = 0) -> dict[str, np.ndarray]:
    """Trajectories of 3 steps that say which they are."""
    number = np.arange(first, first + count)[:, None]
    return {
        "action": np.tile(number, (1, 3)).astype(np.int32),
        "last": np.tile([False, True, False], (count, 1)),
        "observation": (np.ones((count, 3, 2, 2)) * (number % 256)[..., None, None]).astype(np.uint8),
        "y": np.random.default_rng(first).normal(size=(count, 3, 5)).astype(np.float32),
    }


def recorded(folder: Path, file_format: str = "array_record", first: int = 0) -> Path:
    """A folder of recorded trajectories."""
    folder.mkdir()
    content = recording(first=first)
    description = Description.of(content, file_format=file_format, source="a test", seed=0)
    datasets.write_records(folder, content, description)
    return folder


@pytest.fixture
def registry() -> Any:
    """The registries of seqio, emptied of what a test adds."""
    import seqio

    yield seqio
    for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
        for name in [name for name in registry.names() if name.startswith("test_")]:
            registry.remove(name)


@needs_seqio
@pytest.mark.parametrize("file_format", FORMATS)
def test_what_is_written_is_read(file_format: str, tmp_path: Path) -> None:
    folder = recorded(tmp_path / "data", file_format)
    found = read_recording(folder)
    expected = recording()
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@needs_seqio
@pytest.mark.parametrize("file_format", FORMATS)
def test_batches_are_told_by_their_seed_and_resume_at_any_of_them(
    file_format: str, tmp_path: Path, registry: Any
) -> None:
    register_task("test_task", recorded(tmp_path / "data", file_format))

    def batches(seed: int) -> Batches:
        return Batches("test_task", batch_size=5, seed=seed)

    reader, seen = batches(0), []
    for index in range(12):  # More than two epochs.
        reader.save(tmp_path / f"at_{index}")
        seen.append(next(reader))
    same, other = batches(0), batches(1)
    for batch in seen:
        np.testing.assert_equal(next(same), batch)
    assert any(not np.array_equal(next(other)["action"], batch["action"]) for batch in seen)
    for index in range(12):
        resumed = batches(0)
        resumed.restore(tmp_path / f"at_{index}")
        for batch in seen[index : index + 3]:
            np.testing.assert_equal(next(resumed), batch)


@needs_seqio
def test_a_mixture_draws_at_its_rates_and_resumes(tmp_path: Path, registry: Any) -> None:
    register_task("test_first", recorded(tmp_path / "first"), ["action", "y"])
    register_task("test_second", recorded(tmp_path / "second", "tfrecord", first=1000), ["action", "y"])
    register_mixture("test_mixture", {"test_first": 0.8, "test_second": 0.2})
    reader = Batches("test_mixture", batch_size=10, seed=3)
    seen = []
    for index in range(100):
        if index == 37:
            reader.save(tmp_path / "at")
        seen.append(next(reader))
    assert seen[0].keys() == {"action", "y"}
    share = float(np.mean([batch["action"][:, 0] >= 1000 for batch in seen]))
    assert share == pytest.approx(0.2, abs=0.05)
    resumed = Batches("test_mixture", batch_size=10, seed=3)
    resumed.restore(tmp_path / "at")
    for batch in seen[37:60]:
        np.testing.assert_equal(next(resumed), batch)


@needs_seqio
def test_mistakes_are_told(tmp_path: Path, registry: Any) -> None:
    folder = recorded(tmp_path / "data")
    with pytest.raises(UserError, match="there are no recorded trajectories in"):
        register_task("test_task", tmp_path)
    with pytest.raises(UserError, match="holds no array 'z', only action, last, observation, y"):
        register_task("test_task", folder, ["z"])
    register_task("test_task", folder)
    with pytest.raises(UserError, match="is called 'test_task' already"):
        register_task("test_task", folder)
    with pytest.raises(UserError, match="no task 'test_other' is registered"):
        register_mixture("test_mixture", {"test_other": 1.0})


def test_without_the_packages_it_is_told_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Requirement, "_has_package", False)
    with pytest.raises(UserError, match=r"the package seqio is not installed: pip install 'rulespace\[data\]'"):
        register_task("test_task", tmp_path)


# The command


ENVIRONMENTS, STEPS, AGENTS = 5, 40, 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two agents that learned a little by a random rule, on the host; poles fall within the steps of a recording."""
    folder = tmp_path_factory.mktemp("runs") / "poles"
    config = folder.with_suffix(".gin")
    config.write_text(
        "include 'rules/lpg.gin'\ninclude 'agents/small_mlp.gin'\ninclude 'suites/gymnasium.gin'\n"
        "include 'setups/on_policy.gin'\nTRAJECTORY_LSTM_SIZE = 3\nPREDICTION_CATEGORIES = 3\n"
        f"TORSO_SIZES = (4,)\nNUM_ENVIRONMENTS = 2\nTRAJECTORY_LENGTH = 3\nGroup.agents = {AGENTS}\n"
    )
    logging = running.intervals(logging=1, checkpoints=1, evaluation=1, episodes=0)
    assert running.run(str(config), *logging, folder=folder, steps=1) == 0
    return folder


@needs_seqio
def test_agents_on_the_host_are_recorded_and_what_they_predict_is_read_from_the_recording(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "recording"
    size = (f"--streams={ENVIRONMENTS}", f"--steps={STEPS}")
    assert cli.main(["analyse", "record", str(run), f"--out={folder}", *size]) == 0
    assert "10 trajectories of 40 steps" in capsys.readouterr().out
    files = {"description.json", "trajectories.array_record", "numbers.json", "findings.md"}
    assert {path.name for path in folder.iterdir()} == files
    found = read_recording(folder)
    assert {name: array.shape[:2] for name, array in found.items()} == dict.fromkeys(
        found, (AGENTS * ENVIRONMENTS, STEPS)
    )
    assert found["y"].shape[2:] == (3,)
    assert found["agent"][:, 0].tolist() == [0] * ENVIRONMENTS + [1] * ENVIRONMENTS
    _assert_poles_fall_as_they_must(found)

    words = ["predictions", str(run), f"--recording={folder}", f"--out={tmp_path / 'told'}", "--window=2"]
    assert cli.main(["analyse", *words, "--fit_steps=50"]) == 0
    numbers = json.loads((tmp_path / "told" / "numbers.json").read_text())
    assert numbers["source"] == Description.read(folder).source == "poles, update 1, 2 agents of group 0"
    assert numbers["inputs"] == ["pi", "y", "observation"]
    assert numbers["trajectories"] == AGENTS * ENVIRONMENTS
    assert (tmp_path / "told" / "figure.png").read_bytes().startswith(b"\x89PNG")


def _assert_poles_fall_as_they_must(found: dict[str, np.ndarray]) -> None:
    """Every step of a recording is one that CartPole itself makes, from fresh beginnings to falls and new ones."""
    environment: Any = gymnasium.make("CartPole-v1").unwrapped
    assert np.abs(found["observation"][:, 0]).max() <= 0.05
    assert found["last"].any()
    for observations, actions, lasts, discounts in zip(
        *(found[name] for name in ("observation", "action", "last", "discount")), strict=True
    ):
        for step in range(STEPS - 1):
            environment.reset()
            environment.state = observations[step].astype(np.float64)
            following, _, fallen, _, _ = environment.step(int(actions[step]))
            assert fallen == (discounts[step] == 0) == lasts[step]
            if not fallen:
                np.testing.assert_allclose(observations[step + 1], following, atol=1e-6)
