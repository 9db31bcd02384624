"""Folders of a bucket, claims on them, checkpoints in them: Google's own client talks to a server on this machine."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import struct

pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is missing: pip install 'rulespace[bucket]'")

from object_server import BUCKET, ObjectServer, Refused, object_server

from components import weights
from experiments.run_records import find_runs
from framework.checkpoint import Checkpoints
from framework.runs import lease
from framework.runs.folder import RunFolder, open_run
from framework.runs.lease import Lease
from framework.runs.object_store import (
    ABSENT,
    Conflict,
    ObjectFolder,
    address_of,
    is_address,
    open_folder,
    refuse_address,
)
from framework.runs.storage import RunFolderError
from launch.grid import GridFolder

__all__ = ["object_server"]

ADDRESS = f"gs://{BUCKET}/runs/ppo"


@pytest.fixture
def objects(object_server: ObjectServer) -> ObjectFolder:
    return open_folder(ADDRESS)


# Objects


def test_what_is_written_is_read(objects: ObjectFolder, object_server: ObjectServer) -> None:
    assert objects.read("a.txt") is None
    first = objects.write("a.txt", b"line\r\n--\r\n")
    assert objects.read("a.txt") == (b"line\r\n--\r\n", first)
    second = objects.write("a.txt", b"new", replacing=first)
    assert objects.read("a.txt") == (b"new", second)
    object_server.put("runs/ppo2/other", b"", {})
    for empty in ("runs/ppo/", "runs/ppo/deep/"):  # As consoles make folders.
        object_server.put(empty, b"", {})
    objects.below("deep").write("b", b"1")
    assert objects.names() == ["a.txt", "deep/b"]
    assert {name: file.size for name, file in objects.files().items() if name} == {"a.txt": 3}
    objects.remove(["a.txt", "never there"])
    assert objects.names() == ["deep/b"]


def test_what_another_has_written_is_not_replaced(objects: ObjectFolder) -> None:
    objects.write("a", b"theirs", replacing=ABSENT)
    with pytest.raises(Conflict):
        objects.write("a", b"ours", replacing=ABSENT)
    found = objects.read("a")
    assert found is not None
    assert found.content == b"theirs"
    # An answer that was lost: the same content is there, it must be ours.
    assert objects.write("a", b"theirs", replacing=ABSENT) == found.generation
    objects.remove(["a"], of_generation=found.generation + 1)
    assert objects.names() == ["a"]


def test_files_go_and_come_at_once_however_large(objects: ObjectFolder, tmp_path: Path) -> None:
    large = np.random.default_rng(0).bytes(9 << 20)  # Google's client sends it in parts.
    for name, content in {"large": large, "small": b"x", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
    objects.upload({f"deep/{path.name}": path for path in tmp_path.iterdir()})
    objects.download(["deep/large", "deep/small", "deep/empty", "deep/nowhere"], tmp_path / "back")
    assert (tmp_path / "back" / "deep" / "large").read_bytes() == large
    assert (tmp_path / "back" / "deep" / "small").read_bytes() == b"x"
    assert (tmp_path / "back" / "deep" / "empty").read_bytes() == b""


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_passing_failure_is_tried_again(objects: ObjectFolder, object_server: ObjectServer, status: int) -> None:
    failures = 2 * [Refused(status, "not now")]

    def before(method: str, name: str) -> None:
        if failures:
            raise failures.pop()

    object_server.before = before
    objects.write("a", b"1")
    assert object_server.below("runs/ppo") == {"a": b"1"}
    assert failures == []


def refusing(status: int, message: str) -> object:
    def before(method: str, name: str) -> None:
        raise Refused(status, message)

    return before


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "there are no Google Cloud credentials; log in with: gcloud auth application-default login"),
        (403, rf"it is not allowed \(403 no\); ask for roles/storage.objectAdmin on gs://{BUCKET}"),
        (400, "400 no; run the same command again, a run continues from its last checkpoint"),
    ],
)
def test_a_lasting_failure_is_a_sentence(
    objects: ObjectFolder, object_server: ObjectServer, tmp_path: Path, status: int, said: str
) -> None:
    object_server.before = refusing(status, "no")  # type: ignore[assignment]
    (tmp_path / "a").write_bytes(b"1")
    tries = (
        lambda: objects.write("a", b"1"),
        lambda: objects.read("a"),
        lambda: objects.names(),
        lambda: objects.remove(["a"]),
        lambda: objects.upload({"a": tmp_path / "a"}),
        lambda: objects.download(["a"], tmp_path),
        lambda: objects.refuse_missing_bucket(),
    )
    for attempt in tries:
        with pytest.raises(RunFolderError, match=rf"^cannot [\w ]+ {ADDRESS}: {said}$"):
            attempt()


def test_there_is_no_such_bucket(object_server: ObjectServer) -> None:
    nowhere = open_folder("gs://nowhere/runs")
    missing = r"there is no bucket gs://nowhere; make it with: gcloud storage buckets create gs://nowhere$"
    for attempt in (nowhere.refuse_missing_bucket, nowhere.names, lambda: nowhere.write("a", b"")):
        with pytest.raises(RunFolderError, match=missing):
            attempt()


def test_there_are_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(
        RunFolderError,
        match=rf"^cannot use {ADDRESS}: there are no Google Cloud credentials; log in with: gcloud auth .* login$",
    ):
        open_folder(ADDRESS)


def test_the_client_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(RunFolderError, match=r"needs the package google-cloud-storage: pip install 'rulespace\[bucket"):
        open_folder(ADDRESS)


@pytest.mark.parametrize(
    "address", ["gs://", "gs://bucket", "gs://bucket/", "gs:///a", "s3://bucket/a", "gs://B/a", "gs:/bucket/a"]
)
def test_what_is_no_address(address: str) -> None:
    assert is_address(address)
    with pytest.raises(RunFolderError, match=r"is no folder of a bucket: write gs://BUCKET/FOLDER"):
        open_folder(address)


@pytest.mark.parametrize("text", [ADDRESS, "s3://bucket/a"])
def test_a_path_that_was_an_address(text: str) -> None:
    assert address_of(Path(text)) == text


@pytest.mark.parametrize("text", ["runs/ppo", "/runs/ppo", "runs/gs:/ppo", "gs", "a:b"])
def test_a_path_that_was_none(text: str) -> None:
    assert address_of(Path(text)) is None


def test_an_address_where_a_folder_of_this_machine_is_asked_for() -> None:
    refuse_address(Path("runs/gs:/ppo"), "copy it")
    with pytest.raises(RunFolderError, match=r"gs://my-bucket/runs is no folder of this machine: copy it"):
        refuse_address(Path("gs://my-bucket/runs"), "copy it")
    with pytest.raises(RunFolderError, match=r"is no folder of this machine: copy it here with gcloud storage cp"):
        find_runs([Path("gs://my-bucket/runs")])
    with pytest.raises(RunFolderError, match=r"is no folder of this machine: a grid is noted here"):
        GridFolder(Path("gs://my-bucket/runs"))


# Claims


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWAL_SECONDS", 0.1)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 3.0)
    monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_two_cannot_have_a_folder(objects: ObjectFolder, object_server: ObjectServer) -> None:
    with Lease(objects) as first:
        with pytest.raises(
            RunFolderError, match=rf"^{ADDRESS} is in use by process \d+ on .+; wait until it ends, or choose another"
        ):
            Lease(objects).__enter__()
        first.hold()
    assert object_server.objects == {}
    with Lease(objects) as second:
        second.hold()


@pytest.mark.usefixtures("impatient")
def test_a_claim_of_a_dead_process_is_over_after_a_while(
    objects: ObjectFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.5)
    dead = Lease(objects)
    dead._take(replacing=ABSENT)
    begin = time.monotonic()
    with Lease(objects) as living:
        assert time.monotonic() - begin >= 0.5
        assert "looking whether it is alive" in capsys.readouterr().err
        living.hold()
        with pytest.raises(RunFolderError, match=r"was taken over by process .* nothing more is written"):
            dead.hold()
        dead.release()  # What is another's stays.
        time.sleep(0.3)
        living.hold()


@pytest.mark.usefixtures("impatient")
def test_of_many_one_takes_over(objects: ObjectFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.5)
    Lease(objects)._take(replacing=ABSENT)
    outcomes: list[Lease | RunFolderError] = []

    def claim() -> None:
        try:
            outcomes.append(Lease(objects).__enter__())
        except RunFolderError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
    assert len(outcomes) == 4
    winner.release()


def test_a_renewal_that_fails_for_a_moment_costs_nothing(objects: ObjectFolder, object_server: ObjectServer) -> None:
    with Lease(objects) as claim:
        object_server.before = refusing(400, "no")  # type: ignore[assignment]
        with pytest.raises(RunFolderError, match="400 no"):
            claim._renew()
        object_server.before = lambda method, name: None
        claim._renew()


# Run folders


def start(folder: RunFolder) -> None:
    folder.start(config="A.b = 1\n", operative_config="", config_hash="abc", seed=3, arguments=["run", "catch"])


def test_a_folder_is_known_wherever_it_is_opened(object_server: ObjectServer) -> None:
    with open_run(ADDRESS) as folder, folder.claimed():
        assert str(folder) == ADDRESS
        assert folder.command() is None
        start(folder)
        (folder.path / "metrics.jsonl").write_text('{"step": 1}\n')
        folder.write_result({"status": "failed"})
        copy = folder.path
    assert not copy.exists()
    assert set(object_server.below("runs/ppo")) == {
        "command.json", "config.gin", "config.operative.gin", "metrics.jsonl", "result.json",
    }  # fmt: skip
    with open_run(ADDRESS) as folder, folder.claimed():
        assert folder.saved_config_hash() == "abc"
        assert folder.saved_config_text() == "A.b = 1\n"
        assert folder.result() == {"status": "failed"}
        assert (folder.path / "metrics.jsonl").read_text() == '{"step": 1}\n'
        start(folder)
        assert "result.json" not in object_server.below("runs/ppo")
        command = folder.command()
        assert command is not None
        assert len(command["starts"]) == 2


def test_what_has_not_changed_is_not_sent_again(object_server: ObjectServer) -> None:
    with open_run(ADDRESS) as folder, folder.claimed():
        start(folder)
        sent = len(object_server.requests)
        folder.publish()
        assert len(object_server.requests) == sent
        (folder.path / "metrics.jsonl").write_text("{}\n")
        folder.publish_now_and_then()  # It is not a while ago.
        assert "metrics.jsonl" not in object_server.below("runs/ppo")
        folder.publish()
        assert object_server.below("runs/ppo")["metrics.jsonl"] == b"{}\n"


def test_other_files_are_left_alone(object_server: ObjectServer) -> None:
    object_server.put("runs/ppo/thesis.tex", b"", {})
    refused = pytest.raises(RunFolderError, match=rf"{ADDRESS} holds other files \(thesis.tex\) and no run; choose an")
    with open_run(ADDRESS) as folder, refused, folder.claimed():
        pass
    assert set(object_server.below("runs/ppo")) == {"thesis.tex"}


# Checkpoints


def test_a_rule_is_taken_from_a_run_in_a_bucket(checkpoints: Checkpoints) -> None:
    like = {"w": np.zeros((3, 4), np.float32)}
    found = weights.FromRun(Path(ADDRESS))
    with pytest.raises(weights.WeightsError, match=f"the run in {ADDRESS} has not saved a checkpoint yet"):
        found(like)
    checkpoints.save(1, State(meta_params={"w": np.full((3, 4), 7.0, np.float32)}, step=np.int32(1)))
    np.testing.assert_array_equal(found(like)["w"], np.full((3, 4), 7.0))


@pytest.fixture
def checkpoints(objects: ObjectFolder, tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2, objects=objects.below("checkpoints"))


@struct.dataclass
class State:
    meta_params: Any
    step: Any


def state(number: float) -> dict[str, np.ndarray]:
    return {"w": np.full((3, 4), number, np.float32), "none": np.zeros((0, 2), np.float32)}


def restored(checkpoints: Checkpoints) -> tuple[int, float]:
    found = checkpoints.restore(state(0.0))
    assert found is not None
    step, values = found
    assert (values["w"] == values["w"][0, 0]).all()
    return step, float(values["w"][0, 0])


def saved_steps(server: ObjectServer) -> set[str]:
    return {name.partition("/")[0] for name in server.below("runs/ppo/checkpoints")}


def test_checkpoints_come_back_and_the_newest_are_kept(checkpoints: Checkpoints, object_server: ObjectServer) -> None:
    assert checkpoints.restore(state(0.0)) is None
    for step in (1, 2, 3):
        checkpoints.save(step, state(step / 4), {"worlds.npz": bytes([step])})
    assert checkpoints.steps() == [2, 3]
    assert saved_steps(object_server) == {"2", "3"}
    assert restored(checkpoints) == (3, 0.75)
    assert checkpoints.file(3, "worlds.npz") == b"\3"
    checkpoints.save(2, state(9.0))  # As after a fall back: what comes later was given up.
    assert checkpoints.steps() == [2]
    assert restored(checkpoints) == (2, 9.0)


def test_a_half_written_checkpoint_is_none_and_goes(checkpoints: Checkpoints, object_server: ObjectServer) -> None:
    checkpoints.save(1, state(1.0))

    def before(method: str, name: str) -> None:
        if method == "PUT" and name.startswith("runs/ppo/checkpoints/2/state/_"):
            raise Refused(403, "the quota is used up")

    object_server.before = before
    with pytest.raises(RunFolderError, match=r"cannot write to .*: it is not allowed \(403 the quota is used up\)"):
        checkpoints.save(2, state(2.0))
    assert saved_steps(object_server) == {"1", "2"}
    assert checkpoints.steps() == [1]
    assert restored(checkpoints) == (1, 1.0)
    object_server.before = lambda method, name: None
    anew = Checkpoints(checkpoints.folder, keep=2, objects=checkpoints.objects)
    assert saved_steps(object_server) == {"1"}
    anew.save(2, state(2.0))
    assert restored(anew) == (2, 2.0)


def test_no_removal_leaves_half_a_checkpoint(checkpoints: Checkpoints, object_server: ObjectServer) -> None:
    checkpoints.save(1, state(1.0))
    checkpoints.save(2, state(2.0))
    seen: list[bool] = []

    def before(method: str, name: str) -> None:
        if method == "DELETE" and "/1/state" in name:
            seen.append("1/manifest.json" in object_server.below("runs/ppo/checkpoints"))

    object_server.before = before
    checkpoints.save(3, state(3.0))
    assert seen
    assert not any(seen)


def test_a_damaged_object_falls_back(objects: ObjectFolder, object_server: ObjectServer, tmp_path: Path) -> None:
    warnings: list[str] = []
    there = objects.below("checkpoints")
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3, warn=warnings.append, objects=there)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    object_server.put("runs/ppo/checkpoints/3/state/_METADATA", b"{}", {})
    object_server.delete("runs/ppo/checkpoints/2/state/_METADATA", {})
    assert restored(checkpoints) == (1, 1.0)
    assert warnings == [
        "checkpoints/3 is damaged (sha256 of state/_METADATA differs); using checkpoints/1",
        "checkpoints/2 is damaged (state/_METADATA is missing); using checkpoints/1",
    ]


def test_two_that_save_the_same_step(checkpoints: Checkpoints, object_server: ObjectServer) -> None:
    """Whose claim is gone must not complete what another has completed."""

    def before(method: str, name: str) -> None:
        if method == "PUT" and name.endswith("1/manifest.json"):
            object_server.before = lambda method, name: None
            object_server.put(name, b"theirs", {})

    object_server.before = before
    with pytest.raises(RunFolderError, match=r"another process has saved .*/1; let one run at a time"):
        checkpoints.save(1, state(1.0))
    assert object_server.below("runs/ppo/checkpoints")["1/manifest.json"] == b"theirs"
