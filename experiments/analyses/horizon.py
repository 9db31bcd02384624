"""How far a rule bootstraps: what happens to a prediction's target when a later prediction is another one."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.analyses.findings import Findings, parameter
from experiments.analyses.playing import PredictionTarget, play, refuse_without_predictions, with_outputs
from experiments.analyses.restoring import RestoredRun
from framework.transforms import categorical_kl
from framework.types import Array, Params, RuleCarry, RuleInputs
from framework.update_rule import UpdateRule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTICEABLE = 0.01
"""Share of the largest change that a change must have to count in the reach (chosen)."""


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def changes(
    rule: UpdateRule,
    head: str,
    targets: tuple[str, ...],
    meta_params: Params,
    inputs: RuleInputs,
    carry: RuleCarry,
    key: Array,
) -> dict[str, Array]:
    """By how much targets change when the prediction at one row is exchanged for another {target: [T+1, T, B]}.

    The change is KL(target before || target after), in nats. The other prediction is that of a row and trajectory drawn
    at random, in the online and the target network alike, and for an action-conditional prediction of all actions.

    Args:
      rule: the rule.
      head: the prediction, of logits [T+1, B, ..., K].
      targets: whose changes are measured, logits [T, B, K].
      meta_params: the rule's parameters.
      inputs: of a batch of trajectories.
      carry: of the rule, from before the update.
      key: of the draws.
    """
    before, _ = rule.targets(meta_params, inputs, carry)
    rows, batch = inputs.outputs[head].shape[:2]
    drawn = jax.random.randint(key, (rows, batch), 0, rows * batch)

    def at(row: Array) -> dict[str, Array]:
        def exchanged(outputs: dict[str, Array]) -> dict[str, Array]:
            x = outputs[head]
            others = x.reshape(rows * batch, *x.shape[2:])[drawn[row]]
            return outputs | {head: x.at[row].set(others)}

        after, _ = rule.targets(meta_params, with_outputs(inputs, exchanged), carry)
        return {name: categorical_kl(before[name], after[name]) for name in targets}

    return jax.lax.map(at, jnp.arange(rows))


def by_distance(change: np.ndarray, last: np.ndarray) -> dict[str, np.ndarray]:
    """Mean change over pairs of a step t and an exchanged row t + k, by k.

    Args:
      change: of the target at t where row s was exchanged [..., T+1, T, B].
      last: whether a transition ended an episode [..., T, B].

    Returns:
      ``change``: mean over pairs of one episode [T+1], NaN where there are none; ``pairs``: their number [T+1];
      ``across``: mean over pairs with an episode's end between them [T+1].
    """
    steps = last.shape[-2]
    ends = np.cumsum(last, axis=-2)
    ended = np.concatenate([np.zeros_like(ends[..., :1, :]), ends], axis=-2)  # Episodes that ended before a row.
    sums = np.zeros((2, steps + 1))
    pairs = np.zeros((2, steps + 1))
    for k in range(steps + 1):
        for t in range(min(steps, steps + 1 - k)):
            other = ended[..., t + k, :] != ended[..., t, :]
            here = change[..., t + k, t, :]
            for index, chosen in enumerate((~other, other)):
                sums[index, k] += here[chosen].sum()
                pairs[index, k] += chosen.sum()
    means = np.where(pairs > 0, sums / np.maximum(pairs, 1), np.nan)
    return {"change": means[0], "pairs": pairs[0], "across": means[1]}


@dataclasses.dataclass(frozen=True)
class Horizon:
    """By how much the targets of predictions change when a prediction k steps later is exchanged, over k."""

    title: ClassVar[str] = "How far the rule bootstraps"

    streams: int = parameter(16, "Environments in which each agent acts.")
    steps: int | None = parameter(None, "Steps of a trajectory; as many as the agents learn from by default.")
    seed: int = parameter(0, "Of environments, actions and exchanged predictions.")

    def __post_init__(self) -> None:
        if self.streams < 1 or (self.steps is not None and self.steps < 1):
            raise ValueError(f"streams and steps must be at least 1, got {self.streams} and {self.steps}")

    def __call__(self, run: RestoredRun) -> Findings:
        found = refuse_without_predictions(run.rule)
        played = play(run, streams=self.streams, steps=self.steps, seed=self.seed)
        last = np.asarray(played.trajectory.last)
        names, key = tuple(target.target for target in found), jax.random.key(self.seed)
        each_agent = played.of_each_agent(run)
        curves = {}
        for source in found:
            of_agents = [
                changes(run.rule, source.head, names, run.meta_params, *of_agent, jax.random.fold_in(key, index))
                for index, of_agent in enumerate(each_agent)
            ]
            for name in names:
                change = np.stack([np.asarray(agent[name]) for agent in of_agents])
                curves[f"{source.head} -> {name}"] = summary(by_distance(change, last))
        return Findings(
            numbers={"source": run.described, "trajectory_length": last.shape[1], "curves": curves},
            paragraph=_paragraph(run, found, last, curves),
            draw=lambda figure: _draw(figure, curves),
        )


def summary(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """A curve over k and the numbers that sum it up.

    ``peak``: the k with the largest change; ``reach``: the largest k whose change is noticeable beside it;
    ``mean_distance``: mean of k, weighted by the changes, without k = 0.
    """
    change = np.nan_to_num(found["change"])
    largest = float(change.max())
    noticed = np.flatnonzero(change >= NOTICEABLE * largest) if largest > 0 else np.zeros(0, int)
    later = change[1:]
    mean = float((np.arange(1, len(change)) * later).sum() / later.sum()) if later.sum() > 0 else None
    return {
        "peak": int(change.argmax()) if largest > 0 else None,
        "reach": int(noticed.max()) if noticed.size else None,
        "mean_distance": mean,
        **{name: values.tolist() for name, values in found.items()},
    }


def _paragraph(
    run: RestoredRun, targets: tuple[PredictionTarget, ...], last: np.ndarray, curves: dict[str, Any]
) -> str:
    heads = " and ".join(target.head for target in targets)
    told = []
    for name, curve in curves.items():
        if curve["peak"] is None:
            told.append(f"{name}: no change at any distance")
            continue
        reach = f"{name}: largest at k = {curve['peak']} ({max(_known(curve['change'])):.3g} nats)"
        beyond = f", noticeable ({NOTICEABLE:.0%} of it) up to k = {curve['reach']}"
        mean = (
            "" if curve["mean_distance"] is None else f", at k = {curve['mean_distance']:.1f} on average from k = 1 on"
        )
        told.append(f"{reach}{beyond}{mean}")
    episodes = int(last.sum())
    return (
        f"The rule of {run.described} computes its targets for {last.shape[0] * last.shape[2]:,} fresh trajectories "
        f"of {last.shape[1]} steps ({episodes:,} episode ends). Then the agent's {heads} at one row t + k is exchanged "
        "for that of another row of the same agent drawn at random, in the online and the target network, and the "
        "targets are computed anew. Shown is KL(target before || target after) at t, mean over all t, trajectories "
        f"and agents where t and t + k are in one episode. {'; '.join(told)}."
    )


def _known(values: list[float]) -> list[float]:
    return [value for value in values if np.isfinite(value)]


def _draw(figure: Figure, curves: dict[str, Any]) -> None:
    figure.set_size_inches(7.2, 4.2)
    axes = figure.add_subplot()
    lowest = np.inf
    for index, (name, curve) in enumerate(curves.items()):
        change = np.array(curve["change"])
        axes.plot(change, color=f"C{index}", marker=".", label=name)
        across = np.array(curve["across"])
        if (shown := across > 0).any():
            axes.plot(np.flatnonzero(shown), across[shown], color=f"C{index}", linestyle=":", linewidth=1.0)
        positive = change[np.isfinite(change) & (change > 0)]
        lowest = min(lowest, positive.min(initial=np.inf))
    if np.isfinite(lowest):
        axes.set_yscale("log")
    axes.set_title("Change of a target at t when a prediction at t + k is exchanged", loc="left", fontsize=11)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("k (steps); dotted: with an episode's end in between")
    axes.set_ylabel("KL(before || after), nats")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
