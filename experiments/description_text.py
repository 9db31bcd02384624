"""Descriptions as text: headings and aligned columns without boxes, which read as well in a pipe as in a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.console import Group as Stack
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from experiments.discovery_text import discovery_section, held_out_section, meta_loss_section
from experiments.layout import (
    Section,
    columns,
    component_text,
    counted,
    fact_table,
    parameter_count,
    shape_text,
    signed,
)
from experiments.population_text import is_alone, life_facts, module_facts, population_sections, schedule_facts
from framework.config import Binding, Loaded, shipped_gin_folder
from framework.cost import Cost
from framework.description import (
    AgentDescription,
    Description,
    FeatureDescription,
    LossDescription,
    MetaNetworkDescription,
    ParameterArray,
    Parameters,
)
from framework.gin_files.mistakes import COMMAND_LINE

_WIDTH_OF_PIPES = 120


def print_description(loaded: Loaded, description: Description, cost: Cost | None) -> None:
    """Prints a description to the terminal, or plainly into a pipe."""
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if has_width else _WIDTH_OF_PIPES, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for section in _sections(loaded, description, cost):
            console.print(Text.assemble((section.title, "bold"), "  ", (section.remark, "dim")))
            console.print(Padding(section.body, (0, 0, 1, 2), expand=False))
    print("\n".join(line.rstrip() for line in captured.get().rstrip().splitlines()))


def _sections(loaded: Loaded, description: Description, cost: Cost | None) -> Iterator[Section]:
    yield from population_sections(loaded, description)
    yield _heads(description)
    if len(description.groups) == 1:
        yield _agent(description.groups[0].agent)
    yield from _meta_network(description)
    yield _loss(description.rule.loss)
    yield Section("Learning", "", fact_table(_learning(description)))
    if description.discovery is not None:
        yield meta_loss_section(description.discovery)
        yield discovery_section(description.discovery)
    if description.held_out is not None:
        yield held_out_section(description.held_out)
    yield Section("Schedule", "", fact_table(_schedule(description)))
    yield _memory(description)
    if cost is not None:
        yield Section("Cost", _cost_remark(description, cost), _cost(cost))
    yield _bindings(loaded.bindings)


def _heads(description: Description) -> Section:
    first = description.groups[0]
    grown_by = {
        "torso": "linear layer",
        "own_torso": "linear layer on its own torso",
        "action_model": "action model",
        "table": "table",
    }
    rows = [
        (
            head.name,
            shape_text(head.shape),
            head.dtype,
            component_text(head.component, defaults=False),
            grown_by[head.grown_by],
        )
        for head in description.heads
    ]
    conditional = any(head.action_conditional for head in description.heads)
    axes = "[T+1, B, K] or [T+1, B, A, K]" if conditional else "[T+1, B, K]"
    schedule, actions = first.schedule, first.environment.num_actions
    sizes = f"T = {schedule.trajectory_length}, B = {schedule.batch_size}, A = {actions}"
    group = " (group 1)" if len(description.groups) > 1 else ""
    return Section("Heads", f"{axes} with {sizes}{group}", columns(rows))


def _agent(agent: AgentDescription) -> Section:
    body = Stack(fact_table(module_facts(agent)), "", _parameters(agent.parameters))
    return Section("Agent network", parameter_count(agent.parameters), body)


def _meta_network(description: Description) -> Iterator[Section]:
    network = description.rule.meta_network
    if network.action_features:
        yield Section("Action features", "numbers for each action", _features(network.action_features))
    if network.features:
        yield Section("Features", f"{_total(network.features)} numbers a step", _features(network.features))
    if network.lifetime_features:
        yield _lifetime_features(network)
    yield _targets(network)
    if network.static:
        yield Section("Meta-network", "static: no parameters", "")
        return
    fate = "frozen" if description.discovery is None else "where discovery begins"
    facts = {"weights": f"{component_text(network.weights)}, {fate}"}
    if network.core is not None:
        facts["trajectory core"] = f"{component_text(network.core)}: {network.core_size} numbers a step"
    if network.lifetime_core is not None:
        facts["lifetime core"] = f"{component_text(network.lifetime_core)}: {network.lifetime_size} numbers an update"
    body = Stack(fact_table(facts), "", _parameters(network.parameters))
    yield Section("Meta-network", parameter_count(network.parameters), body)


def _lifetime_features(network: MetaNetworkDescription) -> Section:
    """What the trajectory core sees as well is not repeated."""
    features, shared = network.lifetime_features, len(network.features)
    remark = f"{_total(features)} numbers a step"
    if features[:shared] == network.features:
        features, remark = features[shared:], f"{remark}: the features above and"
    return Section("Lifetime features", remark, _features(features))


def _features(features: Sequence[FeatureDescription]) -> Table:
    rows = [(str(feature.size), component_text(feature.component, defaults=False)) for feature in features]
    return columns(rows, right=(0,))


def _total(features: Sequence[FeatureDescription]) -> int:
    return sum(feature.size for feature in features)


def _targets(network: MetaNetworkDescription) -> Section:
    rows = [
        (
            target.name,
            shape_text(target.shape),
            "learned" if target.learned else "static",
            component_text(target.component, defaults=False),
        )
        for target in network.targets
    ]
    return Section("Targets", "[T, B] or [T, B, ...]", columns(rows))


def _loss(loss: LossDescription) -> Section:
    return Section("Loss", "weighted mean over steps of", Text("\n".join(signed(loss.terms))))


def _learning(description: Description) -> dict[str, str]:
    rule = description.rule
    named = {"value estimator": rule.value_estimator, "normalizer": rule.normalizer}
    facts = {name: "none" if part is None else component_text(part) for name, part in named.items()}
    if rule.behaviour is not None:
        facts["behaviour"] = component_text(rule.behaviour)
    if is_alone(description):
        facts["optimizer"] = component_text(description.groups[0].agent.optimizer)
    decay = rule.target_decay
    facts["target network"] = "none" if decay is None else f"keeps {decay:g} of its parameters in each update"
    if rule.learned_numbers:
        facts["learned numbers"] = ", ".join(component_text(number, defaults=False) for number in rule.learned_numbers)
    return facts | (life_facts(description.groups[0]) if is_alone(description) else {})


def _schedule(description: Description) -> dict[str, str]:
    schedule = description.schedule
    of_all = "" if is_alone(description) else " of all agents"
    facts = {}
    if description.discovery is None:
        facts["run"] = f"{counted(schedule.updates, 'agent update')}, {schedule.env_steps:,} environment steps{of_all}"
    else:
        facts["run"] = (
            f"{counted(schedule.steps, 'meta-step')}, {counted(schedule.updates, 'update')} of an agent, "
            f"{schedule.env_steps:,} environment steps{of_all}"
        )
    facts["warm-up"] = f"{schedule.warm_up_env_steps:,} environment steps{of_all} before the first update"
    if is_alone(description):
        facts |= schedule_facts(description.groups[0])
    else:
        step = "update" if description.discovery is None else "meta-step"
        facts["acting"] = f"{schedule.env_steps_per_step:,} environment steps{of_all} per {step}"
    return facts | {"evaluation": component_text(schedule.evaluation)}


def _memory(description: Description) -> Section:
    """The parts of the state; those of agents, where all are alike, as what one has times their number."""
    memory, groups = description.memory_megabytes, description.groups
    remark, sizes = f"{memory.total:,.3f} MB", {name: size for name, size in memory.parts.items() if size}
    if (devices := description.devices) is not None:
        over = f"{devices.used:,} of {counted(devices.count, 'device')}"
        over += f" of {devices.hosts} hosts" * (devices.hosts > 1)
        remark += f"; {devices.state_megabytes:,.3f} MB and {counted(devices.agents, 'agent')} on each of {over}"
    if len(groups) > 1 or groups[0].agents == 1:
        return Section("State", remark, columns([(_words(name), _megabytes(x)) for name, x in sizes.items()], (1,)))
    of_agent, times = groups[0].memory_megabytes.parts, f"x {groups[0].agents:,} ="
    rows = [
        (_words(name), *((_megabytes(of_agent[name]), times) if name in of_agent else ("", "")), _megabytes(size))
        for name, size in sizes.items()
    ]
    return Section("State", remark, columns(rows, (1, 3)))


def _megabytes(size: float) -> str:
    return f"{size:,.3f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cost_remark(description: Description, cost: Cost) -> str:
    step = "update" if description.discovery is None else "meta-step"
    of_all = "" if is_alone(description) else " of all agents"
    on_host = any(group.environment.on_host for group in description.groups)
    acting = "acting in environments on the host left out" if on_host else "acting included"
    return f"of one {step}{of_all}, {acting}, on {cost.platform}"


def _cost(cost: Cost) -> Table:
    memory = cost.temp_megabytes
    return fact_table(
        {
            "operations": f"{cost.flops / 1e9:,.3f} GFLOP in matrix products and convolutions",
            "memory": "not known to the compiler" if memory is None else f"{memory:,.1f} MB beside the state",
            "compilation": f"{cost.compile_seconds:.1f} s",
        }
    )


def _bindings(bindings: Sequence[Binding]) -> Section:
    rows = [(Text(_place(binding), "dim"), _binding(binding)) for binding in bindings]
    overridden = sum(binding.overridden for binding in bindings)
    return Section("Bindings", f"{len(bindings)}, {overridden} overridden", columns(rows))


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
    return columns(_parameter_rows(parameters), right=(2,))


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
    return Text(
        ", ".join(f"{array.path.rpartition('/')[2]} {shape_text(array.shape)}" for array in largest_first), "dim"
    )
