"""The rules of gin/rules, each built by itself."""

from __future__ import annotations

import dataclasses

from framework.config import load, shipped_gin_folder
from framework.registry import Problem, component
from framework.update_rule import UpdateRule

RULES = shipped_gin_folder() / "rules"


@component("experiments")
@dataclasses.dataclass(frozen=True)
class RuleAlone:
    """An update rule and nothing else."""

    rule: UpdateRule

    def problems(self) -> list[Problem]:
        return list(self.rule.problems())


def rule_of(name: str, *bindings: str) -> UpdateRule:
    """The rule of a file in gin/rules, without mistakes.

    Args:
      name: of the file.
      *bindings: gin bindings on top of it.
    """
    bound = ("RuleAlone.rule = @UpdateRule()", *bindings)
    return load(str(RULES / f"{name}.gin"), bindings=bound, root=RuleAlone).experiment.rule
