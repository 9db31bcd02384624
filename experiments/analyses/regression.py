"""How much of one quantity can be told from another: small MLPs, cross-validated by whole trajectories."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from framework.types import Array, Params


class Question(Protocol):
    """What is told from the inputs: how far an answer is off, and how good answers are."""

    def loss(self, answer: Array, truth: Array) -> Array:
        """Of answers [..., Q] to truths [..., Q]."""

    def normalized(self, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Truths [M, Q] in the scale in which they are learned."""

    def score(self, answer: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Of answers [M, Q] to the truths so scaled, one for each of the Q quantities."""


@dataclasses.dataclass(frozen=True)
class Regression:
    """Numbers, by the squared error; the score is R^2, 0 for an answer that is always the mean."""

    def loss(self, answer: Array, truth: Array) -> Array:
        return jnp.square(answer - truth)

    def normalized(self, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
        mean = np.average(truth, axis=0, weights=weight)
        deviation = np.sqrt(np.average(np.square(truth - mean), axis=0, weights=weight))
        return (truth - mean) / np.maximum(deviation, 1e-8)

    def score(self, answer: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
        mean = (weight * truth).sum(0) / np.maximum(weight.sum(0), 1e-12)
        left = (weight * np.square(truth - answer)).sum(0)
        spread = (weight * np.square(truth - mean)).sum(0)
        return np.where(spread > 1e-12, 1.0 - left / np.maximum(spread, 1e-12), np.nan)


@dataclasses.dataclass(frozen=True)
class Classification:
    """Yes (1) or no (0), by the cross-entropy of logits; the score is the accuracy."""

    def loss(self, answer: Array, truth: Array) -> Array:
        return optax.sigmoid_binary_cross_entropy(answer, truth)

    def normalized(self, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return truth

    def score(self, answer: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
        right = (answer > 0.0) == (truth > 0.5)
        return (weight * right).sum(0) / np.maximum(weight.sum(0), 1e-12)


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """Fits an MLP on all folds but one, and scores it on that one; every fold once.

    A trajectory's steps are all in one fold: neighbouring steps are nearly equal, and one must not answer for the
    other. A tenth of the trajectories that are learned from says when to stop: the parameters that were best on it are
    scored.

    Attributes:
      folds: number of folds.
      steps: minibatches learned from at most.
      batch: samples of a minibatch.
      learning_rate: of Adam; it falls to zero along a cosine.
      check_interval: minibatches between two looks at the tenth.
      seed: of folds, parameters and minibatches.
    """

    folds: int = 5
    steps: int = 600
    batch: int = 128
    learning_rate: float = 2e-3
    check_interval: int = 50
    seed: int = 0

    def scores(
        self, question: Question, sizes: tuple[int, ...], *, x: np.ndarray, truth: np.ndarray, weight: np.ndarray,
        trajectory: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """Scores of each fold and quantity [folds, Q].

        Args:
          question: what is asked.
          sizes: of the MLP's hidden layers.
          x: inputs [M, D].
          truth: what is to be told from them [M, Q].
          weight: 0 where a truth is not known, else 1 [M, Q].
          trajectory: number of the trajectory that each sample is from [M].

        Raises:
          ValueError: there are fewer trajectories than the folds need.
        """
        fold, checked = self._split(trajectory)
        answers = np.full(truth.shape, np.nan, np.float32)
        x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
        truth = question.normalized(truth, np.maximum(weight, 1e-12))
        others = fold[None] != np.arange(self.folds)[:, None]
        generator = np.random.default_rng(self.seed)
        params = _initial_params((x.shape[1], *sizes, truth.shape[1]), self.folds, generator)
        minibatches = self._minibatches(others & ~checked, generator)
        data = tuple(jnp.asarray(part, jnp.float32) for part in (x, truth, weight))
        found = _fit(self, question, params, data, minibatches, others & checked)
        for index, answer in enumerate(np.asarray(found)):
            answers[fold == index] = answer[fold == index]
        return np.stack(
            [question.score(answers[fold == f], truth[fold == f], weight[fold == f]) for f in range(self.folds)]
        )

    def _minibatches(self, learns: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Samples that each fold's network learns from [folds, looks, minibatches between two looks, batch]."""
        looks = max(1, self.steps // self.check_interval)
        shape = (looks, self.check_interval, self.batch)
        return np.stack([generator.choice(np.flatnonzero(of_fold), shape) for of_fold in learns]).astype(np.int32)

    def _split(self, trajectory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The fold of every sample [M], and for each fold whether a sample says when to stop [folds, M]."""
        numbers = np.unique(trajectory)
        if len(numbers) < 2 * self.folds:
            raise ValueError(f"{len(numbers)} trajectories are too few for {self.folds} folds: record more streams")
        generator = np.random.default_rng(self.seed)
        place = generator.permutation(len(numbers))[np.searchsorted(numbers, trajectory)]
        fold = place % self.folds
        checked = np.empty((self.folds, len(trajectory)), bool)
        for index in range(self.folds):
            others = np.unique(trajectory[fold != index])
            chosen = generator.choice(others, max(1, len(others) // 10), replace=False)
            checked[index] = np.isin(trajectory, chosen)
        return fold, checked


def _initial_params(sizes: Sequence[int], folds: int, generator: np.random.Generator) -> Params:
    """Weights [folds, from, to] of deviation 1 / sqrt(from) and biases 0 of the layers between sizes."""
    # By NumPy: drawn in the compiled program, they would take longer to compile than the whole fit.
    return [
        (
            (generator.normal(size=(folds, inputs, outputs)) / np.sqrt(inputs)).astype(np.float32),
            np.zeros((folds, outputs), np.float32),
        )
        for inputs, outputs in itertools.pairwise(sizes)
    ]


def _mlp(params: Params, x: Array) -> Array:
    """Layers with ReLUs between them."""
    for weights, biases in params[:-1]:
        x = jax.nn.relu(x @ weights + biases)
    weights, biases = params[-1]
    return x @ weights + biases


@functools.partial(jax.jit, static_argnums=(0, 1))
def _fit(
    how: CrossValidation, question: Question, params: Params, data: tuple[Array, Array, Array],
    minibatches: Array, checks: Array,
) -> Array:  # fmt: skip
    """Answers to all samples by each fold's network [folds, M, Q]."""
    x, truth, weight = data
    optimizer = optax.adam(optax.cosine_decay_schedule(how.learning_rate, how.steps))

    def loss(params: Params, inputs: Array, truth: Array, weight: Array) -> Array:
        off = question.loss(_mlp(params, inputs), truth)
        return (weight * off).sum() / jnp.maximum(weight.sum(), 1.0)

    def of_fold(params: Params, minibatches: Array, checks: Array) -> Array:
        def step(carry: tuple, drawn: Array) -> tuple:
            params, opt_state = carry
            gradient = jax.grad(loss)(params, x[drawn], truth[drawn], weight[drawn])
            change, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(params, change), opt_state), None

        def stretch(carry: tuple, minibatches: Array) -> tuple:
            fitted, best, lowest = carry
            fitted, _ = jax.lax.scan(step, fitted, minibatches)
            found = loss(fitted[0], x, truth, weight * checks[:, None])
            best = jax.tree.map(lambda new, old: jnp.where(found < lowest, new, old), fitted[0], best)
            return (fitted, best, jnp.minimum(found, lowest)), None

        start = ((params, optimizer.init(params)), params, jnp.inf)
        (_, best, _), _ = jax.lax.scan(stretch, start, minibatches)
        return _mlp(best, x)

    return jax.vmap(of_fold)(params, minibatches, checks)
