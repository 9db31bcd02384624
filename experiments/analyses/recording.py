"""Recorded trajectories: what agents saw and did, what came of it, and what their networks said."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.analyses.datasets import FORMATS, Description, write_records
from experiments.analyses.findings import Findings, parameter
from experiments.analyses.playing import Played, play, prediction_targets
from experiments.analyses.restoring import RestoredRun
from framework.errors import UserError, closest, did_you_mean
from framework.transforms import at_action, entropy, log_probability
from framework.update_rule import UpdateRule

OBSERVATION = "observation"

Recording = Mapping[str, np.ndarray]
"""{name: array [N, T, ...]} of N trajectories of T steps:

  observation (or observation/PART of a dictionary), action, reward, discount, last: of the step;
  logits, log_probability, entropy: of the policy that acted, at the action, and in nats;
  value: v(s), where the rule estimates values;
  y, z, z_a, ...: logits of the predictions, and of action-conditional ones at the action taken;
  agent: the agent's place in its group.
"""


def recorded(played: Played, rule: UpdateRule, *, observations: bool = True) -> Recording:
    """Trajectories [P, T, E, ...] as those of a recording [P E, T, ...].

    The row of the observation after the last step is left out: nothing was done there.
    """
    trajectory, outputs = played.trajectory, played.inputs.outputs
    agents, steps = trajectory.action.shape[:2]

    def of_steps(x: jax.Array) -> jax.Array:
        return x[:, :steps]

    arrays = {
        "action": trajectory.action,
        "reward": trajectory.reward,
        "discount": trajectory.discount,
        "last": trajectory.last,
        "logits": trajectory.behaviour,
        "log_probability": log_probability(trajectory.behaviour, trajectory.action),
        "entropy": entropy(trajectory.behaviour),
    }
    if played.values is not None:
        arrays["value"] = of_steps(played.values)
    for target in prediction_targets(rule):
        arrays[target.head] = of_steps(outputs[target.head])
        if target.action_conditional:
            arrays[target.taken] = jax.vmap(at_action)(arrays[target.head], trajectory.action)
    if observations:
        seen = trajectory.observation
        parts = seen if isinstance(seen, dict) else {"": seen}
        arrays |= {f"{OBSERVATION}/{name}".rstrip("/"): of_steps(part) for name, part in parts.items()}
    place = np.broadcast_to(np.arange(agents, dtype=np.int32)[:, None, None], trajectory.action.shape)
    return {name: _by_trajectory(np.asarray(x)) for name, x in (arrays | {"agent": jnp.asarray(place)}).items()}


def _by_trajectory(x: np.ndarray) -> np.ndarray:
    """[P, T, E, ...] to [P E, T, ...]."""
    swapped = x.swapaxes(1, 2)
    return np.ascontiguousarray(swapped.reshape(-1, *swapped.shape[2:]))


@dataclasses.dataclass(frozen=True)
class Record:
    """Records trajectories of a run's agents in fresh environments, as a data set that seqio reads."""

    title: ClassVar[str] = "Recorded trajectories"

    streams: int = parameter(16, "Environments in which each agent acts.")
    steps: int = parameter(128, "Steps of a trajectory.")
    seed: int = parameter(0, "Of environments and actions.")
    format: str = parameter("array_record", "Of the file of trajectories: array_record or tfrecord.")
    observations: bool = parameter(True, "Whether observations are recorded.")

    def __post_init__(self) -> None:
        for name in ("streams", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.format not in FORMATS:
            guess = did_you_mean(closest(self.format, FORMATS)) or f" There are {', '.join(FORMATS)}."
            raise ValueError(f"there is no format '{self.format}'.{guess}")

    def __call__(self, run: RestoredRun) -> Findings:
        file_format = FORMATS[self.format]
        file_format.requires.refuse_missing_package()
        played = play(run, streams=self.streams, steps=self.steps, seed=self.seed)
        recording = recorded(played, run.rule, observations=self.observations)
        if not all(np.isfinite(x).all() for x in recording.values() if x.dtype.kind == "f"):
            raise UserError(f"{run.described}: an agent's numbers are lost (NaN): name an earlier checkpoint by --step")
        description = Description.of(recording, file_format=self.format, source=run.described, seed=self.seed)
        episodes = int(recording["last"].sum())
        megabytes = sum(x.nbytes for x in recording.values()) / 1e6
        paragraph = (
            f"{description.trajectories:,} trajectories of {self.steps} steps ({megabytes:.1f} MB, {episodes:,} "
            f"episode ends, mean reward {recording['reward'].mean():.4g}) of {run.described}: the agents act in "
            f"{self.streams} fresh environments each, of the task of their life (seed {self.seed}), with sampled "
            f"actions, and do not learn. Each record of {description.file} is one trajectory; description.json names "
            "its arrays, which "
            "experiments.analyses.datasets describes as a seqio Task."
        )
        return Findings(
            numbers={
                "episode_ends": episodes,
                "mean_reward": float(recording["reward"].mean()),
                **description.as_json(),
            },
            paragraph=paragraph,
            write_files=lambda folder: write_records(folder, recording, description),
        )
