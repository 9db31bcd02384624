"""Loss terms: how far the heads are from their targets, for each step [T, B]."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from components.normalizers import batch_scale, normalize
from framework.errors import UserError
from framework.interfaces import DistributionHead, Head, Number, ValueHead
from framework.registry import component
from framework.transforms import categorical_kl, entropy, importance_ratio, log_probability
from framework.types import Array, LossInputs


def reading(head: Head) -> str:
    """How formulas write a head's output."""
    return f"{head.name}(a)" if head.action_conditional else head.name


@dataclasses.dataclass(frozen=True)
class _Divergence:
    """A divergence of a categorical head from its target, both as logits: KL(target || head)."""

    head: str
    target: str
    cost: float | Number = 1.0

    def __call__(self, inputs: LossInputs, head: Head) -> Array:
        target, output = inputs.targets[self.target], inputs.outputs[self.head]
        if target.shape != output.shape:
            raise UserError(
                f"{type(self).__name__}: the target '{self.target}' has shape {list(target.shape)}, the head "
                f"'{self.head}' {list(output.shape)}: they must be distributions over the same"
            )
        return self._divergence(target, output)

    def _divergence(self, target: Array, output: Array) -> Array:
        """The divergence [T, B] of logits [T, B, D]."""
        return categorical_kl(target, output)

    def formula(self, head: Head) -> str:
        return f"KL({self.target} || {reading(head)})"


@component("loss_terms")
@dataclasses.dataclass(frozen=True)
class PolicyKL(_Divergence):
    """KL(target || policy): moves the policy to a target policy.

    Attributes:
      head: the policy.
      target: logits [T, B, A].
      cost: weight in the loss.
    """

    head: str = "logits"
    target: str = "pi_hat"


@component("loss_terms")
@dataclasses.dataclass(frozen=True)
class PredictionKL(_Divergence):
    """KL(target || prediction): moves a categorical prediction, at the action taken if it is action-conditional.

    Attributes:
      head: the prediction.
      target: logits [T, B, D].
      cost: weight in the loss.
    """

    head: str = "y"
    target: str = "y_hat"


@component("loss_terms")
@dataclasses.dataclass(frozen=True)
class ReversePredictionKL(_Divergence):
    """KL(prediction || target): LPG's direction, in which the prediction gathers where the target has mass.

    Attributes:
      head: the prediction.
      target: logits [T, B, D].
      cost: weight in the loss; alpha_y in LPG.

    Source: Oh et al., 2020, section 3.1.
    """

    head: str = "y"
    target: str = "y_hat"

    def _divergence(self, target: Array, output: Array) -> Array:
        return categorical_kl(output, target)

    def formula(self, head: Head) -> str:
        return f"KL({reading(head)} || {self.target})"


@component("loss_terms")
@dataclasses.dataclass(frozen=True)
class NextPolicyKL(_Divergence):
    """KL(next policy || auxiliary policy), where the episode goes on.

    Attributes:
      head: the auxiliary policy p(s, a).
      target: the policy at the next step, as logits [T, B, A].
      cost: weight in the loss.
    """

    head: str = "p"
    target: str = "p_hat"

    def __call__(self, inputs: LossInputs, head: Head) -> Array:
        return jnp.where(inputs.last, 0.0, super().__call__(inputs, head))

    def formula(self, head: Head) -> str:
        return f"(1 - last) {super().formula(head)}"


def _value_head(head: Head) -> ValueHead:
    if not isinstance(head, ValueHead):
        raise UserError(f"loss_terms.Value: the head '{head.name}' ({type(head).__name__}) does not predict values")
    return head


@component("loss_terms")
@dataclasses.dataclass(frozen=True)
class Value:
    """Moves a value head to returns: cross-entropy for a categorical head, squared error for a scalar one.

    With a clip, the larger of two losses counts: that of the value, and that of the value no further than the clip from
    what it was before the update, so that its gradient ends where it has moved that far towards the return.

    Attributes:
      head: a value head, at the action taken if it is action-conditional.
      target: returns [T, B].
      cost: weight in the loss.
      clip: how far a scalar value may move, in units of the returns; ``None`` for no limit.
      old: a target that holds the values from before the update [T, B], such as `targets.OldValues`; with a clip only.

    Source: of the clip, the implementation of Schulman et al., 2017, in OpenAI's baselines.
    """

    head: str = "q"
    target: str = "q_hat"
    cost: float | Number = 1.0
    clip: float | None = None
    old: str | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive, got {self.clip}")
        if (self.clip is None) != (self.old is None):
            raise ValueError(f"clip and old belong together: bind both or neither, got {self.clip} and {self.old}")

    def __call__(self, inputs: LossInputs, head: Head) -> Array:
        head, output, target = _value_head(head), inputs.outputs[self.head], inputs.targets[self.target]
        loss = head.loss(output, target)
        if self.clip is None or self.old is None:
            return loss
        old = inputs.targets[self.old][..., None]
        if output.shape[-1] != 1 or old.ndim != output.ndim:
            raise UserError(
                f"loss_terms.Value: a clip needs a head that is a scalar and old values of it, and '{self.head}' has "
                f"outputs {list(output.shape[2:])}, '{self.old}' is {list(old.shape[2:-1])}: bind no clip"
            )
        return jnp.maximum(loss, head.loss(old + jnp.clip(output - old, -self.clip, self.clip), target))

    def formula(self, head: Head) -> str:
        value_head = _value_head(head)
        loss = value_head.formula(reading(head), self.target)
        if self.clip is None:
            return loss
        clipped = f"({self.old} + clip({reading(head)} - {self.old}, -+ {self.clip:g}))"
        return f"max({loss}, {value_head.formula(clipped, self.target)})"


@component("loss_terms")
@dataclasses.dataclass(frozen=True)
class ReturnDistribution:
    """Moves a head that predicts how returns are distributed: cross-entropy for atoms, quantile Huber for quantiles.

    Attributes:
      head: such a head, at the action taken if it is action-conditional.
      target: distributions of returns in the head's form [T, B, K].
      cost: weight in the loss.

    Source: Bellemare et al., 2017, algorithm 1; Dabney et al., 2018, algorithm 1.
    """

    head: str = "q"
    target: str = "q_distribution"
    cost: float | Number = 1.0

    def __call__(self, inputs: LossInputs, head: Head) -> Array:
        return _distribution_head(head).distribution_loss(inputs.outputs[self.head], inputs.targets[self.target])

    def formula(self, head: Head) -> str:
        return _distribution_head(head).distribution_formula(reading(head), self.target)


def _distribution_head(head: Head) -> DistributionHead:
    if not isinstance(head, DistributionHead):
        raise UserError(
            f"loss_terms.ReturnDistribution: the head '{head.name}' ({type(head).__name__}) does not predict how "
            "returns are distributed: use loss_terms.Value, or a head that does"
        )
    return head


@dataclasses.dataclass(frozen=True)
class _OfRatio:
    """A term of rho = pi(a) / mu(a) and of an advantage."""

    head: str = "logits"
    target: str = "advantage"
    normalized: bool = False

    def _advantage(self, inputs: LossInputs) -> Array:
        """The advantages [T, B], with mean 0 and deviation 1 where they are normalized."""
        advantage = inputs.targets[self.target]
        if not self.normalized:
            return advantage
        return normalize(batch_scale(advantage, inputs.weight), advantage)

    def _ratio(self, inputs: LossInputs) -> Array:
        return importance_ratio(inputs.outputs[self.head], behaviour=inputs.behaviour, action=inputs.action)


@component("loss_terms")
@dataclasses.dataclass(frozen=True)
class Surrogate(_OfRatio):
    """-rho A with rho = pi(a) / mu(a), beside a penalty that keeps the policy close (Schulman et al., 2017, eq. 6, 8).

    Attributes:
      head: the policy.
      target: advantages A [T, B].
      normalized: whether the advantages of each minibatch are normalized by their mean and deviation; a rule's
        normalizer does so with the whole batch.
      cost: weight in the loss.
    """

    cost: float | Number = 1.0

    def __call__(self, inputs: LossInputs, head: Head) -> Array:
        return -self._ratio(inputs) * self._advantage(inputs)

    def formula(self, head: Head) -> str:
        return f"-rho {self.target}"


@component("loss_terms")
@dataclasses.dataclass(frozen=True)
class ClippedSurrogate(_OfRatio):
    """-min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A) with rho = pi(a) / mu(a) (Schulman et al., 2017, eq. 7).

    Attributes:
      head: the policy.
      target: advantages A [T, B].
      normalized: as for `Surrogate`.
      epsilon: how far the ratio may move before its gradient ends. A constant: it decides where there is a gradient,
        not how large it is, so that no meta-gradient would reach it.
      cost: weight in the loss.
    """

    epsilon: float = 0.2
    cost: float | Number = 1.0

    def __post_init__(self) -> None:
        if self.epsilon <= 0:
            raise ValueError(f"epsilon must be positive, got {self.epsilon}")

    def __call__(self, inputs: LossInputs, head: Head) -> Array:
        ratio = self._ratio(inputs)
        clipped = jnp.clip(ratio, 1.0 - self.epsilon, 1.0 + self.epsilon)
        advantage = self._advantage(inputs)
        return -jnp.minimum(ratio * advantage, clipped * advantage)

    def formula(self, head: Head) -> str:
        return f"-min(rho {self.target}, clip(rho, 1 -+ {self.epsilon:g}) {self.target})"


@component("loss_terms")
@dataclasses.dataclass(frozen=True)
class WeightedLogProbability:
    """-log pi(a) w: the policy gradient where w are advantages, LPG's policy term where a meta-network emits w.

    Attributes:
      head: the policy.
      target: weights w [T, B].
      cost: weight in the loss.
    """

    head: str = "logits"
    target: str = "advantage"
    cost: float | Number = 1.0

    def __call__(self, inputs: LossInputs, head: Head) -> Array:
        return -log_probability(inputs.outputs[self.head], inputs.action) * inputs.targets[self.target]

    def formula(self, head: Head) -> str:
        return f"-log softmax({reading(head)})_a {self.target}"


@component("loss_terms")
@dataclasses.dataclass(frozen=True)
class Entropy:
    """-H(policy): a bonus for acting at random.

    Attributes:
      head: the policy, or any categorical head.
      cost: weight of the bonus.
    """

    head: str = "logits"
    cost: float | Number = 0.01

    def __call__(self, inputs: LossInputs, head: Head) -> Array:
        return -entropy(inputs.outputs[self.head])

    def formula(self, head: Head) -> str:
        return f"-H({reading(head)})"
