"""Update rules: the heads an agent needs, the targets they are moved to, and the loss that moves them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, cast

import jax.numpy as jnp

from framework.errors import UserError, closest, did_you_mean
from framework.interfaces import Behaviour, Head, LossTerm, Normalizer, ValueEstimator, ValueHead
from framework.meta_network import MetaNetwork
from framework.numbers import Hyperparameter, Learned, resolve
from framework.registry import Problem, component
from framework.types import Array, Estimates, LossInputs, Params, PyTree, RuleCarry, RuleInputs

POLICY = "logits"
"""Name of the head that acts, unless the rule has a behaviour of its own."""

NUMBERS = "numbers"
"""Where the meta-parameters hold the learned numbers, beside those of the meta-network's parts."""


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
      behaviour: how agents act; by default they sample from the head ``logits``.
      target_decay: share of the old values in the target parameters after an update; ``None`` without a target network.
    """

    heads: tuple[Head, ...]
    meta_network: MetaNetwork
    loss: tuple[LossTerm, ...]
    value_estimator: ValueEstimator | None = None
    normalizer: Normalizer | None = None
    behaviour: Behaviour | None = None
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

    @property
    def learned_numbers(self) -> tuple[Learned, ...]:
        """The numbers that are discovered with the rule, each once."""
        return tuple(dict.fromkeys(part for part in parts(self) if isinstance(part, Learned)))

    def head(self, name: str) -> Head:
        return next(head for head in self.heads if head.name == name)

    @property
    def acting_head(self) -> str:
        """Name of the head that agents act by."""
        return POLICY if self.behaviour is None else self.behaviour.head

    def policy(self, output: Array, hyperparameters: dict[str, Array]) -> Array:
        """Logits of what agents do [..., A], from the raw output of the head that they act by."""
        if self.behaviour is None:
            return output
        return self.behaviour(output, self.head(self.behaviour.head), hyperparameters)

    def greedy(self) -> UpdateRule:
        """The rule with agents that act without exploration; where they sample from a policy, the rule itself."""
        return self if self.behaviour is None else dataclasses.replace(self, behaviour=self.behaviour.greedy())

    def initial_carry(self) -> RuleCarry:
        """What the rule carries for a newborn agent."""
        normalizer = () if self.normalizer is None else self.normalizer.initial_carry()
        return RuleCarry(lifetime=self.meta_network.initial_carry(), normalizer=normalizer)

    def init(self, key: Array, inputs: RuleInputs) -> Params:
        """Meta-parameters drawn at random, for inputs of the given shapes; ``{}`` for a static rule."""
        numbers = {number.name: number.init() for number in self.learned_numbers}
        meta_params = {NUMBERS: numbers} if numbers else {}
        inputs = self.with_learned_numbers(meta_params, inputs)
        estimates, _ = self.estimate(inputs, self.initial_carry().normalizer)
        return meta_params | self.meta_network.init(key, inputs, estimates)

    def with_learned_numbers(self, meta_params: Params, inputs: RuleInputs) -> RuleInputs:
        """The inputs, with the learned numbers among the hyperparameters."""
        numbers = {number.name: number.value(meta_params[NUMBERS][number.name]) for number in self.learned_numbers}
        return inputs.replace(hyperparameters=inputs.hyperparameters | numbers)

    def estimate(self, inputs: RuleInputs, carry: PyTree) -> tuple[Estimates | None, PyTree]:
        """Values, returns and advantages of a trajectory, and the normalizer's new carry.

        Learned numbers must be among the inputs' hyperparameters; see `with_learned_numbers`.
        """
        if self.value_estimator is None:
            return None, carry
        estimates = self.value_estimator(inputs, cast(ValueHead, self.head(self.value_estimator.head)))
        if self.normalizer is None:
            return estimates, carry
        return self.normalizer(estimates, inputs.weight, carry)

    def errors(self, meta_params: Params, inputs: RuleInputs) -> Array:
        """Mean absolute error of each trajectory's value estimates [B].

        Raises:
          UserError: for a rule without a value estimator.
        """
        estimates, _ = self.estimate(self.with_learned_numbers(meta_params, inputs), self.initial_carry().normalizer)
        if estimates is None:
            raise UserError("priorities are errors of value estimates: bind UpdateRule.value_estimator")
        total = (jnp.abs(estimates.errors) * inputs.weight).sum(0)
        return total / jnp.maximum(inputs.weight.sum(0), 1.0)

    def targets(self, meta_params: Params, inputs: RuleInputs, carry: RuleCarry) -> tuple[dict[str, Array], RuleCarry]:
        """What the heads shall move to {target: [T, B, ...]}, and the rule's new carry.

        Learned numbers are among the targets too, the same at each step [T, B]: what flows from the meta-parameters
        into the loss flows through the targets alone.
        """
        inputs = self.with_learned_numbers(meta_params, inputs)
        estimates, normalizer = self.estimate(inputs, carry.normalizer)
        of_network = {name: params for name, params in meta_params.items() if name != NUMBERS}
        targets, lifetime = self.meta_network(of_network, inputs, estimates, carry.lifetime)
        numbers = {number.name: inputs.hyperparameters[number.name] for number in self.learned_numbers}
        per_step = {name: jnp.broadcast_to(value, inputs.action.shape) for name, value in numbers.items()}
        return targets | per_step, RuleCarry(lifetime=lifetime, normalizer=normalizer)

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
    """The name in a component's field ``head``, ``policy``, ``target`` or ``old``, if it has that field."""
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

    yield from _number_problems(rule, targets)

    read: set[str | None] = {rule.acting_head}
    read_targets: set[str | None] = set()
    if rule.behaviour is None and POLICY not in heads:
        message = f"no head is called '{POLICY}', which the agent acts by: add @heads.Policy(), or bind 'behaviour'"
        yield Problem(rule, "heads", message)
    for part in parts(rule):
        read.update(name for field in ("head", "policy") if (name := _named(part, field)) is not None)
        read_targets.update(_named(part, field) for field in ("target", "old"))
        yield from problems_of_reading(rule, part)
    for name, head in heads.items():
        if name not in read:
            message = f"nothing reads the head '{name}': add a loss term or a feature, or leave it out"
            yield Problem(head, "name", message)
    for name, target in targets.items():
        if name not in read_targets:
            message = f"nothing reads the target '{name}': add a loss term or a feature, or leave it out"
            yield Problem(target, "name", message)

    estimator = rule.value_estimator
    if estimator is not None and not isinstance(heads.get(estimator.head), ValueHead | None):
        yield Problem(estimator, "head", f"the head '{estimator.head}' does not predict values")


def _number_problems(rule: UpdateRule, targets: dict[str, Any]) -> Iterator[Problem]:
    carried = {part.name for part in parts(rule) if isinstance(part, Hyperparameter)}
    numbers: dict[str, Learned] = {}
    for number in rule.learned_numbers:
        if numbers.setdefault(number.name, number) != number:
            yield Problem(number, "initial", f"the learned number '{number.name}' is configured in two ways")
        if number.name in targets:
            yield Problem(number, "name", f"a target is called '{number.name}' too: rename one of them")
        if number.name in carried:
            yield Problem(number, "name", f"a hyperparameter is called '{number.name}' too: rename one of them")


def problems_of_reading(rule: UpdateRule, part: Any) -> Iterator[Problem]:
    """Heads, targets and a target network that a component reads and the rule does not have."""
    heads = [head.name for head in rule.heads]
    targets = [target.name for target in rule.meta_network.targets]
    for field, known in {"head": heads, "policy": heads, "target": targets, "old": targets}.items():
        name = _named(part, field)
        if name is not None and name not in known:
            what = "target" if known is targets else "head"
            yield Problem(part, field, f"there is no {what} '{name}'{_near(name, known)}")
    if getattr(part, "source", None) == "target" and not rule.uses_target_network:
        of_file = "source" if "source" in {field.name for field in dataclasses.fields(part)} else None
        message = f"{type(part).__name__} reads the target network, and the rule has none: bind UpdateRule.target_decay"
        yield Problem(part, of_file, message)


def _near(name: str, names: Sequence[str]) -> str:
    """How a message goes on after a name that does not exist."""
    return "." + (did_you_mean(closest(name, names)) or f" There are: {', '.join(names) or 'none'}.")
