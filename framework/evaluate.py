"""Playing complete episodes with a policy that no longer changes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from framework.agent import Network
from framework.environment import Batched
from framework.rollout import act, initial_actor
from framework.types import ActorState, Array, Params

STEPS_PER_CALL = 256


def episode_returns(network: Network, environments: Batched, params: Params, key: Array) -> np.ndarray:
    """Returns of one complete episode in each of the environments [E], with sampled actions.

    One episode each, so that short episodes do not count more often than long ones.
    """
    reset_key, act_key = jax.random.split(key)
    actor = jax.jit(initial_actor, static_argnums=(0, 1))(network, environments, reset_key)
    finished, returns = jnp.zeros(environments.size, bool), jnp.zeros(environments.size)
    call = 0
    while not bool(finished.all()):
        key = jax.random.fold_in(act_key, call)
        actor, finished, returns = _play(network, environments, params, actor, finished, returns, key)
        call += 1
    return np.asarray(returns)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _play(
    network: Network,
    environments: Batched,
    params: Params,
    actor: ActorState,
    finished: Array,
    returns: Array,
    key: Array,
) -> tuple[ActorState, Array, Array]:
    """Plays on until every environment has finished an episode, or for a limited number of steps."""

    def unfinished(carry: tuple) -> Array:
        step, _, finished, _ = carry
        return (step < STEPS_PER_CALL) & ~finished.all()

    def body(carry: tuple) -> tuple:
        step, actor, finished, returns = carry
        actor, _ = act(network, environments, params, actor, jax.random.fold_in(key, step))
        returns = returns + jnp.where(finished, 0.0, actor.time_step.reward)
        return step + 1, actor, finished | actor.time_step.last, returns

    _, actor, finished, returns = jax.lax.while_loop(unfinished, body, (0, actor, finished, returns))
    return actor, finished, returns
