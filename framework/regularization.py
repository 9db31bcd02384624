"""What regularizers of the meta-objective see of an update and of a validation trajectory, and what they say of it."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from framework.interfaces import Regularizer
from framework.transforms import at_action, weighted_mean
from framework.types import Array, Outputs, RegularizerInputs, RuleInputs, Trajectory
from framework.update_rule import UpdateRule


def seen_of_update(rule: UpdateRule, inputs: RuleInputs, targets: dict[str, Array]) -> RegularizerInputs:
    """What is seen of an update with these targets, computed from these inputs."""
    of_targets = inputs.target_outputs
    return RegularizerInputs(
        outputs=taken(rule, inputs.outputs, inputs.action),
        target_outputs=None if of_targets is None else taken(rule, of_targets, inputs.action),
        targets=targets,
        action=inputs.action,
        weight=inputs.weight,
    )


def seen_of_validation(outputs: Outputs, validation: Trajectory) -> RegularizerInputs:
    """What is seen of a validation trajectory.

    Args:
      outputs: {head: [T+1 or T, B, ...]} of the parameters judged, action-conditional heads at the action taken.
      validation: the trajectory [T, B].
    """
    steps = validation.action.shape[0]
    return RegularizerInputs(
        outputs={name: output[:steps] for name, output in outputs.items()},
        target_outputs=None,
        targets={},
        action=validation.action,
        weight=validation.weight,
    )


def taken(rule: UpdateRule, outputs: Outputs, action: Array) -> Outputs:
    """Outputs at the steps acted [T, B, ...], action-conditional heads at the action taken."""
    steps = {name: output[: action.shape[0]] for name, output in outputs.items()}
    conditional = {head.name for head in rule.heads if head.action_conditional}
    return {name: at_action(x, action) if name in conditional else x for name, x in steps.items()}


def regularization(regularizers: Sequence[Regularizer], inputs: RegularizerInputs) -> Array:
    """Weighted mean over steps of the regularizers' sum, each with its cost []."""
    normalizer = 1.0 / jnp.maximum(inputs.weight.sum(), 1.0)
    terms = [regularizer.cost * (regularizer(inputs) * inputs.weight).sum() for regularizer in regularizers]
    return sum(terms, start=jnp.zeros(())) * normalizer


def regularizer_means(regularizers: Sequence[Regularizer], inputs: RegularizerInputs) -> dict[str, Array]:
    """Weighted mean over steps of each regularizer by itself, without its cost, to log {name: []}."""
    return {
        f"regularizers_on_{regularizer.on}/{regularizer.formula()}": weighted_mean(regularizer(inputs), inputs.weight)
        for regularizer in regularizers
    }
