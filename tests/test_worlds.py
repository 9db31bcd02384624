"""Agents whose environments are outside the device: what they live through, remember, learn, and are not told."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import ROOT, intervals, points_of, result_of, run
from test_host import Counter, CounterStream, Faulty, Measured
from test_host_batch import Forgetful

from components.streams.atari import AtariGame
from components.streams.gymnasium import GymnasiumEnvironment
from framework.checkpoint import state_sha256
from framework.config import load
from framework.environment import Batched
from framework.evaluate import agent_returns, episode_returns, host_episode_returns
from framework.experiment import Experiment
from framework.host_environments.pool import HostPool
from framework.host_environments.worlds import HostGroup, Worlds, _finishing, _stepping
from framework.interfaces import HostEnvironment
from framework.keys import Role
from framework.registry import component
from framework.train import Trainer, measured, summaries, with_measurements_reset
from framework.types import ActingParams, AgentState, PyTree, TrainState, Trajectory
from framework.update_rule import POLICY

T = TypeVar("T")

MIXED = str(ROOT / "tests" / "small_mixed.gin")
SIZES = ("NUM_ENVIRONMENTS = 2", "TRAJECTORY_LENGTH = 4", "EPOCHS = 1", "MINIBATCHES = 1", "TORSO_SIZES = (4,)")
REPLAY = ("Group.replay = @replays.Uniform()", "Uniform.capacity = 8", "Uniform.batch_size = 6", "Uniform.fresh = 2")


@dataclasses.dataclass(frozen=True)
class Paid(Counter):
    """Counts its steps, and pays 1 for each."""

    def open(self, seed: Sequence[int]) -> PaidStream:
        return PaidStream(self, np.random.default_rng(list(seed)))


class PaidStream(CounterStream):
    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool]:
        observation, _, *ends = super().step(action)
        return observation, 1.0, *ends


@component("suites")
@dataclasses.dataclass(frozen=True)
class Counting:
    """Counts its steps; cut off or terminated after some of them, or at fault."""

    limit: int = 10**6
    terminal: int = 10**6
    fault: str | None = None
    measured: bool = False
    forgetful: bool = False

    def tasks(self) -> Sequence[str]:
        return ("counting",)

    def environment(self, task: str) -> HostEnvironment:
        if self.fault is not None:
            return Faulty(fault=self.fault)
        if self.measured:
            return Measured(terminal=self.terminal, limit=self.limit)
        if self.forgetful:
            return Forgetful(terminal=self.terminal, limit=self.limit)
        return Paid(terminal=self.terminal, limit=self.limit)

    def level(self, task: str) -> PyTree:
        return ()

    def summary(self, numbers: Mapping[str, float]) -> dict[str, float]:
        return {"steps/both": numbers["steps/made"] + numbers["steps/squared"]} if self.measured else {}


def trainer_of(name: str, *bindings: str) -> Trainer:
    return Trainer(load(name, bindings=bindings, root=Experiment).experiment)


def counting(*bindings: str) -> Trainer:
    """PPO on an environment that is cut off after three steps."""
    return trainer_of("ppo_gymnasium", "Group.suite = @Counting()", "Counting.limit = 3", *SIZES, *bindings)


def played(acting: Generator[None, None, T]) -> T:
    """What somebody who acts alone returns."""
    while True:
        try:
            next(acting)
        except StopIteration as end:
            return end.value


def host_group(worlds: Worlds) -> HostGroup:
    (group,) = worlds._groups.values()
    return group


def acted(host: HostGroup, state: TrainState, steps: int, counter: int = 0) -> tuple[AgentState, Trajectory]:
    """The agents of the only group after an unroll, and their trajectories."""
    agents = state.groups[0].agents
    keys = host._programs.unroll_keys(state.root_key, jnp.asarray(counter), np.int32(0), Role.ACT)
    actor, fresh = played(host.unroll(agents, keys, steps=steps))
    return agents.replace(actor=actor), fresh


def equal(one: PyTree, other: PyTree) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


# What is lived through.


@pytest.fixture(scope="module")
def mixed() -> Trainer:
    """CartPole, Pong and Catch under one discovery; lives of three steps."""
    return trainer_of(MIXED)


def lived(trainer: Trainer, steps: int, workers: int) -> tuple[TrainState, str]:
    """The state after some steps, and its sha256 with that of its environments."""
    with Worlds(trainer, workers) as worlds:
        state = trainer.steps(trainer.init(worlds), steps, worlds)
        return state, state_sha256(state, worlds.files())


@pytest.fixture(scope="module")
def uninterrupted(mixed: Trainer) -> str:
    state, sha256 = lived(mixed, 7, workers=0)
    for group in state.groups:
        assert np.all(group.agents.life.births >= 2), "no life has ended: this test is out of date"
    assert int(state.groups[0].extra_steps) != 0
    return sha256


def test_numbers_do_not_depend_on_the_number_of_workers(mixed: Trainer, uninterrupted: str) -> None:
    assert [lived(mixed, 7, workers)[1] for workers in (1, 3)] == [uninterrupted] * 2


@pytest.mark.usefixtures("uninterrupted")
def test_programs_are_compiled_once(mixed: Trainer) -> None:
    """The state that a step returns is one that its programs take."""
    on_device = [population for population in mixed.populations if not population.lifecycle.on_host]
    assert [_stepping(population)._cache_size() for population in on_device] == [1]
    assert _finishing(mixed)._cache_size() == 1


def test_numbers_depend_on_the_seed(mixed: Trainer, uninterrupted: str) -> None:
    other = Trainer(dataclasses.replace(mixed.experiment, seed=1))
    assert lived(other, 7, workers=0)[1] != uninterrupted


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_restored_worlds_continue_as_if_never_left(mixed: Trainer, uninterrupted: str, step: int) -> None:
    """In the middle of episodes, before, with and after the end of lives."""
    with Worlds(mixed, 0) as worlds:
        state = mixed.steps(mixed.init(worlds), step, worlds)
        saved, files = jax.tree.map(np.array, state), worlds.files()
    with Worlds(mixed, 0) as worlds:
        state = jax.tree.map(jnp.asarray, saved)
        state = worlds.restore(files.__getitem__, state)
        assert state_sha256(state, worlds.files()) == state_sha256(saved, files)
        state = mixed.steps(state, 7 - step, worlds)
        assert state_sha256(state, worlds.files()) == uninterrupted


def test_groups_act_at_the_same_time(mixed: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, tuple[int, ...]]] = []

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(pool: HostPool, *arguments: Any) -> Any:
            done.append((name, pool.spec.observation_shape))
            return method(pool, *arguments)

        return noted

    with Worlds(mixed, 0) as worlds:
        state = mixed.init(worlds)
        for name in ("send", "receive"):
            monkeypatch.setattr(HostPool, name, noting(name, getattr(HostPool, name)))
        mixed.steps(state, 1, worlds)
    cart_pole, pong = (4,), (84, 84, 1)
    # CartPole is played on while Pong's emulators are still at work.
    assert done[:4] == [("send", cart_pole), ("send", pong), ("receive", cart_pole), ("send", cart_pole)]


def test_the_agents_unroll_what_they_acted_by(mixed: Trainer) -> None:
    """The logits of acting, step by step, are those of learning: frames, resets and carries agree."""
    with Worlds(mixed, 0) as worlds:
        state = mixed.init(worlds)
        host, population = worlds._groups[1], mixed.populations[1]
        agents = state.groups[1].agents
        for counter in range(3):
            keys = host._programs.unroll_keys(state.root_key, jnp.asarray(counter), np.int32(0), Role.ACT)
            actor, fresh = played(host.unroll(agents, keys, steps=5))
            agents = agents.replace(actor=actor)
            of_agent = jax.tree.map(lambda x: x[0], (agents.learner.params, fresh))
            outputs = population.lifecycle.network.unroll(
                of_agent[0], of_agent[1].observation, of_agent[1].last, of_agent[1].carry
            )
            np.testing.assert_allclose(outputs[POLICY][:-1], of_agent[1].behaviour, rtol=1e-5, atol=1e-6)


def test_trajectories_follow_on_one_another() -> None:
    trainer = counting("Counting.limit = 1000", "Counting.terminal = 5", "Group.agents = 2")
    with Worlds(trainer, 0) as worlds:
        state, host = trainer.init(worlds), host_group(worlds)
        agents, first = acted(host, state, 4)
        state = state.replace(groups=(state.groups[0].replace(agents=agents),))
        agents, then = acted(host, state, 4, counter=1)
    assert first.observation.shape == (2, 5, 2, 2)
    np.testing.assert_array_equal(first.observation[:, -1], then.observation[:, 0])
    counts = np.concatenate([first.observation[:, :-1, :, 0], then.observation[..., 0]], axis=1)
    np.testing.assert_array_equal(counts[1, :, 1], [0, 1, 2, 3, 4, 0, 1, 2, 3])
    np.testing.assert_array_equal(then.discount[0, :, 0], [0, 1, 1, 1])
    np.testing.assert_array_equal(then.last[0, :, 0], [True, False, False, False])
    assert first.action.min() == 0
    assert first.action.max() == 1
    np.testing.assert_array_equal(agents.actor.time_step.observation, then.observation[:, -1])
    np.testing.assert_array_equal(agents.actor.statistics.completed, [2, 2])
    np.testing.assert_array_equal(agents.actor.statistics.length_sum, [10, 10])
    # No two agents, environments, steps or unrolls draw the same.
    draws = np.concatenate([first.observation, then.observation], axis=1)[..., 1]
    assert len(np.unique(draws)) == draws.size - draws[:, 0].size


# Dummies.


def test_dummies_are_counted_out() -> None:
    """Episodes of three steps and a dummy; two environments, five updates of four steps."""
    trainer = counting()
    with Worlds(trainer, 0) as worlds:
        state = trainer.steps(trainer.init(worlds), 5, worlds)
    (group,) = state.groups
    assert -int(group.extra_steps) == 10
    assert trainer.env_steps(5) == 40
    assert trainer.env_steps(5, state) == 30
    np.testing.assert_array_equal(group.agents.life.age, [30])
    numbers = measured(state)
    assert numbers["episode/completed"] == 10
    assert numbers["episode/length"] == numbers["episode/return"] == 3


def test_episodes_that_a_resume_loses_are_not_counted() -> None:
    """Two environments, episodes without end: what was begun before the stop is no episode after it."""
    trainer = trainer_of("ppo_gymnasium", "Group.suite = @Counting()", "Counting.forgetful = True", *SIZES)
    with Worlds(trainer, 0) as worlds:
        state = trainer.steps(trainer.init(worlds), 2, worlds)
        np.testing.assert_array_equal(state.groups[0].agents.actor.statistics.running_length, [[8, 8]])
        files = worlds.files()
    with Worlds(trainer, 0) as worlds:
        state = trainer.steps(worlds.restore(files.__getitem__, state), 1, worlds)
    statistics = state.groups[0].agents.actor.statistics
    np.testing.assert_array_equal(statistics.completed, [0])
    np.testing.assert_array_equal(statistics.running_length, [[3, 3]])  # One of the four steps was the dummy.


def test_what_episodes_are_measured_by_is_logged() -> None:
    """Episodes of three steps, as the mean over them; and what the suite makes of it."""
    trainer = counting("Counting.measured = True")
    with Worlds(trainer, 0) as worlds:
        state = trainer.steps(trainer.init(worlds), 5, worlds)
    numbers = measured(state)
    assert [numbers["steps/made"], numbers["steps/squared"]] == [3.0, 9.0]
    assert summaries(trainer, numbers) == {"steps/both": 12.0}
    assert np.isnan(measured(with_measurements_reset(state))["steps/made"])


def test_dummies_before_the_first_update_are_counted_out_once() -> None:
    trainer = counting(*REPLAY, "Group.agents = 2")
    assert trainer.lifecycles[0].warm_up_unrolls == 2
    with Worlds(trainer, 0) as worlds:
        state = trainer.init(worlds)
        np.testing.assert_array_equal(state.groups[0].agents.life.age, [12, 12])
        assert -int(state.groups[0].extra_steps) == 8
        assert trainer.env_steps(0, state) == 24
        state = trainer.steps(state, 1, worlds)
    np.testing.assert_array_equal(state.groups[0].agents.life.age, [18, 18])
    assert -int(state.groups[0].extra_steps) == 12
    assert trainer.env_steps(1, state) == 36
    assert measured(state)["episode/completed"] == 12


def test_nothing_is_learned_from_dummies() -> None:
    trainer = counting()
    with Worlds(trainer, 0) as worlds:
        state, host = trainer.init(worlds), host_group(worlds)
        agents, fresh = acted(host, state, 4)
    dummies = np.array([False, False, False, True])
    np.testing.assert_array_equal(fresh.weight[0], np.tile(1.0 - dummies, (2, 1)).T)
    np.testing.assert_array_equal(fresh.observation[0, :, 0, 0], [0, 1, 2, 3, 0])
    row = dummies[None, :, None]
    other = fresh.replace(action=np.where(row, 1 - fresh.action, fresh.action), reward=fresh.reward + 100.0 * row)

    def learned(trajectory: Trajectory) -> AgentState:
        counter = jnp.zeros((), jnp.int32)
        return host._programs.learn({}, agents, (), trajectory, state.root_key, counter)[0]

    after = learned(fresh).learner.params
    assert equal(learned(other).learner.params, after)
    assert not equal(after, agents.learner.params)


# Newborn agents.


def test_newborn_agents_warm_up_alone() -> None:
    trainer = counting(*REPLAY, "Group.agents = 2", "Counting.limit = 1000")
    with Worlds(trainer, 0) as worlds:
        state, host = trainer.init(worlds), host_group(worlds)
        before, snapshots = state.groups[0].agents, host.pool.snapshot()
        kept = jax.tree.map(np.array, before)
        after = played(host.warmed_up(before, state.root_key, jnp.asarray(1), np.array([True, False])))
        assert [new == old for new, old in zip(host.pool.snapshot(), snapshots, strict=True)] == [False] * 2 + [
            True
        ] * 2
    of_place = [jax.tree.map(lambda x, p=place: x[p], (after, kept)) for place in (0, 1)]
    assert equal(*of_place[1])
    assert not equal(*of_place[0])
    np.testing.assert_array_equal(after.life.age, [32, 16])
    np.testing.assert_array_equal(after.replay.inserted, [8, 4])


def test_the_next_task_is_opened_with_another_seed() -> None:
    trainer = trainer_of(
        "disco103_atari",
        "GAMES = ('pong', 'breakout', 'qbert')",
        "Group.agents = 2",
        "NUM_ENVIRONMENTS = 1",
        "FRAMES = 2",
        "Group.lifetime = @lifetimes.Fixed()",
        "lifetimes.Fixed.env_steps = 1e6",
    )
    population = trainer.populations[0]
    host = HostGroup(population, np.array([0, 7], np.uint32), workers=0)
    with host.pool:
        games, seeds = [], []
        for births in range(3):
            host._births[:] = births
            games.append([host._environment(place).game for place in range(2)])  # type: ignore[attr-defined]
            seeds += [host._seed(place, environment) for place in range(2) for environment in range(2)]
    assert games == [["pong", "breakout"], ["qbert", "pong"], ["breakout", "qbert"]]
    assert len(set(seeds)) == len(seeds) == 12


# Evaluation.


@pytest.mark.parametrize("workers", [0, 2])
def test_every_stream_is_evaluated_for_one_episode(workers: int) -> None:
    trainer = counting()
    network = trainer.lifecycles[0].network
    params = network.init(jax.random.key(0))
    environments = [Paid(terminal=5), Paid(limit=3), Paid(terminal=2), Paid(limit=4, terminal=4)]
    with HostPool(environments, [(index,) for index in range(4)], workers) as pool:
        returns = host_episode_returns(network, pool, ActingParams(params), jax.random.key(1))
    np.testing.assert_array_equal(returns, [5, 3, 2, 4])


def test_evaluation_does_not_touch_the_training_environments() -> None:
    trainer = trainer_of("ppo_gymnasium", *SIZES)
    with Worlds(trainer, 0) as worlds:
        state = trainer.init(worlds)
        files = worlds.files()
        agent = jax.tree.map(lambda x: x[0], (state.groups[0].agents.life, state.groups[0].agents.learner))
        returns = agent_returns(trainer.lifecycles[0], *agent, jax.random.key(0), episodes=12)
        again = agent_returns(trainer.lifecycles[0], *agent, jax.random.key(0), episodes=12)
        assert worlds.files() == files
    np.testing.assert_array_equal(returns, again)
    assert len(np.unique(returns)) > 3
    assert 8 <= returns.min() <= returns.max() <= 500


def test_agents_that_act_by_values_are_evaluated_without_exploration() -> None:
    """Agents that always explore while they learn."""
    trainer = trainer_of("dqn_cartpole", "EpsilonGreedy.epsilon = 1.0", "TORSO_SIZES = (4,)", "REPLAY_CAPACITY = 64")
    lifecycle, group = trainer.lifecycles[0], trainer.init(None).groups[0]
    life, learner = jax.tree.map(lambda x: x[0], (group.agents.life, group.agents.learner))
    by, key = lifecycle.learner.acting_params(learner), jax.random.key(1)
    worlds = Batched(lifecycle.environments.environment, 20)
    greedy = episode_returns(lifecycle.network.greedy(), worlds, life.task, by, key)
    np.testing.assert_array_equal(agent_returns(lifecycle, life, learner, key, episodes=20), greedy)
    exploring = episode_returns(lifecycle.network, worlds, life.task, by, key)
    assert np.any(exploring != greedy)
    with_another_key = episode_returns(lifecycle.network.greedy(), worlds, life.task, by, jax.random.key(2))
    assert np.any(with_another_key != greedy)  # Other first states.


# What a snapshot is.


@pytest.mark.parametrize(
    "environment",
    [GymnasiumEnvironment("CartPole-v1", 9), GymnasiumEnvironment("Acrobot-v1"), AtariGame("pong")],
    ids=str,
)
def test_a_restored_stream_is_saved_as_one_that_was_never_stopped(environment: HostEnvironment) -> None:
    """What is saved is part of a run's ``state_sha256``."""

    def play(pool: HostPool) -> None:
        for index in range(11):
            pool.step(np.array([index % 2]))

    with HostPool([environment], [(1,)], 0) as pool, HostPool([environment], [(2,)], 0) as other:
        for opened in (pool, other):
            opened.reset()
        play(pool)
        other.restore(pool.snapshot())
        for _ in range(3):
            assert other.snapshot() == pool.snapshot()
            play(pool)
            play(other)


# Through the command.


SMALL_RUN = (*(f"--gin.{binding.replace(' = ', '=')}" for binding in SIZES), "--gin.STEPS=4")


def test_what_environments_do_wrong_is_said_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(fault: str, *bindings: str) -> str:
        suite = ("--gin.Group.suite=@Counting()", f"--gin.Counting.fault={fault}", *bindings)
        assert run("ppo_gymnasium", *suite, *SMALL_RUN, folder=tmp_path / fault) == 1
        errors = capsys.readouterr().err
        result = result_of(tmp_path / fault)
        assert result["status"] == "failed"
        assert result["error"] == errors.strip()
        return errors

    assert "Faulty(" in (error := refused("raises"))
    assert "ZeroDivisionError: the ball has no radius" in error
    assert "was ended by SIGKILL: the environment crashed, or memory ran out" in refused("dies")
    error = refused("hangs", "--gin.Group.environment_timeout=5")
    assert "has not answered for 5 seconds: the environment hangs, or needs longer than Group.environment_t" in error


@pytest.mark.parametrize(
    ("config", "binding", "message"),
    [
        ("disco103_atari", "GAME='pongg'", "there is no Atari game 'pongg'.* Did you mean 'pong'"),
        ("ppo_gymnasium", "ENV='CartPol-v1'", "no environment 'CartPol-v1'.* Did you mean 'CartPole-v"),
        ("ppo_gymnasium", "ENV=''", "Gymnasium: id is empty: name an environment of Gymnasium, such as CartPole-v1"),
        ("ppo_gymnasium", "ENV=", "--gin.ENV=: ENV is given no value: write one behind '='"),
        ("ppo_gymnasium", "Group.environment_timeout=0", "environment_timeout must be positive, got 0 seconds"),
    ],
)
def test_unknown_environments_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, binding: str, message: str
) -> None:
    assert run(config, f"--gin.{binding}", folder=tmp_path / "run") == 1
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert re.search(message, errors), errors
    assert not (tmp_path / "run").exists()


ATARI = ("--gin.CHANNELS=(2, 2)", "--gin.HIDDEN_SIZE=4", "--gin.FRAMES=2")


@pytest.mark.slow
@pytest.mark.usefixtures("disco103_weights")
def test_disco103_trains_an_agent_on_an_atari_game(tmp_path: Path) -> None:
    small = ("--gin.UNITS=1", "--gin.ACTION_MODEL_SIZE=6", "--gin.HEAD_SIZES=(5,)", "--gin.TRAJECTORY_LENGTH=3")
    replay = ("--gin.REPLAY_CAPACITY=8", "--gin.BATCH_SIZE=4", "--gin.NUM_ENVIRONMENTS=2")
    logging = intervals(logging=1, checkpoints=2, evaluation=2, episodes=0)
    assert run("disco103_atari", *ATARI, *small, *replay, *logging, folder=tmp_path / "run", steps=2) == 0
    result = result_of(tmp_path / "run")
    assert (result["status"], result["steps"]) == ("finished", 2)
    assert list(result["returns"]) == ["pong"]
    assert (tmp_path / "run" / "checkpoints" / "2" / "environments_0_0.pickle").is_file()
    assert all(point["update/change_norm"] > 0 for point in points_of(tmp_path / "run"))


@pytest.mark.slow
def test_a_disco_rule_is_discovered_on_three_kinds_of_environments(tmp_path: Path) -> None:
    tiny = ("--gin_file=scale/tiny.gin", *ATARI)
    assert run("disco_mixed", *tiny, folder=tmp_path / "run", steps=2) == 0
    result = result_of(tmp_path / "run")
    assert (result["status"], result["steps"]) == ("finished", 2)
    assert list(result["returns"]) == ["CartPole-v1", "pong", "catch_8x8"]
    for point in points_of(tmp_path / "run"):
        assert point["meta/gradient_norm"] > 0
        assert point["meta/replay_error"] < 1e-3
        assert point["agents/lost"] == 0


def test_ppo_gets_better_on_cart_pole(tmp_path: Path) -> None:
    """A random policy returns 22."""
    logging = intervals(logging=5, checkpoints=100, episodes=24)
    assert run("ppo_gymnasium", *logging, folder=tmp_path / "run", steps=15) == 0
    result = result_of(tmp_path / "run")
    assert result["final_return"] >= 60
    assert 15 * 32 * 128 - 100 <= result["env_steps"] <= 15 * 32 * 128


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_ppo_balances_the_pole(tmp_path: Path, seed: int) -> None:
    assert run("ppo_gymnasium", f"--gin.SEED={seed}", folder=tmp_path / "run") == 0
    result = result_of(tmp_path / "run")
    assert result["env_steps"] <= 500_000
    assert result["final_return"] >= 475
