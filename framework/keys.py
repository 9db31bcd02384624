"""Randomness: every key is folded from the run's root key with a step and a role; no chain of keys is carried."""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp

from framework.types import Array


class Role(enum.IntEnum):
    """What a key is for. Values are part of what a seed means: append, never renumber."""

    META_PARAMS = 0
    PARAMS = 1
    RESET = 2
    ACT = 3
    REPLAY = 4
    MINIBATCHES = 5
    WARM_UP = 6
    EVALUATION = 7
    AGENT = 8
    BIRTH = 9
    VALIDATION = 10
    HELD_OUT = 11
    PLACE = 12


def root_key(seed: int) -> Array:
    """Key data of a run's root key [2] uint32."""
    return jax.random.key_data(jax.random.key(seed))


def role_key(root: Array, role: Role) -> Array:
    """The key of a role that is played once in a run."""
    return jax.random.fold_in(jax.random.wrap_key_data(root), role)


def agent_roots(root: Array, group: int, count: int) -> Array:
    """Root keys of a group's agents, from which all of their randomness is folded [P, 2] uint32."""
    of_group = jax.random.fold_in(role_key(root, Role.AGENT), group)
    fold = jax.vmap(lambda index: jax.random.key_data(jax.random.fold_in(of_group, index)))
    return fold(jnp.arange(count, dtype=jnp.uint32))


def step_key(root: Array, step: Array | int, role: Role) -> Array:
    """The key of a role at a step."""
    return jax.random.fold_in(role_key(root, role), step)
