"""Sweeps: their units, and that every value reaches the run exactly, by every route."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import process_environment

from experiments.cli import rewrite_bindings
from framework.config import shipped_gin_folder
from framework.errors import UserError
from framework.gin_files.mistakes import ConfigError
from framework.gin_files.parsing import parse
from launch.grid import GridFolder, GridUnit
from launch.kubernetes import Gke
from launch.planning import checked
from launch.sweep import Sweep, SweepError, dns_label, rendered
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


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(
    st.characters(exclude_categories=["Cs"])), lambda inner: st.lists(inner, max_size=3)))  # fmt: skip
def test_any_value_is_read_back(value: object) -> None:
    if not (isinstance(value, str) and value[:1] in ("@", "%")):  # These stand for components and macros.
        assert read_back(f"--gin.X={rendered(value)}") == value


def test_references_stay_references() -> None:
    assert [rendered(text) for text in ("@suites.Catch()", "%STEPS", "@not one")] == [
        "@suites.Catch()", "%STEPS", "'@not one'"
    ]  # fmt: skip


def test_axes_filters_and_names() -> None:
    sweep = Sweep(
        "s", ["a", "b"], product={"LR": [0.1, 0.01]}, zip={"X": [1, 2], "Y": [3, 4]}, seeds=[0, 7],
        exclude=[{"experiment": "b", "LR": 0.1}], only=[{"X": 2}],
    )  # fmt: skip
    units = sweep.units()
    assert [unit.name for unit in units][:2] == ["a-lr-0p1-s0", "a-lr-0p1-s7"]
    assert len(units) == 6
    assert units[-1].arguments == ("b", "--gin.LR=0.01", "--gin.X=2", "--gin.Y=4", "--gin.SEED=7")
    assert all(dns_label(unit.name, 48) == unit.name for unit in units)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"zip": {"X": [1], "Y": [1, 2]}}, "must be of one length: X has 1, Y has 2"),
        ({"exclude": [{"STPES": 1}], "product": {"STEPS": [1]}}, "no axis 'STPES'. Did you mean 'STEPS'?"),
        ({"only": [{"X": 3}], "product": {"X": [1]}}, "no unit has X = 3"),
        ({"bindings": {"X": 1}, "product": {"X": [1]}}, "sets X twice"),
        ({"product": {"X": [1, 1]}}, "has the same unit twice"),
        ({"product": {"X": []}}, "has no units"),
    ],
)
def test_mistakes_of_a_sweep(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SweepError, match=re.escape(message)):
        Sweep("s", ["a"], **fields).units()  # type: ignore[arg-type]


def test_all_mistakes_of_a_file_are_told(tmp_path: Path) -> None:
    file = tmp_path / "s.gin"
    file.write_text("Sweep.experimnts = ['a']\nSweep.seeds = 'x'\nAgent.x = 1\n")
    with pytest.raises(ConfigError) as error:
        read_sweep(str(file))
    text = str(error.value)
    assert "s.gin:1: a sweep has no 'experimnts'. Did you mean 'experiments'?" in text
    assert "s.gin:2: Sweep.seeds must be how many seeds" in text
    assert "s.gin:3: a sweep binds nothing itself" in text


def test_small_scale_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "s.gin"
    file.write_text(
        "Sweep.experiments = 'a'\nSweep.seeds = 5\nSweep.small = ['scale/tiny.gin']\nSweep.small_seeds = 1\n"
    )
    [unit] = read_sweep(str(file), scale="small", bindings=["STEPS = 3"]).sweep.units()
    assert unit.arguments == ("a", "--gin_file=scale/tiny.gin", "--gin.STEPS=3", "--gin.SEED=0")
    assert len(read_sweep(str(file), bindings=["Sweep.seeds = 2"]).sweep.units()) == 2


@pytest.mark.parametrize("path", sorted((shipped_gin_folder() / "sweeps").glob("*.gin")), ids=lambda path: path.stem)
def test_shipped_sweeps_are_without_mistakes(path: Path) -> None:
    units = read_sweep(path.stem).sweep.units()
    first = {(unit.settings["experiment"], str(unit.settings.get("gin_file"))): unit for unit in reversed(units)}
    planned = checked(list(first.values()), lambda unit: unit.name)
    assert all(unit.env_steps > 0 for unit in planned)


@pytest.mark.parametrize(
    ("place", "settings", "message"),
    [
        (Vertex, {"tpu": "v6e", "cores": 8}, "TPU v2 and v3 only, not for v6e"),
        (Vertex, {"tpu": "v3", "cores": 32}, "8 cores of v3, not 32"),
        (Gke, {"tpu": "v5e", "topology": "3x5", "chips_per_host": 8}, "has no topology 3x5"),
        (Gke, {"tpu": "v5p", "topology": "4x4", "chips_per_host": 4}, "has 3 axes"),
        (Gke, {"tpu": "v3", "topology": "2x2", "chips_per_host": 4}, "v2 and v3 are on Vertex AI"),
        (Gke, {"tpu": "v5e", "topology": "4x4", "chips_per_host": 8}, "set --cluster.chips_per_host=4"),
    ],
)
def test_impossible_requests_are_refused_in_words(place: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        place({**CLUSTER, **settings})


def test_a_slice_of_many_hosts(tmp_path: Path) -> None:
    """The fields of GKE's documentation for a v5p 4x4x4: 64 chips on 16 hosts; batch/v1 by the client's own models."""
    from kubernetes import client

    jobset = V5P.jobset(GridFolder(tmp_path), unit_with(1))
    job = jobset["spec"]["replicatedJobs"][0]["template"]
    assert (job["spec"]["parallelism"], job["spec"]["completions"], job["spec"]["completionMode"]) == (
        16,
        16,
        "Indexed",
    )
    pod = job["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice", "cloud.google.com/gke-tpu-topology": "4x4x4"
    }  # fmt: skip
    assert pod["containers"][0]["args"][-1] == "--coordinator=auto"
    api = client.ApiClient(client.Configuration(host="https://nowhere.invalid"))
    read = api._ApiClient__deserialize({"apiVersion": "batch/v1", "kind": "Job", **job}, "V1Job")
    assert api.sanitize_for_serialization(read)["spec"] == job["spec"]
    assert len(f"{jobset['metadata']['name']}-host-0-15-abcde") <= 63


@pytest.mark.parametrize("verb", ["launch", "status", "stop"])
def test_verbs_start_without_jax_or_a_cloud(verb: str, tmp_path: Path) -> None:
    code = (
        f"import sys; from experiments import cli; assert cli.main(['{verb}', '--help']) == 0; "
        "print({'jax', 'flax', 'google.cloud.storage', 'google.cloud.aiplatform', 'kubernetes'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=process_environment(),
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "set()"
