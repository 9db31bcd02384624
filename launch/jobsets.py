"""JobSets as Kubernetes' own client knows them: custom objects of a cluster."""

from __future__ import annotations

import contextlib
from typing import Any

GROUP, VERSION, PLURAL = "jobset.x-k8s.io", "v1alpha2", "jobsets"


def api(context: str) -> Any:
    """The cluster's interface to custom objects."""
    from kubernetes import client, config

    with contextlib.suppress(config.ConfigException):
        config.load_incluster_config()
        return client.CustomObjectsApi()
    return client.CustomObjectsApi(config.new_client_from_config(context=context or None))
