"""What an agent's outputs tell of its future: policy entropy, large rewards, values at several discounts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from experiments.analyses.datasets import Description, read_recording
from experiments.analyses.findings import Findings, parameter
from experiments.analyses.playing import play, prediction_targets
from experiments.analyses.recording import OBSERVATION, Recording, recorded
from experiments.analyses.regression import Classification, CrossValidation, Question, Regression
from experiments.analyses.restoring import RestoredRun
from framework.errors import UserError
from framework.types import transition_weight

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL, LARGE = (128, 64, 32), (256, 256, 256)
"""Hidden layers of the MLPs: those that read policy or value, and those that read more (Oh et al., 2025)."""

DISCOUNTS = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Of the returns that are told from an output (chosen; LPG's paper shows several)."""

CUT_OFF = 0.05
"""Largest weight, in a return that counts as known, of what lies behind the trajectory's end (chosen)."""

LEAST_KNOWN = 0.1
"""Share of the steps at which a discount's return must be known to be asked for (chosen)."""

MOST_OBSERVED = 4096
"""Numbers of the largest observation that is tried as an input."""


@dataclasses.dataclass(frozen=True)
class Truths:
    """What is to be told of every step.

    Attributes:
      name: of the question.
      question: how answers are scored.
      labels: of the quantities [Q].
      values: the truths [N, T, Q].
      known: whether the trajectory tells them [N, T, Q].
    """

    name: str
    question: Question
    labels: tuple[str, ...]
    values: np.ndarray
    known: np.ndarray


def future_entropy(entropy: np.ndarray, last: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean entropy of the policy over the steps ahead, and whether it is known, both [N, T].

    Args:
      entropy: of the policy at each step [N, T].
      last: whether a step ended an episode [N, T].
      window: how many steps ahead; those behind the episode's end do not count.
    """
    steps = entropy.shape[1]
    total, count = np.zeros(entropy.shape), np.zeros(entropy.shape)
    alive, known = np.ones(entropy.shape, bool), np.ones(entropy.shape, bool)
    for ahead in range(1, window + 1):
        alive = alive & ~_ahead(last, ahead - 1, fill=False)
        beyond = np.arange(steps) + ahead >= steps
        known &= ~(alive & beyond)
        total += np.where(alive, _ahead(entropy, ahead, fill=0.0), 0.0)
        count += alive & ~beyond
    return total / np.maximum(count, 1.0), known & (count > 0)


def large_reward_ahead(
    reward: np.ndarray, last: np.ndarray, window: int, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Whether one of the next rewards is large, this step's first, and whether that is known, both bool [N, T].

    Args:
      reward: of each step [N, T].
      last: whether it ended an episode [N, T].
      window: how many rewards; those behind the episode's end do not count.
      threshold: from which on a reward is large.
    """
    steps = reward.shape[1]
    found = np.zeros(reward.shape, bool)
    alive, known = np.ones(reward.shape, bool), np.ones(reward.shape, bool)
    for ahead in range(window):
        beyond = np.arange(steps) + ahead >= steps
        known &= ~(alive & beyond)
        found |= alive & (_ahead(reward, ahead, fill=-np.inf) >= threshold)
        alive = alive & ~_ahead(last, ahead, fill=False)
    return found, known | found


def discounted_returns(recording: Recording, discount: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns of the policy that acted, by what it earned, and whether they are known, both [N, T].

    A return is known where what lies behind the trajectory's end, or behind a limit that cut the episode off, weighs no
    more than `CUT_OFF`.
    """
    reward, last = recording["reward"], recording["last"]
    weight = np.asarray(transition_weight(recording["discount"], last))
    returns, missing = np.zeros(reward.shape), np.zeros(reward.shape)
    after, lacks = np.zeros(len(reward)), np.ones(len(reward))
    for step in reversed(range(reward.shape[1])):
        goes_on = discount * ~last[:, step]
        after = reward[:, step] + goes_on * after
        lacks = np.where(weight[:, step] == 0, 1.0, goes_on * lacks)
        returns[:, step], missing[:, step] = after, lacks
    return returns, missing <= CUT_OFF


def _ahead(x: np.ndarray, steps: int, *, fill: float) -> np.ndarray:
    """The rows some steps later [N, T]; behind the end there are none."""
    filler = np.full((len(x), min(steps, x.shape[1])), fill, x.dtype)
    return np.concatenate([x[:, steps:], filler], axis=1)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """How well MLPs tell the agent's future from its policy, value and predictions, in five-fold cross-validation."""

    title: ClassVar[str] = "What predictions tell of the future"

    streams: int = parameter(32, "Environments in which each agent acts.")
    steps: int = parameter(128, "Steps of a trajectory.")
    window: int = parameter(10, "Steps ahead that entropies and rewards are looked for.")
    quantile: float = parameter(0.9, "Of the positive rewards, from which on a reward is large.")
    samples: int = parameter(4096, "Steps that are drawn from the trajectories at most.")
    fit_steps: int = parameter(600, "Minibatches that an MLP learns from.")
    recording: str | None = parameter(None, "Folder of recorded trajectories, in place of fresh ones.")
    seed: int = parameter(0, "Of environments, actions, folds and fits.")

    def __post_init__(self) -> None:
        for name in ("streams", "steps", "window", "samples", "fit_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.quantile <= 1.0:
            raise ValueError(f"quantile must lie in [0, 1], got {self.quantile}")

    def __call__(self, run: RestoredRun) -> Findings:
        recording, source = self._recording(run)
        num_states = run.population.lifecycle.environment.spec.num_states
        numbers = self.measure(recording, self._inputs(run, recording, num_states))
        heads = ", ".join(numbers["inputs"])
        return Findings(
            numbers={"source": source, **numbers},
            paragraph=(
                f"From each of {heads} of {source}, MLPs (hidden layers {'-'.join(map(str, SMALL))} for pi and v, "
                f"{'-'.join(map(str, LARGE))} for the others; Adam, stopped by a tenth of the trajectories) tell, at "
                f"{numbers['samples']:,} steps of {numbers['trajectories']:,} trajectories, the mean policy entropy "
                f"of the next {self.window} steps of the episode (R^2), whether one of its next {self.window} rewards "
                f"is at least {_threshold(numbers)} (accuracy; the more frequent answer alone is right in "
                f"{_percent(numbers['scores'].get('large_reward'))}), and the discounted return (R^2; a return is one "
                "draw, of which nothing tells all; what a state is worth differs between agents, where there are "
                "several). Five-fold cross-validation, folds of whole trajectories; given is the mean over folds. "
                f"{_in_words(numbers)}"
            ),
            draw=lambda figure: _draw(figure, numbers),
        )

    def _recording(self, run: RestoredRun) -> tuple[Recording, str]:
        if self.recording is not None:
            folder = Path(self.recording)
            return read_recording(folder), Description.read(folder).source
        return recorded(play(run, streams=self.streams, steps=self.steps, seed=self.seed), run.rule), run.described

    def _inputs(self, run: RestoredRun, recording: Recording, num_states: int | None) -> dict[str, np.ndarray]:
        """{what the future is told from: [N, T, ...]}."""
        inputs = {"pi": _log_softmax(recording["logits"])}
        if "value" in recording:
            inputs["v"] = recording["value"]
        for target in prediction_targets(run.rule):
            if target.head not in recording:
                raise UserError(f"the recorded trajectories have no '{target.head}': they are of another rule")
            for name in dict.fromkeys((target.head, target.taken)):
                inputs[name] = _log_softmax(recording[name])
        seen = recording.get(OBSERVATION)
        if seen is not None and (num_states or np.prod(seen.shape[2:])) <= MOST_OBSERVED:
            inputs[OBSERVATION] = seen
            if num_states is not None:
                visited, index = np.unique(seen, return_inverse=True)
                inputs[OBSERVATION] = np.eye(len(visited), dtype=np.float32)[index.reshape(seen.shape)]
        return inputs

    def questions(self, recording: Recording) -> tuple[list[Truths], float | None]:
        """What is asked of a recording, and from where on its rewards are large; ``None`` where none is positive."""
        reward, last = recording["reward"], recording["last"]
        entropies, known = future_entropy(recording["entropy"], last, self.window)
        asked = [Truths("entropy", Regression(), ("entropy",), entropies[..., None], known[..., None])]
        threshold = None
        if (positive := reward[reward > 0]).size:
            threshold = float(np.quantile(positive, self.quantile, method="lower"))
            found, known = large_reward_ahead(reward, last, self.window, threshold)
            truth = found[..., None].astype(np.float32)
            asked.append(Truths("large_reward", Classification(), ("large_reward",), truth, known[..., None]))
        returns = {f"{discount:g}": discounted_returns(recording, discount) for discount in DISCOUNTS}
        told = {label: pair for label, pair in returns.items() if pair[1].mean() >= LEAST_KNOWN}
        if told:
            values, knowns = (np.stack(part, axis=-1) for part in zip(*told.values(), strict=True))
            asked.append(Truths("returns", Regression(), tuple(told), values, knowns))
        return asked, threshold

    def measure(self, recording: Recording, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        """Scores of every input at every question, with the numbers that tell how much they rest on."""
        asked, threshold = self.questions(recording)
        generator, shape = np.random.default_rng(self.seed), recording["reward"].shape
        validation = CrossValidation(steps=self.fit_steps, seed=self.seed)
        scores: dict[str, Any] = {}
        for truths in asked:
            rows = np.flatnonzero(truths.known.any(-1))
            rows = np.sort(generator.permutation(rows)[: self.samples])
            trajectory = rows // shape[1]
            values = truths.values.reshape(-1, len(truths.labels))[rows].astype(np.float32)
            weight = truths.known.reshape(-1, len(truths.labels))[rows].astype(np.float32)
            if len(np.unique(trajectory)) < 2 * validation.folds:
                raise UserError(
                    f"{len(np.unique(trajectory))} trajectories tell the {truths.name} of {self.window} steps ahead, "
                    f"and {2 * validation.folds} are needed: raise --streams or --steps, or lower --window"
                )
            of_inputs = {}
            for name, x in inputs.items():
                flat = x.reshape(shape[0] * shape[1], -1)[rows].astype(np.float32)
                found = validation.scores(
                    truths.question,
                    SMALL if name in ("pi", "v") else LARGE,
                    x=flat,
                    truth=values,
                    weight=weight,
                    trajectory=trajectory,
                )
                of_inputs[name] = {
                    label: {"mean": float(found[:, q].mean()), "folds": found[:, q].tolist()}
                    for q, label in enumerate(truths.labels)
                }
            scores[truths.name] = {"samples": len(rows), "inputs": of_inputs}
            if isinstance(truths.question, Classification):
                share = float(values.mean())
                scores[truths.name] |= {"majority": max(share, 1.0 - share), "positive": share}
        return {
            "inputs": list(inputs),
            "trajectories": shape[0],
            "samples": max(found["samples"] for found in scores.values()),
            "window": self.window,
            "large_reward_threshold": threshold,
            "scores": scores,
        }


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _threshold(numbers: dict[str, Any]) -> str:
    threshold = numbers["large_reward_threshold"]
    return "large (there was no positive one)" if threshold is None else f"{threshold:g}"


def _percent(found: dict[str, Any] | None) -> str:
    return "no case" if found is None else f"{100 * found['majority']:.1f} %"


def _in_words(numbers: dict[str, Any]) -> str:
    """The scores, one sentence a question."""
    sentences = []
    for name, found in numbers["scores"].items():
        told = []
        for source, scores in found["inputs"].items():
            values = ", ".join(f"{score['mean']:.2f}" for score in scores.values())
            told.append(f"{source} {values}")
        discounts = f" at discounts {', '.join(next(iter(found['inputs'].values())))}" if name == "returns" else ""
        sentences.append(f"{name.replace('_', ' ').capitalize()}{discounts}: {'; '.join(told)}.")
    return " ".join(sentences)


_TITLES = {
    "entropy": "Policy entropy ahead (R^2)",
    "large_reward": "A large reward ahead (accuracy)",
    "returns": "Return, by discount (R^2)",
}


def _draw(figure: Figure, numbers: dict[str, Any]) -> None:
    panels = numbers["scores"]
    figure.set_size_inches(4.4 * len(panels) + 0.8, 3.8)
    for place, (name, found) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), place + 1)
        axes.set_title(_TITLES[name], loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        inputs = found["inputs"]
        labels = list(next(iter(inputs.values())))
        width = 0.8 / len(labels)
        for index, label in enumerate(labels):
            at = np.arange(len(inputs)) + (index - (len(labels) - 1) / 2) * width
            means = np.array([scores[label]["mean"] for scores in inputs.values()])
            spread = np.array([np.std(scores[label]["folds"]) for scores in inputs.values()])
            shade = f"C{place}" if len(labels) == 1 else (0.1, 0.3 + 0.5 * index / len(labels), 0.6)
            axes.bar(at, np.clip(means, -0.05, 1.0), width, yerr=spread, color=shade, label=label, error_kw={"lw": 0.8})
        axes.set_xticks(np.arange(len(inputs)), list(inputs), rotation=30 if len(inputs) > 4 else 0)
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.05)
        if "majority" in found:
            axes.axhline(found["majority"], color="0.3", linestyle="--", linewidth=1.0)
            axes.annotate(
                "more frequent answer",
                (0.0, found["majority"]),
                (-0.4, found["majority"] + 0.01),
                fontsize=8,
                color="0.3",
            )
        if len(labels) > 1:
            axes.legend(title="discount", fontsize=8, title_fontsize=8, frameon=False)
