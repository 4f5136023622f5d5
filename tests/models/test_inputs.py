"""What the inputs of a model of summaries contribute: they and a base add up to the score, also of the average."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.checkpoint.finetuned import FinetunedModel
from seqsetvae.models import trees, variable_summaries
from seqsetvae.models.head import EnsembleHead, Head
from seqsetvae.models.members import Members
from seqsetvae.models.trees import BoostedTrees
from seqsetvae.models.variable_summaries import inputs
from seqsetvae.models.variable_summaries.backbone import LEARNED
from seqsetvae.models.variable_summaries.inputs import ABSENT, IS_HIGH, IS_LOW, MISSING, PRESENT, USUAL
from seqsetvae.models.variable_summaries.sizes import Sizes
from seqsetvae.models.variable_summaries.summaries import SUMMARIES
from seqsetvae.system.errors import InputError
from tests import tiny
from tests.models.test_variable_summaries import NAMES, VARIABLES, _cohort

STAYS = tiny.ragged_stays() + tiny.ragged_stays(seed=1) + tiny.ragged_stays(seed=2)


def _model(head: Any, **sizes: Any) -> tuple[FinetunedModel, Any]:
    """A model in double precision, fitted to the stays of a batch."""
    batch = tiny.batch_of(STAYS)
    torch.manual_seed(0)
    network = variable_summaries.build(Sizes(input_dim=12, vocabulary=NAMES, summary_width=6, **sizes)).double()
    network.fit(_cohort(), [batch])
    return FinetunedModel(network, head.double(), "last").eval(), batch


def _scores(model: FinetunedModel, batch: Any) -> np.ndarray:
    with torch.no_grad():
        return model.score(model(batch, VARIABLES)).numpy()


@pytest.mark.parametrize("head", [Head(6, 5, 0.1), EnsembleHead(6, 5, 0.1, members=3)])
def test_contributions_to_the_network_add_up_to_its_score(head, monkeypatch):
    model, batch = _model(head)
    scores = _scores(model, batch)
    gaps = []
    for steps in (4, 256):
        monkeypatch.setattr(inputs, "STEPS", steps)
        found, base = model.contributions(batch, VARIABLES)
        gaps.append(np.abs(found.sum(axis=1) + base - scores).max())
    assert gaps[1] < min(gaps[0], 1e-3)
    assert np.abs(scores - base).max() > 100 * gaps[1]
    assert not found[:, ~model.backbone.inputs.used].any()


def test_contributions_of_a_linear_network_are_weight_times_difference_from_the_training_mean():
    class Linear(torch.nn.Module):
        def forward(self, units: torch.Tensor) -> torch.Tensor:
            return torch.stack([units.sum(1) * 0, units.sum(1)], dim=1)

    model, batch = _model(Linear())
    backbone = model.backbone
    with torch.no_grad():
        backbone.bias += 1e3  # no unit is 0
    found, base = model.contributions(batch, VARIABLES)
    np.testing.assert_allclose(found.sum(axis=1) + base, _scores(model, batch))
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-7)  # over the training stays, which these are
    summaries, row = backbone.summaries(batch, VARIABLES), 3 * len(SUMMARIES) + SUMMARIES.index("mean")
    weight = backbone.weight.detach().view(-1, 2, 6).sum(2)[row].numpy()
    place = np.full(len(STAYS), np.nan)
    is_own = summaries.variable == 3
    place[summaries.stay[is_own]] = summaries.places[is_own, SUMMARIES.index("mean"), 0]
    there = ~np.isnan(place)
    expected = np.nan_to_num(place) * weight[0] + (there - there.mean()) * weight[1]
    np.testing.assert_allclose(found[:, row], expected, atol=1e-7)


@pytest.mark.parametrize("forecasts", [0, 2 * tiny.VARIABLES])
def test_contributions_to_the_average_are_those_of_its_members_with_their_weights(forecasts, monkeypatch):
    pytest.importorskip("lightgbm", reason="boosted trees need lightgbm")
    monkeypatch.setattr(trees, "ROUNDS", 10)
    model, batch = _model(Head(6, 5, 0.1), forecasts=forecasts)
    backbone = model.backbone
    for name in LEARNED * bool(forecasts):  # which are not initialized: a checkpoint has them
        torch.nn.init.normal_(getattr(backbone, name))
    alone, base = model.contributions(batch, VARIABLES)
    table = backbone.table(batch, VARIABLES)
    assert len(backbone.inputs.of_column) == table.shape[1]
    label = table[:, -1] > np.median(table[:, -1]) if forecasts else np.arange(len(STAYS)) % 2
    grown = BoostedTrees.fit(table, label.astype(int), models=2)
    model.members = Members.fixed((grown,))
    found, of_average = model.contributions(batch, VARIABLES)
    np.testing.assert_allclose(found.sum(axis=1) + of_average, _scores(model, batch), atol=5e-3)
    of_trees, their_base = grown.contributions(table)
    assert of_trees.any()
    np.testing.assert_allclose(of_average, 0.3 * base + 0.7 * their_base)
    by_input = (found - 0.3 * alone) / 0.7
    np.testing.assert_allclose(by_input.sum(axis=1), of_trees.sum(axis=1), atol=1e-9)
    for column, place in enumerate(backbone.inputs.of_column[: backbone.inputs.of_column.max()]):
        if (backbone.inputs.of_column == place).sum() == 1:
            np.testing.assert_allclose(by_input[:, place], of_trees[:, column], atol=1e-9)
    assert backbone.inputs.used[-1] == (forecasts > 0)
    assert by_input[:, -1].any() == (forecasts > 0)


def test_values_are_in_their_units_and_low_or_high_among_the_training_stays():
    model, batch = _model(Head(6, 5, 0.1))
    backbone = model.backbone
    backbone.mean[3], backbone.std[3] = 100.0, 10.0
    backbone.edges[4] = backbone.edges[4, :, :1]  # a fact: one value
    summaries = backbone.summaries(batch, VARIABLES)
    value, level = backbone.inputs.describe(summaries, len(STAYS))
    assert value.shape == level.shape == (len(STAYS), len(backbone.inputs.names))
    for name, factor, shift in (
        ("last", 10, 100),
        ("std", 10, 0),
        ("slope", 10, 0),
        ("count", 1, 0),
        ("hour_last", 1, 0),
    ):
        column = backbone.inputs.names.index(("v3", name))
        is_own = summaries.variable == 3
        own = summaries.values[is_own, SUMMARIES.index(name)].numpy()
        found = value[summaries.stay[is_own], column]
        np.testing.assert_allclose(found, own * factor + shift)
        assert np.isnan(np.delete(value[:, column], summaries.stay[is_own])).all()
        low, high = np.quantile(own[np.isfinite(own)], [0.25, 0.75])
        expected = np.where(np.isnan(own), MISSING, np.where(own < low, IS_LOW, np.where(own > high, IS_HIGH, USUAL)))
        assert level[summaries.stay[is_own], column].tolist() == expected.tolist()
    of_fact = level[:, backbone.inputs.names.index(("v4", "last"))]
    there = np.isin(np.arange(len(STAYS)), summaries.stay[summaries.variable == 4])
    assert of_fact.tolist() == np.where(there, PRESENT, ABSENT).tolist()


def test_a_backbone_of_an_earlier_version_predicts_and_says_why_it_cannot_be_explained():
    model, batch = _model(Head(6, 5, 0.1))
    old = {name: value for name, value in model.state_dict().items() if "presence" not in name}
    other, _ = _model(Head(6, 5, 0.1))
    other.load_state_dict(old)
    assert np.array_equal(_scores(other, batch), _scores(model, batch))
    with pytest.raises(InputError, match="because an earlier version fitted it"):
        other.contributions(batch, VARIABLES)
