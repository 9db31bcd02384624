"""How good a rule is on tasks that it is not discovered on, while it is discovered."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh

from framework import keys
from framework.experiment import Experiment, HeldOut
from framework.keys import Role
from framework.trials import Trials
from framework.types import TrainState


class Measurement:
    """Fresh agents learn with the rule as it is; the same agents, tasks and luck at every measurement."""

    def __init__(self, experiment: Experiment, held_out: HeldOut) -> None:
        self._held_out = held_out
        self._trials = [Trials(experiment.rule, group, held_out.updates) for group in held_out.groups]

    @property
    def meshes(self) -> list[Mesh | None]:
        """The devices that the agents of each group are spread over."""
        return [trials.population.agents.mesh for trials in self._trials]

    def is_due(self, step: int, last: int) -> bool:
        """Whether to measure at a step."""
        return step % self._held_out.interval == 0 or step == last

    def measure(self, state: TrainState) -> dict[str, float]:
        """``held_out/<task>``: the mean return over the last tenth of the updates, over agents.

        An agent without a complete episode by then does not count; without any such agent there is no number.
        """
        # These agents may be spread over other devices than those that the state is on.
        meta_params, root = jax.device_get(state.meta_params), jax.device_get(state.root_key)
        numbers: dict[str, float] = {}
        for index, trials in enumerate(self._trials):
            key = jax.random.fold_in(keys.role_key(root, Role.HELD_OUT), index)
            curves = trials.curves(meta_params, jax.random.key_data(key))
            late = curves.late_returns()
            for task in dict.fromkeys(curves.tasks):
                of_task = late[[name == task for name in curves.tasks]]
                if np.isfinite(of_task).any():
                    numbers[f"held_out/{task}"] = float(np.nanmean(of_task))
        return numbers
