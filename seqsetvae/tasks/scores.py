"""Metrics of the predictions of binary labels, with numpy, scipy and scikit-learn alone.

Every metric is a function of weights, how often each stay was drawn, so that its value (each stay once) and its
interval (2,000 rows of weights at a time, evaluation/statistics.py) come from the same code.

Legend: n stays, K labels, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MetricValues = dict[str, Floats]  # metric -> its value in each resample, [R]; NaN where it is not defined

RANKING = ("auroc", "auprc")
AT_THRESHOLD = ("sensitivity", "specificity", "ppv", "npv", "nne", "alarms")
ECE_BINS = 10  # of equal width
NEWTON_STEPS = 50
SEPARATED = 1e-8  # mean of p · (1 - p) below which all probabilities go to 0 or 1: the classes are separated
LARGEST_STEP = 5.0  # of a coefficient, for a covariate of standard deviation 1
SMALLEST_STEP = 1e-6  # the error after a step of Newton's method is about its square


@dataclass(frozen=True, eq=False)
class Scores:
    """Predictions of one model for n labelled stays of both classes."""

    label: Ints  # [n] 0 or 1
    logit: Floats  # [n] log-odds of class 1, by which stays are ranked and classified
    threshold: float | None = None  # a stay is classified as positive if its logit is at least this
    calibrated_logit: Floats | None = None  # [n] log-odds of the calibrated probability; None: `logit` as it is
    subject: Ints | None = None  # [n] the patient of each stay; None: each stay is of another

    @property
    def risk_logit(self) -> Floats:
        """[n] Log-odds of the probabilities by which calibration is measured."""
        return self.logit if self.calibrated_logit is None else self.calibrated_logit

    @cached_property
    def _ranks(self) -> tuple[Ints, Ints]:
        """(order by ascending logit [n], where each group of equal logits begins in it)."""
        order = np.argsort(self.logit, kind="stable")
        is_new = np.diff(self.logit[order], prepend=-np.inf) != 0
        return order, np.flatnonzero(is_new)

    @cached_property
    def bins(self) -> tuple[Floats, Floats]:
        """(label - probability of each stay in the column of its bin of the ECE [n, bins], squared errors [n])."""
        probability = expit(self.risk_logit)
        excess = np.zeros((len(self.label), ECE_BINS))
        column = np.searchsorted(np.linspace(0, 1, ECE_BINS + 1)[1:-1], probability)
        excess[np.arange(len(self.label)), column] = self.label - probability
        return excess, (self.label - probability) ** 2

    def metrics(self, weights: Floats, names: Iterable[str] | None = None) -> MetricValues:
        """Each of BINARY_METRICS, or those of these names, in every resample: weights [R, n]."""
        drawn = Drawn(self, weights)
        return {name: BINARY_METRICS[name].of(drawn) for name in names or BINARY_METRICS}

    def ranking(self, weights: Floats) -> MetricValues:
        """AUROC and average precision (AUPRC), with ties as scikit-learn counts them."""
        order, starts = self._ranks
        drawn, label = weights[:, order], self.label[order]
        positive, negative = (np.add.reduceat(drawn * of_class, starts, axis=1) for of_class in (label, 1 - label))
        n_positive, n_negative = (of_class.sum(axis=1) for of_class in (positive, negative))
        below = np.cumsum(negative, axis=1) - negative / 2  # a tie counts half
        true_positives = np.cumsum(positive[:, ::-1], axis=1)[:, ::-1]
        flagged = true_positives + np.cumsum(negative[:, ::-1], axis=1)[:, ::-1]
        precision = true_positives / np.maximum(flagged, 1)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: a resample without stays of both classes
            return {
                "auroc": np.einsum("rg,rg->r", positive, below) / (n_positive * n_negative),
                "auprc": np.einsum("rg,rg->r", positive, precision) / n_positive,
            }


class Drawn:
    """Scores in R resamples, weights [R, n]; what several metrics have in common is computed once."""

    def __init__(self, scores: Scores, weights: Floats) -> None:
        self.scores, self.weights, self.total = scores, weights, weights.sum(axis=1)

    @cached_property
    def ranking(self) -> MetricValues:
        """AUROC and AUPRC."""
        return self.scores.ranking(self.weights)

    @cached_property
    def calibration(self) -> tuple[Floats, Floats]:
        """(slope [R], intercept [R])."""
        return logistic_calibration(self.scores.label, self.scores.risk_logit, self.weights)

    @cached_property
    def at_threshold(self) -> MetricValues:
        """Each of AT_THRESHOLD."""
        scores, weights = self.scores, self.weights
        if scores.threshold is None:
            return {name: np.full(len(weights), np.nan) for name in AT_THRESHOLD}
        is_positive, is_flagged = scores.label == 1, scores.logit >= scores.threshold
        tp, fn = weights @ (is_positive & is_flagged), weights @ (is_positive & ~is_flagged)
        fp, tn = weights @ (~is_positive & is_flagged), weights @ (~is_positive & ~is_flagged)
        pairs = (
            (tp, tp + fn),
            (tn, tn + fp),
            (tp, tp + fp),
            (tn, tn + fn),
            (tp + fp, tp),
            (100 * (tp + fp), self.total),
        )
        with np.errstate(invalid="ignore", divide="ignore"):  # not finite: not defined
            return {name: part / whole for name, (part, whole) in zip(AT_THRESHOLD, pairs, strict=True)}


@dataclass(frozen=True)
class BinaryMetric:
    """A metric of binary labels: title, function, direction and perfect value."""

    title: str  # in tables
    of: Callable[[Drawn], Floats]  # its value in each resample [R]
    less_is_better: bool = False
    perfect: float | None = None
    in_full: str = ""  # of a title that is an abbreviation few readers know


BINARY_METRICS = {
    "auroc": BinaryMetric("AUROC", lambda drawn: drawn.ranking["auroc"]),
    "auprc": BinaryMetric("AUPRC", lambda drawn: drawn.ranking["auprc"]),
    "brier": BinaryMetric(
        "Brier score", lambda drawn: drawn.weights @ drawn.scores.bins[1] / drawn.total, less_is_better=True
    ),
    "calibration_slope": BinaryMetric("calibration slope", lambda drawn: drawn.calibration[0], perfect=1.0),
    "calibration_intercept": BinaryMetric("calibration intercept", lambda drawn: drawn.calibration[1], perfect=0.0),
    "mean_difference": BinaryMetric(
        "observed minus predicted",
        lambda drawn: drawn.weights @ (drawn.scores.label - expit(drawn.scores.risk_logit)) / drawn.total,
        perfect=0.0,
    ),
    "ece": BinaryMetric(
        "ECE",
        lambda drawn: np.abs(drawn.weights @ drawn.scores.bins[0]).sum(axis=1) / drawn.total,
        less_is_better=True,
        in_full="expected calibration error",
    ),
    "sensitivity": BinaryMetric("sensitivity", lambda drawn: drawn.at_threshold["sensitivity"]),
    "specificity": BinaryMetric("specificity", lambda drawn: drawn.at_threshold["specificity"]),
    "ppv": BinaryMetric("PPV", lambda drawn: drawn.at_threshold["ppv"], in_full="positive predictive value"),
    "npv": BinaryMetric("NPV", lambda drawn: drawn.at_threshold["npv"], in_full="negative predictive value"),
    "nne": BinaryMetric("NNE", lambda drawn: drawn.at_threshold["nne"], in_full="number needed to evaluate (1 / PPV)"),
    "alarms": BinaryMetric("alarms per 100 stays", lambda drawn: drawn.at_threshold["alarms"]),
}


def title_of(name: str) -> str:
    """The title of a metric in tables; metrics of other tasks have their names as titles."""
    return BINARY_METRICS[name].title if name in BINARY_METRICS else name


# ------------------------------------------------------------------ calibration and threshold


def logistic_calibration(label: Ints, logit: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """(slope [R], intercept [R]) of calibration in each resample: weights [R, n]; NaN where they are not defined.

    The slope is that of a logistic regression of the label on the logit; 1 is perfect. The intercept is that of one
    whose slope is fixed at 1 ("calibration in the large"); 0 is perfect, above 0 the risks are too low.
    """
    scale = float(np.std(logit)) or 1.0
    slope = logistic_regression(label, (logit / scale)[:, None], np.zeros(len(label)), weights)[:, 1] / scale
    intercept = logistic_regression(label, np.zeros((len(label), 0)), logit, weights)[:, 0]
    return slope, intercept


def logistic_regression(label: Floats | Ints, covariates: Floats, offset: Floats, weights: Floats) -> Floats:
    """Coefficients [R, 1 + C], the intercept first, of log-odds = offset + intercept + covariates · coefficients.

    Newton's method in all resamples at once: covariates [n, C] of about unit variance, offset [n], weights [R, n].
    A row is NaN where there is no maximum, for example because the classes are separated.
    """
    design = np.column_stack([np.ones(len(label)), covariates])  # [n, 1 + C]
    products = (design[:, :, None] * design[:, None, :]).reshape(len(label), -1)  # [n, (1 + C)²]
    width = design.shape[1]
    coefficients = np.full((len(weights), width), np.nan)
    left, estimate = np.arange(len(weights)), np.zeros((len(weights), width))
    if len(weights) > 1:  # the coefficients of the whole sample are close to those of its resamples
        estimate += np.nan_to_num(logistic_regression(label, covariates, offset, np.ones((1, len(label)))))
    observed = weights @ (label[:, None] * design)
    for _ in range(NEWTON_STEPS):
        probability = expit(offset + estimate @ design.T)
        expected = weights * probability
        gradient = observed - expected @ design
        expected -= expected * probability  # weights · p · (1 - p)
        step, solved = _solve((expected @ products).reshape(-1, width, width), gradient)
        solved &= expected.sum(axis=1) > SEPARATED * weights.sum(axis=1)
        estimate = estimate + step
        converged = solved & (np.abs(step).max(axis=1) < SMALLEST_STEP)
        coefficients[left[converged]] = estimate[converged]
        go_on = solved & ~converged
        if not go_on.all():
            left, estimate, weights, observed = left[go_on], estimate[go_on], weights[go_on], observed[go_on]
        if not len(left):
            break
    return coefficients


def _solve(curvature: Floats, gradient: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """(Newton steps [R, C] of limited length, whether each could be computed [R])."""
    with np.errstate(all="ignore"):
        solved = np.linalg.det(curvature) > 1e-12 * np.prod(np.einsum("rcc->rc", curvature), axis=1)
    step = np.zeros_like(gradient)
    step[solved] = np.linalg.solve(curvature[solved], gradient[solved][:, :, None])[:, :, 0]
    return np.clip(step, -LARGEST_STEP, LARGEST_STEP), solved


def platt_scaling(label: Ints, logit: Floats) -> tuple[float, float] | None:
    """(slope, intercept) of calibrated log-odds = slope · logit + intercept; None unless the slope is above 0.

    The targets are those of Platt (1999), a little inside 0 and 1, so that separated classes have a finite slope.
    """
    n_positive, n_negative = int((label == 1).sum()), int((label == 0).sum())
    target = np.where(label == 1, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    center, scale = float(np.mean(logit)), float(np.std(logit)) or 1.0
    covariate = ((logit - center) / scale)[:, None]
    intercept, slope = logistic_regression(target, covariate, np.zeros(len(label)), np.ones((1, len(label))))[0]
    if not slope > 0:
        return None
    return float(slope / scale), float(intercept - slope * center / scale)


OF_EACH = (*RANKING, "brier")  # metrics of each label


def binary_metrics(
    names: Sequence[str], logit: Floats, target: Floats, calibrated: Floats | None = None
) -> Callable[[Floats], dict[str, Floats]]:
    """AUROC, AUPRC and Brier score of each label, and means over the labels: log-odds and 0/1/NaN [n, K].

    The Brier score is that of the calibrated log-odds [n, K], if there are any.
    """
    known = ~np.isnan(target)
    risk = logit if calibrated is None else calibrated
    scores = [
        Scores(target[rows, k].astype(np.int64), logit[rows, k], calibrated_logit=risk[rows, k])
        for k, rows in enumerate(known.T)
    ]

    def of(weights: Floats) -> dict[str, Floats]:
        each = [one.metrics(weights[:, rows], OF_EACH) for one, rows in zip(scores, known.T, strict=True)]
        means = {f"mean {title_of(key)}": np.mean([one[key] for one in each], axis=0) for key in RANKING}
        pairs = ((key, name, one) for name, one in zip(names, each, strict=True) for key in OF_EACH)
        return means | {f"{title_of(key)} of {name}": one[key] for key, name, one in pairs}

    return of
