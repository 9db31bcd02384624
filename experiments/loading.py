"""How every verb gets its experiment: from a config and the flags of the command line."""

from __future__ import annotations

from absl import flags

import components
from framework import config
from framework.experiment import Experiment

__all__ = ["components", "load_experiment"]


def load_experiment(name: str, options: flags.FlagValues) -> config.Loaded:
    """The experiment of a config, with the files and bindings that the flags add.

    Raises:
      ConfigError: all mistakes of the config.
    """
    return config.load(name, gin_files=options.gin_file, bindings=options.gin_bindings, root=Experiment)
