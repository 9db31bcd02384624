"""What conformance checks run on: components built from their annotations alone, and random inputs for them."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from framework.context import FeatureContext
from framework.interfaces import KINDS, DistributionHead, Head, ValueHead
from framework.registry import components_of, parameters
from framework.specs import EnvironmentSpec
from framework.types import Array, Estimates, Outputs, PyTree, RuleInputs, Trajectory, transition_weight

EXAMPLE = "example"
"""The name that required strings get: every check offers a target, a hyperparameter, ... that is called so."""

SUMMARY_SIZE = 6
"""D of the trajectory core's output that targets read."""


class NoExampleError(TypeError):
    """A component that cannot be built from its annotations."""


def example(cls: type) -> Any:
    """An instance of a component with its defaults; what it requires is filled from the annotations.

    A required protocol gets the registered component of that kind that itself requires least, a sequence one item, a
    number a small positive value, a string the name ``example``.

    Raises:
      NoExampleError: a required parameter has an annotation that none of this fits.
    """
    required = [parameter for parameter in parameters(cls) if parameter.required]
    return cls(**{p.name: _example_value(p.annotation, f"{cls.__name__}.{p.name}") for p in required})


_SCALARS: dict[type, Any] = {bool: False, int: 2, float: 0.1, str: EXAMPLE, Path: Path(EXAMPLE)}


def _example_value(annotation: Any, where: str) -> Any:
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return arguments[0]
    if origin in (typing.Union, types.UnionType):
        return None if type(None) in arguments else _example_value(arguments[0], where)
    if origin in (tuple, list, Sequence):
        return (_example_value(arguments[0], where),)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return example(annotation)
    candidates = [cls for kind in KINDS if KINDS[kind] is annotation for cls in components_of(kind).values()]
    if candidates:
        return example(min(candidates, key=lambda cls: sum(parameter.required for parameter in parameters(cls))))
    raise NoExampleError(f"{where} has no example: give it a default, or register a component that fits")


def examples_of(kind: str) -> list[Any]:
    """An example of every registered component of a kind."""
    return [example(cls) for cls in components_of(kind).values()]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Steps T, trajectories B and actions A of random inputs."""

    steps: int
    batch: int
    actions: int

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec(observation_shape=(3, 2), num_actions=self.actions)


SMALLEST, SMALL = Sizes(steps=1, batch=1, actions=2), Sizes(steps=5, batch=3, actions=4)
"""What components are checked on; numbers that other sizes have as well would hide mistakes."""


def random_boundaries(rng: np.random.Generator, sizes: Sizes) -> tuple[Array, Array]:
    """Discounts and episode ends [T, B]: about a third of the steps end an episode, half of these by a limit."""
    shape = (sizes.steps, sizes.batch)
    last = rng.random(shape) < 0.3
    discount = np.where(last & (rng.random(shape) < 0.5), 0.0, 1.0)
    return jnp.asarray(discount, jnp.float32), jnp.asarray(last)


def random_normal(rng: np.random.Generator, *shape: int) -> Array:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def random_trajectory(rng: np.random.Generator, sizes: Sizes, carry: PyTree = ()) -> Trajectory:
    """A trajectory with random everything."""
    discount, last = random_boundaries(rng, sizes)
    shape = (sizes.steps, sizes.batch)
    return Trajectory(
        observation=random_normal(rng, sizes.steps + 1, sizes.batch, *sizes.spec.observation_shape),
        action=jnp.asarray(rng.integers(sizes.actions, size=shape), jnp.int32),
        reward=random_normal(rng, *shape),
        discount=discount,
        last=last,
        behaviour=random_normal(rng, *shape, sizes.actions),
        carry=carry,
    )


def output_shape(head: Head, sizes: Sizes) -> tuple[int, ...]:
    """[T+1, B, size], or [T+1, B, A, size] for an action-conditional head."""
    actions = (sizes.actions,) if head.action_conditional else ()
    return (sizes.steps + 1, sizes.batch, *actions, head.size(sizes.spec))


def random_outputs(rng: np.random.Generator, heads: Sequence[Head], sizes: Sizes) -> Outputs:
    """Raw outputs of heads."""
    return {head.name: random_normal(rng, *output_shape(head, sizes)) for head in heads}


def random_rule_inputs(rng: np.random.Generator, heads: Sequence[Head], sizes: Sizes) -> RuleInputs:
    """Inputs of a rule with the given heads, with a target network."""
    trajectory = random_trajectory(rng, sizes)
    return RuleInputs(
        outputs=random_outputs(rng, heads, sizes),
        target_outputs=random_outputs(rng, heads, sizes),
        behaviour=trajectory.behaviour,
        action=trajectory.action,
        reward=trajectory.reward,
        discount=trajectory.discount,
        last=trajectory.last,
        weight=transition_weight(trajectory.discount, trajectory.last),
        hyperparameters={EXAMPLE: jnp.asarray(0.5)},
        progress=jnp.asarray(0.25),
    )


def random_estimates(rng: np.random.Generator, sizes: Sizes, *, normalized: bool = True) -> Estimates:
    """Values and advantages of everything that an estimator may tell."""
    steps, batch, actions = sizes.steps, sizes.batch, sizes.actions
    estimates = Estimates(
        values=random_normal(rng, steps + 1, batch),
        returns=random_normal(rng, steps, batch),
        advantages=random_normal(rng, steps, batch),
        errors=random_normal(rng, steps, batch),
        action_values=random_normal(rng, steps + 1, batch, actions),
        action_advantages=random_normal(rng, steps + 1, batch, actions),
    )
    if not normalized:
        return estimates
    return estimates.replace(
        normalized_advantages=random_normal(rng, steps, batch),
        normalized_action_advantages=random_normal(rng, steps + 1, batch, actions),
        normalized_errors=random_normal(rng, steps, batch),
    )


class InContext(nn.Module):
    """A feature or a target, computed as in a meta-network."""

    component: Callable[[FeatureContext], Array]

    @nn.compact
    def __call__(self, inputs: RuleInputs, estimates: Estimates, summary: Array, targets: dict[str, Array]) -> Array:
        context = FeatureContext(inputs, estimates, dict(targets))
        context.summarize(summary)
        return self.component(context)


@dataclasses.dataclass(frozen=True)
class World:
    """A rule's inputs in which every registered head has outputs and every registered target a value.

    Components of a user's own find the heads and targets that they name once these are registered too.

    Attributes:
      sizes: T, B and A.
      heads: an example of every registered head, by name.
      inputs: the trajectory and the heads' outputs.
      estimates: values and advantages.
      summary: a trajectory core's output [T, B, D].
      targets: {name: [T, B, ...]}, and ``example`` [T, B, D].
    """

    sizes: Sizes
    heads: dict[str, Head]
    inputs: RuleInputs
    estimates: Estimates
    summary: Array
    targets: dict[str, Array]

    @property
    def context(self) -> tuple[RuleInputs, Estimates, Array, dict[str, Array]]:
        """The arguments of `InContext`."""
        return self.inputs, self.estimates, self.summary, self.targets


def world(sizes: Sizes, seed: int = 0) -> World:
    """The world of the components that are registered now; of heads with the same name, the one that tells most."""
    rng = np.random.default_rng(seed)
    heads: dict[str, Head] = {}
    for kind in (DistributionHead, ValueHead, Head):
        for head in examples_of("heads"):
            if isinstance(head, kind):
                heads.setdefault(head.name, head)
    inputs, estimates = random_rule_inputs(rng, list(heads.values()), sizes), random_estimates(rng, sizes)
    for head in heads.values():
        if isinstance(head, DistributionHead):
            logits = random_normal(rng, sizes.steps, sizes.batch, head.size(sizes.spec))
            estimates = estimates.replace(return_distributions=jax.nn.softmax(logits))
    summary = random_normal(rng, sizes.steps, sizes.batch, SUMMARY_SIZE)
    targets = {EXAMPLE: random_normal(rng, sizes.steps, sizes.batch, SUMMARY_SIZE)}
    for target in examples_of("targets"):
        if target.name not in targets:
            compute = InContext(target).init_with_output
            value, _ = jax.eval_shape(compute, jax.random.key(0), inputs, estimates, summary, targets)
            targets[target.name] = random_normal(rng, *value.shape)
    return World(sizes, heads, inputs, estimates, summary, targets)


def permuted_batch(tree: PyTree, order: np.ndarray, axis: int = 1) -> PyTree:
    """The trajectories of all leaves in another order; leaves without a batch axis as they are."""
    return jax.tree.map(lambda x: jnp.take(x, order, axis=axis) if x.ndim > axis else x, tree)


def permuted_actions(of: World, order: np.ndarray) -> World:
    """The same world with its actions numbered otherwise: the new action i is the old ``order[i]``."""
    more = dataclasses.replace(of.sizes, actions=of.sizes.actions + 1)

    def outputs(x: Outputs | None) -> Outputs | None:
        return x and {name: _permuted_output(x[name], of.heads[name], of.sizes, more, order) for name in x}

    def last_axis(x: Array) -> Array:
        return x[..., order] if x.ndim > 2 and x.shape[-1] == of.sizes.actions else x

    inputs = of.inputs.replace(
        outputs=outputs(of.inputs.outputs),
        target_outputs=outputs(of.inputs.target_outputs),
        behaviour=of.inputs.behaviour[..., order],
        action=jnp.asarray(np.argsort(order), jnp.int32)[of.inputs.action],
    )
    estimates, targets = jax.tree.map(last_axis, (of.estimates, of.targets))
    return dataclasses.replace(of, inputs=inputs, estimates=estimates, targets=targets)


def _permuted_output(x: Array, head: Head, sizes: Sizes, more: Sizes, order: np.ndarray) -> Array:
    # A head has one output per action if its size grows with the number of actions.
    if head.size(more.spec) == head.size(sizes.spec) + 1:
        x = x[..., order]
    return x[:, :, order] if head.action_conditional else x
