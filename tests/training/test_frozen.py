"""Stage 1 reads the backbone once: the same batches, the same figures as reading it in every epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_optimized import SeqSetVAEFineTuner
from seqsetvae.cohort import Cohort
from seqsetvae.training.stages import Run
from tests.training.helpers import fine_tuner, make_run, read_features


def _stage_1(cohort: Cohort, folder: Path, cached: bool) -> Run:
    torch.manual_seed(7)
    module = fine_tuner(cohort)
    run = make_run(module, cohort, folder)
    features = read_features(module, run) if cached else None
    torch.manual_seed(8)  # the head's dropout
    run.fit(1, 4, warm_up=False, features=features)
    return run


def test_the_figures_are_those_of_a_backbone_that_is_read_in_every_epoch(compiled: Cohort, tmp_path: Path) -> None:
    cached, plain = (_stage_1(compiled, tmp_path / str(kind), kind) for kind in (True, False))
    assert len(cached.table.rows) == 4
    for ours, theirs in zip(cached.table.rows, plain.table.rows, strict=True):
        assert ours.metrics["val_auc"] == theirs.metrics["val_auc"]  # to the bit
        assert ours.metrics == pytest.approx(theirs.metrics, abs=1e-6)
        assert ours.step == theirs.step
    assert cached.table.rows[0].waiting is None
    assert plain.table.rows[0].waiting is not None


def test_every_batch_is_what_the_backbone_says_of_its_stays(compiled: Cohort, tmp_path: Path) -> None:
    module = fine_tuner(compiled)
    run = make_run(module, compiled, tmp_path)
    features = read_features(module, run)
    module.eval()
    pairs = zip(features.train_dataloader(), run.data.train_dataloader(), strict=True)
    for pooled, batch in pairs:
        assert torch.equal(pooled.stay_id, batch.stay_id)
        assert torch.equal(pooled.label, batch.label)
        assert torch.allclose(pooled.pooled, module.pooled(batch), atol=1e-5)


def test_a_backbone_that_trains_has_no_lasting_features(compiled: Cohort, tmp_path: Path) -> None:
    module: SeqSetVAEFineTuner = fine_tuner(compiled)
    module.unfreeze_backbone()
    with pytest.raises(AssertionError, match="stale"):
        read_features(module, make_run(module, compiled, tmp_path))
