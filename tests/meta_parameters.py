"""What discoveries find, compared between runs that need not agree to the last bit."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import numpy as np
from running import SMALL_DISCOVERY

from framework.checkpoint import restore_newest
from framework.config import load
from framework.experiment import Experiment
from framework.train import Trainer
from framework.types import Params


@functools.cache
def _shapes() -> Params:
    return Trainer(load(SMALL_DISCOVERY, root=Experiment).experiment).meta_params_shapes()


def meta_params(run: Path, step: int) -> Params:
    """The meta-parameters of a run of the small discovery after a meta-step, of which it holds the checkpoint."""
    alone = run / f"checkpoint_{step}"
    alone.mkdir(exist_ok=True)
    if not (alone / str(step)).exists():
        (alone / str(step)).symlink_to(run / "checkpoints" / str(step))
    restored = restore_newest(alone, _shapes(), within=".meta_params")
    assert restored is not None
    return restored[1]


def assert_same_but_for_rounding(run: Path, other: Path, step: int, relative: float) -> None:
    """Every array's largest difference is below a share of its largest entry."""
    pairs = zip(*(jax.tree.leaves(meta_params(folder, step)) for folder in (run, other)), strict=True)
    for x, y in pairs:
        np.testing.assert_allclose(x, y, rtol=relative, atol=relative * np.abs(y).max())
