"""Agents side by side: in chunks and on several devices they are the same agents.

One discovery with lives that end and an optimizer for each agent, in processes of their own that take the CPU for one,
two or four devices.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from meta_parameters import assert_same_but_for_rounding
from running import SMALL_DISCOVERY, command, intervals, points_of, process_environment, result_of

from framework.errors import UserError
from framework.parallel import Agents, mean_over_agents, mesh_for
from framework.types import Array

STEPS = 20
ONE_BY_ONE = "--gin.Group.chunk=1"
HELD_OUT = tuple(
    f"--gin_bindings={binding}"
    for binding in (
        "Experiment.held_out = @HeldOut()",
        "HeldOut.groups = [@unseen/Group()]",
        "HeldOut.updates = 2",
        f"HeldOut.interval = {STEPS}",
        "unseen/Group.agents = 2",
        "unseen/Group.suite = @unseen/Gridworlds()",
        "unseen/Group.agent = @grid/Agent()",
        "unseen/Gridworlds.levels = [@square/Gridworld()]",
        "square/Gridworld.name = 'square'",
        "square/Gridworld.max_steps = 2",
    )
)
"""Two agents are measured, whatever number of devices the discovery is on."""


class Runs:
    """Runs of the small discovery, with four agents in each group unless told otherwise, each made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.made = functools.cache(self._make)

    def _make(self, devices: int, *words: str, agents: int = 4, steps: int = STEPS, optimized: bool = False) -> Path:
        folder = self._folder / f"{devices}_devices_{agents}_{len(words)}_{steps}{'_optimized' * optimized}"
        flags = "" if optimized else os.environ.get("XLA_FLAGS", "")
        variables = {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}"}
        if optimized:
            variables["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
        done = subprocess.run(
            command(
                "run", SMALL_DISCOVERY, f"--gin.AGENTS={agents}", f"--gin.STEPS={steps}", f"--workdir={folder}", *words,
                *intervals(logging=1, checkpoints=1, episodes=0), f"--gin.Logging.keep_checkpoints={steps}",
            ),
            capture_output=True, text=True, check=False, env=process_environment() | variables, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_equally_many_agents_on_each_device_are_the_same_agents(runs: Runs) -> None:
    """To the last bit, over lives and births: two agents have a device each, be there two devices or four."""
    two, four = (result_of(runs.made(devices, agents=2)) for devices in (2, 4))
    for same in ("state_sha256", "meta_params_sha256", "env_steps", "returns"):
        assert four[same] == two[same]


@pytest.mark.slow
def test_a_meta_step_does_not_depend_on_the_number_of_devices(runs: Runs) -> None:
    """To the last bit, where each agent is computed by itself, by programs compiled as for a user."""
    two, four = (result_of(runs.made(devices, ONE_BY_ONE, steps=1, optimized=True)) for devices in (2, 4))
    for same in ("state_sha256", "meta_params_sha256", "env_steps", "returns"):
        assert four[same] == two[same]


def test_held_out_agents_are_on_devices_of_their_own(runs: Runs) -> None:
    last = points_of(runs.made(4, ONE_BY_ONE, *HELD_OUT))[-1]
    assert np.isfinite(last["held_out/square"])


@pytest.mark.parametrize(("steps", "relative"), [(1, 1e-6), (STEPS, 1e-4)])
@pytest.mark.parametrize(
    ("devices", "words"), [(1, ()), pytest.param(2, (ONE_BY_ONE,), marks=pytest.mark.slow)], ids=["one", "two"]
)
def test_other_devices_find_the_same_but_for_rounding(
    runs: Runs, devices: int, words: tuple[str, ...], steps: int, relative: float
) -> None:
    """A program for one device, or for agents at once, sums up in another order."""
    assert_same_but_for_rounding(runs.made(devices, *words), runs.made(4, ONE_BY_ONE, *HELD_OUT), steps, relative)


def double(shared: Array, agent: dict[str, Array], number: Array) -> dict[str, Array]:
    return {"x": shared * agent["x"] + number, "sum": agent["x"].sum()}


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 6])
def test_a_function_of_one_agent_is_mapped_over_all(chunk: int | None) -> None:
    agents = {"x": jnp.arange(12.0).reshape(6, 2)}
    shared, numbers = jnp.asarray(3.0), jnp.arange(6.0)
    found = Agents(6, chunk).map(double, shared, agents, numbers)
    np.testing.assert_array_equal(found["x"], 3.0 * agents["x"] + numbers[:, None])
    np.testing.assert_array_equal(found["sum"], agents["x"].sum(1))


def test_one_agent_has_no_axis_inside() -> None:
    def shape(shared: Any, x: Array) -> Array:
        assert x.shape == (2,)
        return x + shared

    assert Agents(1).map(shape, 1.0, jnp.zeros((1, 2))).shape == (1, 2)


def test_chunks_divide_a_devices_agents() -> None:
    with pytest.raises(UserError, match="6 agents on a device cannot be split into chunks of 4: choose a divisor"):
        Agents(6, 4).map(double, jnp.asarray(1.0), {"x": jnp.zeros((6, 2))}, jnp.zeros(6))


def test_one_device_needs_no_mesh() -> None:
    assert mesh_for([4, 2]) is None


def test_the_mean_counts_those_with_weight() -> None:
    x = {"x": jnp.asarray([[1.0, 2.0], [100.0, 100.0], [3.0, 6.0]])}
    np.testing.assert_array_equal(mean_over_agents(x, jnp.asarray([1.0, 0.0, 1.0]))["x"], [2.0, 4.0])
    np.testing.assert_array_equal(mean_over_agents(x, jnp.zeros(3))["x"], [0.0, 0.0])
