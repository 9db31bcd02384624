"""A small discovery for tests: agents that draw lots, with all that can happen to agents in quick succession."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct
from plain_updates import COMPILE_FAST
from rule_files import rule_of

from components import bandits, lifetimes, meta_objectives, optimizers, regularizers, replays, torsos
from components import weights as weight_components
from framework import keys
from framework.agent import Agent
from framework.discovery import Discovery
from framework.experiment import Experiment
from framework.group import Group
from framework.interfaces import MetaObjective
from framework.keys import Role
from framework.numbers import Hyperparameter
from framework.specs import EnvironmentSpec
from framework.train import Trainer
from framework.types import Array, GroupStep, PyTree, TimeStep, TrainState, Trajectory

TASKS = ("cheap", "fair", "dear", "free")
LIFETIME = 100.0
ARMS = (0.1, 0.9)


@dataclasses.dataclass(frozen=True)
class LotteryEnvironment:
    """Pays by action and chance, whatever came before; an episode may end at any step. A task is the price of a lot.

    Nothing that an agent does or sees leaves a trace: what it will be shown depends on the keys alone.
    """

    spec = EnvironmentSpec(observation_shape=(3,), num_actions=2)

    def draw_task(self, key: Array, level: Array) -> Array:
        return level

    def reset(self, key: Array, task: Array) -> tuple[PyTree, Array]:
        return (), jnp.ones(3)

    def step(self, key: Array, task: Array, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        prize_key, end_key = jax.random.split(key)
        last = jax.random.uniform(end_key) < 0.3
        reward = task * (action - 0.5 + 0.3 * jax.random.normal(prize_key))
        return (), TimeStep(observation=jnp.ones(3), reward=reward, discount=1.0 - last, last=last)


@dataclasses.dataclass(frozen=True)
class Lottery:
    """Lots of four prices."""

    def tasks(self) -> Sequence[str]:
        return TASKS

    def environment(self, task: str) -> LotteryEnvironment:
        return LotteryEnvironment()

    def level(self, task: str) -> PyTree:
        return jnp.asarray(1.0 + TASKS.index(task))


class MarkedState(struct.PyTreeNode):
    """What an objective keeps, and a number that its losses are multiplied with."""

    inner: PyTree
    mark: Array


@dataclasses.dataclass(frozen=True)
class Marked:
    """An objective whose loss a test can spoil for one agent, by the mark in what is kept for it."""

    inner: MetaObjective

    def init(self, key: Array, spec: EnvironmentSpec) -> PyTree:
        return MarkedState(self.inner.init(key, spec), jnp.ones(()))

    def observe(self, state: PyTree, trajectory: Trajectory, logits: Array) -> tuple[PyTree, dict[str, Array]]:
        inner, numbers = self.inner.observe(state.inner, trajectory, logits)
        return state.replace(inner=inner), numbers

    def __call__(self, state: PyTree, trajectory: Trajectory, logits: Array) -> tuple[Array, dict[str, Array]]:
        loss, numbers = self.inner(state.inner, trajectory, logits)
        return loss * state.mark, numbers

    def formula(self) -> str:
        return self.inner.formula()


@dataclasses.dataclass(frozen=True)
class Still:
    """An optimizer that moves nothing."""

    learning_rate: float = 1.0

    def init(self, params: PyTree) -> PyTree:
        return ()

    def update(self, gradient: PyTree, state: PyTree, params: PyTree, learning_rate: float | Array) -> tuple:
        return jax.tree.map(jnp.zeros_like, gradient), state


META_ADAM = optimizers.Adam(0.02)
OBJECTIVE = meta_objectives.ActorCritic(value_network=torsos.MLP((4,)))
DISCOVERY = Discovery(
    objective=Marked(OBJECTIVE),
    optimizer=META_ADAM,
    regularizers=(
        regularizers.Entropy(cost=0.05),
        regularizers.Entropy("y", cost=0.1, on="updates"),
        regularizers.TargetMagnitude(cost=0.05),
    ),
    inner_updates=2,
    stride=1,
    max_gradient_norm=1e-3,
)


def experiment(discovery: Discovery | None = DISCOVERY, *, mortal: bool = True) -> Experiment:
    """Three agents, with memory; mortal ones learn with hyperparameters that a bandit chose."""
    rule = rule_of("lpg", "PREDICTION_CATEGORIES = 4", "TRAJECTORY_LSTM_SIZE = 5")
    group = Group(
        agent=Agent(torsos.MLP((5,)), optimizers.SGD(Hyperparameter("learning_rate", 0.5))),
        suite=Lottery(),
        replay=replays.Uniform(capacity=8, batch_size=6, fresh=2),
        num_environments=2,
        trajectory_length=3,
        agents=3,
        lifetime=lifetimes.Fixed(LIFETIME) if mortal else None,
        bandit=bandits.Softmax((bandits.Choice("alpha_y", ARMS),)) if mortal else None,
    )
    return Experiment(rule, (group,), weight_components.Initial(), steps=10, discovery=discovery)


@functools.cache
def trainer_of(discovery: Discovery | None = DISCOVERY, *, mortal: bool = True) -> Trainer:
    return Trainer(experiment(discovery, mortal=mortal))


def first_state(trainer: Trainer) -> TrainState:
    """The state before the first step."""
    root = keys.root_key(trainer.experiment.seed)
    draw = jax.jit(trainer.initial_meta_params, compiler_options=COMPILE_FAST)
    meta_params = draw(keys.role_key(root, Role.META_PARAMS))
    return jax.jit(trainer.init_with, compiler_options=COMPILE_FAST)(meta_params, root)


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
def step(trainer: Trainer, state: TrainState) -> tuple[GroupStep, TrainState]:
    """A step of the first group, the only one: what it did, and the state after it."""
    part = trainer.group_step(state, 0)
    return part, trainer.finish(state, [part])
