"""What a population is made of: its groups, how much they act and learn, and the size of their state."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp

from framework.configuration import configuration, configured
from framework.description import (
    AgentDescription,
    DevicesDescription,
    EnvironmentDescription,
    GroupDescription,
    GroupScheduleDescription,
    HeldOutDescription,
    MemoryDescription,
    ParameterArray,
    Parameters,
)
from framework.experiment import Experiment, HeldOut
from framework.interfaces import HostEnvironment
from framework.lifecycle import Lifecycle
from framework.parallel import mesh_size
from framework.population import Population
from framework.specs import resume_of
from framework.train import Trainer
from framework.types import AgentState, Params, PyTree


def describe_group(population: Population, meta_params: Params, steps: int) -> GroupDescription:
    """A group in a run of so many steps, with meta-parameters of the given shapes."""
    lifecycle, group = population.lifecycle, population.lifecycle.group
    root = jax.ShapeDtypeStruct((2,), jnp.uint32)
    shown = population.shown_shapes if lifecycle.on_host else None
    agents = jax.eval_shape(population.init, meta_params, root, shown).agents
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), agents)
    spec = lifecycle.environment.spec
    return GroupDescription(
        agents=population.count,
        chunk=group.chunk,
        environment=EnvironmentDescription(
            suite=configuration(group.suite),
            tasks=lifecycle.tasks,
            on_host=lifecycle.on_host,
            resume=_resume(lifecycle),
            observation_shape=spec.observation_shape,
            observation_dtype=spec.observation_dtype,
            parts={name: dataclasses.asdict(array) for name, array in spec.parts},
            num_states=spec.num_states,
            num_actions=spec.num_actions,
        ),
        agent=AgentDescription(
            torso=configuration(group.agent.torso),
            action_model=configured(group.agent.action_model),
            head_networks=tuple(configuration(network) for network in group.agent.head_networks),
            optimizer=configuration(group.agent.optimizer),
            parameters=parameters_of(one.learner.params),
        ),
        hyperparameters=group.hyperparameters(lifecycle.rule),
        bandit=configured(group.bandit),
        arms={} if group.bandit is None else group.bandit.arms(),
        lifetime=configured(group.lifetime),
        schedule=_schedule(population, steps),
        memory_megabytes=_memory(_agent_parts(one)),
    )


def _resume(lifecycle: Lifecycle) -> str | None:
    """How the environments of all tasks go on after an interruption."""
    if not lifecycle.on_host:
        return None
    environments = (cast(HostEnvironment, lifecycle.group.suite.environment(task)) for task in lifecycle.tasks)
    return ", or ".join(dict.fromkeys(resume_of(environment).value for environment in environments))


def _schedule(population: Population, steps: int) -> GroupScheduleDescription:
    lifecycle, group = population.lifecycle, population.lifecycle.group
    batch_size = group.replay.batch(group.num_environments)
    fresh = group.replay.fresh_of_batch(group.num_environments)
    per_step = population.count * lifecycle.env_steps_per_step
    warm_up = population.count * lifecycle.warm_up_unrolls * lifecycle.env_steps_per_unroll
    return GroupScheduleDescription(
        num_environments=group.num_environments,
        trajectory_length=group.trajectory_length,
        validation_length=None if lifecycle.discovery is None else lifecycle.validation_length,
        env_steps_per_update=lifecycle.env_steps_per_unroll,
        env_steps_per_step=per_step,
        warm_up_env_steps=warm_up,
        env_steps=warm_up + steps * per_step,
        epochs=group.epochs,
        minibatches=group.minibatches,
        minibatch_unit=group.minibatch_unit,
        gradient_steps_per_update=group.epochs * group.minibatches,
        batch_size=batch_size,
        fresh=fresh,
        replayed=batch_size - fresh,
        replay=configuration(group.replay),
        replay_capacity=group.replay.capacity,
        replay_ratio=1.0 - fresh / batch_size,
        uses_per_transition=group.epochs * batch_size / group.num_environments,
    )


def describe_held_out(held_out: HeldOut, experiment: Experiment, meta_params: Params) -> HeldOutDescription:
    """What a rule is measured on: agents that learn with it as it is, in lives without end."""
    groups = tuple(dataclasses.replace(group, lifetime=None, bandit=None) for group in held_out.groups)
    trainer = Trainer(dataclasses.replace(experiment, groups=groups, discovery=None, held_out=None))
    return HeldOutDescription(
        groups=tuple(describe_group(population, meta_params, held_out.updates) for population in trainer.populations),
        updates=held_out.updates,
        interval=held_out.interval,
        env_steps=trainer.env_steps(held_out.updates),
    )


def memory_of_run(trainer: Trainer, groups: Sequence[GroupDescription], meta_params: Params) -> MemoryDescription:
    """The state of all agents, of their bandits and of the rule."""
    discovery = trainer.experiment.discovery
    sizes: dict[str, float] = collections.defaultdict(float)
    for population, group in zip(trainer.populations, groups, strict=True):
        for part, size in group.memory_megabytes.parts.items():
            sizes[part] += group.agents * size
        bandit, tasks = population.lifecycle.group.bandit, len(group.environment.tasks)
        sizes["bandits"] += 0.0 if bandit is None else _megabytes(jax.eval_shape(lambda b=bandit, n=tasks: b.init(n)))
    sizes["meta_params"] = _megabytes(meta_params)
    if discovery is not None and not discovery.separate_optimizers:
        sizes["shared_meta_optimizer"] = _megabytes(jax.eval_shape(discovery.optimizer.init, meta_params))
    return MemoryDescription(parts=dict(sizes), total=sum(sizes.values()))


def describe_devices(
    groups: Sequence[GroupDescription], memory: MemoryDescription, devices: int, hosts: int
) -> DevicesDescription:
    """What each of some devices on each of some hosts holds of a state of this size.

    Raises:
      UserError: where the agents cannot be spread evenly over the hosts.
    """
    used = mesh_size([group.agents for group in groups], devices, hosts)
    of_agents = sum(group.agents * group.memory_megabytes.total for group in groups)
    return DevicesDescription(
        count=devices * hosts,
        hosts=hosts,
        used=used,
        agents=sum(group.agents for group in groups) // used,
        state_megabytes=of_agents / used + memory.total - of_agents,
    )


def _agent_parts(agent: AgentState) -> dict[str, PyTree]:
    """What one agent's state consists of."""
    learner = agent.learner
    return {
        "agent_params": learner.params,
        "optimizer": learner.opt_state,
        "target_params": learner.target_params,
        "rule_carry": learner.replace(params=None, opt_state=None, target_params=None),
        "actor": agent.actor,
        "replay": agent.replay,
        "life": agent.life,
        "window": agent.window,
        "objective": agent.objective,
        "meta_optimizer": agent.meta_optimizer,
    }


def _memory(trees: dict[str, PyTree]) -> MemoryDescription:
    sizes = {part: _megabytes(tree) for part, tree in trees.items()}
    return MemoryDescription(parts=sizes, total=sum(sizes.values()))


def _megabytes(tree: PyTree) -> float:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e6


def parameters_of(params: Params) -> Parameters:
    """What a network's parameters are, by part and by array."""
    arrays = tuple(
        ParameterArray(
            path=jax.tree_util.keystr(path, simple=True, separator="/"),
            shape=leaf.shape,
            dtype=leaf.dtype.name,
            size=leaf.size,
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    )
    sizes: collections.Counter[str] = collections.Counter()
    for array in arrays:
        sizes[array.path.split("/")[0]] += array.size
    return Parameters(count=sizes.total(), parts=dict(sizes), arrays=arrays)
