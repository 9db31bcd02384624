"""``rulespace check CONFIG...``: every mistake of every config."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from experiments.loading import load_experiment
from framework.config import ConfigError, Mistake


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    mistakes: set[Mistake] = set()
    for name in arguments:
        try:
            load_experiment(name, options)
        except ConfigError as error:
            mistakes.update(error.mistakes)
        else:
            print(f"{name}: ok")
    if not mistakes:
        return 0
    count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
    print(*sorted(mistakes), count, sep="\n", file=sys.stderr)
    return 1
