"""What a rule makes of a reward and of a prediction: its policy target as a function of each, explained."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.analyses.findings import Findings, parameter
from experiments.analyses.playing import PredictionTarget, play, prediction_targets, with_outputs
from experiments.analyses.restoring import RestoredRun
from framework.errors import UserError, closest, did_you_mean
from framework.transforms import log_probability
from framework.types import Array, Params, RuleCarry, RuleInputs
from framework.update_rule import UpdateRule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PEAK = 0.9
"""Probability of the category that a prediction is set to (chosen)."""


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a rule asks of the action taken, by its policy target.

    For a target of policy logits [T, B, A] it is log pi_hat(a) - log pi(a): by how much the action shall become more
    likely. For a target that is one number a step [T, B], such as LPG's pi_hat, it is that number.

    Attributes:
      rule: the rule.
      target: name of the target.
    """

    rule: UpdateRule
    target: str

    def __call__(self, meta_params: Params, inputs: RuleInputs, carry: RuleCarry) -> Array:
        """The effect at every step [T, B]."""
        targets, _ = self.rule.targets(meta_params, inputs, carry)
        asked = targets[self.target]
        if asked.ndim == inputs.action.ndim:
            return asked
        policy = self.rule.policy(inputs.outputs[self.rule.acting_head], inputs.hyperparameters)
        now = policy[: inputs.action.shape[0]]
        return log_probability(asked, inputs.action) - log_probability(now, inputs.action)

    @property
    def unit(self) -> str:
        """What the effect is called on an axis."""
        return f"{self.target} of the action taken"


@functools.partial(jax.jit, static_argnums=0)
def over_rewards(
    effect: Effect, step: int, rewards: Array, meta_params: Params, inputs: RuleInputs, carry: RuleCarry
) -> Array:
    """The effect at every step where one step's reward is each of some rewards [R, T, B]."""
    return jax.lax.map(
        lambda reward: effect(meta_params, inputs.replace(reward=inputs.reward.at[step].set(reward)), carry), rewards
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def over_categories(
    effect: Effect, head: str, row: int, meta_params: Params, inputs: RuleInputs, carry: RuleCarry
) -> Array:
    """The effect at every step where one row's prediction is peaked at each of its categories [K, T, B].

    It is so in the online and the target network, and an action-conditional prediction for all actions.
    """
    categories = inputs.outputs[head].shape[-1]
    rest = jnp.log((1.0 - PEAK) / (categories - 1))

    def at(category: Array) -> Array:
        def peaked(outputs: dict[str, Array]) -> dict[str, Array]:
            logits = jnp.where(jnp.arange(categories) == category, jnp.log(PEAK), rest)
            return outputs | {head: outputs[head].at[row].set(logits)}

        return effect(meta_params, with_outputs(inputs, peaked), carry)

    return jax.lax.map(at, jnp.arange(categories))


def at_distances(effects: np.ndarray, last: np.ndarray, step: int, row: int) -> np.ndarray:
    """Mean effects at the steps up to a swept one, by their distance, over trajectories of one episode [distances, S].

    Args:
      effects: [agents, S, T, B].
      last: whether a transition ended an episode [agents, T, B].
      step: the step whose effect has distance 0.
      row: what was swept belongs to this row; steps from which an episode's end parts it do not count.

    Returns:
      NaN where no trajectory counts.
    """
    found = []
    for distance in range(step + 1):
        counts = ~last[:, step - distance : row].any(axis=1)
        chosen = effects.transpose(0, 3, 1, 2)[counts][..., step - distance]
        found.append(chosen.mean(0) if len(chosen) else np.full(effects.shape[1], np.nan))
    return np.stack(found)


def swept_step(last: np.ndarray) -> int:
    """The step with the longest past in its episode, over trajectories [agents, T, B], in their first two thirds.

    Behind it, a rule that reads trajectories backwards still has something to read.
    """
    past, longest = np.zeros(last[:, 0].shape, int), []
    for step in range(max(1, 2 * last.shape[1] // 3)):
        longest.append((past * ~last[:, step]).mean())
        past = np.where(last[:, step], 0, past + 1)
    return int(np.argmax(longest))


@dataclasses.dataclass(frozen=True)
class Rule:
    """What the policy target is as a function of a reward, and of the predictions of the next step."""

    title: ClassVar[str] = "What the rule does with rewards and predictions"

    target: str = parameter("pi_hat", "The rule's target for the policy.")
    streams: int = parameter(16, "Environments in which each agent acts.")
    steps: int | None = parameter(None, "Steps of a trajectory; as many as the agents learn from by default.")
    rewards: int = parameter(21, "Rewards between the least and the most.")
    most: float = parameter(2.0, "The largest reward; the least is its negative.")
    seed: int = parameter(0, "Of environments and actions.")

    def __post_init__(self) -> None:
        if self.streams < 1 or (self.steps is not None and self.steps < 2):
            raise ValueError(f"streams must be at least 1 and steps 2, got {self.streams} and {self.steps}")
        if self.rewards < 2 or self.most <= 0:
            raise ValueError(f"rewards must be at least 2 and most positive, got {self.rewards} and {self.most}")

    def __call__(self, run: RestoredRun) -> Findings:
        effect = Effect(run.rule, self._known_target(run.rule))
        played = play(run, streams=self.streams, steps=self.steps, seed=self.seed)
        last = np.asarray(played.trajectory.last)
        step = swept_step(last)
        agents = played.of_each_agent(run)
        rewards = np.linspace(-self.most, self.most, self.rewards)
        of_rewards = [over_rewards(effect, step, jnp.asarray(rewards), run.meta_params, *agent) for agent in agents]
        swept = at_distances(np.stack(of_rewards), last, step, row=step)
        numbers: dict[str, Any] = {
            "source": run.described,
            "target": self.target,
            "trajectories": last.shape[0] * last.shape[2],
            "step": step,
            "reward": {
                "rewards": rewards.tolist(),
                "effects_by_distance": swept.tolist(),
                "slopes_by_distance": _slopes(rewards, swept),
            },
            "predictions": {},
        }
        for prediction in prediction_targets(run.rule):
            of_categories = [
                over_categories(effect, prediction.head, step + 1, run.meta_params, *agent) for agent in agents
            ]
            numbers["predictions"][prediction.head] = _of_categories(
                at_distances(np.stack(of_categories), last, step, row=step + 1)
            )
        return Findings(
            numbers=numbers,
            paragraph=_paragraph(run, prediction_targets(run.rule), numbers),
            draw=lambda figure: _draw(figure, effect, numbers),
        )

    def _known_target(self, rule: UpdateRule) -> str:
        names = [target.name for target in rule.meta_network.targets]
        if self.target not in names:
            guess = did_you_mean(closest(self.target, names)) or f" There are: {', '.join(names)}."
            raise UserError(f"the run's rule has no target '{self.target}'.{guess} Name one by --target")
        return self.target


def _slopes(rewards: np.ndarray, swept: np.ndarray) -> list[float]:
    """Least-squares slope of the effect over the reward, by distance; NaN where there is no effect."""
    centred = rewards - rewards.mean()
    return [float((centred * (row - row.mean())).sum() / np.square(centred).sum()) for row in swept]


def _of_categories(swept: np.ndarray) -> dict[str, Any]:
    """Effects by category, and what sums them up by distance: how far apart those of two categories are."""
    apart = [float(row.max() - row.min()) for row in swept]
    known = np.isfinite(swept[0]).all()
    return {
        "effects_by_distance": swept.tolist(),
        "range_by_distance": apart,
        "highest_category": int(swept[0].argmax()) if known else None,
        "lowest_category": int(swept[0].argmin()) if known else None,
    }


def _paragraph(run: RestoredRun, predictions: tuple[PredictionTarget, ...], numbers: dict[str, Any]) -> str:
    slopes = np.array(numbers["reward"]["slopes_by_distance"])
    known = np.flatnonzero(np.isfinite(slopes))
    some = known[np.isin(known, (0, 1, 2, 4, 8))]
    told = ", ".join(f"{slopes[k]:.3g} at k = {k}" for k in some)
    sentences = [
        f"On {numbers['trajectories']:,} fixed trajectories of {run.described}, the reward of step "
        f"{numbers['step']} is set to each of {len(numbers['reward']['rewards'])} values and the rule's "
        f"{numbers['target']} computed anew (its number where it is one, else log {numbers['target']}(a) - log pi(a), "
        "by how much the action taken shall become more likely), at that step and at steps k earlier in the same "
        f"episode. Slope over the reward: {told}."
    ]
    for prediction in predictions:
        found = numbers["predictions"][prediction.head]
        if found["highest_category"] is None:
            sentences.append(f"No trajectory goes on after that step, so that {prediction.head} cannot be swept.")
            continue
        sentences.append(
            f"With {prediction.head} of the next step peaked at one category ({PEAK:.0%}), {numbers['target']} differs "
            f"by up to {found['range_by_distance'][0]:.3g} between categories (highest {found['highest_category']}, "
            f"lowest {found['lowest_category']}): as much as between two rewards that are "
            f"{_in_rewards(found['range_by_distance'][0], slopes[0])} apart."
        )
    return " ".join(sentences)


def _in_rewards(effect: float, slope: float) -> str:
    return f"{effect / abs(slope):.3g}" if abs(slope) > 1e-9 else "without end"


def _draw(figure: Figure, effect: Effect, numbers: dict[str, Any]) -> None:
    predictions = numbers["predictions"]
    columns = 2 + len(predictions)
    figure.set_size_inches(4.3 * columns, 3.8)
    axes = figure.add_subplot(1, columns, 1)
    rewards, swept = numbers["reward"]["rewards"], np.array(numbers["reward"]["effects_by_distance"])
    for index, distance in enumerate(k for k in (0, 1, 2, 4, 8) if k < len(swept) and np.isfinite(swept[k]).all()):
        label = "at the reward's step" if distance == 0 else f"{distance} earlier"
        axes.plot(rewards, swept[distance], color=(0.1, 0.25 + 0.13 * index, 0.7), label=label)
    _finish(axes, "Over the reward", "reward", effect.unit)
    axes.legend(frameon=False, fontsize=8)
    axes = figure.add_subplot(1, columns, 2)
    axes.plot(numbers["reward"]["slopes_by_distance"], marker=".", label="slope over the reward")
    for head, found in predictions.items():
        axes.plot(found["range_by_distance"], marker=".", label=f"range over {head}'s categories")
    _finish(axes, "By distance to what was swept", "k (steps earlier)", "effect")
    axes.axhline(0.0, color="0.8", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)
    for place, (head, found) in enumerate(predictions.items()):
        axes = figure.add_subplot(1, columns, 3 + place)
        effects = np.sort(np.array(found["effects_by_distance"])[0])
        style = {"marker": "o"} if len(effects) <= 64 else {}
        axes.plot(effects, color="C2", **style)
        _finish(axes, f"Over {head} of the next step", f"categories of {head}, sorted by their effect", effect.unit)


def _finish(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
