"""What the streams of a host pool are told and what they show: arrays over one block of memory.

Nothing here imports JAX: worker processes read and write the arrays too.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
from typing import Any

import numpy as np

from framework.specs import ArraySpec, EnvironmentSpec, map_parts

Observation = Any
"""An array, or a dictionary of arrays."""

STAND_STILL = -1
"""The action of a stream that is not stepped: it shows again what it last showed."""

_ALIGNMENT = 64
"""Of arrays in the shared block, in bytes: a cache line, so that two workers never write to the same one."""


@dataclasses.dataclass(frozen=True)
class StepArrays:
    """What S streams are told and what they show, as arrays over one block of memory.

    Attributes:
      action: [S] int32.
      observation: [S, ...]; a dictionary of such arrays where the specification has parts.
      reward, discount: [S] float32.
      last, dummy: [S] bool.
      numbers: of episodes that ended [S, numbers] float32.
      busy: whether something is being done with the stream, so that a crash can be laid to it [S] bool.
    """

    action: np.ndarray
    observation: Observation
    reward: np.ndarray
    discount: np.ndarray
    last: np.ndarray
    dummy: np.ndarray
    numbers: np.ndarray
    busy: np.ndarray

    @staticmethod
    def size(spec: EnvironmentSpec, streams: int) -> int:
        """Bytes that the arrays of S streams take."""
        layout = _layout(spec, streams)
        arrays = [array for part in layout for array in (part.values() if isinstance(part, dict) else [part])]
        return sum(map(_padded, arrays))

    @classmethod
    def over(cls, memory: mmap.mmap | bytearray, spec: EnvironmentSpec, streams: int) -> StepArrays:
        """The arrays of S streams over a block of at least `size` bytes."""
        offset = 0

        def place(array: ArraySpec) -> np.ndarray:
            nonlocal offset
            placed = np.ndarray(array.shape, array.dtype, buffer=memory, offset=offset)
            offset += _padded(array)
            return placed

        return cls(*(map_parts(place, part) for part in _layout(spec, streams)))

    def of_streams(self, streams: range) -> StepArrays:
        """Views of the rows of some streams."""
        rows = slice(streams.start, streams.stop)
        fields = dataclasses.fields(self)
        return StepArrays(*(map_parts(lambda array: array[rows], getattr(self, field.name)) for field in fields))


def _layout(spec: EnvironmentSpec, streams: int) -> list[ArraySpec | dict[str, ArraySpec]]:
    """The fields of `StepArrays`, in their order."""
    number, flag = ArraySpec((streams,), "float32"), ArraySpec((streams,), "bool")
    return [
        ArraySpec((streams,), "int32"),
        spec.arrays(lambda array: ArraySpec((streams, *array.shape), array.dtype)),
        *(number, number, flag, flag),
        ArraySpec((streams, len(spec.episode_numbers)), "float32"),
        flag,
    ]


def _padded(array: ArraySpec) -> int:
    return -(-np.dtype(array.dtype).itemsize * math.prod(array.shape) // _ALIGNMENT) * _ALIGNMENT
