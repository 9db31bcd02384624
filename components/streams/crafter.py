"""Crafter as streams that can be stopped, saved and continued exactly (Hafner, 2022)."""

from __future__ import annotations

import collections
import dataclasses
import io
import math
import pickle
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from framework.requirements import Requirement
from framework.specs import EnvironmentSpec

PACKAGE = Requirement.of_extra("crafter", "crafter")

SIZE = 64
"""Rows and columns of an observation."""

NUM_ACTIONS = 17

ACHIEVEMENTS = (
    *("collect_coal", "collect_diamond", "collect_drink", "collect_iron", "collect_sapling", "collect_stone"),
    *("collect_wood", "defeat_skeleton", "defeat_zombie", "eat_cow", "eat_plant", "make_iron_pickaxe"),
    *("make_iron_sword", "make_stone_pickaxe", "make_stone_sword", "make_wood_pickaxe", "make_wood_sword"),
    *("place_furnace", "place_plant", "place_stone", "place_table", "wake_up"),
)
"""The 22 things to be done, in the order in which Crafter lists them."""

ACHIEVEMENT_NUMBERS = tuple(f"achievement/{name}" for name in ACHIEVEMENTS)
"""Names under which metrics tell in which share of the episodes each was done."""


def crafter_score(shares: Sequence[float]) -> float:
    """The score in percent: exp(mean_i ln(1 + s_i)) - 1, s_i in percent (Hafner, 2022, section 3.3).

    Args:
      shares: of episodes in which each achievement was reached; the benchmark takes all training episodes that end in
        the first 1 M steps.
    """
    return math.expm1(math.fsum(math.log1p(100.0 * share) for share in shares) / len(shares))


@dataclasses.dataclass(frozen=True)
class CrafterWorld:
    """Crafter; an observation is an image [64, 64, 3] uint8, and every episode is a new world.

    The reward is 1 for each step in which something was achieved for the first time in the episode, and 0.1 for each
    point of health gained, less as much for each lost. Death terminates an episode.

    Attributes:
      max_steps: limit of an episode, in steps.
    """

    max_steps: int = 10_000

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec(
            observation_shape=(SIZE, SIZE, 3),
            num_actions=NUM_ACTIONS,
            observation_dtype="uint8",
            episode_numbers=ACHIEVEMENT_NUMBERS,
        )

    def open(self, seed: Sequence[int]) -> CrafterStream:
        words = np.random.SeedSequence(list(seed)).generate_state(2).tolist()
        environment = PACKAGE.module().Env(size=(SIZE, SIZE), length=None, seed=words[0] << 32 | words[1])
        return CrafterStream(environment, self.max_steps)


class CrafterStream:
    """One environment of Crafter's, in which nothing depends on where things lie in memory.

    Crafter keeps the creatures of each part of the map in a set, and draws among them in the set's order, which is that
    of their addresses: neither a seed nor a copy would repeat it. Here they are in the order in which they came.
    """

    def __init__(self, environment: Any, max_steps: int) -> None:
        self._environment, self._max_steps = environment, max_steps
        world = environment._world
        original = world.reset

        def reset(seed: int | None = None) -> None:
            original(seed)
            world._chunks = collections.defaultdict(OrderedSet)

        world.reset = reset

    def reset(self) -> np.ndarray:
        return np.ascontiguousarray(self._environment.reset())

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool]:
        observation, reward, _, info = self._environment.step(action)
        dead = info["discount"] == 0
        cut_off = not dead and self._environment._step >= self._max_steps
        return np.ascontiguousarray(observation), float(reward), dead, cut_off

    def episode_numbers(self) -> tuple[float, ...]:
        """Which achievements were reached in the episode, 0 or 1 each."""
        unlocked = self._environment._unlocked
        return tuple(float(name in unlocked) for name in ACHIEVEMENTS)

    def snapshot(self) -> bytes:
        environment, world = self._environment, self._environment._world
        objects = world._objects
        number = {id(thing): index for index, thing in enumerate(objects) if thing is not None}
        file = io.BytesIO()
        pickler = _Pickler(file, {id(world): "world", id(world.random): "random"} | number)
        pickler.dump([None if thing is None else type(thing) for thing in objects])
        pickler.dump([None if thing is None else vars(thing) for thing in objects])
        pickler.dump([(area, [number[id(thing)] for thing in chunk]) for area, chunk in world._chunks.items()])
        pickler.dump((world.random.get_state(), world.daylight, world._mat_map, world._obj_map))
        player = None if environment._player is None else number[id(environment._player)]
        unlocked = None if environment._unlocked is None else sorted(environment._unlocked)
        pickler.dump((player, unlocked, environment._last_health, environment._step))
        pickler.dump((environment._seed, environment._episode))
        return zlib.compress(file.getvalue(), level=1)

    def restore(self, snapshot: bytes) -> None:
        environment, world = self._environment, self._environment._world
        file = io.BytesIO(zlib.decompress(snapshot))
        kinds = pickle.load(file)
        world._objects = [None if kind is None else kind.__new__(kind) for kind in kinds]
        world.random = np.random.RandomState()
        unpickler = _Unpickler(file, {"world": world, "random": world.random} | dict(enumerate(world._objects)))
        for thing, state in zip(world._objects, unpickler.load(), strict=True):
            if thing is not None:
                vars(thing).update(state)
        world._chunks = collections.defaultdict(OrderedSet)
        for area, numbers in pickle.load(file):
            world._chunks[area] = OrderedSet(world._objects[number] for number in numbers)
        random, world.daylight, world._mat_map, world._obj_map = pickle.load(file)
        world.random.set_state(random)
        player, unlocked, environment._last_health, environment._step = pickle.load(file)
        environment._player = None if player is None else world._objects[player]
        environment._unlocked = None if unlocked is None else set(unlocked)
        environment._seed, environment._episode = pickle.load(file)

    def close(self) -> None:
        """Nothing: the environment goes with the stream."""


class _Pickler(pickle.Pickler):
    """Writes names in the place of what is known by one; takes no notice of what else is one and the same object.

    Which constants and strings are one object is not the same after a pickle was read.
    """

    def __init__(self, file: io.BytesIO, names: dict[int, str | int]) -> None:
        super().__init__(file, protocol=4)
        self.fast = True  # No memo.
        self._names = names

    def persistent_id(self, obj: Any) -> str | int | None:
        return self._names.get(id(obj))


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` wrote."""

    def __init__(self, file: io.BytesIO, named: dict[str | int, Any]) -> None:
        super().__init__(file)
        self._named = named

    def persistent_load(self, pid: Any) -> Any:
        return self._named[pid]


class OrderedSet:
    """As much of a set as Crafter uses; iterates in the order in which things were added."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._items = dict.fromkeys(items)

    def add(self, item: Any) -> None:
        self._items[item] = None

    def remove(self, item: Any) -> None:
        del self._items[item]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)
