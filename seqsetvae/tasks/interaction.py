"""Whether a model is equally good in all groups of stays: a test of interaction for each metric, for one binary label.

Each asks whether the groups of a column differ beyond chance. Stays are of different patients. A p-value is None where
the test says nothing, for example because the classes of a group are separated.

- AUROC: Welch's test (1951) of the groups' log-odds of the AUROC, with the variances of DeLong et al. (1988).
- Sensitivity and specificity at the threshold (equal opportunity: Hardt et al., 2016): chi-squared of the table of
  groups and calls among the stays of a class, over permutations of the groups (exact).
- Calibration: likelihood ratio of logistic models of the label on the log-odds of the probability, with an intercept
  and a slope for each group, or the same for all.

Legend: n stays, K groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit
from scipy.stats import chi2, rankdata
from scipy.stats import f as f_distribution

from seqsetvae.tasks.scores import Floats, Ints, logistic_regression

PERMUTATIONS = 9999
ROUNDING = 1e-9  # relative difference of two statistics that are the same


def auroc_p(label: Ints, logit: Floats, group: Ints) -> float | None:
    """Welch's test; groups [n] are from 0 to K - 1. Degrees of freedom are those of the smaller class of each group."""
    areas = np.array([_auroc(label[group == each], logit[group == each]) for each in range(group.max() + 1)])
    (value, variance, fewer), k = areas.T, len(areas)
    if not ((value > 0) & (value < 1) & (variance > 0)).all():
        return None
    log_odds, weight = np.log(value / (1 - value)), (value * (1 - value)) ** 2 / variance
    q = weight @ (log_odds - weight @ log_odds / weight.sum()) ** 2
    uncertain = ((1 - weight / weight.sum()) ** 2 / (fewer - 1)).sum()  # the weights are estimates
    statistic = q / (k - 1) / (1 + 2 * (k - 2) / (k**2 - 1) * uncertain)
    return float(f_distribution.sf(statistic, k - 1, (k**2 - 1) / (3 * uncertain)))


def _auroc(label: Ints, logit: Floats) -> tuple[float, float, int]:
    """(AUROC, its variance, stays of the smaller class): each stay's placement among those of the other class."""
    positive, negative = logit[label == 1], logit[label == 0]
    n, m = len(positive), len(negative)
    if min(n, m) < 2:
        return np.nan, np.nan, 0
    rank = rankdata(np.concatenate([positive, negative]))
    of_positive = (rank[:n] - rankdata(positive)) / m
    of_negative = 1 - (rank[n:] - rankdata(negative)) / n
    variance = of_positive.var(ddof=1) / n + of_negative.var(ddof=1) / m
    return float(of_positive.mean()), float(variance), min(n, m)


def share_p(called: NDArray[np.bool_], group: Ints, seed: int) -> float:
    """Whether groups [n] have the same share of calls [n]: the share of permutations at least as far from it."""
    sizes = np.bincount(group)
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(sizes, int(called.sum()), size=PERMUTATIONS)
    expected = sizes * called.mean()
    observed, permuted = (
        ((counts - expected) ** 2 / sizes).sum(axis=-1)
        for counts in (np.bincount(group[called], minlength=len(sizes)), drawn)
    )
    as_far = permuted >= observed * (1 - ROUNDING)
    return float((1 + as_far.sum()) / (1 + PERMUTATIONS))  # Phipson and Smyth, 2010


def calibration_p(label: Ints, risk_logit: Floats, group: Ints) -> float | None:
    """The likelihood ratio, with 2 (K - 1) degrees of freedom."""
    groups = [group == each for each in range(group.max() + 1)]
    apart = sum(_log_likelihood(label[rows], risk_logit[rows]) for rows in groups)
    ratio = 2 * (apart - _log_likelihood(label, risk_logit))
    return float(chi2.sf(max(0.0, ratio), 2 * (len(groups) - 1))) if np.isfinite(ratio) else None


def _log_likelihood(label: Ints, logit: Floats) -> float:
    """The log-likelihood of the logistic model of the label on the logit; NaN where it has no maximum."""
    covariate = ((logit - logit.mean()) / (logit.std() or 1.0))[:, None]
    (fitted,) = logistic_regression(label, covariate, np.zeros(len(label)), np.ones((1, len(label))))
    return float(log_expit(np.where(label == 1, 1, -1) * (fitted[0] + fitted[1] * covariate[:, 0])).sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted so that the chance of any false finding among them is limited (Holm, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    steps = np.sort(p_values) * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted.tolist()
