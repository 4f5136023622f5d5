"""The content of evaluation.json: its schema, baselines, subgroups, landmarks and findings."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from seqsetvae.evaluation.findings import (
    NOT_COMPARED,
    NOT_WORSE,
    TRAINED_ON,
    is_constant,
    less_is_better,
    sizes,
    verdict,
    worse_than,
)
from seqsetvae.evaluation.groups import Subgroup
from seqsetvae.evaluation.predictions import Predictions
from seqsetvae.evaluation.results import evaluation, result_text
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.binary import Calibration
from seqsetvae.tasks.scores import BINARY_METRICS, BinaryMetric
from seqsetvae.tasks.spec import one_label
from tests.evaluation.test_statistics import sample

CALIBRATION = Calibration(
    checkpoint_sha256="", split="valid", stays=90, positives=9, slope=0.8, intercept=-0.1, threshold_logit=-0.3
)


def predictions(label: np.ndarray, logit: np.ndarray, split: str = "test", **options: Any) -> Predictions:
    columns = {"stay_id": np.arange(len(label)), "output": logit[:, None], "target": label[:, None].astype(float)}
    return Predictions(spec=one_label("death"), split=split, **columns, **options)


def _evaluated(n: int = 400, split: str = "test", calibration: Calibration | None = CALIBRATION) -> Predictions:
    return predictions(*sample(n), split, calibration=calibration)


def _sized(stays: int, positives: int) -> Predictions:
    label = (np.arange(stays) < positives).astype(np.int64)
    return predictions(label, np.random.default_rng(0).normal(size=stays) + 1.5 * label)


def _content(evaluated: Predictions, baselines: dict[str, np.ndarray] | None = None, **options: Any) -> dict[str, Any]:
    others = {name: evaluated.other(logit.reshape(-1, 1)) for name, logit in (baselines or {}).items()}
    return evaluation(evaluated, "run/best.ckpt", others=others, resamples=50, **options)


def test_baselines_are_compared_on_the_same_stays_with_paired_intervals():
    evaluated = _evaluated()
    trees = evaluated.output[:, 0] + np.random.default_rng(1).normal(size=400)
    content = _content(evaluated, baselines={"boosted trees": trees})
    found = content["baselines"]["boosted trees"]
    assert found.keys() == {"figures", "difference"}
    assert found["figures"].keys() == BINARY_METRICS.keys()
    assert found["figures"]["auroc"]["value"] == pytest.approx(roc_auc_score(evaluated.target, trees))
    assert found["figures"]["sensitivity"] == {"value": None, "low": None, "high": None}  # it has no threshold
    difference = content["figures"]["auroc"]["value"] - found["figures"]["auroc"]["value"]
    assert found["difference"]["auroc"]["value"] == pytest.approx(difference)
    assert found["difference"].keys() == {"auroc", "auprc"}
    assert "compared with boosted trees" in result_text(content)


def test_members_of_an_average_have_their_weights_and_paired_differences():
    evaluated = _evaluated()
    member = evaluated.other(evaluated.output + np.random.default_rng(1).normal(size=(400, 1)))
    content = _content(evaluated, members={"trees": member}, weights={"trees": 0.75})
    found = content["members"]["trees"]
    assert found["weight"] == 0.75
    assert found["figures"]["auroc"]["value"] == pytest.approx(roc_auc_score(evaluated.target, member.output))
    difference = content["figures"]["auroc"]["value"] - found["figures"]["auroc"]["value"]
    assert found["difference"]["auroc"]["value"] == pytest.approx(difference)
    assert found["difference"]["auroc"]["low"] < difference < found["difference"]["auroc"]["high"]
    assert "compared with its member trees, weight 0.75" in result_text(content)
    assert content["verdict"] == NOT_COMPARED  # members are no baselines


def test_a_baseline_that_is_better_is_said_first_and_what_to_use():
    label, logit = sample(2000)
    rng = np.random.default_rng(0)
    weak = predictions(label, logit + 3 * rng.normal(size=2000))
    baselines = {"prevalence": np.zeros(2000), "boosted trees": logit + 0.3 * rng.normal(size=2000)}
    content = _content(weak, baselines=baselines | {"logistic regression": logit})
    text, figures = content["verdict"], content["figures"]["auroc"]
    assert next(iter(content)) == "verdict"
    assert text.startswith(f"This model is worse than boosted trees (AUROC {figures['value']:.3f} against 0.")
    assert "and logistic regression (AUROC" in text
    assert text.endswith(" on the same stays. Use logistic regression instead, until a model is better.")
    assert "prevalence" not in text
    assert result_text(content).startswith(f"⚠️  {text}\n")


@pytest.mark.parametrize(
    ("stays", "positives", "first"),
    [
        (49, 24, "No basis for a decision: 49 labelled stays, 24 of the smallest class."),
        (50, 25, "Small data: 50 labelled stays, 25 of the smallest class."),
        (199, 99, "Small data: 199 labelled stays, 99 of the smallest class."),
        (200, 100, NOT_WORSE),
        (400, 29, "Small data: 400 labelled stays, 29 of the smallest class."),
        (400, 371, "Small data: 400 labelled stays, 29 of the smallest class."),
        (400, 30, NOT_WORSE),
    ],
)
def test_of_few_data_the_interval_and_the_simplest_model_that_is_not_worse_come_first(stays, positives, first):
    evaluated = _sized(stays, positives)
    near = evaluated.output[:, 0] + 0.01 * np.random.default_rng(1).normal(size=stays)
    baselines = {"prevalence": np.zeros(stays), "boosted trees": near, "logistic regression": near}
    content = _content(evaluated, baselines=baselines)
    text, auroc = content["verdict"], content["figures"]["auroc"]
    assert text.startswith(first)
    assert result_text(content).startswith("⚠️  " * (first != NOT_WORSE) + text)
    if first != NOT_WORSE:
        interval = f"95 % intervals: AUROC {auroc['value']:.3f} ({auroc['low']:.3f} to {auroc['high']:.3f}), AUPRC"
        assert text.index(interval) < text.index("The simplest model that is not worse by a paired 95 % interval: log")
        assert content["findings"][0]["text"].startswith("Few data")


def test_of_few_data_a_constant_may_be_the_simplest_and_a_better_baseline_is_to_be_used():
    evaluated = _sized(60, 30)
    noise = replace(evaluated, output=np.random.default_rng(3).normal(size=(60, 1)))
    constant = {"prevalence": np.zeros(60)}
    assert "interval: the prevalence, which looks at no stay (AUROC" in _content(noise, constant)["verdict"]
    text = _content(noise, constant | {"boosted trees": evaluated.output})["verdict"]
    assert text.startswith("Small data")
    assert text.endswith("Use boosted trees instead, until a model is better.")
    members = {"trees": noise.output[:, 0], "linear model": noise.output[:, 0]}
    options = {"members": {name: noise.other(each[:, None]) for name, each in members.items()}}
    average = _content(noise, {"boosted trees": noise.output}, **options, weights=dict.fromkeys(members, 0.5))
    assert "interval: linear model (AUROC" in average["verdict"]
    assert _content(noise)["verdict"].endswith(NOT_COMPARED)
    assert _content(replace(noise, split="train"), {"boosted trees": noise.output})["verdict"].endswith(TRAINED_ON)


def _stated(task: str, stays: int, curves: list[tuple[str, int]], **more: Any) -> dict[str, Any]:
    found = [{"outcome": name, "stays": stays, "positives": positives} for name, positives in curves]
    return {"task": task, "stays": stays, "figures": {}, "curves": found, **more}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (_stated("regression", 300, [], labels={"days": 199}), (199, None)),
        (_stated("regression", 200, []), (200, None)),
        (_stated("multilabel", 300, [("a", 150), ("b", 29)], labels={"a": 300, "b": 250}), (250, 29)),
        (_stated("multilabel", 300, [("a", 150)], labels={"a": 300, "b": 300}), (300, 0)),
        (_stated("multiclass", 300, [("a", 150), ("b", 120), ("c", 30)], labels={"kind": 300}), (300, 30)),
    ],
)
def test_the_size_of_an_evaluation_is_that_of_its_smallest_label_and_class(content, expected):
    assert sizes(content) == expected
    is_small = expected[0] < 200 or (expected[1] is not None and expected[1] < 30)
    assert verdict(content).startswith("Small data: ") == is_small


def test_a_model_that_ranks_worse_than_chance_is_not_to_be_used():
    evaluated = _evaluated(2000)
    content = _content(replace(evaluated, output=-evaluated.output), baselines={"prevalence": np.zeros(2000)})
    assert "worse than the prevalence, which looks at no stay (AUROC" in content["verdict"]
    assert content["verdict"].endswith("Use no model rather than this one.")


def test_a_model_that_is_better_in_one_figure_and_worse_in_another_has_both_said():
    differences = {
        "auroc": {"value": -0.1, "low": -0.2, "high": -0.05},
        "auprc": {"value": 0.1, "low": 0.05, "high": 0.2},
    }
    figures = {"auroc": {"value": 0.7}, "auprc": {"value": 0.4}}
    text = worse_than("this model", figures, {"trees": {"figures": {}, "difference": differences}})
    assert text is not None
    assert "AUPRC difference +0.100 [+0.050, +0.200], where the model is better" in text


@pytest.mark.parametrize(
    ("figure", "sign"),
    [
        ("R² of days", -1),
        ("MAE of days", 1),
        ("mean AUROC", -1),
        ("brier", 1),
        ("Brier score of death", 1),
        ("log loss", 1),
    ],
)
def test_less_is_better_for_errors_alone(figure, sign):
    difference = {"value": sign * 0.2, "low": sign * 0.2 - 0.1, "high": sign * 0.2 + 0.1}
    for turned, is_worse in ((1, True), (-1, False)):
        ends = sorted(turned * value for value in (difference["low"], difference["high"]))
        other = {"value": turned * difference["value"], "low": ends[0], "high": ends[1]}
        found = worse_than("this model", {}, {"trees": {"figures": {}, "difference": {figure: other}}})
        assert (found is not None) is is_worse


def test_a_model_that_no_baseline_is_better_than_is_said_too():
    evaluated = _evaluated()
    text = _content(evaluated, baselines={"copy": evaluated.output})["verdict"]
    assert text.startswith(NOT_WORSE)
    auroc = f"{_content(evaluated)['figures']['auroc']['value']:.3f}"
    assert text.endswith(
        f"(compared: copy). The best of them, copy: AUROC {auroc} against {auroc}, difference +0.000 [+0.000, +0.000]."
    )
    assert _content(evaluated)["verdict"] == NOT_COMPARED


def test_a_constant_is_no_model_to_compare_with():
    evaluated = _evaluated()
    constant = {"prevalence": np.zeros(len(evaluated))}
    assert _content(evaluated, baselines=constant)["verdict"] == NOT_COMPARED


def test_what_is_better_on_the_training_stays_is_no_advice():
    evaluated = replace(_evaluated(2000), split="train")
    worse = replace(evaluated, output=-evaluated.output)
    for each, other in ((evaluated, worse), (worse, evaluated)):
        text = _content(each, baselines={"boosted trees": other.output})["verdict"]
        assert text.endswith(TRAINED_ON)
        assert "Use boosted trees" not in text


def test_intervals_are_over_patients_where_several_stays_are_of_one():
    """Each patient twice, with the same predictions: the intervals are those of half as many stays."""
    once = _evaluated(200)
    twice = replace(once.rows(np.tile(range(200), 2)), subject=np.tile(range(200), 2))
    women = np.arange(400) % 200 < 100
    options: dict[str, Any] = {"subgroups": [Subgroup("sex", "female", women)], "landmarks": {6.0: twice}}
    content = _content(twice, baselines={"trees": -twice.output}, **options)
    expected = _content(once, baselines={"trees": -once.output}, subgroups=[Subgroup("sex", "female", women[:200])])
    assert (content["stays"], content["patients"], content["resampled"]) == (400, 200, "patients")
    assert (expected["stays"], expected["patients"], expected["resampled"]) == (200, 200, "stays")
    assert content["figures"]["auroc"] == pytest.approx(expected["figures"]["auroc"])
    assert content["landmarks"][0]["figures"] == content["figures"]
    assert content["baselines"]["trees"]["difference"]["auprc"] == pytest.approx(
        expected["baselines"]["trees"]["difference"]["auprc"]
    )
    female, other = content["subgroups"][0]["figures"], expected["subgroups"][0]["figures"]
    assert female["auroc"] == pytest.approx(other["auroc"])
    assert "400 stays of 200 patients" in result_text(content)
    assert "95 % interval (over patients)" in result_text(content)
    assert "95 % interval (over stays)" in result_text(expected)


def test_a_subgroup_has_the_figures_of_its_stays_alone():
    evaluated = _evaluated()
    women = np.arange(400) % 2 == 0
    nobody_died = (evaluated.target[:, 0] == 0) & women
    groups = [Subgroup("sex", "female", women), Subgroup("outcome", "alive", nobody_died)]
    content = _content(evaluated, subgroups=groups, smallest_group=0)
    first, second = content["subgroups"]
    assert (first["column"], first["group"], first["stays"]) == ("sex", "female", 200)
    assert first["positives"] == evaluated.target[women].sum()
    expected = roc_auc_score(evaluated.target[women], evaluated.output[women])
    assert first["figures"]["auroc"]["value"] == pytest.approx(expected)
    assert second["positives"] == 0
    assert {each["value"] for each in second["figures"].values()} == {None}
    assert "outcome alive" in result_text(content)


def test_a_landmark_has_its_own_stays():
    label, logit = sample(100, seed=5)
    early = {6.0: predictions(label, logit), 0.5: _evaluated().rows(slice(0))}
    found, nobody = _content(_evaluated(), landmarks=early)["landmarks"]
    assert (nobody["stays"], nobody["prevalence"], nobody["figures"]["auroc"]["value"]) == (0, None, None)
    assert (found["hours"], found["stays"], found["positives"]) == (6.0, 100, label.sum())
    assert found["figures"]["auroc"]["value"] == pytest.approx(roc_auc_score(label, logit))


@pytest.mark.parametrize(
    ("evaluated", "caution"),
    [
        (_evaluated(100), "Few data: 100 labelled stays, "),
        (_sized(400, 49), "Few data: 400 labelled stays, 49 of the smallest class"),
        (_evaluated(split="train"), "These stays were trained on"),
        (_evaluated(split="valid"), "The validation split chose the checkpoint"),
        (_evaluated(calibration=None), "There is no calibration and no threshold"),
    ],
    ids=["few stays", "few positives", "train", "valid", "not calibrated"],
)
def test_what_to_distrust_is_said(evaluated, caution):
    assert any(caution in text for text in [each["text"] for each in _content(evaluated)["findings"]])
    assert not any(caution in text for text in [each["text"] for each in _content(_evaluated(2000))["findings"]])


def test_an_auroc_that_may_be_chance_carries_a_caution():
    evaluated = _evaluated()
    noise = np.random.default_rng(0).normal(size=400)
    chance = replace(evaluated, output=noise[:, None])
    assert any("includes 0.5" in text for text in [each["text"] for each in _content(chance)["findings"]])
    assert not any("includes 0.5" in text for text in [each["text"] for each in _content(evaluated)["findings"]])


def test_a_figure_is_one_entry(monkeypatch):
    """Its name, function of weights, direction and perfect value are in one place."""
    errors = BinaryMetric(
        "errors", lambda drawn: drawn.weights @ drawn.scores.bins[1], less_is_better=True, perfect=0.0
    )
    monkeypatch.setitem(BINARY_METRICS, "errors", errors)
    evaluated = _evaluated(calibration=None)
    content = _content(evaluated)
    probability = expit(evaluated.output)
    assert content["figures"]["errors"]["value"] == pytest.approx(((probability - evaluated.target) ** 2).sum())
    (line,) = [line for line in result_text(content).splitlines() if line.startswith("  errors")]
    assert line.endswith("(perfect: 0)")
    more = {"errors": {"value": 0.2, "low": 0.1, "high": 0.3}}
    assert worse_than("this model", {}, {"trees": {"figures": {}, "difference": more}}) is not None


def test_calibration_is_measured_on_calibrated_probabilities():
    calibrated, plain = _content(_evaluated()), _content(_evaluated(calibration=None))
    slope = plain["figures"]["calibration_slope"]["value"]
    assert calibrated["figures"]["calibration_slope"]["value"] == pytest.approx(slope / 0.8)
    assert calibrated["figures"]["auroc"] == plain["figures"]["auroc"]
    assert (calibrated["threshold"], plain["threshold"]) == (CALIBRATION.threshold, None)


def test_a_task_that_is_registered_later_has_its_directions_and_its_constant(monkeypatch):
    """Not those of the tasks that were there when this was imported."""
    assert not less_is_better("pinball loss of days")
    monkeypatch.setitem(TASKS, "quantile", SimpleNamespace(LESS_IS_BETTER=("pinball loss",), CONSTANT="median"))
    assert less_is_better("pinball loss of days")
    assert is_constant("median")
    assert not is_constant("boosted trees")
