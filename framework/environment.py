"""Environments in batches, one episode after another."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from framework.errors import UserError
from framework.interfaces import Environment
from framework.specs import described, spec_of
from framework.trees import select
from framework.types import Array, PyTree, TimeStep


@dataclasses.dataclass(frozen=True)
class Batched:
    """E copies of an environment that begin a new episode in the step that ends the last one.

    The time step of an episode's end carries the reward, discount and ``last`` of the episode that ended, and
    the first observation of the next.
    """

    environment: Environment
    size: int

    def reset(self, key: Array, task: PyTree) -> tuple[PyTree, TimeStep]:
        """States and first time steps of E new episodes of one task."""
        state, observation = jax.vmap(self.environment.reset, (0, None))(jax.random.split(key, self.size), task)
        zeros = jnp.zeros(self.size)
        numbers = dict.fromkeys(self.environment.spec.episode_numbers, zeros)
        first = TimeStep(
            observation=observation, reward=zeros, discount=zeros + 1.0, last=zeros > 0, episode_numbers=numbers
        )
        return state, first

    def step(self, key: Array, task: PyTree, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """One step of every environment, with actions [E]."""
        return jax.vmap(self._step, (0, None, 0, 0))(jax.random.split(key, (self.size, 2)), task, state, action)

    def _step(self, keys: Array, task: PyTree, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        step_key, reset_key = keys
        state, time_step = self.environment.step(step_key, task, state, action)
        new_state, observation = self.environment.reset(reset_key, task)
        state = select(time_step.last, new_state, state)
        shown = select(time_step.last, observation, time_step.observation)
        return state, time_step.replace(observation=shown)


def refuse_mismatched_environment(environment: Environment, level: PyTree) -> None:
    """Compares what an environment shows with what its specification says.

    Raises:
      UserError: where shapes or dtypes differ.
    """
    spec, key = environment.spec, jax.eval_shape(lambda: jax.random.key(0))
    task = jax.eval_shape(environment.draw_task, key, level)
    state, first = jax.eval_shape(environment.reset, key, task)
    _, time_step = jax.eval_shape(environment.step, key, task, state, jax.ShapeDtypeStruct((), jnp.int32))
    for when, shown in (("reset", first), ("step", time_step.observation)):
        if (found := spec_of(shown)) != spec.observation:
            raise UserError(
                f"{type(environment).__name__}.{when} shows observations {described(found)}, its spec says "
                f"{spec.shown}: make the two agree"
            )
