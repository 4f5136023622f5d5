"""Contributions of the events of a stay to its logit."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.batches.loading import SplitBatches, collate
from seqsetvae.checkpoint.finetuned import FinetunedModel
from seqsetvae.cohort import Cohort
from seqsetvae.evaluation.explain import Explanation, StayLogit, deletion_test, explain
from seqsetvae.models.head import Head
from seqsetvae.system.errors import InputError
from tests import tiny


@pytest.fixture(scope="module", params=[False, True], ids=["", "running statistics"])
def function(compiled: Cohort, request: pytest.FixtureRequest) -> StayLogit:
    """The logit of a validation stay under a tiny random model in double precision."""
    torch.manual_seed(1)
    backbone = tiny.tiny_backbone(dtype=torch.float64, running_statistics=request.param)
    model = FinetunedModel(backbone, Head(32, 8, 0.0).double(), "mean").eval()
    batches = SplitBatches(compiled.split("valid"), None, np.float64, change=compiled.variables.z_scores)
    return StayLogit(model, torch.from_numpy(compiled.embeddings.copy()), batches, stay=4)


@pytest.fixture(scope="module")
def found(function: StayLogit) -> Explanation:
    return explain(function, 900_065)


def test_values_are_those_of_the_stay_in_time_order(function: StayLogit, compiled: Cohort) -> None:
    split = compiled.split("valid")
    sets = slice(*split.stay_offset[4:6])
    events = slice(*split.set_offset[split.stay_offset[4:6]])
    assert function.measured.tolist() == split.value[events].tolist()
    z_scores = compiled.variables.z_scores(split.variable[events], split.value[events])
    assert function.values.tolist() == z_scores.tolist()
    assert function.variable.tolist() == split.variable[events].tolist()
    n_events = np.diff(split.set_offset[sets.start : sets.stop + 1])
    assert function.set_of_event.tolist() == np.repeat(np.arange(len(n_events)), n_events).tolist()


def test_each_copy_has_its_own_values(function: StayLogit, compiled: Cohort) -> None:
    values = function.values * torch.tensor([[1.0], [0.5], [0.0]], dtype=torch.float64)
    batch = collate(compiled.split("valid"), np.array([4]), dtype=np.float64, change=compiled.variables.z_scores)
    with torch.no_grad():
        together = function(values)
        alone = torch.cat([function(one[None]) for one in values])
        logits = function.model(batch, function.embeddings)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(together[:1], logits.diff(dim=1).squeeze(1), rtol=0, atol=1e-12)


def test_contributions_add_up_to_the_difference_of_the_logits(function: StayLogit, found: Explanation) -> None:
    assert len(found.contribution) == len(found.set_index) == len(found.variable) == len(function.values)
    assert abs(found.logit - found.logit_at_mean) > 10 * found.gap
    assert found.gap < 1e-3


def test_contributions_of_a_linear_model_are_weight_times_value(
    function: StayLogit, compiled: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = torch.linspace(-1, 1, len(compiled.vocabulary), dtype=torch.float64)

    class Linear(torch.nn.Module):
        def forward(self, batch: Any, embeddings: torch.Tensor) -> torch.Tensor:
            mean = (batch.value * weights[batch.variable]).sum() / batch.n_stays  # over the copies of the stay
            return torch.stack([mean * 0, mean]).expand(batch.n_stays, 2)

    monkeypatch.setattr(function, "model", Linear())
    found = explain(function, 900_065)
    np.testing.assert_allclose(found.contribution, function.values * weights[found.variable], atol=1e-12)


def test_the_events_that_contribute_most_change_the_logit_more_than_random_ones(
    function: StayLogit, found: Explanation
) -> None:
    most, at_random = deletion_test(function, found, seed=0)
    assert most > 2 * at_random


def test_without_captum_one_line_says_what_to_install(function: StayLogit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(InputError, match="pip install captum"):
        explain(function, 900_065)
