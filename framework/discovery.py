"""How update rules are discovered: what judges a rule, and how its meta-parameters move."""

from __future__ import annotations

import dataclasses
from typing import Any

from framework.interfaces import MetaObjective, Number, Optimizer, Regularizer
from framework.registry import component
from framework.types import Array


@component("discoveries")
@dataclasses.dataclass(frozen=True)
class Discovery:
    """Meta-training of the update rule by the agents that learn with it.

    A meta-step lets every agent make ``stride`` updates and play a validation trajectory; the meta-gradient reaches
    back through the last ``inner_updates``. Each agent's meta-gradient is limited in norm and goes through an optimizer
    of its own, and the rule moves by the mean of what comes out; or their mean goes through one optimizer.

    Attributes:
      objective: judges the parameters that the rule led to.
      optimizer: of the meta-parameters.
      regularizers: what is added to the meta-objective.
      inner_updates: agent updates that the meta-gradient reaches through (N).
      stride: updates by which the window moves each meta-step; all of them by default.
      validation_length: steps of the validation trajectory; as those of training by default.
      max_gradient_norm: limit of each agent's meta-gradient; ``None`` for no limit.
      separate_optimizers: whether each agent has an optimizer of its own; else one moves by the mean meta-gradient.
      max_parameter: an agent with a parameter beyond it has exploded: it contributes nothing and is born anew.
      max_faulty_share: share of the agents' meta-steps between two logged points that may be lost; beyond it the run
        stops.
      max_replay_error: how far the differentiated updates may end from those collected, as a share of the way; on
        average over agents and meta-steps.

    Source: Oh et al., 2025, Methods, "Meta-optimisation"; Oh et al., 2020, Algorithm 1.
    """

    objective: MetaObjective
    optimizer: Optimizer
    regularizers: tuple[Regularizer, ...] = ()
    inner_updates: int = 20
    stride: int | None = None
    validation_length: int | None = None
    max_gradient_norm: float | None = 1.0
    separate_optimizers: bool = True
    max_parameter: float = 1e4
    max_faulty_share: float = 0.5
    max_replay_error: float = 1e-3

    def __post_init__(self) -> None:
        if self.inner_updates < 1:
            raise ValueError(f"inner_updates must be at least 1, got {self.inner_updates}")
        if self.stride is not None and not 1 <= self.stride <= self.inner_updates:
            raise ValueError(f"stride must lie in [1, inner_updates={self.inner_updates}], got {self.stride}")
        if self.validation_length is not None and self.validation_length < 1:
            raise ValueError(f"validation_length must be at least 1, got {self.validation_length}")
        if isinstance(self.optimizer.learning_rate, Number):
            raise ValueError("optimizer must have a constant learning rate: meta-parameters carry no hyperparameters")
        for name in ("max_gradient_norm", "max_parameter", "max_replay_error"):
            limit = getattr(self, name)
            if limit is not None and limit <= 0:
                raise ValueError(f"{name} must be positive, got {limit}")
        if not 0.0 <= self.max_faulty_share <= 1.0:
            raise ValueError(f"max_faulty_share must lie in [0, 1], got {self.max_faulty_share}")

    @property
    def new_updates(self) -> int:
        """Agent updates made in a meta-step (S)."""
        return self.inner_updates if self.stride is None else self.stride

    @property
    def kept_updates(self) -> int:
        """Agent updates of the window that are made again, with the newer rule (N - S)."""
        return self.inner_updates - self.new_updates

    def regularizers_on(self, what: str) -> tuple[Regularizer, ...]:
        """Those measured on ``updates`` or on ``validation``."""
        return tuple(regularizer for regularizer in self.regularizers if regularizer.on == what)

    def begins_next_window(self, index: int | Array) -> Any:
        """Whether the next window begins after the update of this index in the present one: its S-th."""
        return index == self.new_updates - 1
