"""Conformance of environments outside the device."""

from __future__ import annotations

import pickle
from typing import Any, cast

import numpy as np

from framework.interfaces import HostEnvironment, HostStream, MeasuredStream
from framework.specs import Resume, described, map_parts, resume_of, spec_of
from framework.testing.expectations import expect
from framework.types import Observation

_SEED, _OTHER_SEED = (1, 2), (3, 4)


def check_host_environment(environment: HostEnvironment, steps: int = 20) -> None:
    """A host environment repeats itself from a seed and continues a saved stream as if never stopped, if it can."""
    copy = pickle.loads(pickle.dumps(environment))
    expect(copy == environment, "a pickled copy is not equal to it")
    expect(copy.spec == environment.spec, "a pickled copy has another spec")
    actions = np.random.default_rng(0).integers(environment.spec.num_actions, size=2 * steps).tolist()
    actions[: environment.spec.num_actions] = range(environment.spec.num_actions)

    stream = environment.open(_SEED)
    _check_observation(environment, first := stream.reset(), "the first observation")
    played = [first, *_play(environment, stream, actions[:steps])]
    snapshot = stream.snapshot()
    expect(isinstance(snapshot, bytes), f"a snapshot must be bytes, got {type(snapshot).__name__}")
    onwards = _play(environment, stream, actions[steps:])

    again = copy.open(_SEED)
    repeated = [again.reset(), *_play(environment, again, actions[:steps])]
    _check_episode_numbers(environment, again)
    if getattr(environment, "seeded", True):
        expect(
            _same(repeated, played), "another stream from the same seed plays otherwise: some randomness is not its own"
        )

    # Into a stream that has been somewhere else, twice, so that restoring leaves nothing behind and uses nothing up.
    other = environment.open(_OTHER_SEED)
    other.reset()
    _play(environment, other, actions[: steps // 2])
    for _ in range(2):
        other.restore(snapshot)
        if resume_of(environment) is Resume.NEW_EPISODE:
            _check_observation(environment, other.reset(), "the first observation after a restoration")
            _play(environment, other, actions[steps:])
        else:
            expect(_same(_play(environment, other, actions[steps:]), onwards), "a restored stream plays otherwise")
    for opened in (stream, again, other):
        opened.close()


def _play(environment: HostEnvironment, stream: HostStream, actions: list[int]) -> list[Any]:
    """What the stream shows, with resets where episodes end."""
    played: list[Any] = []
    for action in actions:
        shown = stream.step(action)
        expect(len(shown) == 4, f"a step shows observation, reward, terminated, truncated, got {len(shown)} values")
        observation, reward, *ends = shown
        _check_observation(environment, observation, "the observation of a step")
        expect(isinstance(reward, float) and np.isfinite(reward), f"a reward must be a finite float, got {reward!r}")
        expect(all(isinstance(end, bool) for end in ends), f"terminated and truncated must be bools, got {ends}")
        kept = map_parts(np.copy, observation)
        played.append((kept, reward, *ends))
        if any(ends):
            played.append(map_parts(np.copy, stream.reset()))
        expect(_equal(observation, kept), "an observation changes after it was shown: show a copy")
    return played


def _check_episode_numbers(environment: HostEnvironment, stream: HostStream) -> None:
    names = environment.spec.episode_numbers
    if not names:
        return
    numbers = tuple(cast(MeasuredStream, stream).episode_numbers())
    expect(len(numbers) == len(names), f"it tells {len(numbers)} episode_numbers, its spec names {len(names)}")
    expect(bool(np.isfinite(numbers).all()), f"its episode_numbers must be finite, got {numbers}")


def _check_observation(environment: HostEnvironment, observation: Observation, what: str) -> None:
    map_parts(
        lambda x: expect(isinstance(x, np.ndarray), f"{what} must be a NumPy array, got {type(x).__name__}"),
        observation,
    )
    found, spec = spec_of(observation), environment.spec
    expect(found == spec.observation, f"{what} is {described(found)}, the spec says {spec.shown}")


def _same(one: list[Any], other: list[Any]) -> bool:
    """Whether two plays are equal, bit for bit."""
    return len(one) == len(other) and all(map(_same_row, one, other))


def _same_row(one: Any, other: Any) -> bool:
    if not isinstance(one, tuple) or not isinstance(other, tuple):
        return _equal(one, other)
    return _equal(one[0], other[0]) and one[1:] == other[1:]


def _equal(one: Observation, other: Observation) -> bool:
    """Whether two observations are equal."""
    return spec_of(one) == spec_of(other) and all(
        np.array_equal(x, y) for x, y in zip(_arrays(one), _arrays(other), strict=True)
    )


def _arrays(observation: Observation) -> list[np.ndarray]:
    return list(observation.values()) if isinstance(observation, dict) else [observation]
