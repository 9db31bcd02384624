"""JobSets as Kubernetes' own client knows them: custom objects of a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from framework.errors import UserError

GROUP, VERSION, PLURAL = "jobset.x-k8s.io", "v1alpha2", "jobsets"


def api(context: str) -> Any:
    """The cluster's interface to custom objects."""
    from kubernetes import client, config

    with contextlib.suppress(config.ConfigException):
        config.load_incluster_config()
        return client.CustomObjectsApi()
    return client.CustomObjectsApi(config.new_client_from_config(context=context or None))


@contextlib.contextmanager
def in_words(what: str) -> Iterator[None]:
    """Says what the cluster's client raises; ``what`` went wrong begins the sentence."""
    from kubernetes.client import ApiException
    from kubernetes.config import ConfigException
    from urllib3.exceptions import HTTPError

    remedy = "gcloud container clusters get-credentials CLUSTER"
    try:
        yield
    except ConfigException:
        raise UserError(f"{what}: there is no kubeconfig for the cluster: {remedy}") from None
    except ApiException as error:
        if error.status == 404:
            raise UserError(f"{what}: it has no JobSets; install them from https://jobset.sigs.k8s.io") from None
        raise UserError(f"{what}: {error.reason} (status {error.status}): {remedy}") from None
    except HTTPError:
        raise UserError(f"{what}: it cannot be reached: {remedy}") from None
