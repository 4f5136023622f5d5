"""Pooling the states up to each set gives what pooling the stay cut off after it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from seqsetvae.cohort import Cohort
from seqsetvae.errors import InputError
from seqsetvae.evaluation.every_set import PREFIX_POOLINGS, EverySet, require_causal
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
    batch = collate(split, stays, dtype=np.float64)
    with torch.no_grad():
        found = PREFIX_POOLINGS[pooling](backbone.states(batch, table), batch)
        row = 0
        for stay in stays:
            for n_sets in range(1, int(split.stay_offset[stay + 1] - split.stay_offset[stay]) + 1):
                alone = collate(cut_after(split, int(stay), n_sets), np.array([0]), dtype=np.float64)
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


@pytest.mark.parametrize(
    ("hours", "stays", "logits"),
    [(0.5, [], []), (1, [7], [0]), (6, [7, 3], [1, 3]), (100, [7, 3], [1, 4])],
)
def test_a_landmark_takes_the_last_set_of_the_first_hours(hours: float, stays: list[int], logits: list[float]) -> None:
    found, logit = _every_set().at_hour(hours)
    assert (found.tolist(), logit.tolist()) == (stays, logits)


def test_an_architecture_without_causal_states_is_refused() -> None:
    class Bag(torch.nn.Module):
        architecture = "bag"

    model = FinetunedModel(Bag(), Head(2, 2, 0.0), "mean")
    with pytest.raises(InputError, match=r"architecture 'bag' .* has no state for every set"):
        require_causal(model, None, Path("best.ckpt"))
