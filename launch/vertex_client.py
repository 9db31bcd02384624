"""XManager's client of Vertex AI, submitting our manifests as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.api_core import exceptions
from google.cloud import aiplatform
from google.cloud import aiplatform_v1 as service
from xmanager import xm, xm_local
from xmanager.cloud import vertex
from xmanager.xm_local import executables

from framework.errors import UserError
from launch.states import State

_STATES = {
    service.JobState.JOB_STATE_SUCCEEDED: State.WAITING,  # For its result, which is fetched.
    service.JobState.JOB_STATE_FAILED: State.FAILED,
    service.JobState.JOB_STATE_EXPIRED: State.FAILED,
    service.JobState.JOB_STATE_CANCELLED: State.INTERRUPTED,
    service.JobState.JOB_STATE_CANCELLING: State.RUNNING,
    service.JobState.JOB_STATE_RUNNING: State.RUNNING,
}


class ManifestClient(vertex.Client):
    """Submits CustomJobs; XManager's own names them by the clock, and makes service accounts that TPUs cannot use."""

    def __init__(self, project: str, location: str, bucket: str) -> None:
        super().__init__(project, location)
        self._bucket = bucket
        self._manifests: dict[str, Mapping[str, Any]] = {}

    def job(self, manifest: Mapping[str, Any]) -> xm.Job:
        """The XManager job of a CustomJob."""
        [pool] = manifest["jobSpec"]["workerPoolSpecs"]
        machine, container = pool["machineSpec"], pool["containerSpec"]
        self._manifests[manifest["displayName"]] = manifest
        requirements = xm.JobRequirements(**{machine["acceleratorType"].lower(): machine["acceleratorCount"]})
        return xm.Job(
            executable=executables.GoogleContainerRegistryImage(name="rulespace", image_path=container["imageUri"]),
            executor=xm_local.Vertex(requirements=requirements),
            args=list(container["args"]),
            name=manifest["displayName"],
        )

    def launch(self, name: str, jobs: Sequence[xm.Job]) -> str:
        """Submits the job of a work unit; its resource name."""
        del name
        [job] = jobs
        manifest = service.CustomJob.from_json(json.dumps(self._manifests[job.name]))
        custom_job = aiplatform.CustomJob(
            display_name=manifest.display_name,
            worker_pool_specs=list(manifest.job_spec.worker_pool_specs),
            base_output_dir=manifest.job_spec.base_output_directory.output_uri_prefix,
            project=self.project,
            location=self.location,
            staging_bucket=f"gs://{self._bucket}",
        )
        custom_job.submit(enable_web_access=manifest.job_spec.enable_web_access)
        return custom_job.resource_name


def connected(project: str, location: str, bucket: str) -> ManifestClient:
    """A client, which XManager uses from now on."""
    client = ManifestClient(project, location, bucket)
    vertex.set_default_client(client)
    return client


def resource_name(work_unit: Any) -> str:
    """What the service calls the job of a work unit."""
    [handle] = work_unit._non_local_execution_handles
    return handle.job_name


def state_of(client: ManifestClient, name: str) -> State:
    """How a job stands; one that ended well is waiting for nothing but its result.

    Raises:
      UserError: the service does not say.
    """
    try:
        return _STATES.get(client.get_state(name), State.WAITING)
    except exceptions.NotFound:
        return State.INTERRUPTED
    except exceptions.GoogleAPIError as error:
        raise UserError(f"Vertex AI does not say how {name} stands: {error}") from None


def cancel(client: ManifestClient, name: str) -> None:
    """Ends a job.

    Raises:
      UserError: the service refuses.
    """
    try:
        client.cancel(name)
    except exceptions.NotFound:
        return
    except exceptions.GoogleAPIError as error:
        raise UserError(f"{name} cannot be cancelled: {error}") from None
