"""Meta-steps: what is differentiated, what moves the rule, what an agent's end changes, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import lottery
import numpy as np
import pytest
from lottery import DISCOVERY, META_ADAM, TASKS, Still, first_state, trainer_of
from plain_updates import COMPILE_FAST, plain_update
from running import result_of, run

from components import optimizers
from framework import keys
from framework.config import ConfigError, load
from framework.errors import UserError
from framework.experiment import Experiment
from framework.keys import Role
from framework.meta_step import MetaStep
from framework.regularization import regularization, taken
from framework.runs.loop import _refuse_divergence
from framework.train import Trainer, measured
from framework.types import AgentState, Array, GroupStep, Params, PyTree, RegularizerInputs, TrainState

STEPS = 16


@dataclasses.dataclass(frozen=True)
class Seen:
    """A meta-step: the state before it, what the group did, the state after it."""

    before: TrainState
    part: GroupStep
    after: TrainState


def make_step(trainer: Trainer, state: TrainState) -> Seen:
    return Seen(state, *lottery.step(trainer, state))


@pytest.fixture(scope="module")
def life() -> list[Seen]:
    """Sixteen meta-steps of three agents that live for eight at most."""
    seen, state = [], first_state(trainer_of())
    for _ in range(STEPS):
        seen.append(make_step(trainer_of(), state))
        state = seen[-1].after
    return seen


@pytest.fixture(scope="module")
def calm(life: list[Seen]) -> Seen:
    """A meta-step in which nobody's life ends."""
    return next(seen for seen in life[2:] if equal(seen.before.groups[0].counts, seen.after.groups[0].counts))


def row(tree: PyTree, index: int) -> PyTree:
    """One agent's leaves."""
    return jax.tree.map(lambda x: x[index], tree)


def equal(one: PyTree, other: PyTree) -> bool:
    pairs = zip(*map(jax.tree.leaves, (one, other)), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def finite(tree: PyTree) -> bool:
    leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
    return all(np.isfinite(x).all() for x in leaves if np.issubdtype(x.dtype, np.floating))


def norm(tree: PyTree) -> float:
    return math.sqrt(sum(float(jnp.square(x).sum()) for x in jax.tree.leaves(tree)))


def difference(one: PyTree, other: PyTree) -> PyTree:
    return jax.tree.map(jnp.subtract, one, other)


# --- the meta-gradient


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
def fused(trainer: Trainer, meta_params: Params, agent: AgentState, root: Array, counter: Array) -> Any:
    """Collecting and differentiating in one: jax differentiates straight through acting and learning.

    Returns:
      The meta-loss, the learner after the window's kept updates, the one after all, the new batch; the meta-gradient.
    """
    (lifecycle,), discovery = trainer.lifecycles, trainer.experiment.discovery
    loop, replay = MetaStep(lifecycle).inner_loop, lifecycle.group.replay

    def loss(meta_params: Params) -> tuple[Array, Any]:
        state, kept, total = agent.window.start, agent.window.trajectories, 0.0
        for index in range(discovery.kept_updates):
            state, term = plain_update(loop, meta_params, state, row(kept, index), jax.random.key(0))
            total += term
        first, actor, memory, objective = state, agent.actor, agent.replay, agent.objective
        for index in range(discovery.new_updates):
            here = agent.replace(learner=state)
            actor, fresh = jax.lax.stop_gradient(
                lifecycle.act(here, actor, keys.step_key(root, counter + index, Role.ACT))
            )
            memory = replay.insert(memory, fresh)
            batch = replay.sample(memory, keys.step_key(root, counter + index, Role.REPLAY), fresh)
            outputs = loop.learner.rule_inputs(state, batch).outputs
            objective, _ = jax.lax.stop_gradient(discovery.objective.observe(objective, batch, outputs["logits"]))
            state, term = plain_update(loop, meta_params, state, batch, jax.random.key(0))
            total += term
        here = agent.replace(learner=state)
        key = keys.step_key(root, counter, Role.VALIDATION)
        _, validation = jax.lax.stop_gradient(lifecycle.act(here, actor, key))
        outputs = lifecycle.network.unroll(state.params, validation.observation, validation.last, validation.carry)
        judged, _ = discovery.objective(objective, validation, outputs["logits"])
        inputs = RegularizerInputs(
            outputs=taken(lifecycle.rule, outputs, validation.action),
            target_outputs=None,
            targets={},
            action=validation.action,
            weight=validation.weight,
        )
        of_validation = [each for each in discovery.regularizers if each.on == "validation"]
        mean = (judged * validation.weight).sum() / validation.weight.sum()
        value = mean + regularization(of_validation, inputs) + total / discovery.inner_updates
        return value, (first, state, batch)

    return jax.value_and_grad(loss, has_aux=True)(meta_params)


@pytest.mark.parametrize("which", [0, -1])
def test_collect_then_replay_is_one_derivative(life: list[Seen], which: int) -> None:
    seen, trainer = life[2], trainer_of()
    agents = seen.before.groups[0].agents
    place = int(np.flatnonzero(np.asarray(agents.window.valid).all(axis=1))[which])
    agent = row(agents, place)
    root = trainer.populations[0].roots(seen.before.root_key)[place]
    (_, (first, end, batch)), gradient = fused(
        trainer, seen.before.meta_params, agent, root, trainer.counter(seen.before)
    )
    after = row(seen.part.agents, place)
    assert norm(difference(after.learner.params, end.params)) < 1e-6 * norm(end.params)
    # What the next meta-gradient begins with: this pass after S updates, and what was learned from since.
    assert norm(difference(after.window.start.params, first.params)) < 1e-6 * norm(first.params)
    assert int(after.window.start.updates) == int(first.updates)
    for kept, made in zip(jax.tree.leaves(after.window.trajectories), jax.tree.leaves(batch), strict=True):
        np.testing.assert_allclose(kept[-1], made, rtol=1e-5, atol=1e-6)
    # The gradient is limited in norm before anything else is done with it.
    assert norm(gradient) > DISCOVERY.max_gradient_norm
    limited = jax.tree.map(lambda g: g * DISCOVERY.max_gradient_norm / norm(gradient), gradient)
    assert norm(difference(row(seen.part.gradient, place), limited)) < 1e-4 * DISCOVERY.max_gradient_norm


def test_what_is_differentiated_is_what_was_collected(life: list[Seen]) -> None:
    for seen in life:
        numbers = measured(seen.after)
        assert 0.0 <= numbers["meta/replay_error"] < 1e-5
        assert math.isfinite(numbers["meta/loss"])
        parts = [numbers[f"meta/{name}"] for name in ("objective", "regularization_on_validation")]
        assert numbers["meta/loss"] == pytest.approx(sum(parts) + numbers["meta/regularization_on_updates"], rel=1e-4)


def test_updates_that_are_not_those_that_were_made_are_found_out(life: list[Seen]) -> None:
    """The check is not blind: updates made with another rule end elsewhere."""
    seen, trainer = life[2], trainer_of()
    (lifecycle,) = trainer.lifecycles
    agent = row(seen.before.groups[0].agents, 0)
    other = jax.tree.map(lambda x: x + 0.1, seen.before.meta_params)

    @functools.partial(jax.jit, compiler_options=COMPILE_FAST)
    def error(meta_params: Params) -> Array:
        root, counter = trainer.populations[0].roots(seen.before.root_key)[0], trainer.counter(seen.before)
        after, collected, means = MetaStep(lifecycle).collect(seen.before.meta_params, agent, root, counter)
        means = MetaStep(lifecycle).differentiate(meta_params, after, collected, means)[3]
        return means["meta/replay_error"].total

    assert error(seen.before.meta_params) < 1e-5
    assert error(other) > DISCOVERY.max_replay_error


def test_a_run_whose_updates_are_not_those_that_were_made_stops() -> None:
    numbers = {"agents/lost_share": 0.0, "meta/replay_error": 0.9 * DISCOVERY.max_replay_error}
    _refuse_divergence(numbers, 7, trainer_of())
    with pytest.raises(UserError, match="the updates that were differentiated are not those that were made: at step 7"):
        _refuse_divergence(numbers | {"meta/replay_error": 1.1 * DISCOVERY.max_replay_error}, 7, trainer_of())


# --- the sliding window


@functools.cache
def strided(stride: int) -> tuple[list[TrainState], Trainer]:
    """States after each meta-step of a run of eight updates whose rule stands still."""
    discovery = dataclasses.replace(DISCOVERY, inner_updates=4, stride=stride, optimizer=Still())
    trainer = trainer_of(discovery, mortal=False)
    states = [first_state(trainer)]
    for _ in range(8 // stride):
        states.append(lottery.step(trainer, states[-1])[1])
    return states, trainer


@pytest.mark.parametrize("stride", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_stride_does_not_change_what_agents_learn(stride: int) -> None:
    """While the rule stands still: the same updates from the same keys, differentiated in other pieces."""
    one_by_one, states = strided(1)[0], strided(stride)[0]
    for index, state in enumerate(states):
        learner, expected = (s.groups[0].agents.learner for s in (state, one_by_one[index * stride]))
        assert np.asarray(learner.updates).tolist() == [index * stride] * 3
        assert norm(difference(learner.params, expected.params)) <= 1e-6 * norm(expected.params)
    moved = difference(states[-1].groups[0].agents.learner.params, states[0].groups[0].agents.learner.params)
    assert norm(moved) > 1e-2
    assert equal(states[-1].meta_params, states[0].meta_params)
    assert all(measured(state)["meta/replay_error"] < 1e-5 for state in states[1:])


@pytest.mark.parametrize("stride", [1, 2])
def test_what_the_window_holds(stride: int) -> None:
    """The last N - S batches, and the learner from before them; nothing from before birth."""
    one_by_one, (states, trainer) = strided(1)[0], strided(stride)
    kept = trainer.experiment.discovery.kept_updates
    assert kept == 4 - stride
    for index, state in enumerate(states):
        window, made = state.groups[0].agents.window, index * stride
        held = min(kept, made)
        assert np.asarray(window.valid).tolist() == [[False] * (kept - held) + [True] * held] * 3
        assert np.asarray(window.start.updates).tolist() == [made - held] * 3
        before = one_by_one[made - held].groups[0].agents.learner
        assert norm(difference(window.start.params, before.params)) <= 1e-6 * norm(before.params)


def test_a_window_that_moves_by_its_length_holds_nothing() -> None:
    (*_, state), _ = strided(4)
    assert state.groups[0].agents.window == ()


# --- what is told of a meta-step


def test_regularizers_are_told_each_by_itself() -> None:
    """Where all updates of a window are new, their costs times what is told of each add up to what is told of all."""
    numbers = measured(strided(4)[0][1])
    for what in ("updates", "validation"):
        terms = DISCOVERY.regularizers_on(what)
        told = [numbers[f"regularizers_on_{what}/{term.formula()}"] for term in terms]
        assert len(set(told)) == len(terms)
        total = sum(term.cost * mean for term, mean in zip(terms, told, strict=True))
        assert numbers[f"meta/regularization_on_{what}"] == pytest.approx(total, rel=1e-4)


def test_the_entropy_told_is_that_of_the_policy_before_the_update(life: list[Seen]) -> None:
    seen, trainer = life[2], trainer_of()
    (lifecycle,), agent = trainer.lifecycles, row(seen.before.groups[0].agents, 0)
    sharp = jax.tree.map(lambda x: 10.0 * x, agent.learner.params)
    agent = agent.replace(learner=agent.learner.replace(params=sharp))
    root, counter = trainer.populations[0].roots(seen.before.root_key)[0], trainer.counter(seen.before)
    advance = jax.jit(lifecycle.advance, compiler_options=COMPILE_FAST)
    _, (batch, means) = advance(seen.before.meta_params, agent, root, counter)
    logits = np.asarray(lifecycle.learner.rule_inputs(agent.learner, batch).outputs["logits"])[:-1]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    weight = np.asarray(batch.weight)
    expected = (weight * -(p * np.log(p)).sum(-1)).sum() / weight.sum()
    told = means["policy/entropy"]
    assert float(told.total / told.weight) == pytest.approx(expected, rel=1e-4)
    assert expected < 0.9 * np.log(p.shape[-1])


# --- what moves the rule


def adam(gradient: PyTree, state: optimizers.AdamState) -> PyTree:
    """Adam's change in closed form, from the state before it."""
    b1, b2, count = META_ADAM.b1, META_ADAM.b2, int(state.count) + 1

    def change(g: np.ndarray, m: np.ndarray, v: np.ndarray) -> np.ndarray:
        g, m, v = (np.asarray(x, np.float64) for x in (g, m, v))
        first, second = (b1 * m + (1 - b1) * g) / (1 - b1**count), (b2 * v + (1 - b2) * g**2) / (1 - b2**count)
        return -META_ADAM.learning_rate * first / (np.sqrt(second) + META_ADAM.eps)

    return jax.tree.map(change, gradient, state.first, state.second)


def mean(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *x: np.mean(np.stack(x), axis=0), *trees)


def assert_change(before: Params, after: Params, expected: PyTree) -> None:
    change = difference(after, before)
    assert norm(difference(change, expected)) < 1e-4 * norm(expected)


@pytest.mark.parametrize("index", [0, 5])
def test_separate_optimizers_move_the_rule_by_their_mean(life: list[Seen], index: int) -> None:
    seen = life[index]
    assert np.asarray(seen.part.sound).all()
    own = seen.before.groups[0].agents.meta_optimizer
    assert np.asarray(own.count).tolist() == [index] * 3
    changes = [adam(row(seen.part.gradient, place), row(own, place)) for place in range(3)]
    assert_change(seen.before.meta_params, seen.after.meta_params, mean(changes))
    # Adam sees gradients that are limited already: the other order would leave the change as it was.
    for place in range(3):
        assert norm(row(seen.part.gradient, place)) == pytest.approx(DISCOVERY.max_gradient_norm, rel=1e-4)
    assert measured(seen.after)["meta/gradient_norm"] > 2 * DISCOVERY.max_gradient_norm


def test_a_shared_optimizer_moves_the_rule_by_the_mean_gradient(life: list[Seen]) -> None:
    trainer = trainer_of(dataclasses.replace(DISCOVERY, separate_optimizers=False))
    seen, finish = life[0], jax.jit(trainer.finish, compiler_options=COMPILE_FAST)
    part = seen.part.replace(agents=seen.part.agents.replace(meta_optimizer=()))
    state = first_state(trainer)
    assert state.groups[0].agents.meta_optimizer == ()
    gradient = mean([row(seen.part.gradient, place) for place in range(3)])
    for _ in range(2):
        after = finish(state, [part])
        assert_change(state.meta_params, after.meta_params, adam(gradient, state.meta_optimizer))
        assert int(after.meta_optimizer.count) == int(state.meta_optimizer.count) + 1
        state = state.replace(meta_params=after.meta_params, meta_optimizer=after.meta_optimizer)
    # Without any contributor nothing moves, the optimizer neither.
    none = part.replace(sound=jnp.zeros(3, bool), gradient=jax.tree.map(jnp.zeros_like, part.gradient))
    still = finish(state, [none])
    assert equal((still.meta_params, still.meta_optimizer), (state.meta_params, state.meta_optimizer))


# --- guards

SICK = 1


def with_agents(state: TrainState, agents: AgentState) -> TrainState:
    return state.replace(groups=(state.groups[0].replace(agents=agents),))


def rewards_that_are_nan(state: TrainState) -> TrainState:
    agents = state.groups[0].agents
    return with_agents(state, agents.replace(life=agents.life.replace(task=agents.life.task.at[SICK].set(jnp.nan))))


def params_times(factor: float, state: TrainState) -> TrainState:
    agents = state.groups[0].agents
    # A meta-step begins at the start of the window.
    params = jax.tree.map(lambda x: x.at[SICK].multiply(factor), agents.window.start.params)
    window = agents.window.replace(start=agents.window.start.replace(params=params))
    return with_agents(state, agents.replace(window=window))


def meta_gradient_that_is(number: float, state: TrainState) -> TrainState:
    agents = state.groups[0].agents
    return with_agents(
        state, agents.replace(objective=agents.objective.replace(mark=agents.objective.mark.at[SICK].set(number)))
    )


SICKNESSES: dict[str, Callable[[TrainState], TrainState]] = {
    "nan_rewards": rewards_that_are_nan,
    "nan_params": functools.partial(params_times, math.nan),
    "exploded_params": functools.partial(params_times, 1e8),
    "nan_meta_gradient": functools.partial(meta_gradient_that_is, math.nan),
    "infinite_meta_gradient": functools.partial(meta_gradient_that_is, math.inf),
}


@pytest.mark.parametrize("sickness", SICKNESSES.values(), ids=SICKNESSES)
def test_a_lost_agent_is_left_out_and_born_anew(calm: Seen, sickness: Callable[[TrainState], TrainState]) -> None:
    healthy, trainer = calm, trainer_of()
    sick = make_step(trainer, sickness(healthy.before))
    others = [0, 2]
    assert np.asarray(healthy.part.sound).all()
    assert np.asarray(sick.part.sound).tolist() == [True, False, True]
    # The others' contributions are the same numbers, and the rule moves by their mean.
    for place in others:
        assert equal(row(sick.part.gradient, place), row(healthy.part.gradient, place))
        assert equal(row(sick.after.groups[0].agents, place), row(healthy.after.groups[0].agents, place))
    assert norm(row(sick.part.gradient, SICK)) == 0.0
    own = healthy.before.groups[0].agents.meta_optimizer
    changes = [adam(row(healthy.part.gradient, place), row(own, place)) for place in others]
    assert_change(sick.before.meta_params, sick.after.meta_params, mean(changes))
    assert finite(sick.after.meta_params)
    # Its optimizer does not notice; it is counted; in its place another is born, to the next task.
    newborn = row(sick.after.groups[0].agents, SICK)
    assert equal(newborn.meta_optimizer, row(own, SICK))
    numbers, before = measured(sick.after), measured(sick.before)
    assert numbers["agents/lost"] == before["agents/lost"] + 1
    assert numbers["agents/lives_completed"] == before["agents/lives_completed"]
    assert [name for name, value in numbers.items() if not math.isfinite(value)] == [
        name for name, value in measured(healthy.after).items() if not math.isfinite(value)
    ]
    births = int(row(healthy.before.groups[0].agents, SICK).life.births) + 1
    assert (int(newborn.life.births), int(newborn.life.task_index)) == (births, (SICK + 3 * births) % len(TASKS))
    assert float(newborn.life.task) == 1.0 + int(newborn.life.task_index)
    assert int(newborn.learner.updates) == 0
    assert finite(newborn.replace(life=newborn.life.replace(return_sum=0.0)))
    # And goes on as if nothing had happened.
    following = make_step(trainer, sick.after)
    assert np.asarray(following.part.sound).all()
    assert finite((following.after.meta_params, following.after.groups[0].agents.learner))
    assert norm(row(following.part.gradient, SICK)) > 0.0
    assert (
        int(row(following.after.groups[0].agents, SICK).meta_optimizer.count) == int(newborn.meta_optimizer.count) + 1
    )


def test_a_rule_without_any_sound_agent_stays_as_it_is(calm: Seen) -> None:
    before, agents = calm.before, calm.before.groups[0].agents
    objective = agents.objective.replace(mark=jnp.full(3, jnp.nan))
    sick = make_step(trainer_of(), with_agents(before, agents.replace(objective=objective)))
    assert not np.asarray(sick.part.sound).any()
    assert equal(sick.after.meta_params, before.meta_params)
    assert equal(sick.after.groups[0].agents.meta_optimizer, agents.meta_optimizer)
    assert measured(sick.after)["agents/lost"] == measured(before)["agents/lost"] + 3
    assert finite(sick.after.groups[0].agents.learner)


# --- lifetimes and bandits


def test_first_lives_are_staggered(life: list[Seen]) -> None:
    first = life[0].before.groups[0].agents.life
    budgets = np.asarray(first.budget)
    assert len(set(budgets.tolist())) == 3
    assert np.all((budgets > 0) & (budgets < lottery.LIFETIME))
    assert np.asarray(first.task_index).tolist() == [0, 1, 2]
    assert np.asarray(first.births).tolist() == [0, 0, 0]


def test_a_life_that_is_over_makes_place_for_another(life: list[Seen]) -> None:
    (lifecycle,) = trainer_of().lifecycles
    group, completed = lifecycle.group, 0
    acted = group.num_environments * group.trajectory_length
    for seen in life:
        (before,), (after,) = seen.before.groups, seen.after.groups
        for place in range(3):
            old, dying, new = (row(agents, place) for agents in (before.agents, seen.part.agents, after.agents))
            # An update's unroll and the validation count as experience.
            assert int(dying.life.age) == int(old.life.age) + 2 * acted
            # The optimizer of its meta-gradients outlives it.
            assert int(new.meta_optimizer.count) == int(old.meta_optimizer.count) + 1
            if int(dying.life.age) < int(dying.life.budget):
                assert equal(new.replace(meta_optimizer=()), dying.replace(meta_optimizer=()))
                continue
            completed += 1
            assert int(new.life.births) == int(old.life.births) + 1
            assert int(new.life.task_index) == (place + int(new.life.births) * 3) % len(TASKS)
            assert float(new.life.task) == 1.0 + int(new.life.task_index)
            assert float(new.life.budget) == lottery.LIFETIME
            assert float(new.life.return_weight) == 0.0
            # It has acted until a batch was held, and learned nothing.
            assert int(new.life.age) == lifecycle.warm_up_unrolls * acted
            assert int(new.replay.inserted) == lifecycle.warm_up_unrolls * group.num_environments
            assert not np.asarray(new.replay.trajectories.observation[int(new.replay.inserted) :]).any()
            assert int(new.learner.updates) == 0
            assert not np.asarray(new.window.valid).any()
            assert equal(new.window.start, new.learner)
            assert norm(difference(new.learner.params, dying.learner.params)) > 0.1
            assert float(new.learner.hyperparameters["alpha_y"]) == pytest.approx(lottery.ARMS[int(new.life.arm)])
            # Of what is left of a lifetime each update is an equal share, validation included.
            left = lottery.LIFETIME - lifecycle.warm_up_unrolls * acted
            assert float(new.learner.progress_per_update) == pytest.approx(2 * acted / left)
        assert measured(seen.after)["agents/lives_completed"] == completed
        assert measured(seen.after)["agents/lost"] == 0
    assert completed >= 5


def test_the_bandit_is_told_of_lives_in_the_order_of_agents(life: list[Seen]) -> None:
    bandit = trainer_of().lifecycles[0].group.bandit
    known, lives = life[0].before.groups[0].bandit, 0
    for seen in life:
        for place in range(3):
            end = row(seen.part.agents.life, place)
            if int(end.age) >= int(end.budget):
                known = bandit.record(known, end.task_index, end.arm, end.score)
                lives += 1
        assert equal(seen.after.groups[0].bandit, known)
    assert int(known.lifetimes.sum()) == lives >= 5
    assert int(known.scored.sum()) > 0


@pytest.mark.parametrize("sickness", ["nan_rewards", "exploded_params"])
def test_a_life_that_was_lost_counts_for_the_bandit(calm: Seen, sickness: str) -> None:
    """As tried, without a score: an arm that agents diverge with looks neither untried for ever nor good."""
    sick = make_step(trainer_of(), SICKNESSES[sickness](calm.before))
    end = row(sick.part.agents.life, SICK)
    before, after = (state.groups[0].bandit for state in (sick.before, sick.after))
    tried = difference(after.lifetimes, before.lifetimes)
    assert int(tried.sum()) == int(tried[end.task_index, end.arm]) == 1
    assert equal((after.scores, after.scored), (before.scores, before.scored))


def test_returns_are_told_by_task_and_age(life: list[Seen]) -> None:
    numbers = measured(life[-1].after)
    completed = {task: numbers[f"completed/{task}"] for task in TASKS}
    assert sum(completed.values()) == numbers["episode/completed"] > 0
    assert all(completed.values())
    total = sum(numbers[f"return/{task}"] * completed[task] for task in TASKS)
    assert total == pytest.approx(numbers["episode/return"] * numbers["episode/completed"], rel=1e-4)
    quarters = [numbers[f"return_by_age/{name}_quarter"] for name in ("first", "second", "third", "fourth")]
    assert all(map(math.isfinite, quarters))


# --- a run whose agents are lost

FEVER = (
    "lpg_small",
    "--gin_file=scale/tiny.gin",
    "--gin.STEPS=6",
    "--gin.AGENTS=2",
    "--gin.Logging.checkpoint_interval=1",
    "--gin.Evaluation.episodes=0",
)


def test_a_run_that_loses_too_many_agents_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Agents whose parameters grow beyond a limit."""
    sick = (*FEVER, "--gin.LEARNING_RATE=400.0", "--gin.Discovery.max_parameter=1.0")
    folder = tmp_path / "run"
    assert run(*sick, folder=folder) == 1
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    result = result_of(folder)
    assert (result["status"], result["error"] in errors) == ("failed", True)
    reached = result["steps"] + 1
    assert f"the discovery has come apart: up to step {reached}, 100% of the agents' meta-steps gave numbers" in errors
    saved = sorted(int(path.name) for path in folder.glob("checkpoints/*"))
    assert saved[-1:] == ([reached - 1] if reached > 1 else [])  # The last good one, if there was one before.
    # More is allowed where one says so.
    assert run(*sick, "--gin.Discovery.max_faulty_share=1.0", folder=tmp_path / "other") == 0
    assert result_of(tmp_path / "other")["status"] == "finished"


# --- what is refused before anything runs


def refusal(name: str, *bindings: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(name, gin_files=["scale/tiny.gin"], bindings=bindings, root=Experiment)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "bindings", "sentence"),
    [
        (
            "ppo_catch",
            [
                "Experiment.discovery = @Discovery()",
                "Discovery.objective = @ActorCritic()",
                "Discovery.optimizer = @optimizers.SGD()",
                "SGD.learning_rate = 0.1",
            ],
            "the update rule is static: it has no meta-parameters to discover; leave 'discovery' out",
        ),
        (
            "lpg_small",
            ["Group.bandit = @Softmax()", "Softmax.hyperparameters = [@Choice()]", "Choice.name = 'alpha_x'",
             "Choice.values = [0.1, 0.5]"],
            "no part of the agent or the rule reads the hyperparameter 'alpha_x' (there are: alpha_y, learning_rate)",
        ),
        (
            "lpg_gridworlds",
            ["Group.lifetime = None"],
            "the bandit learns from lifetimes that end, and these do not: bind 'lifetime'",
        ),
        (
            "evaluate_lpg_small",
            ["PREDICTION_FEATURES = [@features.Progress()]"],
            "Progress reads how much of a life is over, and these lives do not end: bind 'lifetime'",
        ),
        (
            "lpg_small",
            ["pi_hat/TargetMagnitude.target = 'pi_hut'"],
            "there is no target 'pi_hut'. Did you mean 'pi_hat'?",
        ),
        ("lpg_small", ["y/regularizers.Entropy.head = 'z'"], "there is no head 'z'. There are: logits, y."),
        (
            "disco_catch",
            ["UpdateRule.target_decay = None"],
            "reads the target network, and the rule has none: bind UpdateRule.target_decay",
        ),
        (
            "lpg_small",
            ["Discovery.regularizers = [@TargetNetworkKL()]"],
            "TargetNetworkKL reads the target network, and the rule has none: bind UpdateRule.target_decay",
        ),
        (
            "disco_catch",
            ["Experiment.groups = [@one/Group(), @other/Group()]"],
            "the task 'catch_3x3' is in two groups: their returns could not be told",
        ),
        (
            "disco_catch",
            ["Experiment.held_out = @HeldOut()", "HeldOut.groups = [@held/Group()]", "HeldOut.updates = 2",
             "HeldOut.interval = 1", "held/Group.suite = @Atari()", "Atari.games = ['pong']"],
            "held-out agents learn on the device, and this suite's environments are outside it",
        ),
        (
            "disco_no_meta_rnn_catch",
            ["Experiment.held_out = @HeldOut()", "HeldOut.groups = [@held/Group()]", "HeldOut.updates = 2",
             "HeldOut.interval = 1"],
            "held-out tasks measure a rule that is discovered: bind 'discovery', or leave them out",
        ),
        ("disco_catch", ["STRIDE = 3"], "stride must lie in [1, inner_updates=2], got 3"),
        ("disco_catch", ["Group.chunk = 3", "AGENTS = 4"], "chunk must divide the 4 agents, got 3"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(name: str, bindings: list[str], sentence: str) -> None:
    assert sentence in refusal(name, *bindings)
