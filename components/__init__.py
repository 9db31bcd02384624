"""Everything a gin file can name. Importing this package registers all components."""

from components import (
    action_models,
    heads,
    loss_terms,
    normalizers,
    optimizers,
    replays,
    torsos,
    value_estimators,
    weights,
)
from components.meta_networks import action_features, cores, features, learned_targets, static_targets
from components.suites import catch

__all__ = [
    "action_features",
    "action_models",
    "catch",
    "cores",
    "features",
    "heads",
    "learned_targets",
    "loss_terms",
    "normalizers",
    "optimizers",
    "replays",
    "static_targets",
    "torsos",
    "value_estimators",
    "weights",
]
