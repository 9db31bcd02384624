"""Every analysis by the name under which the command knows it: a new one is a class, and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.analyses.findings import Analysis
from experiments.analyses.horizon import Horizon
from experiments.analyses.maps import Map
from experiments.analyses.predictions import Predictions
from experiments.analyses.recording import Record
from experiments.analyses.sweeps import Rule

ANALYSES: Mapping[str, type[Analysis]] = {
    "predictions": Predictions,
    "horizon": Horizon,
    "map": Map,
    "rule": Rule,
    "record": Record,
}
