"""Heads that predict how returns are distributed, and not only their mean."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from framework.registry import component
from framework.specs import EnvironmentSpec
from framework.transforms import expectation, huber, project
from framework.types import Array


@dataclasses.dataclass(frozen=True)
class _ReturnDistribution(abc.ABC):
    """What they share: a return alone is a distribution that is sure of it."""

    @abc.abstractmethod
    def project(self, returns: Array, probabilities: Array) -> Array:
        """See `framework.interfaces.DistributionHead`."""

    @abc.abstractmethod
    def distribution_loss(self, output: Array, target: Array) -> Array:
        """See `framework.interfaces.DistributionHead`."""

    @abc.abstractmethod
    def distribution_formula(self, output: str, target: str) -> str:
        """See `framework.interfaces.DistributionHead`."""

    def loss(self, output: Array, target: Array) -> Array:
        sure = target[..., None]
        return self.distribution_loss(output, self.project(sure, jnp.ones_like(sure)))

    def formula(self, output: str, target: str) -> str:
        return self.distribution_formula(output, target)


@component("heads")
@dataclasses.dataclass(frozen=True)
class CategoricalReturns(_ReturnDistribution):
    """The distribution of returns after s, a as probabilities of evenly spaced atoms, learned by cross-entropy (C51).

    Attributes:
      name: of the head.
      minimum, maximum: the outermost atoms, in units of the returns; what lies beyond them is cut off.
      atoms: number of atoms K.

    Source: Bellemare et al., 2017, section 4.
    """

    name: str = "q"
    minimum: float = -10.0
    maximum: float = 10.0
    atoms: int = 51
    action_conditional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.minimum >= self.maximum:
            raise ValueError(f"minimum must be below maximum, got {self.minimum} and {self.maximum}")
        if self.atoms < 2:
            raise ValueError(f"atoms must be at least 2, got {self.atoms}")

    @property
    def support(self) -> Array:
        """The atoms [K]."""
        return jnp.linspace(self.minimum, self.maximum, self.atoms)

    def size(self, spec: EnvironmentSpec) -> int:
        return self.atoms

    def read(self, output: Array) -> Array:
        return expectation(output, self.support[:, None]).squeeze(-1)

    def distribution(self, output: Array) -> tuple[Array, Array]:
        return jnp.broadcast_to(self.support, output.shape), jax.nn.softmax(output)

    def project(self, returns: Array, probabilities: Array) -> Array:
        return project(returns, probabilities, self.support)

    def distribution_loss(self, output: Array, target: Array) -> Array:
        return -(target * jax.nn.log_softmax(output)).sum(-1)

    def distribution_formula(self, output: str, target: str) -> str:
        return f"CE({target}, {output})"


@component("heads")
@dataclasses.dataclass(frozen=True)
class QuantileActionValue(_ReturnDistribution):
    """The distribution of returns after s, a as equally probable quantiles, learned by the quantile Huber loss.

    Attributes:
      name: of the head.
      quantiles: number of quantiles K, at the middles (2 i + 1) / 2 K.
      threshold: error beyond which the loss is linear, in units of the returns.

    Source: Dabney et al., 2018, eq. 10 and algorithm 1.
    """

    name: str = "q"
    quantiles: int = 200
    threshold: float = 1.0
    action_conditional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.quantiles < 1:
            raise ValueError(f"quantiles must be at least 1, got {self.quantiles}")
        if self.threshold <= 0:
            raise ValueError(f"threshold must be positive, got {self.threshold}")

    def size(self, spec: EnvironmentSpec) -> int:
        return self.quantiles

    def read(self, output: Array) -> Array:
        return output.mean(-1)

    def distribution(self, output: Array) -> tuple[Array, Array]:
        return output, jnp.full(output.shape, 1.0 / self.quantiles)

    def project(self, returns: Array, probabilities: Array) -> Array:
        """The returns themselves: those of this head, and one alone, are equally probable."""
        return returns

    def distribution_loss(self, output: Array, target: Array) -> Array:
        middles = (jnp.arange(self.quantiles) + 0.5) / self.quantiles
        error = target[..., None, :] - output[..., :, None]
        share = jnp.abs(middles[:, None] - (error < 0))
        return (share * huber(error, self.threshold)).mean(-1).sum(-1)

    def distribution_formula(self, output: str, target: str) -> str:
        return f"quantile Huber({target} - {output})"
