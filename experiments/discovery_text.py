"""Descriptions of discoveries as text: what judges a rule, how it moves, what it is measured on."""

from __future__ import annotations

from rich.text import Text

from experiments.layout import Section, component_text, counted, fact_table, parameter_count, signed
from experiments.population_text import environment_facts, sizes_text
from framework.description import DiscoveryDescription, HeldOutDescription


def meta_loss_section(discovery: DiscoveryDescription) -> Section:
    """What a rule is judged by: its terms by the steps that they are means over."""
    terms = discovery.meta_loss.regularizers
    validation = [discovery.meta_loss.objective, *signed([term for term in terms if term.on == "validation"])]
    lines = ["the mean over the steps of its validation trajectory of", *(f"  {line}" for line in validation)]
    if updates := signed([term for term in terms if term.on == "updates"]):
        lines += [f"and the mean over its {discovery.inner_updates:,} updates and their steps of"]
        lines += [f"  {line}" for line in updates]
    return Section("Meta-loss", "of each agent", Text("\n".join(lines)))


def discovery_section(discovery: DiscoveryDescription) -> Section:
    """What happens in a meta-step, and what may go wrong in it."""
    new, reach = discovery.stride, discovery.inner_updates
    again = f", after {counted(reach - new, 'update')} made again with the newer rule" if new < reach else ""
    norm = discovery.max_gradient_norm
    limit = "" if norm is None else f", its norm limited to {norm:g}"
    if discovery.separate_optimizers:
        moved = "one for each agent, the rule moves by the mean of their changes"
    else:
        moved = "one for all agents, on the mean of their meta-gradients"
    facts = {
        "meta-step": f"{counted(new, 'new update')} (S) of every agent{again}; then its validation trajectory",
        "meta-gradient": f"of each agent, through its last {counted(reach, 'update')} (N){limit}",
        "meta-optimizer": f"{component_text(discovery.optimizer)}: {moved}",
        "meta-objective": component_text(discovery.objective),
        "lost agents": "contribute nothing and are born anew: those whose meta-gradient is not finite, or with a "
        f"parameter beyond {discovery.max_parameter:g}",
        "the run stops": f"where more than {discovery.max_faulty_share:.0%} of the agents' meta-steps between two "
        "logged points are lost, or differentiated updates end elsewhere than those collected, by more than "
        f"{discovery.max_replay_error:g} of the way",
    }
    return Section("Discovery", counted(discovery.meta_parameters, "meta-parameter"), fact_table(facts))


def held_out_section(held_out: HeldOutDescription) -> Section:
    """What a rule is measured on."""
    facts = {}
    for index, group in enumerate(held_out.groups):
        environment, parameters = environment_facts(group.environment), parameter_count(group.agent.parameters)
        tasks, named = next(iter(environment.items()))
        facts[f"group {index + 1}"] = f"{sizes_text(group)}, {parameters}; {tasks} {named}"
    facts["measurement"] = (
        f"{counted(held_out.updates, 'update')} of fresh agents with the rule as it is: "
        f"{held_out.env_steps:,} environment steps"
    )
    return Section("Held out", f"every {counted(held_out.interval, 'meta-step')}", fact_table(facts))
