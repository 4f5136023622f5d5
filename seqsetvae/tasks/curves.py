"""What a report draws of the predictions, as numbers for evaluation.json: curves, groups, counts. No stay is named.

Legend: n stays; a `score` ranks stays, a `risk` is a probability.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Plain = dict[str, Any]
MOST_POINTS = 400  # of a curve: more cannot be seen, and the file would grow with the number of stays
DIGITS = 6  # of a point of a curve
GROUPS = 10
RISK_BINS = 100  # of equal width, in which risks are counted
STAYS_A_GROUP = 5  # at least, of a column of numbers
Z95 = 1.959964  # 97.5 % quantile of the normal distribution


def outcome_curves(
    name: str, label: Labels, score: Floats, risks: Mapping[str, Floats], threshold: float | None = None
) -> list[Plain]:
    """Curves of one outcome that a stay has or has not; an empty list unless stays of both kinds occur.

    Args:
        name: of the outcome.
        label: [n] 0 or 1.
        score: [n] log-odds, by which stays are ranked.
        risks: probabilities [n] by kind; the last one is the one that is used.
        threshold: the score from which a stay is called positive.
    """
    stays, positives = len(label), int(label.sum())
    if not 0 < positives < stays:
        return []
    risk = list(risks.values())[-1]
    thresholds = decision_thresholds(positives / stays)
    curves = {
        "outcome": name,
        "stays": stays,
        "positives": positives,
        "auroc": float(roc_auc_score(label, score)),
        "auprc": float(average_precision_score(label, score)),
        "roc": _roc(label, score),
        "precision_recall": _precision_recall(label, score),
        "calibration": {kind: calibration_groups(label, each) for kind, each in risks.items()},
        "risk": {
            "of_label_0": _counts(risk[label == 0]),
            "of_label_1": _counts(risk[label == 1]),
            "medians": [float(np.median(risk[label == value])) for value in (0, 1)],
        },
        "net_benefit": {
            "threshold": thresholds.tolist(),
            "model": _rounded(net_benefit(label, risk, thresholds)),
            "every_stay": _rounded(net_benefit(label, np.ones(stays), thresholds)),
        },
    }
    if threshold is not None:
        curves["at_threshold"] = confusion(label, score >= threshold)
    return [curves]


def number_curves(name: str, predicted: Floats, observed: Floats) -> list[Plain]:
    """Groups of stays by what is predicted for a column of numbers [n]; an empty list without stays."""
    if not len(predicted):
        return []
    groups = []
    for inside in _groups(predicted, max(1, min(GROUPS, len(predicted) // STAYS_A_GROUP))):
        low, median, high = np.quantile(observed[inside], [0.1, 0.5, 0.9]).tolist()
        mean = {"predicted": float(predicted[inside].mean()), "observed": float(observed[inside].mean())}
        groups.append({"stays": int(inside.sum()), **mean, "low": low, "median": median, "high": high})
    return [{"column": name, "stays": len(predicted), "groups": groups}]


def _rounded(values: Floats) -> list[float]:
    return np.round(values, DIGITS).tolist()


def _roc(label: Labels, score: Floats) -> Plain:
    """1 - specificity and sensitivity, from high to low thresholds."""
    false_positive, sensitivity, _ = roc_curve(label, score)
    return _thinned(false_positive, sensitivity)


def _precision_recall(label: Labels, score: Floats) -> Plain:
    """Recall and precision, from high to low thresholds."""
    precision, recall, _ = precision_recall_curve(label, score)
    return _thinned(recall[-2::-1], precision[-2::-1])  # without the point (0, 1), which belongs to no threshold


def _thinned(x: Floats, y: Floats) -> Plain:
    """At most MOST_POINTS points of a curve, the first and the last among them."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).round().astype(int))
    return {"x": _rounded(x[kept]), "y": _rounded(y[kept])}


def _counts(risk: Floats) -> list[int]:
    """Number of risks in each of RISK_BINS bins of equal width from 0 to 1."""
    return np.histogram(risk, bins=RISK_BINS, range=(0, 1))[0].tolist()


def _groups(value: Floats, number: int) -> list[NDArray[np.bool_]]:
    """About equally many stays each, by rising value; equal values are never split, so there may be fewer."""
    inner_edges = np.quantile(value, np.linspace(0, 1, number + 1)[1:-1])
    group_of_stay = np.searchsorted(inner_edges, value)
    return [group_of_stay == each for each in np.unique(group_of_stay)]


def calibration_groups(label: Labels, risk: Floats) -> list[Plain]:
    """Stays of similar risk: how often the outcome was predicted and how often it occurred, with a 95 % interval."""
    groups = []
    for inside in _groups(risk, GROUPS):
        stays, positives = int(inside.sum()), int(label[inside].sum())
        low, high = wilson(positives, stays)
        shares = {"predicted": float(risk[inside].mean()), "observed": positives / stays, "low": low, "high": high}
        groups.append({"stays": stays, "positives": positives, **shares})
    return groups


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
    treated = []
    for value in (1, 0):
        own = np.sort(risk[label == value])
        treated.append((len(own) - np.searchsorted(own, thresholds)) / len(risk))
    return treated[0] - treated[1] * thresholds / (1 - thresholds)


def decision_thresholds(prevalence: float) -> Floats:
    """Thresholds from 1 % to well above the prevalence, where a decision could depend on the risk."""
    return np.arange(1, round(100 * min(0.95, max(0.5, 2 * prevalence))) + 1) / 100


def confusion(label: Labels, called: NDArray[np.bool_]) -> Plain:
    """Counts of right and wrong calls [n]."""
    return {
        "true_positive": int((called & (label == 1)).sum()),
        "false_positive": int((called & (label == 0)).sum()),
        "true_negative": int((~called & (label == 0)).sum()),
        "false_negative": int((~called & (label == 1)).sum()),
    }


def label_curves(
    names: Sequence[str],
    logit: Floats,
    target: Floats,
    calibrated: Floats | None = None,
    threshold: float | None = None,
) -> list[dict[str, Any]]:
    """Curves of each label of which both classes occur: log-odds, perhaps calibrated ones, and 0/1/NaN [n, K]."""
    curves = []
    for k, name in enumerate(names):
        known = ~np.isnan(target[:, k])
        kinds = {"as predicted": logit, "calibrated": calibrated}
        risks = {kind: expit(each[known, k]) for kind, each in kinds.items() if each is not None}
        curves += outcome_curves(name, target[known, k].astype(np.int64), logit[known, k], risks, threshold)
    return curves
