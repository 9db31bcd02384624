"""Where meta-parameters come from, and what is said where they cannot be had."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import SMALL_DISCO, intervals, result_of, run

from components import weights
from components.weights import DISCO103, Published, PublishedFile, WeightsError

FROM_RUN = "--gin.Experiment.weights=@weights.FromRun()"


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the published file: an empty cache folder, and no checkout with one beside it."""
    monkeypatch.delenv("RULESPACE_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "a" / "b" / "weights.py"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", fail)


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[str]:
    """Answers every download with a content; the list is of the addresses asked for."""
    asked: list[str] = []

    def answer(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(content)

    monkeypatch.setattr("urllib.request.urlopen", answer)
    return asked


def published(content: bytes, **arrays: str) -> PublishedFile:
    """A published file of our own, in place of Disco103's."""
    return PublishedFile("ours.npz", hashlib.sha256(content).hexdigest(), "https://example.org/ours.npz", arrays)


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    return str(line)


# Published.


def test_named_folder_without_the_file(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RULESPACE_WEIGHTS", str(nowhere / "work"))
    assert run("disco103_catch", folder=nowhere / "run", steps=2) == 1
    sentence = refusal(capsys)
    assert sentence == (
        f"$RULESPACE_WEIGHTS is {nowhere / 'work'}, where there is no disco_103.npz: put the file there "
        "(from the authors' repository google-deepmind/disco_rl), or unset the variable to have it downloaded"
    )
    result = result_of(nowhere / "run")
    assert (result["status"], result["error"], result["state_sha256"]) == ("failed", sentence, None)


@pytest.mark.usefixtures("offline")
def test_no_network(nowhere: Path) -> None:
    assert weights.local_file(DISCO103) is None
    with pytest.raises(WeightsError) as caught:
        weights.find_file(DISCO103)
    assert str(caught.value) == (
        "the weights disco_103.npz are not on this machine and could not be downloaded "
        f"(<urlopen error Name or service not known>): fetch the file from {DISCO103.url} and put it into "
        f"{nowhere / 'cache' / 'rulespace' / 'weights'} or into the folder that $RULESPACE_WEIGHTS names"
    )


def test_download_goes_into_the_cache_once(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = npz(w=np.ones(3))
    asked = serve(monkeypatch, content)
    path = weights.find_file(published(content))
    assert path == nowhere / "cache" / "rulespace" / "weights" / "ours.npz"
    assert path.read_bytes() == content
    assert weights.find_file(published(content)) == path
    assert asked == ["https://example.org/ours.npz"]
    assert [other.name for other in path.parent.iterdir()] == ["ours.npz"]


def test_download_of_something_else_is_not_kept(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, b"<html>404</html>")
    with pytest.raises(WeightsError, match=r"https://example.org/ours.npz is not the published file: its sha256 is"):
        weights.find_file(published(npz(w=np.ones(3))))
    assert not list((nowhere / "cache").rglob("*.npz"))


def test_download_that_cannot_be_kept_leaves_no_part(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = npz(w=np.ones(3))
    serve(monkeypatch, content)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(WeightsError, match=r"cannot be kept in .*weights .*No space left on device.*: free some space"):
        weights.find_file(published(content))
    assert not [path for path in (nowhere / "cache").rglob("*") if path.is_file()]


@pytest.mark.usefixtures("offline")
def test_another_file_of_that_name(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "ours.npz").write_bytes(b"something else")
    monkeypatch.setenv("RULESPACE_WEIGHTS", str(nowhere))
    with pytest.raises(WeightsError, match=r"ours.npz is not the published file: its sha256 is \w{12}\.\.\., expected"):
        weights.find_file(published(b"the real one"))


def test_nothing_is_unpickled(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = npz(w=np.array([{}], object))
    (nowhere / "ours.npz").write_bytes(content)
    monkeypatch.setenv("RULESPACE_WEIGHTS", str(nowhere))
    monkeypatch.setattr(weights, "PUBLISHED", {"disco103": published(content, kernel="w")})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Published()({"kernel": np.zeros(1)})


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"no published weights are called 'disco104' \(there are: disco103\)"):
        Published("disco104")


@pytest.mark.usefixtures("disco103_weights")
@pytest.mark.parametrize(
    ("flag", "difference"),
    [
        ("META_RNN_SIZE=64", "'lifetime/core/gates/bias' has shape (256,), in the file (512,)"),
        ("PREDICTION_CATEGORIES=300", "has shape (300, "),
        ("LIFETIME_CORE=None", "it lacks 'trajectory/lifetime/kernel', which the file has"),
    ],
)
def test_another_meta_network(tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, difference: str) -> None:
    lifetime = ("--gin.LIFETIME_FEATURES=[]", "--gin.EMBEDDING_TARGET=[]") if "LIFETIME" in flag else ()
    small = ("--gin.TORSO_SIZES=(8,)", "--gin.ACTION_MODEL_SIZE=8", "--gin.BATCH_SIZE=4", "--gin.TRAJECTORY_LENGTH=3")
    assert run("disco103_catch", *small, f"--gin.{flag}", *lifetime, folder=tmp_path / "run", steps=1) == 1
    sentence = refusal(capsys)
    assert sentence.startswith("the weights disco_103.npz belong to another meta-network than this rule's: ")
    assert difference in sentence
    assert sentence.endswith("Use the rule of gin/rules/disco.gin unchanged, or weights.Initial()")


@pytest.mark.usefixtures("disco103_weights")
def test_published_arrays_survive_import_and_export() -> None:
    arrays = weights.read_arrays(weights.find_file(DISCO103))
    assert set(DISCO103.arrays.values()) == set(arrays)
    like = {ours: np.zeros(arrays[theirs].squeeze().shape) for ours, theirs in DISCO103.arrays.items()}
    exported = weights.export_arrays(weights.import_arrays(arrays, DISCO103, like), DISCO103, arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(exported[name], array)


def test_import_needs_the_same_arrays() -> None:
    file = dataclasses.replace(published(b""), arrays={"a": "x", "b": "y"})
    arrays = {"x": np.ones((1, 3)), "y": np.ones(2)}
    assert weights.import_arrays(arrays, file, {"a": np.zeros(3), "b": np.zeros(2)})["a"].shape == (3,)
    with pytest.raises(WeightsError, match="it has 'c', which the file lacks"):
        weights.import_arrays(arrays, file, {"a": np.zeros(3), "b": np.zeros(2), "c": np.zeros(1)})
    with pytest.raises(WeightsError, match="it lacks 'b', which the file has"):
        weights.import_arrays(arrays, file, {"a": np.zeros(3)})
    with pytest.raises(WeightsError, match=r"'b' has shape \(4,\), in the file \(2,\)"):
        weights.import_arrays(arrays, file, {"a": np.zeros(3), "b": np.zeros(4)})


# FromRun.


@pytest.fixture(scope="module")
def discovered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose rule has meta-parameters, drawn from another seed than the default one."""
    folder = tmp_path_factory.mktemp("runs") / "discovered"
    assert run(*SMALL_DISCO, *intervals(logging=10, checkpoints=20), "--gin.SEED=3", folder=folder, steps=2) == 0
    return folder


def test_meta_parameters_of_a_run(discovered: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "only").symlink_to(discovered)
    words = (
        *SMALL_DISCO,
        *intervals(logging=10, checkpoints=20),
        FROM_RUN,
        f"--gin.FromRun.path='{tmp_path / 'runs'}'",
    )
    assert run(*words, folder=tmp_path / "run", steps=2) == 0
    ours, theirs = result_of(tmp_path / "run"), result_of(discovered)
    assert ours["seed"] != theirs["seed"]
    assert ours["meta_params_sha256"] == theirs["meta_params_sha256"]
    assert ours["state_sha256"] != theirs["state_sha256"]


def test_run_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("empty", "several/a", "several/b"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    for name, sentence in (
        ("nowhere", f"there is no folder {tmp_path / 'nowhere'}: weights.FromRun.path must name the folder of a run"),
        (
            "several",
            f"{tmp_path / 'several'} holds several runs: let weights.FromRun.path name one of them (a, b)",
        ),
        ("empty", f"the run in {tmp_path / 'empty'} has not saved a checkpoint yet: wait for its first one"),
    ):
        words = (*SMALL_DISCO, FROM_RUN, f"--gin.FromRun.path='{tmp_path / name}'")
        assert run(*words, folder=tmp_path / f"after_{name}", steps=2) == 1
        assert refusal(capsys) == sentence


def test_run_of_another_meta_network(discovered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*SMALL_DISCO, FROM_RUN, f"--gin.FromRun.path='{discovered}'", "--gin.META_RNN_SIZE=5")
    assert run(*words, folder=tmp_path / "run", steps=2) == 1
    sentence = refusal(capsys)
    assert sentence.startswith(f"{discovered / 'checkpoints' / '2'} does not fit this experiment: state.meta_params[")
    assert "use the configuration it was saved with" in sentence
