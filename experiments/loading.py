"""How every verb gets its experiment: from a config and the flags of the command line."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator

from absl import flags

from components import everything
from framework import config, registry
from framework.config import ConfigError, Loaded, Mistake
from framework.configuration import kind_of
from framework.errors import UserError
from framework.experiment import Experiment
from framework.interfaces import COMPOSITE_KINDS
from framework.train import Trainer

__all__ = ["everything", "load_config", "load_experiment", "tracing"]


def load_config(name: str, options: flags.FlagValues) -> Loaded:
    """A config, with the files and bindings that the flags add; nothing is traced. Its notes are printed.

    Raises:
      ConfigError: all mistakes of the config.
    """
    try:
        loaded = config.load(name, gin_files=options.gin_file, bindings=options.gin_bindings, root=Experiment)
    except ConfigError:
        raise
    except UserError as error:  # Of a component that was asked what it is, such as an environment's spaces.
        raise ConfigError([Mistake(name, 0, str(error))]) from error
    for note in loaded.experiment.notes:
        print(f"{name}: {note}", file=sys.stderr)
    return loaded


def load_experiment(name: str, options: flags.FlagValues) -> Loaded:
    """A config whose experiment is known to fit together.

    One update is traced, which computes nothing: what the parts cannot know alone, such as shapes that do not fit,
    is found here and not after an hour in a queue.

    Raises:
      ConfigError: all mistakes of the config.
    """
    loaded = load_config(name, options)
    with tracing(name):
        Trainer(loaded.experiment).refuse_what_does_not_fit()
    return loaded


@contextlib.contextmanager
def tracing(name: str) -> Iterator[None]:
    """Lays what goes wrong while an experiment is traced to its config.

    Raises:
      ConfigError: what went wrong.
    """
    try:
        yield
    except UserError as error:
        raise ConfigError([Mistake(name, 0, str(error))]) from error
    except Exception as error:
        reason = f"an update cannot be traced{_within(error)}: {type(error).__name__}: {error} (--debug shows where)"
        raise ConfigError([Mistake(name, 0, reason)]) from error


def _within(error: Exception) -> str:
    """The components that an error came through, the innermost last, as an addition to a sentence."""
    owners = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    parts = [registry.selector_of(type(owner)) for owner in owners if kind_of(owner) not in ("", *COMPOSITE_KINDS)]
    return f" in {' > '.join(dict.fromkeys(map(str, parts)))}" if parts else ""
