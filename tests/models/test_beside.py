"""Summaries beside a backbone: what the head reads, plainly computed, and whose values the summaries are of."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.batches.batch import PooledBatch
from seqsetvae.batches.loading import CohortDataModule
from seqsetvae.batches.transform import VALUE_TRANSFORMS
from seqsetvae.batches.variables import with_host_work
from seqsetvae.models.beside import VALUES, BesideSummaries
from seqsetvae.models.variable_summaries.sizes import Sizes
from tests import tiny

NAMES = tuple(f"v{row}" for row in range(tiny.VARIABLES))


def _model(batch: Any) -> BesideSummaries:
    torch.manual_seed(0)
    main = tiny.tiny_backbone(dtype=torch.float64)
    model = BesideSummaries(main, Sizes(input_dim=12, vocabulary=NAMES, summary_width=6)).double()
    names = SimpleNamespace(vocabulary=NAMES, mean=np.zeros(len(NAMES)), std=np.ones(len(NAMES)))
    model.fit(names, [batch])  # type: ignore[arg-type]
    return model.eval()


def test_the_head_reads_the_pooled_history_and_the_summary_units_side_by_side():
    stays = tiny.ragged_stays() + tiny.ragged_stays(seed=1)
    batch = tiny.batch_of(stays)
    model = _model(batch)
    batch.prepared = model.summaries.summarizer(torch.arange(len(NAMES)))(batch)
    found = model.pooled(batch, tiny.embeddings(), "mean")
    plain = tiny.plain_model(model.main)
    history = torch.stack([plain(stay, tiny.embeddings())[2].mean(dim=0) for stay in stays])
    units = model.summaries.pooled(tiny.batch_of(stays), torch.arange(len(NAMES)), "mean")
    assert found.shape == (len(stays), model.pooled_width("mean"))
    torch.testing.assert_close(found, torch.cat([history, units], dim=1))
    known = PooledBatch(history, batch.label, batch.stay_id, prepared=batch.prepared)
    torch.testing.assert_close(model.pooled(known, tiny.embeddings(), "mean"), found)


def test_without_the_summaries_of_a_loader_there_is_no_prediction_from_other_values():
    batch = tiny.batch_of(tiny.ragged_stays())
    with pytest.raises(AssertionError, match="loaders of a model with summaries"):
        _model(batch).pooled(batch, tiny.embeddings(), "mean")


@pytest.mark.parametrize("name", ["quantiles", "z_score"])
def test_summaries_are_of_z_scores_however_the_backbone_reads_values(compiled, name):
    of_backbone = VALUE_TRANSFORMS[name].fit(compiled, value_clip=0.5, min_count=0)
    data = CohortDataModule(compiled, batch_size=7, max_events=10_000, transform=of_backbone)
    model = BesideSummaries(tiny.tiny_backbone(), Sizes(input_dim=12, vocabulary=compiled.vocabulary))
    model.fit(compiled, data.with_transform(VALUES).loader("train"))
    read = with_host_work(data, model, torch.empty(0)).loader("valid")
    plain = model.summaries.summarizer(model.summaries.variable_table(compiled))
    expected = [plain(batch) for batch in data.with_transform(VALUES).loader("valid")]
    for batch, own, summaries in zip(read, data.loader("valid"), expected, strict=True):
        assert torch.equal(batch.value, own.value)
        assert torch.equal(batch.prepared.values.nan_to_num(-9), summaries.values.nan_to_num(-9))
    assert any(each.values.nan_to_num().abs().max() > 3 for each in expected)
