"""The average of the members of a prediction: network, trees, and what else reads the table."""

import json

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from seqsetvae.models import linear, trees
from seqsetvae.models.linear import fit, fit_best, outputs_of
from seqsetvae.models.linear import log_loss as calibrated
from seqsetvae.models.members import Member, Members, chosen_weights, read_members
from seqsetvae.models.trees import BoostedTrees
from seqsetvae.system.errors import InputError
from seqsetvae.tasks import fitting


class _Column:
    """A member whose log-odds are a column of the table."""

    def __init__(self, column: int) -> None:
        self.column = column

    def outputs(self, table: np.ndarray) -> np.ndarray:
        return table[:, [self.column]]


def _three(*weights: float) -> Members:
    models = ((), (_Column(0),), (_Column(1),))
    names = ("network", "one", "two")
    return Members(tuple(Member(*each) for each in zip(names, weights, models, strict=True)))


def test_the_average_is_a_weighted_mean_of_log_odds():
    rng = np.random.default_rng(0)
    table, logits = rng.normal(size=(9, 2)), torch.from_numpy(rng.normal(size=(9, 2)))
    found = _three(0.5, 0.2, 0.3).average(logits, lambda: table).diff(dim=1)[:, 0]
    network = (logits[:, 1] - logits[:, 0]).numpy()
    np.testing.assert_allclose(found, 0.5 * network + 0.2 * table[:, 0] + 0.3 * table[:, 1])


def test_a_member_alone_predicts_its_own_log_odds_and_the_network_needs_no_table():
    table, logits = np.array([[1.0, 2.0]]), torch.tensor([[-3.0, 4.0]]).double()
    of_each = {
        name: _three(0.5, 0.2, 0.3).alone(name).average(logits, lambda: table).diff(dim=1).item()
        for name in ("network", "one", "two")
    }
    assert of_each == {"network": 7.0, "one": 1.0, "two": 2.0}

    def no_table() -> np.ndarray:
        raise AssertionError

    assert _three(1.0, 0.0, 0.0).average(logits, no_table).diff(dim=1).item() == 7.0


def _labels_and_log_odds(n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and log-odds of two members that each know a half of the truth, and of one that knows nothing: [3, n]."""
    rng = np.random.default_rng(0)
    halves = rng.normal(size=(2, n)) * 1.5
    label = (rng.random(n) < expit(halves.sum(axis=0) - 1)).astype(int)
    return label, np.stack([2 * halves[0] - 1, 2 * halves[1] - 1, rng.normal(size=n)])


def _chosen(log_odds: np.ndarray, label: np.ndarray) -> np.ndarray:
    def loss(outputs: np.ndarray) -> np.ndarray:
        return calibrated(outputs, label)

    return chosen_weights(log_odds[..., None], loss, np.bincount(label).min())


def test_weights_are_those_of_the_lowest_log_loss_and_a_useless_member_has_hardly_any():
    label, log_odds = _labels_and_log_odds()
    weights = _chosen(log_odds, label)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    assert weights[2] < 0.05
    np.testing.assert_allclose(weights[:2], 0.5, atol=0.08)
    grid = [np.array([a, b, 100 - a - b]) / 100 for a in range(101) for b in range(101 - a)]
    best = min(log_loss(label, expit(each @ log_odds)) for each in grid[::20])
    assert log_loss(label, expit(weights @ log_odds)) < best + 1e-3


def test_models_are_compared_after_calibration():
    """An intercept does not matter; a scale does, so that noise is worse than no model."""
    label, log_odds = _labels_and_log_odds()
    good = log_odds[0]
    found = calibrated(np.stack([good, good - 4, good + 5, np.zeros_like(good), log_odds[2]])[..., None], label)
    best = min(log_loss(label, expit(good + add)) for add in np.linspace(-3, 3, 601))
    np.testing.assert_allclose(found[:3], best, atol=1e-5)
    assert found[3] == pytest.approx(log_loss(label, np.full(len(label), label.mean())), abs=1e-6)
    assert found[4] > found[3]
    separated = calibrated((60.0 * label - 50)[None, :, None], label)
    assert 0 <= separated[0] < 1e-3


def test_the_fewer_stays_of_a_class_the_nearer_are_weights_to_equal_ones():
    label, log_odds = _labels_and_log_odds()
    distances = []
    for positives in (4, 40, 400):
        rows = np.concatenate([np.flatnonzero(label == 0)[:900], np.flatnonzero(label == 1)[:positives]])
        weights = _chosen(log_odds[:, rows], label[rows])
        assert weights.sum() == pytest.approx(1)
        distances.append(np.abs(weights - 1 / 3).max())
    assert distances == sorted(distances)
    assert distances[0] < 0.1


def _table(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """A table with missing cells, whose third column decides the label."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(n, 6)).astype(np.float32)
    table[rng.random(table.shape) < 0.2] = np.nan
    return table, (np.nan_to_num(table[:, 2]) + rng.normal(size=n) / 3 > 0.2).astype(int)


def test_a_linear_model_is_logistic_regression_on_clipped_numbers_and_flags():
    table, label = _table()
    table[5, 0] = 1e6  # a typing error
    ((found,),) = fit(table, label, [0.01])
    mean, std = np.nanmean(table, axis=0, dtype=float), np.nanstd(table, axis=0, dtype=float)
    number = np.clip(np.nan_to_num((table - mean) / std), -3, 3)
    read = np.hstack([number, np.isnan(table)])
    read = (read - read.mean(axis=0)) / read.std(axis=0)
    plain = LogisticRegression(C=0.01, max_iter=1000).fit(read, label)
    np.testing.assert_allclose(found.outputs(table)[:, 0], plain.decision_function(read), atol=1e-3)
    contributions, base = found.contributions(table)
    np.testing.assert_allclose(contributions.sum(axis=1) + base, found.outputs(table)[:, 0])
    np.testing.assert_allclose(contributions.mean(axis=0), 0, atol=1e-6)


def test_the_weight_of_a_fact_is_that_of_so_many_copies_of_its_column():
    table, label = _table()
    fact = np.where((np.arange(len(label)) % 5 == 0)[:, None], np.float32(0.1), np.nan)
    copies = np.hstack([table, fact.repeat(4, axis=1)])
    ((of_copies,),) = fit(copies, label, [1e-4])
    for weight, equal in ((4.0, True), (1.0, False)):
        once = np.hstack([table, fact])
        ((weighted,),) = fit(once, label, [1e-4], fact_weight=weight)
        assert np.allclose(weighted.outputs(once), of_copies.outputs(copies), atol=1e-4) == equal
    label = (np.nan_to_num(fact[:, 0]) > 0).astype(int)
    parts = [(np.arange(400) % 2 == k, np.arange(400) % 2 != k) for k in range(2)]
    ((chosen,), _) = fit_best(once, label, [tuple(np.flatnonzero(side) for side in part) for part in parts])
    ((heavy,),) = fit(once, label, linear.STRENGTHS[-1:], fact_weight=4.0)
    np.testing.assert_array_equal(chosen.missing, heavy.missing)


def test_what_is_chosen_out_of_fold_never_sees_the_stays_that_it_predicts(monkeypatch):
    """Where the label of a stay is nowhere but in a column of its own, out of fold nothing can be known of it."""
    monkeypatch.setattr(trees, "ROUNDS", 100)
    rng = np.random.default_rng(0)
    table, label = rng.normal(size=(300, 5)).astype(np.float32), np.arange(300) % 2
    parts = [(np.flatnonzero(np.arange(300) % 3 != k), np.flatnonzero(np.arange(300) % 3 == k)) for k in range(3)]
    (grown,), of_trees = BoostedTrees.of_best_length(table, label, parts, trees.RANDOM, 1)
    _, of_linear = fit_best(table, label, parts)
    for log_odds in (of_trees, of_linear):
        assert abs(((log_odds[:, 0] > 0) == label).mean() - 0.5) < 0.12
    n_trees = grown.models[0].count("Tree=")
    assert n_trees < 20  # noise is not learned for long


def test_classes_are_fitted_as_multinomial_regression_also_where_some_are_absent():
    table, label = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32), np.arange(300) % 3
    table[:, 0] += label
    objective = fitting.classes(3)
    (found,) = fit(table, label, [0.1], objective.solve)
    read = np.clip((table - table.mean(axis=0)) / table.std(axis=0), -3, 3)
    expected = LogisticRegression(C=0.1, max_iter=1000).fit(read, label).predict_log_proba(read)
    outputs = outputs_of(found, table)
    np.testing.assert_allclose(softmax(outputs, axis=1), np.exp(expected), atol=5e-3)  # clipped, then standardized
    np.testing.assert_allclose(objective.loss(outputs[None], label), [log_loss(label, softmax(outputs, axis=1))])
    for present in ([0, 2], [1]):  # a fold may lack some
        rows = np.isin(label, present)
        (found,) = fit(table[rows], label[rows], [0.1], objective.solve)
        risk = softmax(outputs_of(found, table), axis=1)
        assert risk.shape == (300, 3)
        assert (risk[:, [c for c in range(3) if c not in present]] < 0.01).all()


def test_numbers_are_fitted_by_ridge_regression_and_labels_of_one_class_by_a_constant():
    table = np.random.default_rng(0).uniform(size=(200, 3)).astype(np.float32)
    number = 2 * table[:, 1] + 1
    ((found,),) = fit(table, number, [1e3], fitting.NUMBERS.solve)
    np.testing.assert_allclose(found.outputs(table)[:, 0], number, atol=0.05)
    assert fitting.NUMBERS.loss(found.outputs(table)[None], number) < 0.01
    ((found,),) = fit(table, np.ones(200), [1.0])
    np.testing.assert_allclose(found.outputs(table), np.log(201))


def test_each_column_of_targets_is_fitted_on_the_stays_that_have_it():
    table = np.arange(12.0)[:, None]
    targets = np.stack([np.where(np.arange(12) < 8, 1.0, np.nan), np.arange(12.0)], axis=1)
    parts = [(np.arange(6), np.arange(6, 12)), (np.arange(6, 12), np.arange(6))]
    seen = []

    def mean(rows, target, of_column):
        seen.append((rows[:, 0].tolist(), [tuple(each.tolist() for each in part) for part in of_column]))
        outputs = np.zeros((len(rows), 1))
        for grown_on, held_out in of_column:
            outputs[held_out] = target[grown_on].mean()
        return (target.mean(),), outputs

    fitted, outputs = fitting.fit_each_target(mean, table, targets, parts)
    assert fitted == [1.0, 5.5]
    assert seen[0] == (list(range(8)), [(list(range(6)), [6, 7]), ([6, 7], list(range(6)))])
    np.testing.assert_array_equal(outputs[:, 1], [8.5] * 6 + [2.5] * 6)
    np.testing.assert_array_equal(np.isnan(outputs[:, 0]), np.isnan(targets[:, 0]))
    loss = fitting.mean_loss(fitting.NUMBERS, targets, np.stack([outputs, outputs + 1]))
    errors = [(outputs + add - targets) ** 2 for add in (0, 1)]
    np.testing.assert_allclose(loss, [np.nanmean(each) for each in errors])


def test_members_of_several_outputs_are_read_back_and_average_logits_as_they_are(monkeypatch):
    monkeypatch.setattr(trees, "ROUNDS", 5)
    table, label = _table()
    place = np.arange(len(table)) % 3
    objective = fitting.classes(3)
    grown = BoostedTrees.fit(table, place, 2, objective.trees)
    (linear,) = fit(table, place, [0.1], objective.solve)
    of = (
        Member("network", 0.5, (), 0.5),
        Member("trees", 0.25, (grown,), 0.5),
        Member("linear model", 0.25, linear, 0.5),
    )
    found = read_members(json.loads(json.dumps(Members(of).as_plain())))
    assert found is not None
    logits = torch.randn(len(table), 3).double()
    mean = 0.5 * logits.numpy() + 0.25 * grown.outputs(table) + 0.25 * outputs_of(linear, table)
    np.testing.assert_allclose(found.average(logits, lambda: table), mean)
    with pytest.raises(InputError, match="has 3 outputs, the network 4"):
        found.average(torch.randn(len(table), 4), lambda: table)
    two = Members.fixed((grown, BoostedTrees.fit(table, label, 2)))
    again = read_members(json.loads(json.dumps(two.as_plain())))
    assert again is not None
    assert [model.models for model in again.of[1].models] == [model.models for model in two.of[1].models]


def test_contributions_to_a_number_are_in_its_unit(monkeypatch):
    monkeypatch.setattr(trees, "ROUNDS", 20)
    table, label = _table()
    grown = BoostedTrees.fit(table, label + np.nan_to_num(table[:, 1]), 2, fitting.NUMBERS.trees)
    members, (std, mean) = Members((Member("network", 0.25), Member("trees", 0.75, (grown,)))), (3.0, 10.0)
    of_network = np.zeros((len(table), table.shape[1])), 0.5 * std + mean
    found, base = members.contributions(of_network, table, lambda columns: columns, (std, mean))
    average = 0.25 * 0.5 + 0.75 * grown.outputs(table)[:, 0]
    np.testing.assert_allclose(found.sum(axis=1) + base, average * std + mean)


def _all_kinds(monkeypatch: pytest.MonkeyPatch) -> tuple[Members, np.ndarray]:
    monkeypatch.setattr(trees, "ROUNDS", 20)
    table, label = _table()
    ((linear,),) = fit(table, label, [0.01])
    grown = BoostedTrees.fit(table, label, 3)
    first, second = BoostedTrees(grown.models[:1]), BoostedTrees(grown.models[1:])
    of = (
        Member("network", 0.25, (), 0.5),
        Member("trees", 0.25, (first,), 0.5),
        Member("random trees", 0.375, (second,), 0.5),
        Member("linear model", 0.125, (linear,), 0.5),
    )
    return Members(of), table


def test_members_read_from_a_checkpoint_predict_the_same(monkeypatch):
    members, table = _all_kinds(monkeypatch)
    logits = torch.randn(len(table), 2)
    found = read_members(json.loads(json.dumps(members.as_plain())))
    assert found is not None
    assert found.said() == members.said()
    assert torch.equal(found.average(logits, lambda: table), members.average(logits, lambda: table))


def test_a_checkpoint_with_trees_and_no_weights_predicts_as_before(monkeypatch):
    monkeypatch.setattr(trees, "ROUNDS", 20)
    table, label = _table()
    grown = BoostedTrees.fit(table, label, 3)
    plain = Members.fixed((grown,)).as_plain()
    assert plain == {"trees": grown.models}
    found, logits = read_members(plain), torch.randn(len(table), 2)
    assert found is not None
    of_trees = torch.from_numpy(grown.outputs(table)[:, 0]).to(logits)
    mean = 0.3 * (logits[:, 1] - logits[:, 0]) + (1 - 0.3) * of_trees
    assert torch.equal(found.average(logits, lambda: table), torch.stack([-mean / 2, mean / 2], dim=1))
    assert read_members({}) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({0: {"weight": 0.5}}, "do not add up to 1"),
        ({0: {"weight": -0.25}, 1: {"weight": 0.75}}, "has the weight -0.25"),
        ({0: {"weight": float("nan")}}, "has the weight nan"),
        ({0: {"name": 3}}, "3 has the weight"),
        ({1: {"texts": 7}}, "texts of trees belong to none"),
        ({1: {"texts": "1"}}, "unsupported operand"),
        ({3: {"linear": {}}}, "the linear model is incomplete"),
    ],
)
def test_damaged_members_are_one_clear_error(change, problem, monkeypatch):
    plain = _all_kinds(monkeypatch)[0].as_plain()
    for place, values in change.items():
        plain["members"][place] |= values
    with pytest.raises(InputError, match=f"the members of the checkpoint are damaged .*{problem}|are damaged"):
        read_members(plain)


@pytest.mark.parametrize("name", ["intercept", "slope", "missing", "low", "high", "mean"])
@pytest.mark.parametrize("values", [[], [1.0], [float("inf")] * 6, ["a"] * 6, None])
def test_a_damaged_linear_model_is_one_clear_error(name, values, monkeypatch):
    if name == "intercept" and values == [1.0]:
        return
    plain = _all_kinds(monkeypatch)[0].as_plain()
    plain["members"][3]["linear"][name] = values
    with pytest.raises(InputError, match="the members of the checkpoint are damaged"):
        read_members(plain)
