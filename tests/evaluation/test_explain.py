"""Contributions of what a stay has to its score, and their words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.batches.loading import SplitBatches, collate
from seqsetvae.checkpoint.finetuned import FinetunedModel
from seqsetvae.cohort import Cohort
from seqsetvae.evaluation import explain
from seqsetvae.evaluation.contributions import deletion_test
from seqsetvae.evaluation.explain import EventExplainer, Explanation, Reason, StayScore
from seqsetvae.models.head import Head
from seqsetvae.models.variable_summaries.inputs import ABSENT, IS_HIGH, IS_LOW, MISSING, PRESENT, USUAL
from tests import tiny

STAY, SETS = 4, 3


@pytest.fixture(scope="module", params=[False, True], ids=["", "running statistics"])
def events(compiled: Cohort, request: pytest.FixtureRequest) -> EventExplainer:
    """Validation stays under a tiny random model in double precision."""
    torch.manual_seed(1)
    backbone = tiny.tiny_backbone(dtype=torch.float64, running_statistics=request.param)
    model = FinetunedModel(backbone, Head(32, 8, 0.0).double(), "mean").eval()
    batches = SplitBatches(compiled.split("valid"), None, np.float64, change=compiled.variables.z_scores)
    return EventExplainer(model, torch.from_numpy(compiled.embeddings.copy()), batches, compiled)


@pytest.fixture(scope="module")
def whole(compiled: Cohort) -> int:
    """Sets of the stay."""
    return int(np.diff(compiled.split("valid").stay_offset)[STAY])


@pytest.fixture(scope="module")
def function(events: EventExplainer, whole: int) -> StayScore:
    return StayScore(events.model, events.embeddings, events.batches, STAY, whole)


@pytest.fixture(scope="module")
def found(events: EventExplainer, whole: int) -> list[Explanation]:
    """Of the whole stay, and of its beginning."""
    return list(events.explain(np.array([STAY, STAY]), np.array([whole, SETS])))


def test_values_are_those_of_the_stay_in_time_order(function, compiled):
    split = compiled.split("valid")
    sets = slice(*split.stay_offset[STAY : STAY + 2])
    events = slice(*split.set_offset[split.stay_offset[STAY : STAY + 2]])
    assert function.measured.tolist() == split.value[events].tolist()
    z_scores = compiled.variables.z_scores(split.variable[events], split.value[events])
    assert function.values.tolist() == z_scores.tolist()
    assert function.variable.tolist() == split.variable[events].tolist()
    n_events = np.diff(split.set_offset[sets.start : sets.stop + 1])
    assert function.set_of_event.tolist() == np.repeat(np.arange(len(n_events)), n_events).tolist()


def test_each_copy_has_its_own_values(function, compiled):
    values = function.values * torch.tensor([[1.0], [0.5], [0.0]], dtype=torch.float64)
    batch = collate(compiled.split("valid"), np.array([STAY]), dtype=np.float64, change=compiled.variables.z_scores)
    with torch.no_grad():
        together = function(values)
        alone = torch.cat([function(one[None]) for one in values])
        logits = function.model(batch, function.embeddings)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(together[:1], logits.diff(dim=1).squeeze(1), rtol=0, atol=1e-12)


def test_contributions_and_the_base_add_up_to_the_score(found, compiled):
    split, whole = compiled.split("valid"), found[0]
    assert whole.stay_id == split.stay_id[STAY]
    for each, end in zip(found, (split.stay_offset[STAY + 1], split.stay_offset[STAY] + SETS), strict=True):
        events = slice(split.set_offset[split.stay_offset[STAY]], split.set_offset[end])
        assert each.value.tolist() == split.value[events].tolist()
        assert each.variable.tolist() == split.variable[events].tolist()
        assert each.minute == split.minute[end - 1] == each.at[-1]
        assert abs(each.score - each.base) > 10 * each.gap
        assert each.gap < 1e-3
        assert each.totals.sum() == pytest.approx(each.contribution.sum())


def test_contributions_of_a_linear_model_are_weight_times_value(events, function, whole, compiled, monkeypatch):
    weights = torch.linspace(-1, 1, len(compiled.vocabulary), dtype=torch.float64)

    def linear(batch: Any, embeddings: torch.Tensor) -> torch.Tensor:
        mean = (batch.value * weights[batch.variable]).sum() / batch.n_stays  # over the copies of the stay
        return torch.stack([mean * 0, mean]).expand(batch.n_stays, 2)

    monkeypatch.setattr(events.model, "forward", linear)
    (found,) = events.explain(np.array([STAY]), np.array([whole]))
    np.testing.assert_allclose(found.contribution, function.values * weights[found.variable], atol=1e-12)
    z_scores = function.values.numpy()
    assert (
        found.level.tolist() == np.where(z_scores < -0.6745, IS_LOW, np.where(z_scores > 0.6745, IS_HIGH, 2)).tolist()
    )


def test_scores_fall_more_without_the_variables_that_raise_them_than_without_random_ones(events, compiled, monkeypatch):
    monkeypatch.setattr(explain, "STEPS", 32)
    stays = np.arange(6)
    found = list(events.explain(stays, np.diff(compiled.split("valid").stay_offset)[stays]))
    result = deletion_test(events, found, stays, np.random.default_rng(0))
    assert result is not None
    assert result["largest"] > 2 * max(0, result["random"])
    none = [replace(each, contribution=-np.abs(each.contribution)) for each in found]
    assert deletion_test(events, none, stays, np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    ("summary", "value", "level", "expected"),
    [
        ("last", 4.1, IS_HIGH, "Lactate last 4.1 (high)"),
        ("last_0_12h_min", 1234.56, IS_LOW, "Lactate lowest in the last 12 h 1235 (low)"),
        ("last_12_24h_mean", 0.5, USUAL, "Lactate mean 12 to 24 h before the end 0.5"),
        ("first_6h_first", np.nan, MISSING, "Lactate not measured in the first 6 h"),
        ("", 4.1, USUAL, "Lactate 4.1"),
        ("last", np.nan, MISSING, "Lactate last missing"),
        ("", np.nan, MISSING, "Lactate missing"),
        ("last", 1, PRESENT, "Lactate present"),
        ("count", np.nan, ABSENT, "Lactate absent"),
        ("", np.nan, USUAL, "Lactate"),
    ],
)
def test_a_reason_is_said_in_words(summary, value, level, expected):
    assert str(Reason("Lactate", 0.81, summary, value, level)) == f"{expected}: +0.81"
    if level == MISSING:
        assert Reason("Lactate", -0.2, summary, value, level, is_known=False).words == "Lactate not measured"


def test_reasons_are_variables_with_their_strongest_summary_of_the_same_sign():
    rows = {"variable": [0, 0, 1, 1, 1], "summary": [0, 1, 0, 1, 2], "contribution": [0.5, -0.4, 0.9, -0.8, -0.6]}
    columns = {name: np.array(values) for name, values in rows.items()}
    others = {
        "at": np.zeros(5),
        "value": np.array([np.nan, 1, 2, 3, 4]),
        "level": np.array([MISSING, USUAL, USUAL, IS_LOW, USUAL]),
    }
    each = Explanation(7, 60.0, 1.0, 1.4, ("A", "B", "C"), ("last", "min", "max"), **columns, **others)
    assert [str(reason) for reason in each.strongest(2)] == ["B lowest 3 (low): -0.5", "A last missing: +0.1"]
    assert each.reason(1, 0).level == USUAL
    assert each.reason(2).words == "C not measured"
    assert each.gap == pytest.approx(0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([83, 83, 83], "Age 83: +1"), ([83, 83, 84], "Age highest 84: +1"), ([83, np.nan, 83], "Age highest 83: +1")],
)
def test_a_variable_with_one_value_needs_no_name_of_a_summary(values, expected):
    rows = {"variable": np.zeros(4, int), "summary": np.arange(4), "contribution": np.array([0.2, 0.1, 0.6, 0.1])}
    others = {"at": np.zeros(4), "value": np.array([*values, 5]), "level": np.full(4, USUAL)}
    each = Explanation(7, 60.0, 1.0, 0.0, ("Age",), ("last", "min", "max", "count"), **rows, **others)
    assert [str(reason) for reason in each.strongest(1)] == [expected]
