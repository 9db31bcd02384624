"""The command ``rulespace``: finds the verb, reads the flags, turns errors into words and an exit status."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from framework.errors import UserError, closest, did_you_mean
from framework.exit_status import FAILED, INTERRUPTED, OK, WRONG_USAGE

_OWN_PACKAGES = ("framework", "components", "experiments", "launch")


class UsageError(Exception):
    """The command was not written as it should be."""


@dataclasses.dataclass(frozen=True)
class Verb:
    """What comes after ``rulespace``.

    Attributes:
      module: has ``main(arguments, options) -> exit status`` and, for flags of its own, ``define_flags(options)``.
      usage: its arguments, for people.
      summary: what it does.
      least, most: how many arguments it takes.
    """

    module: str
    usage: str
    summary: str
    least: int = 1
    most: int = 1


VERBS = {
    "run": Verb("experiments.run", "CONFIG [--workdir=D]", "train, or meta-train; continue what D holds"),
    "check": Verb("experiments.check", "CONFIG...", "report every mistake of configs", most=sys.maxsize),
    "describe": Verb(
        "experiments.describe", "CONFIG [--format=text|json] [--cost] [--devices=N]", "show the composed experiment"
    ),
    "list": Verb("experiments.listing", "[KIND] [--format=text|json]", "show registered components", least=0),
    "diff": Verb("experiments.diff", "A B", "show what differs between two configs", least=2, most=2),
    "table": Verb(
        "experiments.table",
        "[NAME [D...]] [--format=md|csv|html|tex] [--figures=FOLDER]",
        "print a table of a paper, filled from run folders",
        least=0,
        most=sys.maxsize,
    ),
    "report": Verb(
        "experiments.report", "D... [--out=FILE]", "write an HTML page on the runs below folders", most=sys.maxsize
    ),
    "bench": Verb("experiments.bench", "WHAT [--format=json]", "time one part"),
    "launch": Verb("launch.launching", "SWEEP [--on=local|vertex|gke] [--dry_run]", "run a grid, here or on TPUs"),
    "status": Verb("launch.status", "D [--watch]", "show how the units of a grid stand"),
    "stop": Verb("launch.stop", "D", "end a launched grid, with the states saved"),
    "analyse": Verb("experiments.analyse", "WHAT RUN [--step=S] [--out=D]", "ask a run's rule", least=2, most=2),
}

_CONFIG_HELP = """\
CONFIG, like SWEEP, is the path of a gin file or the name of a shipped one. Wherever one is taken, so are
  --gin.NAME=VALUE           set a macro, or a parameter as Class.parameter or scope/Class.parameter
  --gin_bindings='X = V'     the same
  --gin_file=F               read one more gin file
VALUE is a gin literal, an @reference, a %macro or a bare word. --debug shows tracebacks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
      0: fine; 1: the config, a check or the run failed; 2: wrong usage; 130: interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        _guard_own_packages()
        return _dispatch(words)
    except (UsageError, flags.Error) as error:
        print(f"rulespace: {error}\nSee rulespace --help.", file=sys.stderr)
        return WRONG_USAGE
    except BrokenPipeError:
        # Who read our output has seen enough; nothing may be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        print("rulespace: interrupted", file=sys.stderr)
        return INTERRUPTED
    except UserError as error:
        if debug:
            raise
        print(error, file=sys.stderr)
        return FAILED
    except Exception as error:
        if debug:
            raise
        text = str(error) or "no message"
        print(f"rulespace: {type(error).__name__}: {text} (--debug shows where)", file=sys.stderr)
        return FAILED


def rewrite_bindings(words: Sequence[str]) -> list[str]:
    """``--gin.X=V`` as ``--gin_bindings=X = V``, so that the order among all bindings is kept; clusters alike."""
    rewritten: list[str] = []
    for position, word in enumerate(words):
        if word == "--":
            return [*rewritten, *words[position:]]
        if word.startswith("--cluster."):
            if not word.removeprefix("--cluster.").partition("=")[0]:
                raise UsageError(f"'{word}' sets nothing: write --cluster.NAME=VALUE")
            rewritten.append(f"--cluster_setting={word.removeprefix('--cluster.')}")
            continue
        if not word.startswith("--gin."):
            rewritten.append(word)
            continue
        name, equals, value = word.removeprefix("--gin.").partition("=")
        if not (name and equals):
            raise UsageError(f"'{word}' sets nothing: write --gin.NAME=VALUE")
        rewritten.append(f"--gin_bindings={name} = {value}")
    return rewritten


def _dispatch(words: list[str]) -> int:
    offered = {name: verb for name, verb in VERBS.items() if _exists(verb.module)}
    if not words or words[0] in ("--help", "-h", "help"):
        print(_help(offered))
        return OK
    name, *rest = words
    if name.startswith("-"):
        raise UsageError(f"'{name}' stands before the verb: write rulespace VERB ... {name}")
    if name not in offered:
        guess = did_you_mean(closest(name, offered)) or f" There are {', '.join(offered)}."
        raise UsageError(f"unknown command '{name}'.{guess}")
    verb = offered[name]
    if {"--help", "-h"}.intersection(rest):
        own = _flags_help(_own_flags(verb, flags.FlagValues()))
        print(f"usage: rulespace {name} {verb.usage}\n\n{verb.summary}\n{own}\n{_CONFIG_HELP}")
        return OK
    words_of_verb = rewrite_bindings(rest)
    options = _own_flags(verb, _flags())
    _, *arguments = options([f"rulespace {name}", *words_of_verb])
    if not verb.least <= len(arguments) <= verb.most:
        what = "is missing an argument" if len(arguments) < verb.least else f"does not take '{arguments[verb.most]}'"
        raise UsageError(f"{name} {what}: rulespace {name} {verb.usage}")
    status: int = importlib.import_module(verb.module).main(arguments, options)
    return status


def _flags() -> flags.FlagValues:
    """What every verb that takes a CONFIG understands; a verb adds its own in ``define_flags``."""
    options = flags.FlagValues()
    flags.DEFINE_multi_string("gin_file", [], "One more gin file.", flag_values=options)
    flags.DEFINE_multi_string("gin_bindings", [], "One more binding, 'X = V'.", flag_values=options)
    flags.DEFINE_bool("debug", False, "Show tracebacks.", flag_values=options)
    return options


def _own_flags(verb: Verb, options: flags.FlagValues) -> flags.FlagValues:
    """The flags, with those that a verb adds."""
    module = importlib.import_module(verb.module)
    if hasattr(module, "define_flags"):
        module.define_flags(options)
    return options


def _flags_help(options: flags.FlagValues) -> str:
    """A line for each flag, in the order of their names."""
    own = {name: options[name] for name in sorted(options)}
    shown = {f"--{name}" + ("" if flag.boolean else f"={name.upper()}"): flag for name, flag in own.items()}
    width = max(map(len, shown), default=0)
    return "".join(f"  {name:<{width}}  {flag.help}\n" for name, flag in shown.items())


def _help(offered: dict[str, Verb]) -> str:
    width = max(len(f"{name} {verb.usage}") for name, verb in offered.items())
    lines = [f"  {f'{name} {verb.usage}':<{width}}  {verb.summary}" for name, verb in offered.items()]
    verbs = "\n".join(lines)
    return (
        f"usage: rulespace VERB ...\n\nDiscovers update rules for reinforcement learning.\n\n{verbs}\n\n{_CONFIG_HELP}"
    )


def _exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _guard_own_packages() -> None:
    """Puts the working folder last on the import path, and makes sure that our packages are our own."""
    ours = Path(__file__).resolve().parent.parent
    here = Path.cwd()
    if here != ours:
        sys.path[:] = [*(entry for entry in sys.path if Path(entry or ".").resolve() != here), str(here)]
    for name, location in _locations():
        if location != ours / name:
            raise ImportError(
                f"the package '{name}' of {location} has taken the name of ours in {ours}: "
                "rename it, or take its folder off PYTHONPATH"
            )


def _locations() -> Iterator[tuple[str, Path]]:
    for name in _OWN_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ImportError(f"the package '{name}' is missing: install rulespace again")
        yield name, Path(next(iter(spec.submodule_search_locations))).resolve()


if __name__ == "__main__":
    sys.exit(main())
