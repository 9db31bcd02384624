"""Update rules: the heads an agent needs, the targets they are moved to, and the loss that moves them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, cast

from framework.errors import UserError, closest, did_you_mean
from framework.interfaces import Head, LossTerm, Normalizer, ValueEstimator, ValueHead
from framework.meta_network import MetaNetwork
from framework.numbers import resolve
from framework.registry import Problem, component
from framework.types import Array, Estimates, LossInputs, Params, PyTree, RuleCarry, RuleInputs

POLICY = "logits"
"""Name of the head that acts."""


@component("rules")
@dataclasses.dataclass(frozen=True)
class UpdateRule:
    """An update rule: heads + meta-network + loss terms; static where the meta-network has no parameters.

    Attributes:
      heads: outputs that the agent's network must have.
      meta_network: turns trajectories into targets.
      loss: terms that move the heads to the targets; the loss is the weighted mean over steps of their sum.
      value_estimator: returns and advantages, for features and targets that use them.
      normalizer: puts advantages on one scale.
      target_decay: share of the old values in the target parameters after an update; ``None`` without a target network.
    """

    heads: tuple[Head, ...]
    meta_network: MetaNetwork
    loss: tuple[LossTerm, ...]
    value_estimator: ValueEstimator | None = None
    normalizer: Normalizer | None = None
    target_decay: float | None = None

    def __post_init__(self) -> None:
        if self.target_decay is not None and not 0.0 <= self.target_decay < 1.0:
            raise ValueError(f"target_decay must lie in [0, 1), got {self.target_decay}")
        if not self.loss:
            raise ValueError("loss has no terms: nothing would be learned")
        if self.normalizer is not None and self.value_estimator is None:
            raise ValueError("a normalizer needs a value_estimator, whose advantages it normalizes")

    @property
    def uses_target_network(self) -> bool:
        return self.target_decay is not None

    def head(self, name: str) -> Head:
        return next(head for head in self.heads if head.name == name)

    def initial_carry(self) -> RuleCarry:
        """What the rule carries for a newborn agent."""
        normalizer = () if self.normalizer is None else self.normalizer.initial_carry()
        return RuleCarry(lifetime=self.meta_network.initial_carry(), normalizer=normalizer)

    def init(self, key: Array, inputs: RuleInputs) -> Params:
        """Meta-parameters drawn at random, for inputs of the given shapes; ``{}`` for a static rule."""
        estimates, _ = self.estimate(inputs, self.initial_carry().normalizer)
        return self.meta_network.init(key, inputs, estimates)

    def estimate(self, inputs: RuleInputs, carry: PyTree) -> tuple[Estimates | None, PyTree]:
        """Values, returns and advantages of a trajectory, and the normalizer's new carry."""
        if self.value_estimator is None:
            return None, carry
        estimates = self.value_estimator(inputs, cast(ValueHead, self.head(self.value_estimator.head)))
        if self.normalizer is None:
            return estimates, carry
        return self.normalizer(estimates, inputs.weight, carry)

    def targets(self, meta_params: Params, inputs: RuleInputs, carry: RuleCarry) -> tuple[dict[str, Array], RuleCarry]:
        """What the heads shall move to {target: [T, B, ...]}, and the rule's new carry."""
        estimates, normalizer = self.estimate(inputs, carry.normalizer)
        targets, lifetime = self.meta_network(meta_params, inputs, estimates, carry.lifetime)
        return targets, RuleCarry(lifetime=lifetime, normalizer=normalizer)

    def loss_terms_per_step(self, inputs: LossInputs, hyperparameters: dict[str, Array]) -> dict[str, Array]:
        """Each term times its cost {term: [T, B]}.

        Raises:
          UserError: where a term or its cost has other axes.
        """
        terms = {}
        for index, term in enumerate(self.loss):
            name = f"{index}_{type(term).__name__}_{term.head}"
            weighted = resolve(term.cost, hyperparameters, inputs.targets) * term(inputs, self.head(term.head))
            if weighted.shape != inputs.action.shape:
                raise UserError(
                    f"the loss term {name} times its cost has shape {list(weighted.shape)}, not one number per step "
                    f"{list(inputs.action.shape)}"
                )
            terms[name] = weighted
        return terms

    def problems(self) -> Sequence[Problem]:
        """What is inconsistent between heads, targets and what reads them."""
        return list(_problems(self))


def parts(component: Any) -> Iterator[Any]:
    """A component and all components inside it, depth first."""
    yield component
    for field in dataclasses.fields(component):
        if field.name in ("parent", "name"):
            continue
        value = getattr(component, field.name, None)
        for item in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(item) and not isinstance(item, type):
                yield from parts(item)


def _named(component: Any, field: str) -> str | None:
    """The name in a component's field ``head``, ``policy`` or ``target``, if it has that field."""
    has_field = any(f.name == field for f in dataclasses.fields(component))
    return getattr(component, field) if has_field else None


def _problems(rule: UpdateRule) -> Iterator[Problem]:
    heads: dict[str, Head] = {}
    for head in rule.heads:
        if head.name in heads:
            yield Problem(head, "name", f"two components claim the head '{head.name}'")
        heads[head.name] = head
    targets: dict[str, Any] = {}
    for target in rule.meta_network.targets:
        if target.name in targets:
            yield Problem(target, "name", f"two components claim the target '{target.name}'")
        targets[target.name] = target

    read = {POLICY}
    if POLICY not in heads:
        yield Problem(rule, "heads", f"no head is called '{POLICY}', which the agent acts by: add @heads.Policy()")
    for part in parts(rule):
        for field in ("head", "policy"):
            if (name := _named(part, field)) is not None:
                read.add(name)
                if name not in heads:
                    yield Problem(part, field, f"there is no head '{name}'{_near(name, heads)}")
        if (name := _named(part, "target")) is not None and name not in targets:
            yield Problem(part, "target", f"there is no target '{name}'{_near(name, targets)}")
        if getattr(part, "source", None) == "target" and not rule.uses_target_network:
            yield Problem(part, "source", "the rule has no target network: bind UpdateRule.target_decay")
    for name, head in heads.items():
        if name not in read:
            message = f"nothing reads the head '{name}': add a loss term or a feature, or leave it out"
            yield Problem(head, "name", message)

    estimator = rule.value_estimator
    if estimator is not None and not isinstance(heads.get(estimator.head), ValueHead | None):
        yield Problem(estimator, "head", f"the head '{estimator.head}' does not predict values")


def _near(name: str, names: dict[str, Any]) -> str:
    """How a message goes on after a name that does not exist."""
    return "." + (did_you_mean(closest(name, names)) or f" There are: {', '.join(names) or 'none'}.")
