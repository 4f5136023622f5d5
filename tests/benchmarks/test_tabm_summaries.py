"""TabM on a table of summaries: it learns from the table, and nothing of the other table reaches its training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import tabm_summaries
from benchmarks.tabm_summaries import fit_and_predict, prepared


def _table(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A column that says the label, one of noise with missing numbers, one that is constant."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    noise = np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n))
    return np.column_stack([label + 0.1 * rng.normal(size=n), noise, np.ones(n)]).astype(np.float32), label


def test_missing_numbers_have_a_column_and_constant_columns_are_left_out() -> None:
    table, _ = _table(100, 0)
    first, second = prepared(table, table[:5])
    assert first.shape == (100, 3)  # label, noise, whether noise is missing
    missing = torch.from_numpy(np.isnan(table[:, 1]))
    assert torch.equal(first[:, 2] == 1, missing)
    assert not first[missing, 1].any()
    torch.testing.assert_close(second, first[:5])


def test_other_rows_are_ranked_by_what_was_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabm_summaries, "BATCH_SIZE", 32)
    torch.manual_seed(0)
    table, label = _table(200, 0)
    other, of_other = _table(50, 1)
    logit = fit_and_predict(table, label, other)
    assert logit[of_other == 1].min() > logit[of_other == 0].max()
