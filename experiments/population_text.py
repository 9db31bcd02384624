"""Descriptions of populations as text: who learns, on what, how much."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.layout import Section, component_text, counted, fact_table, parameter_count, shape_text
from framework.config import Loaded
from framework.description import AgentDescription, Description, EnvironmentDescription, GroupDescription

_MOST_NAMED = 10  # Of longer lists of tasks the rest is counted.


def population_sections(loaded: Loaded, description: Description) -> Iterator[Section]:
    """The config and the population."""
    groups, remark = description.groups, f"config {loaded.config_hash}, seed {description.schedule.seed}"
    if is_alone(description):
        yield Section(loaded.name, remark, fact_table(environment_facts(groups[0].environment)))
        return
    yield Section(loaded.name, remark, fact_table(_population(description)))
    for index, group in enumerate(groups):
        facts = environment_facts(group.environment)
        if len(groups) > 1:
            facts |= _network(group.agent)
        facts |= (
            _shares(group)
            | {"optimizer": component_text(group.agent.optimizer)}
            | life_facts(group)
            | schedule_facts(group)
        )
        facts |= _in_all(group, "update" if description.discovery is None else "meta-step")
        title = "Group" if len(groups) == 1 else f"Group {index + 1} of {len(groups)}"
        yield Section(title, sizes_text(group), fact_table(facts))


def is_alone(description: Description) -> bool:
    """Whether there is one agent, which learns with a frozen rule: much needs not be said then."""
    return description.discovery is None and [group.agents for group in description.groups] == [1]


def _population(description: Description) -> dict[str, str]:
    groups, network = description.groups, description.rule.meta_network
    tasks = sum(len(group.environment.tasks) for group in groups)
    agents = sum(group.agents for group in groups)
    rule = "static" if network.static else f"frozen, {counted(network.parameters.count, 'meta-parameter')}"
    if description.discovery is not None:
        rule = f"discovered: {counted(network.parameters.count, 'meta-parameter')}"
    return {
        "rule": rule,
        "population": f"{counted(agents, 'agent')} in {counted(len(groups), 'group')}, on {counted(tasks, 'task')}",
    }


def sizes_text(group: GroupDescription) -> str:
    """P x E x T."""
    schedule = group.schedule
    return (
        f"{counted(group.agents, 'agent')} x {counted(schedule.num_environments, 'environment')} "
        f"x {counted(schedule.trajectory_length, 'step')}"
    )


def environment_facts(environment: EnvironmentDescription) -> dict[str, str]:
    """Tasks, observations and actions; how many tasks is said by the name of the first fact."""
    tasks, more = environment.tasks, len(environment.tasks) - _MOST_NAMED
    named = ", ".join(tasks[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
    where = ", outside the device" if environment.on_host else ""
    resume = {} if environment.resume is None else {"resume": f"environments go on {environment.resume}"}
    return {
        "task"
        if len(tasks) == 1
        else f"{len(tasks):,} tasks": f"{named} of {component_text(environment.suite)}{where}",
        "observation": observation_text(environment),
        "actions": str(environment.num_actions),
    } | resume


def observation_text(environment: EnvironmentDescription) -> str:
    """What is observed: one array, or several by name."""
    if environment.parts:
        return ", ".join(
            f"{name} {part['dtype']} {shape_text(part['shape'])}" for name, part in environment.parts.items()
        )
    index = f": the index of one of {environment.num_states:,} states" if environment.num_states is not None else ""
    return f"{environment.observation_dtype} {shape_text(environment.observation_shape)}{index}"


def _shares(group: GroupDescription) -> dict[str, str]:
    """How many agents begin on each task."""
    tasks = group.environment.tasks
    each, more = divmod(group.agents, len(tasks))
    first = "the first" if more == 1 else f"each of the first {more}"
    if len(tasks) == 1:
        return {}
    if not each:
        return {"agents": f"one on {first}, and later lives on the others"}
    on_first = f", one more on {first}" if more else ""
    return {"agents": f"{each} on each task{on_first}"}


def _network(agent: AgentDescription) -> dict[str, str]:
    """An agent's network in a few lines."""
    facts = module_facts(agent)
    by_part = ", ".join(f"{part} {count:,}" for part, count in agent.parameters.parts.items())
    return facts | {"network": f"{parameter_count(agent.parameters)}: {by_part}"}


def module_facts(agent: AgentDescription) -> dict[str, str]:
    """What an agent's network is made of."""
    facts = {"torso": component_text(agent.torso)}
    if agent.action_model is not None:
        facts["action model"] = component_text(agent.action_model)
    for network in agent.head_networks:
        facts[f"of {network.parameters['head']}"] = component_text(network, defaults=False)
    return facts


def life_facts(group: GroupDescription) -> dict[str, str]:
    """What a newborn agent is given; what is not there is not mentioned."""
    facts = {}
    if group.hyperparameters:
        named = (_hyperparameter(name, value, group) for name, value in group.hyperparameters.items())
        facts["hyperparameters"] = ", ".join(named)
    if group.bandit is not None:
        arms = len(next(iter(group.arms.values())))
        facts["bandit"] = f"{component_text(group.bandit, defaults=False)}: {counted(arms, 'arm')}"
    if group.lifetime is not None:
        facts["lifetime"] = component_text(group.lifetime)
    if group.chunk is not None:
        facts["computed"] = f"{counted(group.chunk, 'agent')} of a device at once"
    return facts


def _hyperparameter(name: str, value: float, group: GroupDescription) -> str:
    if name not in group.arms:
        return f"{name} = {value:g}"
    return f"{name} one of {', '.join(f'{arm:g}' for arm in dict.fromkeys(group.arms[name]))}"


def schedule_facts(group: GroupDescription) -> dict[str, str]:
    """How an agent of a group acts and learns."""
    schedule = group.schedule
    single_steps = " of single steps" if schedule.minibatch_unit == "step" else ""
    return {
        "acting": f"{schedule.env_steps_per_update:,} environment steps per update: "
        f"{schedule.num_environments:,} environments x {schedule.trajectory_length:,} steps",
        "batch": f"{schedule.batch_size:,} trajectories: {schedule.fresh:,} fresh + {schedule.replayed:,} replayed "
        f"(replay ratio {schedule.replay_ratio:g})",
        "learning": f"gradient steps per update: {schedule.gradient_steps_per_update:,} "
        f"(epochs {schedule.epochs:,} x minibatches {schedule.minibatches:,}{single_steps})",
        "replay": f"{component_text(schedule.replay)}, uses each transition {schedule.uses_per_transition:g} times "
        "on average",
    }


def _in_all(group: GroupDescription, step: str) -> dict[str, str]:
    """What all agents of a group take together."""
    schedule, memory = group.schedule, group.memory_megabytes.total
    validation = schedule.validation_length
    judged = "" if validation is None else f", validation trajectories of {counted(validation, 'step')} included"
    return {
        "in all": f"{schedule.env_steps_per_step:,} environment steps per {step}{judged}; "
        f"{schedule.env_steps:,} in the run, {schedule.warm_up_env_steps:,} of them before the first update",
        "state": f"{memory:,.3f} MB an agent, {group.agents * memory:,.3f} MB in all",
    }
