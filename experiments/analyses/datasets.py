"""Files of recorded trajectories, and what seqio makes of them: tasks, mixtures, batches that resume.

A record holds one trajectory as a ``tf.train.Example`` with the bytes of every array; ``description.json`` beside it
says which arrays there are. TensorFlow and seqio are imported only where they are used.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from framework.errors import UserError
from framework.requirements import Requirement
from framework.runs.storage import disk_errors, write_atomically

DESCRIPTION = "description.json"
SPLIT = "train"

SEQIO = Requirement.of_extra("seqio", "data")
TENSORFLOW = Requirement.of_extra("tensorflow", "data")
ARRAY_RECORD = Requirement.of_extra("array_record", "data")


@dataclasses.dataclass(frozen=True)
class Description:
    """What a folder of recorded trajectories holds.

    Attributes:
      file: name of the file of records.
      format: of the file, one of `FORMATS`.
      trajectories: number of records.
      arrays: {name: (shape of a trajectory's array [T, ...], NumPy name of its dtype)}.
      source: run and step that the agents are from.
      seed: of environments and actions.
    """

    file: str
    format: str
    trajectories: int
    arrays: Mapping[str, tuple[tuple[int, ...], str]]
    source: str
    seed: int

    @classmethod
    def of(cls, recording: Mapping[str, np.ndarray], *, file_format: str, source: str, seed: int) -> Description:
        """That of a recording, {name: array [N, T, ...]}."""
        arrays = {name: (x.shape[1:], x.dtype.name) for name, x in sorted(recording.items())}
        count = len(next(iter(recording.values())))
        return cls(f"trajectories.{file_format}", file_format, count, arrays, source, seed)

    @classmethod
    def read(cls, folder: Path) -> Description:
        """That of a folder.

        Raises:
          UserError: there are no recorded trajectories.
        """
        path = folder / DESCRIPTION
        if not path.is_file():
            raise UserError(
                f"there are no recorded trajectories in {folder}: record some with rulespace analyse record"
            )
        try:
            found = json.loads(path.read_text())
            arrays = {name: (tuple(array["shape"]), array["dtype"]) for name, array in found["arrays"].items()}
            return cls(**(found | {"arrays": arrays}))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} does not describe recorded trajectories ({error}): record them again") from None

    def as_json(self) -> dict[str, Any]:
        arrays = {name: {"shape": list(shape), "dtype": dtype} for name, (shape, dtype) in self.arrays.items()}
        return dataclasses.asdict(self) | {"arrays": arrays}


class FileFormat(Protocol):
    """How records lie in a file."""

    requires: ClassVar[Requirement]

    @staticmethod
    def write(path: Path, records: Iterator[bytes]) -> None:
        """Writes a file."""

    @staticmethod
    def dataset(path: Path, count: int) -> Any:
        """A ``tf.data.Dataset`` of a file's records, in their order, whose iterator can be saved."""


class ArrayRecord:
    """The files of array_record: any record can be read by its number."""

    requires: ClassVar[Requirement] = ARRAY_RECORD

    @staticmethod
    def write(path: Path, records: Iterator[bytes]) -> None:
        # A group for each record: a shuffled reader decompresses no neighbours.
        module = ARRAY_RECORD.module("array_record.python.array_record_module")
        writer = module.ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()

    @staticmethod
    def dataset(path: Path, count: int) -> Any:
        tf = tensorflow()
        source = ARRAY_RECORD.module("array_record.python.array_record_data_source").ArrayRecordDataSource(str(path))

        def read(index: np.ndarray) -> bytes:
            record: bytes = source[int(index)]
            return record

        def record(index: Any) -> Any:
            # Not stateful: an iterator over a stateful function cannot be saved.
            return tf.ensure_shape(tf.numpy_function(read, [index], tf.string, stateful=False), ())

        return tf.data.Dataset.range(count).map(record)


class TFRecord:
    """TensorFlow's files of records, read from the first to the last."""

    requires: ClassVar[Requirement] = TENSORFLOW

    @staticmethod
    def write(path: Path, records: Iterator[bytes]) -> None:
        with tensorflow().io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)

    @staticmethod
    def dataset(path: Path, count: int) -> Any:
        return tensorflow().data.TFRecordDataset(str(path))


FORMATS: Mapping[str, type[FileFormat]] = {"array_record": ArrayRecord, "tfrecord": TFRecord}
"""{name: file format}: also the end of a file's name."""


@functools.cache
def tensorflow() -> Any:
    """TensorFlow, kept from taking the accelerators: these are for JAX."""
    tf = TENSORFLOW.module()
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf


def write_records(folder: Path, recording: Mapping[str, np.ndarray], description: Description) -> None:
    """Writes the file of records, and after it what describes it."""
    tf = tensorflow()

    def example(index: int) -> bytes:
        content = {
            name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[recording[name][index].tobytes()]))
            for name in description.arrays
        }
        serialized: bytes = tf.train.Example(features=tf.train.Features(feature=content)).SerializeToString(
            deterministic=True
        )
        return serialized

    records = (example(index) for index in range(description.trajectories))
    with disk_errors(f"write {folder}", "--out"):
        FORMATS[description.format].write(folder / description.file, records)
        write_atomically(folder / DESCRIPTION, f"{json.dumps(description.as_json(), indent=1)}\n".encode())


def register_task(name: str, folder: Path, arrays: Sequence[str] | None = None) -> Any:
    """A folder of recorded trajectories as a seqio Task, registered under a name.

    Args:
      name: of the task; it must be new.
      folder: of the recorded trajectories.
      arrays: which of their arrays it has; all by default. Tasks of one mixture must have the same.

    Raises:
      UserError: the folder holds none, lacks an array, or seqio is not installed.
    """
    seqio, description = SEQIO.module(), Description.read(folder)
    wanted = tuple(description.arrays if arrays is None else arrays)
    if missing := [array for array in wanted if array not in description.arrays]:
        raise UserError(f"{folder} holds no array '{missing[0]}', only {', '.join(description.arrays)}")
    tf = tensorflow()
    shapes = {array: description.arrays[array] for array in wanted}
    _refuse_taken(name)

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> Any:
        del split, shuffle_files, seed  # One file; seqio shuffles what is in it.
        return FORMATS[description.format].dataset(folder.resolve() / description.file, description.trajectories)

    def parsed(dataset: Any) -> Any:
        features = {array: tf.io.FixedLenFeature((), tf.string) for array in shapes}

        def parse(record: Any) -> dict[str, Any]:
            found = tf.io.parse_single_example(record, features)
            return {
                array: tf.reshape(tf.io.decode_raw(found[array], dtype), shape)
                for array, (shape, dtype) in shapes.items()
            }

        return dataset.map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            dataset_fn=dataset, splits=[SPLIT], num_input_examples={SPLIT: description.trajectories}
        ),
        preprocessors=[parsed],
        output_features={
            array: seqio.ContinuousFeature(rank=len(shape), dtype=tf.dtypes.as_dtype(dtype), add_eos=False)
            for array, (shape, dtype) in shapes.items()
        },
    )


def register_mixture(name: str, rates: Mapping[str, float]) -> Any:
    """Registered tasks as a seqio Mixture, {task: rate}: a trajectory is of a task with a probability as its rate.

    Raises:
      UserError: a task is not registered, the name is taken, or seqio is not installed.
    """
    seqio = SEQIO.module()
    known = seqio.TaskRegistry.names()
    if unknown := [task for task in rates if task not in known]:
        raise UserError(f"no task '{unknown[0]}' is registered: register_task gives a folder of trajectories a name")
    _refuse_taken(name)
    return seqio.MixtureRegistry.add(name, list(rates.items()))


def _refuse_taken(name: str) -> None:
    seqio = SEQIO.module()
    if name in {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}:
        raise UserError(f"a task or mixture is called '{name}' already: choose another name")


class Batches:
    """Endless batches of shuffled trajectories of a registered task or mixture, {array: [B, T, ...]}.

    The same seed gives the same batches. What `save` writes after a batch lets another process go on with the next.
    """

    def __init__(self, name: str, *, batch_size: int, seed: int) -> None:
        """Begins with the first batch.

        Args:
          name: of the task or mixture.
          batch_size: trajectories of a batch (B).
          seed: of the order, and of a mixture's draws.

        Raises:
          UserError: seqio is not installed.
        """
        self._tf = tensorflow()
        dataset = (
            SEQIO.module()
            .get_mixture_or_task(name)
            .get_dataset(
                sequence_length=None,
                split=SPLIT,
                shuffle=True,
                seed=seed,
                num_epochs=None,
                trim_output_features=False,
            )
        )
        self._iterator = iter(dataset.batch(batch_size, drop_remainder=True))
        self._checkpoint = self._tf.train.Checkpoint(iterator=self._iterator)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return {array: value.numpy() for array, value in next(self._iterator).items()}

    def save(self, prefix: Path) -> None:
        """Writes where the batches stand into files that begin with a prefix."""
        self._checkpoint.write(str(prefix))

    def restore(self, prefix: Path) -> None:
        """Goes on where the batches stood; they must be of the same task or mixture, batch size and seed."""
        self._checkpoint.read(str(prefix)).assert_consumed()


def read_recording(folder: Path, arrays: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """All recorded trajectories of a folder, in their order {array: [N, T, ...]}."""
    description = Description.read(folder)
    wanted = tuple(description.arrays if arrays is None else arrays)
    tf, rows = tensorflow(), {array: [] for array in wanted}  # type: dict[str, list[np.ndarray]]
    for record in FORMATS[description.format].dataset(folder / description.file, description.trajectories):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        for array in wanted:
            shape, dtype = description.arrays[array]
            rows[array].append(np.frombuffer(features[array].bytes_list.value[0], dtype).reshape(shape))
    return {array: np.stack(found) for array, found in rows.items()}
