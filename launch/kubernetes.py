"""A grid on TPU slices of Google Kubernetes Engine: every unit is a JobSet, recorded in XManager's database."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from framework.errors import UserError
from launch.bucket import Bucket
from launch.cluster import read_cluster, settings_of
from launch.grid import GridFolder, GridUnit, Launch
from launch.jobsets import GROUP, PLURAL, VERSION, api, in_words
from launch.places import Request
from launch.remote import bucket_folder, job_name, refuse_missing, refuse_missing_credentials, refuse_unusable, submit
from launch.states import State
from launch.tpu import Slice

_SETTINGS = (
    "project", "context", "namespace", "service_account", "bucket", "prefix", "image", "tpu", "topology",
    "chips_per_host", "spot", "max_restarts", "grace_seconds",
)  # fmt: skip
_APP, _CONTAINER, _HOST = "rulespace", "rulespace", "host"


@dataclasses.dataclass(frozen=True)
class Gke:
    """A cluster, and the slice of it that a unit gets.

    Attributes:
      settings: of the cluster file; see ``launch/clusters/gke.py``.
    """

    settings: Mapping[str, Any]
    max_parallel: int | None = None

    def __post_init__(self) -> None:
        _ = self.slice  # Refuses what is none.
        refuse_unusable(self.settings)

    @property
    def slice(self) -> Slice:
        return Slice(self.settings["tpu"], self.settings["topology"], self.settings["chips_per_host"])

    @property
    def bucket(self) -> Bucket:
        return Bucket(self.settings["bucket"], self.settings["project"])

    @property
    def chips(self) -> int:
        return self.slice.chips

    @property
    def description(self) -> str:
        hosts = f"{self.slice.hosts} hosts" if self.slice.hosts > 1 else "1 host"
        return f"GKE, a slice {self.slice.generation} {self.slice.topology} ({self.chips} chips, {hosts}) each"

    def folder_of(self, grid: GridFolder, name: str) -> str:
        return f"gs://{self.bucket.name}/{bucket_folder(self.settings, grid)}/{name}"

    def manifests(self, grid: GridFolder, units: Sequence[GridUnit]) -> Mapping[str, str]:
        return {f"{unit.name}.json": json.dumps(self.jobset(grid, unit), indent=2) + "\n" for unit in units}

    def jobset(self, grid: GridFolder, unit: GridUnit) -> dict[str, Any]:
        """The JobSet of a unit: a job whose pods are the hosts of one slice."""
        hosts, chips = self.slice.hosts, {"google.com/tpu": str(self.slice.chips_per_host)}
        labels = {"app": _APP, "rulespace/unit": unit.name}
        pod: dict[str, Any] = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": self.settings["grace_seconds"],
            "nodeSelector": {
                "cloud.google.com/gke-tpu-accelerator": self.slice.accelerator,
                "cloud.google.com/gke-tpu-topology": self.slice.topology,
                **({"cloud.google.com/gke-spot": "true"} if self.settings["spot"] else {}),
            },
            "containers": [
                {
                    "name": _CONTAINER,
                    "image": self.settings["image"],
                    "command": ["rulespace"],
                    "args": [_unexpanded(word) for word in self._words(unit)],
                    # TPU_WORKER_ID and TPU_WORKER_HOSTNAMES are the cluster's to set.
                    "resources": {"requests": chips, "limits": chips},
                }
            ],
        }
        if self.settings["service_account"]:
            pod["serviceAccountName"] = self.settings["service_account"]
        if self.settings["spot"]:
            pod["tolerations"] = [
                {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
            ]
        return {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "JobSet",
            "metadata": {
                "name": job_name(self.settings, grid, unit.name),
                "namespace": self.settings["namespace"],
                "labels": labels,
                # A slice is a node pool: no two jobs share one, and none is spread over two.
                "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
            },
            "spec": {
                "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
                "failurePolicy": {"maxRestarts": self.settings["max_restarts"]},
                "replicatedJobs": [
                    {
                        "name": _HOST,
                        "replicas": 1,
                        "template": {
                            "spec": {
                                "parallelism": hosts,
                                "completions": hosts,
                                "completionMode": "Indexed",
                                "backoffLimit": 0,
                                "template": {"metadata": {"labels": labels}, "spec": pod},
                            }
                        },
                    }
                ],
            },
        }

    def preflight(self) -> None:
        refuse_missing(self.bucket, self.settings["image"], [self._unusable_cluster])

    def run(self, grid: GridFolder, units: Sequence[GridUnit], title: str) -> bool:
        from launch.jobset_executor import jobset_job

        asyncio.run(
            submit(
                grid,
                units,
                title=title,
                on="gke",
                cluster=self.settings,
                job_of=lambda unit: jobset_job(self.jobset(grid, unit), self.settings["context"]),
                name_of=lambda unit, _: job_name(self.settings, grid, unit.name),
            )
        )
        return True

    def states(self, launch: Launch) -> Mapping[str, State]:
        refuse_missing_credentials()
        with in_words("GKE does not say how the units stand"):
            answer = api(self.settings["context"]).list_namespaced_custom_object(
                GROUP, VERSION, self.settings["namespace"], PLURAL, label_selector=f"app={_APP}"
            )
        found = {jobset["metadata"]["name"]: jobset for jobset in answer["items"]}
        return {unit: _state(found.get(name)) for unit, name in launch.jobs.items()}

    def stop(self, launch: Launch, units: Sequence[str]) -> None:
        """Deletes the JobSets; their pods are told to save their state, and have the grace period to do so."""
        for unit in units:
            with in_words(f"{launch.jobs[unit]} cannot be deleted"), _may_be_gone():
                api(self.settings["context"]).delete_namespaced_custom_object(
                    GROUP, VERSION, self.settings["namespace"], PLURAL, launch.jobs[unit]
                )

    def log(self, launch: Launch, unit: str) -> str:
        """What the first host has said."""
        from kubernetes import client

        pods: Any = client.CoreV1Api(api(self.settings["context"]).api_client)
        selector = f"jobset.sigs.k8s.io/jobset-name={launch.jobs[unit]},batch.kubernetes.io/job-completion-index=0"
        try:
            found = pods.list_namespaced_pod(self.settings["namespace"], label_selector=selector).items
            if not found:
                return ""
            latest = max(found, key=lambda pod: pod.metadata.creation_timestamp)
            return pods.read_namespaced_pod_log(latest.metadata.name, self.settings["namespace"], container=_CONTAINER)
        except client.ApiException as error:
            return f"the log cannot be read: {error.reason}\n"

    def _words(self, unit: GridUnit) -> list[str]:
        together = ["--coordinator=auto"] if self.slice.hosts > 1 else []
        return ["run", *unit.arguments, *together]

    def _unusable_cluster(self) -> str | None:
        """A sentence on why the cluster cannot take JobSets; ``None`` if it can."""
        from kubernetes import client

        selector = (
            f"cloud.google.com/gke-tpu-accelerator={self.slice.accelerator},"
            f"cloud.google.com/gke-tpu-topology={self.slice.topology}"
        )
        try:
            with in_words("the cluster does not answer"):
                objects = api(self.settings["context"])
                objects.list_namespaced_custom_object(GROUP, VERSION, self.settings["namespace"], PLURAL, limit=1)
                nodes = client.CoreV1Api(objects.api_client).list_node(label_selector=selector, limit=1).items
        except UserError as error:
            return str(error)
        if not nodes:  # A pool that scales from zero looks the same.
            wanted = f"{self.slice.generation} {self.slice.topology}"
            print(f"note: no node has a slice {wanted} yet; the units will wait for one")
        return None


def _state(jobset: Mapping[str, Any] | None) -> State:
    """How a JobSet stands; one that was deleted is not there."""
    if jobset is None:
        return State.INTERRUPTED
    status = jobset.get("status", {})
    conditions = {item["type"] for item in status.get("conditions", ()) if item["status"] == "True"}
    if "Failed" in conditions:
        return State.FAILED
    if "Completed" in conditions:
        return State.WAITING  # For its result, which is fetched.
    jobs = status.get("replicatedJobsStatus", ())
    return State.RUNNING if any(job.get("ready", 0) or job.get("active", 0) for job in jobs) else State.WAITING


@contextlib.contextmanager
def _may_be_gone() -> Iterator[None]:
    from kubernetes.client import ApiException

    try:
        yield
    except ApiException as error:
        if error.status != 404:
            raise


def of_launch(launch: Launch) -> Gke:
    """Where a launch was handed to."""
    return Gke(launch.cluster)


def place(request: Request) -> Gke:
    cluster = read_cluster(request.cluster, request.settings, default="gke")
    if request.max_parallel is not None:
        raise UserError("--max_parallel is for --on=local: the cluster runs as many units as it has slices")
    return Gke(settings_of(cluster, *_SETTINGS))


def _unexpanded(word: str) -> str:
    """An argument that Kubernetes hands on as it is: it expands ``$(NAME)``, and makes ``$`` of ``$$``."""
    return word.replace("$", "$$")
