"""What an experiment is made of: shapes, sizes and formulas, all found out without computing anything."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from framework import keys, registry
from framework.context import FeatureContext
from framework.description import (
    AgentDescription,
    Component,
    Description,
    EnvironmentDescription,
    FeatureDescription,
    HeadDescription,
    LossDescription,
    LossTermDescription,
    MemoryDescription,
    MetaNetworkDescription,
    ParameterArray,
    Parameters,
    RuleDescription,
    ScheduleDescription,
    TargetDescription,
)
from framework.interfaces import ActionFeature, Feature, LossTerm, Number, TrajectoryCore
from framework.meta_network import MetaNetwork
from framework.numbers import Hyperparameter, Output
from framework.train import Trainer
from framework.types import ActorState, Array, Estimates, LearnerState, Outputs, Params, PyTree, RuleInputs
from framework.update_rule import UpdateRule, parts

_INNERMOST_PARENTHESES = re.compile(r"\([^()]*\)")


def describe(trainer: Trainer) -> Description:
    """What a trainer's experiment is composed of; shapes come from tracing, and no device does any work."""
    experiment, shapes = trainer.experiment, _shapes(trainer)
    spec = trainer.environments.environment.spec
    return Description(
        environment=EnvironmentDescription(
            suite=configuration(experiment.suite),
            task=trainer.task,
            observation_shape=spec.observation_shape,
            observation_dtype=spec.observation_dtype,
            num_actions=spec.num_actions,
        ),
        heads=_heads(experiment.rule, shapes.outputs),
        agent=AgentDescription(
            torso=configuration(experiment.agent.torso),
            action_model=_configured(experiment.agent.action_model),
            optimizer=configuration(experiment.agent.optimizer),
            parameters=_parameters(shapes.learner.params),
        ),
        rule=RuleDescription(
            meta_network=_meta_network(trainer, shapes),
            loss=_loss(experiment.rule),
            value_estimator=_configured(experiment.rule.value_estimator),
            normalizer=_configured(experiment.rule.normalizer),
            target_decay=experiment.rule.target_decay,
            hyperparameters=experiment.hyperparameters(),
        ),
        schedule=_schedule(trainer, shapes),
        memory_megabytes=_memory(shapes),
    )


def configuration(component: Any) -> Component:
    """A component's parameters, with those of the components inside it."""
    cls = type(component)
    values = {parameter: getattr(component, parameter.name) for parameter in registry.parameters(cls)}
    return Component(
        kind=_kind(component),
        name=cls.__name__,
        parameters={parameter.name: _configured(value) for parameter, value in values.items()},
        changed=tuple(p.name for p, value in values.items() if p.required or value != p.default),
    )


def loss_formula(terms: Sequence[LossTermDescription]) -> str:
    """The sum of costs times terms."""
    return " + ".join(map(weighted, terms)).replace(" + -", " - ")


def weighted(term: LossTermDescription) -> str:
    """A cost times a formula; a minus sign in front of the formula goes to the cost."""
    formula = f"({term.formula})" if _is_sum(term.formula) else term.formula
    negative = formula.startswith("-")
    if isinstance(term.cost, str):
        cost = f"-{term.cost}" if negative else term.cost
    else:
        cost = f"{-term.cost if negative else term.cost:g}"
    formula = formula.removeprefix("-")
    return f"{cost} * {formula}" if formula[:1].isdigit() else f"{cost} {formula}"


class _Shapes(NamedTuple):
    """Shapes and dtypes of all that an update touches."""

    learner: LearnerState
    actor: ActorState
    replay: PyTree
    action: Array
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


def _shapes(trainer: Trainer) -> _Shapes:
    """Traces a newborn agent's first update, short of the gradient."""
    experiment, learner = trainer.experiment, trainer.learner
    rule, meta_network = experiment.rule, experiment.rule.meta_network

    def first_update(key: Array) -> _Shapes:
        newborn, actor = trainer.newborn(key)
        actor, fresh = trainer.act(newborn, actor, key)
        replay = experiment.replay.init(fresh)
        inputs = learner.rule_inputs(newborn, experiment.replay.sample(replay, key, fresh))
        meta_params = rule.init(key, inputs)
        targets, carry = rule.targets(meta_params, inputs, newborn.rule_carry)
        estimates, _ = rule.estimate(inputs, newborn.rule_carry.normalizer)
        seen = _Features(_all_features(meta_network), meta_network.features, meta_network.core)
        (features, summary), _ = seen.init_with_output(key, inputs, estimates, targets)
        lifetime_core = meta_network.lifetime_core
        return _Shapes(
            learner=newborn,
            actor=actor,
            replay=replay,
            action=inputs.action,
            outputs=inputs.outputs,
            meta_params=meta_params,
            targets=targets,
            features=features,
            summary=summary,
            lifetime=None if lifetime_core is None else lifetime_core.read(carry.lifetime),
        )

    return jax.eval_shape(first_update, jax.eval_shape(keys.root_key, experiment.seed))


def _heads(rule: UpdateRule, outputs: Outputs) -> tuple[HeadDescription, ...]:
    return tuple(
        HeadDescription(
            name=head.name,
            shape=outputs[head.name].shape,
            dtype=outputs[head.name].dtype.name,
            action_conditional=head.action_conditional,
            grown_by="action_model" if head.action_conditional else "torso",
            component=configuration(head),
        )
        for head in rule.heads
    )


def _meta_network(trainer: Trainer, shapes: _Shapes) -> MetaNetworkDescription:
    meta_network = trainer.experiment.rule.meta_network
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
        weights=configuration(trainer.experiment.weights),
        features=sized(meta_network.features),
        core=_configured(meta_network.core),
        core_size=0 if shapes.summary is None else shapes.summary.shape[-1],
        lifetime_features=sized(meta_network.lifetime_features),
        lifetime_core=_configured(meta_network.lifetime_core),
        lifetime_size=0 if shapes.lifetime is None else shapes.lifetime.shape[-1],
        action_features=sized(_action_features(meta_network)),
        targets=targets,
        parameters=_parameters(shapes.meta_params),
    )


def _all_features(meta_network: MetaNetwork) -> tuple[Any, ...]:
    """Every feature of steps and actions once."""
    features = (*meta_network.features, *meta_network.lifetime_features, *_action_features(meta_network))
    return tuple(dict.fromkeys(features))


def _action_features(meta_network: MetaNetwork) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(part for part in parts(meta_network) if _kind(part) == "action_features"))


def _loss(rule: UpdateRule) -> LossDescription:
    terms = tuple(
        LossTermDescription(
            head=term.head,
            cost=_cost(term),
            formula=term.formula(rule.head(term.head)),
            component=configuration(term),
        )
        for term in rule.loss
    )
    return LossDescription(formula=loss_formula(terms), terms=terms)


def _cost(term: LossTerm) -> float | str:
    match term.cost:
        case Hyperparameter(name=name):
            return name
        case Output(target=target):
            return target
        case Number() as number:
            return type(number).__name__
        case constant:
            return float(constant)


def _is_sum(formula: str) -> bool:
    """Whether a formula has terms of its own, outside all parentheses."""
    outside, count = formula, 1
    while count:
        outside, count = _INNERMOST_PARENTHESES.subn("", outside)
    return " + " in outside or " - " in outside


def _schedule(trainer: Trainer, shapes: _Shapes) -> ScheduleDescription:
    experiment = trainer.experiment
    batch_size = shapes.action.shape[1]
    fresh = experiment.replay.fresh_of_batch(experiment.num_environments)
    return ScheduleDescription(
        updates=experiment.steps,
        env_steps=trainer.env_steps(experiment.steps),
        env_steps_per_update=trainer.env_steps(1) - trainer.env_steps(0),
        warm_up_env_steps=trainer.env_steps(0),
        num_environments=experiment.num_environments,
        trajectory_length=experiment.trajectory_length,
        epochs=experiment.epochs,
        minibatches=experiment.minibatches,
        gradient_steps_per_update=experiment.epochs * experiment.minibatches,
        batch_size=batch_size,
        fresh=fresh,
        replayed=batch_size - fresh,
        replay=configuration(experiment.replay),
        replay_capacity=experiment.replay.capacity,
        replay_ratio=1.0 - fresh / batch_size,
        uses_per_transition=experiment.epochs * batch_size / experiment.num_environments,
        evaluation=configuration(experiment.evaluation),
        seed=experiment.seed,
    )


def _memory(shapes: _Shapes) -> MemoryDescription:
    learner = shapes.learner
    parts = {
        "agent_params": _megabytes(learner.params),
        "optimizer": _megabytes(learner.opt_state),
        "target_params": _megabytes(learner.target_params),
        "meta_params": _megabytes(shapes.meta_params),
        "rule_carry": _megabytes((learner.rule_carry, learner.hyperparameters, learner.updates)),
        "actor": _megabytes(shapes.actor),
        "replay": _megabytes(shapes.replay),
    }
    return MemoryDescription(parts=parts, total=sum(parts.values()))


def _megabytes(tree: PyTree) -> float:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e6


def _parameters(params: Params) -> Parameters:
    arrays = tuple(
        ParameterArray(
            path=jax.tree_util.keystr(path, simple=True, separator="/"),
            shape=leaf.shape,
            dtype=leaf.dtype.name,
            size=leaf.size,
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    )
    sizes: collections.Counter[str] = collections.Counter()
    for array in arrays:
        sizes[array.path.split("/")[0]] += array.size
    return Parameters(count=sizes.total(), parts=dict(sizes), arrays=arrays)


def _kind(component: Any) -> str:
    selector = registry.selector_of(type(component))
    return selector.split(".")[0] if selector else ""


def _configured(value: Any) -> Any:
    """A parameter's value, with components described and all other objects named."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [_configured(item) for item in value]
        case dict():
            return {str(key): _configured(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return configuration(value)
    return getattr(value, "__name__", type(value).__name__)
