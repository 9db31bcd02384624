"""What every service for jobs has in common: names, folders in the bucket, and the record of a launch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from framework.errors import UserError
from launch.bucket import Bucket
from launch.credentials import missing_credentials, missing_image, unusable_image_name
from launch.grid import GridFolder, GridUnit, Launch
from launch.sweep import dns_label
from launch.xmanager_experiment import forget_errors, new_experiment, refuse_missing_xmanager

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_LONGEST_UNIT = 32  # A pod's name holds the job's, an index of the host and a random ending, in 63 characters.


def bucket_folder(settings: Mapping[str, Any], grid: GridFolder) -> str:
    """The folder in the bucket for the run folders of a grid: of its own name, below the cluster's prefix."""
    return "/".join(filter(None, (settings["prefix"].strip("/"), grid.path.resolve().name)))


def job_name(settings: Mapping[str, Any], grid: GridFolder, unit: str) -> str:
    """A unit's job: one name for each start of it, which a dry run knows too.

    Args:
      settings: of the cluster.
      grid: where earlier starts are on record.
      unit: its name; grids that have units of one name are told apart by their folders in the bucket.
    """
    attempt = 1 + sum(unit in launch.jobs for launch in grid.launches())
    where = hashlib.sha256(bucket_folder(settings, grid).encode()).hexdigest()[:6]
    return f"{dns_label(unit, _LONGEST_UNIT)}-{where}-{attempt}"


def refuse_unusable(settings: Mapping[str, Any]) -> None:
    """Refuses names that no bucket and no image can have.

    Raises:
      UserError: in words.
    """
    if not _BUCKET.fullmatch(settings["bucket"]):
        raise UserError(
            f"'{settings['bucket']}' is no name of a bucket: write it without gs://, and folders as --cluster.prefix"
        )
    if (sentence := unusable_image_name(settings["image"])) is not None:
        raise UserError(sentence)


def refuse_missing_credentials() -> None:
    """Asked first, as the services' clients take seconds to load, and fail in words of their own.

    Raises:
      UserError: the user is nobody to Google Cloud.
    """
    refuse_missing_xmanager()
    if (sentence := missing_credentials()) is not None:
        raise UserError(sentence)


def refuse_missing(bucket: Bucket, image: str, more: Sequence[Callable[[], str | None]] = ()) -> None:
    """Everything that is missing to submit anything, each in a sentence.

    Raises:
      UserError: something is.
    """
    refuse_missing_xmanager()
    if (sentence := missing_credentials()) is not None:  # Nothing else can be asked without them.
        raise UserError(f"nothing was submitted: {sentence}")
    checks = (bucket.refuse_missing, lambda: missing_image(image), *more)
    sentences = [sentence for check in checks if (sentence := check()) is not None]
    if sentences:
        raise UserError("\n".join(["nothing was submitted:", *(f"  {sentence}" for sentence in sentences)]))


async def submit(
    grid: GridFolder,
    units: Sequence[GridUnit],
    *,
    title: str,
    on: str,
    cluster: Mapping[str, Any],
    job_of: Callable[[GridUnit], Any],
    name_of: Callable[[GridUnit, Any], str],
) -> None:
    """Hands units over as work units of an XManager experiment; what was handed over is on record at once.

    Args:
      grid: of the units.
      units: to run.
      title: of the experiment.
      on: the service.
      cluster: its settings.
      job_of: the XManager job of a unit.
      name_of: what the service calls it, from the unit and its work unit.

    Raises:
      UserError: the service refuses; units before that stay handed over.
    """
    jobs: dict[str, str] = {}
    async with new_experiment(title) as experiment:
        for unit in units:
            try:
                work_unit = await experiment.add(job_of(unit))
            except Exception as error:
                await forget_errors(experiment)
                reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                raise UserError(
                    f"{unit.name} was not accepted: {reason}\n"
                    f"{len(jobs)} units were handed over before it; the same command hands over the rest"
                ) from error
            jobs[unit.name] = name_of(unit, work_unit)
            grid.record_launch(Launch(on, experiment.experiment_id, dict(cluster), jobs))
            print(f"submitted {unit.name} as {jobs[unit.name]}", flush=True)
