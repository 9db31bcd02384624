"""A component of one's own: a class in a file outside the package, an import in a gin file, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from running import points_of, process_environment, result_of, rulespace

MODULE = '''
"""What a user wrote beside their gin file."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from framework.registry import component
from framework.specs import EnvironmentSpec
from framework.types import TimeStep


@component("loss_terms")
@dataclasses.dataclass(frozen=True)
class SquaredLogits:
    """Keeps logits small.

    Attributes:
      head: whose logits.
      cost: weight in the loss.
      power: of the logits.
    """

    head: str = "logits"
    cost: float = 1e-3
    power: int = 2

    def __call__(self, inputs, head):
        return (jnp.abs(inputs.outputs[self.head]) ** self.power).sum(-1)

    def formula(self, head):
        return f"|{head.name}|^{self.power}"


@component("torsos")
class Sines(nn.Module):
    """Sines of a linear layer.

    Attributes:
      size: of the layer.
    """

    size: int = 16

    @nn.compact
    def __call__(self, observation, reset, carry):
        flat = observation.reshape(observation.shape[:2] + (-1,))
        return jnp.sin(nn.Dense(self.size)(flat)), carry

    def initial_carry(self, batch):
        return ()


@dataclasses.dataclass(frozen=True)
class GuessEnvironment:
    """A coin shows its face; naming it is rewarded with 1, and the episode ends."""

    spec = EnvironmentSpec(observation_shape=(2,), num_actions=2)

    def draw_task(self, key, level):
        return level

    def reset(self, key, task):
        face = jax.random.bernoulli(key).astype(jnp.int32)
        return face, jax.nn.one_hot(face, 2)

    def step(self, key, task, state, action):
        reward = jnp.where(action == state, 1.0, 0.0)
        return state, TimeStep(jax.nn.one_hot(state, 2), reward, jnp.zeros(()), jnp.ones((), bool))


@component("suites")
@dataclasses.dataclass(frozen=True)
class Guess:
    """Guessing a coin that lies open."""

    def tasks(self):
        return ("guess",)

    def environment(self, task):
        return GuessEnvironment()

    def level(self, task):
        return ()
'''

CONFIG = """
import my_components
include 'rules/ppo.gin'
include 'setups/on_policy.gin'

STEPS = 40
NUM_ENVIRONMENTS = 8
TRAJECTORY_LENGTH = 8
UpdateRule.loss = [@ClippedSurrogate(), @loss_terms.Value(), @loss_terms.Entropy(), @SquaredLogits()]
SquaredLogits.cost = 0.002
Group.agent = @Agent()
Agent.torso = @Sines()
Agent.optimizer = @optimizers.Adam()
optimizers.Adam.learning_rate = 1e-2
Group.suite = @Guess()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a user's, with one module and one gin file."""
    path = tmp_path_factory.mktemp("mine")
    (path / "my_components.py").write_text(MODULE)
    (path / "mine.gin").write_text(CONFIG)
    return path


def test_it_runs_and_learns(folder: Path) -> None:
    done = rulespace("run", "mine.gin", "--workdir=run", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    result = result_of(folder / "run")
    assert (result["status"], result["experiment"], list(result["returns"])) == ("finished", "mine", ["guess"])
    assert result["final_return"] > 0.9
    assert "loss/3_SquaredLogits_logits" in points_of(folder / "run")[-1]


def test_saved_config_imports_it_again(folder: Path) -> None:
    if not (folder / "run" / "config.gin").is_file():
        pytest.skip("the run did not start")
    done = rulespace("check", "run/config.gin", "run/config.operative.gin", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "run/config.gin: ok\nrun/config.operative.gin: ok\n",
        "",
    )


def test_it_is_described(folder: Path) -> None:
    done = rulespace("describe", "mine.gin", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("0.002", "|logits|^2", "Sines", "Guess"):
        assert words in done.stdout


def test_its_parameters_are_checked(folder: Path) -> None:
    wrong = {
        "SquaredLogits.power = 2.5": "SquaredLogits.power wants an integer, got 2.5",
        "SquaredLogits.powre = 2": "has no parameter 'powre'. Did you mean 'power'?",
        "SquaredLogits.head = 'logit'": "there is no head 'logit'. Did you mean 'logits'?",
        "Agent.torso = @Guess()": "Agent.torso wants a component of kind 'torsos', got @suites.Guess()",
    }
    for number, line in enumerate(wrong):
        (folder / f"wrong{number}.gin").write_text(f"include 'mine.gin'\n{line}\n")
    done = rulespace("check", *(f"wrong{number}.gin" for number in range(len(wrong))), cwd=folder)
    assert done.returncode == 1
    for number, words in enumerate(wrong.values()):
        mine = [line for line in done.stderr.splitlines() if line.startswith(f"wrong{number}.gin:2: ")]
        assert any(words in line for line in mine), (words, done.stderr)


def test_it_conforms(folder: Path) -> None:
    code = (
        "import components.everything, my_components; from framework import testing\n"
        "mine = testing.registered('my_components')\n"
        "print(sorted(cls.__name__ for _, cls in mine))\n"
        "for kind, cls in mine: testing.check_component(kind, cls)"
    )
    environment = process_environment()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['Guess', 'Sines', 'SquaredLogits']\n"
