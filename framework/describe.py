"""What an experiment is made of: shapes, sizes and formulas, all found out without computing anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from framework.agent import takes_index
from framework.configuration import configuration, configured, describe_number, kind_of
from framework.context import FeatureContext
from framework.describe_population import (
    describe_devices,
    describe_group,
    describe_held_out,
    memory_of_run,
    parameters_of,
)
from framework.description import (
    Description,
    DiscoveryDescription,
    FeatureDescription,
    HeadDescription,
    LossDescription,
    LossTermDescription,
    MetaLossDescription,
    MetaNetworkDescription,
    RegularizerDescription,
    RuleDescription,
    ScheduleDescription,
    TargetDescription,
)
from framework.discovery import Discovery
from framework.experiment import Experiment
from framework.interfaces import ActionFeature, Feature, Head, Number, TrajectoryCore
from framework.lifecycle import Lifecycle
from framework.meta_network import MetaNetwork
from framework.train import Trainer
from framework.types import Array, Estimates, Outputs, Params, RuleInputs, Trajectory
from framework.update_rule import UpdateRule, parts

_INNERMOST_PARENTHESES = re.compile(r"\([^()]*\)")


def describe(trainer: Trainer, devices: int | None = None, hosts: int = 1) -> Description:
    """What a trainer's experiment is composed of; shapes come from tracing, and no device does any work.

    The step itself is not traced, which takes long where meta-gradients are part of it.

    Args:
      trainer: of the experiment.
      devices: on how many devices of each host the state is to be spread in thought.
      hosts: on how many hosts.
    """
    experiment, populations = trainer.experiment, trainer.populations
    shapes = _shapes(populations[0].lifecycle)
    groups = tuple(describe_group(population, shapes.meta_params, experiment.steps) for population in populations)
    discovery, held_out = experiment.discovery, experiment.held_out
    memory = memory_of_run(trainer, groups, shapes.meta_params)
    return Description(
        groups=groups,
        heads=_heads(populations[0].lifecycle, shapes.outputs),
        rule=RuleDescription(
            meta_network=_meta_network(experiment, shapes),
            loss=_loss(experiment.rule),
            value_estimator=configured(experiment.rule.value_estimator),
            normalizer=configured(experiment.rule.normalizer),
            behaviour=configured(experiment.rule.behaviour),
            target_decay=experiment.rule.target_decay,
            learned_numbers=tuple(map(describe_number, experiment.rule.learned_numbers)),
        ),
        discovery=None if discovery is None else _discovery(discovery, shapes.meta_params),
        held_out=None if held_out is None else describe_held_out(held_out, experiment, shapes.meta_params),
        schedule=ScheduleDescription(
            steps=experiment.steps,
            updates=experiment.steps * trainer.updates_per_step,
            env_steps=trainer.env_steps(experiment.steps),
            env_steps_per_step=trainer.env_steps(1) - trainer.env_steps(0),
            warm_up_env_steps=trainer.env_steps(0),
            evaluation=configuration(experiment.evaluation),
            seed=experiment.seed,
        ),
        memory_megabytes=memory,
        devices=None if devices is None else describe_devices(groups, memory, devices, hosts),
    )


def loss_formula(terms: Sequence[LossTermDescription]) -> str:
    """The sum of costs times terms."""
    return _sum(map(weighted, terms))


def weighted(term: LossTermDescription | RegularizerDescription) -> str:
    """A cost times a formula; a minus sign in front of the formula goes to the cost."""
    formula = f"({term.formula})" if _is_sum(term.formula) else term.formula
    negative = formula.startswith("-")
    if isinstance(term.cost, str):
        cost = f"-{term.cost}" if negative else term.cost
    else:
        cost = f"{-term.cost if negative else term.cost:g}"
    formula = formula.removeprefix("-")
    return f"{cost} * {formula}" if formula[:1].isdigit() else f"{cost} {formula}"


def _sum(terms: Iterable[str]) -> str:
    return " + ".join(terms).replace(" + -", " - ")


class _Shapes(NamedTuple):
    """Shapes and dtypes of what a first update sees and computes."""

    outputs: Outputs
    meta_params: Params
    targets: Outputs
    features: tuple[Array, ...]
    summary: Array | None
    lifetime: Array | None


class _Features(nn.Module):
    """Features, each on its own, and the trajectory core's summary of those that it sees."""

    features: tuple[Feature | ActionFeature, ...]
    seen: tuple[Feature, ...]
    core: TrajectoryCore | None

    @nn.compact
    def __call__(
        self, inputs: RuleInputs, estimates: Estimates | None, targets: Outputs
    ) -> tuple[tuple[Array, ...], Array | None]:
        context = FeatureContext(inputs, estimates, targets)
        features = tuple(context.compute(feature) for feature in self.features)
        if self.core is None:
            return features, None
        return features, self.core(jnp.concatenate([context.compute(f) for f in self.seen], axis=-1), inputs.last)


def _shapes(lifecycle: Lifecycle) -> _Shapes:
    """Traces a newborn agent's first update, short of the gradient."""
    rule, meta_network = lifecycle.rule, lifecycle.rule.meta_network

    def first_update(batch: Trajectory) -> _Shapes:
        key = jax.random.key(0)
        newborn = lifecycle.learner.init(lifecycle.network.init(key), lifecycle.hyperparameters())
        inputs = lifecycle.learner.rule_inputs(newborn, batch)
        meta_params = rule.init(key, inputs)
        targets, carry = rule.targets(meta_params, inputs, newborn.rule_carry)
        inputs = rule.with_learned_numbers(meta_params, inputs)
        estimates, _ = rule.estimate(inputs, newborn.rule_carry.normalizer)
        seen = _Features(_all_features(meta_network), meta_network.features, meta_network.core)
        (features, summary), _ = seen.init_with_output(key, inputs, estimates, targets)
        lifetime_core = meta_network.lifetime_core
        return _Shapes(
            outputs=inputs.outputs,
            meta_params=meta_params,
            targets=targets,
            features=features,
            summary=summary,
            lifetime=None if lifetime_core is None else lifetime_core.read(carry.lifetime),
        )

    return jax.eval_shape(first_update, lifecycle.example_batch)


def _heads(lifecycle: Lifecycle, outputs: Outputs) -> tuple[HeadDescription, ...]:
    agent = lifecycle.group.agent

    def grown_by(head: Head) -> str:
        if takes_index(agent.torso):
            return "table"
        if any(own.head == head.name and own.torso is not None for own in agent.head_networks):
            return "own_torso"
        return "action_model" if head.action_conditional else "torso"

    return tuple(
        HeadDescription(
            name=head.name,
            shape=outputs[head.name].shape,
            dtype=outputs[head.name].dtype.name,
            action_conditional=head.action_conditional,
            grown_by=grown_by(head),
            component=configuration(head),
        )
        for head in lifecycle.rule.heads
    )


def _meta_network(experiment: Experiment, shapes: _Shapes) -> MetaNetworkDescription:
    meta_network = experiment.rule.meta_network
    sizes = dict(zip(_all_features(meta_network), (x.shape[-1] for x in shapes.features), strict=True))

    def sized(features: Iterable[Any]) -> tuple[FeatureDescription, ...]:
        return tuple(FeatureDescription(size=sizes[feature], component=configuration(feature)) for feature in features)

    targets = tuple(
        TargetDescription(
            name=target.name,
            shape=shapes.targets[target.name].shape,
            dtype=shapes.targets[target.name].dtype.name,
            learned=target.learned,
            component=configuration(target),
        )
        for target in meta_network.targets
    )
    return MetaNetworkDescription(
        static=not jax.tree.leaves(shapes.meta_params),
        weights=configuration(experiment.weights),
        features=sized(meta_network.features),
        core=configured(meta_network.core),
        core_size=0 if shapes.summary is None else shapes.summary.shape[-1],
        lifetime_features=sized(meta_network.lifetime_features),
        lifetime_core=configured(meta_network.lifetime_core),
        lifetime_size=0 if shapes.lifetime is None else shapes.lifetime.shape[-1],
        action_features=sized(_action_features(meta_network)),
        targets=targets,
        parameters=parameters_of(shapes.meta_params),
    )


def _all_features(meta_network: MetaNetwork) -> tuple[Any, ...]:
    """Every feature of steps and actions once."""
    features = (*meta_network.features, *meta_network.lifetime_features, *_action_features(meta_network))
    return tuple(dict.fromkeys(features))


def _action_features(meta_network: MetaNetwork) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(part for part in parts(meta_network) if kind_of(part) == "action_features"))


def _loss(rule: UpdateRule) -> LossDescription:
    terms = tuple(
        LossTermDescription(
            head=term.head,
            cost=term.cost.symbol() if isinstance(term.cost, Number) else float(term.cost),
            formula=term.formula(rule.head(term.head)),
            component=configuration(term),
        )
        for term in rule.loss
    )
    return LossDescription(formula=loss_formula(terms), terms=terms)


def _is_sum(formula: str) -> bool:
    """Whether a formula has terms of its own, outside all parentheses."""
    outside, count = formula, 1
    while count:
        outside, count = _INNERMOST_PARENTHESES.subn("", outside)
    return " + " in outside or " - " in outside


def _discovery(discovery: Discovery, meta_params: Params) -> DiscoveryDescription:
    return DiscoveryDescription(
        meta_loss=_meta_loss(discovery),
        objective=configuration(discovery.objective),
        optimizer=configuration(discovery.optimizer),
        separate_optimizers=discovery.separate_optimizers,
        meta_parameters=parameters_of(meta_params).count,
        inner_updates=discovery.inner_updates,
        stride=discovery.new_updates,
        max_gradient_norm=discovery.max_gradient_norm,
        max_parameter=discovery.max_parameter,
        max_faulty_share=discovery.max_faulty_share,
        max_replay_error=discovery.max_replay_error,
    )


def _meta_loss(discovery: Discovery) -> MetaLossDescription:
    regularizers = tuple(
        RegularizerDescription(
            on=regularizer.on,
            cost=regularizer.cost,
            formula=regularizer.formula(),
            component=configuration(regularizer),
        )
        for regularizer in discovery.regularizers
    )
    objective = discovery.objective.formula()
    means = [f"{term.cost:g} mean_{term.on}({term.formula})" for term in regularizers]
    return MetaLossDescription(
        formula=_sum([f"mean_validation({objective})", *means]), objective=objective, regularizers=regularizers
    )
