"""Lifetimes: how many environment steps an agent lives before a newborn takes its place."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from framework.registry import component
from framework.types import Array


def _check_budgets(name: str, budgets: tuple[float, ...]) -> None:
    if not budgets or any(budget <= 0 for budget in budgets):
        raise ValueError(f"{name} must be positive numbers of environment steps, got {budgets}")


@component("lifetimes")
@dataclasses.dataclass(frozen=True)
class Fixed:
    """The same budget for every agent.

    Attributes:
      env_steps: of all of an agent's environments together; 3e6 in LPG's tabular grid worlds, 3e7 in its random ones
        (Oh et al., 2020).
    """

    env_steps: float

    def __post_init__(self) -> None:
        _check_budgets("env_steps", (self.env_steps,))

    def draw(self, key: Array) -> Array:
        return jnp.asarray(self.env_steps, jnp.float32)


@component("lifetimes")
@dataclasses.dataclass(frozen=True)
class InverselyProportional:
    """One of several budgets, the shorter the likelier: each gets the same share of all experience.

    Attributes:
      budgets: environment steps; drawn with weight 1 / budget.

    Source: Oh et al., 2025, Methods.
    """

    budgets: tuple[float, ...] = (200e6, 100e6, 50e6, 20e6)

    def __post_init__(self) -> None:
        _check_budgets("budgets", self.budgets)

    def draw(self, key: Array) -> Array:
        budgets = jnp.asarray(self.budgets, jnp.float32)
        return budgets[jax.random.categorical(key, -jnp.log(budgets))]
