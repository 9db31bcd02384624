"""Descriptions as text: headings and aligned columns without boxes, which read as well in a pipe as in a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from framework.config import Binding, Loaded, shipped_gin_folder
from framework.config.mistakes import COMMAND_LINE
from framework.cost import Cost
from framework.describe import weighted
from framework.description import (
    AgentDescription,
    Component,
    Description,
    EnvironmentDescription,
    FeatureDescription,
    LossDescription,
    MemoryDescription,
    MetaNetworkDescription,
    ParameterArray,
    Parameters,
    RuleDescription,
    ScheduleDescription,
)

_WIDTH_OF_PIPES = 120
_MOST_WRITTEN_OUT = 3  # Longer lists of components are counted.


class _Section(NamedTuple):
    title: str
    remark: str
    body: RenderableType


def print_description(loaded: Loaded, description: Description, cost: Cost | None) -> None:
    """Prints a description to the terminal, or plainly into a pipe."""
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if has_width else _WIDTH_OF_PIPES, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for section in _sections(loaded, description, cost):
            console.print(Text.assemble((section.title, "bold"), "  ", (section.remark, "dim")))
            console.print(Padding(section.body, (0, 0, 1, 2), expand=False))
    print("\n".join(line.rstrip() for line in captured.get().rstrip().splitlines()))


def component_text(component: Component, *, defaults: bool = True) -> str:
    """A component and its parameters, with or without those that are at their defaults."""
    shown = component.parameters if defaults else component.changed
    arguments = ", ".join(f"{name}={_value_text(component.parameters[name])}" for name in shown)
    return f"{component.name}({arguments})" if arguments else component.name


def _sections(loaded: Loaded, description: Description, cost: Cost | None) -> Iterator[_Section]:
    environment, rule, schedule = description.environment, description.rule, description.schedule
    yield _Section(loaded.name, f"config {loaded.config_hash}, seed {schedule.seed}", _environment(environment))
    yield _heads(description)
    yield _agent(description.agent)
    yield from _meta_network(rule.meta_network)
    yield _loss(rule.loss)
    yield _Section("Learning", "", _learning(rule, description.agent.optimizer))
    yield _Section("Schedule", "", _schedule(schedule))
    yield _memory(description.memory_megabytes)
    if cost is not None:
        yield _Section("Cost", f"of one update, acting included, on {cost.platform}", _cost(cost))
    yield _bindings(loaded.bindings)


def _environment(environment: EnvironmentDescription) -> Table:
    return _facts(
        {
            "task": f"{environment.task} of {component_text(environment.suite)}",
            "observation": f"{environment.observation_dtype} {_shape(environment.observation_shape)}",
            "actions": str(environment.num_actions),
        }
    )


def _heads(description: Description) -> _Section:
    schedule, actions = description.schedule, description.environment.num_actions
    grown_by = {"torso": "linear layer", "action_model": "action model"}
    rows = [
        (
            head.name,
            _shape(head.shape),
            head.dtype,
            component_text(head.component, defaults=False),
            grown_by[head.grown_by],
        )
        for head in description.heads
    ]
    conditional = any(head.action_conditional for head in description.heads)
    axes = "[T+1, B, K] or [T+1, B, A, K]" if conditional else "[T+1, B, K]"
    sizes = f"T = {schedule.trajectory_length}, B = {schedule.batch_size}, A = {actions}"
    return _Section("Heads", f"{axes} with {sizes}", _columns(rows))


def _agent(agent: AgentDescription) -> _Section:
    facts = {"torso": component_text(agent.torso)}
    if agent.action_model is not None:
        facts["action model"] = component_text(agent.action_model)
    body = Group(_facts(facts), "", _parameters(agent.parameters))
    return _Section("Agent network", _count(agent.parameters), body)


def _meta_network(network: MetaNetworkDescription) -> Iterator[_Section]:
    if network.action_features:
        yield _Section("Action features", "numbers for each action", _features(network.action_features))
    if network.features:
        yield _Section("Features", f"{_total(network.features)} numbers a step", _features(network.features))
    if network.lifetime_features:
        yield _lifetime_features(network)
    yield _targets(network)
    if network.static:
        yield _Section("Meta-network", "static: no parameters", "")
        return
    facts = {"weights": f"{component_text(network.weights)}, frozen"}
    if network.core is not None:
        facts["trajectory core"] = f"{component_text(network.core)}: {network.core_size} numbers a step"
    if network.lifetime_core is not None:
        facts["lifetime core"] = f"{component_text(network.lifetime_core)}: {network.lifetime_size} numbers an update"
    body = Group(_facts(facts), "", _parameters(network.parameters))
    yield _Section("Meta-network", _count(network.parameters), body)


def _lifetime_features(network: MetaNetworkDescription) -> _Section:
    """What the trajectory core sees as well is not repeated."""
    features, shared = network.lifetime_features, len(network.features)
    remark = f"{_total(features)} numbers a step"
    if features[:shared] == network.features:
        features, remark = features[shared:], f"{remark}: the features above and"
    return _Section("Lifetime features", remark, _features(features))


def _features(features: Sequence[FeatureDescription]) -> Table:
    rows = [(str(feature.size), component_text(feature.component, defaults=False)) for feature in features]
    return _columns(rows, right=0)


def _total(features: Sequence[FeatureDescription]) -> int:
    return sum(feature.size for feature in features)


def _targets(network: MetaNetworkDescription) -> _Section:
    rows = [
        (
            target.name,
            _shape(target.shape),
            "learned" if target.learned else "static",
            component_text(target.component, defaults=False),
        )
        for target in network.targets
    ]
    return _Section("Targets", "[T, B] or [T, B, ...]", _columns(rows))


def _loss(loss: LossDescription) -> _Section:
    lines = [f"+ {weighted(term)}".replace("+ -", "- ", 1) for term in loss.terms]
    return _Section("Loss", "weighted mean over steps of", Text("\n".join(lines)))


def _learning(rule: RuleDescription, optimizer: Component) -> Table:
    named = {"value estimator": rule.value_estimator, "normalizer": rule.normalizer, "optimizer": optimizer}
    facts = {name: "none" if part is None else component_text(part) for name, part in named.items()}
    decay = rule.target_decay
    facts["target network"] = "none" if decay is None else f"keeps {decay:g} of its parameters in each update"
    if rule.hyperparameters:
        facts["hyperparameters"] = ", ".join(f"{name} = {value:g}" for name, value in rule.hyperparameters.items())
    return _facts(facts)


def _schedule(schedule: ScheduleDescription) -> Table:
    replay = component_text(schedule.replay)
    return _facts(
        {
            "run": f"{schedule.updates:,} agent updates, {schedule.env_steps:,} environment steps",
            "warm-up": f"{schedule.warm_up_env_steps:,} environment steps before the first update",
            "acting": f"{schedule.env_steps_per_update:,} environment steps per update: "
            f"{schedule.num_environments:,} environments x {schedule.trajectory_length:,} steps",
            "batch": f"{schedule.batch_size:,} trajectories: {schedule.fresh:,} fresh + {schedule.replayed:,} replayed "
            f"(replay ratio {schedule.replay_ratio:g})",
            "learning": f"gradient steps per update: {schedule.gradient_steps_per_update:,} "
            f"(epochs {schedule.epochs:,} x minibatches {schedule.minibatches:,})",
            "replay": f"{replay}, uses each transition {schedule.uses_per_transition:g} times on average",
            "evaluation": component_text(schedule.evaluation),
        }
    )


def _memory(memory: MemoryDescription) -> _Section:
    rows = [(name.replace("_", " "), f"{size:,.3f}") for name, size in memory.parts.items() if size]
    return _Section("State", f"{memory.total:,.3f} MB", _columns(rows, right=1))


def _cost(cost: Cost) -> Table:
    memory = cost.temp_megabytes
    return _facts(
        {
            "operations": f"{cost.flops / 1e9:,.3f} GFLOP in matrix products and convolutions",
            "memory": "not known to the compiler" if memory is None else f"{memory:,.1f} MB beside the state",
            "compilation": f"{cost.compile_seconds:.1f} s",
        }
    )


def _bindings(bindings: Sequence[Binding]) -> _Section:
    rows = [(Text(_place(binding), "dim"), _binding(binding)) for binding in bindings]
    overridden = sum(binding.overridden for binding in bindings)
    return _Section("Bindings", f"{len(bindings)}, {overridden} overridden", _columns(rows))


def _binding(binding: Binding) -> Text:
    text = f"{binding.name} = {binding.value}"
    return Text.assemble((text, "dim"), "  ", ("overridden", "yellow")) if binding.overridden else Text(text)


def _place(binding: Binding) -> str:
    """``file:line``; a shipped file that is not below the working folder has the name that an include gives it."""
    if binding.file == COMMAND_LINE:
        return COMMAND_LINE
    file, shipped = Path(binding.file), shipped_gin_folder()
    return f"{file.relative_to(shipped) if file.is_relative_to(shipped) else file}:{binding.line}"


def _parameters(parameters: Parameters) -> Table:
    return _columns(_parameter_rows(parameters), right=2)


def _parameter_rows(parameters: Parameters) -> Iterator[tuple[RenderableType, RenderableType, RenderableType]]:
    """Arrays by module, modules by part, with their numbers of parameters."""
    modules: dict[str, list[ParameterArray]] = {}
    for array in parameters.arrays:
        modules.setdefault(array.path.rpartition("/")[0], []).append(array)
    for part, count in parameters.parts.items():
        inside = [module for module in modules if module.startswith(f"{part}/")]
        yield Text(part, "cyan"), "" if inside else _shapes(modules[part]), Text(f"{count:,}", "bold")
        for module in inside:
            size = sum(array.size for array in modules[module])
            yield f"  {module.removeprefix(f'{part}/')}", _shapes(modules[module]), f"{size:,}"


def _shapes(arrays: Iterable[ParameterArray]) -> Text:
    largest_first = sorted(arrays, key=lambda array: -array.size)
    return Text(", ".join(f"{array.path.rpartition('/')[2]} {_shape(array.shape)}" for array in largest_first), "dim")


def _count(parameters: Parameters) -> str:
    return f"{parameters.count:,} parameters in {len(parameters.arrays):,} arrays"


def _facts(facts: Mapping[str, str]) -> Table:
    """Names, and what is said of them."""
    return _columns(((Text(name, "cyan"), fact) for name, fact in facts.items()))


def _columns(rows: Iterable[Sequence[RenderableType]], right: int | None = None) -> Table:
    """Aligned columns, all to the left but the one at index ``right``."""
    rows = list(rows)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for index in range(max(map(len, rows), default=0)):
        table.add_column(justify="right" if index == right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _value_text(value: Any) -> str:
    match value:
        case Component():
            return component_text(value, defaults=False)
        case list() if len(value) > _MOST_WRITTEN_OUT and isinstance(value[0], Component):
            return f"{len(value)} {value[0].kind.replace('_', ' ')}"
        case list():
            return f"[{', '.join(map(_value_text, value))}]"
        case float():
            return f"{value:g}"
    return repr(value)
