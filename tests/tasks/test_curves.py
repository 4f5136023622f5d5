"""Curves, groups and counts for evaluation.json, against scikit-learn, scipy or a formula of their own."""

import json
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binomtest, mannwhitneyu
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, confusion_matrix, roc_auc_score, roc_curve

from seqsetvae.evaluation.findings import as_text
from seqsetvae.tasks import TASKS, curves
from seqsetvae.tasks.spec import Spec
from tests.report.example import scores


def _curves(label: np.ndarray, score: np.ndarray, threshold: float | None = None) -> dict[str, Any]:
    (found,) = curves.outcome_curves("death", label, score, {"as predicted": expit(score)}, threshold)
    return found


def test_the_roc_curve_has_the_auroc_of_the_rank_statistic():
    label, score, _ = scores(400)
    found = _curves(label, score)
    statistic = mannwhitneyu(score[label == 1], score[label == 0]).statistic
    assert found["auroc"] == pytest.approx(statistic / (80 * 320), abs=1e-12)
    assert auc(found["roc"]["x"], found["roc"]["y"]) == pytest.approx(found["auroc"], abs=1e-5)
    assert found["roc"]["x"] == pytest.approx(roc_curve(label, score)[0].tolist(), abs=1e-6)


def test_stays_are_ranked_by_logits_because_probabilities_round():
    label, score = np.array([0, 0, 1, 1]), np.array([40.0, 41.0, 42.0, 43.0])
    assert _curves(label, score)["auroc"] == 1
    assert roc_auc_score(label, expit(score)) == 0.5


def test_the_average_precision_is_the_area_of_the_steps_that_are_drawn():
    label, score, _ = scores(400)
    found = _curves(label, score)
    recall, precision = (np.array(found["precision_recall"][axis]) for axis in "xy")
    assert found["auprc"] == pytest.approx((np.diff(np.r_[0, recall]) * precision).sum(), abs=1e-5)
    called = [score >= threshold for threshold in np.unique(score)[::-1]]
    assert recall == pytest.approx([label[each].sum() / label.sum() for each in called], abs=1e-6)
    assert precision == pytest.approx([label[each].mean() for each in called], abs=1e-6)


def test_curves_of_many_stays_have_few_points_and_the_exact_area():
    label, score, _ = scores(40_000)
    score = score + np.random.default_rng(1).normal(0, 1e-3, len(score))  # no ties, so that the full curve is long
    found = _curves(label, score)
    x, y = found["roc"]["x"], found["roc"]["y"]
    assert len(x) <= curves.MOST_POINTS
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert found["auroc"] == roc_auc_score(label, score)
    assert auc(x, y) == pytest.approx(found["auroc"], abs=1e-3)


def test_calibration_groups_are_those_of_scikit_learn_and_count_every_stay():
    label, _, risk = scores(403)
    groups = curves.calibration_groups(label, risk)
    observed, predicted = calibration_curve(label, risk, n_bins=10, strategy="quantile")
    assert [each["observed"] for each in groups] == pytest.approx(observed.tolist())
    assert [each["predicted"] for each in groups] == pytest.approx(predicted.tolist())
    assert sum(each["stays"] for each in groups) == 403
    assert sum(each["positives"] for each in groups) == label.sum()


def test_stays_of_equal_risk_are_in_one_group():
    groups = curves.calibration_groups(np.array([0, 1] * 20), np.full(40, 0.3))
    assert [(each["stays"], each["positives"]) for each in groups] == [(40, 20)]


@pytest.mark.parametrize(("positives", "stays"), [(0, 12), (3, 12), (12, 12), (1, 1), (224, 1598)])
def test_intervals_of_shares_are_those_of_scipy(positives, stays):
    expected = binomtest(positives, stays).proportion_ci(0.95, method="wilson")
    assert curves.wilson(positives, stays) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_net_benefit_of_the_model_follows_from_its_confusion_matrix():
    label, _, risk = scores(400)
    thresholds = curves.decision_thresholds(0.2)
    for threshold, benefit in zip(thresholds, curves.net_benefit(label, risk, thresholds), strict=True):
        (_, false_positive), (_, true_positive) = confusion_matrix(label, risk >= threshold)
        odds = threshold / (1 - threshold)
        assert benefit == pytest.approx((true_positive - false_positive * odds) / 400, abs=1e-12)


def test_acting_on_every_stay_has_no_benefit_at_the_prevalence():
    label, _, risk = scores(400)
    (benefit,) = curves.net_benefit(label, np.ones_like(risk), np.array([0.2]))
    assert benefit == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("prevalence", "highest"), [(0.01, 0.5), (0.4, 0.8), (0.9, 0.95)])
def test_thresholds_go_from_one_percent_to_twice_the_prevalence(prevalence, highest):
    thresholds = curves.decision_thresholds(prevalence)
    assert thresholds[0] == 0.01
    assert thresholds[-1] == pytest.approx(highest)


@pytest.mark.parametrize("place", [0, 5, 200, 399])
def test_counts_at_the_threshold_are_those_of_scikit_learn(place):
    label, score, _ = scores(400)
    threshold = float(np.sort(score)[place])  # that of a stay: it is called too
    found = _curves(label, score, threshold)["at_threshold"]
    expected = confusion_matrix(label, score >= threshold).ravel().tolist()
    assert list(found) == ["true_positive", "false_positive", "true_negative", "false_negative"]
    assert [found[name] for name in ("true_negative", "false_positive", "false_negative", "true_positive")] == expected


def test_risks_are_counted_by_label_and_their_medians_are_exact():
    label, score, risk = scores(400)
    found = _curves(label, score)["risk"]
    edges = np.linspace(0, 1, curves.RISK_BINS + 1)
    for value in (0, 1):
        assert found[f"of_label_{value}"] == np.histogram(risk[label == value], edges)[0].tolist()
        assert found["medians"][value] == pytest.approx(np.median(risk[label == value]))


def test_stays_of_one_class_have_no_curves():
    assert curves.outcome_curves("death", np.zeros(5, dtype=np.int64), np.arange(5.0), {"x": np.full(5, 0.1)}) == []


# ------------------------------------------------------------------ of every task


def test_every_task_has_curves_of_each_of_its_labels():
    rng = np.random.default_rng(0)
    target = (rng.random((60, 2)) < 0.4).astype(float)
    target[:7, 1] = np.nan
    spec, output = Spec("multilabel", ("a", "b"), 2), rng.normal(size=(60, 2))
    first, second = TASKS["multilabel"].curves(spec, output, target)
    assert (first["outcome"], first["stays"], second["outcome"], second["stays"]) == ("a", 60, "b", 53)
    assert second["auroc"] == pytest.approx(roc_auc_score(target[7:, 1], output[7:, 1]))
    spec, place = Spec("multiclass", ("unit",), 3, ("x", "y", "z")), rng.integers(3, size=(60, 1)).astype(float)
    output = rng.normal(size=(60, 3))
    found = TASKS["multiclass"].curves(spec, output, place)
    probability = np.exp(output) / np.exp(output).sum(axis=1, keepdims=True)
    assert [each["outcome"] for each in found] == ["x", "y", "z"]
    for at, each in enumerate(found):
        groups, of_class = each["calibration"]["as predicted"], place[:, 0] == at
        assert each["auroc"] == pytest.approx(roc_auc_score(of_class, logit(probability[:, at])))
        mean = sum(group["predicted"] * group["stays"] for group in groups) / 60
        assert mean == pytest.approx(probability[:, at].mean())


def test_numbers_are_grouped_by_what_is_predicted():
    spec = Spec("regression", ("days",), 1, (), (5.0,), (2.0,))
    output, target = np.arange(101.0)[:, None] / 100, np.arange(101.0)[:, None] ** 2
    target[3] = np.nan
    (found,) = TASKS["regression"].curves(spec, output, target)
    assert (found["column"], found["stays"], len(found["groups"])) == ("days", 100, curves.GROUPS)
    last = found["groups"][-1]
    assert last["predicted"] == pytest.approx(5 + 2 * output[91:].mean())
    assert last["observed"] == pytest.approx(target[91:].mean())
    assert [last[name] for name in ("low", "median", "high")] == pytest.approx(
        np.quantile(target[91:], [0.1, 0.5, 0.9])
    )
    assert TASKS["regression"].curves(spec, output[:0], target[:0]) == []


def test_lists_of_numbers_are_one_line_of_the_file_and_texts_are_left_as_they_are():
    content = {"x": [0.5, -1e-7, 3], "text": "[\n1,\n 2]", "nested": [{"y": [1]}, []], "none": [None, 1]}
    text = as_text(content)
    assert json.loads(text) == content
    assert '"x": [0.5, -1e-07, 3]' in text
