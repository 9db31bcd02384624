"""Value estimators from state values: returns and advantages under v(s).

Estimates are constants of the outputs that they are made from; a learned discount or decay receives its gradient
through them.
"""

from __future__ import annotations

import abc
import dataclasses

import jax.numpy as jnp

from components.value_estimators.returns import (
    lambda_returns,
    n_step_returns,
    v_trace,
    without_gradient,
)
from framework.interfaces import ValueHead
from framework.numbers import Carried, check_fraction, resolve
from framework.registry import component
from framework.transforms import importance_ratio
from framework.types import Array, Estimates, RuleInputs


@dataclasses.dataclass(frozen=True)
class _StateValueEstimator(abc.ABC):
    """What estimators from a state-value head share: bootstrapping from the target network where the rule has one."""

    head: str = "v"
    discount: float | Carried = 0.99

    def __post_init__(self) -> None:
        check_fraction("discount", self.discount)

    @abc.abstractmethod
    def _returns_and_advantages(
        self, inputs: RuleInputs, discount: Array, values: Array, cut: Array
    ) -> tuple[Array, Array]:
        """Returns and advantages [T, B] from discounts [T, B] and values to bootstrap from [T+1, B]."""

    def __call__(self, inputs: RuleInputs, head: ValueHead) -> Estimates:
        inputs = without_gradient(inputs)
        online = head.read(inputs.outputs[self.head])
        values = online if inputs.target_outputs is None else head.read(inputs.target_outputs[self.head])
        discount = resolve(self.discount, inputs.hyperparameters) * inputs.discount
        returns, advantages = self._returns_and_advantages(inputs, discount, values, inputs.weight == 0)
        return Estimates(values=online, returns=returns, advantages=advantages, errors=returns - online[:-1])


@dataclasses.dataclass(frozen=True)
class _DecayingEstimator(_StateValueEstimator):
    """One in which later errors count less and less."""

    lambda_: float | Carried = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction("lambda_", self.lambda_)

    def _decay(self, inputs: RuleInputs) -> float | Array:
        return resolve(self.lambda_, inputs.hyperparameters)


@component("value_estimators")
@dataclasses.dataclass(frozen=True)
class GAE(_DecayingEstimator):
    """Generalised advantage estimation; the returns are the advantages plus the values (Schulman et al., 2016).

    Attributes:
      head: a state-value head.
      discount: gamma.
      lambda_: trade-off between one-step errors (0) and whole returns (1).
    """

    def _returns_and_advantages(
        self, inputs: RuleInputs, discount: Array, values: Array, cut: Array
    ) -> tuple[Array, Array]:
        returns = lambda_returns(inputs.reward, discount, values, self._decay(inputs), cut)
        return returns, returns - values[:-1]


@component("value_estimators")
@dataclasses.dataclass(frozen=True)
class TDLambda(_DecayingEstimator):
    """TD(lambda) returns for the value, and one-step errors r + gamma v(s') - v(s) as advantages (Sutton, 1988).

    Attributes:
      head: a state-value head.
      discount: gamma.
      lambda_: decay of later errors in the returns.
    """

    lambda_: float | Carried = 0.9

    def _returns_and_advantages(
        self, inputs: RuleInputs, discount: Array, values: Array, cut: Array
    ) -> tuple[Array, Array]:
        advantages = jnp.where(cut, 0.0, inputs.reward + discount * values[1:] - values[:-1])
        return lambda_returns(inputs.reward, discount, values, self._decay(inputs), cut), advantages


@component("value_estimators")
@dataclasses.dataclass(frozen=True)
class VTrace(_DecayingEstimator):
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
        self, inputs: RuleInputs, discount: Array, values: Array, cut: Array
    ) -> tuple[Array, Array]:
        logits = inputs.outputs[self.policy][:-1]
        rho = importance_ratio(logits, behaviour=inputs.behaviour, action=inputs.action)
        return v_trace(inputs.reward, discount, values, rho=rho, lambda_=self._decay(inputs), cut=cut)


@component("value_estimators")
@dataclasses.dataclass(frozen=True)
class NStep(_StateValueEstimator):
    """Returns of n rewards and then the value, or of fewer where the trajectory ends earlier (Sutton and Barto, 2018).

    Attributes:
      head: a state-value head.
      discount: gamma.
      steps: rewards before bootstrapping, n.
    """

    steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def _returns_and_advantages(
        self, inputs: RuleInputs, discount: Array, values: Array, cut: Array
    ) -> tuple[Array, Array]:
        returns = n_step_returns(inputs.reward, discount, values, self.steps, cut)
        return returns, returns - values[:-1]
