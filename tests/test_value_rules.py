"""Value-based rules: what they learn from actions at random is enough to act well."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from framework.config import load
from framework.experiment import Experiment
from framework.interfaces import DistributionHead, ValueHead
from framework.lifecycle import Lifecycle
from framework.types import Array, Params, Place, TimeStep

RULES = ("dqn", "q_lambda", "c51", "qr_dqn", "rainbow")
WITH_POLICY = "HEADS = [@heads.Policy(), %Q_HEAD]"
"""A policy that nothing moves: it acts at random, whatever is learned."""

UPDATES = 250
EPISODES = 64


def experiment(folder: Path, rule: str) -> Experiment:
    """Agents with a value-based rule and a dueling network on a small board of Catch."""
    file = folder / f"{rule}.gin"
    file.write_text(f"""# Learns off the policy that acts.
include 'rules/{rule}.gin'
include 'agents/small_action_values.gin'
include 'suites/catch.gin'
include 'setups/on_policy.gin'

{WITH_POLICY}
ACTION_MODEL = @Dueling()
TARGET_DECAY = 0.9
LEARNING_RATE = 3e-3
ROWS = 5
COLUMNS = 5
""")
    bindings = {
        "c51": ["MINIMUM = -2.0", "MAXIMUM = 2.0"],
        "rainbow": ["MINIMUM = -2.0", "MAXIMUM = 2.0"],
        "qr_dqn": ["QUANTILES = 20"],
    }
    return load(str(file), bindings=bindings.get(rule, []), root=Experiment).experiment


@pytest.mark.parametrize("rule", RULES)
def test_are_built_of_what_they_need(tmp_path: Path, rule: str) -> None:
    built = experiment(tmp_path, rule).rule
    assert [head.name for head in built.heads] == ["logits", "q"]
    assert [term.head for term in built.loss] == ["q"]
    assert isinstance(built.head("q"), DistributionHead) == (rule in ("c51", "qr_dqn", "rainbow"))


def greedy_return(lifecycle: Lifecycle, params: Params, key: Array) -> Array:
    """Mean return of episodes in which the actions of largest value are taken."""
    environment, network = lifecycle.environments.environment, lifecycle.network
    head = lifecycle.rule.head("q")
    assert isinstance(head, ValueHead)

    def play(key: Array) -> Array:
        state, observation = environment.reset(key, ())

        def step(carry: tuple, _: None) -> tuple[tuple, Array]:
            state, observation, over = carry
            outputs = network.unroll(params, observation[None, None], jnp.zeros((0, 1), bool), ())
            action = head.read(outputs["q"])[0, 0].argmax(-1)
            state, shown = environment.step(key, (), state, action)
            assert isinstance(shown, TimeStep)
            return (state, shown.observation, over | shown.last), jnp.where(over, 0.0, shown.reward)

        return jax.lax.scan(step, (state, observation, jnp.zeros((), bool)), length=environment.rows - 1)[1].sum()

    return jax.vmap(play)(jax.random.split(key, EPISODES)).mean()


@pytest.mark.parametrize("rule", ["dqn", *(pytest.param(rule, marks=pytest.mark.slow) for rule in RULES[1:])])
def test_greedy_actions_of_what_is_learned_at_random_are_good(tmp_path: Path, rule: str) -> None:
    found = experiment(tmp_path, rule)
    lifecycle = Lifecycle(found.rule, found.groups[0])
    zero = jnp.zeros((), jnp.int32)
    place = Place(task_index=zero, arm=zero, births=zero, share=jnp.ones(()))

    @jax.jit
    def learned(root: Array) -> Array:
        agent = lifecycle.birth(root, place)
        data = jax.random.key_data(root)
        agent = jax.lax.fori_loop(0, UPDATES, lambda i, agent: lifecycle.advance({}, agent, data, i)[0], agent)
        return greedy_return(lifecycle, agent.learner.params, root)

    assert learned(jax.random.key(0)) >= 0.9
