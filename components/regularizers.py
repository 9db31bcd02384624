"""Regularizers: what is added to the meta-objective, for each step [T, B].

The meta-loss sums cost x mean over steps, so that a regularizer whose value is to grow (an entropy) is negative.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from framework.errors import UserError
from framework.registry import component
from framework.transforms import categorical_kl, entropy, weighted_mean
from framework.types import Array, RegularizerInputs


def _target(inputs: RegularizerInputs, name: str, regularizer: object) -> Array:
    """A target of the update [T, B, ...]."""
    if name not in inputs.targets:
        known = ", ".join(inputs.targets) or "none: bind on = 'updates'"
        raise UserError(f"regularizers.{type(regularizer).__name__}: there is no target '{name}' (there are {known})")
    return inputs.targets[name]


@component("regularizers")
@dataclasses.dataclass(frozen=True)
class Entropy:
    """-H(softmax(head)): keeps the policy, or a prediction of the action taken, from collapsing.

    Attributes:
      head: a categorical head.
      cost: weight in the meta-loss; for the policy 1e-2 in the authors' notebook and 5e-2 in public versions of LPG,
        for y and z 1e-3 in both.
      on: what it is measured on; the final parameters' validation trajectory in both.

    Source: Oh et al., 2025, Methods (L_ent); Oh et al., 2020, Section 3.3.
    """

    head: str = "logits"
    cost: float = 1e-2
    on: Literal["updates", "validation"] = "validation"

    def __call__(self, inputs: RegularizerInputs) -> Array:
        return -entropy(inputs.outputs[self.head])

    def formula(self) -> str:
        return f"-H({self.head})"


@component("regularizers")
@dataclasses.dataclass(frozen=True)
class TargetMagnitude:
    """The mean square of a target's entries, or the squared norm of its probabilities: keeps targets small.

    Attributes:
      target: logits [T, B, D], or one number per step [T, B] (LPG's pi_hat), which is squared.
      cost: weight in the meta-loss; 5e-3 for pi_hat and 1e-3 for y_hat in public versions of LPG.
      normalized: whether the target stands for softmax(target), as LPG's y_hat does: then |softmax(target)|^2.
      on: the updates; on validation there are no targets.

    Source: Oh et al., 2020, Section 3.3.
    """

    target: str = "pi_hat"
    cost: float = 1e-3
    normalized: bool = False
    on: Literal["updates"] = "updates"

    def __call__(self, inputs: RegularizerInputs) -> Array:
        target = _target(inputs, self.target, self)
        is_scalar = target.ndim == inputs.action.ndim
        if self.normalized:
            if is_scalar:
                message = f"the target '{self.target}' is one number per step, no distribution: bind normalized = False"
                raise UserError(f"regularizers.TargetMagnitude: {message}")
            return jnp.square(jax.nn.softmax(target)).sum(-1)
        return jnp.square(target) if is_scalar else jnp.square(target).mean(-1)

    def formula(self) -> str:
        return f"|softmax({self.target})|^2" if self.normalized else f"mean({self.target}^2)"


@component("regularizers")
@dataclasses.dataclass(frozen=True)
class TargetOffset:
    """The squared mean of all of an update's logits, the same at every step: holds the offset that no softmax sees.

    Attributes:
      target: logits [T, B, D].
      cost: weight in the meta-loss; 1e-3 for pi_hat, y_hat and z_hat in the authors' notebook.
      on: the updates; on validation there are no targets.

    Source: the authors' meta-training notebook (google-deepmind/disco_rl).
    """

    target: str = "pi_hat"
    cost: float = 1e-3
    on: Literal["updates"] = "updates"

    def __call__(self, inputs: RegularizerInputs) -> Array:
        target = _target(inputs, self.target, self)
        of_steps = target.reshape(*inputs.action.shape, -1).mean(-1)
        return jnp.broadcast_to(jnp.square(weighted_mean(of_steps, inputs.weight)), inputs.action.shape)

    def formula(self) -> str:
        return f"mean({self.target})^2"


@component("regularizers")
@dataclasses.dataclass(frozen=True)
class TargetNetworkKL:
    """KL(target network's policy || target policy): keeps the targets of the policy close to what it lately was.

    Attributes:
      target: the target policy, as logits [T, B, A].
      head: the policy, of which the target network's output is compared; it takes no gradient.
      cost: weight in the meta-loss; 1e-2 in the authors' notebook.
      on: the updates; on validation there are no targets.

    Source: Oh et al., 2025, Methods (L_KL).
    """

    target: str = "pi_hat"
    head: str = "logits"
    cost: float = 1e-2
    on: Literal["updates"] = "updates"
    source: ClassVar[str] = "target"

    def __call__(self, inputs: RegularizerInputs) -> Array:
        if inputs.target_outputs is None:
            raise UserError("regularizers.TargetNetworkKL: the rule has no target network: bind its target_decay")
        policy = jax.lax.stop_gradient(inputs.target_outputs[self.head])
        return categorical_kl(policy, _target(inputs, self.target, self))

    def formula(self) -> str:
        return f"KL({self.head}' || {self.target})"
