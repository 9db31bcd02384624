"""Grids on TPUs, up to the requests that the services' own clients would send."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awkward
import pytest
from cluster_api import ClusterApi

pytest.importorskip("xmanager", reason="xmanager is not installed: pip install 'rulespace[launch]'")

from experiments.cli import main
from framework.errors import UserError
from launch import credentials, places
from launch.bucket import Bucket
from launch.grid import GridFolder, GridUnit, Launch
from launch.places import Request
from launch.states import State
from launch.sweep import Sweep

EXPECTED = Path(__file__).parent / "manifests"
SETTINGS = ("project=my-project", "bucket=my-bucket", "image=us-docker.pkg.dev/my-project/research/rulespace:1")
CLUSTERS = (("vertex", "vertex"), ("gke", "gke"), ("gke", "gke_v5p"))


def a_unit(*arguments: str) -> GridUnit:
    return GridUnit(
        name="ppo-catch-s0",
        arguments=("ppo_catch", "--gin.SEED=0", *arguments, "--workdir=gs://my-bucket/rulespace/toys/ppo-catch-s0"),
        folder="gs://my-bucket/rulespace/toys/ppo-catch-s0",
        config_hash="0123456789ab",
        seed=0,
        steps=2,
        env_steps=8,
        parameters=10,
        memory_megabytes=0.1,
    )


def an_awkward_unit() -> GridUnit:
    [unit] = Sweep("toys", ["ppo_catch"], bindings=awkward.BINDINGS).units()
    return a_unit(*unit.arguments[1:])


def place(on: str, cluster: str, *settings: str) -> Any:
    return places.place(on, Request(cluster, (*SETTINGS, *settings)))


@pytest.fixture
def grid(tmp_path: Path) -> GridFolder:
    return GridFolder(tmp_path / "toys")


@pytest.fixture
def cluster_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterApi]:
    """A cluster that we have access to."""
    from kubernetes import client

    api = ClusterApi()
    for module in ("launch.kubernetes", "launch.jobset_executor"):
        monkeypatch.setattr(f"{module}.api", lambda context: client.CustomObjectsApi(api.client()))
    monkeypatch.setattr("launch.remote.missing_credentials", lambda: None)
    yield api
    api.server.shutdown()
    api.server.server_close()


class _Database:
    """XManager's, in memory."""

    def __init__(self, noted: list[tuple[Any, ...]]) -> None:
        self.noted = noted

    def insert_kubernetes_job(self, *entry: Any) -> None:
        self.noted.append(entry)

    def insert_vertex_job(self, *entry: Any) -> None:
        self.noted.append(entry)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What is written about jobs into XManager's database."""
    from xmanager.xm_local.storage import database

    entries: list[tuple[Any, ...]] = []
    monkeypatch.setattr(database, "database", lambda: _Database(entries))
    return entries


@pytest.fixture
def vertex_service(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of Vertex AI's own client, which has credentials of nobody."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import aiplatform
    from google.cloud import aiplatform_v1 as service

    real_init = aiplatform.init
    monkeypatch.setattr(aiplatform, "init", lambda **named: real_init(**named, credentials=AnonymousCredentials()))
    return service


@pytest.mark.parametrize(("on", "cluster"), CLUSTERS)
def test_manifests_are_those_on_record(grid: GridFolder, on: str, cluster: str) -> None:
    """Set RULESPACE_NEW_MANIFESTS to write them anew, and look at what changed."""
    ((name, text),) = place(on, cluster).manifests(grid, [a_unit()]).items()
    assert name == "ppo-catch-s0.json"
    assert text == (EXPECTED / f"{cluster}.json").read_text()


@pytest.mark.parametrize("cluster", ["gke", "gke_v5p"])
def test_a_jobset_holds_a_job_that_kubernetes_takes(grid: GridFolder, cluster_api: ClusterApi, cluster: str) -> None:
    """Its job goes through the classes that the client was generated from the schema of batch/v1 as."""
    from kubernetes import client

    jobset = place("gke", cluster, "spot=True", "service_account=writer").jobset(grid, a_unit())
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", **replicated["template"]}
    cluster_api.answer = job
    read = client.BatchV1Api(cluster_api.client()).read_namespaced_job("any", "default")
    assert client.ApiClient().sanitize_for_serialization(read) == job
    _conforms(jobset, json.loads((EXPECTED / "jobset_v1alpha2_schema.json").read_text()))
    names = (jobset["metadata"]["name"], replicated["name"])
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) for name in names)
    hosts = replicated["template"]["spec"]["completions"]
    assert len(f"{'-'.join(names)}-0-{hosts}-abcde") <= 63


def _conforms(value: Any, schema: dict[str, Any]) -> None:
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    assert type(value) is kinds[schema["type"]], (value, schema)
    assert value in schema.get("enum", [value])
    if schema["type"] == "object" and "properties" in schema:
        assert set(schema.get("required", ())) <= set(value) <= set(schema["properties"])
        for name, part in value.items():
            _conforms(part, schema["properties"][name])
    for part in value if schema["type"] == "array" else ():
        _conforms(part, schema["items"])


def test_what_is_wrong_with_a_jobset_is_found(grid: GridFolder) -> None:
    schema = json.loads((EXPECTED / "jobset_v1alpha2_schema.json").read_text())
    jobset = place("gke", "gke").jobset(grid, a_unit())
    jobset["spec"]["replicatedJobs"][0]["replica"] = 2
    with pytest.raises(AssertionError):
        _conforms(jobset, schema)


def kubernetes_would_run(word: str) -> str:
    """An argument of a container as the API reference tells it: ``$$`` is ``$``, and variables are expanded."""
    return re.sub(r"\$(\$|\([^)]*\))", lambda found: "$" if found[1] == "$" else "EXPANDED", word)


def test_kubernetes_hands_arguments_on_as_they_are(
    grid: GridFolder, cluster_api: ClusterApi, noted: list[tuple[Any, ...]]
) -> None:
    """Through the client's own request, and XManager's database."""
    unit = an_awkward_unit()
    there = place("gke", "gke")
    expected = there.jobset(grid, unit)
    grid.path.mkdir()
    assert there.run(grid, [unit], "toys")
    ((method, path, body),) = cluster_api.requests
    assert (method, path) == ("POST", "/apis/jobset.x-k8s.io/v1alpha2/namespaces/default/jobsets")
    assert body == expected
    (container,) = body["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert [kubernetes_would_run(word) for word in container["args"]] == ["run", *unit.arguments]
    (launch,) = grid.launches()
    assert launch.jobs == {unit.name: expected["metadata"]["name"]}
    assert ("default", expected["metadata"]["name"]) in [entry[-2:] for entry in noted]


def test_vertex_gets_what_the_manifest_says(
    grid: GridFolder, vertex_service: Any, noted: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through XManager's executor and Google's client, up to the call of the service."""
    sent: list[Any] = []

    def create(self: Any, *, parent: str, custom_job: Any, **named: Any) -> Any:
        sent.append((parent, custom_job))
        return vertex_service.CustomJob(name=f"{parent}/customJobs/7", display_name=custom_job.display_name)

    monkeypatch.setattr(vertex_service.JobServiceClient, "create_custom_job", create)
    unit = an_awkward_unit()
    there = place("vertex", "vertex")
    expected = there.custom_job(grid, unit)
    grid.path.mkdir()
    assert there.run(grid, [unit], "toys")
    ((parent, job),) = sent
    assert parent == "projects/my-project/locations/us-central1"
    job = job if isinstance(job, vertex_service.CustomJob) else vertex_service.CustomJob(job)
    assert job == vertex_service.CustomJob.from_json(json.dumps(expected))
    assert list(job.job_spec.worker_pool_specs[0].container_spec.args) == ["run", *unit.arguments]
    (launch,) = grid.launches()
    assert launch.jobs == {unit.name: f"{parent}/customJobs/7"}
    assert noted[0][-1] == f"{parent}/customJobs/7"


def test_a_refused_unit_is_told(grid: GridFolder, cluster_api: ClusterApi, noted: list[tuple[Any, ...]]) -> None:
    cluster_api.status = 409
    grid.path.mkdir()
    refusal = (
        r"^ppo-catch-s0 was not accepted: .* cannot be created: Conflict \(status 409\).*\n0 units were handed over be"
    )
    with pytest.raises(UserError, match=refusal):
        place("gke", "gke").run(grid, [a_unit()], "toys")
    assert grid.launches() == ()
    assert noted == []


@pytest.mark.parametrize(
    ("on", "settings", "message"),
    [
        ("vertex", ("tpu=v6e",), r"TPU v2 and v3 only, not for v6e: use --on=gke"),
        ("vertex", ("cores=32",), r"a unit on Vertex AI has one host, which has 8 cores of v3, not 32"),
        ("vertex", ("image=rulespace",), r"'rulespace' is no image of a Google registry with a tag"),
        ("gke", ("topology=3x5",), r"TPU v5e has no topology 3x5\. There are 1x1, 2x2"),
        ("gke", ("topology=4x4x4",), r"a topology of TPU v5e has 2 axes, A x B, and is not '4x4x4'"),
        ("gke", ("tpu=v5p", "topology=4x4x6", "chips_per_host=4"), r"TPU v5p has no topology 4x4x6"),
        ("gke", ("tpu=v3",), r"GKE has no TPU 'v3' for slices.*v2 and v3 are on Vertex AI"),
        ("gke", ("topology=4x4",), r"on several hosts, and these have 4 chips each: set --cluster\.chips_per_host=4"),
        ("gke", ("projct=p",), r"^cluster gke has no setting 'projct'\. Did you mean 'project'\? There are bucket, "),
        ("gke", ("project=",), r"^cluster gke leaves project open: add --cluster\.project=\.\.\."),
        (
            "gke",
            ("max_restarts=many",),
            r"--cluster\.max_restarts=many: invalid literal for int\(\) with base 10: 'many'$",
        ),
        ("gke", ("bucket=gs://b/x",), r"'gs://b/x' is no name of a bucket: write it without gs://"),
    ],
)
def test_what_cannot_be_had_is_refused_in_words(on: str, settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        place(on, "", *settings)


def test_local_grids_have_no_cluster() -> None:
    with pytest.raises(UserError, match="--cluster describes TPUs"):
        places.place("local", Request("gke", ()))


def test_nothing_is_submitted_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.remote.missing_credentials", lambda: "there are no Google Cloud credentials: do this")
    with pytest.raises(UserError, match="nothing was submitted: there are no Google Cloud credentials: do this"):
        place("vertex", "vertex").preflight()


def test_everything_that_is_missing_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.remote.missing_credentials", lambda: None)
    monkeypatch.setattr(Bucket, "refuse_missing", lambda self: "there is no bucket my-bucket")
    monkeypatch.setattr("launch.remote.missing_image", lambda image: f"there is no image {image}")
    with pytest.raises(UserError, match=r"there is no bucket my-bucket\n.*there is no image us-docker"):
        place("vertex", "vertex").preflight()


def test_a_missing_image_is_asked_of_its_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Session:
        def head(self, url: str, **named: Any) -> Any:
            asked.append(url)
            return type("Answer", (), {"status_code": 404})()

    monkeypatch.setattr(credentials, "session", Session)
    sentence = credentials.missing_image("us-docker.pkg.dev/my-project/research/rulespace:1")
    assert asked == ["https://us-docker.pkg.dev/v2/my-project/research/rulespace/manifests/1"]
    assert sentence is not None
    assert "us-docker.pkg.dev/my-project/research/rulespace:1" in sentence


def test_how_jobsets_stand_is_the_clusters_word(cluster_api: ClusterApi) -> None:
    def jobset(name: str, **status: Any) -> dict[str, Any]:
        return {"metadata": {"name": name}, "status": status}

    cluster_api.answer = {
        "items": [
            jobset("a", replicatedJobsStatus=[{"name": "host", "ready": 1}]),
            jobset("b", conditions=[{"type": "Failed", "status": "True"}]),
            jobset("c", conditions=[{"type": "Completed", "status": "True"}]),
            {"metadata": {"name": "d"}},
        ]
    }
    found = place("gke", "gke").states(Launch("gke", 1, {}, {name: name for name in "abcde"}))
    waiting = {"c": State.WAITING, "d": State.WAITING}  # For its result, and for a slice.
    assert found == {"a": State.RUNNING, "b": State.FAILED, **waiting, "e": State.INTERRUPTED}
    ((method, path, _),) = cluster_api.requests
    jobsets = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/default/jobsets"
    assert (method, path) == ("GET", f"{jobsets}?labelSelector=app%3Drulespace")


def test_jobsets_are_stopped_by_deleting_them(cluster_api: ClusterApi) -> None:
    there, launch = place("gke", "gke"), Launch("gke", 1, {}, {"a": "a-1"})
    there.stop(launch, ["a"])
    ((method, path, _),) = cluster_api.requests
    assert (method, path) == ("DELETE", "/apis/jobset.x-k8s.io/v1alpha2/namespaces/default/jobsets/a-1")
    cluster_api.status = 404  # It is gone already.
    there.stop(launch, ["a"])
    cluster_api.status = 403
    with pytest.raises(
        UserError, match=r"a-1 cannot be deleted: Forbidden \(status 403\): gcloud container clusters get"
    ):
        there.stop(launch, ["a"])


def test_clusters_that_cannot_be_asked_are_told(cluster_api: ClusterApi, monkeypatch: pytest.MonkeyPatch) -> None:
    there = place("gke", "gke")
    cluster_api.status = 404
    assert "it has no JobSets; install them from https://jobset" in there._unusable_cluster()
    cluster_api.server.server_close()
    assert "it cannot be reached" in there._unusable_cluster()
    monkeypatch.undo()
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert "there is no kubeconfig for the cluster" in there._unusable_cluster()


def test_nobody_is_told_how_jobs_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.remote.missing_credentials", lambda: "there are no Google Cloud credentials: do this")
    for on in ("vertex", "gke"):
        with pytest.raises(UserError, match=r"^there are no Google Cloud credentials: do this$"):
            place(on, on).states(Launch(on, 1, {}, {}))


def test_how_jobs_stand_is_the_services_word(vertex_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from launch import vertex_client

    monkeypatch.setattr("launch.remote.missing_credentials", lambda: None)
    states = {
        "a": vertex_service.JobState.JOB_STATE_RUNNING,
        "b": vertex_service.JobState.JOB_STATE_FAILED,
        "c": vertex_service.JobState.JOB_STATE_QUEUED,
    }
    monkeypatch.setattr(vertex_client.ManifestClient, "get_state", lambda self, name: states[name])
    found = place("vertex", "vertex").states(Launch("vertex", 1, {}, {name: name for name in states}))
    assert found == {"a": State.RUNNING, "b": State.FAILED, "c": State.WAITING}


def test_unknown_clusters_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"no cluster file 'gke_v5'\. Did you mean 'gke_v5p'\? Shipped are gke, gke_v5p, ver"
    ):
        place("gke", "gke_v5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return nowhere\n", r"own\.py, line 2: NameError: name 'nowhere' is not defined$"),
        ("def get_config():\n    raise ValueError\n", r"own\.py, line 2: ValueError$"),
        ("def get_config(:\n", r"own\.py, line 1: SyntaxError: invalid syntax"),
        ("def get_config():\n    pass\n", r"own\.py has no get_config\(\) that returns a ConfigDict: see launch/"),
    ],
)
def test_what_is_wrong_in_a_cluster_file_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError, match=message):
        place("gke", str(tmp_path / "own.py"))


def test_a_dry_run_writes_what_would_be_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.gin").write_text("LEARNING_RATE = 0.1\n")
    settings = [f"--cluster.{setting}" for setting in SETTINGS]
    assert main(["launch", "toys", "--dry_run", "--on=gke", "--gin_file=own.gin", *settings]) == 0
    said = capsys.readouterr().out
    assert "note: own.gin must be in the image, below the working folder that launch/Dockerfile sets\n" in said
    assert "nothing was started; manifests of 12 units in runs/toys-manifests\n" in said
    assert len(list(Path("runs/toys-manifests").iterdir())) == 12
    assert not Path("runs/toys").exists()


def test_manifests_are_not_mixed_with_other_files(tmp_path: Path) -> None:
    for _ in range(2):
        places.write_manifests(tmp_path / "new", {"a.json": "{}"})
    with pytest.raises(UserError, match=r"new holds other files \(a\.json, \.\.\.\): remove them or choose another"):
        places.write_manifests(tmp_path / "new", {"b.json": "{}"})
    with pytest.raises(UserError, match=r"there is a file where a folder should be; .* another folder with --dry_run"):
        places.write_manifests(tmp_path / "new" / "a.json", {"b.json": "{}"})
