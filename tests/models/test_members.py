"""The average of the members of a prediction: network, trees, and what else reads the table."""

import json

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import log_loss

from seqsetvae.models import trees
from seqsetvae.models.linear import LinearModel
from seqsetvae.models.members import Member, Members, chosen_weights, read_members
from seqsetvae.models.trees import BoostedTrees
from seqsetvae.system.errors import InputError


class _Column:
    """A member whose log-odds are a column of the table."""

    def __init__(self, column: int) -> None:
        self.column = column

    def log_odds(self, table: np.ndarray) -> np.ndarray:
        return table[:, self.column]


def _three(*weights: float) -> Members:
    models = (None, _Column(0), _Column(1))
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


def test_weights_are_those_of_the_lowest_log_loss_and_a_useless_member_has_hardly_any():
    label, log_odds = _labels_and_log_odds()
    weights = chosen_weights(log_odds, label)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    assert weights[2] < 0.05
    np.testing.assert_allclose(weights[:2], 0.5, atol=0.08)
    grid = [np.array([a, b, 100 - a - b]) / 100 for a in range(101) for b in range(101 - a)]
    best = min(log_loss(label, expit(each @ log_odds)) for each in grid[::7])
    assert log_loss(label, expit(weights @ log_odds)) < best + 1e-3


def test_the_fewer_stays_of_a_class_the_nearer_are_weights_to_equal_ones():
    label, log_odds = _labels_and_log_odds()
    distances = []
    for positives in (4, 40, 400):
        rows = np.concatenate([np.flatnonzero(label == 0)[:900], np.flatnonzero(label == 1)[:positives]])
        weights = chosen_weights(log_odds[:, rows], label[rows])
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
    from sklearn.linear_model import LogisticRegression

    table, label = _table()
    table[5, 0] = 1e6  # a typing error
    (found,) = LinearModel.fit(table, label, [0.01])
    mean, std = np.nanmean(table, axis=0, dtype=float), np.nanstd(table, axis=0, dtype=float)
    number = np.clip(np.nan_to_num((table - mean) / std), -3, 3)
    read = np.hstack([number, np.isnan(table)])
    read = (read - read.mean(axis=0)) / read.std(axis=0)
    plain = LogisticRegression(C=0.01, max_iter=1000).fit(read, label)
    np.testing.assert_allclose(found.log_odds(table), plain.decision_function(read), atol=1e-3)
    contributions, base = found.contributions(table)
    np.testing.assert_allclose(contributions.sum(axis=1) + base, found.log_odds(table))
    np.testing.assert_allclose(contributions.mean(axis=0), 0, atol=1e-6)


def test_what_is_chosen_out_of_fold_never_sees_the_stays_that_it_predicts(monkeypatch):
    """Where the label of a stay is nowhere but in a column of its own, out of fold nothing can be known of it."""
    monkeypatch.setattr(trees, "ROUNDS", 100)
    rng = np.random.default_rng(0)
    table, label = rng.normal(size=(300, 5)).astype(np.float32), np.arange(300) % 2
    parts = [(np.flatnonzero(np.arange(300) % 3 != k), np.flatnonzero(np.arange(300) % 3 == k)) for k in range(3)]
    grown, of_trees = BoostedTrees.of_best_length(table, label, trees.RANDOM, 1, parts)
    _, of_linear = LinearModel.of_best_strength(table, label, parts)
    for log_odds in (of_trees, of_linear):
        assert abs(((log_odds > 0) == label).mean() - 0.5) < 0.12
    n_trees = grown.models[0].count("Tree=")
    assert n_trees < 20  # noise is not learned for long


def _all_kinds(monkeypatch: pytest.MonkeyPatch) -> tuple[Members, np.ndarray]:
    monkeypatch.setattr(trees, "ROUNDS", 20)
    table, label = _table()
    (linear,) = LinearModel.fit(table, label, [0.01])
    grown = BoostedTrees.fit(table, label, 3)
    first, second = BoostedTrees(grown.models[:1]), BoostedTrees(grown.models[1:])
    of = (
        Member("network", 0.25, None, 0.5),
        Member("trees", 0.25, first, 0.5),
        Member("random trees", 0.375, second, 0.5),
        Member("linear model", 0.125, linear, 0.5),
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
    plain = Members.fixed(grown).as_plain()
    assert plain == {"trees": grown.models}
    found, logits = read_members(plain), torch.randn(len(table), 2)
    assert found is not None
    of_trees = torch.from_numpy(grown.log_odds(table)).to(logits)
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
