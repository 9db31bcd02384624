"""Gymnasium's environments as streams that can be stopped, saved and continued exactly."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import io
import pickle
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from framework.errors import UserError, closest, did_you_mean
from framework.specs import EnvironmentSpec


@dataclasses.dataclass(frozen=True)
class GymnasiumEnvironment:
    """A registered environment of Gymnasium with a Box of observations and discrete actions.

    Observations keep the dtype uint8 and are float32 otherwise.

    Attributes:
      id: its name in Gymnasium's registry, ``module:name`` for those that a module of one's own registers.
      max_steps: limit of an episode, in steps; ``None`` for the registered one.
    """

    id: str
    max_steps: int | None = None

    @property
    def spec(self) -> EnvironmentSpec:
        return _spec(self.id, self.max_steps)

    def open(self, seed: Sequence[int]) -> GymnasiumStream:
        environment = _make(self.id, self.max_steps)
        _, first_action = _actions(self.id, environment)
        words = np.random.SeedSequence(list(seed)).generate_state(2).tolist()
        return GymnasiumStream(
            environment, seed=words[0] << 32 | words[1], first_action=first_action, dtype=self.spec.observation_dtype
        )


class GymnasiumStream:
    """One environment of Gymnasium, whose generator is seeded once, before its first episode."""

    def __init__(self, environment: Any, *, seed: int, first_action: int, dtype: str) -> None:
        self._environment, self._seed = environment, seed
        self._first_action, self._dtype = first_action, dtype
        self._seeded = False

    def reset(self) -> np.ndarray:
        observation, _ = self._environment.reset(seed=None if self._seeded else self._seed)
        self._seeded = True
        return np.array(observation, self._dtype)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool]:
        observation, reward, terminated, truncated, _ = self._environment.step(action + self._first_action)
        return np.array(observation, self._dtype), float(reward), bool(terminated), bool(truncated)

    def snapshot(self) -> bytes:
        name = self._environment.spec.id
        for layer in _layers(self._environment):
            if any(base.__name__ == "EzPickle" for base in type(layer).__mro__):
                raise UserError(
                    f"Gymnasium's {name} cannot be saved in the middle of an episode: a pickle of "
                    f"{type(layer).__name__} holds the arguments it was made with, not its state. Choose an "
                    "environment that pickles whole, such as those of classic control"
                )
        try:
            return _pickled((self._environment, self._seed, self._seeded))
        except Exception as error:
            raise UserError(
                f"Gymnasium's {name} cannot be saved in the middle of an episode: {type(error).__name__}: {error}. "
                "Choose an environment that pickles whole, such as those of classic control"
            ) from error

    def restore(self, snapshot: bytes) -> None:
        before = self._environment
        self._environment, self._seed, self._seeded = _Unpickler(io.BytesIO(snapshot)).load()
        before.close()

    def close(self) -> None:
        self._environment.close()


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


def refuse_unknown_id(name: str) -> None:
    """Looks an environment up in Gymnasium's registry.

    Raises:
      ValueError: it is not there.
    """
    import gymnasium  # Half a second that other suites need not spend.

    module, _, own = name.rpartition(":")
    try:
        if module:
            importlib.import_module(module)  # It registers what it has.
        gymnasium.spec(own)
    except (gymnasium.error.Error, ImportError) as error:
        guess = did_you_mean(closest(name, gymnasium.registry))
        raise ValueError(f"Gymnasium has no environment '{name}' ({error}).{guess}") from error


def _make(name: str, max_steps: int | None) -> Any:
    import gymnasium

    try:
        return gymnasium.make(name, max_episode_steps=max_steps, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f"Gymnasium's {name} cannot be made: {error}") from error
    except Exception as error:  # Whatever the constructor of somebody's own environment does wrong.
        raise UserError(f"Gymnasium's {name} cannot be made: {type(error).__name__}: {error}") from error


@functools.lru_cache
def _spec(name: str, max_steps: int | None) -> EnvironmentSpec:
    environment = _make(name, max_steps)
    try:
        num_actions, _ = _actions(name, environment)
        box = environment.observation_space
        dtype = "uint8" if box.dtype == np.uint8 else "float32"
        return EnvironmentSpec(observation_shape=box.shape, num_actions=num_actions, observation_dtype=dtype)
    finally:
        environment.close()


def _actions(name: str, environment: Any) -> tuple[int, int]:
    """The number of actions and the first of them; other spaces than the supported ones are refused."""
    from gymnasium import spaces

    observation, action = environment.observation_space, environment.action_space
    if not isinstance(observation, spaces.Box) or not isinstance(action, spaces.Discrete):
        raise UserError(
            f"Gymnasium's {name} has observations {observation} and actions {action}; supported are Box observations "
            "and Discrete actions: choose another environment, or wrap this one and register it under a name of its own"
        )
    return int(action.n), int(action.start)


def _layers(environment: Any) -> Iterator[Any]:
    """The wrappers, from outside in, and the environment that they wrap."""
    while environment is not environment.unwrapped:
        yield environment
        environment = environment.env
    yield environment
