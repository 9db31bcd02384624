"""``rulespace describe CONFIG``: the composed experiment, without running anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from absl import flags

from experiments.description_text import print_description
from experiments.loading import load_config, tracing
from framework.config import Loaded
from framework.cost import Cost, measure_cost
from framework.describe import describe
from framework.description import Description
from framework.runs.storage import strict_json
from framework.train import Trainer


def define_flags(options: flags.FlagValues) -> None:
    flags.DEFINE_enum("format", "text", ["text", "json"], "How to print.", flag_values=options)
    meaning = "Show what each of so many devices would hold; with --hosts, so many of each host."
    flags.DEFINE_integer("devices", None, meaning, lower_bound=1, flag_values=options)
    meaning = "How many hosts these devices are on, which then do one run."
    flags.DEFINE_integer("hosts", 1, meaning, lower_bound=1, flag_values=options)
    flags.DEFINE_bool("cost", False, "Compile, and show FLOPs and memory.", flag_values=options)


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    """Prints the description of one config, as text or as JSON.

    Of a step only the beginning is traced, so that a discovery is described as quickly as all else.

    Raises:
      ConfigError: all mistakes of the config, or its parts do not fit together.
    """
    if options.devices is None and options.hosts > 1:
        raise flags.IllegalFlagValueError(f"--hosts={options.hosts} needs --devices, the number of devices of each")
    loaded = load_config(arguments[0], options)
    trainer = Trainer(loaded.experiment)
    with tracing(arguments[0]):
        description = describe(trainer, options.devices, options.hosts)
    cost = measure_cost(trainer) if options.cost else None
    if options.format == "json":
        print(as_json(loaded, description, cost))
    else:
        print_description(loaded, description, cost)
    return 0


def as_json(loaded: Loaded, description: Description, cost: Cost | None) -> str:
    """The description with the fields of `framework.description.Description` as keys, and more of them.

    These are ``name`` and ``config_hash`` of the config; ``cost``, a `framework.cost.Cost` or null where it was
    not asked for; and ``bindings``, every line of the config with ``name``, ``value``, ``file``, ``line`` and
    ``overridden``.
    """
    return strict_json(
        {
            "name": loaded.name,
            "config_hash": loaded.config_hash,
            **dataclasses.asdict(description),
            "cost": None if cost is None else dataclasses.asdict(cost),
            "bindings": [dataclasses.asdict(binding) for binding in loaded.bindings],
        },
        indent=2,
    )
