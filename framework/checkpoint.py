"""Checkpoints of a run: one pytree, saved whole, verified when read.

``<folder>/<step>/state`` holds the arrays as orbax writes them, ``<folder>/<step>/manifest.json`` the sha256 of every
file and the shape and dtype of every leaf. Both are built under a hidden name and appear by one rename, so that a
kill at any instant leaves a complete checkpoint or none. Of several hosts, each writes and reads what its devices hold,
in a folder that all of them share, or by way of a bucket (see `framework.checkpoint_files`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework import hosts
from framework.checkpoint_files import MANIFEST, CheckpointFiles, file_sha256, files_of
from framework.runs.object_store import ObjectFolder
from framework.runs.storage import RunFolderError, disk_errors, write_atomically
from framework.types import PyTree

Warn = Callable[[str], None]


class _Damaged(Exception):
    """Why a checkpoint cannot be trusted."""


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of the run that owns the folder: opening it clears what an interrupted save left.

    Who only reads another run's checkpoints calls `restore_newest`, which touches nothing.

    Attributes:
      folder: holds one folder a step.
      keep: how many of the newest checkpoints stay.
      warn: is told, in one line each, of damaged checkpoints that were passed over.
      objects: the folder of a bucket that the checkpoints are in; ``folder`` is then where each process, which has one
        of its own, keeps them on their way. ``None`` where they are on a disk.
      before_completing: called by the writer when all of a checkpoint is saved and before it counts.

    Raises:
      RunFolderError: when the disk or the bucket refuses, or when checkpoints cannot be used; with what to do about it.
    """

    folder: Path
    keep: int
    warn: Warn = _to_stderr
    objects: ObjectFolder | None = None
    before_completing: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep is {self.keep}: at least one checkpoint has to stay")
        if not hosts.is_writer():
            return
        with disk_errors(f"clear {self._files}"):
            self._files.clear()

    @property
    def _files(self) -> CheckpointFiles:
        return files_of(self.folder, self.objects)

    def steps(self) -> list[int]:
        """Steps with a checkpoint that looks complete, ascending; its content is verified only when restored."""
        return self._files.complete_steps()

    def save(self, step: int, state: PyTree, files: Mapping[str, bytes] | None = None) -> None:
        """Saves the state and returns when it is safe; all processes call it, each with its own files.

        Checkpoints of later steps belong to a continuation that was given up (theirs were damaged) and are removed.

        Args:
          step: of the run.
          state: a tree of arrays.
          files: {name: content} of what belongs to the state and is no array, kept beside it.
        """
        leaves = named_leaves(state)
        with disk_errors(f"save {self._files}/{step}"):
            try:
                saving = self._files.begin(step)
                _write_arrays(saving / "state", leaves, shared=self._files.shared)
                for name, content in (files or {}).items():
                    write_atomically(saving / name, content)
                manifest = _manifest_of(step, leaves, self._files.collect(step))
                hosts.by_writer(lambda: self._complete(step, manifest))
            except BaseException:
                self._files.give_up(step)
                raise

    def _complete(self, step: int, manifest: bytes) -> None:
        """Makes what has been written the checkpoint of a step, and removes those that are not kept."""
        self.before_completing()
        self._files.complete(step, manifest)
        steps = self._files.steps()
        kept = [other for other in steps if other <= step][-self.keep :]
        for other in set(steps) - set(kept):
            self._files.remove(other)

    def restore(self, like: PyTree) -> tuple[int, PyTree] | None:
        """The newest sound checkpoint's step and state, as `restore_newest`; all processes call it."""
        step = hosts.by_writer(lambda: _newest_sound(self._files, self.warn))
        if step is None:
            return None
        if not self._files.shared and not hosts.is_writer():
            self._files.fetch(step)
        return step, _read_state(self.folder, step, like, "")

    def file(self, step: int, name: str) -> bytes:
        """The content of a file that was saved beside a state, which `restore` has just verified.

        Raises:
          RunFolderError: there is none.
        """
        path = self.folder / str(step) / name
        with disk_errors(f"read {path}"):
            return path.read_bytes()


def restore_newest(
    folder: Path,
    like: PyTree,
    *,
    within: str = "",
    at: int | None = None,
    warn: Warn = _to_stderr,
    objects: ObjectFolder | None = None,
) -> tuple[int, PyTree] | None:
    """Step and state of the newest sound checkpoint; ``None`` where no checkpoint was ever saved.

    Args:
      folder: the folder of checkpoints.
      like: a tree of arrays or ``jax.ShapeDtypeStruct``: the structure, shapes and dtypes expected. Numpy leaves come
        back as numpy, all others as jax arrays, placed as those of ``like``.
      within: path of the part of the state that ``like`` describes, such as ``.meta_params``; all of it by default.
      at: the one step that is wanted; the newest that is sound by default.
      warn: is told of every damaged checkpoint that was passed over.
      objects: the folder of a bucket that the checkpoints are in; ``folder`` is then where they are brought to.

    Raises:
      RunFolderError: if all checkpoints are damaged, the one that is wanted is not there, or the state does not fit
        ``like``.
    """
    step = _newest_sound(files_of(folder, objects), warn, at)
    return None if step is None else (step, _read_state(folder, step, like, within))


def _newest_sound(files: CheckpointFiles, warn: Warn, at: int | None = None) -> int | None:
    """The step of the newest sound checkpoint, or of the one that is wanted; ``None`` where there never was any."""
    damages: dict[int, str] = {}
    steps = files.steps()
    if at is not None and at not in steps:
        kept = ", ".join(map(str, steps)) or "none"
        raise RunFolderError(
            f"{files} holds no checkpoint of step {at} (there are: {kept}): name one of these, or let a run keep more "
            "of them: --gin.Experiment.logging=@Logging() --gin.Logging.keep_checkpoints=N"
        )
    for step in reversed(steps if at is None else [at]):
        try:
            _verify(files.fetch(step), step)
        except _Damaged as damage:
            damages[step] = str(damage)
            continue
        for other, reason in damages.items():
            warn(f"{files.folder.name}/{other} is damaged ({reason}); using {files.folder.name}/{step}")
        return step
    if not damages:
        return None
    reasons = "; ".join(f"{step}: {reason}" for step, reason in damages.items())
    raise RunFolderError(
        f"every checkpoint in {files} is damaged ({reasons}); "
        "put back a sound copy, or remove that folder to start from step 0"
    )


def named_leaves(tree: PyTree, *, within: str = "") -> dict[str, Any]:
    """{path: leaf}, paths as in ``state.learner.params['torso']['kernel']``; ``within`` goes after ``state``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {f"state{within}{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}


def state_sha256(state: PyTree, files: Mapping[str, bytes] | None = None) -> str:
    """The sha256 over path, dtype, shape and bytes of every leaf, jax or numpy, in the order of their paths.

    The sha256 of files that belong to the state follow, in the order of their names. All processes call it, each with
    its own files, and all are told the same.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(_checked(named_leaves(state)).items()):
        array = hosts.whole(leaf)
        digest.update(f"{name} {_describe(array)}\n".encode())
        digest.update(array.tobytes())
    own = {name: hashlib.sha256(content).hexdigest() for name, content in (files or {}).items()}
    for name, sha256 in sorted(item for of_process in hosts.exchanged(own) for item in of_process.items()):
        digest.update(f"{name} {sha256}\n".encode())
    return digest.hexdigest()


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _checked(leaves: Mapping[str, Any]) -> Mapping[str, Any]:
    """The leaves, all of which are arrays."""
    for name, leaf in leaves.items():
        is_array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
        if not is_array or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise TypeError(f"{name} is {kind}: a state holds arrays only, keys as their key data")
    return leaves


def _manifest_of(step: int, leaves: Mapping[str, Any], files: Mapping[str, str]) -> bytes:
    """A manifest that names the files {name: sha256} of a checkpoint."""
    manifest = {
        "step": step,
        "leaves": {name: _describe(leaf) for name, leaf in leaves.items()},
        "files": dict(sorted(files.items())),
    }
    signed = {"sha256": _content_sha256(manifest), **manifest}
    return json.dumps(signed, indent=1).encode()


def _content_sha256(manifest: Mapping[str, Any]) -> str:
    """The sha256 over what a manifest says, its own sha256 apart."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _verify(folder: Path, step: int) -> None:
    """Makes sure that every file of a checkpoint is as it was written."""
    files, _ = _manifest(folder, step)
    for name, sha256 in files.items():
        try:
            if file_sha256(folder / name) != sha256:
                raise _Damaged(f"sha256 of {name} differs")
        except FileNotFoundError:
            raise _Damaged(f"{name} is missing") from None
        except OSError as error:
            raise _Damaged(f"{name} cannot be read: {error.strerror}") from None


def _manifest(folder: Path, step: int) -> tuple[dict[str, str], dict[str, str]]:
    """{name: sha256} of the files of a checkpoint, {path: dtype and shape} of its leaves."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest.pop("sha256") != _content_sha256(manifest):
            raise _Damaged(f"sha256 of {MANIFEST} differs")
        if manifest["step"] != step:
            raise _Damaged(f"{MANIFEST} is of step {manifest['step']}")
        return dict(manifest["files"]), dict(manifest["leaves"])
    except FileNotFoundError:
        raise _Damaged(f"{MANIFEST} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _Damaged(f"{MANIFEST} cannot be read") from None


def _read_state(checkpoints: Path, step: int, like: PyTree, within: str) -> PyTree:
    folder = checkpoints / str(step)
    try:
        _, saved = _manifest(folder, step)
    except _Damaged as damage:
        raise RunFolderError(
            f"{folder} was sound a moment ago, and now {damage}: all hosts must see the same folder, choose one that "
            "they share with --workdir"
        ) from None
    root = f"state{within}"
    part = {name: kind for name, kind in saved.items() if re.match(rf"{re.escape(root)}([.\[]|$)", name)}
    expected = named_leaves(like, within=within)
    _check_fit(folder, part, {name: _describe(leaf) for name, leaf in expected.items()})
    arrays = _read_arrays(folder / "state", expected)
    placed = [_placed(arrays[name], leaf) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), placed)


def _check_fit(folder: Path, saved: Mapping[str, str], expected: Mapping[str, str]) -> None:
    differing = [name for name in {**saved, **expected} if saved.get(name) != expected.get(name)]
    if differing:
        name = differing[0]
        more = f" (and {len(differing) - 1} more differ)" if len(differing) > 1 else ""
        raise RunFolderError(
            f"{folder} does not fit this experiment: {name} is {saved.get(name, 'absent')} there and "
            f"{expected.get(name, 'absent')} here{more}; use the configuration it was saved with, or another folder"
        )


def _spans_hosts(like: Any) -> bool:
    """Whether an array is, or shall be, on devices of several hosts."""
    sharding = getattr(like, "sharding", None)
    return sharding is not None and not sharding.is_fully_addressable


def _placed(array: np.ndarray | jax.Array, like: Any) -> Any:
    if isinstance(like, np.ndarray | np.generic) or isinstance(array, jax.Array):
        return array
    if _spans_hosts(like):
        return jax.make_array_from_callback(array.shape, like.sharding, lambda index: array[index])
    # An array that was free to move must stay so: committed to one device, it could not meet a sharded one under jit.
    committed = getattr(like, "committed", True)
    return jax.device_put(array, like.sharding if committed else None)


def _write_arrays(folder: Path, leaves: Mapping[str, Any], *, shared: bool) -> None:
    from framework.orbax_arrays import write_arrays

    # orbax refuses empty arrays; their shape and dtype in the manifest say all there is to know.
    arrays = {name: leaf for name, leaf in _checked(leaves).items() if leaf.size}
    if hosts.count() == 1:
        arrays = {name: np.asarray(array) for name, array in jax.device_get(arrays).items()}
    if arrays:
        write_arrays(folder, arrays, shared=shared or hosts.count() == 1)


def _read_arrays(folder: Path, expected: Mapping[str, Any]) -> dict[str, np.ndarray | jax.Array]:
    from framework.orbax_arrays import read_arrays

    empty = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in expected.items() if not math.prod(leaf.shape)}
    kinds = {name: _kind(leaf) for name, leaf in expected.items() if name not in empty}
    return {**empty, **(read_arrays(folder, kinds) if kinds else {})}


def _kind(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding if _spans_hosts(leaf) else None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
