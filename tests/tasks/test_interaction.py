"""Tests of interaction: against independent computations, uniform without a difference, and found where one is."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from scipy.stats import chi2, chi2_contingency, false_discovery_control, fisher_exact, kstest, ttest_ind

from seqsetvae.tasks.interaction import auroc_p, calibration_p, holm, share_p

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]


def _sample(
    rng: np.random.Generator,
    k: int = 3,
    n: int = 150,
    *,
    slope: float = 1.0,
    shift: float = 0.0,
    prevalence: float = 0.0,
) -> Sample:
    """(label, logit, group): the last group has another slope or intercept of calibration; scores differ in all."""
    group = np.repeat(np.arange(k), n)
    last = group == k - 1
    logit = rng.normal(size=k * n) * 1.5 + 0.4 * group - 1
    risk = expit(np.where(last, slope * logit + shift, logit))
    return (rng.random(k * n) < risk).astype(np.int64), logit, group


def test_the_test_of_two_aurocs_is_welchs_t_test_of_their_placements():
    """With so many negatives that only the positives are uncertain, on the scale of log-odds."""
    rng = np.random.default_rng(0)
    label, group = np.tile(np.repeat([1, 0], [15, 40000]), 2), np.repeat([0, 1], 40015)
    logit = rng.normal(size=len(label)) + np.where(label == 1, np.where(group == 1, 1.6, 0.8), 0)
    placements = []
    for each in (0, 1):
        positive, negative = (logit[(group == each) & (label == value)] for value in (1, 0))
        shares = np.searchsorted(np.sort(negative), positive) / len(negative)
        mean = shares.mean()
        placements.append(np.log(mean / (1 - mean)) + (shares - mean) / (mean * (1 - mean)))  # the delta method
    assert auroc_p(label, logit, group) == pytest.approx(ttest_ind(*placements, equal_var=False).pvalue, rel=0.01)


def test_ties_count_half_and_a_perfect_group_has_no_test():
    label, group = np.array([1, 1, 1, 0, 0, 0] * 2), np.repeat([0, 1], 6)
    assert auroc_p(label, np.array([3.0, 2, 1, 2, 1, 0] * 2), group) == pytest.approx(1)
    assert auroc_p(label, np.array([3.0, 2, 1, 2, 1, 0, 9, 9, 9, 0, 0, 0]), group) is None


def test_the_test_of_shares_is_exact():
    """Of two groups it is that of Fisher, and of three that over all arrangements."""
    called = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0], dtype=bool)
    group = np.array([0] * 5 + [1] * 7)
    table = np.array([[4, 1], [1, 6]])
    assert share_p(called, group, 0) == pytest.approx(fisher_exact(table).pvalue, abs=0.01)
    few, of_three = called[:8], np.array([0, 0, 0, 1, 1, 1, 2, 2])

    def statistic(groups: np.ndarray) -> float:
        return float(chi2_contingency([np.bincount(groups[few == value], minlength=3) for value in (0, 1)])[0])

    observed = statistic(of_three)
    every = [statistic(np.array(each)) for each in set(permutations(of_three.tolist()))]
    assert share_p(few, of_three, 1) == pytest.approx(np.mean(np.array(every) >= observed - 1e-9), abs=0.015)


def test_the_test_of_calibration_is_the_likelihood_ratio():
    label, logit, group = _sample(np.random.default_rng(2), slope=0.5)

    def most(design: np.ndarray) -> float:
        def loss(coefficients: np.ndarray) -> float:
            return -float(log_expit(np.where(label == 1, 1, -1) * (design @ coefficients)).sum())

        return -minimize(loss, np.zeros(design.shape[1]), tol=1e-10).fun

    one = np.column_stack([np.ones(len(logit)), logit])
    each = np.concatenate([one * (group == g)[:, None] for g in range(3)], axis=1)
    assert calibration_p(label, logit, group) == pytest.approx(chi2.sf(2 * (most(each) - most(one)), 4), rel=1e-4)


def test_a_group_whose_classes_are_separated_has_no_test_of_calibration():
    label, logit, group = _sample(np.random.default_rng(0), k=2, n=20)
    logit[group == 1] = np.where(label[group == 1] == 1, 5.0, -5.0)
    assert calibration_p(label, logit, group) is None


TESTS: dict[str, Callable[[Sample], float | None]] = {
    "auroc": lambda of: auroc_p(*of),
    "calibration": lambda of: calibration_p(*of),
    "sensitivity": lambda of: share_p((of[1] >= 0)[of[0] == 1], of[2][of[0] == 1], 0),
}


@pytest.mark.parametrize("name", TESTS)
def test_without_a_difference_p_is_uniform(name):
    """Of 300 samples; the share of small ones is at most what chance allows, of discrete shares too."""
    found = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        label, logit, group = _sample(rng)
        if name != "calibration":  # scores of a class have the same distribution in all groups, prevalences differ
            label = (rng.random(len(label)) < 0.2 + 0.1 * group).astype(np.int64)
            logit = rng.normal(size=len(label)) + 1.2 * label - 0.5
        found.append(TESTS[name]((label, logit, group)))
    p = np.array(found, dtype=float)
    assert kstest(p, "uniform").pvalue > 0.01
    assert (p < 0.05).mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(
    ("name", "change"),
    [("auroc", {"slope": 0.0}), ("calibration", {"slope": 0.3}), ("calibration", {"shift": 1.5}), ("sensitivity", {})],
)
def test_a_planted_difference_is_found(name, change):
    """In at least 80 % of 40 samples."""
    found = []
    for seed in range(40):
        label, logit, group = _sample(np.random.default_rng(seed), n=300, **change)
        if name == "sensitivity":
            logit = logit - 1.5 * (group == 2)
        found.append(TESTS[name]((label, logit, group)))
    assert np.mean(np.array(found, dtype=float) < 0.05) >= 0.8


def test_holm_multiplies_the_smallest_by_all_and_keeps_the_order():
    p = [0.011, 0.8, 0.02, 0.012, 0.5]
    assert holm(p) == pytest.approx([0.055, 1.0, 0.06, 0.055, 1.0])
    assert holm([]) == []
    assert (np.array(holm(p)) >= false_discovery_control(p)).all()
