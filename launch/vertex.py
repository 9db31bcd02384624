"""A grid on TPUs of Vertex AI, through XManager."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from framework.errors import UserError
from launch.bucket import Bucket
from launch.cluster import read_cluster, settings_of
from launch.credentials import session
from launch.grid import GridFolder, GridUnit, Launch
from launch.places import Request
from launch.remote import bucket_folder, job_name, refuse_missing, refuse_missing_credentials, refuse_unusable, submit
from launch.states import State

_SETTINGS = ("project", "location", "bucket", "prefix", "image", "tpu", "cores")
_TPUS = ("v2", "v3")
_CORES = 8
_LOG_LINES = 1000


@dataclasses.dataclass(frozen=True)
class Vertex:
    """Vertex AI, with one TPU host a unit.

    Attributes:
      settings: of the cluster file; see ``launch/clusters/vertex.py``.
    """

    settings: Mapping[str, Any]
    max_parallel: int | None = None

    def __post_init__(self) -> None:
        tpu, cores = self.settings["tpu"], self.settings["cores"]
        if tpu not in _TPUS:
            raise UserError(
                f"XManager can ask Vertex AI for TPU v2 and v3 only, not for {tpu}: use --on=gke --cluster=gke "
                f"--cluster.tpu={tpu} with a topology, or --cluster.tpu=v3"
            )
        if cores != _CORES:
            raise UserError(f"a unit on Vertex AI has one host, which has {_CORES} cores of {tpu}, not {cores}")
        refuse_unusable(self.settings)

    @property
    def bucket(self) -> Bucket:
        return Bucket(self.settings["bucket"], self.settings["project"])

    @property
    def chips(self) -> int:
        return _CORES // 2  # A chip of v2 and v3 has two cores.

    @property
    def description(self) -> str:
        return f"Vertex AI, a TPU {self.settings['tpu']}-{_CORES} each"

    def folder_of(self, grid: GridFolder, name: str) -> str:
        return f"gs://{self.bucket.name}/{bucket_folder(self.settings, grid)}/{name}"

    def manifests(self, grid: GridFolder, units: Sequence[GridUnit]) -> Mapping[str, str]:
        return {f"{unit.name}.json": json.dumps(self.custom_job(grid, unit), indent=2) + "\n" for unit in units}

    def custom_job(self, grid: GridFolder, unit: GridUnit) -> dict[str, Any]:
        """The CustomJob of a unit, as the service's REST interface takes it."""
        return {
            "displayName": job_name(self.settings, grid, unit.name),
            "jobSpec": {
                "workerPoolSpecs": [
                    {
                        "machineSpec": {
                            "machineType": "cloud-tpu",
                            "acceleratorType": f"TPU_{self.settings['tpu'].upper()}",
                            "acceleratorCount": _CORES,
                        },
                        "replicaCount": "1",
                        "containerSpec": {"imageUri": self.settings["image"], "args": ["run", *unit.arguments]},
                    }
                ],
                "baseOutputDirectory": {"outputUriPrefix": self.folder_of(grid, unit.name)},
                "enableWebAccess": True,
            },
        }

    def preflight(self) -> None:
        refuse_missing(self.bucket, self.settings["image"])

    def run(self, grid: GridFolder, units: Sequence[GridUnit], title: str) -> bool:
        from launch.vertex_client import resource_name

        client = self._client()
        asyncio.run(
            submit(
                grid,
                units,
                title=title,
                on="vertex",
                cluster=self.settings,
                job_of=lambda unit: client.job(self.custom_job(grid, unit)),
                name_of=lambda _, work_unit: resource_name(work_unit),
            )
        )
        return True

    def states(self, launch: Launch) -> Mapping[str, State]:
        refuse_missing_credentials()
        from launch.vertex_client import state_of

        client = self._client()
        return {unit: state_of(client, name) for unit, name in launch.jobs.items()}

    def stop(self, launch: Launch, units: Sequence[str]) -> None:
        from launch.vertex_client import cancel

        client = self._client()
        for unit in units:
            cancel(client, launch.jobs[unit])

    def log(self, launch: Launch, unit: str) -> str:
        """The latest lines that Cloud Logging has of the job."""
        number = launch.jobs[unit].rpartition("/")[2]
        query = {
            "resourceNames": [f"projects/{self.settings['project']}"],
            "filter": f'resource.type="ml_job" resource.labels.job_id="{number}"',
            "orderBy": "timestamp desc",
            "pageSize": _LOG_LINES,
        }
        answer = session().post("https://logging.googleapis.com/v2/entries:list", json=query, timeout=60)
        if answer.status_code >= 400:
            return f"the log cannot be read: status {answer.status_code}\n"
        return "".join(f"{_line(entry)}\n" for entry in reversed(answer.json().get("entries", [])))

    def _client(self) -> Any:
        from launch.vertex_client import connected

        return connected(self.settings["project"], self.settings["location"], self.bucket.name)


def of_launch(launch: Launch) -> Vertex:
    """Where a launch was handed to."""
    return Vertex(launch.cluster)


def place(request: Request) -> Vertex:
    cluster = read_cluster(request.cluster, request.settings, default="vertex")
    if request.max_parallel is not None:
        raise UserError("--max_parallel is for --on=local: Vertex AI runs as many units as your quota allows")
    return Vertex(settings_of(cluster, *_SETTINGS))


def _line(entry: Mapping[str, Any]) -> str:
    return entry.get("textPayload") or entry.get("jsonPayload", {}).get("message", "")
