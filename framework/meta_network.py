"""The meta-network: from a trajectory and an agent's predictions to the targets the agent moves to.

It is composed of components: features of each step, a trajectory core that reads them, a lifetime core that
remembers earlier updates, and targets, each learned or computed in closed form. Without learned parts it is
*static*: it has no parameters, and the update rule is a hand-made one.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from framework.context import FeatureContext
from framework.interfaces import Feature, LifetimeCore, Target, TrajectoryCore
from framework.layers import Linear
from framework.registry import component
from framework.types import Array, Estimates, Params, PyTree, RuleInputs


class TrajectoryNetwork(nn.Module):
    """Features, trajectory core, targets: what computes the targets of one update."""

    features: tuple[Feature, ...]
    core: TrajectoryCore | None
    targets: tuple[Target, ...]

    @nn.compact
    def __call__(self, inputs: RuleInputs, estimates: Estimates | None, lifetime: Array | None) -> dict[str, Array]:
        """{target: [T, B, ...]}, given what the lifetime core remembers [D] (``None`` without one)."""
        context = FeatureContext(inputs, estimates)
        if self.core is not None:
            x = jnp.concatenate([context.compute(feature) for feature in self.features], axis=-1)
            summary = self.core(x, inputs.last)
            if lifetime is not None:
                summary = summary * Linear(summary.shape[-1], name="lifetime", stddev=1.0)(lifetime)
            context.summarize(summary)
        for target in self.targets:
            context.targets[target.name] = target(context)
        return context.targets


class LifetimeNetwork(nn.Module):
    """Features and lifetime core: what the rule remembers of an agent's earlier updates."""

    features: tuple[Feature, ...]
    core: LifetimeCore

    @nn.compact
    def __call__(
        self, inputs: RuleInputs, estimates: Estimates | None, targets: dict[str, Array], carry: PyTree
    ) -> PyTree:
        context = FeatureContext(inputs, estimates, targets)
        x = jnp.concatenate([context.compute(feature) for feature in self.features], axis=-1)
        return self.core(x, inputs.weight, carry)


class MetaNetworkModule(nn.Module):
    """Both networks under one set of meta-parameters."""

    trajectory: TrajectoryNetwork
    lifetime: LifetimeNetwork | None

    def __call__(
        self, inputs: RuleInputs, estimates: Estimates | None, carry: PyTree
    ) -> tuple[dict[str, Array], PyTree]:
        memory = None if self.lifetime is None else self.lifetime.core.read(carry)
        targets = self.trajectory(inputs, estimates, memory)
        if self.lifetime is not None:
            carry = self.lifetime(inputs, estimates, targets, carry)
        return targets, carry


@component("meta_networks")
@dataclasses.dataclass(frozen=True)
class MetaNetwork:
    """The part of an update rule that is discovered.

    Attributes:
      targets: what the agent's heads are moved to, in the order in which they are computed.
      features: what the trajectory core sees of each step.
      core: reads the features of a trajectory; ``None`` for a static rule.
      lifetime_features: what the lifetime core sees of each step, targets included.
      lifetime_core: remembers earlier updates of the same agent; ``None`` for a rule without such a memory.

    Source: Oh et al., 2025, Fig. 1 and Methods.
    """

    targets: tuple[Target, ...]
    features: tuple[Feature, ...] = ()
    core: TrajectoryCore | None = None
    lifetime_features: tuple[Feature, ...] = ()
    lifetime_core: LifetimeCore | None = None

    def __post_init__(self) -> None:
        learned = [target.name for target in self.targets if target.learned]
        if learned and self.core is None:
            raise ValueError(f"the learned targets {', '.join(learned)} need a trajectory core: bind 'core'")
        if self.core is not None and not self.features:
            raise ValueError("the trajectory core has no features to read: bind 'features'")
        if self.lifetime_core is not None and (self.core is None or not self.lifetime_features):
            raise ValueError("a lifetime core needs a trajectory core and 'lifetime_features'")

    @property
    def module(self) -> MetaNetworkModule:
        lifetime = None
        if self.lifetime_core is not None:
            lifetime = LifetimeNetwork(self.lifetime_features, self.lifetime_core)
        return MetaNetworkModule(TrajectoryNetwork(self.features, self.core, self.targets), lifetime)

    def init(self, key: Array, inputs: RuleInputs, estimates: Estimates | None) -> Params:
        """Meta-parameters drawn at random; ``{}`` for a static rule."""
        variables = self.module.init(key, inputs, estimates, self.initial_carry())
        return variables.get("params", {})

    def initial_carry(self) -> PyTree:
        """What a newborn agent's lifetime core remembers; an empty tuple without one."""
        return () if self.lifetime_core is None else self.lifetime_core.initial_carry()

    def __call__(
        self, meta_params: Params, inputs: RuleInputs, estimates: Estimates | None, carry: PyTree
    ) -> tuple[dict[str, Array], PyTree]:
        """Targets {name: [T, B, ...]} of one update, and the lifetime core's new carry."""
        return self.module.apply({"params": meta_params}, inputs, estimates, carry)
