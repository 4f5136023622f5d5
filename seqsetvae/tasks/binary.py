"""One binary label, the default: probabilities of class 1, calibrated, with a decision threshold.

The parts of this task are everywhere: the loss in head.py, the metrics in evaluation/predictions.py, figures and
intervals in evaluation/results.py, calibration in evaluation/calibration.py, baselines in baselines.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

HELP = "one column of 0 and 1 (default)"
RECIPE: dict[str, Any] = {}
METRICS = ("auc", "auprc")
WATCHED = "auc"


@dataclass(frozen=True)
class Settings:
    """None of its own."""
