"""A host pool's streams: what happens to each at a step, at an episode's end, and when it is saved or restored.

Nothing here imports JAX: worker processes step streams as well as the pool's own process.
"""

from __future__ import annotations

import dataclasses
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from framework.errors import EpisodeLostError, UserError
from framework.host_environments.arrays import STAND_STILL, Observation, StepArrays
from framework.host_environments.batch import BatchRow, Rows, stepped_together
from framework.specs import EnvironmentSpec, Resume, described, resume_of, spec_of

if TYPE_CHECKING:
    from framework.interfaces import BatchedEnvironment, HostEnvironment, HostStream, MeasuredStream

T = TypeVar("T")


@dataclasses.dataclass
class _Slot:
    """One stream and its environment."""

    environment: HostEnvironment
    stream: HostStream


@dataclasses.dataclass(frozen=True)
class _Part:
    """One array of the observations.

    Attributes:
      name: in a dictionary of arrays; empty where the observation is a single one.
      rows: of all streams [S, ...].
      shape, dtype: of one stream's.
    """

    name: str
    rows: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype


class Streams:
    """Some of a pool's streams, with the pool's way of joining one episode to the next.

    A step that *terminates* an episode shows the next episode's first observation. A step at which a *limit* cuts an
    episode off is an ordinary one that shows the episode's final observation; the step after it is a dummy: its action
    is ignored, and it shows the next episode's first observation.
    """

    def __init__(self, arrays: StepArrays, spec: EnvironmentSpec, numbers: range) -> None:
        """Without streams yet; ``numbers`` are theirs in the pool, for error messages."""
        self._arrays, self._spec, self._numbers = arrays, spec, numbers
        rows = (
            arrays.shown.observation
            if isinstance(arrays.shown.observation, Mapping)
            else {"": arrays.shown.observation}
        )
        self._parts = [_Part(name, part, part.shape[1:], part.dtype) for name, part in rows.items()]
        self._names = set(rows) - {""}
        self._slots: list[_Slot] = []
        self._rows: Rows | None = None
        # Whether the next step only begins an episode.
        self._dummy_next = np.zeros(len(numbers), bool)

    def open(self, environments: Sequence[HostEnvironment], seeds: Sequence[Sequence[int]], threads: int = 1) -> None:
        """Opens all streams, each from its seed's words; a library that steps them by one call has so many threads."""
        if stepped_together(environments):
            self._for_each("opening", environments[:1], lambda _: self._open_batch(environments, seeds, threads))
            return

        def open_one(index: int) -> None:
            self._slots.append(_Slot(environments[index], environments[index].open(seeds[index])))

        self._for_each("opening", environments, open_one)

    def _open_batch(
        self, environments: Sequence[HostEnvironment], seeds: Sequence[Sequence[int]], threads: int
    ) -> None:
        """Opens streams of equal environments that their library steps together."""
        batch = cast("BatchedEnvironment", environments[0]).open_many(seeds, threads)
        self._rows = Rows(batch, self._spec, len(seeds))
        self._slots += [_Slot(environment, BatchRow(batch, row)) for row, environment in enumerate(environments)]

    def reset(self) -> None:
        """Begins a new episode in every stream."""
        self._for_each("resetting", self._environments(), self._begin)

    def replace(self, index: int, environment: HostEnvironment, seed: Sequence[int]) -> None:
        """Opens another stream in the place of one, and begins an episode in it."""

        def replace(index: int) -> None:
            new = _Slot(environment, environment.open(seed))
            self._put(index, new)
            self._begin(index)

        self._for_each("replacing", [environment], replace, first=index)

    def step(self) -> None:
        """One step of every stream, with the actions that the arrays hold; `STAND_STILL` is none."""
        if self._rows is not None and self._rows.served.size:
            self._step_rows(self._rows)
            if self._rows.served.size == len(self._slots):
                return
        actions = self._arrays.action.tolist()
        self._for_each("stepping", self._environments(), lambda index: self._step(index, actions[index]))

    def snapshot(self) -> list[bytes]:
        """The whole state of every stream, with the environment that it belongs to."""

        def save(index: int) -> bytes:
            slot = self._slots[index]
            return pickle.dumps((slot.environment, bool(self._dummy_next[index]), slot.stream.snapshot()))

        return self._for_each("saving", self._environments(), save)

    def restore(self, snapshots: Sequence[bytes]) -> list[tuple[HostEnvironment, bool]]:
        """Goes back to states; the environments that they were saved with, and whether their episodes are lost."""

        def restore(index: int) -> tuple[HostEnvironment, bool]:
            environment, dummy_next, state = pickle.loads(snapshots[index])
            if environment.spec != self._spec:
                raise UserError(
                    f"{environment!r} was saved, whose specification {environment.spec} is not {self._spec}"
                )
            slot = self._slots[index]
            if environment != slot.environment:
                # The seed does not matter: the state holds the generators.
                self._put(index, slot := _Slot(environment, environment.open((0,))))
            lost = resume_of(environment) is Resume.NEW_EPISODE
            try:
                slot.stream.restore(state)
            except EpisodeLostError as error:
                lost = True
                place = f"stream {self._numbers[index]}, {environment!r}"
                print(f"{place}, begins a new episode: {error}", file=sys.stderr)
            # Where the episode is lost, a dummy begins the next one: nothing is learned across the gap.
            lost = lost and not dummy_next
            self._dummy_next[index] = dummy_next or lost
            return slot.environment, lost

        return self._for_each("restoring", self._environments(), restore)

    def close(self) -> None:
        """Closes every stream, also where the closing of one fails."""
        with ExitStack() as closing:
            if self._rows is not None:
                closing.callback(self._rows.close)
                self._rows = None
            while self._slots:
                closing.callback(self._slots.pop().stream.close)

    def _put(self, index: int, slot: _Slot) -> None:
        """Another stream takes the place of one."""
        self._slots[index].stream.close()
        self._slots[index] = slot
        if self._rows is not None:
            self._rows.give_up(index)

    def _step_rows(self, rows: Rows) -> None:
        """Steps the streams that are rows of a batch."""
        try:
            rows.step(self._arrays, self._dummy_next)
        except UserError:
            raise
        except Exception as error:
            environment = self._slots[int(rows.served[0])].environment
            raise self._failure(f"stepping {rows.served.size} streams, {environment!r}", error) from error

    def _begin(self, index: int) -> None:
        slot = self._slots[index]
        self._arrays.shown.numbers[index] = 0.0
        self._show(index, slot.stream.reset(), reward=0.0, discount=1.0, last=False, dummy=False)
        self._dummy_next[index] = False

    def _step(self, index: int, action: int) -> None:
        slot = self._slots[index]
        if action == STAND_STILL or (self._rows is not None and index in self._rows.served):
            return
        if self._dummy_next[index]:
            self._dummy_next[index] = False
            self._tell_numbers(index)
            self._show(index, slot.stream.reset(), reward=0.0, discount=1.0, last=True, dummy=True)
            return
        observation, reward, terminated, truncated = slot.stream.step(action)
        if terminated:
            self._tell_numbers(index)
            self._show(index, slot.stream.reset(), reward=reward, discount=0.0, last=True, dummy=False)
        else:
            self._dummy_next[index] = truncated
            if self._spec.episode_numbers:
                self._arrays.shown.numbers[index] = 0.0
            self._show(index, observation, reward=reward, discount=1.0, last=False, dummy=False)

    def _tell_numbers(self, index: int) -> None:
        """What the episode that is over has reached; asked for before the next one begins."""
        if not self._spec.episode_numbers:
            return
        slot = self._slots[index]
        numbers = tuple(cast("MeasuredStream", slot.stream).episode_numbers())
        if len(numbers) != len(self._spec.episode_numbers):
            raise UserError(
                f"{slot.environment!r} tells {len(numbers)} episode_numbers, its spec names "
                f"{len(self._spec.episode_numbers)}: make the two agree"
            )
        self._arrays.shown.numbers[index] = numbers

    def _show(
        self, index: int, observation: Observation, *, reward: float, discount: float, last: bool, dummy: bool
    ) -> None:
        if not (shown := self._shown_parts(observation)):
            raise UserError(
                f"{self._slots[index].environment!r} shows observations {described(spec_of(observation))}, its spec "
                f"says {self._spec.shown}: make the two agree"
            )
        for part, new in zip(self._parts, shown, strict=True):
            part.rows[index] = new
        to = self._arrays.shown
        to.reward[index], to.discount[index], to.last[index], to.dummy[index] = reward, discount, last, dummy

    def _shown_parts(self, observation: Observation) -> list[np.ndarray]:
        """The arrays of an observation, in the order of `_parts`; none where it is not as the specification says.

        Written out, as fast environments are stepped in hardly more time than it takes to look their arrays up.
        """
        if isinstance(observation, Mapping):
            if observation.keys() != self._names:
                return []
            shown = [observation[part.name] for part in self._parts]
        elif self._names:
            return []
        else:
            shown = [observation]
        for part, new in zip(self._parts, shown, strict=True):
            if new.shape != part.shape or new.dtype != part.dtype:
                return []
        return shown

    def _environments(self) -> list[HostEnvironment]:
        return [slot.environment for slot in self._slots]

    def _for_each(
        self, doing: str, environments: Sequence[HostEnvironment], do: Callable[[int], T], first: int = 0
    ) -> list[T]:
        """Does something with streams one by one; what goes wrong is said with the stream and its environment."""
        done: list[T] = []
        busy = self._arrays.busy
        for index, environment in enumerate(environments, first):
            busy[index] = True
            try:
                done.append(do(index))
            except UserError:
                raise
            except Exception as error:
                raise self._failure(f"{doing} stream {self._numbers[index]}, {environment!r}", error) from error
            finally:
                busy[index] = False
        return done

    @staticmethod
    def _failure(doing: str, error: Exception) -> UserError:
        place = traceback.extract_tb(error.__traceback__)[-1]
        failure = UserError(
            f"{doing}, failed in {place.filename}, line {place.lineno}: {type(error).__name__}: {error}"
        )
        failure.add_note("".join(traceback.format_exception(error)))
        return failure
