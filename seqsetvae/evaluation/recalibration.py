"""Calibration of one binary label fitted anew on some patients of another cohort, to be judged on the others.

Two ways: the intercept alone (all risks are too high, or too low), and intercept and slope (they are also too extreme,
or too close to the mean). Which of them is kept is decided on the fitting part: the second if a likelihood-ratio test
prefers it to the first (as in the closed test of Vergouwe et al., 2017). The ranking of stays does not change, nor does
who is called positive: the threshold is that of the training, at its score.

Legend: n stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit
from scipy.stats import chi2

from seqsetvae.tasks.binary import Calibration
from seqsetvae.tasks.scores import logistic_regression
from seqsetvae.tasks.spec import Recalibrated

if TYPE_CHECKING:  # it imports torch
    from seqsetvae.evaluation.predictions import Predictions

FEWEST = 20  # stays of each class that a part needs: 10 for each of two numbers
ENOUGH = 100  # stays of each class below which calibration is uncertain (Collins et al., 2016)
SIGNIFICANT = 0.05
INTERCEPT, BOTH = "intercept", "intercept and slope"

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fitted:
    """Recalibrations by kind, and which of them is kept."""

    kinds: dict[str, Calibration]  # those that could be fitted
    chosen: str
    p_slope: float | None  # of the test of the slope beside the intercept; None: there is no slope to test


def too_few(target: Floats, purpose: str) -> str | None:
    """Why stays with these labels [n, 1] have too few of a class for `purpose`; None if they are enough."""
    positives = int((target[:, 0] == 1).sum())
    fewer, of_class = min((positives, 1), (len(target) - positives, 0))
    if fewer >= FEWEST:
        return None
    return f"{fewer:,} of the {len(target):,} stays {purpose} are of class {of_class}; {FEWEST} are needed"


def recalibrate(part: Predictions, checkpoint_sha256: str, words: str, recalibrated: Recalibrated) -> Fitted | str:
    """Fit both kinds on the labelled stays of a part, whose risks are those of its calibration, if it has one.

    Args:
        part: predictions for stays of both classes.
        checkpoint_sha256: of their checkpoint.
        words: what the part is.
        recalibrated: its name and which subjects it holds; the kind is filled in.

    Returns:
        What was fitted, or why nothing could be.
    """
    original, label = part.calibration, part.target[:, 0].astype(np.int64)
    assert original is None or isinstance(original, Calibration), "one binary label"
    of_part: dict[str, Any] = {"split": words, "stays": len(label), "positives": int(label.sum())}
    if original is None:
        original = Calibration(
            checkpoint_sha256=checkpoint_sha256, **of_part, slope=None, intercept=None, threshold_logit=None
        )
    slope, intercept = (1.0, 0.0) if original.slope is None else (original.slope, original.intercept or 0.0)
    risk = slope * part.output[:, 0] + intercept  # log-odds as delivered
    scale = float(np.std(risk)) or 1.0
    none, every = np.zeros((len(label), 0)), np.ones((1, len(label)))
    ((shift,),) = logistic_regression(label, none, risk, every)
    start, stretch = logistic_regression(label, (risk / scale)[:, None], np.zeros(len(label)), every)[0] / [1, scale]
    if not np.isfinite(shift):
        return "no intercept has the highest likelihood: the risks are 0 or 1"
    fitted = {INTERCEPT: (1.0, float(shift))}
    if np.isfinite(stretch) and stretch > 0:
        fitted[BOTH] = (float(stretch), float(start))
    kinds = {
        kind: replace(
            original,
            **of_part,
            slope=of_kind * slope,
            intercept=of_kind * intercept + added,
            recalibrated=replace(recalibrated, kind=kind),
        )
        for kind, (of_kind, added) in fitted.items()
    }
    likelihood = [_log_likelihood(label, of_kind * risk + added) for of_kind, added in fitted.values()]
    p_slope = float(chi2.sf(2 * (likelihood[1] - likelihood[0]), 1)) if BOTH in fitted else None
    return Fitted(kinds, BOTH if p_slope is not None and p_slope < SIGNIFICANT else INTERCEPT, p_slope)


def _log_likelihood(label: NDArray[np.int64], risk: Floats) -> float:
    return float(log_expit(np.where(label == 1, risk, -risk)).sum())
