"""Named arrays in a folder, as orbax writes them.

orbax is slow to load: this module is imported only where arrays are written or read.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


class _PatientHandler(ocp.type_handlers.NumpyHandler):
    """Lets every write end before the first error is raised.

    orbax leaves its event loop at the first error; each write that ends later then prints a traceback.
    """

    def __init__(self) -> None:
        super().__init__(deepcopy_host_arrays=False)
        self.errors: list[ValueError] = []

    async def _open_and_write(self, *arguments: Any) -> None:
        try:
            await super()._open_and_write(*arguments)
        except ValueError as error:
            self.errors.append(error)


def write_arrays(folder: Path, arrays: Mapping[str, np.ndarray | jax.Array], *, shared: bool = True) -> None:
    """Writes arrays, none of them empty, to a new folder; returns when they are on disk.

    Of several hosts, all call it with arrays that are spread over all: numpy arrays would be those of one host.

    Args:
      folder: where to.
      arrays: {name: array}.
      shared: whether the folder is the same for all hosts; else each writes what it holds to its own, and what all have
        written together is a whole.

    Raises:
      OSError: when the disk refuses.
    """
    handler = _PatientHandler()
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, handler), (jax.Array, ocp.type_handlers.ArrayHandler(primary_host=0 if shared else None))
    )
    processes = ocp.options.MultiprocessingOptions(primary_host=0 if shared else None)
    # In orbax's database of few files what the processes have written would have to be merged by one that sees it all.
    pytrees = ocp.PyTreeCheckpointHandler(
        use_ocdbt=shared,
        use_zarr3=True,
        type_handler_registry=registry,
        multiprocessing_options=processes,
    )
    with _quiet(), _disk_refusals():
        with ocp.Checkpointer(pytrees, multiprocessing_options=processes) as writer:
            writer.save(folder.absolute(), args=ocp.args.PyTreeSave(dict(arrays)))
        if handler.errors:
            raise handler.errors[0]


def read_arrays(folder: Path, kinds: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray | jax.Array]:
    """Reads the named arrays, whose shapes and dtypes the caller knows (orbax would cast to others without a word).

    Where a sharding is given, a process reads what its devices hold; else all, as numpy arrays.
    """
    restore = ocp.args.PyTreeRestore(
        item=dict(kinds),
        restore_args={name: _way_to_read(kind) for name, kind in kinds.items()},
        partial_restore=True,
    )
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_zarr3=True)) as reader:
        arrays: dict[str, np.ndarray | jax.Array] = reader.restore(folder.absolute(), args=restore)
    return arrays


def _way_to_read(kind: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
    if kind.sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=kind.sharding, global_shape=kind.shape)


@contextlib.contextmanager
def _disk_refusals() -> Iterator[None]:
    """Gives the errors of orbax's storage layer, which come as ``ValueError``, their number back."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), str(error)) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps orbax's log lines and tracebacks off the terminal: its errors arrive as exceptions as well."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
