"""``rulespace bench actor``: environment steps a second with random actions, beside the library's own vectorisation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from components.streams.nethack import PACKAGE
from components.streams.procgen import NUM_ACTIONS, library_pool, seed_of
from components.suites.atari import Atari
from components.suites.nethack import NetHackChallenge, NetHackScore
from components.suites.procgen import ProcGen
from framework.environment import Batched
from framework.group import Group
from framework.host_environments.crew import usable_cores
from framework.host_environments.pool import HostPool
from framework.interfaces import Environment, HostEnvironment, Suite

Play = Callable[[int], None]
"""Makes so many steps of every environment, with random actions."""

DEFAULT_STEPS = 200


def bench_actor(group: Group, *, size: int | None, steps: int | None, repetitions: int) -> dict[str, Any]:
    """Times random actions in the environments of a group's first task.

    Args:
      group: whose environments.
      size: how many of them; the group's by default.
      steps: of each, in one timed run.
      repetitions: timed runs; ours and the library's take turns, so that both see the same machine.
    """
    suite, size, steps = group.suite, size or group.num_environments, steps or DEFAULT_STEPS
    library = LIBRARIES.get(type(suite))
    with ExitStack() as opened:
        ours = opened.enter_context(_ours(suite, size))
        theirs = None if library is None else opened.enter_context(library(suite, size))
        speeds = [
            (_speed(ours, steps, size), None if theirs is None else _speed(theirs, steps, size))
            for _ in range(repetitions + 1)
        ][1:]  # The first run compiles and warms up.
    figures: dict[str, Any] = {
        "what": "actor",
        "task": suite.tasks()[0],
        "environments": size,
        "steps": steps,
        "steps_per_second": statistics.median(speed for speed, _ in speeds),
    }
    if theirs is not None:
        figures |= {
            "raw_steps_per_second": statistics.median(other for _, other in speeds if other is not None),
            "ratio": statistics.median(speed / other for speed, other in speeds if other is not None),
        }
    return figures


def _speed(play: Play, steps: int, size: int) -> float:
    begin = time.perf_counter()
    play(steps)
    return steps * size / (time.perf_counter() - begin)


def _ours(suite: Suite, size: int) -> AbstractContextManager[Play]:
    environment = suite.environment(suite.tasks()[0])
    if isinstance(environment, HostEnvironment):
        return _on_host(environment, size)
    return _on_device(cast(Environment, environment), suite.level(suite.tasks()[0]), size)


def _seeds(size: int) -> list[tuple[int, ...]]:
    return [(index,) for index in range(size)]


def _cores(size: int) -> int:
    """Workers or threads that share so many environments."""
    return min(usable_cores(), size)


@contextmanager
def _on_host(environment: HostEnvironment, size: int) -> Any:
    """As training steps them: by a worker process for each core."""
    generator = np.random.default_rng(0)
    with HostPool([environment] * size, _seeds(size), _cores(size)) as pool:
        pool.reset()

        def play(steps: int) -> None:
            actions = generator.integers(environment.spec.num_actions, size=(steps, size))
            for action in actions:
                pool.step(action)

        yield play


@contextmanager
def _on_device(environment: Environment, level: Any, size: int) -> Any:
    environments = Batched(environment, size)
    task = environment.draw_task(jax.random.key(0), level)
    state, _ = jax.jit(environments.reset)(jax.random.key(1), task)

    @jax.jit
    def run(state: Any, key: jax.Array, steps: jax.Array) -> Any:
        def step(index: jax.Array, state: Any) -> Any:
            act_key, env_key = jax.random.split(jax.random.fold_in(key, index))
            action = jax.random.randint(act_key, (size,), 0, environment.spec.num_actions)
            return environments.step(env_key, task, state, action)[0]

        return jax.lax.fori_loop(0, steps, step, state)

    def play(steps: int) -> None:
        nonlocal state
        state = jax.block_until_ready(run(state, jax.random.key(2), jnp.asarray(steps)))

    yield play


@contextmanager
def _atari(suite: Atari, size: int) -> Any:
    """ale-py's own vector environment, with frames and actions as the suite has them."""
    from ale_py.vector_env import AtariVectorEnv

    environments = AtariVectorEnv(
        suite.tasks()[0],
        size,
        frameskip=suite.frame_skip,
        stack_num=1,
        noop_max=suite.max_noops,
        use_fire_reset=False,
        reward_clipping=suite.clip_rewards,
        repeat_action_probability=0.25 if suite.sticky else 0.0,
        full_action_space=suite.full_action_space,
    )
    environments.reset(seed=0)
    generator = np.random.default_rng(0)

    def play(steps: int) -> None:
        for action in generator.integers(environments.single_action_space.n, size=(steps, size)):
            environments.step(action)

    yield play
    environments.close()


@contextmanager
def _procgen(suite: ProcGen, size: int) -> Any:
    """EnvPool's own batch, with a thread for each core; on the same levels, as some take twice as long as others."""
    seeds = [seed_of(words) for words in _seeds(size)]
    environments = library_pool(suite.environment(suite.tasks()[0]), seeds, threads=_cores(size))
    environments.reset()
    generator = np.random.default_rng(0)

    def play(steps: int) -> None:
        for action in generator.integers(NUM_ACTIONS, size=(steps, size), dtype=np.int32):
            environments.step(action)

    yield play
    environments.close()


@contextmanager
def _nethack(suite: NetHackScore | NetHackChallenge, size: int) -> Any:
    """The package's own games, one after another: it has no batches, and a process for each is half as fast."""
    tasks = PACKAGE.module("nle.env.tasks")
    task = tasks.NetHackScore if isinstance(suite, NetHackScore) else tasks.NetHackChallenge
    games = [task(observation_keys=suite.observed, save_ttyrec_every=0) for _ in range(size)]
    for game in games:
        game.reset()
    generator = np.random.default_rng(0)

    def play(steps: int) -> None:
        for actions in generator.integers(games[0].action_space.n, size=(steps, size)).tolist():
            for game, action in zip(games, actions, strict=True):
                if game.step(action)[2]:
                    game.reset()

    yield play
    for game in games:
        game.close()


LIBRARIES: dict[type, Callable[[Any, int], AbstractContextManager[Play]]] = {
    Atari: _atari,
    ProcGen: _procgen,
    NetHackScore: _nethack,
    NetHackChallenge: _nethack,
}
"""Suites whose library steps many environments at once by itself."""
