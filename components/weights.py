"""Where an update rule's meta-parameters come from."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from framework.checkpoint import restore_newest
from framework.errors import UserError
from framework.registry import component
from framework.runs.object_store import ObjectFolder, address_of, open_folder
from framework.types import Params


class WeightsError(UserError):
    """Meta-parameters that cannot be had, with what to do about it."""


@component("weights")
@dataclasses.dataclass(frozen=True)
class Initial:
    """Meta-parameters drawn from the run's seed: where discovery starts. Static rules have none to draw."""

    def __call__(self, initial: Params) -> Params:
        return initial


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A file of published meta-parameters: its name, checksum, address, and where its arrays go.

    Attributes:
      file: name of the .npz file.
      sha256: of its bytes.
      url: where the authors keep it.
      arrays: {path in our meta-parameters: array in the file}.
    """

    file: str
    sha256: str
    url: str
    arrays: Mapping[str, str]


def _mlp(ours: str, theirs: str, layers: int) -> dict[str, str]:
    layer = {f"{ours}/linear_{i}": f"{theirs}/~/linear_{i}" for i in range(layers)}
    return {k: v for o, t in layer.items() for k, v in _linear(o, t).items()}


def _linear(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}/kernel": f"{theirs}/w", f"{ours}/bias": f"{theirs}/b"}


_META_RNN = "lstm/~/meta_lstm/~unroll"

DISCO103 = PublishedFile(
    file="disco_103.npz",
    sha256="dac840a15b81e8805326363458c33979626172618f620d9e6e170315388530aa",
    url="https://raw.githubusercontent.com/google-deepmind/disco_rl/main/disco_rl/update_rules/weights/disco_103.npz",
    arrays={
        **_mlp("trajectory/embedding_y", "lstm/mlp", 2),
        **_mlp("trajectory/embedding_z", "lstm/mlp_1", 2),
        **_linear("trajectory/action_block/linear", "lstm/sequential/conv1_d"),
        **_linear("trajectory/action_block_2/linear", "lstm/sequential/conv1_d_1"),
        **_linear("trajectory/core/lstm/gates", "lstm/lstm/linear"),
        **_linear("trajectory/lifetime", "lstm/linear"),
        **_linear("trajectory/embedding", "lstm/linear_1"),
        **_linear("trajectory/y_hat", "lstm/linear_2"),
        **_linear("trajectory/z_hat", "lstm/linear_3"),
        **_linear("trajectory/pi_hat_block_0/linear", "lstm/sequential_1/conv1_d"),
        **_linear("trajectory/pi_hat", "lstm/linear_4"),
        **_mlp("lifetime/embedding_y", f"{_META_RNN}/mlp", 2),
        **_mlp("lifetime/embedding_z", f"{_META_RNN}/mlp_1", 2),
        **_linear("lifetime/action_block/linear", f"{_META_RNN}/sequential/conv1_d"),
        **_linear("lifetime/action_block_2/linear", f"{_META_RNN}/sequential/conv1_d_1"),
        **_linear("lifetime/core/embedding", f"{_META_RNN}/mlp_2/~/linear_0"),
        **_linear("lifetime/core/gates", f"{_META_RNN}/lstm/linear"),
    },
)

PUBLISHED: Mapping[str, PublishedFile] = {"disco103": DISCO103}


def import_arrays(arrays: Mapping[str, np.ndarray], published: PublishedFile, like: Params) -> Params:
    """The arrays of a published file as meta-parameters shaped like those of a rule.

    Raises:
      WeightsError: where the rule's meta-network is another one than the file's.
    """
    theirs = dict(published.arrays)

    def take(path: tuple, leaf: jax.Array) -> np.ndarray:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name not in theirs:
            raise WeightsError(_other_rule(published, f"it has '{name}', which the file lacks"))
        array = arrays[theirs.pop(name)]
        if array.size != leaf.size or array.squeeze().shape != tuple(n for n in leaf.shape if n != 1):
            shapes = f"'{name}' has shape {tuple(leaf.shape)}, in the file {tuple(array.shape)}"
            raise WeightsError(_other_rule(published, shapes))
        return np.ascontiguousarray(array, np.float32).reshape(leaf.shape)

    params = jax.tree_util.tree_map_with_path(take, like)
    if theirs:
        raise WeightsError(_other_rule(published, f"it lacks '{next(iter(theirs))}', which the file has"))
    return params


def export_arrays(
    meta_params: Params, published: PublishedFile, like: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Meta-parameters under the names and in the shapes of a published file; undoes `import_arrays`."""
    leaves = jax.tree_util.tree_leaves_with_path(meta_params)
    ours = {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}
    return {theirs: ours[name].reshape(like[theirs].shape) for name, theirs in published.arrays.items()}


def _other_rule(published: PublishedFile, difference: str) -> str:
    return (
        f"the weights {published.file} belong to another meta-network than this rule's: {difference}. "
        "Use the rule of gin/rules/disco.gin unchanged, or weights.Initial()"
    )


@component("weights")
@dataclasses.dataclass(frozen=True)
class Published:
    """Meta-parameters that the authors of a paper published; they are not part of this package.

    Looked for in the folder ``$RULESPACE_WEIGHTS``, the user's cache folder and ``../shared/weights``, then
    downloaded from the authors' repository into the cache. The checksum is always compared; nothing is unpickled.

    Attributes:
      name: 'disco103' (Oh et al., 2025).
    """

    name: str = "disco103"

    def __post_init__(self) -> None:
        if self.name not in PUBLISHED:
            raise ValueError(f"no published weights are called '{self.name}' (there are: {', '.join(PUBLISHED)})")

    def __call__(self, initial: Params) -> Params:
        published = PUBLISHED[self.name]
        return import_arrays(read_arrays(find_file(published)), published, initial)


@component("weights")
@dataclasses.dataclass(frozen=True)
class FromRun:
    """Meta-parameters that an earlier run discovered: those of its newest sound checkpoint.

    Attributes:
      path: the run's folder, which may be ``gs://BUCKET/FOLDER``; on a disk also the folder above it where it holds
        one run alone.
    """

    path: Path

    def __call__(self, initial: Params) -> Params:
        if (address := address_of(self.path)) is not None:
            with tempfile.TemporaryDirectory(prefix="rulespace-") as copy:
                return self._restored(address, Path(copy), initial, open_folder(address).below("checkpoints"))
        folder = self._run_folder()
        return self._restored(str(folder), folder / "checkpoints", initial)

    def _restored(self, run: str, checkpoints: Path, initial: Params, objects: ObjectFolder | None = None) -> Params:
        restored = restore_newest(checkpoints, initial, within=".meta_params", objects=objects)
        if restored is None:
            raise WeightsError(f"the run in {run} has not saved a checkpoint yet: wait for its first one")
        return restored[1]

    def _run_folder(self) -> Path:
        if (self.path / "checkpoints").is_dir():
            return self.path
        runs = sorted(folder.parent for folder in self.path.glob("*/checkpoints"))
        if len(runs) == 1:
            return runs[0]
        if runs:
            names = ", ".join(run.name for run in runs)
            raise WeightsError(f"{self.path} holds several runs: let weights.FromRun.path name one of them ({names})")
        missing = "there are no checkpoints in" if self.path.is_dir() else "there is no folder"
        raise WeightsError(f"{missing} {self.path}: weights.FromRun.path must name the folder of a run")


def cache_folder() -> Path:
    """The user's cache folder for downloaded weights."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rulespace" / "weights"


def local_file(published: PublishedFile) -> Path | None:
    """The file in ``$RULESPACE_WEIGHTS``, in the cache or in ``../shared/weights``, with its checksum compared."""
    folder = os.environ.get("RULESPACE_WEIGHTS")
    candidates = [Path(folder)] if folder else []
    checkout = Path(__file__).resolve().parents[1]
    candidates += [cache_folder(), Path("..") / "shared" / "weights", checkout.parent / "shared" / "weights"]
    for candidate in candidates:
        path = candidate / published.file
        if path.is_file():
            _check_sha256(path.read_bytes(), published, str(path))
            return path
    if folder:
        raise WeightsError(
            f"$RULESPACE_WEIGHTS is {folder}, where there is no {published.file}: put the file there "
            "(from the authors' repository google-deepmind/disco_rl), or unset the variable to have it downloaded"
        )
    return None


def find_file(published: PublishedFile) -> Path:
    """The file, downloaded into the cache if it is nowhere.

    Raises:
      WeightsError: where it cannot be had or is not the published one.
    """
    return local_file(published) or _download(published)


def _download(published: PublishedFile) -> Path:
    path = cache_folder() / published.file
    try:
        with urllib.request.urlopen(published.url, timeout=30) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(
            f"the weights {published.file} are not on this machine and could not be downloaded ({error}): fetch the "
            f"file from {published.url} and put it into {path.parent} or into the folder that $RULESPACE_WEIGHTS names"
        ) from error
    _check_sha256(content, published, published.url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In a folder of its own until it is whole: several runs may download at once.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder) / published.file
            whole.write_bytes(content)
            whole.replace(path)
    except OSError as error:
        raise WeightsError(
            f"the weights {published.file} cannot be kept in {path.parent} ({error.strerror}): free some space there, "
            "or let $XDG_CACHE_HOME name a folder that can be written to"
        ) from error
    return path


def _check_sha256(content: bytes, published: PublishedFile, where: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != published.sha256:
        raise WeightsError(
            f"{where} is not the published file: its sha256 is {found[:12]}..., expected {published.sha256[:12]}...; "
            "delete it and fetch it again"
        )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a .npz file; pickled content is refused."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
