"""Thresholds by what users need, and the conformal band on which no decision is made."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import confusion_matrix

from seqsetvae.system.errors import InputError
from seqsetvae.tasks.binary import Calibration, decide, decisions, fit_calibration
from seqsetvae.tasks.decisions import UNDECIDED, Need, conformal_bounds, decision, need_of, threshold_logit
from seqsetvae.tasks.spec import one_label
from tests.evaluation.test_statistics import sample


def _shares(label: np.ndarray, called: np.ndarray) -> dict[str, float]:
    tn, fp, fn, tp = confusion_matrix(label, called).ravel()
    shares = {"sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp), "ppv": tp / max(tp + fp, 1)}
    return shares | {"alarms_per_day": -20 * (tp + fp) / len(label)}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("text", "takes"),
    [
        ("sensitivity=0.8", max),
        ("sensitivity=1", max),
        ("specificity=0.9", min),
        ("ppv=0.5", min),
        ("alarms_per_day=3", min),
    ],
)
def test_the_threshold_is_the_outermost_that_does_what_is_needed(text, takes, ties):
    """By trying every logit."""
    label, logit = sample(200, ties=ties)
    need = need_of(text, 20)
    least = -need.value if need.name == "alarms_per_day" else need.value
    enough = [each for each in np.unique(logit) if _shares(label, logit >= each)[need.name] >= least - 1e-12]
    assert threshold_logit(need, label, logit, None) == takes(enough)
    assert 1 < len(enough) < len(np.unique(logit)) or text == "sensitivity=1"


def test_the_threshold_of_net_benefit_is_the_stated_calibrated_probability():
    label, logit = sample()
    calibration = _calibration(label, logit, need_of("net_benefit=0.1"))
    assert calibration.threshold == pytest.approx(0.1)
    figures = decisions(one_label(), logit[:, None], label[:, None], calibration)["decision"][1](np.ones((1, 300)))
    called = expit(calibration.calibrated(logit)) >= 0.1
    true, false = (called & (label == 1)).sum(), (called & (label == 0)).sum()
    assert figures["net benefit"][0] == pytest.approx((true - false / 9) / 300)
    every = (label.sum() - (label == 0).sum() / 9) / 300
    assert figures["net benefit of an alarm for every stay"][0] == pytest.approx(every)
    assert "worth 9 false ones" in str(calibration)


def _calibration(label: np.ndarray, logit: np.ndarray, need: Need | None, abstain: float | None = None) -> Calibration:
    target = label[:, None].astype(float)
    fitted = fit_calibration(logit[:, None], target)
    calibration = Calibration(checkpoint_sha256="", split="valid", stays=len(label), **fitted)
    return decide(calibration, logit[:, None], target, need, abstain)


def test_alarms_a_day_are_the_share_of_the_stated_admissions():
    label, logit = sample()
    calibration = _calibration(label, logit, need_of("sensitivity=0.8", 12.0))
    figures = decisions(one_label(), logit[:, None], label[:, None], calibration)["decision"][1](np.ones((1, 300)))
    assert figures["alarms a day"][0] == pytest.approx(12 * (logit >= calibration.threshold_logit).mean())


@pytest.mark.parametrize(
    ("text", "per_day", "logits", "message"),
    [
        ("alarms_per_day=1", 30.0, [1.0, 0.0, -1.0, -2.0], r"on the 4 validation stays \(2 positive\). Ask for less"),
        ("specificity=1", None, [0.0, -1.0, 1.0, 0.0], "The highest is 0.500"),
        ("ppv=0.9", None, [0.0, 0.0, 0.0, 0.0], "The highest is 0.500. Ask for less, or use more validation stays"),
        ("net_benefit=0.1", None, [1.0, 0.0, -1.0, -2.0], "needs calibrated probabilities"),
    ],
)
def test_what_no_threshold_does_is_refused_with_the_reason(text, per_day, logits, message):
    with pytest.raises(InputError, match=message):
        threshold_logit(need_of(text, per_day), np.array([1, 1, 0, 0]), np.array(logits), None)


@pytest.mark.parametrize(
    "text",
    [
        *("", "sensitivity", "sensitivity=", "sensitivity=0", "sensitivity=1.1", "sensitivity=0.8=0.9", "ppv=nan"),
        *("net_benefit=1", "youden=1", "alarms_per_day=-1", "alarms_per_day=inf", "auroc=0.8"),
    ],
)
def test_other_needs_are_not_allowed(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the settings say what is allowed
        need_of(text)


# ------------------------------------------------------------------ abstention


@pytest.mark.parametrize(("alpha", "n"), [(0.1, 9), (0.1, 37), (0.05, 19), (0.2, 50), (0.3, 20)])
def test_the_bounds_leave_the_finite_sample_share_of_each_class(alpha, n):
    rng = np.random.default_rng(n)
    label, logit = np.repeat([0, 1], n), rng.normal(size=2 * n)
    low, high = conformal_bounds(label, logit, alpha)
    rank = next(k for k in range(1, n + 1) if k / (n + 1) >= 1 - alpha - 1e-12)
    assert (logit[label == 1] >= low).sum() == rank
    assert (logit[label == 0] <= high).sum() == rank


@pytest.mark.parametrize(("alpha", "needed"), [(0.1, 9), (0.05, 19), (0.01, 99), (0.3, 3), (0.5, 1)])
def test_too_few_stays_of_a_class_are_refused_with_the_number_needed(alpha, needed):
    label = np.array([0] * 500 + [1] * needed)
    conformal_bounds(label, np.zeros(len(label)), alpha)
    with pytest.raises(InputError, match=f"needs {needed} validation stays of each class, and there are {needed - 1} "):
        conformal_bounds(label[:-1], np.zeros(len(label) - 1), alpha)


@pytest.mark.parametrize("n_positive", [9, 30, 100])
@pytest.mark.parametrize("separation", [0.3, 1.5, 6.0])
def test_another_stay_of_each_class_is_covered_with_the_stated_probability(n_positive, separation):
    """Over many validation samples, for a weak, a usual and an almost perfect model; and it is no more than needed."""
    rng, alpha, covered = np.random.default_rng(0), 0.1, []
    for _ in range(3000):
        label = np.repeat([0, 1, 0, 1], [60, n_positive, 1, 1])
        logit = rng.normal(size=len(label)) + separation * label
        low, high = conformal_bounds(label[:-2], logit[:-2], alpha)
        covered.append([logit[-2] <= high, logit[-1] >= low])
    ranks = [np.ceil((n + 1) * (1 - alpha) - 1e-9) / (n + 1) for n in (60, n_positive)]  # exact without ties
    assert np.mean(covered, axis=0) == pytest.approx(ranks, abs=4 * 0.3 / np.sqrt(3000))
    assert min(ranks) >= 1 - alpha - 1e-9


@pytest.mark.parametrize("threshold", [-3.0, -0.5, 0.2, 3.0])
@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (1.0, -1.0), (0.0, 0.0)])
def test_what_is_decided_agrees_with_the_threshold_and_no_class_is_lost(threshold, bounds):
    logit = np.linspace(-4, 4, 161)
    found = decision(logit, threshold, bounds)
    assert (logit[found == "1"] >= threshold).all()
    assert (logit[found == "0"] < threshold).all()
    low, high = bounds
    assert not ((found == "0") & (logit >= low)).any()  # class 1 was not ruled out
    assert not ((found == "1") & (logit <= high)).any()
    expected = (logit >= min(low, threshold)) & ((logit <= high) | (logit < threshold))
    assert np.array_equal(found == UNDECIDED, expected)


def test_abstention_is_counted_by_class():
    label, logit = sample(400)
    calibration = _calibration(label, logit, None, abstain=0.1)
    facts, figures = decisions(one_label(), logit[:, None], label[:, None], calibration)["abstention"]
    found = {name: float(value[0]) for name, value in figures(np.ones((1, 400))).items()}
    called = decision(logit, calibration.threshold_logit, calibration.bounds)
    assert facts["counts"] == {name: (called == name).sum() for name in ("0", "1", UNDECIDED)}
    assert min(facts["counts"].values()) > 0
    undecided = called == UNDECIDED
    wrong = ~undecided & (called != label.astype(str))
    expected = {}
    for end, own in (("", label >= 0), (" of label 0", label == 0), (" of label 1", label == 1)):
        expected[f"abstained{end}"] = undecided[own].mean()
        expected[f"error among decided{end}"] = wrong[own & ~undecided].mean()
        expected[f"coverage{end}"] = 1 - wrong[own].mean()
    assert found == pytest.approx(expected)
    weights = np.random.default_rng(0).integers(0, 3, size=(1, 400)).astype(float)
    again = np.repeat(np.arange(400), weights[0].astype(int))
    assert figures(weights)["abstained of label 1"][0] == pytest.approx(undecided[again][label[again] == 1].mean())


def test_a_band_and_a_threshold_are_changed_one_by_one():
    label, logit = sample(400)
    both = _calibration(label, logit, need_of("sensitivity=0.9"), abstain=0.1)
    target = label[:, None].astype(float)
    without = decide(both, logit[:, None], target, None, 0.0)
    assert (without.abstain, without.bounds, without.threshold_logit) == (None, None, both.threshold_logit)
    youden = decide(both, logit[:, None], target, need_of("youden"), None)
    assert (youden.threshold_for, youden.bounds) == (None, both.bounds)
    assert youden.threshold_logit == fit_calibration(logit[:, None], target)["threshold_logit"]


def test_a_band_is_widened_to_a_threshold_outside_of_it():
    label, logit = sample(400)
    calibration = _calibration(label, logit, need_of("net_benefit=0.01"), abstain=0.1)
    found = decision(logit, calibration.threshold_logit, calibration.bounds)
    assert set(found) == {"0", "1", UNDECIDED}
    assert logit[found == "0"].max() < calibration.threshold_logit < calibration.bounds[0]
