"""Acting: unrolls of a policy in its environments."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from framework.agent import Network
from framework.environment import Batched
from framework.statistics import count_step, initial_statistics
from framework.types import ActingParams, ActorState, Array, PyTree, TimeStep, Trajectory


def initial_actor(network: Network, environments: Batched, task: PyTree, key: Array) -> ActorState:
    """An agent at the start of an episode in each of its environments."""
    env_state, time_step = environments.reset(key, task)
    return actor_at(network, env_state, time_step)


def actor_at(network: Network, env_state: PyTree, time_step: TimeStep) -> ActorState:
    """An agent that is shown the first time steps of episodes [E, ...]."""
    size = time_step.last.shape[0]
    return ActorState(
        env_state=env_state,
        time_step=time_step,
        carry=network.initial_carry(size),
        statistics=initial_statistics(size, network.spec.episode_numbers),
    )


def act(
    network: Network, environments: Batched, task: PyTree, by: ActingParams, actor: ActorState, key: Array
) -> tuple[ActorState, tuple[Array, Array]]:
    """One step with sampled actions.

    Args:
      network: the agent's.
      environments: in which it acts.
      task: that it plays.
      by: what it acts by.
      actor: where it stands.
      key: of the actions and of the environments.

    Returns:
      The actor after the step, the actions [E] and the logits they were drawn from [E, A].
    """
    act_key, env_key = jax.random.split(key)
    logits, carry = network.policy(by, actor.time_step.observation, actor.carry)
    action = jax.random.categorical(act_key, logits)
    env_state, time_step = environments.step(env_key, task, actor.env_state, action)
    after = ActorState(
        env_state=env_state,
        time_step=time_step,
        carry=network.cleared(carry, time_step.last),
        statistics=count_step(
            actor.statistics, time_step.reward, time_step.last, episode_numbers=time_step.episode_numbers
        ),
    )
    return after, (action, logits)


def unroll(
    network: Network,
    environments: Batched,
    task: PyTree,
    by: ActingParams,
    actor: ActorState,
    key: Array,
    steps: int,
) -> tuple[ActorState, Trajectory]:
    """Acts for T steps with sampled actions; see `act`.

    Returns:
      The actor after the steps, and the trajectory, whose last observation is the next one's first.
    """

    def step(actor: ActorState, key: Array) -> tuple[ActorState, tuple[Array, TimeStep, Array, Array]]:
        after, (action, logits) = act(network, environments, task=task, by=by, actor=actor, key=key)
        return after, (actor.time_step.observation, after.time_step.replace(observation=()), action, logits)

    after, (observation, time_step, action, logits) = jax.lax.scan(step, actor, jax.random.split(key, steps))
    return after, Trajectory(
        observation=jax.tree.map(
            lambda x, latest: jnp.concatenate([x, latest[None]]), observation, after.time_step.observation
        ),
        action=action,
        reward=time_step.reward,
        discount=time_step.discount,
        last=time_step.last,
        behaviour=logits,
        carry=actor.carry,
    )
