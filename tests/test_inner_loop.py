"""N agent updates, differentiated: both ways back against jax's own derivatives and against finite differences.

All in float64, where two right derivatives agree to many digits.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_updates import COMPILE_FAST, plain_update
from rule_files import rule_of

from components import action_models, optimizers, regularizers, torsos
from framework import inner_loop
from framework.agent import Agent
from framework.inner_loop import InnerLoop
from framework.interfaces import Optimizer
from framework.learner import Learner
from framework.numbers import Hyperparameter
from framework.testing import examples
from framework.testing.examples import Sizes
from framework.types import Array, Experience, LearnerState, Params, PyTree
from framework.update_rule import UpdateRule, parts

SIZES = Sizes(steps=3, batch=4, actions=3)
PREDICTIONS, LSTM = "PREDICTION_CATEGORIES = 5", "TRAJECTORY_LSTM_SIZE = 6"
RULES = {
    "disco": ("disco", PREDICTIONS, LSTM, "META_RNN_SIZE = 4", "heads.CategoricalActionValue.limit = 4"),
    "disco_no_meta_rnn": ("disco_no_meta_rnn", PREDICTIONS, LSTM, "heads.CategoricalActionValue.limit = 4"),
    "lpg": ("lpg", PREDICTIONS, LSTM),
    # LPG, told of the predictions of a slow copy of the agent: a small rule with a target network.
    "lpg_slow_target": (
        "lpg", PREDICTIONS, LSTM, "UpdateRule.target_decay = 0.9",
        "PREDICTION_FEATURES = [@features.Prediction(), @slow/features.Prediction()]",
        "slow/features.Prediction.source = 'target'",
    ),
    "learned_ppo_weights": ("learned_ppo_weights",),
    "learned_ppo_outputs": ("learned_ppo_outputs", LSTM),
}  # fmt: skip
ENTROPY = regularizers.Entropy(cost=0.3, on="updates")
MAGNITUDE = regularizers.TargetMagnitude(cost=0.1)
REGULARIZERS = {
    "disco": (ENTROPY, MAGNITUDE, regularizers.TargetNetworkKL(cost=0.2), regularizers.TargetOffset("z_hat", cost=0.4)),
    "disco_no_meta_rnn": (MAGNITUDE,),
    "lpg": (ENTROPY, MAGNITUDE),
    "lpg_slow_target": (MAGNITUDE,),
    "learned_ppo_weights": (ENTROPY,),
    "learned_ppo_outputs": (ENTROPY, regularizers.TargetMagnitude("value_weight")),
}
CLIPPED = optimizers.Adam(0.05, max_update=0.3)
LIMITED = optimizers.Adam(0.05, max_update=0.3, max_gradient_norm=0.2)
PLAIN_SGD, LIMITED_SGD = optimizers.SGD(0.5), optimizers.SGD(0.5, max_gradient_norm=0.2)


@pytest.fixture(scope="module", autouse=True)
def float64() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def float32() -> Iterator[None]:
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


@dataclasses.dataclass(frozen=True)
class Case:
    """An agent in the middle of its life, and N updates that are to be differentiated.

    Attributes:
      rule: file of gin/rules.
      optimizer: the agent's.
      valid: which of the updates took place.
      epochs, minibatches: of an update.
    """

    rule: str
    optimizer: Optimizer
    valid: tuple[bool, ...] = (True, True, True)
    epochs: int = 1
    minibatches: int = 1

    @functools.cached_property
    def learner(self) -> Learner:
        rule = small_rule(self.rule)
        agent = Agent(torsos.MLP((6,)), self.optimizer, action_models.ActionLSTM(5, (4,)))
        network = agent.network(rule, SIZES.spec)
        return Learner(rule, network, self.optimizer, epochs=self.epochs, minibatches=self.minibatches)

    def loop(self, *, direct: bool | None = None) -> InnerLoop:
        return InnerLoop(self.learner, REGULARIZERS[self.rule], direct=direct)

    @functools.cached_property
    def given(self) -> tuple[Params, LearnerState, Experience]:
        """Meta-parameters, the learner before the first update, what the updates learn from."""
        rng, of = np.random.default_rng(0), self.learner
        params = random_like(rng, jax.eval_shape(of.network.init, jax.random.key(0)))
        hyperparameters = {
            part.name: jnp.asarray(part.value) for part in parts(of.rule) if isinstance(part, Hyperparameter)
        }
        state = of.init(params, hyperparameters)
        if of.rule.uses_target_network:
            state = state.replace(target_params=jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), params))
        if isinstance(state.opt_state, optimizers.AdamState):
            first, second = random_like(rng, params), random_like(rng, params)
            second = jax.tree.map(lambda x: 0.02 + 0.1 * jnp.square(x), second)
            state = state.replace(opt_state=optimizers.AdamState(first, second, jnp.asarray(300, jnp.int32)))
        batches = [in_float64(examples.random_trajectory(rng, SIZES)) for _ in self.valid]
        experience = Experience(
            trajectories=jax.tree.map(lambda *x: jnp.stack(x), *batches),
            keys=jax.random.split(jax.random.key(3), len(self.valid)),
            valid=None if all(self.valid) else jnp.asarray(self.valid),
        )
        shapes = jax.eval_shape(lambda: of.rule.init(jax.random.key(1), of.rule_inputs(state, batches[0])))
        return random_like(rng, shapes), in_float64(state), experience

    def loss(self, final: tuple[Params, Array]) -> Array:
        """A random direction of the final parameters, and the regularizers' mean."""
        params, regularization = final
        rng = np.random.default_rng(9)
        return sum(jnp.vdot(rng.normal(size=x.shape), x) for x in jax.tree.leaves(params)) + regularization

    @functools.lru_cache  # noqa: B019  # the cases live as long as the tests
    def compiled(self, direct: bool | None = None) -> Callable[..., tuple[Array, Params]]:
        """Value and gradient in the meta-parameters, of these, the learner before the updates, and the experience."""
        loop = self.loop(direct=direct)
        function = jax.value_and_grad(lambda meta_params, *given: self.loss(loop(meta_params, *given)))
        return jax.jit(function, compiler_options=COMPILE_FAST)

    def value_and_gradient(self, *, direct: bool | None = None) -> tuple[Array, Params]:
        return self.compiled(direct)(*self.given)

    def plain_value_and_gradient(self) -> tuple[Array, Params]:
        """The same by jax alone: no way back of one's own, and only the updates that took place."""
        meta_params, start, experience = self.given
        made = np.flatnonzero(self.valid)
        made_updates = jax.tree.map(lambda x: x[made], experience.replace(valid=None))
        function = jax.value_and_grad(lambda *given: self.loss(plain_updates(self.loop(), *given)))
        return jax.jit(function, compiler_options=COMPILE_FAST)(meta_params, start, made_updates)


@functools.cache
def small_rule(name: str) -> UpdateRule:
    return rule_of(*RULES[name])


def random_like(rng: np.random.Generator, tree: PyTree) -> PyTree:
    """Random numbers of a size at which nothing saturates."""
    return jax.tree.map(lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape)), tree)


def in_float64(tree: PyTree) -> PyTree:
    """In float32 where jax is told to know nothing else."""
    return jax.tree.map(lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def plain_updates(
    loop: InnerLoop, meta_params: Params, start: LearnerState, experience: Experience
) -> tuple[Params, Array]:
    """The updates written out with `jax.grad`, for jax to differentiate."""

    def update(state: LearnerState, given: Experience) -> tuple[LearnerState, Array]:
        return plain_update(loop, meta_params, state, given.trajectories, given.keys)

    end, terms = jax.lax.scan(update, start, experience)
    return end.params, terms.mean()


def assert_same(found: tuple[Array, Params], expected: tuple[Array, Params], relative: float) -> None:
    """Value and gradient agree, relative to each array's largest magnitude."""
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=relative)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(found[1]), jax.tree.leaves(expected[1]), strict=True):
        assert x.dtype == np.float64
        error, size = np.abs(x - y).max(), np.abs(y).max()
        # A number that is added to all logits alike has no derivative but rounding.
        assert error <= relative * max(size, 1e-6), f"{jax.tree_util.keystr(path)}: off by {error:.1e} of {size:.1e}"


CASES = {
    "disco_adam_clipped": Case("disco", CLIPPED),
    "disco_no_meta_rnn_adam_clipped_and_limited": Case("disco_no_meta_rnn", LIMITED, valid=(True, False, True)),
    "lpg_sgd": Case("lpg", PLAIN_SGD),
    "lpg_sgd_limited": Case("lpg", LIMITED_SGD, valid=(False, True, True)),
    "lpg_slow_target_kept": Case("lpg_slow_target", CLIPPED, valid=(False,) * 2 + (True,) * 23),
    "learned_ppo_weights_adam": Case("learned_ppo_weights", LIMITED),
}


SLOW = ("disco_adam_clipped",)  # Golden files of the same way back are in every run.


@pytest.mark.parametrize(
    "case", [pytest.param(CASES[name], marks=[pytest.mark.slow] * (name in SLOW), id=name) for name in CASES]
)
def test_the_direct_way_back_is_jaxs_own_derivative(case: Case) -> None:
    assert_same(case.value_and_gradient(direct=True), case.plain_value_and_gradient(), 1e-9)


@pytest.mark.parametrize("name", ["lpg_sgd_limited", "lpg_slow_target_kept"])
def test_the_generic_way_back_is_the_same(name: str) -> None:
    case = CASES[name]
    assert_same(case.value_and_gradient(direct=False), case.value_and_gradient(direct=True), 1e-9)


def test_epochs_and_minibatches_are_differentiated_too() -> None:
    case = Case("learned_ppo_outputs", CLIPPED, valid=(True, False, True), epochs=2, minibatches=2)
    assert not case.loop().can_go_directly
    assert_same(case.value_and_gradient(), case.plain_value_and_gradient(), 1e-9)


def test_the_cases_are_what_they_are_called() -> None:
    """Some elements are clipped and some are not; gradients reach their limit; target parameters are kept or not."""
    for name in ("disco_adam_clipped", "disco_no_meta_rnn_adam_clipped_and_limited"):
        case = CASES[name]
        slopes, limited = first_residual(case, *case.given)
        clipped = np.concatenate([np.ravel(x) for x in jax.tree.leaves(slopes)]) == 0
        assert 0.05 < clipped.mean() < 0.95
        assert (limited == ()) is (case.optimizer.max_gradient_norm is None)
        if limited != ():
            assert norm(limited) > case.optimizer.max_gradient_norm
    keeps = [name for name, case in CASES.items() if inner_loop._keeps_target_params(case.learner, case.given[2])]
    assert keeps == ["lpg_slow_target_kept"]


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
def first_residual(case: Case, meta_params: Params, state: LearnerState, experience: Experience) -> Any:
    """What the optimizer keeps of the first update."""
    of, trajectory = case.learner, jax.tree.map(lambda x: x[0], experience.trajectories)
    targets, _, _ = of.compute_targets(meta_params, state, trajectory)
    gradient = jax.grad(lambda p: of.loss(p, targets, (trajectory, state.hyperparameters))[0])(state.params)
    return of.optimizer.linearize(gradient, state.opt_state, state.params, of.learning_rate(state))[2]


def norm(tree: PyTree) -> float:
    return float(np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(tree))))


@pytest.mark.usefixtures("float32")
def test_stepping_back_loses_no_digits_that_matter() -> None:
    """Twenty updates, as in discovery: target parameters that are stepped back, or differentiated by jax."""
    case = Case("lpg_slow_target", CLIPPED, valid=(True,) * 20)
    assert not inner_loop._keeps_target_params(case.learner, case.given[2])
    (_, back), (_, kept) = (case.value_and_gradient(direct=direct) for direct in (True, False))
    assert norm(jax.tree.map(jnp.subtract, back, kept)) < 1e-4 * norm(kept)


# Where nothing lies under a stop-gradient, over one update everywhere, the derivative is the true one.
TRUE = {
    "disco": Case("disco", PLAIN_SGD, valid=(True,)),
    "disco_no_meta_rnn": Case("disco_no_meta_rnn", LIMITED_SGD, valid=(True,)),
    "lpg": Case("lpg", LIMITED_SGD),
    "learned_ppo_weights": Case("learned_ppo_weights", PLAIN_SGD, valid=(True,)),
    "learned_ppo_outputs": Case("learned_ppo_outputs", LIMITED_SGD, valid=(True,), epochs=2, minibatches=2),
}


@pytest.mark.parametrize("case", TRUE.values(), ids=TRUE)
def test_the_meta_gradient_is_the_slope(case: Case) -> None:
    """In three random directions of all meta-parameters.

    A learned lambda is rounded to float32 on its way, and wants a longer step than a rule as curved as Disco's allows.
    """
    meta_params, *given = case.given
    value_and_gradient = case.compiled()
    _, gradient = value_and_gradient(meta_params, *given)
    rng, epsilon = np.random.default_rng(5), 1e-5 if case.rule.startswith("disco") else 1e-3
    for _ in range(3):
        direction = random_like(rng, meta_params)
        above, below = (
            value_and_gradient(jax.tree.map(lambda x, d, e=e: x + e * d, meta_params, direction), *given)[0]
            for e in (epsilon, -epsilon)
        )
        slope = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        assert float(slope) == pytest.approx(float(above - below) / (2 * epsilon), rel=1e-3)


def test_updates_that_did_not_take_place_leave_no_trace() -> None:
    """Their trajectories may hold anything: no number reaches the value or the gradient."""
    case = CASES["disco_no_meta_rnn_adam_clipped_and_limited"]
    meta_params, start, experience = case.given
    reward = experience.trajectories.reward.at[1].set(1e3)
    other = experience.replace(trajectories=experience.trajectories.replace(reward=reward))
    found, expected = (case.compiled(True)(meta_params, start, each) for each in (other, experience))
    assert_same(found, expected, 0.0)


def test_a_direct_way_must_exist() -> None:
    case = Case("learned_ppo_outputs", PLAIN_SGD, epochs=2)
    with pytest.raises(ValueError, match="this split into minibatches, has no direct way back"):
        case.loop(direct=True)
