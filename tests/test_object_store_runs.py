"""Run folders in a bucket: Google's own client talks to a server on this machine."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is not installed: pip install rulespace[bucket]")

from object_server import BUCKET, ObjectServer, Refused, object_server
from running import SMALL_PPO, intervals, kill, run, rulespace, started

from experiments.cli import main
from framework.runs import lease

__all__ = ["object_server"]

FOLDER = f"gs://{BUCKET}/runs/ppo"
WORDS = (*SMALL_PPO, *intervals(logging=1, checkpoints=2))
STEPS = 6


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "RENEWAL_SECONDS", 0.2)
    monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.3)


def run_there(*words: str, steps: int = STEPS) -> int:
    return main(["run", *WORDS, *words, f"--workdir={FOLDER}", f"--gin.STEPS={steps}"])


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ppo"
    assert run(*WORDS, folder=folder, steps=STEPS) == 0
    return folder


def test_a_run_in_a_bucket_is_that_on_a_disk(object_server: ObjectServer, on_disk: Path) -> None:
    assert run_there() == 0
    there = object_server.below("runs/ppo")
    print(sorted(there))
    result = json.loads(there["result.json"])
    expected = json.loads((on_disk / "result.json").read_text())
    assert result["state_sha256"] == expected["state_sha256"]
    print(object_server.requests)
    assert 0
