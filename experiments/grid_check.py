"""Checks the units of a grid for ``rulespace launch``, which imports no jax itself.

A JSON list of argument lists of ``rulespace run`` comes in on standard input. For each, one line of JSON goes out:
``mistakes``, and without any what the run will be: ``config_hash``, ``seed``, ``steps``, ``env_steps``, the
``parameters`` of an agent and the ``memory_megabytes`` of the state.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments.cli import UsageError, rewrite_bindings
from experiments.loading import load_experiment
from framework.config import ConfigError
from framework.describe import describe
from framework.train import Trainer


def main() -> int:
    answers = sys.stdout
    # What is said meanwhile is not for whoever reads the answers.
    with contextlib.redirect_stdout(sys.stderr):
        for arguments in json.load(sys.stdin):
            print(json.dumps(check(arguments)), file=answers, flush=True)
    return 0


def check(arguments: Sequence[str]) -> dict[str, Any]:
    """What is wrong with the arguments of a run, or what it will be."""
    options = flags.FlagValues()
    flags.DEFINE_multi_string("gin_file", [], "As of rulespace run.", flag_values=options)
    flags.DEFINE_multi_string("gin_bindings", [], "As of rulespace run.", flag_values=options)
    try:
        _, config = options(["run", *rewrite_bindings(arguments)])
        loaded = load_experiment(config, options)
    except ConfigError as error:
        mistakes = [[mistake.file, mistake.line, mistake.message] for mistake in error.mistakes]
        return {"mistakes": mistakes}
    except (UsageError, flags.Error, ValueError) as error:
        return {"mistakes": [["command line", 0, str(error)]]}
    description = describe(Trainer(loaded.experiment), None)
    return {
        "mistakes": [],
        "config_hash": loaded.config_hash,
        "seed": description.schedule.seed,
        "steps": description.schedule.steps,
        "env_steps": description.schedule.env_steps,
        "parameters": description.groups[0].agent.parameters.count,
        "memory_megabytes": description.memory_megabytes.total,
    }


if __name__ == "__main__":
    sys.exit(main())
