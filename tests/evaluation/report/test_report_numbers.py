"""Every number that a report computes, against scikit-learn, scipy or a formula of its own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, mannwhitneyu
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, brier_score_loss, confusion_matrix, roc_auc_score, roc_curve

from seqsetvae.evaluation.report import numbers
from tests.evaluation.report.example import scores


def test_the_roc_curve_has_the_auroc_of_the_rank_statistic() -> None:
    label, logit, _ = scores(400)
    curve = numbers.roc(label, logit)
    statistic = mannwhitneyu(logit[label == 1], logit[label == 0]).statistic
    assert curve.area == pytest.approx(statistic / (80 * 320), abs=1e-12)
    assert auc(curve.x, curve.y) == pytest.approx(curve.area, abs=1e-12)
    assert curve.x.tolist() == roc_curve(label, logit)[0].tolist()


def test_stays_are_ranked_by_logits_because_probabilities_round() -> None:
    label, logit = np.array([0, 0, 1, 1]), np.array([40.0, 41.0, 42.0, 43.0])
    assert numbers.roc(label, logit).area == 1
    assert numbers.roc(label, 1 / (1 + np.exp(-logit))).area == 0.5


def test_the_average_precision_is_the_area_of_the_steps_that_are_drawn() -> None:
    label, logit, _ = scores(400)
    curve = numbers.precision_recall(label, logit)
    steps = np.diff(np.r_[0, curve.x]) * curve.y
    assert curve.area == pytest.approx(steps.sum(), abs=1e-12)
    called = [logit >= threshold for threshold in np.unique(logit)[::-1]]
    assert curve.x == pytest.approx([label[each].sum() / label.sum() for each in called])
    assert curve.y == pytest.approx([label[each].mean() for each in called])


def test_curves_of_many_stays_have_few_points_and_the_exact_area() -> None:
    label, logit, _ = scores(40_000)
    logit = logit + np.random.default_rng(1).normal(0, 1e-3, len(logit))  # no ties, so that the full curve is long
    curve = numbers.roc(label, logit)
    assert len(curve.x) <= numbers.MOST_POINTS
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert curve.area == roc_auc_score(label, logit)
    assert auc(curve.x, curve.y) == pytest.approx(curve.area, abs=1e-3)


def test_the_brier_score_is_that_of_scikit_learn() -> None:
    label, _, risk = scores(400)
    assert numbers.brier(label, risk) == pytest.approx(brier_score_loss(label, risk), abs=1e-15)


def test_calibration_bins_are_those_of_scikit_learn_and_count_every_stay() -> None:
    label, _, risk = scores(403)
    bins = numbers.calibration_bins(label, risk)
    observed, predicted = calibration_curve(label, risk, n_bins=10, strategy="quantile")
    assert [each.observed for each in bins] == pytest.approx(observed.tolist())
    assert [each.mean_risk for each in bins] == pytest.approx(predicted.tolist())
    assert sum(each.stays for each in bins) == 403
    assert sum(each.positives for each in bins) == label.sum()


def test_stays_of_equal_risk_are_in_one_bin() -> None:
    bins = numbers.calibration_bins(np.array([0, 1] * 20), np.full(40, 0.3))
    assert [(each.stays, each.positives) for each in bins] == [(40, 20)]


@pytest.mark.parametrize(("positives", "stays"), [(0, 12), (3, 12), (12, 12), (1, 1), (224, 1598)])
def test_intervals_of_shares_are_those_of_scipy(positives: int, stays: int) -> None:
    expected = binomtest(positives, stays).proportion_ci(0.95, method="wilson")
    assert numbers.wilson(positives, stays) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_net_benefit_of_the_model_follows_from_its_confusion_matrix() -> None:
    label, _, risk = scores(400)
    thresholds = numbers.decision_thresholds(0.2)
    for threshold, benefit in zip(thresholds, numbers.net_benefit(label, risk, thresholds), strict=True):
        (_, false_positive), (_, true_positive) = confusion_matrix(label, risk >= threshold)
        odds = threshold / (1 - threshold)
        assert benefit == pytest.approx((true_positive - false_positive * odds) / 400, abs=1e-12)


def test_acting_on_every_stay_has_no_benefit_at_the_prevalence() -> None:
    label, _, risk = scores(400)
    (benefit,) = numbers.net_benefit(label, np.ones_like(risk), np.array([0.2]))
    assert benefit == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("prevalence", "highest"), [(0.01, 0.5), (0.4, 0.8), (0.9, 0.95)])
def test_thresholds_go_from_one_percent_to_twice_the_prevalence(prevalence: float, highest: float) -> None:
    thresholds = numbers.decision_thresholds(prevalence)
    assert thresholds[0] == 0.01
    assert thresholds[-1] == pytest.approx(highest)


@pytest.mark.parametrize("place", [0, 5, 200, 399])
def test_confusion_counts_are_those_of_scikit_learn(place: int) -> None:
    label, _, risk = scores(400)
    threshold = float(np.sort(risk)[place])  # that of a stay: it is called too
    found = numbers.confusion(label, risk, threshold)
    expected = confusion_matrix(label, risk >= threshold).ravel().tolist()
    assert [found.true_negative, found.false_positive, found.false_negative, found.true_positive] == expected


def test_the_stay_at_the_threshold_is_called_although_its_risk_was_rounded() -> None:
    risk = np.array([0.1, np.nextafter(0.3, 0), 0.5])
    assert numbers.confusion(np.array([0, 1, 1]), risk, 0.3).true_positive == 2


def test_the_stay_that_is_shown_is_the_positive_one_of_median_risk() -> None:
    stay_id, label = np.array([7, 3, 9, 1, 5]), np.array([1, 0, 1, 1, 1])
    risk = np.array([0.9, 0.99, 0.2, 0.4, 0.3])
    assert numbers.typical_stay(stay_id, label, risk, [7, 3, 9, 1]) == 1
    assert numbers.typical_stay(stay_id, label, risk, [7, 9, 1, 5]) == 5  # the lower of the middle two
    assert numbers.typical_stay(stay_id, label, risk, [3]) is None
