"""Beginnings of stays: which sets they keep, and that predicting them is predicting the stays cut off by hand."""

import contextlib

import numpy as np
import pytest
import torch

from seqsetvae.batches.loading import CohortDataModule, collate
from seqsetvae.checkpoint.finetuned import FinetunedModel
from seqsetvae.cohort import Split
from seqsetvae.evaluation.predictions import (
    PREFIX_POOLINGS,
    Prefixes,
    every_prefix,
    is_causal,
    predict_every_set,
    predict_prefixes,
    until_hour,
)
from seqsetvae.models.backbone import BackboneBase
from seqsetvae.models.head import Head
from seqsetvae.ops.pooling import POOLINGS, pool
from tests import tiny
from tests.prefixes import cut_after


def _split() -> Split:
    """Two stays: sets after 1 and 5 hours, and after 2, 6 and 9 hours."""
    event = [(0, 1.0)]
    return tiny.split_of([[(60.0, event), (300.0, event)], [(120.0, event), (360.0, event), (540.0, event)]])


def test_every_set_ends_one_beginning():
    found = every_prefix(_split())
    assert (found.stay.tolist(), found.n_sets.tolist()) == ([0, 0, 1, 1, 1], [1, 2, 1, 2, 3])
    assert found.last_set(_split()).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("hours", "stays", "n_sets"), [(0.5, [], []), (1, [0], [1]), (6, [0, 1], [2, 2]), (100, [0, 1], [2, 3])]
)
def test_a_landmark_keeps_the_sets_of_the_first_hours(hours, stays, n_sets):
    found = until_hour(_split(), hours)
    assert (found.stay.tolist(), found.n_sets.tolist()) == (stays, n_sets)


@pytest.mark.parametrize("max_sets", [None, 2])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_predictions_are_those_of_the_stays_cut_off_by_hand(compiled, batch_size, max_sets):
    model = FinetunedModel(tiny.tiny_backbone(dtype=torch.float64), Head(64, 4, 0.0).double(), "last_mean").eval()
    table, split = torch.from_numpy(compiled.embeddings.copy()), compiled.split("valid")
    data = CohortDataModule(
        compiled, batch_size=batch_size, max_events=500, max_sets=max_sets, dtype=np.float64, labelled=False
    )
    chosen = Prefixes(np.array([5, 0, 5, 2]), np.array([3, 1, 1, 4]))
    found = predict_prefixes(model, table, data, "valid", chosen, contextlib.nullcontext())
    for logit, stay, n_sets in zip(found, chosen.stay, chosen.n_sets, strict=True):
        cut, change = cut_after(split, int(stay), int(n_sets)), compiled.variables.z_scores
        alone = collate(cut, np.array([0]), max_sets, np.float64, change=change)
        with torch.no_grad():
            assert logit[0] == pytest.approx(model(alone, table).diff(dim=1).item(), abs=1e-12)


def test_no_beginning_has_no_prediction(compiled):
    model = FinetunedModel(tiny.tiny_backbone(), Head(64, 4, 0.0), "last_mean").eval()
    data = CohortDataModule(compiled, batch_size=8, max_events=500)
    nothing = Prefixes(np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    found = predict_prefixes(model, torch.zeros(1), data, "valid", nothing, contextlib.nullcontext())
    assert len(found) == 0


def test_one_pass_over_whole_stays_gives_every_beginning_in_the_order_of_the_split(compiled):
    model = FinetunedModel(tiny.tiny_backbone(dtype=torch.float64), Head(64, 4, 0.0).double(), "last_mean").eval()
    table, every = torch.from_numpy(compiled.embeddings.copy()), every_prefix(compiled.split("valid"))
    data = CohortDataModule(compiled, batch_size=7, max_events=10**6, dtype=np.float64, labelled=False)
    inputs = model, table, data, "valid"
    assert is_causal(model)
    found = predict_every_set(*inputs, contextlib.nullcontext())
    np.testing.assert_allclose(found, predict_prefixes(*inputs, every, contextlib.nullcontext()), rtol=0, atol=1e-12)


def test_every_pooling_has_its_prefix_form():
    assert PREFIX_POOLINGS.keys() == POOLINGS.keys()


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_prefix_pooling_equals_pooling_of_the_cut_stay(pooling, compiled):
    split, stays = compiled.split("valid"), np.array([2, 0, 5])
    backbone, table = tiny.tiny_backbone(dtype=torch.float64), torch.from_numpy(compiled.embeddings.copy())
    change = compiled.variables.z_scores
    batch = collate(split, stays, dtype=np.float64, change=change)
    with torch.no_grad():
        found = PREFIX_POOLINGS[pooling](backbone.states(batch, table), batch)
        row = 0
        for stay in stays:
            for n_sets in range(1, int(split.stay_offset[stay + 1] - split.stay_offset[stay]) + 1):
                alone = collate(cut_after(split, int(stay), n_sets), np.array([0]), dtype=np.float64, change=change)
                expected = pool(backbone.states(alone, table), alone.sets_per_stay, pooling)
                torch.testing.assert_close(found[row : row + 1], expected, rtol=0, atol=1e-12)
                row += 1
    assert row == len(found)


def test_an_architecture_without_states_predicts_each_beginning_by_itself():
    assert is_causal(FinetunedModel(tiny.tiny_backbone(), Head(32, 2, 0.0), "mean"))
    assert not is_causal(FinetunedModel(BackboneBase(), Head(2, 2, 0.0), "mean"))
