"""A cohort from elsewhere: coverage, calibration fitted anew on some patients and judged on others, and sites."""

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from seqsetvae.cohort.profile import Profile, Window
from seqsetvae.evaluation.external import (
    DELIVERED,
    FEWEST_OF_SITE,
    ExternalCohort,
    coverage_of,
    external,
    external_text,
)
from seqsetvae.evaluation.findings import as_text
from seqsetvae.evaluation.groups import Subgroup
from seqsetvae.evaluation.predictions import Predictions
from seqsetvae.evaluation.recalibration import BOTH, FEWEST, INTERCEPT, Fitted, recalibrate
from seqsetvae.evaluation.results import evaluation_schema
from seqsetvae.system.schema import fault_of
from seqsetvae.tasks.binary import Calibration
from seqsetvae.tasks.curves import net_benefit
from seqsetvae.tasks.spec import Recalibrated, Spec, one_label

DELIVERED_BY = Calibration(
    checkpoint_sha256="c", split="valid", stays=90, positives=9, slope=0.9, intercept=-0.2, threshold_logit=-1.0
)
COVERAGE = {"variables": 4, "of_variables": 4, "missing": [], "events": 100, "events_read": 100}
ANEW = Recalibrated("ours", "", "data", 0.5, 3)


def predictions(n: int = 1200, *, slope: float = 0.7, intercept: float = 0.6, per_patient: int = 1) -> Predictions:
    """Of a model whose delivered risks, in log-odds, have to be multiplied by a slope and raised by an intercept."""
    rng = np.random.default_rng(0)
    logit = rng.normal(-1.5, 1.5, n)
    risk = DELIVERED_BY.calibrated(logit)
    assert risk is not None
    label = (rng.random(n) < expit(intercept + slope * risk)).astype(float)
    subject = np.arange(n) // per_patient + 50_000
    of = {"stay_id": np.arange(n), "output": logit[:, None], "target": label[:, None], "subject": subject}
    return Predictions(spec=one_label(), split="there", calibration=DELIVERED_BY, **of)  # type: ignore[arg-type]


def elsewhere(found: Predictions, **other: Any) -> ExternalCohort:
    about = {"name": "there", "data": "data", "checkpoint_sha256": "c", "coverage": COVERAGE, "drift": [], "notes": []}
    return ExternalCohort(predictions=found, **{**about, **other})


def evaluated(of: ExternalCohort, **other: Any) -> tuple[dict[str, Any], Fitted | None]:
    return external(of, **{"fraction": 0.5, "name": "ours", "seed": 3, "resamples": 50, **other})


def by_definition(label: np.ndarray, risk: np.ndarray) -> tuple[float, float, float]:
    """(intercept of a slope of 1, intercept and slope) of highest likelihood, by other libraries."""

    def loss(intercept: np.ndarray) -> float:
        return -float(np.where(label == 1, log_expit(risk + intercept), log_expit(-risk - intercept)).sum())

    both = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(risk[:, None], label)
    return minimize(loss, [0.0], tol=1e-12).x[0], both.intercept_[0], both.coef_[0, 0]


# ------------------------------------------------------------------ calibration fitted anew


def test_both_kinds_are_fitted_on_the_delivered_risks():
    part = predictions()
    fitted = recalibrate(part, "c", "some", ANEW)
    assert isinstance(fitted, Fitted)
    risk, label = 0.9 * part.output[:, 0] - 0.2, part.target[:, 0]
    shift, start, stretch = by_definition(label, risk)
    one, both = fitted.kinds[INTERCEPT], fitted.kinds[BOTH]
    assert (one.slope, one.intercept) == pytest.approx((0.9, -0.2 + shift), abs=1e-5)
    assert (both.slope, both.intercept) == pytest.approx((stretch * 0.9, start + stretch * -0.2), abs=1e-4)
    likelihood = [log_expit(np.where(label == 1, x, -x)).sum() for x in (risk + shift, start + stretch * risk)]
    assert fitted.p_slope == pytest.approx(chi2.sf(2 * (likelihood[1] - likelihood[0]), 1), rel=1e-3)
    assert fitted.chosen == BOTH
    assert {each.threshold_logit for each in fitted.kinds.values()} == {-1.0}  # the same stays are called positive
    assert (both.stays, both.positives, both.split) == (1200, label.sum(), "some")
    assert both.recalibrated == replace(ANEW, kind=BOTH)


def test_the_intercept_alone_is_preferred_where_the_slope_is_right():
    fitted = recalibrate(predictions(slope=1.0, intercept=0.8), "c", "some", ANEW)
    assert isinstance(fitted, Fitted)
    assert fitted.p_slope is not None
    assert fitted.p_slope > 0.05
    assert fitted.chosen == INTERCEPT


def test_a_checkpoint_without_a_calibration_gets_one():
    part = replace(predictions(), calibration=None)
    fitted = recalibrate(part, "c", "some", ANEW)
    assert isinstance(fitted, Fitted)
    _, start, stretch = by_definition(part.target[:, 0], part.output[:, 0])
    both = fitted.kinds[BOTH]
    assert (both.slope, both.intercept, both.threshold_logit) == (
        pytest.approx(stretch, abs=1e-4),
        pytest.approx(start, abs=1e-4),
        None,
    )


def test_a_slope_that_turns_the_order_of_risks_around_is_no_calibration():
    fitted = recalibrate(predictions(slope=-0.5), "c", "some", ANEW)
    assert isinstance(fitted, Fitted)
    assert set(fitted.kinds) == {INTERCEPT}
    assert (fitted.chosen, fitted.p_slope) == (INTERCEPT, None)


def test_it_is_fitted_on_whole_patients_and_judged_on_the_others():
    """No patient is in both parts, and all figures and curves are those of the stays it was not fitted on."""
    found = predictions(per_patient=3)
    content, fitted = evaluated(elsewhere(found))
    assert fitted is not None
    on = replace(ANEW, kind="").fitted_on(found.subject)  # type: ignore[arg-type]
    assert not set(found.subject[on]) & set(found.subject[~on])  # type: ignore[index]
    label, anew = found.target[:, 0], content["recalibration"]
    assert anew["fitted"] == {"stays": on.sum(), "positives": label[on].sum(), "prevalence": label[on].mean()}
    assert anew["reported"]["stays"] == len(label) - on.sum()
    kinds = {each["kind"]: each for each in anew["kinds"]}
    assert list(kinds) == [DELIVERED, INTERCEPT, BOTH]
    for kind, calibration in ({DELIVERED: DELIVERED_BY} | fitted.kinds).items():
        risk = calibration.slope * found.output[~on, 0] + calibration.intercept
        figures, true = kinds[kind]["figures"], label[~on]
        shift, _, stretch = by_definition(true, risk)
        assert figures["mean_difference"]["value"] == pytest.approx(true.mean() - expit(risk).mean())
        assert figures["calibration_intercept"]["value"] == pytest.approx(shift, abs=1e-4)
        assert figures["calibration_slope"]["value"] == pytest.approx(stretch, abs=1e-4)
        brier = [np.mean((expit(x) - true) ** 2) for x in (risk, 0.9 * found.output[~on, 0] - 0.2)]
        assert figures["brier_difference"]["value"] == pytest.approx(brier[0] - brier[1], abs=1e-12)
        thresholds = np.array(kinds[kind]["net_benefit"]["threshold"])
        expected = net_benefit(true.astype(int), expit(risk), thresholds)
        assert kinds[kind]["net_benefit"]["model"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert abs(kinds[BOTH]["figures"]["calibration_slope"]["value"] - 1) < 0.2
    assert kinds[DELIVERED]["figures"]["calibration_slope"]["value"] < 0.8
    assert kinds[BOTH]["figures"]["brier_difference"]["high"] < 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fraction": 0.0}, "Not asked for"),
        ({"fraction": 0.01}, f"to fit it on are of class .*; {FEWEST} are needed"),
        ({"fraction": 0.9, "n": 120}, f"to report it on are of class .*; {FEWEST} are needed"),
        ({"fraction": 0.5, "again": "data"}, "'ours' was fitted on patients of this cohort"),
    ],
)
def test_what_cannot_be_fitted_anew_has_a_reason(change, reason):
    found = predictions(change.pop("n", 1200))
    if change.pop("again", None):
        found = replace(found, calibration=replace(DELIVERED_BY, recalibrated=ANEW))
    content, fitted = evaluated(elsewhere(found), **change)
    assert fitted is None
    assert "kinds" not in content["recalibration"]
    (finding,) = (each for each in content["findings"] if "not fitted anew" in each["text"])
    assert re.search(reason, finding["text"])


def test_the_interval_of_calibration_in_the_large_holds_the_truth_as_often_as_it_should():
    """That of stratified resamples, which fix the number of positive stays, holds it in 63 % in place of 95 %."""
    rng, inside = np.random.default_rng(5), {"calibration_intercept": 0, "mean_difference": 0}
    population = rng.normal(-1.5, 1.5, 1_000_000)
    truth = {"calibration_intercept": 0.4, "mean_difference": np.mean(expit(population + 0.4) - expit(population))}
    for seed in range(120):
        logit = rng.choice(population, 400)
        label = (rng.random(400) < expit(logit + 0.4)).astype(float)
        of = {"stay_id": np.arange(400), "output": logit[:, None], "target": label[:, None]}
        found = Predictions(spec=one_label(), split="there", **of)  # type: ignore[arg-type]
        content, _ = evaluated(elsewhere(found), fraction=0.0, resamples=200, seed=seed)
        for name, value in truth.items():
            figure = content["figures"][name]
            inside[name] += figure["low"] <= value <= figure["high"]
    assert all(0.88 <= each / 120 <= 1 for each in inside.values()), inside


# ------------------------------------------------------------------ coverage


def test_coverage_counts_variables_and_events(compiled):
    """A model that knows two of the variables here, one level of a third, and two that are not here."""
    names = list(compiled.vocabulary)
    window = Window(10, 0.0, None, None)
    profile = Profile(window, {names[0]: (60, 9), names[1]: (20, 9), "ward=a": (5, 5), "ward=b": (5, 5), "ph": (10, 2)})
    found = coverage_of(compiled, [names[0], names[1], "ward=a", "ward=b", "ph"], profile)
    counts = np.zeros(len(names))
    for split in compiled.splits.values():
        counts += np.bincount(split.variable, minlength=len(names))
    assert (found["variables"], found["of_variables"]) == (2, 4)
    assert found["missing"] == ["ward", "ph"]
    assert (found["events"], found["events_read"]) == (counts.sum(), counts[:2].sum())
    assert found["share_of_training_events"] == pytest.approx(0.8)
    without = coverage_of(compiled, None, None)
    assert (without["variables"], without["missing"]) == (len(names), [])
    assert "share_of_training_events" not in without


@pytest.mark.parametrize("change", [{"variables": 3}, {"events_read": 50}, {"share_of_training_events": 0.5}])
def test_low_coverage_is_the_first_thing_said(change):
    content, _ = evaluated(elsewhere(predictions(), coverage=COVERAGE | change))
    assert content["findings"][0]["text"].startswith("Low coverage: ")
    assert content["findings"][0]["level"] == "warning"
    good, _ = evaluated(elsewhere(predictions()))
    assert not any("coverage" in each["text"] for each in good["findings"])


# ------------------------------------------------------------------ sites


def _with_sites(sizes: dict[str, int]) -> tuple[ExternalCohort, np.ndarray]:
    found = predictions(sum(sizes.values()))
    site = np.repeat(list(sizes), list(sizes.values()))
    groups = [Subgroup("hospital", name, site == name) for name in sizes]
    return elsewhere(found, by="hospital", sites=groups), site


def test_each_site_has_its_figures_and_those_that_are_too_small_are_left_out():
    of, site = _with_sites({"a": 400, "b": 300, "c": 350, "tiny": 12})
    content, _ = evaluated(of)
    sites, label, logit = content["sites"], of.predictions.target[:, 0], of.predictions.output[:, 0]
    assert [row["name"] for row in sites["rows"]] == ["a", "b", "c"]
    assert sites["left_out"] == ["tiny"]
    for row in sites["rows"]:
        own = site == row["name"]
        shift, _, stretch = by_definition(label[own], 0.9 * logit[own] - 0.2)
        assert (row["stays"], row["positives"]) == (own.sum(), label[own].sum())
        assert row["figures"]["auroc"]["value"] == pytest.approx(roc_auc_score(label[own], logit[own]))
        assert row["figures"]["calibration_intercept"]["value"] == pytest.approx(shift, abs=1e-4)
        assert row["figures"]["calibration_slope"]["value"] == pytest.approx(stretch, abs=1e-4)
    pooled, values = sites["pooled"]["auroc"], [row["figures"]["auroc"]["value"] for row in sites["rows"]]
    assert min(values) <= pooled["value"] <= max(values)
    assert pooled["prediction_low"] < pooled["low"] < pooled["value"] < pooled["high"] < pooled["prediction_high"] < 1
    assert pooled["sites"] == 3
    text = external_text(content)
    assert "by hospital" in text
    assert "over 3 sites" in text
    assert any(f"fewer than {FEWEST_OF_SITE} stays of a class: tiny" in each["text"] for each in content["findings"])


def test_two_sites_are_not_pooled_and_one_class_is_no_site():
    of, _ = _with_sites({"a": 400, "b": 300, "c": 350})
    of.predictions.target[700:] = 0
    content, _ = evaluated(of)
    assert (content["sites"]["left_out"], content["sites"]["pooled"]) == (["c"], {})
    assert any("are not pooled: 2 have stays enough" in each["text"] for each in content["findings"])


# ------------------------------------------------------------------ the entry


def test_an_entry_is_as_its_schema_says():
    of, _ = _with_sites({"a": 400, "b": 300, "c": 350})
    content, _ = evaluated(of)
    alone = json.loads(as_text({"checkpoint": "best.ckpt", "label_name": "label", "external": [content]}))
    assert fault_of(alone, evaluation_schema) is None
    del alone["external"][0]["sites"]["rows"][0]["name"]
    assert fault_of(alone, evaluation_schema) == "'name' is missing in external[0]/sites/rows[0]"


def test_other_tasks_have_metrics_and_a_reason_for_what_they_lack():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(200, 1))
    spec = Spec("regression", ("days",), 1, mean=(0.0,), std=(1.0,))
    of = {"stay_id": np.arange(200), "output": truth + rng.normal(size=(200, 1)), "target": truth}
    content, fitted = evaluated(elsewhere(Predictions(spec=spec, split="there", **of)))  # type: ignore[arg-type]
    assert fitted is None
    assert "R² of days" in content["figures"]
    assert "--task regression" in content["recalibration"]["reason"]
    alone = json.loads(as_text({"checkpoint": "", "label_name": "", "external": [content]}))
    assert fault_of(alone, evaluation_schema) is None


@pytest.mark.parametrize(("intercept", "said"), [(0.8, "too low"), (-0.8, "too high"), (0.0, None)])
def test_risks_that_are_too_low_or_too_high_are_said(intercept, said):
    content, _ = evaluated(elsewhere(predictions(slope=1.0, intercept=intercept)))
    found = [each["text"] for each in content["findings"] if "Predicted risks are" in each["text"]]
    assert [text.split(" here")[0].removeprefix("Predicted risks are ") for text in found] == ([said] if said else [])
