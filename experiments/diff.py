"""``rulespace diff A B``: what differs between two experiments, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from experiments.loading import everything
from framework import config
from framework.experiment import Experiment

__all__ = ["everything", "main"]


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    """Prints a line for every parameter that differs; nothing is traced.

    Raises:
      ConfigError: all mistakes of a config.
    """
    left, right = (
        config.load(name, gin_files=options.gin_file, bindings=options.gin_bindings, root=Experiment)
        for name in arguments
    )
    for line in left.differences(right):
        print(line)
    return 0
