"""Awkward values reach the job exactly by every route; small scales and overrides of sweeps."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import rewrite_bindings
from framework.gin_files.parsing import parse
from launch.grid import GridFolder, GridUnit
from launch.kubernetes import Gke
from launch.sweep import Sweep
from launch.sweep_file import read_sweep
from launch.vertex import Vertex

AWKWARD = [
    "two words", "it's", 'say "x"', "$HOME $(HOME) $$", "back\\slash\\n", "line\nbreak", "a=b,c;d", "ü", "", None, True,
    [1, 2.5, "x y"], ("$(A)",), {"k": [None]}, float("inf"), -1e-30,
]  # fmt: skip
CLUSTER = {
    "project": "p", "bucket": "b", "prefix": "rulespace", "image": "us-docker.pkg.dev/p/r/rulespace:1",
    "location": "us-central1", "context": "", "namespace": "default", "service_account": "", "spot": False,
    "max_restarts": 10, "grace_seconds": 120,
}  # fmt: skip
V5E = Gke({**CLUSTER, "tpu": "v5e", "topology": "2x4", "chips_per_host": 8})
V5P = Gke({**CLUSTER, "tpu": "v5p", "topology": "4x4x4", "chips_per_host": 4})
V3 = Vertex({**CLUSTER, "tpu": "v3", "cores": 8})


def read_back(argument: str) -> object:
    """What gin binds for ``--gin.X=V``."""
    [flag] = rewrite_bindings([argument])
    [statement], mistakes = parse(flag.removeprefix("--gin_bindings="), "command line")
    assert not mistakes
    return statement.value


def unit_with(value: object) -> GridUnit:
    [unit] = Sweep("s", ["ppo_catch"], bindings={"X": value}).units()
    return GridUnit(unit.name, unit.in_folder("gs://b/f"), "gs://b/f", "0" * 12, 0, 1, 1, 1, 1.0)


def kubernetes_expansion(word: str) -> str:
    """``$(NAME)`` of a container's arguments, as the API reference tells it: ``$$`` is ``$``, unknown names stay."""
    return re.sub(r"\$(\$|\([^)]*\))", lambda match: "$" if match[1] == "$" else "EXPANDED", word)


@pytest.mark.parametrize("value", AWKWARD, ids=repr)
def test_values_reach_the_job_exactly(value: object, tmp_path: Path) -> None:
    from xmanager import xm
    from xmanager.xm import utils

    unit = unit_with(value)
    assert read_back(unit.arguments[1]) == value
    grid = GridFolder(tmp_path)
    # XManager's local executor hands a line to the shell.
    quoted = " ".join(xm.merge_args(list(unit.arguments)).to_list(utils.ARG_ESCAPER))
    code = "import sys; sys.stdout.write(chr(0).join(sys.argv[1:]))"
    shell = subprocess.run(["sh", "-c", f"'{sys.executable}' -c '{code}' {quoted}"], capture_output=True, check=True)
    assert tuple(shell.stdout.decode().split("\0")) == unit.arguments
    job = V5E.jobset(grid, unit)["spec"]["replicatedJobs"][0]["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    assert tuple(map(kubernetes_expansion, container["args"])) == ("run", *unit.arguments)
    [pool] = V3.custom_job(grid, unit)["jobSpec"]["workerPoolSpecs"]
    assert tuple(pool["containerSpec"]["args"]) == ("run", *unit.arguments)


def test_small_scale_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "s.gin"
    file.write_text(
        "Sweep.experiments = 'a'\nSweep.seeds = 5\nSweep.small = ['scale/tiny.gin']\nSweep.small_seeds = 1\n"
    )
    [unit] = read_sweep(str(file), scale="small", bindings=["STEPS = 3"]).sweep.units()
    assert unit.arguments == ("a", "--gin_file=scale/tiny.gin", "--gin.STEPS=3", "--gin.SEED=0")
    assert len(read_sweep(str(file), bindings=["Sweep.seeds = 2"]).sweep.units()) == 2
