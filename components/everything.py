"""Everything a gin file can name. Importing this module registers all components."""

from components import (
    action_models,
    bandits,
    convolutional_torsos,
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
from components.suites import atari, catch, chains, classic_control, gridworlds, gymnasium

__all__ = [
    "action_features",
    "action_models",
    "atari",
    "bandits",
    "catch",
    "chains",
    "classic_control",
    "convolutional_torsos",
    "cores",
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
