"""Pools of environments outside the device: many streams, stepped together by worker processes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from framework.errors import UserError
from framework.host_environments.arrays import STAND_STILL, HostStep, Observation
from framework.host_environments.batch import stepped_together
from framework.host_environments.crew import PATIENCE, Worker, WorkerDiedError, dismiss, gather
from framework.host_environments.streams import Streams
from framework.specs import map_parts

if TYPE_CHECKING:
    from framework.interfaces import HostEnvironment


class HostPool:
    """S streams of environments of one specification, one episode after another without end.

    A step that *terminates* an episode is ``last`` with discount 0, and shows the next episode's first observation. A
    step at which a *limit* cuts an episode off stays an ordinary one and shows the final observation, so that its value
    can be bootstrapped from; the step after it is a *dummy*: its action is ignored, its reward is 0, it is ``last``
    with discount 1, hence of weight 0, and it shows the next episode's first observation.

    Every operation that fails, or is interrupted, closes the pool. No worker process outlives the pool's own process,
    however that ends.
    """

    def __init__(
        self,
        environments: Sequence[HostEnvironment],
        seeds: Sequence[Sequence[int]],
        workers: int,
        patience: float = PATIENCE,
    ) -> None:
        """Opens one stream for each environment.

        Args:
          environments: of the streams [S]; all of one specification.
          seeds: the words that all randomness of a stream comes from [S].
          workers: processes that share the streams, or threads of one process where a library steps all of them by
            one call; 0 steps them in this process.
          patience: seconds after which a worker process that does not answer is given up.

        Raises:
          ValueError: the arguments do not fit together.
          UserError: environments differ in their specification, or cannot be opened.
        """
        if not environments or len(environments) != len(seeds):
            raise ValueError(f"a pool needs a seed for each stream: {len(environments)} streams, {len(seeds)} seeds")
        if workers < 0:
            raise ValueError(f"workers must not be negative, got {workers}: 0 steps all streams in this process")
        self.spec = environments[0].spec
        self.num_streams = len(environments)
        self._refuse_other_specs(environments)
        self._environments = list(environments)
        workers, threads = min(workers, self.num_streams), 1
        if workers > 1 and stepped_together(environments):
            workers, threads = 1, workers
        self._crew, self._arrays = gather(self.spec, self.num_streams, workers, patience)
        self._sent = False
        self._closer = weakref.finalize(self, dismiss, self._crew)
        self._everyone(
            Streams.open,
            *(
                (environments[member.own.start : member.own.stop], seeds[member.own.start : member.own.stop], threads)
                for member in self._crew
            ),
        )

    @property
    def worker_ids(self) -> tuple[int, ...]:
        """Process identifiers of the workers."""
        return tuple(member.process.pid for member in self._crew if isinstance(member, Worker))

    def reset(self) -> HostStep:
        """Begins a new episode in every stream."""
        self._everyone(Streams.reset)
        return self._shown()

    def step(self, action: np.ndarray) -> HostStep:
        """One step of every stream, with actions [S]."""
        self.send(action)
        return self.receive()

    def send(self, action: np.ndarray) -> None:
        """Begins a step of every stream, with actions [S]; `receive` awaits its end.

        A stream whose action is `STAND_STILL` is not stepped: it shows again what it last showed.

        Raises:
          ValueError: the actions are not S of those that the environments have, or `STAND_STILL`.
        """
        action = np.asarray(action)
        if action.shape != (self.num_streams,):
            raise ValueError(f"{self.num_streams} streams need as many actions, got an array of shape {action.shape}")
        if action.min() < STAND_STILL or action.max() >= self.spec.num_actions:
            raise ValueError(
                f"actions are 0 to {self.spec.num_actions - 1}, or {STAND_STILL} for a stream that stands still, got "
                f"{action.min()} to {action.max()}"
            )
        self._refuse_when_busy()
        self._arrays.action[:] = action
        self._sent = True

        def ask() -> None:
            for member in self._crew:
                member.ask(Streams.step)

        self._guarded(ask)

    def receive(self) -> HostStep:
        """What the streams show after the step that `send` began."""
        self._refuse_when_closed()
        if not self._sent:
            raise RuntimeError("receive without send: no step was begun")
        self._guarded(lambda: [member.answer() for member in self._crew])
        self._sent = False
        return self._shown()

    def replace(self, stream: int, environment: HostEnvironment, seed: Sequence[int]) -> Observation:
        """Opens another stream in the place of one.

        Returns:
          The first observation of its first episode [...].

        Raises:
          ValueError: there is no such stream.
          UserError: the environment is not of the pool's specification.
        """
        if not 0 <= stream < self.num_streams:
            raise ValueError(f"there are streams 0 to {self.num_streams - 1}, got {stream}")
        self._refuse_other_specs([environment])
        self._refuse_when_busy()
        (member,) = (member for member in self._crew if stream in member.own)
        self._environments[stream] = environment
        self._guarded(lambda: member.ask(Streams.replace, stream - member.own.start, environment, seed))
        self._guarded(member.answer)
        return map_parts(lambda rows: rows[stream].copy(), self._arrays.shown.observation)

    def snapshot(self) -> list[bytes]:
        """The whole state of every stream: its generators, its environment, whether a dummy comes next [S]."""
        return [state for states in self._everyone(Streams.snapshot) for state in states]

    def restore(self, snapshots: Sequence[bytes]) -> np.ndarray:
        """Goes back to the states of a `snapshot` of as many streams.

        Returns:
          Whose episodes are lost, as their environments cannot save them: a dummy begins the next ones [S] bool.

        Raises:
          UserError: the snapshots are not of as many streams of this specification.
        """
        if len(snapshots) != self.num_streams:
            raise UserError(f"{len(snapshots)} streams were saved, this pool has {self.num_streams}: keep their number")
        parts = [(list(snapshots[member.own.start : member.own.stop]),) for member in self._crew]
        restored = self._everyone(Streams.restore, *parts)
        streams = [stream for streams in restored for stream in streams]
        self._environments = [environment for environment, _ in streams]
        return np.array([lost for _, lost in streams])

    def close(self) -> None:
        """Ends the workers and closes the streams; a closed pool stays closed."""
        self._closer()

    def __enter__(self) -> HostPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _shown(self) -> HostStep:
        # Copies: the next step writes to the same memory, and a device may still be reading.
        return HostStep(*(map_parts(np.copy, array) for array in self._arrays.shown))

    def _refuse_other_specs(self, environments: Sequence[HostEnvironment]) -> None:
        seen: HostEnvironment | None = None
        for environment in environments:
            if environment is not seen and environment.spec != self.spec:
                raise UserError(
                    f"the streams of a pool are of one specification, {self.spec}, but {environment!r} has "
                    f"{environment.spec}: put it into a pool of its own"
                )
            seen = environment

    def _refuse_when_closed(self) -> None:
        if not self._closer.alive:
            raise RuntimeError("the pool is closed")

    def _refuse_when_busy(self) -> None:
        self._refuse_when_closed()
        if self._sent:
            raise RuntimeError("a step was begun by send: call receive first")

    def _everyone(self, operation: Callable[..., Any], *arguments: tuple[Any, ...]) -> list[Any]:
        """Has all streams do something, all members at once; ``arguments`` are those of each member, if there are."""
        self._refuse_when_busy()

        def do() -> list[Any]:
            for member, own in zip(self._crew, arguments or [()] * len(self._crew), strict=True):
                member.ask(operation, *own)
            return [member.answer() for member in self._crew]

        return self._guarded(do)

    def _guarded(self, do: Callable[[], Any]) -> Any:
        try:
            return do()
        except WorkerDiedError as error:
            crash = self._crash(error)
            self._close_after(crash)
            raise crash from None
        except BaseException as error:
            self._close_after(error)
            raise

    def _close_after(self, error: BaseException) -> None:
        """Closes the pool because of an error, which a failure to close it does not hide."""
        try:
            self.close()
        except Exception as failure:
            error.add_note(f"closing the streams then failed: {type(failure).__name__}: {failure}")

    def _crash(self, error: WorkerDiedError) -> UserError:
        busy = [number for number in error.own if self._arrays.busy[number]]
        streams = [f"stream {number}, {self._environments[number]!r}" for number in busy or error.own]
        return UserError(
            f"the worker process of {'; '.join(streams)} {error.how}: {error.why}. What it printed stands above"
        )
