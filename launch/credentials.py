"""Who we are for Google Cloud, and whether the image is where the cluster says."""

from __future__ import annotations

import re
from typing import Any

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_REGISTRY = re.compile(
    r"(?P<host>[a-z0-9-]+(-docker\.pkg\.dev|\.gcr\.io)|gcr\.io)/(?P<name>[\w./-]+?)(:(?P<tag>[\w.-]+)|@(?P<digest>sha256:[0-9a-f]{64}))"
)
_MANIFESTS = ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.index.v1+json")


def session() -> Any:
    """An HTTP session of `requests` with the user's credentials.

    Raises:
      google.auth.exceptions.GoogleAuthError: there are none.
    """
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    credentials, _ = google.auth.default(scopes=[_SCOPE])
    return AuthorizedSession(credentials)


def missing_credentials() -> str | None:
    """A sentence on what is wrong with the user's credentials; ``None`` if they are good."""
    import google.auth
    from google.auth import exceptions
    from google.auth.transport.requests import Request

    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
        credentials.refresh(Request())
    except exceptions.DefaultCredentialsError:
        return "there are no Google Cloud credentials: gcloud auth application-default login"
    except exceptions.GoogleAuthError as error:
        return f"the Google Cloud credentials are not accepted ({error}): gcloud auth application-default login"
    return None


def unusable_image_name(image: str) -> str | None:
    """A sentence on why no image can have this name; ``None`` if one can."""
    if _REGISTRY.fullmatch(image):
        return None
    return (
        f"'{image}' is no image of a Google registry with a tag: write "
        "LOCATION-docker.pkg.dev/PROJECT/REPOSITORY/rulespace:TAG"
    )


def missing_image(image: str) -> str | None:
    """A sentence on why the image cannot be used; ``None`` if the registry has it."""
    parts = _REGISTRY.fullmatch(image)
    if parts is None:
        return unusable_image_name(image)
    url = f"https://{parts['host']}/v2/{parts['name']}/manifests/{parts['tag'] or parts['digest']}"
    answer = session().head(url, headers={"Accept": ", ".join(_MANIFESTS)}, timeout=30)
    if answer.status_code == 404:
        return f"the registry has no image {image}: build and push it as launch/Dockerfile says"
    if answer.status_code >= 400:
        return f"the registry does not show {image} to these credentials (status {answer.status_code})"
    return None
