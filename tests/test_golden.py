"""Parity with numbers recorded from the authors' harness; what they are is in tests/golden/README.md."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from components import action_models, loss_terms, optimizers, torsos, weights
from components import value_estimators as ve
from components.heads import Policy
from framework import transforms
from framework.agent import Agent, Network
from framework.config import load
from framework.experiment import Experiment
from framework.inner_loop import InnerLoop
from framework.learner import Learner
from framework.specs import EnvironmentSpec
from framework.transforms import at_action
from framework.types import Array, Experience, LossInputs, Outputs, Params, RuleInputs, Trajectory
from framework.update_rule import UpdateRule

HEADS = {"logits": "logits", "y": "y", "z": "z", "p": "aux_pi", "q": "q"}
"""{our head: theirs}."""

NETWORK_LAYERS = {
    "torso/layers/linear_0": "mlp/~_embedding_pass/torso/~/linear_0",
    "torso/layers/linear_1": "mlp/~_embedding_pass/torso/~/linear_1",
    "head_logits": "mlp/~_head_pass/torso_head/~/linear_0",
    "head_y": "mlp/~_head_pass/torso_head_1/~/linear_0",
    "action_model/cell": "mlp/linear",
    "action_model/gates": "mlp/action_cond/linear",
    "action_model/head_z/linear_0": "mlp/mlp/~/linear_0",
    "action_model/head_z/linear_1": "mlp/mlp/~/linear_1",
    "action_model/head_p/linear_0": "mlp/mlp_1/~/linear_0",
    "action_model/head_p/linear_1": "mlp/mlp_1/~/linear_1",
    "action_model/head_q/linear_0": "mlp/mlp_2/~/linear_0",
    "action_model/head_q/linear_1": "mlp/mlp_2/~/linear_1",
}
"""{our layer: theirs} of the agent's network."""

ZERO_META_GRADIENT = "lstm/linear_4/b"
"""A number added to all policy logits alike: its gradient is zero but for rounding."""

ARRAYS, PARAMETERS = 42, 754_778
"""What Disco103 consists of."""


COMPILE_FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiling takes most of the time here, and the least optimized program is just as right."""


@dataclasses.dataclass(frozen=True)
class Golden:
    """The arrays of one golden file."""

    arrays: Mapping[str, np.ndarray]

    def __getitem__(self, name: str) -> Array:
        return jnp.asarray(self.arrays[name])

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """All arrays below a prefix, which their names then lack."""
        return {name.removeprefix(prefix): x for name, x in self.arrays.items() if name.startswith(prefix)}

    def outputs(self, prefix: str) -> Outputs:
        return {ours: self[prefix + theirs] for ours, theirs in HEADS.items()}


@pytest.fixture
def golden(golden_file: Path) -> Golden:
    with np.load(golden_file, allow_pickle=False) as file:
        return Golden(dict(file))


def assert_close(name: str, found: Any, expected: np.ndarray, *, relative: float, absolute: float = 0.0) -> None:
    """Compares with a tolerance relative to the expected array's largest magnitude; zeros must stay below 1e-6."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, name
    largest = np.abs(expected).max()
    limit = relative * largest + absolute if largest else 1e-6
    error = np.abs(found - expected).max()
    assert error <= limit, f"{name}: off by {error:.2e}, allowed {limit:.2e}"


assert_parity = functools.partial(assert_close, relative=5e-4, absolute=1e-5)


def read_strided(arrays: Mapping[str, np.ndarray], key: str, full: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Found and expected numbers of an array that the file holds whole, or every k-th number of as ``key@k``."""
    if key in arrays:
        return full, arrays[key]
    (name,) = (name for name in arrays if name.startswith(f"{key}@"))
    return full.reshape(-1)[:: int(name.split("@")[1])], arrays[name]


@functools.cache
def disco() -> UpdateRule:
    return load("disco103_catch", root=Experiment).experiment.rule


@functools.cache
def published(path: Path) -> dict[str, np.ndarray]:
    return weights.read_arrays(path)


def meta_params_shapes(rule: UpdateRule) -> Params:
    """Shapes of Disco's meta-parameters, which do not depend on T, B, A."""
    steps, batch, actions = 2, 1, 3
    sizes = {"logits": (), "y": (), "z": (actions,), "p": (actions,), "q": (actions,)}
    spec = EnvironmentSpec((1,), actions)
    outputs = {h.name: jnp.zeros((steps + 1, batch, *sizes[h.name], h.size(spec))) for h in rule.heads}
    zeros = jnp.zeros((steps, batch))
    inputs = RuleInputs(
        outputs=outputs,
        target_outputs=outputs,
        behaviour=jnp.zeros((steps, batch, actions)),
        action=zeros.astype(int),
        reward=zeros,
        discount=zeros,
        last=zeros > 0,
        weight=zeros,
        hyperparameters={},
        progress=jnp.zeros(()),
    )
    return jax.eval_shape(rule.init, jax.random.key(0), inputs)


@pytest.fixture(scope="module")
def disco103(disco103_weights: Path) -> Params:
    """The published meta-parameters in our shapes."""
    imported = weights.import_arrays(published(disco103_weights), weights.DISCO103, meta_params_shapes(disco()))
    return jax.tree.map(jnp.asarray, imported)


# --- the published weights


def test_import_and_export_are_lossless(disco103: Params, disco103_weights: Path) -> None:
    theirs = published(disco103_weights)
    exported = weights.export_arrays(disco103, weights.DISCO103, theirs)
    assert len(exported) == ARRAYS
    assert sum(x.size for x in jax.tree.leaves(disco103)) == PARAMETERS
    assert exported.keys() == theirs.keys()
    for name, array in theirs.items():
        assert exported[name].dtype == array.dtype, name
        assert exported[name].tobytes() == array.tobytes(), name


def test_weights_of_another_meta_network_are_refused(disco103_weights: Path) -> None:
    rule = load("disco_no_meta_rnn_catch", root=Experiment).experiment.rule
    with pytest.raises(weights.WeightsError, match="lacks"):
        weights.import_arrays(published(disco103_weights), weights.DISCO103, meta_params_shapes(rule))


# --- one update of the rule after another


def rule_inputs(golden: Golden, update: str) -> RuleInputs:
    """An update of a rule file; the last row of its actions and behaviour is not used."""
    terminal = golden[f"{update}/rollout/is_terminal"]
    return RuleInputs(
        outputs=golden.outputs(f"{update}/agent_out/"),
        target_outputs=golden.outputs(f"{update}/target_out/"),
        behaviour=golden[f"{update}/behaviour_logits"][:-1],
        action=golden[f"{update}/rollout/actions"][:-1],
        reward=golden[f"{update}/rollout/rewards"],
        discount=1.0 - terminal,
        last=terminal,
        weight=jnp.ones(terminal.shape),
        hyperparameters={},
        progress=jnp.zeros(()),
    )


def losses(rule: UpdateRule, outputs: Outputs, inputs: RuleInputs, targets: dict[str, Array]) -> tuple[Array, Array]:
    """The loss of each step without the value term, and the value term [T, B]."""
    acted = {name: output[:-1] for name, output in outputs.items()}
    taken = {
        h.name: at_action(acted[h.name], inputs.action) if h.action_conditional else acted[h.name] for h in rule.heads
    }
    loss_inputs = LossInputs(
        outputs=taken,
        targets=targets,
        behaviour=inputs.behaviour,
        action=inputs.action,
        reward=inputs.reward,
        discount=inputs.discount,
        last=inputs.last,
        weight=inputs.weight,
    )
    *others, value = rule.loss_terms_per_step(loss_inputs, {}).values()
    return sum(others, start=jnp.zeros(inputs.action.shape)), value


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
def one_update(
    rule: UpdateRule, meta_params: Params, inputs: RuleInputs, carry: Params
) -> tuple[dict[str, Any], Params]:
    """All that a rule file has expected numbers for, under their names; and the rule's new carry."""
    estimates, _ = rule.estimate(inputs, carry.normalizer)
    targets, carry = rule.targets(meta_params, inputs, carry)

    def loss(outputs: Outputs) -> tuple[Array, tuple[Array, Array]]:
        others, value = losses(rule, outputs, inputs, targets)
        return (others + value).mean(), (others, value)

    gradient, (others, value) = jax.grad(loss, has_aux=True)(inputs.outputs)
    (hidden, cell), moments = carry.lifetime, carry.normalizer
    found = {
        "targets/adv": estimates.advantages,
        "targets/normalized_adv": estimates.normalized_advantages,
        "targets/qv_adv": estimates.action_advantages,
        "targets/normalized_qv_adv": estimates.normalized_action_advantages,
        "targets/q_target": estimates.returns,
        "targets/q_td": estimates.errors,
        "targets/q_value": rule.head("q").read(inputs.outputs["q"]),
        "targets/pi": targets["pi_hat"],
        "targets/y": targets["y_hat"],
        "targets/z": targets["z_hat"],
        "targets/meta_input_emb": targets["embedding"],
        "loss_per_step": others,
        "value_loss_per_step": value,
        "rule_state/rnn_state/lstm/meta_rnn_state/hidden": hidden,
        "rule_state/rnn_state/lstm/meta_rnn_state/cell": cell,
    }
    found |= {f"dloss_dagent_out/{theirs}": gradient[ours] for ours, theirs in HEADS.items()}
    for theirs, ours in (("adv_ema_state", "advantages"), ("td_ema_state", "errors")):
        found[f"rule_state/{theirs}/moment1"] = moments[ours].first
        found[f"rule_state/{theirs}/moment2"] = moments[ours].second
        found[f"rule_state/{theirs}/decay_product"] = moments[ours].decay_product
    return found, carry


def compare_updates(golden: Golden, rule: UpdateRule, meta_params: Params) -> None:
    carry = rule.initial_carry()
    for index in range(3):
        update = f"update{index}"
        found, carry = one_update(rule, meta_params, rule_inputs(golden, update), carry)
        expected = golden.under(f"{update}/")
        inputs = ("rollout/", "agent_out/", "target_out/", "behaviour_logits")
        assert found.keys() == {name for name in expected if not name.startswith(inputs)}
        for name, value in found.items():
            assert_parity(f"{update}/{name}", value, expected[name])


@pytest.mark.golden("rule")
def test_rule(golden: Golden, disco103: Params) -> None:
    compare_updates(golden, disco(), disco103)


@pytest.mark.golden("rule")
def test_a_wrong_rule_is_found_out(golden: Golden, disco103: Params) -> None:
    wrong = dataclasses.replace(disco(), value_estimator=ve.Retrace(lambda_=0.9))
    with pytest.raises(AssertionError, match="off by"):
        compare_updates(golden, wrong, disco103)


# --- the agent's network


def network(actions: int) -> Network:
    """The small network of the golden files."""
    agent = Agent(
        torso=torsos.MLP((32, 16)),
        optimizer=optimizers.SGD(1.0),
        action_model=action_models.ActionLSTM(20, (24,)),
    )
    return agent.network(disco(), EnvironmentSpec((4, 3), actions))


def network_params(arrays: Mapping[str, np.ndarray]) -> Params:
    """Parameters of the golden files in our tree."""
    params: dict[str, Any] = {}
    for ours, theirs in NETWORK_LAYERS.items():
        *path, layer = ours.split("/")
        node = functools.reduce(lambda tree, name: tree.setdefault(name, {}), path, params)
        node[layer] = {"kernel": jnp.asarray(arrays[f"{theirs}/w"]), "bias": jnp.asarray(arrays[f"{theirs}/b"])}
    return params


@pytest.mark.golden("network")
def test_network(golden: Golden) -> None:
    observations, actions = golden["observations"], int(golden["A"])
    ours, params = network(actions), network_params(golden.under("params/"))
    shapes = jax.eval_shape(ours.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    last = jnp.zeros((observations.shape[0] - 1, observations.shape[1]), bool)
    outputs = jax.jit(ours.unroll)(params, observations, last, ())
    for name, theirs in HEADS.items():
        assert_parity(name, outputs[name], golden.arrays[f"outputs/{theirs}"])


# --- the gradient through an agent's updates with respect to the meta-parameters


@dataclasses.dataclass(frozen=True)
class OutputsAsParameters:
    """A network whose parameters are its outputs on a fixed grid of observations."""

    rule: UpdateRule

    def unroll(
        self, params: Params, observation: Array, last: Array, carry: Any, action: Array | None = None
    ) -> Outputs:
        if action is None:
            return params
        action = jnp.concatenate([action, action[-1:]])
        conditional = {head.name for head in self.rule.heads if head.action_conditional}
        return {name: at_action(x, action) if name in conditional else x for name, x in params.items()}


def trajectories(golden: Golden, observation: Array) -> Trajectory:
    """The trajectories of all updates, on a leading axis [K, T, B, ...]."""

    def stack(name: str) -> Array:
        return jnp.stack([golden[f"update{update}/{name}"] for update in range(int(golden["K"]))])

    terminal = stack("rollout/is_terminal")
    return Trajectory(
        observation=jnp.broadcast_to(observation, (terminal.shape[0], *observation.shape)),
        action=stack("rollout/actions")[:, :-1],
        reward=stack("rollout/rewards"),
        discount=1.0 - terminal,
        last=terminal,
        behaviour=stack("behaviour_logits")[:, :-1],
    )


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
def meta_gradient(
    loop: InnerLoop, meta_params: Params, params: Params, batches: Trajectory, outer_weights: Outputs
) -> tuple[Array, Params, Params]:
    """Value of the outer function after the updates, the parameters then, and the gradient in the meta-parameters."""

    def outer(meta_params: Params) -> tuple[Array, Params]:
        experience = Experience(batches, keys=jax.random.split(jax.random.key(0), batches.action.shape[0]))
        final, _ = loop(meta_params, loop.learner.init(params, {}), experience)
        first = jax.tree.map(lambda x: x[0], batches)
        outputs = loop.learner.network.unroll(final, first.observation, first.last, ())
        values = [(jax.nn.log_softmax(outputs[name]) * w).sum(-1).mean() for name, w in outer_weights.items()]
        return sum(values, start=jnp.zeros(())), final

    (value, final), gradient = jax.value_and_grad(outer, has_aux=True)(meta_params)
    return value, final, gradient


def compare_meta_gradient(
    golden: Golden,
    loop: InnerLoop,
    meta_params: Params,
    params: Params,
    like: Mapping[str, np.ndarray],
    tolerance: float,
) -> Params:
    """Compares the outer value and the meta-gradient; returns the final parameters."""
    observation = golden["observations"] if "observations" in golden.arrays else jnp.zeros((int(golden["T"]) + 1, 1))
    batches = trajectories(golden, observation)
    value, final, gradient = meta_gradient(loop, meta_params, params, batches, golden.outputs("outer_weights/"))
    assert_close("outer_value", value, golden.arrays["outer_value"], relative=tolerance)
    expected = golden.under("meta_gradient/")
    found = weights.export_arrays(gradient, weights.DISCO103, like)
    assert len(expected) == ARRAYS
    for name, array in found.items():
        if name != ZERO_META_GRADIENT:
            assert_close(name, *read_strided(expected, name, array), relative=tolerance)
    return final


def optimizer(golden: Golden) -> optimizers.Adam:
    return optimizers.Adam(float(golden["learning_rate"]), eps=float(golden["adam_eps"]), max_update=1.0)


@pytest.mark.golden("metagrad")
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "generic"])
def test_meta_gradient(golden: Golden, disco103: Params, disco103_weights: Path, direct: bool) -> None:
    loop = InnerLoop(Learner(disco(), OutputsAsParameters(disco()), optimizer(golden)), direct=direct)
    params = golden.outputs("params0/")
    final = compare_meta_gradient(golden, loop, disco103, params, published(disco103_weights), 1e-3)
    for ours, theirs in HEADS.items():
        assert_close(ours, final[ours], golden.arrays[f"params_final/{theirs}"], relative=1e-3)


@pytest.mark.golden("metagradnet")
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "generic"])
def test_meta_gradient_through_a_network(
    golden: Golden, disco103: Params, disco103_weights: Path, direct: bool
) -> None:
    loop = InnerLoop(Learner(disco(), network(int(golden["A"])), optimizer(golden)), direct=direct)
    params = network_params(golden.under("params0/"))
    final = compare_meta_gradient(golden, loop, disco103, params, published(disco103_weights), 5e-3)
    expected = network_params(golden.under("params_final/"))
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        name = jax.tree_util.keystr(path)
        found = functools.reduce(lambda tree, key: tree[key.key], path, final)
        assert_close(name, found, leaf, relative=5e-3)


# --- return estimators and transforms


@pytest.mark.golden("returns")
def test_returns(golden: Golden) -> None:
    reward, discount = golden["rewards"][:, None], golden["discounts"][:, None]
    values, rho = golden["values"][:, None], golden["rho"][:, None]
    never = jnp.zeros(reward.shape, bool)
    targets, advantages = ve.v_trace(reward, discount, values, rho=rho, lambda_=golden["vtrace_lambda"], cut=never)
    lambda_ = float(golden["vtrace_lambda"])
    later = lambda_ * jnp.concatenate([targets[1:], values[-1:]]) + (1 - lambda_) * values[1:]
    returns = ve.lambda_returns(reward, discount, values, 0.9, never)
    found = {
        "vtrace_errors": targets - values[:-1],
        "vtrace_pg_advantage": advantages,
        "vtrace_q_estimate": reward + discount * later,
        "lambda_returns": returns,
        "gae": returns - values[:-1],
    }
    for name, value in found.items():
        assert_parity(name, value[:, 0], golden.arrays[name])


@pytest.mark.golden("returns")
def test_transforms(golden: Golden) -> None:
    scalars, limit = golden["scalars"], golden["two_hot"].shape[-1] // 2
    two_hot = transforms.two_hot(scalars, limit)
    found = {
        "two_hot": two_hot,
        "from_two_hot": (two_hot * jnp.arange(-limit, limit + 1)).sum(-1),
        "signed_hyperbolic": transforms.signed_hyperbolic(scalars),
        "signed_parabolic": transforms.signed_parabolic(scalars),
        "signed_logp1": transforms.signed_log(scalars),
        "categorical_kl": transforms.categorical_kl(golden["kl_p_logits"], golden["kl_q_logits"]),
    }
    for name, value in found.items():
        assert_parity(name, value, golden.arrays[name])


# --- parts of hand-made rules


def part_inputs(golden: Golden, **targets: Array) -> LossInputs:
    """Inputs of a loss term of a parts file."""
    return LossInputs(
        outputs={"logits": golden["logits"][:-1]},
        targets=targets,
        behaviour=golden["behaviour_logits"][:-1],
        action=golden["actions"][:-1],
        reward=golden["rewards"],
        discount=golden["discounts"],
        last=jnp.zeros(golden["rewards"].shape, bool),
        weight=jnp.ones(golden["rewards"].shape),
    )


@pytest.mark.golden("parts")
def test_loss_terms(golden: Golden) -> None:
    inputs, policy = part_inputs(golden, advantage=golden["advantages"]), Policy()
    terms = {
        "ppo_clip_loss": loss_terms.ClippedSurrogate(epsilon=float(golden["out/ppo_epsilon"])),
        "policy_gradient_loss": loss_terms.WeightedLogProbability(),
        "entropy_loss": loss_terms.Entropy(),
    }
    for name, term in terms.items():
        expected = golden.arrays[f"out/{name}_mean_over_time"]
        assert_parity(name, term(inputs, policy).mean(axis=0), expected)


@pytest.mark.golden("parts")
def test_off_policy_parts(golden: Golden) -> None:
    action, logits, target_q = golden["actions"], golden["logits"], golden["target_q"]
    reward, discount, values = golden["rewards"], golden["discounts"], golden["values"]
    never = jnp.zeros(reward.shape, bool)
    ratio = transforms.importance_ratio(logits, behaviour=golden["behaviour_logits"], action=action)[:-1]
    assert_parity("importance_ratio", ratio, golden.arrays["out/importance_ratio"])

    trace = float(golden["out/retrace_lambda"]) * jnp.minimum(1.0, ratio)
    expected_value = (jax.nn.softmax(logits) * target_q).sum(-1)
    taken = at_action(target_q, action)[:-1]
    returns = ve.retrace(reward, discount, expected_value, taken=taken, trace=trace, cut=never)
    errors = returns - at_action(golden["q"], action)[:-1]
    assert_parity("retrace_td", errors, golden.arrays["out/retrace_td"])

    targets, advantages = ve.v_trace(reward, discount, values, rho=ratio, lambda_=1.0, cut=never)
    assert_parity("impala_errors", targets - values[:-1], golden.arrays["out/impala_errors"])
    assert_parity("impala_pg_advantage", advantages, golden.arrays["out/impala_pg_advantage"])
