"""Value estimators: returns and advantages from predicted values and rewards.

Where an episode was cut off without its final observation (weight 0) the return is the step's own value, so
that nothing leaks from one episode into another. Estimates are constants of the outputs that they are made from; a
learned discount or decay receives its gradient through them.
"""

from __future__ import annotations

import abc
import dataclasses

import jax
import jax.numpy as jnp

from framework.interfaces import ValueHead
from framework.numbers import Carried, check_fraction, resolve
from framework.registry import component
from framework.transforms import at_action, log_probability
from framework.types import Array, Estimates, RuleInputs, Trajectory


def _corrected_returns(reward: Array, discount: Array, values: Array, trace: Array, own: Array, cut: Array) -> Array:
    """G_t = r_t + d_t (v_{t+1} + c_{t+1} (G_{t+1} - own_{t+1})), and G_t = own_t where the episode was cut off.

    Args:
      reward: [T, B].
      discount: gamma, 0 where the episode terminated [T, B].
      values: what to bootstrap from [T+1, B].
      trace: c_t, how much of a later step's surprise reaches this one [T, B].
      own: what G_t is compared with: v_t or q_t(a_t) [T, B].
      cut: whether the transition leads into another episode [T, B].
    """

    def step(surprise: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        reward, discount, next_value, trace, own, cut = inputs
        returns = jnp.where(cut, own, reward + discount * (next_value + surprise))
        return trace * (returns - own), returns

    inputs = (reward, discount, values[1:], trace, own, cut)
    _, returns = jax.lax.scan(step, jnp.zeros_like(values[0]), inputs, reverse=True)
    return returns


def lambda_returns(reward: Array, discount: Array, values: Array, lambda_: float | Array, cut: Array) -> Array:
    """TD(lambda) returns [T, B] of rewards, discounts [T, B] under values [T+1, B]."""
    trace = jnp.broadcast_to(jnp.asarray(lambda_, jnp.float32), reward.shape)
    return _corrected_returns(reward, discount, values, trace, values[:-1], cut)


def v_trace(
    reward: Array, discount: Array, values: Array, rho: Array, lambda_: float | Array, cut: Array
) -> tuple[Array, Array]:
    """V-trace targets and policy-gradient advantages [T, B], both ratios clipped at 1 (Espeholt et al., 2018).

    vs_t - v_t = clip(rho_t) (r_t + d_t v_{t+1} - v_t) + d_t lambda clip(rho_t) (vs_{t+1} - v_{t+1}).
    The advantage compares r_t + d_t (lambda vs_{t+1} + (1 - lambda) v_{t+1}) with v_t.
    """
    clipped = jnp.minimum(1.0, rho)
    error = jnp.where(cut, 0.0, clipped * (reward + discount * values[1:] - values[:-1]))
    decay = jnp.where(cut, 0.0, clipped * discount * lambda_)

    def step(later: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        error, decay = inputs
        total = error + decay * later
        return total, total

    _, errors = jax.lax.scan(step, jnp.zeros_like(values[0]), (error, decay), reverse=True)
    targets = values[:-1] + errors
    next_targets = jnp.concatenate([targets[1:], values[-1:]])
    estimate = reward + discount * (lambda_ * next_targets + (1.0 - lambda_) * values[1:])
    return targets, jnp.where(cut, 0.0, clipped * (estimate - values[:-1]))


def retrace(reward: Array, discount: Array, values: Array, taken: Array, trace: Array, cut: Array) -> Array:
    """Retrace returns of the actions taken [T, B] (Munos et al., 2016).

    Args:
      reward: [T, B].
      discount: gamma, 0 where the episode terminated [T, B].
      values: v(s) under the policy to be evaluated [T+1, B].
      taken: q(s_t, a_t) [T, B].
      trace: lambda min(1, pi / mu) of the actions taken [T, B].
      cut: whether the transition leads into another episode [T, B].
    """
    return _corrected_returns(reward, discount, values, trace, taken, cut)


def importance_ratio(seen: RuleInputs | Trajectory, logits: Array) -> Array:
    """pi(a_t|s_t) / mu(a_t|s_t) of the actions taken [T, B], pi from logits [T+1, B, A]."""
    online = log_probability(logits[:-1], seen.action)
    return jnp.exp(online - log_probability(seen.behaviour, seen.action))


def _without_gradient(inputs: RuleInputs) -> RuleInputs:
    """The inputs with constant outputs: only learned discounts and decays receive a gradient through estimates."""
    outputs, target_outputs = jax.lax.stop_gradient((inputs.outputs, inputs.target_outputs))
    return inputs.replace(outputs=outputs, target_outputs=target_outputs)


@component("value_estimators")
@dataclasses.dataclass(frozen=True)
class Retrace:
    """Retrace returns of an action-value head, bootstrapped from the target network where the rule has one.

    v(s) = sum_a pi(a|s) q(s, a) under the online policy; advantages are measured from the target network's v.

    Attributes:
      head: an action-value head.
      discount: gamma.
      lambda_: decay of the traces.
      policy: the policy head.

    Source: Munos et al., 2016; Oh et al., 2025, Methods.
    """

    head: str = "q"
    discount: float | Carried = 0.997
    lambda_: float | Carried = 0.95
    policy: str = "logits"

    def __post_init__(self) -> None:
        check_fraction("discount", self.discount)
        check_fraction("lambda_", self.lambda_)

    def __call__(self, inputs: RuleInputs, head: ValueHead) -> Estimates:
        inputs = _without_gradient(inputs)
        discount = resolve(self.discount, inputs.hyperparameters) * inputs.discount
        lambda_ = resolve(self.lambda_, inputs.hyperparameters)
        policy = jax.nn.softmax(inputs.outputs[self.policy])
        online = head.read(inputs.outputs[self.head])
        bootstrap = online if inputs.target_outputs is None else head.read(inputs.target_outputs[self.head])
        values = (policy * bootstrap).sum(-1)
        taken = at_action(bootstrap[:-1], inputs.action)
        trace = lambda_ * jnp.minimum(1.0, importance_ratio(inputs, inputs.outputs[self.policy]))
        returns = retrace(inputs.reward, discount, values, taken, trace, inputs.weight == 0)
        return Estimates(
            values=(policy * online).sum(-1),
            returns=returns,
            advantages=returns - values[:-1],
            errors=returns - at_action(online[:-1], inputs.action),
            action_values=bootstrap,
            action_advantages=bootstrap - values[..., None],
        )


@dataclasses.dataclass(frozen=True)
class _StateValueEstimator(abc.ABC):
    """What estimators from a state-value head share: bootstrapping from the target network where the rule has one."""

    head: str = "v"
    discount: float | Carried = 0.99
    lambda_: float | Carried = 0.95

    def __post_init__(self) -> None:
        check_fraction("discount", self.discount)
        check_fraction("lambda_", self.lambda_)

    @abc.abstractmethod
    def _returns_and_advantages(
        self, inputs: RuleInputs, discount: Array, values: Array, lambda_: float | Array, cut: Array
    ) -> tuple[Array, Array]:
        """Returns and advantages [T, B] from discounts [T, B] and values to bootstrap from [T+1, B]."""

    def __call__(self, inputs: RuleInputs, head: ValueHead) -> Estimates:
        inputs = _without_gradient(inputs)
        online = head.read(inputs.outputs[self.head])
        values = online if inputs.target_outputs is None else head.read(inputs.target_outputs[self.head])
        discount = resolve(self.discount, inputs.hyperparameters) * inputs.discount
        lambda_ = resolve(self.lambda_, inputs.hyperparameters)
        returns, advantages = self._returns_and_advantages(inputs, discount, values, lambda_, inputs.weight == 0)
        return Estimates(values=online, returns=returns, advantages=advantages, errors=returns - online[:-1])


@component("value_estimators")
@dataclasses.dataclass(frozen=True)
class GAE(_StateValueEstimator):
    """Generalised advantage estimation; the returns are the advantages plus the values (Schulman et al., 2016).

    Attributes:
      head: a state-value head.
      discount: gamma.
      lambda_: trade-off between one-step errors (0) and whole returns (1).
    """

    def _returns_and_advantages(
        self, inputs: RuleInputs, discount: Array, values: Array, lambda_: float | Array, cut: Array
    ) -> tuple[Array, Array]:
        returns = lambda_returns(inputs.reward, discount, values, lambda_, cut)
        return returns, returns - values[:-1]


@component("value_estimators")
@dataclasses.dataclass(frozen=True)
class TDLambda(_StateValueEstimator):
    """TD(lambda) returns for the value, and one-step errors r + gamma v(s') - v(s) as advantages (Sutton, 1988).

    Attributes:
      head: a state-value head.
      discount: gamma.
      lambda_: decay of later errors in the returns.
    """

    lambda_: float | Carried = 0.9

    def _returns_and_advantages(
        self, inputs: RuleInputs, discount: Array, values: Array, lambda_: float | Array, cut: Array
    ) -> tuple[Array, Array]:
        advantages = jnp.where(cut, 0.0, inputs.reward + discount * values[1:] - values[:-1])
        return lambda_returns(inputs.reward, discount, values, lambda_, cut), advantages


@component("value_estimators")
@dataclasses.dataclass(frozen=True)
class VTrace(_StateValueEstimator):
    """V-trace targets and policy-gradient advantages, for data of an older policy (Espeholt et al., 2018).

    Attributes:
      head: a state-value head.
      discount: gamma.
      lambda_: decay of later errors.
      policy: the policy head.
    """

    lambda_: float | Carried = 1.0
    policy: str = "logits"

    def _returns_and_advantages(
        self, inputs: RuleInputs, discount: Array, values: Array, lambda_: float | Array, cut: Array
    ) -> tuple[Array, Array]:
        ratio = importance_ratio(inputs, inputs.outputs[self.policy])
        return v_trace(inputs.reward, discount, values, ratio, lambda_, cut)
