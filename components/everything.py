"""Everything a gin file can name. Importing this module registers all components."""

from components import (
    action_models,
    bandits,
    convolutional_torsos,
    distributional_heads,
    heads,
    lifetimes,
    loss_terms,
    meta_objectives,
    normalizers,
    optimizers,
    regularizers,
    replays,
    torsos,
    value_estimators,
    weights,
)
from components.meta_networks import action_features, cores, features, learned_targets, static_targets
from components.suites import atari, catch, chains, gridworlds, gymnasium

__all__ = [
    "action_features",
    "action_models",
    "atari",
    "bandits",
    "catch",
    "chains",
    "convolutional_torsos",
    "cores",
    "distributional_heads",
    "features",
    "gridworlds",
    "gymnasium",
    "heads",
    "learned_targets",
    "lifetimes",
    "loss_terms",
    "meta_objectives",
    "normalizers",
    "optimizers",
    "regularizers",
    "replays",
    "static_targets",
    "torsos",
    "value_estimators",
    "weights",
]
