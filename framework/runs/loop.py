"""The loop of a run: training in pieces, between which points are logged and states are saved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from framework import hosts
from framework.checkpoint import Checkpoints
from framework.errors import UserError
from framework.experiment import Logging
from framework.host_environments.worlds import Worlds
from framework.runs.held_out import Measurement
from framework.runs.metrics import Writer
from framework.runs.progress import Progress
from framework.train import Trainer, measured, summaries, with_measurements_reset
from framework.types import TrainState

POLL_SECONDS = 1.0
"""How long the device is kept busy between two looks at the signals and the clock."""


_OF_EPISODES = ("episode/", "return/", "return_by_age/", "return_by_agent/")
"""Beginnings of the names of what is measured over complete episodes."""


class Reached(NamedTuple):
    """Where a run stands: its state, its step, and how long it took, earlier starts included."""

    state: TrainState
    step: int
    wall_seconds: float


def advance(
    trainer: Trainer,
    state: TrainState,
    *,
    worlds: Worlds | None,
    held_out: Measurement | None,
    checkpoints: Checkpoints,
    writer: Writer,
    progress: Progress,
    stop: Callable[[], bool],
) -> Reached:
    """Trains until the experiment's last step or until told to stop; the state reached is saved.

    In how many pieces the device does the steps changes no number: keys are folded from the step. Of several hosts, all
    do the same pieces, and all stop where one is told to.

    Args:
      trainer: does the steps.
      state: where to begin; its buffers are given away.
      worlds: the environments outside the device, where the experiment has any.
      held_out: measures the rule on held-out tasks, where the experiment has any.
      checkpoints: where states are saved.
      writer: where points are logged.
      progress: what is shown meanwhile.
      stop: asked between two pieces.
    """
    experiment = trainer.experiment
    settings, last = experiment.logging, experiment.steps
    step = first = checked = int(state.step)
    begin = time.monotonic() - writer.wall_seconds_before
    logged = (step, time.monotonic())
    piece, saved = 1, step if step in checkpoints.steps() else None

    def save() -> None:
        if step != checked:
            _refuse_divergence(measured(state), step, trainer)
        checkpoints.save(step, state, worlds.files() if worlds else None)

    while step < last:
        stops, pieces = zip(*hosts.exchanged((stop(), piece)), strict=True)
        if any(stops):
            break
        count = min(*pieces, next_stop(step, settings, last) - step)
        started = time.monotonic()
        state = trainer.steps(state, count, worlds)
        jax.block_until_ready(state.step)
        now = time.monotonic()
        if step == first:
            logged = (step + count, now)  # The first piece was compiled: it tells nothing of the speed.
        step += count
        piece = max(1, min(2 * piece, int(count * POLL_SECONDS / max(now - started, 1e-3))))
        if step % settings.interval == 0 or step == last:
            means = measured(state)
            _refuse_divergence(means, step, trainer)
            means |= summaries(trainer, means)
            state, checked = with_measurements_reset(state), step
            env_steps, speed = trainer.env_steps(step, state), None
            if step > logged[0]:
                speed = (trainer.env_steps(step) - trainer.env_steps(logged[0])) / (now - logged[1])
                means["speed/env_steps_per_second"] = speed
            if held_out is not None and held_out.is_due(step, last):
                means |= held_out.measure(state)
            writer.write(step, env_steps, now - begin, means)
            progress.update(
                step,
                env_steps=env_steps,
                episode_return=known(means["episode/return"]),
                policy_entropy=means["policy/entropy"],
                meta_gradient_norm=means.get("meta/gradient_norm"),
                env_steps_per_second=speed,
            )
            logged = (step, time.monotonic())
        if step % settings.checkpoint_interval == 0:
            save()
            saved = step
            if logged[0] == step:
                logged = (step, time.monotonic())  # Saving tells nothing of the speed.
    if saved != step:
        save()
    return Reached(state, step, time.monotonic() - begin)


def known(number: float) -> float | None:
    """A number that there may be none of, as where no episode ended."""
    return number if math.isfinite(number) else None


def _refuse_divergence(means: Mapping[str, float], step: int, trainer: Trainer) -> None:
    """Ends a run whose numbers are lost, before its state takes the place of a sound one.

    Args:
      means: what was measured since the last logged point.
      step: where the run stands.
      trainer: its trainer.

    Raises:
      UserError: where a loss or an update is not finite, or, of a discovery, where too many agents are lost or the
        differentiated updates were not those that had been made.
    """
    discovery = trainer.experiment.discovery
    if discovery is None:
        _refuse_non_finite(means, step, trainer)
        return
    lost = means["agents/lost_share"]
    if lost > discovery.max_faulty_share:
        raise UserError(
            f"the discovery has come apart: up to step {step:,}, {lost:.0%} of the agents' meta-steps gave "
            "numbers that are not finite or exploded; lower the agents' or the meta learning rate, in another folder, "
            "see that all rewards and observations are finite, or raise Discovery.max_faulty_share; the last "
            "checkpoint is from before"
        )
    error = means["meta/replay_error"]
    if error > discovery.max_replay_error:
        raise UserError(
            f"the updates that were differentiated are not those that were made: at step {step:,} they end "
            f"{error:.1e} of the way apart, more than {discovery.max_replay_error:.1e}; a component draws random "
            "numbers of its own, keeps hidden state, or the numbers are too rough: raise Discovery.max_replay_error"
        )


def _refuse_non_finite(means: Mapping[str, float], step: int, trainer: Trainer) -> None:
    """Refuses losses and updates that are not finite; what is measured over episodes may be, where none has ended."""
    of_episodes = {name for lifecycle in trainer.lifecycles for name in lifecycle.environment.spec.episode_numbers}
    lost = [
        name
        for name, mean in means.items()
        if not math.isfinite(mean) and name not in of_episodes and not name.startswith(_OF_EPISODES)
    ]
    if lost:
        raise UserError(
            f"the run has diverged: at step {step:,} {', '.join(lost)} are not finite; lower the learning rate or "
            "limit the gradient, in another folder, and see that all rewards and observations are finite"
        )


def next_stop(step: int, settings: Logging, last: int) -> int:
    """The next step at which something is written."""
    intervals = (settings.interval, settings.checkpoint_interval)
    return min(last, *((step // interval + 1) * interval for interval in intervals))
