"""What scripts may rely on of a run folder: how its files are called, and how its run can have ended."""

from __future__ import annotations

import enum

COMMAND = "command.json"
"""What was run, with every start; the file that makes a folder that of a run."""

CONFIG = "config.gin"
"""The whole configuration, replayable."""

OPERATIVE_CONFIG = "config.operative.gin"
"""What of the configuration was used."""

METRICS = "metrics.jsonl"
"""The logged points, one a line."""

LEARNING_CURVE = "learning_curve.png"
"""The picture of the training returns."""

CHECKPOINTS = "checkpoints"
"""Holds one folder a checkpoint."""

RESULT = "result.json"
"""How the run ended; the last file of a run."""

LOCK = ".lock"
"""Who is writing to the folder; it is there after the writer has ended, too."""


class Ending(enum.StrEnum):
    """How a run ended, as ``status`` in its result says."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
