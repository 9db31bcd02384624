"""``rulespace diff A B``: what differs between two experiments, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from experiments.loading import load_config


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    """Prints a line for every parameter that differs; nothing is traced.

    Raises:
      ConfigError: all mistakes of a config.
    """
    left, right = (load_config(name, options) for name in arguments)
    for line in left.differences(right):
        print(line)
    return 0
