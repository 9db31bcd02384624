"""Randomness: every key has one use."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from framework import keys
from framework.config import load
from framework.experiment import Experiment
from framework.keys import Role
from framework.train import Trainer


def data(key: jax.Array) -> tuple[int, ...]:
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_keys_of_all_roles_and_steps_are_distinct() -> None:
    root = keys.root_key(0)
    found = [data(keys.role_key(root, role)) for role in Role]
    found += [data(keys.step_key(root, step, role)) for step, role in itertools.product(range(20), Role)]
    assert len(set(found)) == len(found)


def test_keys_depend_on_nothing_but_seed_step_and_role() -> None:
    again = [keys.step_key(keys.root_key(3), 5, Role.ACT) for _ in range(2)]
    assert data(again[0]) == data(again[1])
    traced = jax.jit(keys.step_key, static_argnums=2)(keys.root_key(3), jnp.asarray(5), Role.ACT)
    assert data(traced) == data(again[0])
    assert data(keys.step_key(keys.root_key(4), 5, Role.ACT)) != data(again[0])


def test_roles_keep_their_numbers() -> None:
    """A seed means the same run in every version."""
    names = ["META_PARAMS", "PARAMS", "RESET", "ACT", "REPLAY", "MINIBATCHES", "WARM_UP", "EVALUATION"]
    assert [role.name for role in list(Role)[: len(names)]] == names
    assert [int(role) for role in Role] == list(range(len(Role)))


def test_no_key_of_a_step_is_used_twice() -> None:
    """Acting, replay and minibatches: jax follows every key of the program."""
    replay = ("Group.replay = @Uniform()", "Uniform.capacity = 8", "Uniform.batch_size = 8", "Uniform.fresh = 1")
    bindings = (*replay, "EPOCHS = 2", "MINIBATCHES = 2", "NUM_ENVIRONMENTS = 2", "TRAJECTORY_LENGTH = 3")
    trainer = Trainer(load("ppo_catch", bindings=bindings, root=Experiment).experiment)
    with jax.debug_key_reuse(True):
        state = trainer.init()
        assert int(trainer.steps(state, jnp.asarray(2)).step) == 2
