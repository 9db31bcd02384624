"""An XManager executor that creates JobSets: XManager's own for Kubernetes makes plain jobs, without TPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attr
from xmanager import xm, xm_local
from xmanager.xm_local import executables, handles, registry
from xmanager.xm_local.storage import database

from launch.jobsets import GROUP, PLURAL, VERSION, api, in_words


@attr.s(auto_attribs=True)
class JobSetExecutor(xm.Executor):
    """Creates a JobSet of Kubernetes.

    Attributes:
      manifest: of the JobSet.
      context: of the kubeconfig.
    """

    manifest: Mapping[str, Any]
    context: str
    Spec = xm_local.Kubernetes.Spec

    def __attrs_post_init__(self) -> None:
        registry.register(JobSetExecutor, launch=JobSetExecutor.launch)

    @classmethod
    async def launch(cls, local_experiment_unit: Any, job_group: xm.JobGroup) -> Sequence[handles.ExecutionHandle]:
        """Creates the JobSets of a work unit, and notes them in XManager's database.

        XManager itself notes the handles of its own executors only.
        """
        jobs = xm.job_operators.collect_jobs_by_filter(job_group, lambda job: isinstance(job.executor, cls))
        for job in jobs:
            manifest = job.executor.manifest
            namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
            with in_words(f"{name} cannot be created"):
                objects = api(job.executor.context)
                objects.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, dict(manifest))
            database.database().insert_kubernetes_job(
                local_experiment_unit.experiment_id, local_experiment_unit.work_unit_id, namespace, name
            )
        return []


def jobset_job(manifest: Mapping[str, Any], context: str) -> xm.Job:
    """The job of a unit for XManager; its arguments are in the manifest already."""
    [container] = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    image = executables.GoogleContainerRegistryImage(name=container["name"], image_path=container["image"])
    return xm.Job(executable=image, executor=JobSetExecutor(manifest, context), name=manifest["metadata"]["name"])
