"""What the streams of a host pool are told and what they show: arrays over one block of memory.

Nothing here imports JAX: worker processes read and write the arrays too.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
from typing import Any, NamedTuple

import numpy as np

from framework.specs import ArraySpec, EnvironmentSpec, map_parts

Observation = Any
"""An array, or a dictionary of arrays."""

STAND_STILL = -1
"""The action of a stream that is not stepped: it shows again what it last showed."""

_ALIGNMENT = 64
"""Of arrays in the shared block, in bytes: a cache line, so that no two arrays share one."""


class HostStep(NamedTuple):
    """What S streams show after a reset or a step.

    Attributes:
      observation: to act on next [S, ...]; an array, or a dictionary of arrays.
      reward: [S] float32.
      discount: 0 where the episode terminated, else 1 [S] float32.
      last: whether the step ended an episode [S] bool; with discount 1, on dummies alone.
      dummy: whether the step only began an episode, after a limit had cut the last one off: nothing was done, and its
        transition has weight 0 [S] bool.
      numbers: where the step ended an episode, what the episode reached, in the order of the specification's
        ``episode_numbers``; else 0 [S, numbers] float32.
    """

    observation: Observation
    reward: np.ndarray
    discount: np.ndarray
    last: np.ndarray
    dummy: np.ndarray
    numbers: np.ndarray


@dataclasses.dataclass(frozen=True)
class StepArrays:
    """What S streams are told and what they show, as arrays over one block of memory.

    Attributes:
      action: [S] int32.
      busy: whether something is being done with the stream, so that a crash can be laid to it [S] bool.
      shown: what they show.
    """

    action: np.ndarray
    busy: np.ndarray
    shown: HostStep

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

        action, busy, *shown = (map_parts(place, part) for part in _layout(spec, streams))
        return cls(action, busy, HostStep(*shown))

    def of_streams(self, streams: range) -> StepArrays:
        """Views of the rows of some streams."""
        rows = slice(streams.start, streams.stop)
        shown = HostStep(*(map_parts(lambda array: array[rows], part) for part in self.shown))
        return StepArrays(self.action[rows], self.busy[rows], shown)


def _layout(spec: EnvironmentSpec, streams: int) -> list[ArraySpec | dict[str, ArraySpec]]:
    """The arrays of `StepArrays`: the action, whether busy, then what is shown in the order of `HostStep`."""
    number, flag = ArraySpec((streams,), "float32"), ArraySpec((streams,), "bool")
    return [
        ArraySpec((streams,), "int32"),
        flag,
        spec.arrays(lambda array: ArraySpec((streams, *array.shape), array.dtype)),
        *(number, number, flag, flag),
        ArraySpec((streams, len(spec.episode_numbers)), "float32"),
    ]


def _padded(array: ArraySpec) -> int:
    return -(-np.dtype(array.dtype).itemsize * math.prod(array.shape) // _ALIGNMENT) * _ALIGNMENT
