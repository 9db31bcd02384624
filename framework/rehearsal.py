"""What a step would measure, and whether its parts fit: found out without environments."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from framework.lifecycle import Lifecycle
from framework.meta_step import MetaStep, of_gradient
from framework.statistics import mean_of
from framework.trees import zeros_of
from framework.types import ActorState, AgentState, Array, Mean, Params, TimeStep, Trajectory


def rehearsal(lifecycle: Lifecycle, meta_params: Params, key: Array) -> dict[str, Mean]:
    """What a step of an agent measures; computed from zeros, for its names and to see that the parts fit."""
    fresh = zeros_of(lifecycle.example_trajectory)
    shown = TimeStep(
        observation=jax.tree.map(lambda x: x[0], fresh.observation),
        reward=fresh.reward[0],
        discount=fresh.discount[0],
        last=fresh.last[0],
    )
    agent = lifecycle.newborn(key, 0, lifecycle.hyperparameters(), shown)
    agent = lifecycle.remember(agent, fresh)
    if lifecycle.discovery is not None:
        agent = agent.replace(objective=lifecycle.discovery.objective.init(key, lifecycle.environment.spec))
    root, zero = jax.random.key_data(key), jnp.zeros((), jnp.int32)
    agent, (_, means) = lifecycle.learn(meta_params, agent, fresh, root, zero)
    if lifecycle.discovery is None:
        return means
    meta_step = MetaStep(lifecycle)
    batch = zeros_of(lifecycle.example_batch)
    of_updates = meta_step.inner_loop.compute_targets(meta_params, agent.learner, batch)[2]
    validation = zeros_of(lifecycle.example(lifecycle.validation_length))
    _, numbers = meta_step.judge(agent.learner.params, validation, agent.objective, of_updates)
    return means | {name: mean_of(number) for name, number in numbers.items()} | of_gradient(zero, zero, jnp.ones(()))


@dataclasses.dataclass(frozen=True)
class ImaginedLifecycle(Lifecycle):
    """An agent whose environments show nothing but zeros, to find out shapes of what happens on the host."""

    def act(
        self, agent: AgentState, actor: ActorState, key: Array, steps: int | None = None
    ) -> tuple[ActorState, Trajectory]:
        return actor, zeros_of(self.example(steps or self.group.trajectory_length))
