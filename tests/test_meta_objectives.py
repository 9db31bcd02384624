"""Meta-objectives against implementations in NumPy, step by step and without JAX."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import meta_objectives, torsos
from components.meta_objectives import ActorCritic, Reinforce
from components.normalizers import Moments
from components.optimizers import SGD, Adam
from framework.interfaces import MetaObjective
from framework.numbers import Hyperparameter
from framework.specs import EnvironmentSpec
from framework.testing import examples
from framework.testing.discovery import check_meta_objective
from framework.testing.examples import Sizes
from framework.types import Array, PyTree, Trajectory

STATES, RATE, GAMMA, LAMBDA, DECAY = 5, 0.1, 0.9, 0.8, 0.7
SIZES = Sizes(steps=6, batch=3, actions=4)
SEEDS = st.integers(0, 2**16)
few = settings(max_examples=10, deadline=None)
a2c = ActorCritic(GAMMA, optimizer=SGD(RATE), lambda_=LAMBDA, decay=DECAY)
reinforce = Reinforce(GAMMA, optimizer=SGD(RATE))


@functools.partial(jax.jit, static_argnums=0)
def observe(objective: MetaObjective, state: PyTree, found: Trajectory, logits: Array) -> tuple[PyTree, Any]:
    return objective.observe(state, found, logits)


@functools.partial(jax.jit, static_argnums=0)
def judge(objective: MetaObjective, state: PyTree, found: Trajectory, logits: Array) -> tuple[Array, Any]:
    return objective(state, found, logits)


def example(seed: int, sizes: Sizes = SIZES) -> tuple[Trajectory, Array]:
    """A trajectory whose observations are indices of states, with episodes that end, and a policy's logits."""
    rng = np.random.default_rng(seed)
    found = examples.random_trajectory(rng, sizes)
    observation = jnp.asarray(rng.integers(STATES, size=(sizes.steps + 1, sizes.batch)), jnp.int32)
    logits = examples.random_normal(rng, sizes.steps + 1, sizes.batch, sizes.actions)
    return found.replace(observation=observation), logits


def spec_of(found: Trajectory, num_states: int = STATES) -> EnvironmentSpec:
    """What an environment with a trajectory's observations says of itself."""
    observation, actions = found.observation, found.behaviour.shape[-1]
    indices = jnp.issubdtype(observation.dtype, jnp.integer)
    return EnvironmentSpec(observation.shape[2:], actions, observation.dtype.name, num_states if indices else None)


def value_table(seed: int) -> np.ndarray:
    return np.random.default_rng(seed + 1).normal(size=STATES)


# --- the same in NumPy, in float64


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def of_actions(x: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.take_along_axis(x, action[..., None], axis=-1)[..., 0]


def h_inverse(x: np.ndarray) -> np.ndarray:
    root = (np.sqrt(1 + 4e-3 * (np.abs(x) + 1 + 1e-3)) - 1) / 2e-3
    return np.sign(x) * (root**2 - 1)


def v_trace_by_hand(
    found: Trajectory, values: np.ndarray, rho: np.ndarray, lambda_: float
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the targets and advantages, as sums over the later steps of the episode (Espeholt et al., eq. 1)."""
    reward, discount, last = (np.asarray(x) for x in (found.reward, found.discount, found.last))
    steps, batch = reward.shape
    rho = np.minimum(rho, 1.0)
    errors, advantages = np.zeros((steps, batch)), np.zeros((steps, batch))
    is_cut = last & (discount > 0)
    for b in range(batch):
        for t in range(steps):
            trace = 1.0
            for k in range(t, steps):
                if is_cut[k, b]:
                    break
                delta = rho[k, b] * (reward[k, b] + GAMMA * discount[k, b] * values[k + 1, b] - values[k, b])
                errors[t, b] += trace * delta
                if last[k, b]:
                    break
                trace *= GAMMA * lambda_ * rho[k, b]
        for t in range(steps):
            if is_cut[t, b]:
                continue
            beyond = t + 1 == steps or last[t, b]
            ahead = values[t + 1, b] + (0.0 if beyond else lambda_ * errors[t + 1, b])
            advantages[t, b] = rho[t, b] * (reward[t, b] + GAMMA * discount[t, b] * ahead - values[t, b])
    return errors, advantages


def moved(moments: tuple[float, float, float], x: np.ndarray, weight: np.ndarray) -> tuple[float, float, float]:
    seen = x[weight > 0]
    first, second, product = moments
    mean, square = seen.mean(), (seen**2).mean()
    return DECAY * first + (1 - DECAY) * mean, DECAY * second + (1 - DECAY) * square, DECAY * product


def mean_and_deviation(moments: tuple[float, float, float]) -> tuple[float, float]:
    first, second, product = moments
    mean, square = first / (1 - product), second / (1 - product)
    return mean, np.sqrt(max(0.0, square - mean**2) + 1e-12) + 1e-6


def as_numbers(moments: Moments) -> tuple[float, float, float]:
    return float(moments.first), float(moments.second), float(moments.decay_product)


def estimates(
    found: Trajectory, logits: Array, table: np.ndarray, *, squashed: bool, lambda_: float = LAMBDA
) -> tuple[np.ndarray, np.ndarray]:
    action = np.asarray(found.action)
    pi, mu = softmax(np.asarray(logits, np.float64)[:-1]), softmax(np.asarray(found.behaviour, np.float64))
    values = h_inverse(table) if squashed else table
    return v_trace_by_hand(found, values[np.asarray(found.observation)], of_actions(pi / mu, action), lambda_)


def descended(table: np.ndarray, found: Trajectory, errors: np.ndarray) -> np.ndarray:
    """One step of gradient descent of a table on 1/2 error^2, meaned over the steps of weight 1."""
    weight, states = np.asarray(found.weight), np.asarray(found.observation)[:-1]
    table = table.copy()
    np.add.at(table, states, RATE * weight * errors / weight.sum())
    return table


def state_of(objective: ActorCritic | Reinforce, found: Trajectory, table: np.ndarray) -> Any:
    """A newborn agent's state with a table of values."""
    state = objective.init(jax.random.key(0), spec_of(found))
    params = {"value": {"table": jnp.asarray(table, jnp.float32)[:, None]}}
    if isinstance(objective, Reinforce):
        return state.replace(params=params)
    return state.replace(value=state.value.replace(params=params))


def table_of(params: PyTree) -> np.ndarray:
    return np.asarray(params["value"]["table"], np.float64)[:, 0]


# --- ActorCritic


@few
@given(SEEDS, st.booleans())
def test_actor_critic_learns_values_as_by_hand(seed: int, squashed: bool) -> None:
    objective = dataclasses.replace(a2c, squashed=squashed)
    table = value_table(seed)
    state = state_of(objective, example(seed)[0], table)
    of_errors = of_advantages = (0.0, 0.0, 1.0)
    for update in range(2):
        found, logits = example(seed + update)
        state, numbers = observe(objective, state, found, logits)
        weight = np.asarray(found.weight)
        errors, advantages = estimates(found, logits, table, squashed=squashed)
        of_errors, of_advantages = moved(of_errors, errors, weight), moved(of_advantages, advantages, weight)
        normalized = errors / mean_and_deviation(of_errors)[1]
        table = descended(table, found, normalized)
        np.testing.assert_allclose(table_of(state.value.params), table, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(as_numbers(state.advantages), of_advantages, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(as_numbers(state.errors), of_errors, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(numbers["value_error"], np.abs(errors)[weight > 0].mean(), rtol=2e-3)
        loss = (0.5 * normalized**2)[weight > 0].mean()
        np.testing.assert_allclose(numbers["value_loss"], loss, rtol=5e-3)


@few
@given(SEEDS)
def test_actor_critic_judges_as_by_hand(seed: int) -> None:
    table = value_table(seed)
    found, logits = example(seed)
    state, _ = observe(a2c, state_of(a2c, found, table), *example(seed + 1))
    table = table_of(state.value.params)
    _, advantages = estimates(found, logits, table, squashed=True)
    mean, deviation = mean_and_deviation(moved(as_numbers(state.advantages), advantages, np.asarray(found.weight)))
    loss, numbers = judge(a2c, state, found, logits)
    log_pi = np.log(of_actions(softmax(np.asarray(logits, np.float64)[:-1]), np.asarray(found.action)))
    expected = np.asarray(found.weight) * -log_pi * (advantages - mean) / deviation
    np.testing.assert_allclose(loss, expected, rtol=5e-3, atol=5e-3)
    np.testing.assert_allclose(numbers["advantage"], advantages[found.weight > 0].mean(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("objective", [a2c, reinforce, dataclasses.replace(reinforce, off_policy=True)])
def test_the_meta_gradient_is_the_policy_gradient(objective: MetaObjective) -> None:
    """By differences of -log pi(a) A in float64, A as the loss says it is; no other step's logits matter."""
    found, logits = example(3)
    state = state_of(objective, found, value_table(3))
    loss, _ = judge(objective, state, found, logits)
    gradient = jax.grad(lambda logits: judge(objective, state, found, logits)[0].sum())(logits)
    exact, action = np.asarray(logits, np.float64), np.asarray(found.action)
    log_pi = np.log(of_actions(softmax(exact[:-1]), action))
    advantages = np.asarray(loss) / -log_pi
    for index in range(SIZES.actions):
        ahead, behind = (exact.copy() for _ in range(2))
        ahead[..., index] += 1e-5
        behind[..., index] -= 1e-5
        slope = [np.log(of_actions(softmax(x[:-1]), action)) for x in (ahead, behind)]
        expected = -advantages * (slope[0] - slope[1]) / 2e-5
        np.testing.assert_allclose(gradient[:-1, :, index], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(gradient[-1], 0.0)


def test_descending_makes_good_actions_likelier() -> None:
    found, logits = example(5)
    found = found.replace(last=jnp.zeros_like(found.last), discount=jnp.ones_like(found.discount))
    found = found.replace(reward=jnp.where(found.action == 2, 1.0, 0.0), behaviour=logits[:-1])
    objective = dataclasses.replace(a2c, discount=0.0)
    state = state_of(objective, found, np.zeros(STATES))
    change = jax.grad(lambda logits: -judge(objective, state, found, logits)[0].sum())(logits)[:-1]
    taken = np.asarray(found.action) == 2
    assert (np.asarray(change)[taken, 2] > 0).all()
    assert (np.asarray(change)[~taken, 2] > 0).all()  # Where another was taken, which did worse than the mean.


def test_episodes_do_not_see_each_other() -> None:
    """The loss of Reinforce has no moments in it: nothing at all may change before the end of an episode."""
    for discount in (0.0, 1.0):
        found, logits = example(7)
        last = jnp.zeros_like(found.last).at[2].set(True)
        found = found.replace(last=last, discount=jnp.where(last, discount, 1.0))
        other = found.replace(
            reward=found.reward.at[3:].add(5.0), observation=(found.observation.at[3:].add(1)) % STATES
        )
        for objective in (reinforce, dataclasses.replace(reinforce, off_policy=True)):
            state = state_of(objective, found, value_table(7))
            one, two = (judge(objective, state, x, logits)[0] for x in (found, other))
            np.testing.assert_array_equal(one[:3], two[:3])
            assert np.any(one[3:] != two[3:])


# --- Reinforce


@few
@given(SEEDS, st.booleans())
def test_reinforce_is_the_return_to_go_minus_the_baseline(seed: int, off_policy: bool) -> None:
    objective = dataclasses.replace(reinforce, off_policy=off_policy)
    found, logits = example(seed)
    table = value_table(seed)
    state = state_of(objective, found, table)
    values = table[np.asarray(found.observation)]
    if off_policy:
        errors, advantages = estimates(found, logits, table, squashed=False, lambda_=1.0)
    else:
        later, returns = values[-1], []
        for t in reversed(range(SIZES.steps)):
            later = np.where(found.weight[t] == 0, values[t], found.reward[t] + GAMMA * found.discount[t] * later)
            returns.append(later)
        errors = advantages = np.stack(returns[::-1]) - values[:-1]
    log_pi = np.log(of_actions(softmax(np.asarray(logits, np.float64)[:-1]), np.asarray(found.action)))
    loss, _ = judge(objective, state, found, logits)
    np.testing.assert_allclose(loss, -log_pi * advantages, rtol=1e-3, atol=1e-3)
    after, _ = observe(objective, state, found, logits)
    np.testing.assert_allclose(table_of(after.params), descended(table, found, errors), rtol=1e-3, atol=1e-3)


def test_the_baseline_finds_the_value_of_a_state() -> None:
    """One state, a reward of 1 at every step, discount 0.9: 1 / (1 - 0.9) = 10."""
    found, logits = example(0)
    still = jnp.zeros_like(found.last)
    found = found.replace(
        observation=jnp.zeros_like(found.observation),
        reward=jnp.ones_like(found.reward),
        discount=jnp.ones_like(found.discount),
        last=still,
    )
    objective = dataclasses.replace(reinforce, optimizer=SGD(0.5))
    start = objective.init(jax.random.key(0), spec_of(found, num_states=1))
    end, _ = jax.lax.scan(lambda s, _: (objective.observe(s, found, logits)[0], None), start, length=100)
    np.testing.assert_allclose(table_of(end.params), [10.0], rtol=1e-3)


# --- value networks


@pytest.mark.parametrize("torso", [torsos.MLP((8, 4)), torsos.RecurrentMLP(sizes=(8,), memory=4)])
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.01, max_update=1.0, max_gradient_norm=0.5)])
def test_any_torso_and_any_optimizer(torso: Any, optimizer: Any) -> None:
    rng = np.random.default_rng(0)
    found = examples.random_trajectory(rng, SIZES)
    logits = examples.random_normal(rng, SIZES.steps + 1, SIZES.batch, SIZES.actions)
    objective = Reinforce(value_network=torso, optimizer=optimizer)
    state = objective.init(jax.random.key(0), spec_of(found))

    def step(state: Any, _: None) -> tuple[Any, Array]:
        state, numbers = objective.observe(state, found, logits)
        return state, numbers["value_loss"]

    _, losses = jax.jit(lambda state: jax.lax.scan(step, state, length=60))(state)
    assert losses[-1] < 0.9 * losses[0]


def test_the_default_network_is_the_authors() -> None:
    """Layers of 256 and 256, then one number whose weights are small; nothing is learned of it yet."""
    found = examples.random_trajectory(np.random.default_rng(0), SIZES)
    params = ActorCritic().init(jax.random.key(0), spec_of(found)).value.params
    kernels = {k: v.shape for k, v in _flat(params).items() if k.endswith("kernel")}
    assert kernels == {
        "torso/layers/linear_0/kernel": (6, 256),
        "torso/layers/linear_1/kernel": (256, 256),
        "value/kernel": (256, 1),
    }
    assert np.abs(params["value"]["kernel"]).max() < 0.03


def _flat(params: PyTree) -> dict[str, Array]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def test_agents_side_by_side_are_the_same_as_one_by_one() -> None:
    found = [example(seed) for seed in range(3)]
    start = [state_of(a2c, trajectory, value_table(seed)) for seed, (trajectory, _) in enumerate(found)]
    stacked, (trajectories, logits) = _stack(start), _stack(found)
    states, _ = jax.vmap(a2c.observe)(stacked, trajectories, logits)
    losses, _ = jax.vmap(a2c)(states, trajectories, logits)
    for index, (trajectory, own) in enumerate(found):
        state, _ = observe(a2c, start[index], trajectory, own)
        np.testing.assert_allclose(losses[index], judge(a2c, state, trajectory, own)[0], rtol=1e-4, atol=1e-4)


def _stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def test_an_index_beyond_the_table_has_no_value() -> None:
    found, logits = example(0)
    loss, _ = judge(reinforce, reinforce.init(jax.random.key(0), spec_of(found, num_states=2)), found, logits)
    assert np.isnan(loss).any()  # Loud, instead of another state's value.


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: ActorCritic(discount=1.5), r"discount must lie in \[0, 1\], got 1.5"),
        (lambda: ActorCritic(lambda_=-0.5), r"lambda_ must lie in \[0, 1\], got -0.5"),
        (lambda: ActorCritic(decay=1.0), r"decay must lie in \[0, 1\), got 1.0"),
        (lambda: Reinforce(discount=-1.0), r"discount must lie in \[0, 1\], got -1.0"),
        (lambda: Reinforce(optimizer=SGD(Hyperparameter("rate", 0.1))), "must have a constant learning rate"),
    ],
)
def test_values_that_make_no_sense_are_refused(build: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build()


# --- conformance finds what is wrong


@dataclasses.dataclass(frozen=True)
class CountsCutSteps(Reinforce):
    """Judges steps across the end of an episode too."""

    def __call__(self, state: Any, trajectory: Trajectory, logits: Array) -> tuple[Array, dict[str, Array]]:
        return meta_objectives.policy_gradient(trajectory.replace(discount=0.0 * trajectory.discount), logits, 1.0), {}


@dataclasses.dataclass(frozen=True)
class DifferentiatesTheCritic(Reinforce):
    """Lets the meta-gradient into the value function."""

    def __call__(self, state: Any, trajectory: Trajectory, logits: Array) -> tuple[Array, dict[str, Array]]:
        loss, numbers = super().__call__(state, trajectory, logits)
        return loss * (1.0 + self._outputs(state.params, trajectory)[:-1]), numbers


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (CountsCutSteps(), "steps of weight 0 have a loss"),
        (DifferentiatesTheCritic(), "its state takes a meta-gradient"),
    ],
)
def test_objectives_that_do_not_conform_are_found_out(objective: MetaObjective, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_meta_objective(objective)
