"""Google Kubernetes Engine, one v5p slice of 64 chips on 16 hosts a unit. Required: project, bucket, image."""

from ml_collections import config_dict

from launch.clusters import gke


def get_config() -> config_dict.ConfigDict:
    config = gke.get_config()
    config.tpu = "v5p"
    config.topology = "4x4x4"
    config.chips_per_host = 4
    return config
