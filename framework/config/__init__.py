"""Loading a config: gin files and bindings in, an experiment built from them or all their mistakes out.

gin's parser reads the files and gin's rules say which binding applies where, but nothing is left in gin's own state,
and after `load` gin is out of the picture.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framework import registry
from framework.config import text
from framework.config.planning import Plan
from framework.config.reading import Definition, Key, Reading, read, read_text
from framework.config.values import Argument, Node
from framework.errors import UserError
from framework.gin_files.folders import shipped_gin_folder
from framework.gin_files.mistakes import ConfigError, Mistake, Place
from framework.gin_files.parsing import Unreadable

__all__ = [
    "Argument",
    "Binding",
    "ConfigError",
    "Loaded",
    "Mistake",
    "Node",
    "Place",
    "differences",
    "first_difference",
    "load",
    "shipped_gin_folder",
]


@dataclasses.dataclass(frozen=True)
class Binding:
    """One line of a config.

    Attributes:
      name: of the macro or parameter, with its scope.
      value: as gin text.
      file: where it stands; ``command line`` for an argument.
      line: of the file; the position of an argument.
      overridden: whether a later one replaces it.
    """

    name: str
    value: str
    file: str
    line: int
    overridden: bool


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An experiment, and what it was built from.

    Attributes:
      name: of the config, for people.
      experiment: the root object.
      root: the tree of components, every parameter with its value and place.
      bindings: every line that was read, in order.
      config_text: all that had an effect, as one self-contained gin file.
      operative_text: every parameter of every component, as one self-contained gin file.
      config_hash: 12 hexadecimal characters; equal for equal experiments, however their files are written.
    """

    name: str
    experiment: Any
    root: Node
    bindings: tuple[Binding, ...]
    config_text: str
    operative_text: str
    config_hash: str

    def differences(self, other: Loaded) -> list[str]:
        """``path.to.parameter: left != right`` for every parameter and component that differs."""
        return text.differences(self.root, other.root)


def load(config: str | Path, *, gin_files: Sequence[str] = (), bindings: Sequence[str] = (), root: type) -> Loaded:
    """Builds the experiment that a config describes.

    Args:
      config: path of a gin file, or the name of a shipped one.
      gin_files: more files, read after it.
      bindings: ``NAME = VALUE`` or ``Class.parameter = VALUE``, applied last; a value may be a bare word.
      root: registered class of the experiment.

    Raises:
      ConfigError: all mistakes at once.
    """
    reading = read(str(config), list(map(str, gin_files)), bindings)
    return _loaded(reading, Path(config).stem, str(config), root)


def differences(left: Loaded, right: Loaded) -> list[str]:
    """``path.to.parameter: left != right`` for every parameter and component that differs."""
    return left.differences(right)


def first_difference(saved_config_text: str, loaded: Loaded) -> str | None:
    """The first parameter by which a saved config is another experiment; ``None`` if it is the same.

    Raises:
      ConfigError: the saved config does not load any more.
    """
    saved = _loaded(
        read_text(saved_config_text, "saved config"), "saved config", "saved config", type(loaded.experiment)
    )
    return next(iter(text.differences(saved.root, loaded.root, identity_only=True)), None)


def _loaded(reading: Reading, name: str, file: str, root: type) -> Loaded:
    selector = registry.selector_of(root)
    if selector is None:
        raise registry.RegistrationError(f"{root.__qualname__} is no component: register it under 'experiments'")
    plan = Plan(reading, selector, Place(file, 1))
    if mistakes := reading.mistakes + plan.mistakes:
        raise ConfigError(mistakes)
    experiment = _build(plan)
    values = {key: item.value for key, item in plan.effective.items() if key in plan.used}
    return Loaded(
        name=name,
        experiment=experiment,
        root=plan.root,
        bindings=tuple(_binding(definition, plan.effective) for definition in reading.definitions),
        config_text=text.config_text(reading.imports, values),
        operative_text=text.operative_text(reading.imports, plan.root),
        config_hash=text.config_hash(plan.root),
    )


def _binding(definition: Definition, effective: dict[Key, Definition]) -> Binding:
    overridden = definition.key is None or effective[definition.key] is not definition
    value = text.format_value(definition.value)
    return Binding(definition.name, value, definition.place.file, definition.place.line, overridden)


def _build(plan: Plan) -> Any:
    """Constructs every component, children first, and asks the root for problems that only it can see."""
    builder = _Builder()
    experiment = builder.build(plan.root)
    if builder.mistakes:
        raise ConfigError(builder.mistakes) from builder.first_error
    problems: Sequence[registry.Problem] = experiment.problems() if hasattr(experiment, "problems") else ()
    if problems:
        raise ConfigError(builder.mistake_of(problem, plan) for problem in problems)
    return experiment


class _Builder:
    """Builds components and remembers which node each object came from."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self.first_error: Exception | None = None
        self._origins: dict[int, tuple[object, Node]] = {}

    def build(self, value: Any) -> Any:
        """The object that a planned value stands for; `Unreadable` if a component in it cannot be built."""
        match value:
            case Node():
                return self._component(value)
            case list() | tuple() if type(value) in (list, tuple):
                return type(value)(self.build(item) for item in value)
            case dict():
                return {key: self.build(item) for key, item in value.items()}
        return value

    def mistake_of(self, problem: registry.Problem, plan: Plan) -> Mistake:
        _, node = self._origins.get(id(problem.component), (None, plan.root))
        argument = node.arguments.get(problem.parameter) if problem.parameter else None
        place = argument.place if argument and argument.place else node.place
        return place.mistake(problem.message)

    def _component(self, node: Node) -> Any:
        arguments = {name: self.build(arg.value) for name, arg in node.arguments.items() if arg.place is not None}
        if any(map(_is_unreadable, arguments.values())):
            return Unreadable()
        if not node.called:
            return functools.partial(node.cls, **arguments) if arguments else node.cls
        try:
            built = node.cls(**arguments)
        except Exception as error:  # Whatever it is, a line of the config asked for it.
            self.first_error = self.first_error or error
            kind = "" if isinstance(error, ValueError | TypeError | UserError) else f"{type(error).__name__}: "
            place = _place_of_error(node, str(error))
            self.mistakes.append(place.mistake(f"{node.cls.__name__}: {kind}{error}"))
            return Unreadable()
        self._remember(built, node)
        return built

    def _remember(self, built: object, node: Node) -> None:
        """Also remembers the components that are a default of this one."""
        self._origins.setdefault(id(built), (built, node))
        for name, argument in node.arguments.items():
            if argument.place is None and isinstance(argument.value, Node):
                self._remember(getattr(built, name), argument.value)


def _place_of_error(node: Node, message: str) -> Place:
    """Where the parameter is bound that a component's own message names first, else where the component is."""
    for word in re.findall(r"\w+", message):
        argument = node.arguments.get(word)
        if argument is not None and argument.place is not None:
            return argument.place
    return node.place


def _is_unreadable(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_unreadable, value))
    if isinstance(value, dict):
        return any(map(_is_unreadable, value.values()))
    return isinstance(value, Unreadable)
