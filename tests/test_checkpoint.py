"""Checkpoints: what is saved comes back, and what is damaged never does."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from framework import orbax_arrays
from framework.checkpoint import Checkpoints, named_leaves, restore_newest, state_sha256
from framework.checkpoint_files import MANIFEST
from framework.runs.storage import RunFolderError


class Moments(NamedTuple):
    mu: Any
    nu: Any


@struct.dataclass
class State:
    step: jax.Array
    key: jax.Array
    meta_params: Any
    rest: Any


def make_state(seed: int = 0) -> State:
    draw = np.random.default_rng(seed)
    return State(
        step=jnp.int32(seed),
        key=jax.random.key_data(jax.random.key(seed)),
        meta_params={"lstm/linear": {"w": jnp.asarray(draw.normal(size=(3, 4)), jnp.float32)}, "unused": {}},
        rest=(
            Moments(mu=jnp.ones((2, 2), jnp.bfloat16) * seed, nu=None),
            (),
            [jnp.array([True, False]), jnp.zeros((0, 3))],
            {"host": draw.normal(size=5), "frames": np.arange(6, dtype=np.uint8).reshape(2, 3)},
        ),
    )


def assert_same(one: Any, other: Any) -> None:
    assert str(jax.tree.structure(one)) == str(jax.tree.structure(other))
    for (name, left), right in zip(named_leaves(one).items(), named_leaves(other).values(), strict=True):
        assert left.dtype == right.dtype, name
        assert isinstance(left, np.ndarray) == isinstance(right, np.ndarray), name
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right), err_msg=name)


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest_file(folder: Path) -> Path:
    return max((path for path in (folder / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, warnings: list[str]) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2, warn=warnings.append)


def test_nothing_to_restore(checkpoints: Checkpoints) -> None:
    assert checkpoints.restore(make_state()) is None
    assert checkpoints.steps() == []
    assert not checkpoints.folder.exists()


def test_state_comes_back_bit_exact(checkpoints: Checkpoints, warnings: list[str]) -> None:
    state = make_state(3)
    checkpoints.save(3, state)
    restored = checkpoints.restore(make_state(0))
    assert restored is not None
    assert restored[0] == 3
    assert_same(restored[1], state)
    assert state_sha256(restored[1]) == state_sha256(state)
    assert warnings == []


def test_abstract_like_gives_jax_arrays(checkpoints: Checkpoints) -> None:
    state = {"w": jnp.arange(4.0), "n": jnp.int32(1)}
    checkpoints.save(1, state)
    restored = checkpoints.restore(jax.eval_shape(lambda: state))
    assert restored is not None
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored[1]))
    assert_same(restored[1], state)


def test_arrays_come_back_as_free_or_as_placed_as_those_of_like(checkpoints: Checkpoints) -> None:
    placed = jax.device_put(jnp.arange(4.0), jax.devices()[0])
    checkpoints.save(1, {"free": jnp.arange(4.0), "placed": placed})
    restored = checkpoints.restore({"free": jnp.zeros(4), "placed": placed})
    assert restored is not None
    assert not restored[1]["free"].committed
    assert restored[1]["placed"].committed
    assert restored[1]["placed"].sharding == placed.sharding


def test_newest_are_kept(checkpoints: Checkpoints) -> None:
    for step in (5, 10, 100):
        checkpoints.save(step, {"w": jnp.float32(step)})
    assert checkpoints.steps() == [10, 100]
    assert sorted(os.listdir(checkpoints.folder)) == ["10", "100"]


def test_saving_a_step_again_replaces_it(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, {"w": jnp.float32(1)})
    checkpoints.save(1, {"w": jnp.float32(2)})
    restored = checkpoints.restore({"w": jnp.float32(0)})
    assert restored is not None
    assert restored[1]["w"] == 2


def test_part_of_a_state(checkpoints: Checkpoints) -> None:
    state = make_state(7)
    checkpoints.save(7, state)
    like = jax.tree.map(jnp.zeros_like, state.meta_params)
    restored = restore_newest(checkpoints.folder, like, within=".meta_params")
    assert restored is not None
    assert_same(restored[1], state.meta_params)


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "manifest", "manifest_leaf", "no_manifest", "empty"])
def test_damage_falls_back_with_one_line(checkpoints: Checkpoints, warnings: list[str], harm: str) -> None:
    checkpoints.save(1000, make_state(1))
    checkpoints.save(1200, make_state(2))
    folder = checkpoints.folder / "1200"
    victim = largest_file(folder)
    name = victim.relative_to(folder).as_posix()
    if harm == "flip":
        flip_byte(victim)
        reason = f"sha256 of {name} differs"
    elif harm == "truncate":
        victim.write_bytes(victim.read_bytes()[:-5])
        reason = f"sha256 of {name} differs"
    elif harm == "delete":
        victim.unlink()
        reason = f"{name} is missing"
    elif harm == "manifest":
        (folder / MANIFEST).write_text("{")
        reason = f"{MANIFEST} cannot be read"
    elif harm == "manifest_leaf":
        text = (folder / MANIFEST).read_text()
        (folder / MANIFEST).write_text(text.replace("float32", "float64", 1))
        reason = f"sha256 of {MANIFEST} differs"
    elif harm == "no_manifest":
        (folder / MANIFEST).unlink()
        reason = f"{MANIFEST} is missing"
    else:
        subprocess.run(["rm", "-r", folder], check=True)
        folder.mkdir()
        reason = f"{MANIFEST} is missing"
    restored = checkpoints.restore(make_state())
    assert restored is not None
    assert restored[0] == 1000
    assert_same(restored[1], make_state(1))
    assert warnings == [f"checkpoints/1200 is damaged ({reason}); using checkpoints/1000"]


def test_every_file_is_covered(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, make_state(1))
    folder = checkpoints.folder / "1"
    for path in [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]:
        sound = path.read_bytes()
        flip_byte(path)
        with pytest.raises(RunFolderError):
            checkpoints.restore(make_state())
        path.write_bytes(sound)
    assert checkpoints.restore(make_state()) is not None


def test_all_damaged_is_an_error(checkpoints: Checkpoints) -> None:
    for step in (1, 2):
        checkpoints.save(step, make_state(step))
        flip_byte(largest_file(checkpoints.folder / str(step)))
    with pytest.raises(RunFolderError, match=r"every checkpoint in .* is damaged \(2: sha256 of .*; 1: .*put back"):
        checkpoints.restore(make_state())


def test_saving_after_a_fall_back_drops_the_abandoned_steps(checkpoints: Checkpoints) -> None:
    for step in (10, 20):
        checkpoints.save(step, make_state(step))
    flip_byte(largest_file(checkpoints.folder / "20"))
    checkpoints.save(15, make_state(15))
    assert checkpoints.steps() == [10, 15]


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"w": jnp.zeros((2, 4))}, r"state\['w'\] is float32\[2, 3\] there and float32\[2, 4\] here"),
        ({"w": jnp.zeros((2, 3), jnp.int32)}, r"state\['w'\] is float32\[2, 3\] there and int32\[2, 3\] here"),
        ({"w": jnp.zeros((2, 3)), "b": jnp.zeros(1)}, r"state\['b'\] is absent there and float32\[1\] here"),
        ({"v": jnp.zeros((2, 3))}, r"state\['w'\] is float32\[2, 3\] there and absent here \(and 1 more differ\)"),
    ],
)
def test_what_does_not_fit_is_named(checkpoints: Checkpoints, like: Any, message: str) -> None:
    checkpoints.save(1, {"w": jnp.ones((2, 3))})
    with pytest.raises(RunFolderError, match=message):
        checkpoints.restore(like)


def test_what_is_no_array_is_named(checkpoints: Checkpoints) -> None:
    for leaf in (3, "text", jax.random.key(0)):
        with pytest.raises(TypeError, match=r"state\['a'\] is .*: a state holds arrays only"):
            checkpoints.save(1, {"a": leaf})
    assert checkpoints.steps() == []


def test_strays_go_at_the_next_open_and_readers_touch_nothing(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, make_state(1))
    for name in (".saving-2", ".removed-0"):
        (checkpoints.folder / name / "state").mkdir(parents=True)
    assert restore_newest(checkpoints.folder, make_state()) is not None
    assert len(os.listdir(checkpoints.folder)) == 3
    assert Checkpoints(checkpoints.folder, keep=2).steps() == [1]
    assert os.listdir(checkpoints.folder) == ["1"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "the disk is full; free some space"), (errno.EROFS, "it cannot be written to; choose a folder")],
)
def test_refusing_disk(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, number: int, advice: str) -> None:
    checkpoints.save(1, make_state(1))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(orbax_arrays, "write_arrays", refuse)
    with pytest.raises(RunFolderError, match=rf"cannot save .*/2: {advice}"):
        checkpoints.save(2, make_state(2))
    assert os.listdir(checkpoints.folder) == ["1"]
    restored = checkpoints.restore(make_state())
    assert restored is not None
    assert_same(restored[1], make_state(1))


@pytest.fixture
def small_files_only() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files_only")
def test_disk_refuses_in_mid_save_and_orbax_stays_silent(
    checkpoints: Checkpoints, capfd: pytest.CaptureFixture[str]
) -> None:
    small = {"w": jnp.arange(3.0)}
    checkpoints.save(1, small)
    large = {f"w{index}": np.random.default_rng(index).normal(size=(100, 100)) for index in range(30)}
    with pytest.raises(RunFolderError, match="larger than this disk"):
        checkpoints.save(2, large)
    assert os.listdir(checkpoints.folder) == ["1"]
    assert checkpoints.restore(small) is not None
    time.sleep(0.3)
    assert "".join(capfd.readouterr()) == ""


KILLED = """
import sys, numpy as np
from pathlib import Path
from framework.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]), keep=2)
for step in range(10_000):
    checkpoints.save(step, {f"w{index}": np.full((200, 200), float(step)) for index in range(20)})
    print(step, flush=True)
"""


def test_kill_leaves_a_sound_checkpoint(tmp_path: Path, warnings: list[str]) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(3):
        saved = int(process.stdout.readline())
    time.sleep(0.03)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = max([saved, *map(int, process.stdout.read().split())])
    like = {f"w{index}": np.zeros((200, 200)) for index in range(20)}
    restored = Checkpoints(tmp_path, keep=2, warn=warnings.append).restore(like)
    assert restored is not None
    step, state = restored
    assert step in (saved, saved + 1)
    assert all((leaf == step).all() for leaf in state.values())
    assert warnings == []
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=4),
        hnp.arrays(st.sampled_from(["f4", "i4", "u4", "?"]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)),
        min_size=1,
        max_size=4,
    )
)
def test_sha256_sees_every_leaf(state: dict[str, np.ndarray]) -> None:
    sha256 = state_sha256(state)
    assert sha256 == state_sha256(jax.tree.map(jnp.asarray, state))
    assert sha256 == state_sha256(dict(reversed(state.items())))
    name, array = next(iter(state.items()))
    assert sha256 != state_sha256({**state, name: array[None]})
    assert sha256 != state_sha256({**state, name: array.view("u1" if array.dtype == bool else "V4")})
    assert sha256 != state_sha256({**state, name + "'": array})
    if array.size:
        flipped = np.frombuffer(array.tobytes(), np.uint8).copy()
        flipped[0] ^= 1
        assert sha256 != state_sha256({**state, name: flipped.view(array.dtype).reshape(array.shape)})


def test_manifest_is_plain_json(checkpoints: Checkpoints) -> None:
    checkpoints.save(4, {"w": jnp.zeros((2, 3)), "n": jnp.int32(0)})
    manifest = json.loads((checkpoints.folder / "4" / MANIFEST).read_text())
    assert manifest["step"] == 4
    assert manifest["leaves"] == {"state['n']": "int32[]", "state['w']": "float32[2, 3]"}
    on_disk = {p.relative_to(checkpoints.folder / "4").as_posix() for p in checkpoints.folder.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == on_disk - {MANIFEST}
