"""Pooling the states up to each set gives what pooling the stay cut off after it gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seqsetvae.cohort import Cohort
from seqsetvae.evaluation.every_set import PREFIX_POOLINGS, EverySet, is_causal
from seqsetvae.evaluation.load import FinetunedModel
from seqsetvae.head import Head
from seqsetvae.loading import collate
from seqsetvae.ops.pooling import POOLINGS, pool
from tests import tiny
from tests.prefixes import cut_after


def test_every_pooling_has_its_prefix_form() -> None:
    assert PREFIX_POOLINGS.keys() == POOLINGS.keys()


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_prefix_pooling_equals_pooling_of_the_cut_stay(pooling: str, compiled: Cohort) -> None:
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


def _every_set() -> EverySet:
    """Stays 7 (two sets, after 1 and 5 hours) and 3 (three sets, after 2, 6 and 9 hours)."""
    stay_id, set_index = np.array([7, 7, 3, 3, 3]), np.array([0, 1, 0, 1, 2])
    return EverySet(stay_id, set_index, np.array([60.0, 300.0, 120.0, 360.0, 540.0]), np.arange(5.0))


def test_rows_are_put_in_the_order_of_the_stays() -> None:
    ordered = _every_set().ordered(np.array([3, 7]))
    assert ordered.stay_id.tolist() == [3, 3, 3, 7, 7]
    assert ordered.logit.tolist() == [2, 3, 4, 0, 1]


def test_an_architecture_without_states_predicts_each_beginning_by_itself() -> None:
    assert is_causal(FinetunedModel(tiny.tiny_backbone(), Head(32, 2, 0.0), "mean"))
    assert not is_causal(FinetunedModel(torch.nn.Identity(), Head(2, 2, 0.0), "mean"))
