"""Runs in a bucket, and grids whose units are there: Google's own client talks to a server on this machine."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is missing: pip install 'rulespace[bucket]'")

from object_server import BUCKET, ObjectServer, object_server, serving
from running import SMALL_PPO, assert_same_run, intervals, kill, result_of, run, started

from experiments.cli import main
from framework.runs import lease
from framework.runs.lease import Lease
from framework.runs.object_store import open_folder
from launch.bucket import Bucket
from launch.grid import GridFolder, GridUnit, Launch
from launch.kubernetes import Gke
from launch.states import State

__all__ = ["object_server"]

NAME = "grids/toys/ppo-s0"
FOLDER = f"gs://{BUCKET}/{NAME}"
STEPS = 6
WORDS = (*SMALL_PPO, *intervals(logging=1, checkpoints=2), f"--gin.STEPS={STEPS}")


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ppo"
    assert run(*WORDS, folder=folder) == 0
    return folder


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A bucket with a run that was killed in the middle of a save, and came to its end when started again."""
    with serving() as server, pytest.MonkeyPatch.context() as patched:
        saving, end = threading.Event(), threading.Event()

        def before(method: str, name: str) -> None:
            if method == "PUT" and re.search(r"checkpoints/4/state/(d|ocdbt.process_0/d)/", name):
                saving.set()
                end.wait()

        server.before = before
        process = started(*WORDS, folder=FOLDER, TMPDIR=str(tmp_path_factory.mktemp("copies")))
        assert saving.wait(300), process.communicate()
        kill(process)
        end.set()
        steps = {name.split("/")[1] for name in server.below(NAME) if name.startswith("checkpoints/")}
        assert steps == {"2", "4"}
        assert f"{NAME}/checkpoints/4/manifest.json" not in server.objects
        assert f"{NAME}/.lock" in server.objects
        patched.setattr(lease, "PATIENCE_SECONDS", 0.5)
        patched.setattr(lease, "_LOOK_SECONDS", 0.1)
        assert main(["run", *WORDS, f"--workdir={FOLDER}"]) == 0
        yield server


def test_a_run_that_was_killed_in_mid_save_ends_as_one_on_a_disk(
    bucket: ObjectServer, on_disk: Path, tmp_path: Path
) -> None:
    there = bucket.copy_to(tmp_path / "ppo", NAME)
    assert not (there / ".lock").exists()
    assert_same_run(there, on_disk)
    names = {re.sub(r"events\.out.*", "events", path.name) for path in there.iterdir()}
    assert names == {re.sub(r"events\.out.*", "events", path.name) for path in on_disk.iterdir()} - {".lock"}


def test_a_finished_run_is_not_run_again(bucket: ObjectServer, capsys: pytest.CaptureFixture[str]) -> None:
    before = dict(bucket.objects)
    assert main(["run", *WORDS, f"--workdir={FOLDER}"]) == 0
    assert f"{FOLDER} is finished: final return" in capsys.readouterr().out
    assert bucket.objects == before


def test_another_experiment_is_refused(bucket: ObjectServer, capsys: pytest.CaptureFixture[str]) -> None:
    before = dict(bucket.objects)
    assert main(["run", *WORDS, "--gin.EPOCHS=3", f"--workdir={FOLDER}"]) == 1
    assert re.search(rf"{FOLDER} holds another experiment \(.*epochs: 2 != 3\): choose", capsys.readouterr().err)
    assert bucket.objects == before


def test_a_second_run_is_refused(
    bucket: ObjectServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEWAL_SECONDS", 0.1)
    with Lease(open_folder(FOLDER)):
        assert main(["run", *WORDS, f"--workdir={FOLDER}"]) == 1
    assert re.search(rf"{FOLDER} is in use by process \d+ on .*; wait until it ends", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        (
            "gs://nowhere/run",
            "there is no bucket gs://nowhere; make it with: gcloud storage buckets create gs://nowhere",
        ),
        ("s3://bucket/run", "s3://bucket/run is no folder of a bucket: write gs://BUCKET/FOLDER"),
    ],
)
def test_where_no_run_can_be(
    object_server: ObjectServer, capsys: pytest.CaptureFixture[str], folder: str, said: str
) -> None:
    assert main(["run", *WORDS, f"--workdir={folder}"]) == 1
    assert said in capsys.readouterr().err


# Grids


@pytest.fixture
def grid(on_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GridFolder:
    """One that was handed to machines elsewhere, which have run one unit of two."""
    grid = GridFolder(tmp_path / "toys")
    expected = result_of(on_disk)
    units = [
        GridUnit(
            name=f"ppo-s{seed}",
            arguments=(*WORDS, f"--gin.SEED={seed}", f"--workdir={FOLDER}"),
            folder=f"gs://{BUCKET}/grids/toys/ppo-s{seed}",
            config_hash=expected["config_hash"],
            seed=seed,
            steps=STEPS,
            env_steps=expected["env_steps"],
            parameters=10,
            memory_megabytes=0.1,
        )
        for seed in (0, 1)
    ]
    jobs = {unit.name: f"{unit.name}-1" for unit in units}
    cluster = {
        "project": "my-project", "context": "", "namespace": "default", "service_account": "", "bucket": BUCKET,
        "prefix": "grids", "image": "us-docker.pkg.dev/my-project/research/rulespace:1", "tpu": "v5e",
        "topology": "2x4", "chips_per_host": 8, "spot": False, "max_restarts": 3, "grace_seconds": 60,
    }  # fmt: skip
    with grid.claimed():
        grid.write(name="toys", text="", scale="", on="gke", units=units)
        grid.record_launch(Launch("gke", 1, cluster, jobs))
    standing = {"ppo-s0": State.WAITING, "ppo-s1": State.FAILED}
    monkeypatch.setattr(Gke, "states", lambda self, launch: standing)
    monkeypatch.setattr(Gke, "log", lambda self, launch, unit: f"{unit} says\nthe pod was evicted\n")
    return grid


def test_what_remote_units_have_written_is_fetched(
    bucket: ObjectServer, grid: GridFolder, on_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(grid.path)]) == 0
    shown = capsys.readouterr().out
    final = f"{result_of(on_disk)['final_return']:.4g}"
    assert re.search(rf"ppo-s0 +finished +6/6 +{final}", shown)
    assert re.search(r"ppo-s1 +failed +0/6 +the pod was evicted", shown)
    assert "toys: 1 failed, 1 finished" in shown
    here, there = grid.run_folder("ppo-s0"), bucket.below(NAME)
    fetched = {path.name: path.read_bytes() for path in here.iterdir()}
    assert fetched == {name: there[name] for name in fetched}
    assert len(fetched) == 6
    assert grid.log("ppo-s1").read_text().endswith("the pod was evicted\n")
    # Tables and reports read what was fetched as they read a run of this machine.
    assert main(["report", str(grid.path), f"--out={grid.path.with_name('report.html')}"]) == 0


def test_what_has_not_changed_is_not_fetched_again(bucket: ObjectServer, tmp_path: Path) -> None:
    there, here = Bucket(BUCKET, "my-project"), tmp_path / "ppo"
    there.fetch(NAME, here)
    asked = len(bucket.requests)
    there.fetch(NAME, here)
    assert [method for method, path in bucket.requests[asked:] if "/download/" in path] == []
    name = f"{NAME}/metrics.jsonl"
    changed = bytes(reversed(bucket.get(name).content))  # As long as before.
    before = bucket.objects[name]
    bucket.put(name, changed, {})
    there.fetch(NAME, here)
    bucket.objects[name] = before
    assert (here / "metrics.jsonl").read_bytes() == changed


def test_a_bucket_is_looked_for_before_anything_is_submitted(object_server: ObjectServer) -> None:
    assert Bucket(BUCKET, "my-project").refuse_missing() is None
    missing = Bucket("nowhere", "my-project").refuse_missing()
    assert missing is not None
    assert missing.endswith("there is no bucket gs://nowhere; make it with: gcloud storage buckets create gs://nowhere")
