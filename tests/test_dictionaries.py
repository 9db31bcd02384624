"""Observations that are dictionaries of arrays, from environments to torsos; and what reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_host import Counter, CounterStream

from components import heads, loss_terms, optimizers, torsos
from components.meta_networks import static_targets
from components.meta_objectives import ActorCritic
from components.multi_input_torsos import GLYPHS, MultiInput, NetHackEncoder, around
from components.replays import Uniform
from components.suites.catch import CatchEnvironment, CatchState
from components.value_estimators import GAE
from components.weights import Initial
from framework import testing
from framework.agent import Agent
from framework.errors import UserError
from framework.experiment import Experiment
from framework.group import Group
from framework.host_environments.pool import HostPool
from framework.meta_network import MetaNetwork
from framework.specs import ArraySpec, EnvironmentSpec
from framework.testing.networks import check_torso
from framework.train import Trainer, measured
from framework.types import Array, Observation, PyTree, TimeStep
from framework.update_rule import UpdateRule

PARTS = {"board": ArraySpec((3, 3, 1)), "column": ArraySpec((3,), "uint8")}
SPEC = EnvironmentSpec.of_parts(PARTS, num_actions=3)
READER = MultiInput(("column", "board"), (torsos.MLP((4,)), torsos.RecurrentMLP((5,), memory=3)))


@dataclasses.dataclass(frozen=True)
class SplitCatch(CatchEnvironment):
    """Catch that shows the board, and the paddle's column once more."""

    rows: int = 3
    columns: int = 3

    @property
    def spec(self) -> EnvironmentSpec:
        return SPEC

    def reset(self, key: Array, task: PyTree) -> tuple[CatchState, Observation]:
        state, board = super().reset(key, task)
        return state, self._split(state, board)

    def step(self, key: Array, task: PyTree, state: CatchState, action: Array) -> tuple[CatchState, TimeStep]:
        state, time_step = super().step(key, task, state, action)
        return state, time_step.replace(observation=self._split(state, time_step.observation))

    def _split(self, state: CatchState, board: Array) -> Observation:
        return {"board": board, "column": jax.nn.one_hot(state.paddle, 3, dtype=jnp.uint8)}


@dataclasses.dataclass(frozen=True)
class SplitSuite:
    """A suite of one environment."""

    environment_: SplitCatch = SplitCatch()

    def tasks(self) -> Sequence[str]:
        return ("split",)

    def environment(self, task: str) -> SplitCatch:
        return self.environment_

    def level(self, task: str) -> PyTree:
        return ()


@dataclasses.dataclass(frozen=True)
class SplitCounter(Counter):
    """A counter on the host whose count and random number are two arrays."""

    wrong: bool = False

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec.of_parts({"count": ArraySpec((1,), "int16"), "random": ArraySpec(())}, self.num_actions)

    def open(self, seed: Sequence[int]) -> CounterStream:
        return SplitStream(self, np.random.default_rng(list(seed)))


class SplitStream(CounterStream):
    def observation(self) -> Observation:
        shown = {"count": np.array([self.count], np.int16), "random": np.array(self.generator.random(), np.float32)}
        return {"count": shown["count"]} if self.counter.wrong and self.count else shown


def experiment() -> Experiment:
    """PPO with a replay on Catch in two arrays."""
    rule = UpdateRule(
        heads=(heads.Policy(), heads.Value()),
        meta_network=MetaNetwork((static_targets.Advantages(), static_targets.Returns("v_hat"))),
        loss=(loss_terms.ClippedSurrogate(epsilon=0.2), loss_terms.Value(head="v", target="v_hat", cost=0.5)),
        value_estimator=GAE("v", 0.99, 0.95),
    )
    agent = Agent(READER, optimizers.Adam(1e-2))
    group = Group(agent, SplitSuite(), Uniform(8, 6, fresh=2), num_environments=2, trajectory_length=4, agents=2)
    return Experiment(rule=rule, groups=(group,), weights=Initial(), steps=3)


def test_a_spec_of_arrays() -> None:
    assert SPEC.observation == PARTS
    assert SPEC.shown == "board float32[3, 3, 1], column uint8[3]"
    assert EnvironmentSpec((84, 84, 1), 18, "uint8").shown == "uint8[84, 84, 1]"
    assert EnvironmentSpec((4,), 2).observation == ArraySpec((4,))
    assert hash(SPEC) == hash(EnvironmentSpec.of_parts(dict(PARTS), 3))


def test_on_the_device() -> None:
    """Acting, remembering, learning: a run of an agent that reads two arrays, one with a memory."""
    testing.check_environment(SplitCatch(), ())
    trainer = Trainer(experiment())
    trainer.refuse_what_does_not_fit()
    state = trainer.steps(trainer.init(), 3)
    replay = state.groups[0].agents.replay.trajectories.observation
    assert {name: (x.shape, x.dtype.name) for name, x in replay.items()} == {
        "board": ((2, 8, 5, 3, 3, 1), "float32"),
        "column": ((2, 8, 5, 3), "uint8"),
    }
    assert np.all(replay["column"].sum(-1)[:, :6] == 1)
    numbers = measured(state)
    assert numbers["update/gradient_norm"] > 0
    assert numbers["episode/completed"] > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_on_the_host(workers: int) -> None:
    with HostPool([SplitCounter(limit=2)] * 3, [(1,), (2,), (3,)], workers) as pool:
        first = pool.reset()
        assert {name: (x.shape, x.dtype.name) for name, x in first.observation.items()} == {
            "count": ((3, 1), "int16"),
            "random": ((3,), "float32"),
        }
        counts = np.stack([pool.step(np.ones(3, int)).observation["count"][:, 0] for _ in range(4)])
        np.testing.assert_array_equal(counts, np.array([[1, 2, 0, 1]] * 3).T)
        drawn = pool.step(np.ones(3, int)).observation["random"]
        assert len(set(drawn.tolist())) == 3
        np.testing.assert_array_equal(first.observation["count"], 0)  # A copy: it does not move with the pool.
        replaced = pool.replace(1, SplitCounter(limit=9), (4,))
        assert replaced["count"].tolist() == [0]


def test_an_array_that_is_missing_is_told() -> None:
    with HostPool([SplitCounter(wrong=True)], [(1,)], 0) as pool:
        pool.reset()
        with pytest.raises(
            UserError, match=r"shows observations count int16\[1\], its spec says count int16\[1\], ran"
        ):
            pool.step(np.ones(1, int))


def test_torsos_read_what_is_shown() -> None:
    check_torso(READER)
    assert Agent(READER, optimizers.SGD(0.1)).problems_with(SPEC) == []
    (problem,) = Agent(torsos.MLP(), optimizers.SGD(0.1)).problems_with(SPEC)
    assert problem.message.startswith("MLP reads one array, the environment shows board float32[3, 3, 1], column")
    reader = MultiInput(("pixels",), (torsos.MLP(),))
    (problem,) = Agent(reader, optimizers.SGD(0.1)).problems_with(SPEC)
    assert problem.message.startswith("MultiInput reads 'pixels', the environment shows board")
    assert problem.message.endswith(" Use another torso.")
    (problem,) = Agent(MultiInput(("bord",), (torsos.MLP(),)), optimizers.SGD(0.1)).problems_with(SPEC)
    assert problem.message.endswith(" Did you mean 'board'?")
    (problem,) = Agent(reader, optimizers.SGD(0.1)).problems_with(EnvironmentSpec((3,), 2))
    assert "the environment shows float32[3]" in problem.message
    with pytest.raises(UserError, match="the value network cannot read the observations: MLP reads one array"):
        ActorCritic(0.9).init(jax.random.key(0), SPEC)
    with pytest.raises(ValueError, match="one for each of the inputs a, b, got 1"):
        MultiInput(("a", "b"), (torsos.MLP(),))
    with pytest.raises(ValueError, match="each once"):
        MultiInput(("a", "a"), (torsos.MLP(), torsos.MLP()))


def test_a_value_network_reads_dictionaries() -> None:
    objective = ActorCritic(0.9, value_network=READER)
    state = objective.init(jax.random.key(0), SPEC)
    assert jax.tree.leaves(state)


def test_what_surrounds_a_place() -> None:
    maps = np.arange(2 * 21 * 79).reshape(2, 1, 21, 79) % GLYPHS
    rows, columns = np.array([[0], [10]]), np.array([[78], [40]])
    corner, middle = np.asarray(around(jnp.asarray(maps), jnp.asarray(rows), jnp.asarray(columns), 5))[:, 0]
    np.testing.assert_array_equal(middle, maps[1, 0, 8:13, 38:43])
    np.testing.assert_array_equal(corner[2:, :3], maps[0, 0, :3, 76:])
    assert (corner[:2] == GLYPHS).all()
    assert (corner[:, 3:] == GLYPHS).all()


@pytest.mark.parametrize("encoder", [NetHackEncoder(4, 3, (2,), 5, memory=None, message=None)])
def test_encoders_without_some_parts_conform(encoder: NetHackEncoder) -> None:
    check_torso(encoder)
    assert encoder.inputs == ("glyphs", "blstats")
    with pytest.raises(ValueError, match="crop must be odd"):
        NetHackEncoder(crop=8)
