"""Vertex AI, one TPU v3 host (8 cores) a unit. Required: project, bucket, image."""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    return config_dict.create(
        project=config_dict.placeholder(str),
        location="us-central1",  # Where Vertex AI has v3; v2 is in the same places.
        bucket=config_dict.placeholder(str),  # Holds the run folders, without gs://.
        prefix="rulespace",  # Folder in the bucket.
        image=config_dict.placeholder(str),  # LOCATION-docker.pkg.dev/PROJECT/REPOSITORY/rulespace:TAG
        tpu="v3",
        cores=8,
    )
