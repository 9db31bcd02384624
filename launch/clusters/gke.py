"""A cluster of Google Kubernetes Engine with the JobSet controller; one v5e slice of 8 chips a unit.

Required: project, bucket, image. Commonly overridden: tpu (v4, v5e, v5p, v6e), topology, chips_per_host, spot.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    return config_dict.create(
        project=config_dict.placeholder(str),
        context="",  # Of the kubeconfig; empty: its current one.
        namespace="default",
        service_account="",  # Of Kubernetes, one that may write to the bucket; empty: the namespace's default.
        bucket=config_dict.placeholder(str),  # Holds the run folders, without gs://.
        prefix="rulespace",  # Folder in the bucket.
        image=config_dict.placeholder(str),  # LOCATION-docker.pkg.dev/PROJECT/REPOSITORY/rulespace:TAG
        tpu="v5e",
        topology="2x4",
        chips_per_host=8,  # Of the machines in the node pool: a 2x4 of v5e is one host of 8 chips, or two of 4.
        spot=False,  # Whether the node pool may be taken away at any time.
        max_restarts=10,  # Of a unit whose hosts were lost; it goes on from its last checkpoint.
        grace_seconds=120,  # To finish a step and save the state before a host goes.
    )
