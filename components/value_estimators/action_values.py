"""Value estimators from action values: returns and advantages under q(s, a).

Estimates are constants of the outputs that they are made from; a learned discount or decay receives its gradient
through them.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from components.value_estimators.returns import (
    n_step_bootstraps,
    q_lambda,
    retrace,
    without_gradient,
)
from framework.interfaces import DistributionHead, ValueHead
from framework.numbers import Carried, check_fraction, resolve
from framework.registry import component
from framework.transforms import at_action, importance_ratio
from framework.types import Array, Estimates, RuleInputs


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
        inputs = without_gradient(inputs)
        discount = resolve(self.discount, inputs.hyperparameters) * inputs.discount
        lambda_ = resolve(self.lambda_, inputs.hyperparameters)
        logits = inputs.outputs[self.policy]
        policy = jax.nn.softmax(logits)
        online = head.read(inputs.outputs[self.head])
        bootstrap = online if inputs.target_outputs is None else head.read(inputs.target_outputs[self.head])
        values = (policy * bootstrap).sum(-1)
        taken = at_action(bootstrap[:-1], inputs.action)
        ratio = importance_ratio(logits[:-1], behaviour=inputs.behaviour, action=inputs.action)
        trace, cut = lambda_ * jnp.minimum(1.0, ratio), inputs.weight == 0
        returns = retrace(inputs.reward, discount, values, taken=taken, trace=trace, cut=cut)
        return Estimates(
            values=(policy * online).sum(-1),
            returns=returns,
            advantages=returns - values[:-1],
            errors=returns - at_action(online[:-1], inputs.action),
            action_values=bootstrap,
            action_advantages=bootstrap - values[..., None],
        )


def _greedy_values(inputs: RuleInputs, name: str, head: ValueHead, double: bool) -> tuple[Array, Array, Array]:
    """The values q and q' [T+1, B, A], and the greedy actions: under q where ``double``, else under q' [T+1, B]."""
    online = head.read(inputs.outputs[name])
    bootstrap = online if inputs.target_outputs is None else head.read(inputs.target_outputs[name])
    return online, bootstrap, (online if double else bootstrap).argmax(-1)


def _estimates(inputs: RuleInputs, returns: Array, online: Array, bootstrap: Array, values: Array) -> Estimates:
    """Estimates of a greedy policy whose values are v'(s) [T+1, B]."""
    return Estimates(
        values=online.max(-1),
        returns=returns,
        advantages=returns - values[:-1],
        errors=returns - at_action(online[:-1], inputs.action),
        action_values=bootstrap,
        action_advantages=bootstrap - values[..., None],
    )


@component("value_estimators")
@dataclasses.dataclass(frozen=True)
class QLearning:
    """n-step returns of the greedy policy, bootstrapped from the target network where the rule has one.

    From a head that predicts distributions also the returns' distribution, that of R + gamma^n z(s', a').

    Attributes:
      head: an action-value head.
      discount: gamma.
      steps: rewards before bootstrapping, n; they are not corrected for actions that the policy would not take.
      double: whether the greedy action is the online network's, and not that of the network bootstrapped from.

    Source: Watkins and Dayan, 1992; Mnih et al., 2015; van Hasselt et al., 2016; Bellemare et al., 2017.
    """

    head: str = "q"
    discount: float | Carried = 0.99
    steps: int = 1
    double: bool = True

    def __post_init__(self) -> None:
        check_fraction("discount", self.discount)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def __call__(self, inputs: RuleInputs, head: ValueHead) -> Estimates:
        inputs = without_gradient(inputs)
        online, bootstrap, greedy = _greedy_values(inputs, self.head, head, self.double)
        values = at_action(bootstrap, greedy)
        rewards, discounts, source = self._bootstraps(inputs, values, at_action(bootstrap[:-1], inputs.action))
        estimates = _estimates(inputs, rewards + discounts * source, online, bootstrap, values)
        if not isinstance(head, DistributionHead):
            return estimates
        output = (inputs.outputs if inputs.target_outputs is None else inputs.target_outputs)[self.head]
        rewards, discounts, source = self._bootstraps(
            inputs, at_action(output, greedy), at_action(output[:-1], inputs.action)
        )
        later, probabilities = head.distribution(source)
        returns = rewards[..., None] + discounts[..., None] * later
        return estimates.replace(return_distributions=head.project(returns, probabilities))

    def _bootstraps(self, inputs: RuleInputs, greedy: Array, taken: Array) -> tuple[Array, Array, Array]:
        """What the returns are made of; see `n_step_bootstraps`.

        Args:
          inputs: of the trajectory.
          greedy: what is predicted of the greedy actions [T+1, B, ...].
          taken: what is predicted of the actions taken [T, B, ...].
        """
        discount = resolve(self.discount, inputs.hyperparameters) * inputs.discount
        cut = inputs.weight == 0
        rewards, discounts, source = n_step_bootstraps(
            inputs.reward, discount, bootstrap=greedy[1:], own=greedy[:-1], cut=cut, steps=self.steps
        )
        # Earlier steps bootstrap greedily from the state that was cut off; its own return is that of the action taken.
        return rewards, discounts, jnp.where(cut.reshape(cut.shape + (1,) * (taken.ndim - cut.ndim)), taken, source)


@component("value_estimators")
@dataclasses.dataclass(frozen=True)
class QLambda:
    """Q(lambda) returns of the greedy policy, bootstrapped from the target network where the rule has one.

    Peng's mix all later returns in, Watkins's end before the first action that is not greedy.

    Attributes:
      head: an action-value head.
      discount: gamma.
      lambda_: decay of later returns.
      double: whether the greedy action is the online network's, and not that of the network bootstrapped from.
      watkins: whether returns end before actions that are not greedy.

    Source: Watkins, 1989; Peng and Williams, 1994.
    """

    head: str = "q"
    discount: float | Carried = 0.99
    lambda_: float | Carried = 0.9
    double: bool = False
    watkins: bool = False

    def __post_init__(self) -> None:
        check_fraction("discount", self.discount)
        check_fraction("lambda_", self.lambda_)

    def __call__(self, inputs: RuleInputs, head: ValueHead) -> Estimates:
        inputs = without_gradient(inputs)
        online, bootstrap, greedy = _greedy_values(inputs, self.head, head, self.double)
        values, taken = at_action(bootstrap, greedy), at_action(bootstrap[:-1], inputs.action)
        discount = resolve(self.discount, inputs.hyperparameters) * inputs.discount
        counts = (inputs.action == greedy[:-1]) | (not self.watkins)
        trace = resolve(self.lambda_, inputs.hyperparameters) * counts
        returns = q_lambda(inputs.reward, discount, values, taken=taken, trace=trace, cut=inputs.weight == 0)
        return _estimates(inputs, returns, online, bootstrap, values)
