"""XManager's client of Vertex AI, submitting our manifests."""

from __future__ import annotations

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


@xm.attr.s(auto_attribs=True) if False else lambda cls: cls
class _Placeholder:
    pass
