"""``rulespace diff A B``: what differs between two experiments, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from experiments.loading import load_experiment


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    left, right = (load_experiment(name, options) for name in arguments)
    for line in left.differences(right):
        print(line)
    return 0
