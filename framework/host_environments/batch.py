"""Streams that one library steps all at once, joined to a pool's streams without a loop over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from framework.errors import UserError
from framework.host_environments.arrays import STAND_STILL, Observation, StepArrays
from framework.specs import EnvironmentSpec, described, form, map_parts, spec_of

if TYPE_CHECKING:
    from framework.interfaces import HostBatch, HostEnvironment


def stepped_together(environments: Sequence[HostEnvironment]) -> bool:
    """Whether a library steps all streams of some environments by one call; see `BatchedEnvironment`."""
    first = environments[0]
    alike = not first.spec.episode_numbers and hasattr(first, "open_many")
    return alike and all(environment == first for environment in environments)


class BatchRow:
    """One row of a batch as a stream of its own.

    Args:
      batch: the streams.
      row: which of them.
      alone: whether the batch ends with this stream.
    """

    def __init__(self, batch: HostBatch, row: int, *, alone: bool = False) -> None:
        self._batch, self._row, self._alone = batch, row, alone
        self._rows = np.array([row])

    def reset(self) -> Observation:
        return map_parts(lambda x: x[0], self._batch.reset(self._rows))

    def step(self, action: int) -> tuple[Observation, float, bool, bool]:
        observation, reward, terminated, truncated = self._batch.step(self._rows, np.array([action]))
        return map_parts(lambda x: x[0], observation), float(reward[0]), bool(terminated[0]), bool(truncated[0])

    def snapshot(self) -> bytes:
        return self._batch.snapshot(self._row)

    def restore(self, snapshot: bytes) -> None:
        self._batch.restore(self._row, snapshot)

    def close(self) -> None:
        if self._alone:
            self._batch.close()


def _places(rows: np.ndarray, count: int) -> np.ndarray | slice:
    """Some of so many rows as an index: of all of them as a slice, which is several times as fast."""
    return rows if rows.size < count else slice(None)


class Rows:
    """The rows of a batch that are a pool's streams of the same numbers; see `Streams`.

    Args:
      batch: the streams.
      spec: of their environment.
      count: how many they are.
    """

    def __init__(self, batch: HostBatch, spec: EnvironmentSpec, count: int) -> None:
        self._batch, self._spec = batch, spec
        self._forms: dict[int, Any] = {}
        self.served = np.arange(count)

    def give_up(self, index: int) -> None:
        """Another stream has taken the place of a row."""
        self.served = self.served[self.served != index]

    def step(self, arrays: StepArrays, dummy_next: np.ndarray) -> None:
        """One step of every row whose action is not `STAND_STILL`; ``dummy_next`` [S] is read and written."""
        shown = arrays.shown
        active = self.served[arrays.action[self.served] != STAND_STILL]
        arrays.busy[active] = True
        beginning, going = active[dummy_next[active]], active[~dummy_next[active]]
        if beginning.size:
            self._show(arrays, beginning, self._batch.reset(beginning))
            shown.reward[beginning], shown.discount[beginning] = 0.0, 1.0
            shown.last[beginning] = shown.dummy[beginning] = True
            dummy_next[beginning] = False
        if going.size:
            at = _places(going, dummy_next.size)
            observation, reward, terminated, truncated = self._batch.step(going, arrays.action[at])
            self._show(arrays, going, observation)
            shown.reward[at], shown.discount[at] = reward, ~terminated
            shown.last[at], shown.dummy[at] = terminated, False
            dummy_next[at] = truncated & ~terminated
            if (over := going[terminated]).size:
                self._show(arrays, over, self._batch.reset(over))
        arrays.busy[active] = False

    def _show(self, arrays: StepArrays, rows: np.ndarray, observation: Observation) -> None:
        if map_parts(form, observation) != self._expected(rows.size):
            raise UserError(
                f"{self._batch!r} shows observations {described(spec_of(observation))} of {rows.size} streams, its "
                f"spec says {self._spec.shown} of each: make the two agree"
            )
        at = _places(rows, len(arrays.busy))
        map_parts(lambda x, new: x.__setitem__(at, new), arrays.shown.observation, observation)

    def _expected(self, count: int) -> Any:
        """What observations of so many streams must be like; looked up, as it is needed at every step."""
        if count not in self._forms:
            self._forms[count] = self._spec.arrays(lambda array: ((count, *array.shape), np.dtype(array.dtype)))
        return self._forms[count]

    def close(self) -> None:
        """Closes the batch."""
        self._batch.close()
