"""A metric of several sites pooled: random-effects meta-analysis of their values. Imports no torch.

The variance between sites is that of restricted maximum likelihood (REML), the interval of the mean that of Knapp
and Hartung (2003, never narrower than without it), the prediction interval, in which the metric of one more such site
is expected, that of Higgins et al. (2009).

Legend: k sites.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import t as student

Floats = NDArray[np.float64]

FEWEST_SITES = 3  # below which nothing can be said of their variance
LEVEL = 0.95
Z95 = 1.959964
STARTS = 60  # steps of the grid from which the likelihood is searched, since it can have two maxima


@dataclass(frozen=True)
class Pooled:
    """The mean of a metric over sites, and how much it differs between them."""

    value: float
    low: float
    high: float
    tau: float  # standard deviation between sites
    prediction_low: float
    prediction_high: float


def pooled(value: Floats, error: Floats) -> Pooled:
    """The mean over at least three sites of values [k] with standard errors [k]."""
    assert len(value) >= FEWEST_SITES, "two sites say nothing about the variance between sites"
    variance = variance_between(value, error**2)
    weight = 1 / (error**2 + variance)
    mean, k = float(np.average(value, weights=weight)), len(value)
    scatter = float((weight * (value - mean) ** 2).sum()) / (k - 1)
    standard_error = float(np.sqrt(max(1.0, scatter) / weight.sum()))
    half = student.ppf((1 + LEVEL) / 2, k - 1) * standard_error
    apart = student.ppf((1 + LEVEL) / 2, k - 2) * np.sqrt(variance + standard_error**2)
    ends = (mean - half, mean + half, mean - apart, mean + apart)
    low, high, prediction_low, prediction_high = map(float, ends)
    return Pooled(mean, low, high, float(np.sqrt(variance)), prediction_low, prediction_high)


def variance_between(value: Floats, variance: Floats) -> float:
    """The variance between sites of highest restricted likelihood: values and their variances [k]."""

    def loss(tau: float) -> float:
        total = variance + tau**2
        mean = np.average(value, weights=1 / total)
        return float((np.log(total) + (value - mean) ** 2 / total).sum() + np.log((1 / total).sum()))

    edges = np.linspace(0, 2 * np.ptp(value) + 1e-12, STARTS + 1).tolist()
    best = min(range(STARTS + 1), key=lambda at: loss(edges[at]))
    ends = edges[max(best - 1, 0)], edges[min(best + 1, STARTS)]
    optimum = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-10}).x
    return float(min(0.0, optimum, key=loss)) ** 2


@dataclass(frozen=True)
class Scale:
    """The scale on which a metric is about normal, so that it is pooled there, and its inverse."""

    to: Callable[[Floats], Floats]
    back: Callable[[float], float]


AS_IS = Scale(lambda value: value, lambda value: value)
LOGIT = Scale(lambda value: np.log(value / (1 - value)), lambda value: float(1 / (1 + np.exp(-value))))


def standard_errors(low: Floats, high: Floats) -> Floats:
    """The standard errors that 95 % intervals [k] stand for."""
    return (high - low) / (2 * Z95)
