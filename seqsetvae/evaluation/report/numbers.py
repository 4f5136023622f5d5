"""The numbers behind the figures: curves, calibration bins, net benefit and the confusion matrix.

Legend: n stays; `score` ranks stays, `risk` is a probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
MOST_POINTS = 600  # of a curve: more cannot be seen, and the page would grow with the number of stays
ROUNDING = 1e-12  # relative difference between two computations of one probability
Z95 = 1.959964  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve and the area that is quoted with it."""

    x: Floats
    y: Floats
    area: float


@dataclass(frozen=True)
class Bin:
    """Stays of similar risk: how often the outcome was predicted and how often it occurred."""

    stays: int
    positives: int
    mean_risk: float
    low: float  # 95 % interval of the observed share
    high: float

    @property
    def observed(self) -> float:
        return self.positives / self.stays


@dataclass(frozen=True)
class Confusion:
    """Counts at a threshold: stays with at least this risk are called positive."""

    threshold: float
    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int


def roc(label: Labels, score: Floats) -> Curve:
    """False positive rate against sensitivity, and AUROC."""
    false_positive, sensitivity, _ = roc_curve(label, score)
    return Curve(*_thinned(false_positive, sensitivity), float(roc_auc_score(label, score)))


def precision_recall(label: Labels, score: Floats) -> Curve:
    """Recall against precision from high to low thresholds, and the average precision."""
    precision, recall, _ = precision_recall_curve(label, score)
    x, y = recall[-2::-1], precision[-2::-1]  # without the point (0, 1), which belongs to no threshold
    return Curve(*_thinned(x, y), float(average_precision_score(label, score)))


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """At most MOST_POINTS points of a curve, the first and the last among them."""
    if len(x) <= MOST_POINTS:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int))
    return x[kept], y[kept]


def brier(label: Labels, risk: Floats) -> float:
    """Mean squared difference between risk and label."""
    return float(np.mean((risk - label) ** 2))


def calibration_bins(label: Labels, risk: Floats, bins: int = 10) -> list[Bin]:
    """Bins with about equally many stays, by rising risk; equal risks are never split, so there may be fewer."""
    inner_edges = np.quantile(risk, np.linspace(0, 1, bins + 1)[1:-1])
    bin_of_stay = np.searchsorted(inner_edges, risk)
    found = []
    for each in np.unique(bin_of_stay):
        inside = bin_of_stay == each
        stays, positives = int(inside.sum()), int(label[inside].sum())
        found.append(Bin(stays, positives, float(risk[inside].mean()), *wilson(positives, stays)))
    return found


def wilson(positives: int, stays: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927); right for small counts and shares near 0 too.

    >>> [round(bound, 3) for bound in wilson(0, 10)]
    [0.0, 0.278]
    """
    share, z2 = positives / stays, Z95**2
    centre = (share + z2 / (2 * stays)) / (1 + z2 / stays)
    half = Z95 / (1 + z2 / stays) * math.sqrt(share * (1 - share) / stays + z2 / (4 * stays**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def net_benefit(label: Labels, risk: Floats, thresholds: Floats) -> Floats:
    """Net benefit (Vickers and Elkin, 2006) of treating stays with at least this risk, for each threshold.

    True positives minus false positives, the latter weighted by the odds of the threshold, for each stay.
    """
    benefits = []
    for threshold in thresholds:
        treated = risk >= threshold
        true_positive, false_positive = (treated & (label == 1)).mean(), (treated & (label == 0)).mean()
        benefits.append(true_positive - false_positive * threshold / (1 - threshold))
    return np.array(benefits)


def decision_thresholds(prevalence: float) -> Floats:
    """From 1 % to well above the prevalence, where a decision could depend on the risk."""
    return np.arange(1, round(100 * min(0.95, max(0.5, 2 * prevalence))) + 1) / 100


def confusion(label: Labels, risk: Floats, threshold: float) -> Confusion:
    """Counts of right and wrong calls. The stay that the threshold was taken from is called, whatever was rounded."""
    called = risk >= threshold * (1 - ROUNDING)
    return Confusion(
        threshold,
        true_positive=int((called & (label == 1)).sum()),
        false_positive=int((called & (label == 0)).sum()),
        true_negative=int((~called & (label == 0)).sum()),
        false_negative=int((~called & (label == 1)).sum()),
    )


def typical_stay(stay_id: NDArray[np.int64], label: Labels, risk: Floats, among: Sequence[int]) -> int | None:
    """The positive stay of median risk among those of `among`, so that the example is not a chosen success."""
    candidates = np.flatnonzero((label == 1) & np.isin(stay_id, np.asarray(among)))
    if not len(candidates):
        return None
    by_risk = candidates[np.lexsort((stay_id[candidates], risk[candidates]))]
    return int(stay_id[by_risk[(len(by_risk) - 1) // 2]])
