"""From definitions to a tree of planned components, by gin's rules for scopes, references and macros."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gin

from framework import registry
from framework.config.reading import Definition, Key, Reading, guess_selector
from framework.config.values import Argument, Mismatch, Node, coerce
from framework.errors import closest, did_you_mean
from framework.gin_files.mistakes import Mistake, Place
from framework.gin_files.parsing import Macro, Reference, Unreadable, references


class Plan:
    """The tree of components that a root asks for.

    Attributes:
      root: the tree; of use only without mistakes.
      mistakes: everything that is wrong with it.
      effective: {key: definition}, the last one of each.
      used: the keys that had an effect.
    """

    def __init__(self, reading: Reading, root: str, place: Place) -> None:
        self.definitions = reading.definitions
        self.effective = _effective(reading.definitions)
        self.mistakes: list[Mistake] = []
        self.used: set[Key] = set()
        self._entered: dict[str, set[tuple[str, ...]]] = {}
        self._outdone: dict[Key, Key] = {}
        self._nodes: list[tuple[str, tuple[str, ...]]] = []
        self._macros: list[str] = []
        name = root.split(".")[1]
        self._complete = reading.complete
        first = next((item.place for key, item in self.effective.items() if key.selector == root), None)
        if first is None and reading.complete:
            self._wrong(place, f"nothing is bound for {name}: bind its parameters ({name}.PARAMETER = VALUE)")
            self._complete = False
        self._check_macros()
        self.root = self._node(root, (), True, first or place)
        self._check_use()

    # Planning.

    def _node(self, selector: str, scope: tuple[str, ...], called: bool, place: Place) -> Node:
        self._entered.setdefault(selector, set()).add(scope)
        bound = self._bound(selector, scope)
        with _pushed(self._nodes, (selector, scope)):
            arguments = {
                parameter.name: argument
                for parameter in registry.parameters(registry.component_class(selector))
                if (argument := self._argument(selector, parameter, bound.get(parameter.name), scope, called, place))
            }
        return Node(selector, scope, called, arguments, place)

    def _bound(self, selector: str, scope: tuple[str, ...]) -> dict[str, Key]:
        """{parameter: key} of the bindings that apply: those of the innermost scope win."""
        bound: dict[str, Key] = {}
        prefixes = ["/".join(scope[:depth]) for depth in range(len(scope) + 1)]
        for parameter in registry.parameters(registry.component_class(selector)):
            keys = [key for prefix in prefixes if (key := Key(prefix, selector, parameter.name)) in self.effective]
            if keys:
                bound[parameter.name] = keys[-1]
                self._outdone.update((key, keys[-1]) for key in keys[:-1])
        self.used.update(bound.values())
        return bound

    def _argument(
        self,
        selector: str,
        parameter: registry.Parameter,
        key: Key | None,
        scope: tuple[str, ...],
        called: bool,
        place: Place,
    ) -> Argument | None:
        name = f"{selector.split('.')[1]}.{parameter.name}"
        if key is not None:
            definition = self.effective[key]
            value, value_place = self._expand(definition.value, scope, definition.place)
            try:
                value = value if definition.guessed else coerce(value, parameter.annotation)
            except Mismatch as mismatch:
                self._wrong(mismatch.place or value_place, f"{name} {mismatch}")
            return Argument(value, definition.place, parameter.identity)
        if not parameter.required:
            return Argument(_planned(parameter.default, place), None, parameter.identity)
        if called and self._complete:
            self._wrong(place, f"{name} is required: set {name} = VALUE")
        return None

    def _expand(self, value: Any, scope: tuple[str, ...], place: Place) -> tuple[Any, Place]:
        """A value with its macros resolved and its references planned, and where it stands."""
        match value:
            case Macro():
                return self._expand_macro(value, place)
            case Reference():
                return self._refer(value, scope, place.at(value.line)), place.at(value.line)
            case list() | tuple():
                return type(value)(self._expand(item, scope, place)[0] for item in value), place
            case dict():
                return {key: self._expand(item, scope, place)[0] for key, item in value.items()}, place
        return value, place

    def _expand_macro(self, macro: Macro, place: Place) -> tuple[Any, Place]:
        if constants := _constants(macro.name):
            if constants[0] is not gin.REQUIRED:
                return constants[0], place
            advice = f" or with --gin.{self._macros[-1]}=VALUE" if self._macros else ""
            self._wrong(place.at(macro.line), f"a value is required here: set it in a later file{advice}")
            return Unreadable(), place
        name = macro.name if Key("", "", macro.name) in self.effective else self._guess_macro(macro.name)
        if name is None or name in self._macros:
            return Unreadable(), place  # Reported by `_check_macros`.
        definition = self.effective[Key("", "", name)]
        self.used.add(Key("", "", name))
        with _pushed(self._macros, name):
            # As in gin, what stands in a macro is built in the scope of its name, whoever uses it.
            return self._expand(definition.value, tuple(name.split("/")), definition.place)

    def _refer(self, reference: Reference, scope: tuple[str, ...], place: Place) -> Node | Unreadable:
        selector = _complete_selector(reference.selector)
        if selector is None:
            return Unreadable()  # Reported when it was read.
        scope = reference.scope or scope  # As in gin, a scope that is named replaces the surrounding one.
        if (selector, scope) in self._nodes:
            cycle = [name for name, _ in self._nodes[self._nodes.index((selector, scope)) :]] + [selector]
            self._wrong(place, f"a component cannot contain itself: {' -> '.join(n.split('.')[1] for n in cycle)}")
            return Unreadable()
        return self._node(selector, scope, reference.called, place)

    # Checks of what planning did not see.

    def _check_macros(self) -> None:
        defined = {key.parameter: item for key, item in self.effective.items() if not key.selector}
        mentioned: set[str] = set()
        for definition in self.definitions:
            for item in references(definition.value):
                if not isinstance(item, Macro):
                    continue
                guess = None if item.name in defined else self._guess_macro(item.name)
                mentioned.add(guess or item.name)
                if item.name not in defined and not _constants(item.name):
                    message = f"macro '%{item.name}' is not defined.{did_you_mean(guess)}"
                    self._absent(definition.place.at(item.line), message, guess)
        for name, definition in defined.items():
            if name not in mentioned and not definition.optional:
                guess = closest(name, mentioned)
                self._absent(definition.place, f"macro '{name}' is never used.{did_you_mean(guess)}", guess)
        self._check_macro_cycles(defined)

    def _check_macro_cycles(self, defined: dict[str, Definition]) -> None:
        uses = {
            name: [item.name for item in references(definition.value) if isinstance(item, Macro)]
            for name, definition in defined.items()
        }
        reported: set[str] = set()
        for name, definition in defined.items():
            cycle = _cycle(name, uses)
            if cycle and reported.isdisjoint(cycle):
                self._wrong(definition.place, f"macro '{name}' is defined by itself: {' -> '.join(cycle)}")
                reported.update(cycle)

    def _check_use(self) -> None:
        unused = [
            (key, item)
            for key, item in self.effective.items()
            if key not in self.used and not (item.guessed or item.optional or self._is_replaced(key))
        ]
        for key, definition in unused:
            if self._is_orphan(key, definition):
                continue
            if not key.selector:
                self._check_macro_in_vain(key.parameter, definition)
                continue
            name = key.selector.split(".")[1]
            if key in self._outdone:
                by = self.effective[self._outdone[key]]
                message, guess = f"{definition.name} has no effect: {by.name} ({by.place}) replaces it everywhere", None
            elif key.selector not in self._entered:
                kind = key.selector.split(".")[0]
                guess = closest(name, {built.split(".")[1] for built in self._entered if built.startswith(f"{kind}.")})
                message = f"{definition.name} has no effect: nothing refers to @{name}().{did_you_mean(guess)}"
            else:
                guess = closest(key.scope, self._scopes_of(key.selector))
                message = f"{definition.name} has no effect: no {name} is built in scope '{key.scope}'."
                message += did_you_mean(guess)
            self._absent(definition.place, message, guess)

    def _check_macro_in_vain(self, name: str, definition: Definition) -> None:
        """Reports a macro that was used only in, or below, what had been replaced already when it was defined."""
        for value, replaced_at in self._replaced_values():
            if replaced_at < len(self.definitions) and name in self._reach(value)[2]:
                by = self.definitions[replaced_at]
                message = f"macro '{name}' has no effect: {by.name} ({by.place}) replaced what it was used in"
                self._absent(definition.place, message, None)
                return

    def _is_replaced(self, key: Key) -> bool:
        """Whether another file replaces a binding by one for an inner scope, as it may."""
        by = self._outdone.get(key)
        return by is not None and self.effective[by].place.file != self.effective[key].place.file

    def _scopes_of(self, selector: str) -> set[str]:
        return {"/".join(scope[: end + 1]) for scope in self._entered[selector] for end in range(len(scope))}

    def _is_orphan(self, key: Key, definition: Definition) -> bool:
        """Whether a binding was for a component that a later definition has replaced: an ablation, not a mistake."""
        written_at = next(position for position, other in enumerate(self.definitions) if other is definition)
        for value, replaced_at in self._replaced_values():
            if written_at >= replaced_at:
                continue
            selectors, scopes, macros = self._reach(value)
            if key.selector in selectors and (not key.scope or key.scope in scopes):
                return True
            if not key.selector and key.parameter in macros:
                return True
        return False

    def _replaced_values(self) -> Iterator[tuple[Any, int]]:
        """Values without effect, and the position of the definition that took their place."""
        positions = {id(definition): position for position, definition in enumerate(self.definitions)}
        for definition in self.definitions:
            if definition.key is None or definition.guessed or self._is_outdone(definition):
                yield definition.value, len(self.definitions)
            elif self.effective[definition.key] is not definition:
                yield definition.value, positions[id(self.effective[definition.key])]

    def _is_outdone(self, definition: Definition) -> bool:
        return definition.key in self._outdone and definition.key not in self.used

    def _reach(self, value: Any) -> tuple[set[str], set[str], set[str]]:
        """Selectors, scopes and macros of all that a value may lead to."""
        selectors: set[str] = set()
        scopes: set[str] = set()
        macros: set[str] = set()
        pending = list(references(value))
        while pending:
            item = pending.pop()
            new, name, scope = (
                (macros, item.name, tuple(item.name.split("/")))
                if isinstance(item, Macro)
                else (selectors, _complete_selector(item.selector) or "", item.scope)
            )
            scopes.update("/".join(scope[: end + 1]) for end in range(len(scope)))
            if name not in new:
                new.add(name)
                leads = [d for d in self.definitions if d.key and name in (d.key.selector or d.key.parameter,)]
                pending += [further for definition in leads for further in references(definition.value)]
        return selectors, scopes, macros

    def _guess_macro(self, name: str) -> str | None:
        return closest(name, {key.parameter for key in self.effective if not key.selector})

    def _absent(self, place: Place, message: str, guess: str | None) -> None:
        """Reports that something is missing or in vain; in an incomplete reading only if it looks misspelt."""
        if self._complete or guess:
            self._wrong(place, message)

    def _wrong(self, place: Place, message: str) -> None:
        self.mistakes.append(place.mistake(message))


def _constants(name: str) -> tuple[Any, ...]:
    """What ``gin.constant`` registered under a name; gin has no public way to ask that leaves no trace."""
    constants = gin.config._CONSTANTS
    return tuple(constants[selector] for selector in constants.matching_selectors(name))


def _effective(definitions: list[Definition]) -> dict[Key, Definition]:
    effective = {item.key: item for item in definitions if item.key is not None and not item.guessed}
    for item in definitions:
        if item.key is not None:
            effective.setdefault(item.key, item)
    return effective


def _complete_selector(selector: str) -> str | None:
    matches = registry.matching_selectors(selector)
    if not matches and (guess := guess_selector(selector)):
        matches = registry.matching_selectors(guess)
    return matches[0] if len(matches) == 1 else None


def _planned(default: Any, place: Place) -> Any:
    """A default as if it had been planned: a component in it is a node."""
    if type(default) in (tuple, list):
        return type(default)(_planned(item, place) for item in default)
    selector = registry.selector_of(type(default))
    if selector is None:
        return default
    arguments = {
        parameter.name: Argument(_planned(getattr(default, parameter.name), place), None, parameter.identity)
        for parameter in registry.parameters(type(default))
    }
    return Node(selector, (), True, arguments, place)


def _cycle(name: str, uses: dict[str, list[str]]) -> list[str]:
    """A way from a macro back to itself; empty if there is none."""
    trails, seen = [[name]], set()
    while trails:
        trail = trails.pop()
        for following in uses.get(trail[-1], ()):
            if following == name:
                return [*trail, name]
            if following not in seen:
                seen.add(following)
                trails.append([*trail, following])
    return []


@contextlib.contextmanager
def _pushed(stack: list[Any], item: Any) -> Iterator[None]:
    stack.append(item)
    yield
    stack.pop()
