"""The loop of a run: training in pieces, between which points are logged and states are saved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from framework.checkpoint import Checkpoints
from framework.errors import UserError
from framework.experiment import Logging
from framework.runs.metrics import MetricsWriter
from framework.runs.progress import Progress
from framework.train import Trainer, mean_metrics, with_metrics_reset
from framework.types import TrainState

POLL_SECONDS = 1.0
"""How long the device is kept busy between two looks at the signals and the clock."""


class Reached(NamedTuple):
    """Where a run stands: its state, its step, and how long it took, earlier starts included."""

    state: TrainState
    step: int
    wall_seconds: float


def advance(
    trainer: Trainer,
    state: TrainState,
    *,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    progress: Progress,
    stop: Callable[[], bool],
) -> Reached:
    """Trains until the experiment's last step or until told to stop; the state reached is saved.

    In how many pieces the device does the steps changes no number: keys are folded from the step.

    Args:
      trainer: does the steps.
      state: where to begin; its buffers are given away.
      checkpoints: where states are saved.
      writer: where points are logged.
      progress: what is shown meanwhile.
      stop: asked between two pieces.
    """
    settings, last = trainer.experiment.logging, trainer.experiment.steps
    step = first = int(state.step)
    begin = time.monotonic() - writer.wall_seconds_before
    logged = (step, time.monotonic())
    piece, saved = 1, (checkpoints.steps() or [-1])[-1]
    while step < last and not stop():
        count = min(piece, next_stop(step, settings, last) - step)
        started = time.monotonic()
        state = trainer.steps(state, jnp.asarray(count, jnp.int32))
        jax.block_until_ready(state.step)
        now = time.monotonic()
        if step == first:
            logged = (step + count, now)  # The first piece was compiled: it tells nothing of the speed.
        step += count
        piece = max(1, min(2 * piece, int(count * POLL_SECONDS / max(now - started, 1e-3))))
        if step % settings.interval == 0 or step == last:
            means = mean_metrics(state)
            _refuse_non_finite(means, step)
            state = with_metrics_reset(state)
            speed = None
            if step > logged[0]:
                speed = (trainer.env_steps(step) - trainer.env_steps(logged[0])) / (now - logged[1])
                means["speed/env_steps_per_second"] = speed
            writer.write(step, trainer.env_steps(step), now - begin, means)
            progress.update(step, episode_return=means["episode/return"], env_steps_per_second=speed)
            logged = (step, now)
        if step % settings.checkpoint_interval == 0:
            checkpoints.save(step, state)
            saved = step
    if saved != step:
        checkpoints.save(step, state)
    return Reached(state, step, time.monotonic() - begin)


def _refuse_non_finite(means: Mapping[str, float], step: int) -> None:
    """Ends a run whose numbers are lost, before its state takes the place of a sound one.

    Raises:
      UserError: where a loss or an update is not finite.
    """
    lost = [name for name, mean in means.items() if not name.startswith("episode/") and not math.isfinite(mean)]
    if lost:
        raise UserError(
            f"the run has diverged: at step {step:,} {', '.join(lost)} are not finite; lower the learning rate or "
            "limit the gradient, in another folder"
        )


def next_stop(step: int, settings: Logging, last: int) -> int:
    """The next step at which something is written."""
    intervals = (settings.interval, settings.checkpoint_interval)
    return min(last, *((step // interval + 1) * interval for interval in intervals))
