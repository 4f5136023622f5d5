"""Boosted trees: the teacher never rates a stay that it has seen, and a model read back predicts the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from seqsetvae import trees
from seqsetvae.errors import InputError
from seqsetvae.trees import BoostedTrees, average_with_trees, out_of_fold_log_odds, soft_labels, trees_alone

pytest.importorskip("lightgbm", reason="boosted trees need lightgbm")


def _noise(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """A table and labels that have nothing to do with it."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 30)).astype(np.float32), (rng.random(n) < 0.3).astype(int)


def test_the_teacher_has_not_seen_the_stays_that_it_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "TEACHER_ROUNDS", 60)
    monkeypatch.setattr(trees, "ROUNDS", 60)
    table, label = _noise()
    own = roc_auc_score(label, BoostedTrees.fit(table, label, models=1).log_odds(table))
    out_of_fold = roc_auc_score(label, out_of_fold_log_odds(table, label))
    assert own > 0.9  # trees remember the labels of noise
    assert out_of_fold < 0.6  # and must not hand them to the network


def test_soft_labels_mix_label_and_probability() -> None:
    found = soft_labels(np.array([0.0, np.log(3.0)]), np.array([1, 0]), weight=0.6)
    assert found == pytest.approx([0.4 + 0.6 * 0.5, 0.6 * 0.75])
    assert found.dtype == np.float32


def test_models_read_back_predict_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "ROUNDS", 20)
    table, label = _noise()
    table[::3, 5] = np.nan
    grown = BoostedTrees.fit(table, label, models=2)
    assert np.array_equal(BoostedTrees(grown.as_plain()).log_odds(table), grown.log_odds(table))
    one, two = (BoostedTrees([model]).log_odds(table) for model in grown.models)
    assert not np.array_equal(one, two)  # another seed
    np.testing.assert_allclose(grown.log_odds(table), (one + two) / 2)


def test_the_average_is_a_weighted_mean_of_log_odds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "ROUNDS", 20)
    table, label = _noise()
    grown = BoostedTrees.fit(table, label, models=1)
    logits = torch.tensor([[0.5, -0.5]]).repeat(len(table), 1).double()
    found = average_with_trees(logits, grown, table).diff(dim=1).squeeze(1).numpy()
    np.testing.assert_allclose(found, 0.3 * -1 + 0.7 * grown.log_odds(table))
    parts = torch.from_numpy(found), torch.full((len(table),), -1.0, dtype=torch.float64)
    np.testing.assert_allclose(trees_alone(*parts).numpy(), grown.log_odds(table))


def test_a_damaged_model_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="the boosted trees of the checkpoint are damaged"):
        BoostedTrees(["no model"])
