"""../shared/golden: an independent implementation's numbers on real patients."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.batches.batch import Batch
from seqsetvae.batches.loading import collate
from seqsetvae.checkpoint.backbone import load_backbone, read_checkpoint
from seqsetvae.cohort import Cohort, open_or_compile
from seqsetvae.models.seqsetvae.backbone import Backbone
from seqsetvae.tasks.binary import focal

HEADS: dict[str, Any] = {"heads": 2, "transformer_heads": 4, "transformer_dropout": 0.1}
HEADS |= {"levels": 2, "transformer_layers": 2}


@pytest.fixture(scope="module")
def cohort(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return open_or_compile(golden / "tiny", cache_root=tmp_path_factory.mktemp("golden"), progress=False)


def _load(path: Path, dtype: torch.dtype) -> Backbone:
    checkpoint = read_checkpoint(path)
    backbone = Backbone(checkpoint.infer_sizes(HEADS))
    assert load_backbone(backbone, checkpoint).is_complete
    return backbone.to(dtype).eval()


def _expected(golden: Path, batch: Batch, name: str) -> torch.Tensor:
    with np.load(golden / "tiny" / "expected.npz") as arrays:
        return torch.from_numpy(np.concatenate([arrays[f"{stay}/{name}"] for stay in batch.stay_id.tolist()])).double()


@pytest.mark.parametrize("file", ["pretrain.ckpt", "pretrain_weights_only.pt", "finetuned_legacy.ckpt"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_backbone_reproduces_the_golden_numbers(golden, cohort, file, dtype, tolerance):
    backbone, split = _load(golden / "tiny" / file, dtype), cohort.split("train")
    table = torch.from_numpy(np.array(cohort.embeddings)).to(dtype)
    for stays in ([0, 1, 2, 3, 4, 5], [5, 2], [3]):  # whatever else is in the batch
        values, change = np.float64 if dtype == torch.float64 else np.float32, cohort.variables.z_scores
        batch = collate(split, np.array(stays), dtype=values, change=change)
        with torch.no_grad():
            features = backbone.set_features(batch, table)
            mu, logvar = backbone.set_encoder.gaussian(features)
            results = {"mu": mu, "logvar": logvar, "history": backbone.history(mu, batch, table)}
        for name, result in results.items():
            result = result.float().double()  # as the golden numbers were rounded
            torch.testing.assert_close(result, _expected(golden, batch, name), rtol=0, atol=tolerance)


def test_focal_loss_reproduces_the_golden_numbers(golden):
    with np.load(golden / "losses.npz") as arrays:
        cases = sorted({key.split("/")[0] for key in arrays if key.startswith("focal")})
        assert cases
        for case in cases:
            alpha = float(arrays[f"{case}/alpha"])
            loss = focal(
                torch.from_numpy(arrays[f"{case}/logits"]),
                torch.from_numpy(arrays[f"{case}/target"]),
                float(arrays[f"{case}/gamma"]),
                None if alpha < 0 else alpha,
            )
            assert float(loss) == pytest.approx(float(arrays[f"{case}/loss"]), abs=1e-9)
