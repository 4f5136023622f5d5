"""The average of the members of a prediction: network, trees, and what else reads the table."""

from __future__ import annotations

import numpy as np
import torch

from seqsetvae.models.members import Member, Members


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


def test_the_average_is_a_weighted_mean_of_log_odds() -> None:
    rng = np.random.default_rng(0)
    table, logits = rng.normal(size=(9, 2)), torch.from_numpy(rng.normal(size=(9, 2)))
    found = _three(0.5, 0.2, 0.3).average(logits, lambda: table).diff(dim=1)[:, 0]
    network = (logits[:, 1] - logits[:, 0]).numpy()
    np.testing.assert_allclose(found, 0.5 * network + 0.2 * table[:, 0] + 0.3 * table[:, 1])


def test_a_member_alone_predicts_its_own_log_odds_and_the_network_needs_no_table() -> None:
    table, logits = np.array([[1.0, 2.0]]), torch.tensor([[-3.0, 4.0]]).double()
    of_each = {
        name: _three(0.5, 0.2, 0.3).alone(name).average(logits, lambda: table).diff(dim=1).item()
        for name in ("network", "one", "two")
    }
    assert of_each == {"network": 7.0, "one": 1.0, "two": 2.0}

    def no_table() -> np.ndarray:
        raise AssertionError

    assert _three(1.0, 0.0, 0.0).average(logits, no_table).diff(dim=1).item() == 7.0
