"""One environment of Gymnasium's as a stream that can be stopped, saved and continued."""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from components.streams.gymnasium_spaces import Spaces
from framework.errors import EpisodeLostError, UserError
from framework.host_environments.arrays import Observation


class SavedStream:
    """One environment of Gymnasium that pickles whole; its generator is seeded once, before its first episode."""

    def __init__(self, environment: Any, spaces: Spaces, seed: np.random.SeedSequence) -> None:
        self._environment, self._spaces = environment, spaces
        words = seed.generate_state(2).tolist()
        self._seed = words[0] << 32 | words[1]
        self._seeded = False

    def reset(self) -> Observation:
        observation, _ = self._environment.reset(seed=None if self._seeded else self._seed)
        self._seeded = True
        return self._spaces.shown(observation)

    def step(self, action: int) -> tuple[Observation, float, bool, bool]:
        return _stepped(self._environment, self._spaces, action)

    @property
    def holds_arguments_only(self) -> bool:
        """Whether a pickle holds the arguments that some layer was made with, and not its state."""
        layers = _layers(self._environment)
        return any(base.__name__ == "EzPickle" for layer in layers for base in type(layer).__mro__)

    def snapshot(self) -> bytes:
        try:
            return _pickled((self._environment, self._seed, self._seeded))
        except Exception as error:
            raise UserError(
                f"Gymnasium's {self._environment.spec.id} could be saved in its first steps, and now it cannot: "
                f"{type(error).__name__}: {error}. Have its class refuse to be pickled from the beginning, and its "
                "episodes are replayed instead"
            ) from error

    def restore(self, snapshot: bytes) -> None:
        before = self._environment
        self._environment, self._seed, self._seeded = _Unpickler(io.BytesIO(snapshot)).load()
        before.close()

    def close(self) -> None:
        self._environment.close()


class ReplayedStream:
    """One environment of Gymnasium that does not pickle whole.

    Every episode has a seed of its own: a snapshot holds what that is drawn from and the actions since, and restoring
    it plays them again. Where the environment does not repeat itself from a seed, a restored stream begins a new
    episode.
    """

    def __init__(self, environment: Any, spaces: Spaces, seed: np.random.SeedSequence, *, repeats: bool = True) -> None:
        self._environment, self._spaces, self._repeats = environment, spaces, repeats
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._before = self._generator.bit_generator.state
        # What was done since the episode began, and what it showed last; none before the first one.
        self._actions: list[int] | None = None
        self._last: Observation = None

    def reset(self) -> Observation:
        self._before, self._actions = self._generator.bit_generator.state, []
        observation, _ = self._environment.reset(seed=int(self._generator.integers(2**31)))
        self._last = self._spaces.shown(observation)
        return self._last

    def step(self, action: int) -> tuple[Observation, float, bool, bool]:
        assert self._actions is not None
        if self._repeats:
            self._actions.append(action)
        shown = _stepped(self._environment, self._spaces, action)
        self._last = shown[0]
        return shown

    def snapshot(self) -> bytes:
        actions = None if self._actions is None else np.array(self._actions, np.int32).tobytes()
        return pickle.dumps((self._before, actions, digest_of(self._last)), protocol=4)

    def restore(self, snapshot: bytes) -> None:
        before, actions, digest = pickle.loads(snapshot)
        self._generator.bit_generator.state = self._before = before
        self._actions = self._last = None
        if actions is None or not self._repeats:
            return
        self.reset()
        for action in np.frombuffer(actions, np.int32).tolist():
            self.step(action)
        if digest_of(self._last) != digest:
            raise EpisodeLostError("the same actions from the same seed have led elsewhere")

    def close(self) -> None:
        self._environment.close()


def _stepped(environment: Any, spaces: Spaces, action: int) -> tuple[Observation, float, bool, bool]:
    observation, reward, terminated, truncated, _ = environment.step(action + spaces.first_action)
    return spaces.shown(observation), float(reward), bool(terminated), bool(truncated)


def digest_of(observation: Observation) -> bytes:
    """What two observations are told apart by."""
    arrays = observation.values() if isinstance(observation, Mapping) else () if observation is None else [observation]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).digest()


def _pickled(state: Any) -> bytes:
    """The state as bytes: those of an environment that was restored are those of one that was never stopped."""
    file = io.BytesIO()
    _Pickler(file, protocol=4).dump(state)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    """Does not write which strings and dtypes are one object.

    Python shares strings, and NumPy dtypes, where it can, which is not the same after a pickle was read.
    """

    def persistent_id(self, obj: Any) -> bytes | None:
        return obj.encode("utf-8", "surrogatepass") if type(obj) is str else None

    def reducer_override(self, obj: Any) -> Any:
        # Else NumPy would make a new object of a dtype that it has already.
        return (np.dtype, (obj.str,)) if isinstance(obj, np.dtype) and obj.isbuiltin == 1 else NotImplemented


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` wrote."""

    def persistent_load(self, pid: Any) -> str:
        return sys.intern(pid.decode("utf-8", "surrogatepass"))


def _layers(environment: Any) -> Iterator[Any]:
    """The wrappers, from outside in, and the environment that they wrap."""
    while environment is not environment.unwrapped:
        yield environment
        environment = environment.env
    yield environment
