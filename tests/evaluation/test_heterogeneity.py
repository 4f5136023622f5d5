"""The meta-analysis of sites: a published example, hand computations, and coverage of its intervals."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import t as student

from seqsetvae.evaluation.heterogeneity import pooled, variance_between

# BCG vaccine against tuberculosis, 13 trials (Colditz et al., 1994): cases and others among vaccinated and controls.
BCG = """4 119 11 128  6 300 29 274  3 228 11 209  62 13536 248 12619  33 5036 47 5761  180 1361 372 1079  8 2537 10 619
505 87886 499 87892  29 7470 45 7232  17 1699 65 1600  186 50448 141 27197  5 2493 3 2338  27 16886 29 17825"""


def _bcg() -> tuple[np.ndarray, np.ndarray]:
    """(log risk ratios, standard errors)."""
    a, b, c, d = np.array(BCG.split(), dtype=float).reshape(-1, 4).T
    return np.log(a / (a + b)) - np.log(c / (c + d)), np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d))


def test_the_bcg_trials_are_pooled_as_published():
    """Viechtbauer (2010), Journal of Statistical Software 36(3): REML, and its test of Knapp and Hartung."""
    value, error = _bcg()
    found = pooled(value, error)
    assert found.tau**2 == pytest.approx(0.3132, abs=5e-5)
    assert found.value == pytest.approx(-0.7145, abs=5e-5)
    assert (found.low, found.high) == pytest.approx((-1.1084, -0.3206), abs=2e-4)
    standard_error = (found.high - found.low) / (2 * student.ppf(0.975, 12))
    half = student.ppf(0.975, 11) * np.sqrt(0.3132 + standard_error**2)
    assert (found.prediction_low, found.prediction_high) == pytest.approx((-0.7145 - half, -0.7145 + half), abs=2e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_variance_between_sites_is_that_of_the_highest_restricted_likelihood(seed):
    """Compared with a plain maximization over mean and log of tau, by another parametrization."""
    rng = np.random.default_rng(seed)
    error = rng.uniform(0.1, 0.5, 8)
    value = rng.normal(0.3, np.hypot(error, 0.6))

    def negative(parameters: np.ndarray) -> float:
        covariance = np.diag(error**2 + np.exp(2 * parameters[0]))
        design, inverse = np.ones((8, 1)), np.linalg.inv(covariance)
        projection = inverse - inverse @ design @ np.linalg.inv(design.T @ inverse @ design) @ design.T @ inverse
        information = np.linalg.slogdet(design.T @ inverse @ design)[1]
        return float(np.linalg.slogdet(covariance)[1] + information + value @ projection @ value)

    best = min(
        (minimize(negative, [start], method="Nelder-Mead", tol=1e-12) for start in (-3, -1, 0)), key=lambda x: x.fun
    )
    assert variance_between(value, error**2) == pytest.approx(np.exp(2 * best.x[0]), rel=1e-4)


def test_equal_sites_have_no_variance_between_them_and_no_narrower_interval_than_without_the_adjustment():
    found = pooled(np.array([0.5, 0.5, 0.5]), np.array([0.1, 0.1, 0.1]))
    assert (found.value, found.tau) == (pytest.approx(0.5), 0.0)
    assert found.high - found.value == pytest.approx(student.ppf(0.975, 2) * 0.1 / np.sqrt(3))
    assert found.prediction_high - found.value == pytest.approx(student.ppf(0.975, 1) * 0.1 / np.sqrt(3))


def test_the_intervals_hold_what_they_should_as_often_as_they_should():
    """400 meta-analyses of 8 sites that differ much: how often the intervals hold the mean, and a new site.

    Where sites differ less than their errors, prediction intervals are too narrow (Partlett and Riley, 2017); with a
    tau of 0.3 in place of 1, they hold 87 % of new sites here.
    """
    rng = np.random.default_rng(1)
    mean_in, site_in = 0, 0
    for _ in range(400):
        error = rng.uniform(0.1, 0.4, 8)
        found = pooled(rng.normal(1.0, np.hypot(error, 1.0)), error)
        mean_in += found.low <= 1 <= found.high
        site_in += found.prediction_low <= rng.normal(1.0, 1.0) <= found.prediction_high
    assert mean_in / 400 == pytest.approx(0.95, abs=0.03)
    assert site_in / 400 == pytest.approx(0.95, abs=0.03)
