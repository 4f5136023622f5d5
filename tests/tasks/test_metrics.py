"""Metrics of the tasks compared with scikit-learn, and losses with torch."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn import metrics

from seqsetvae.system.errors import InputError
from seqsetvae.tasks import TASKS, fitting, multiclass, multilabel, regression
from seqsetvae.tasks.model import Loss
from seqsetvae.tasks.spec import Spec
from tests.training.helpers import LOSS

N = 200


def ones(n: int = N) -> np.ndarray:
    return np.ones((1, n))


def values(task: Any, spec: Spec, output: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Metrics of the whole sample."""
    return {
        name: float(value[0]) for name, value in task.weighted_metrics(spec, output, target)(ones(len(output))).items()
    }


def holes(target: np.ndarray, seed: int = 9) -> np.ndarray:
    """A fifth of the labels is missing."""
    return np.where(np.random.default_rng(seed).random(target.shape) < 0.2, np.nan, target)


def test_figures_of_several_labels_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    spec = Spec("multilabel", ("died", "long stay"), 2)
    target = holes((rng.random((N, 2)) < (0.3, 0.6)).astype(float))
    output = rng.normal(size=(N, 2)) + np.nan_to_num(target)
    found = values(multilabel, spec, output, target)
    aurocs, auprcs = [], []
    for k, name in enumerate(spec.names):
        known = ~np.isnan(target[:, k])
        label, logit = target[known, k], output[known, k]
        aurocs.append(metrics.roc_auc_score(label, logit))
        auprcs.append(metrics.average_precision_score(label, logit))
        assert found[f"AUROC of {name}"] == pytest.approx(aurocs[-1])
        assert found[f"AUPRC of {name}"] == pytest.approx(auprcs[-1])
        assert found[f"Brier score of {name}"] == pytest.approx(metrics.brier_score_loss(label, expit(logit)))
    assert found["mean AUROC"] == pytest.approx(np.mean(aurocs))
    assert found["mean AUPRC"] == pytest.approx(np.mean(auprcs))
    of_validation = multilabel.metrics(spec, torch.from_numpy(output), torch.from_numpy(target))
    assert float(of_validation["auc"]) == pytest.approx(np.mean(aurocs))
    assert float(of_validation["auprc"]) == pytest.approx(np.mean(auprcs))


def test_figures_of_classes_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    spec = Spec("multiclass", ("unit",), 3, ("a", "b", "c"))
    target = rng.integers(0, 3, (N, 1)).astype(float)
    output = rng.normal(size=(N, 3)) + 1.5 * np.eye(3)[target[:, 0].astype(int)]
    found, probability = values(multiclass, spec, output, target), softmax(output, axis=1)
    auroc = metrics.roc_auc_score(target[:, 0], probability, multi_class="ovr", average="macro")
    assert found["mean AUROC"] == pytest.approx(auroc)
    assert found["accuracy"] == metrics.accuracy_score(target[:, 0], output.argmax(axis=1))
    assert found["log loss"] == pytest.approx(metrics.log_loss(target[:, 0], probability))
    for c, name in enumerate(spec.classes):
        is_class = target[:, 0] == c
        assert found[f"AUROC of {name}"] == pytest.approx(metrics.roc_auc_score(is_class, probability[:, c]))
        assert found[f"AUPRC of {name}"] == pytest.approx(metrics.average_precision_score(is_class, probability[:, c]))
        assert found[f"Brier score of {name}"] == pytest.approx(metrics.brier_score_loss(is_class, probability[:, c]))
    of_validation = multiclass.metrics(spec, torch.from_numpy(output), torch.from_numpy(target))
    assert float(of_validation["auc"]) == pytest.approx(auroc)
    assert float(of_validation["accuracy"]) == pytest.approx(found["accuracy"])


def test_figures_of_numbers_are_those_of_scikit_learn_in_the_unit_of_the_column():
    rng = np.random.default_rng(2)
    truth = holes(rng.lognormal(2, 1, (N, 2)) * (1, 100))
    spec = regression.fit(("days", "cost"), np.where(np.isnan(truth), "", truth.astype(str)), "file")
    encoded = regression.encode(spec, truth)
    assert np.nanmean(encoded, axis=0) == pytest.approx([0, 0], abs=1e-12)
    assert np.nanstd(encoded, axis=0) == pytest.approx([1, 1])
    output = np.nan_to_num(encoded) + rng.normal(0, 0.5, (N, 2))
    predicted, found = regression.decode(spec, output), values(regression, spec, output, truth)
    r2 = []
    for k, name in enumerate(spec.names):
        known = ~np.isnan(truth[:, k])
        pair = truth[known, k], predicted[known, k]
        r2.append(metrics.r2_score(*pair))
        assert found[f"R² of {name}"] == pytest.approx(r2[-1])
        assert found[f"RMSE of {name}"] == pytest.approx(metrics.root_mean_squared_error(*pair))
        assert found[f"MAE of {name}"] == pytest.approx(metrics.mean_absolute_error(*pair))
        assert found[f"mean error of {name}"] == pytest.approx(np.mean(pair[1] - pair[0]))
    of_validation = regression.metrics(spec, torch.from_numpy(output), torch.from_numpy(encoded))
    assert float(of_validation["r2"]) == pytest.approx(np.mean(r2))


@pytest.mark.parametrize("name", ["multilabel", "multiclass", "regression"])
def test_a_weighted_resample_is_the_sample_with_stays_repeated(name):
    rng = np.random.default_rng(3)
    spec = {
        "multilabel": Spec("multilabel", ("a", "b"), 2),
        "multiclass": Spec("multiclass", ("a",), 3, ("x", "y", "z")),
        "regression": Spec("regression", ("a",), 1, (), (5.0,), (2.0,)),
    }[name]
    columns = len(spec.names)
    target = rng.integers(0, 3 if name == "multiclass" else 2, (N, columns)).astype(float)
    output, weights = rng.normal(size=(N, spec.outputs)), rng.integers(0, 4, (1, N)).astype(float)
    drawn = np.repeat(np.arange(N), weights[0].astype(int))
    weighted = TASKS[name].weighted_metrics(spec, output, target)(weights)
    repeated = values(TASKS[name], spec, output[drawn], target[drawn])
    assert {key: float(value[0]) for key, value in weighted.items()} == pytest.approx(repeated)


def test_the_temperature_is_that_of_the_lowest_log_loss():
    """Logits that are twice as large as those that made the classes need the temperature 2."""
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(20_000, 3)) * 2
    place = np.array([rng.choice(3, p=row) for row in softmax(logits, axis=1)], dtype=float)[:, None]
    found = multiclass.fit_calibration(2 * logits, place)["temperature"]
    assert found == pytest.approx(2, abs=0.1)
    fitted = multiclass.Calibration(checkpoint_sha256="", split="valid", stays=len(place), temperature=found)
    spec = Spec("multiclass", ("a",), 3, ("x", "y", "z"))
    figures = [multiclass.weighted_metrics(spec, 2 * logits, place, each)(ones(len(place))) for each in (None, fitted)]
    assert figures[1]["log loss"] < figures[0]["log loss"]
    assert figures[1]["Brier score of x"] < figures[0]["Brier score of x"]
    assert figures[1]["mean AUROC"] == figures[0]["mean AUROC"]  # no class is ranked anew
    assert figures[1]["log loss"] == pytest.approx(metrics.log_loss(place[:, 0], softmax(2 * logits / found, axis=1)))


def test_losses_are_means_over_the_labels_that_there_are():
    torch.manual_seed(0)
    output, missing = torch.randn(6, 2), torch.tensor([[0, 1], [1, 0], [0, 0], [1, 1], [0, 0], [0, 0]]).bool()
    target = torch.randint(0, 2, (6, 2)).float().masked_fill(missing, torch.nan)
    known = ~missing
    loss = Loss(LOSS, spec=Spec("multilabel", ("a", "b"), 2))
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    assert loss(output, target) == pytest.approx(float(entropy(output[known], target[known])))
    assert loss.weight(target) == 8
    squared = Loss(LOSS, spec=Spec("regression", ("a", "b"), 2, (), (0.0, 0.0), (1.0, 1.0)))
    assert squared(output, target) == pytest.approx(float((output[known] - target[known]).square().mean()))
    classes = Loss(LOSS, spec=Spec("multiclass", ("a",), 3, ("x", "y", "z")))
    logits, place = torch.randn(4, 3), torch.tensor([[0.0], [2.0], [torch.nan], [1.0]])
    rows = [0, 1, 3]
    expected = torch.nn.functional.cross_entropy(logits[rows], torch.tensor([0, 2, 1]))
    assert classes(logits, place) == pytest.approx(float(expected))
    for each, missing_target in ((loss, target), (squared, target), (classes, place)):
        none = torch.full_like(missing_target, torch.nan)
        value, weight = each.with_weight(logits if each is classes else output, none)
        assert (float(value), float(weight)) == (0.0, 0.0)


def test_the_constant_prediction_is_the_best_without_looking_at_a_stay():
    rng = np.random.default_rng(4)
    labels = (rng.random((N, 2)) < (0.2, 0.7)).astype(float)
    ((name, output),) = multilabel.constant(Spec("multilabel", ("a", "b"), 2), labels, labels[:3]).items()
    assert (name, output.shape) == ("prevalence", (3, 2))
    assert expit(output[0]) == pytest.approx(labels.mean(axis=0))
    classes = rng.integers(0, 3, (N, 1)).astype(float)
    (output,) = multiclass.constant(Spec("multiclass", ("a",), 3, ("x", "y", "z")), classes, classes[:2]).values()
    assert softmax(output[0]) == pytest.approx(np.bincount(classes[:, 0].astype(int)) / N)
    spec = Spec("regression", ("a",), 1, (), (5.0,), (2.0,))
    (output,) = regression.constant(spec, classes, classes[:1]).values()
    assert regression.decode(spec, output).tolist() == [[5.0]]
    assert not regression.constant(spec, None, classes)


def test_baselines_learn_what_the_table_shows(monkeypatch):
    pytest.importorskip("lightgbm")
    rng = np.random.default_rng(5)
    table = rng.normal(size=(600, 3)).astype(np.float32)
    cells = np.stack([table[:, 0] > 0, table[:, 1] > 0.5], axis=1).astype(float)
    cases = {
        "multilabel": (Spec("multilabel", ("a", "b"), 2), holes(cells), "mean AUROC"),
        "multiclass": (
            Spec("multiclass", ("a",), 3, ("x", "y", "z")),
            np.digitize(table[:, :1], [-0.5, 0.5]).astype(float),
            "mean AUROC",
        ),
        "regression": (
            Spec("regression", ("a",), 1, (), (10.0,), (3.0,)),
            10 + 3 * table[:, :1].astype(float),
            "R² of a",
        ),
    }
    monkeypatch.setattr(fitting, "MOST_ROUNDS", 60)
    monkeypatch.setattr(fitting, "SEEDS", 1)
    for name, (spec, target, figure) in cases.items():
        train, valid = (table[:400], target[:400]), (table[400:], target[400:])
        for model, fit in TASKS[name].baselines(spec).items():
            output = fit(train, valid)(valid[0])
            assert output.shape == (200, spec.outputs)
            assert values(TASKS[name], spec, output, valid[1])[figure] > 0.4, (name, model)
    assert set(multilabel.baselines(cases["multilabel"][0])) == {"boosted trees", "logistic regression"}


@pytest.mark.parametrize(
    ("task", "names", "cells", "message"),
    [
        ("multilabel", ("a",), [["1"]], "allowed: two columns or more"),
        ("multilabel", ("a", "b"), [["1", "0"], ["0", "0"]], "the column 'b' has not both 0 and 1"),
        ("multilabel", ("a", "b"), [["1", "0"], ["2", "1"]], "the column 'a' has the value '2'; allowed: 0, 1, empty"),
        ("multiclass", ("a", "b"), [["1", "0"]], "allowed: one column"),
        ("multiclass", ("a",), [["x"], ["x"], [""]], "has 1 different values"),
        ("multiclass", ("a",), [[str(i)] for i in range(101)], "To predict a number use --task regression"),
        ("regression", ("a",), [["1.5"], ["x"]], "the column 'a' has the value 'x'; allowed: a number up to"),
        (
            "regression",
            ("a",),
            [["1"], ["-1e30"]],
            "the column 'a' has the value '-1e30'; allowed: a number up to 1e.12",
        ),
        ("regression", ("a",), [["1"], ["inf"]], "the value 'inf'"),
        ("regression", ("a", "b"), [["1", "2"], ["3", "2"]], "the column 'b' has not two different values"),
        ("regression", ("a",), [[""], [""]], "the column 'a' has not two different values"),
    ],
)
def test_labels_that_a_task_cannot_have_are_one_clear_error(task, names, cells, message):
    with pytest.raises(InputError, match=message):
        TASKS[task].fit(names, np.array(cells), "oc.csv")


def test_a_label_far_from_those_of_training_is_an_error():
    """Its square would be an infinite loss, which looks like a matter of learning rates."""
    spec = regression.fit(("days",), np.array([["1"], ["2"], ["3"]]), "oc.csv")
    target = regression.parse(spec, np.array([["2"], [""], ["3e9"]]), "oc.csv")
    with pytest.raises(InputError, match=r"the column 'days' .* has the value 3e.09, which is 3.7e.09 standard dev"):
        regression.encode(spec, target)


def test_classes_are_in_the_order_of_their_numbers_and_an_unknown_one_is_an_error():
    spec = multiclass.fit(("a",), np.array([["10"], ["9"], ["x"], [""], ["9"]]), "oc.csv")
    assert spec.classes == ("9", "10", "x")
    assert Spec.from_plain(spec.as_plain()) == spec
    np.testing.assert_array_equal(multiclass.parse(spec, np.array([["x"], [""]]), "f"), [[2.0], [np.nan]])
    with pytest.raises(InputError, match="the class 'y', which no training stay has; the classes are 9, 10, x"):
        multiclass.parse(spec, np.array([["y"]]), "f")
