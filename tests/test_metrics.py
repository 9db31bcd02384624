"""Metrics: every point once, whatever interrupted the run."""

from __future__ import annotations

import errno
import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.runs.contract import METRICS
from framework.runs.metrics import MetricsWriter, read_metrics
from framework.runs.storage import RunFolderError


def write(folder: Path, steps: range, *, resume_step: int | None = None, value: float = 1.0) -> float:
    with MetricsWriter(folder, resume_step=resume_step) as writer:
        for step in steps:
            seconds = writer.wall_seconds_before + step - steps.start + 1
            writer.write(step, 10 * step, seconds, {"train/loss": value})
        return writer.wall_seconds_before


def read_events(folder: Path) -> list[Any]:
    """All TensorBoard events of a folder, as its loader sees them: file after file."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            events.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return events


def test_points_are_lines_of_strict_json(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        writer.write(50, 1000, 1.5, {"train/loss": 0.25, "meta/gradient_norm": math.nan, "train/return": -math.inf})
        (line,) = (tmp_path / METRICS).read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "step": 50,
        "env_steps": 1000,
        "wall_seconds": 1.5,
        "train/loss": 0.25,
        "meta/gradient_norm": None,
        "train/return": None,
    }


def test_every_point_is_on_disk_before_the_next(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, resume_step=None)
    for step in (1, 2):
        writer.write(step, step, step, {"a/b": step})
        assert len(read_metrics(tmp_path)) == step
        assert [event.step for event in read_events(tmp_path) if event.HasField("summary")] == [1, 2][:step]
    writer.close()


def test_no_step_stands_twice_after_a_resume(tmp_path: Path) -> None:
    write(tmp_path, range(1, 9), value=1.0)
    before = write(tmp_path, range(6, 11), resume_step=5, value=2.0)
    points = read_metrics(tmp_path)
    assert before == 5.0
    assert [point["step"] for point in points] == list(range(1, 11))
    assert [point["train/loss"] for point in points] == [1.0] * 5 + [2.0] * 5
    assert [point["wall_seconds"] for point in points] == list(range(1, 11))


def test_tensorboard_purges_what_comes_again(tmp_path: Path) -> None:
    write(tmp_path, range(1, 9), value=1.0)
    write(tmp_path, range(6, 11), resume_step=5, value=2.0)
    shown: dict[int, float] = {}
    for event in read_events(tmp_path):
        if event.HasField("session_log"):
            shown = {step: value for step, value in shown.items() if step < event.step}
        for value in event.summary.value:
            assert value.tag == "train/loss"
            assert event.step not in shown
            shown[event.step] = value.simple_value
    assert shown == {step: 1.0 if step <= 5 else 2.0 for step in range(1, 11)}


def test_starting_over_drops_everything(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    assert write(tmp_path, range(1, 3)) == 0.0
    assert [point["step"] for point in read_metrics(tmp_path)] == [1, 2]


def test_a_point_at_step_zero(tmp_path: Path) -> None:
    write(tmp_path, range(0, 2))
    write(tmp_path, range(1, 3), resume_step=0)
    assert [point["step"] for point in read_metrics(tmp_path)] == [0, 1, 2]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_torn_end_is_dropped(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("torn")
    write(folder, range(1, 4))
    content = (folder / METRICS).read_bytes()
    (folder / METRICS).write_bytes(
        content[: data.draw(st.integers(0, len(content)))] + b"\0" * data.draw(st.integers(0, 3))
    )
    survivors = [point["step"] for point in read_metrics(folder)]
    assert survivors == list(range(1, len(survivors) + 1))
    write(folder, range(4, 6), resume_step=3)
    assert [point["step"] for point in read_metrics(folder)] == [*survivors, 4, 5]
    assert all(json.loads(line) for line in (folder / METRICS).read_text().splitlines())


def test_misuse_is_said(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        writer.write(5, 5, 1.0, {})
        with pytest.raises(ValueError, match="step 5 comes after step 5: a step has one point"):
            writer.write(5, 5, 1.0, {})
        with pytest.raises(ValueError, match="may not be named env_steps"):
            writer.write(6, 5, 1.0, {"env_steps": 3.0})
    assert len(read_metrics(tmp_path)) == 1


def test_no_file_is_no_points(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "nowhere") == []


def test_refusing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, range(1, 4))

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(RunFolderError, match=r"cannot write .*metrics.jsonl: the disk is full; free some space"):
            MetricsWriter(tmp_path, resume_step=2)
    assert len(read_metrics(tmp_path)) == 3

    writer = MetricsWriter(tmp_path, resume_step=2)
    writer._lines.close()
    writer._lines = open("/dev/full", "a")  # noqa: SIM115
    with pytest.raises(RunFolderError, match="the disk is full"):
        writer.write(3, 3, 3.0, {"a/b": 1.0})
    assert os.listdir(tmp_path).count(METRICS) == 1
