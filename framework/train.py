"""Training and meta-training: a population learns, the rule learns from it; one state in, one state out."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp

from framework import keys
from framework.discovery import Discovery
from framework.environment import refuse_mismatched_environment
from framework.experiment import Experiment
from framework.interfaces import SummarizedSuite
from framework.keys import Role
from framework.lifecycle import DUMMY_STEPS, Lifecycle
from framework.parallel import Agents, mean_over_agents, mesh_for, placed
from framework.population import Population
from framework.programs import compiled
from framework.rehearsal import rehearsal
from framework.statistics import mean_of, merged
from framework.trees import global_norm, select, zeros_of
from framework.types import AgentState, Array, GroupState, GroupStep, Mean, Params, PyTree, TimeStep, TrainState

RULE_MEANS = ("meta/change_norm", "meta/mean_gradient_norm", "meta/parameter_norm")
"""What is measured of the rule's own moves."""

COUNTS = ("agents/lives_completed", "agents/lost")
"""How many lives ended: by age, or because the agent's numbers were lost."""

NUMBER_SHAPE: Any = jax.ShapeDtypeStruct((), jnp.float32)

ROOT_SHAPE: Any = jax.ShapeDtypeStruct((2,), jnp.uint32)
"""Shape of a root key."""


class OutsideDevice(Protocol):
    """The environments outside the device: what acts in them, and steps an experiment that has some."""

    def first_shown(self) -> Mapping[int, TimeStep]: ...

    def warmed_up(self, state: TrainState) -> TrainState: ...

    def step(self, state: TrainState) -> TrainState: ...


@dataclasses.dataclass(frozen=True)
class Trainer:
    """An experiment bound to its environments, networks and devices; holds no state."""

    experiment: Experiment

    @functools.cached_property
    def populations(self) -> tuple[Population, ...]:
        e = self.experiment
        mesh = mesh_for([group.agents for group in e.groups])
        return tuple(
            Population(Lifecycle(e.rule, group, e.discovery), index, Agents(group.agents, group.chunk, mesh))
            for index, group in enumerate(e.groups)
        )

    @functools.cached_property
    def placement(self) -> TrainState | None:
        """Where the leaves of a state are, on several devices; a program takes them there and leaves them there."""
        places = placed(self.populations[0].agents.mesh)
        if places is None:
            return None
        spread, everywhere = cast("tuple[Any, Any]", places)
        group = GroupState(
            agents=spread, bandit=everywhere, extra_steps=everywhere, means=everywhere, counts=everywhere
        )
        return TrainState(
            step=everywhere,
            root_key=everywhere,
            meta_params=everywhere,
            meta_optimizer=everywhere,
            groups=(group,) * len(self.populations),
            means=everywhere,
        )

    @property
    def lifecycles(self) -> tuple[Lifecycle, ...]:
        """One of each group."""
        return tuple(population.lifecycle for population in self.populations)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of all groups."""
        return tuple(task for lifecycle in self.lifecycles for task in lifecycle.tasks)

    @property
    def updates_per_step(self) -> int:
        """Agent updates of a step."""
        return 1 if self.experiment.discovery is None else self.experiment.discovery.new_updates

    def env_steps(self, step: int, state: TrainState | None = None) -> int:
        """Environment steps of all agents after a number of steps, those before the first update included.

        Only the state knows what agents that were born later did before their first update, and which time steps no
        environment made; without it, neither is counted in.
        """
        extra = 0 if state is None else sum(int(group.extra_steps) for group in state.groups)
        return self._time_steps(step) + extra

    def _time_steps(self, step: int) -> int:
        return sum(
            population.count * (step * life.env_steps_per_step + life.warm_up_unrolls * life.env_steps_per_unroll)
            for population, life in zip(self.populations, self.lifecycles, strict=True)
        )

    # Before the first step

    def initial_meta_params(self, key: Array) -> Params:
        """Meta-parameters drawn at random; ``{}`` for a static rule."""
        return self.lifecycles[0].initial_meta_params(key)

    def init(self, worlds: OutsideDevice | None = None) -> TrainState:
        """The state before the first update: newborn agents, their replays filled as far as a batch needs.

        Args:
          worlds: the environments outside the device, where the experiment has any.

        Raises:
          UserError: where the rule's weights cannot be had.
        """
        root = keys.root_key(self.experiment.seed)
        initial = jax.jit(self.initial_meta_params)(keys.role_key(root, Role.META_PARAMS))
        meta_params = self.experiment.weights(initial)
        meta_params = jax.tree.map(jnp.asarray, meta_params)
        init = compiled(self.init_with, out_shardings=self.placement)
        if worlds is None:
            state: TrainState = init(meta_params, root)
            return state
        return worlds.warmed_up(init(meta_params, root, worlds.first_shown()))

    def init_with(self, meta_params: Params, root: Array, shown: Mapping[int, TimeStep] | None = None) -> TrainState:
        """The state before the first update, with the rule's parameters and the root key given.

        Args:
          meta_params: the rule's parameters.
          root: the run's root key.
          shown: {group: what its environments on the host show first [P, E, ...]}.
        """
        state = self._unmeasured(meta_params, root, shown)
        of_groups, of_rule = self._measured_shapes
        groups = tuple(
            group.replace(means=zeros_of(means), counts=zeros_of(counts))
            for group, (means, counts) in zip(state.groups, of_groups, strict=True)
        )
        return state.replace(groups=groups, means=zeros_of(of_rule))

    def _unmeasured(self, meta_params: Params, root: Array, shown: Mapping[int, TimeStep] | None) -> TrainState:
        """The first state without a place for what will be measured."""
        discovery = self.experiment.discovery
        meta_optimizer: PyTree = ()
        if discovery is not None and not discovery.separate_optimizers:
            meta_optimizer = discovery.optimizer.init(meta_params)
        groups = tuple(
            population.init(meta_params, root, (shown or {}).get(population.index)) for population in self.populations
        )
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            root_key=root,
            meta_params=meta_params,
            meta_optimizer=meta_optimizer,
            groups=groups,
            means={},
        )

    @functools.cached_property
    def _measured_shapes(self) -> tuple[list[tuple[PyTree, PyTree]], PyTree]:
        """Shapes of what a step measures: means and counts of each group, and the rule's own means."""
        mean = Mean(total=NUMBER_SHAPE, weight=NUMBER_SHAPE)
        of_groups = []
        for population in self.populations:
            arguments = self.meta_params_shapes(), jax.eval_shape(lambda: jax.random.key(0))
            names = jax.eval_shape(functools.partial(rehearsal, population.lifecycle), *arguments)
            counts = COUNTS if population.lives_end else ()
            of_groups.append(
                (
                    {name: mean for name in (*names, *population.returns_by_agent) if name != DUMMY_STEPS},
                    dict.fromkeys(counts, NUMBER_SHAPE),
                )
            )
        discovered = self.experiment.discovery is not None
        return of_groups, {name: mean for name in RULE_MEANS if discovered}

    @property
    def _shown_shapes(self) -> dict[int, TimeStep]:
        return {p.index: p.shown_shapes for p in self.populations if p.lifecycle.on_host}

    def state_shapes(self) -> TrainState:
        """Shapes of the whole state and where its leaves are, from tracing a first step; nothing is computed."""
        shapes = jax.eval_shape(self.init_with, self.meta_params_shapes(), ROOT_SHAPE, self._shown_shapes)
        if self.placement is None:
            return shapes
        placed_shapes = jax.tree.map(
            lambda place, part: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), part),
            self.placement,
            shapes,
        )
        return cast(TrainState, placed_shapes)

    def refuse_what_does_not_fit(self) -> None:
        """Traces one update of an agent of each group, and what judges it; nothing is computed.

        Raises:
          UserError: where an environment is not what it says it is, or the parts do not fit together.
        """
        held_out = self.experiment.held_out
        measured_on = () if held_out is None else held_out.groups
        for lifecycle in (*self.lifecycles, *(Lifecycle(self.experiment.rule, group) for group in measured_on)):
            suite, tasks = lifecycle.group.suite, () if lifecycle.on_host else lifecycle.tasks
            levels = [jax.tree.flatten(jax.eval_shape(functools.partial(suite.level, task))) for task in tasks]
            for leaves, form in dict.fromkeys((tuple(leaves), form) for leaves, form in levels):  # Most are alike.
                refuse_mismatched_environment(lifecycle.environments.environment, jax.tree.unflatten(form, leaves))
            if lifecycle not in self.lifecycles:
                jax.eval_shape(functools.partial(rehearsal, lifecycle), self.meta_params_shapes(), jax.random.key(0))
        _ = self._measured_shapes

    def meta_params_shapes(self) -> Params:
        """Shapes of the meta-parameters; nothing is computed."""
        return jax.eval_shape(lambda: self.initial_meta_params(jax.random.key(0)))

    @property
    def on_host(self) -> bool:
        """Whether any environments are outside the device."""
        return any(lifecycle.on_host for lifecycle in self.lifecycles)

    # Steps

    def steps(self, state: TrainState, count: int, worlds: OutsideDevice | None = None) -> TrainState:
        """The state after a number of steps; what is measured is summed up in it.

        Args:
          state: its buffers are given away.
          count: number of steps.
          worlds: the environments outside the device, where the experiment has any.
        """
        if worlds is None:
            return self.program(state, jnp.asarray(count, jnp.int32))
        for _ in range(count):
            state = worlds.step(state)
        return state

    @functools.cached_property
    def program(self) -> Any:
        """`steps` where all environments are on the device, as one program of a state and a count [] int32."""

        def steps(state: TrainState, count: Array) -> TrainState:
            return jax.lax.fori_loop(0, count, lambda _, state: self._step(state), state)

        there: Any = {}
        if self.placement is not None:
            there = {"in_shardings": (self.placement, None), "out_shardings": self.placement}
        return compiled(steps, donate_argnums=0, **there)

    def counter(self, state: TrainState) -> Array:
        """Updates that an agent that lived from the beginning has made []."""
        return state.step * self.updates_per_step

    def _step(self, state: TrainState) -> TrainState:
        return self.finish(state, [self.group_step(state, population.index) for population in self.populations])

    def imagined_step(self, state: TrainState) -> TrainState:
        """A step for its shapes: what environments on the host would show is zero."""
        parts = [
            (population.imagined if population.lifecycle.on_host else population).step(
                state.meta_params, group.agents, state.root_key, self.counter(state)
            )
            for population, group in zip(self.populations, state.groups, strict=True)
        ]
        return self.finish(state, parts)

    def group_step(self, state: TrainState, index: int) -> GroupStep:
        """A group's part of a step: its agents act and learn and, for a discovery, say where the rule should move."""
        population, agents = self.populations[index], state.groups[index].agents
        return population.step(state.meta_params, agents, state.root_key, self.counter(state))

    def finish(self, state: TrainState, parts: Sequence[GroupStep]) -> TrainState:
        """The rule moves, lives that are over begin anew (on the host: in `Worlds`), what was measured is summed up."""
        if self.experiment.discovery is not None:
            state, parts = self._moved(state, parts, self.experiment.discovery)
        groups = [
            self._lived(state, population, group, part)
            for population, group, part in zip(self.populations, state.groups, parts, strict=True)
        ]
        return state.replace(step=state.step + 1, groups=tuple(groups))

    def _moved(
        self, state: TrainState, parts: Sequence[GroupStep], discovery: Discovery
    ) -> tuple[TrainState, list[GroupStep]]:
        """The state with the rule moved by the agents' meta-gradients; the agents with their own optimizers' states."""
        pairs = list(zip(self.populations, parts, strict=True))
        gradients = _joined([population.agents.gathered(part.gradient) for population, part in pairs])
        weight = jnp.concatenate([part.sound for part in parts if part.sound is not None]).astype(jnp.float32)
        mean_gradient = mean_over_agents(gradients, weight)
        meta_optimizer = moved_optimizer = state.meta_optimizer
        if discovery.separate_optimizers:
            own = [self._own_change(state, population, part, discovery) for population, part in pairs]
            changes = [p.agents.gathered(change) for p, (change, _) in zip(self.populations, own, strict=True)]
            change = mean_over_agents(_joined(changes), weight)
            parts = [part.replace(agents=agents) for part, (_, agents) in zip(parts, own, strict=True)]
        else:
            optimizer = discovery.optimizer
            change, moved_optimizer = optimizer.update(
                mean_gradient, meta_optimizer, state.meta_params, optimizer.learning_rate
            )
        finite = jnp.isfinite(global_norm(change)) & weight.any()
        change = jax.tree.map(lambda x: jnp.where(finite, x, 0.0), change)
        norms = [mean_of(global_norm(tree)) for tree in (change, mean_gradient, state.meta_params)]
        state = state.replace(
            meta_params=jax.tree.map(jnp.add, state.meta_params, change),
            meta_optimizer=select(finite, moved_optimizer, meta_optimizer),
            means=merged(state.means, dict(zip(RULE_MEANS, norms, strict=True))),
        )
        return state, list(parts)

    def _own_change(
        self, state: TrainState, population: Population, part: GroupStep, discovery: Discovery
    ) -> tuple[Params, AgentState]:
        """What each agent's optimizer makes of its meta-gradient [P, ...]; the agents with these optimizers' states.

        The optimizer of an agent that is lost stays as it was.
        """
        optimizer = discovery.optimizer

        def one(meta_params: Params, gradient: Params, opt_state: PyTree, sound: Array) -> tuple[Params, PyTree]:
            change, moved = optimizer.update(gradient, opt_state, meta_params, optimizer.learning_rate)
            return change, select(sound, moved, opt_state)

        given = part.gradient, part.agents.meta_optimizer, part.sound
        change, moved = population.agents.map(one, state.meta_params, *given)
        return change, part.agents.replace(meta_optimizer=moved)

    def _lived(self, state: TrainState, population: Population, group: GroupState, part: GroupStep) -> GroupState:
        """The group after its part of a step."""
        dummies = part.means[DUMMY_STEPS].total.astype(jnp.int32)
        means = {name: mean for name, mean in part.means.items() if name != DUMMY_STEPS}
        lost = jnp.zeros(population.count, bool) if part.sound is None else ~part.sound
        over = population.over(part.agents, lost)
        group = group.replace(
            agents=part.agents,
            extra_steps=group.extra_steps - dummies,
            means=merged(group.means, means),
        )
        if not population.lives_end:
            return group
        counts = dict(zip(COUNTS, ((over & ~lost).sum() * 1.0, lost.sum() * 1.0), strict=True))
        group = group.replace(counts=jax.tree.map(jnp.add, group.counts, counts))
        if population.lifecycle.on_host:
            return group
        counter = self.counter(state) + self.updates_per_step
        agents, bandit = population.recycled(group, state.root_key, counter, over=over, lost=lost)
        warm_up = jnp.where(over, agents.life.age, 0).sum()
        return group.replace(agents=agents, bandit=bandit, extra_steps=group.extra_steps + warm_up)


def summaries(trainer: Trainer, numbers: Mapping[str, float]) -> dict[str, float]:
    """What the suites make of what was `measured` {name: number}."""
    suites = (lifecycle.group.suite for lifecycle in trainer.lifecycles)
    made = (suite.summary(numbers) for suite in suites if isinstance(suite, SummarizedSuite))
    return {name: number for summary in made for name, number in summary.items()}


def _joined(trees: list[PyTree]) -> PyTree:
    """Leaves of all groups' agents, one after another."""
    return jax.tree.map(lambda *x: jnp.concatenate(x), *trees)


def measured(state: TrainState) -> dict[str, float]:
    """Means and counts since they were last reset {name: number}; NaN for a mean that has seen nothing.

    Over several groups, means are weighted by what each has seen, and counts are summed.
    """
    means: dict[str, tuple[float, float]] = {}
    for seen in (state.means, *(group.means for group in state.groups)):
        for name, mean in jax.device_get(seen).items():
            total, weight = means.get(name, (0.0, 0.0))
            means[name] = (total + float(mean.total), weight + float(mean.weight))
    numbers = {name: total / weight if weight else math.nan for name, (total, weight) in means.items()}
    numbers["episode/completed"] = means["episode/return"][1]
    for name, (_, weight) in means.items():
        if name.startswith("return/"):
            numbers[name.replace("return/", "completed/", 1)] = weight
    for group in state.groups:
        for name, count in jax.device_get(group.counts).items():
            numbers[name] = numbers.get(name, 0.0) + float(count)
    return numbers


def with_measurements_reset(state: TrainState) -> TrainState:
    """The state with means and counts that start anew, where they are."""

    def reset(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jax.device_put(jnp.zeros_like(x), x.sharding if x.committed else None), tree)

    groups = tuple(group.replace(means=reset(group.means), counts=reset(group.counts)) for group in state.groups)
    return state.replace(groups=groups, means=reset(state.means))
