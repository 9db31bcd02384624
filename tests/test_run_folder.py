"""The run folder: what it records, whom it refuses, and what its pictures show."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.runs import curves
from framework.runs.curves import draw_learning_curve
from framework.runs.folder import RunFolder
from framework.runs.storage import RunFolderError, strict_json, write_atomically


def start(folder: RunFolder, **changes: Any) -> None:
    record = {"config": "A.b = 1\n", "operative_config": "A.b = 1\n", "config_hash": "abc", "seed": 3}
    folder.start(**{**record, "arguments": ["run", "catch"], **changes})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "catch")


def test_looking_changes_nothing(folder: RunFolder) -> None:
    assert folder.command() is None
    assert folder.result() is None
    assert folder.saved_config_hash() is None
    assert folder.saved_seed() is None
    assert folder.saved_config_text() is None
    assert not folder.path.exists()


def test_a_start_is_recorded(folder: RunFolder) -> None:
    with folder.claimed():
        start(folder)
    assert folder.saved_config_hash() == "abc"
    assert folder.saved_seed() == 3
    assert folder.saved_config_text() == "A.b = 1\n"
    assert (folder.path / "config.operative.gin").read_text() == "A.b = 1\n"
    command = folder.command()
    assert command is not None
    (only,) = command["starts"]
    assert only["arguments"] == ["run", "catch"]
    assert only["versions"]["python"] == sys.version.split()[0]
    assert only["versions"]["jax"]
    assert only["started"].endswith("+00:00")
    assert only["devices"]
    assert only["source"] is None or set(only["source"]) == {"commit", "dirty"}


def test_a_resume_keeps_the_earlier_start_and_drops_the_old_result(folder: RunFolder) -> None:
    with folder.claimed():
        start(folder)
        folder.write_result({"status": "interrupted"})
    assert folder.result() == {"status": "interrupted"}
    with folder.claimed():
        start(folder, config="A.b = 2\n", arguments=["run", "catch", "--gin.A.b=2"])
    command = folder.command()
    assert command is not None
    assert [len(each["arguments"]) for each in command["starts"]] == [2, 3]
    assert folder.saved_config_text() == "A.b = 2\n"
    assert folder.result() is None


def test_result_is_strict_json(folder: RunFolder) -> None:
    with folder.claimed():
        folder.write_result({"final_return": math.nan, "returns": {"catch": [(50, 100, math.inf), (100, 200, 0.5)]}})
    text = (folder.path / "result.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "final_return": None,
        "returns": {"catch": [[50, 100, None], [100, 200, 0.5]]},
    }
    assert sorted(os.listdir(folder.path)) == [".lock", "result.json"]


def test_foreign_files_are_refused_and_left_alone(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "thesis.tex").write_text("precious")
    with (
        pytest.raises(RunFolderError, match=r"holds other files \(thesis.tex\) and no run; choose an empty"),
        folder.claimed(),
    ):
        pass
    assert os.listdir(folder.path) == ["thesis.tex"]


def test_a_start_that_was_killed_early_does_not_block_the_folder(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    for name in (".lock", ".command.json.saving"):
        (folder.path / name).write_text("")
    with folder.claimed():
        start(folder)
    assert folder.saved_config_hash() == "abc"


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunFolderError, match="there is a file where a folder should be"), RunFolder(path).claimed():
            pass


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "the disk is full; free"), (errno.EROFS, "it cannot be written to; choose")]
)
def test_refusing_disk(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int, advice: str) -> None:
    with folder.claimed():
        start(folder)

        def refuse(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(RunFolderError, match=rf"cannot write .*result.json: {advice}"):
            folder.write_result({"status": "finished"})
        with pytest.raises(RunFolderError, match=advice):
            start(folder)
    assert not [name for name in os.listdir(folder.path) if name.endswith(".saving")]
    assert folder.saved_config_text() == "A.b = 1\n"


def test_damaged_json_is_said(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "command.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"command.json is not JSON"):
        folder.saved_config_hash()


HOLDER = """
import sys
from pathlib import Path
from framework.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).claimed():
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_and_a_kill_frees_the_folder(folder: RunFolder) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "claimed\n"
    with (
        pytest.raises(RunFolderError, match=rf"in use by process {holder.pid} on .*; wait until it ends"),
        folder.claimed(),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with folder.claimed():
        start(folder)
    with folder.claimed():
        pass


def test_importing_is_light() -> None:
    check = "import sys; from framework.runs import curves, folder, metrics, progress, stopping;"
    check += "print({'jax', 'orbax', 'matplotlib', 'tensorboardX', 'rich', 'gin'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", check], text=True) == "set()\n"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.recursive(SCALARS, lambda items: st.lists(items, max_size=3)))
def test_strict_json_loses_nothing_but_what_is_not_finite(value: Any) -> None:
    def expected(item: Any) -> Any:
        if isinstance(item, list):
            return [expected(each) for each in item]
        return None if isinstance(item, float) and not math.isfinite(item) else item

    assert json.loads(strict_json(value), parse_constant=pytest.fail) == expected(value)


def test_write_atomically_keeps_the_old_content_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="broken"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def read_picture(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG")
    return imread(path)[..., :3]


def has_color(picture: np.ndarray, color: str) -> bool:
    rgb = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    return bool((np.abs(picture - rgb).max(-1) < 0.01).any())


def test_learning_curve_shows_a_line_for_each_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # Some environments import it.
    rising = [(step, 320 * step, 1 + step / 100) for step in range(0, 1000, 50)]
    falling = [(step, 320 * step, -value) for step, _, value in rising]
    path = tmp_path / "learning_curve.png"
    draw_learning_curve(path, {"catch": rising, "maze": falling}, title="ppo", unit="update")
    picture = read_picture(path)
    first, second = curves.line_colors(2)
    assert has_color(picture, first)
    assert has_color(picture, second)
    top, bottom = picture[:250], picture[400:]
    assert has_color(top, first)
    assert not has_color(bottom, first)
    assert has_color(bottom, second)
    assert (picture > 0.99).mean() > 0.8
    assert os.listdir(tmp_path) == ["learning_curve.png"]
    assert "matplotlib.pyplot" not in sys.modules


def test_pictures_of_little(tmp_path: Path) -> None:
    gaps: Any = [(50, 100, math.nan), (100, 200, None), (150, 300, 0.5)]
    draw_learning_curve(tmp_path / "empty.png", {"catch": []}, title="", unit="update")
    draw_learning_curve(tmp_path / "point.png", {"catch": gaps}, title="", unit="update")
    draw_learning_curve(
        tmp_path / "flat.png", {"a": [(1, 1, 0.0), (2, 2, 0.0)], "b": [(1, 1, 0.0)]}, title="", unit="update"
    )
    blue = curves.line_colors(1)[0]
    assert not has_color(read_picture(tmp_path / "empty.png"), blue)
    assert has_color(read_picture(tmp_path / "point.png"), blue)
    assert has_color(read_picture(tmp_path / "flat.png"), blue)


@given(st.lists(st.floats(0, 3), min_size=1, max_size=15))
def test_names_keep_their_distance(places: list[float]) -> None:
    spread = curves._spread(places, 0.2, 3.0)
    ordered = sorted(spread)
    assert all(above - below >= 0.2 - 1e-9 for below, above in itertools.pairwise(ordered))
    assert ordered[-1] <= 3.0
    assert ordered[0] >= -1e-9
    assert all(spread[i] <= spread[j] for i, a in enumerate(places) for j, b in enumerate(places) if a < b)
