"""8,000 real stays, from the published files to a fine-tuned model: by a compiled cohort and by the old layout."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from seqsetvae.cohort import Cohort, open_or_compile
from seqsetvae.cohort.command import main as data_command
from seqsetvae.cohort.export import write_layout
from seqsetvae.cohort.format import ARRAYS
from tests.tiny import SHARED
from train_optimized import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cohort(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Sets a and b, 80/20, with the embeddings of the golden checkpoint."""
    source = SHARED / "physionet2012"
    if not source.is_dir():
        pytest.skip(f"no real stays: {source} does not exist")
    out = tmp_path_factory.mktemp("physionet") / "cohort"
    assert data_command(["physionet2012", str(source), str(out), "--fractions", "0.8", "0.2", "0"]) == 0
    shutil.copy(golden / "tiny" / "cached.csv", out)
    return open_or_compile(out, cache_root=out)


@pytest.fixture(scope="module")
def old_layout(cohort: Cohort) -> Path:
    """The same stays as 7,990 parquet files."""
    out = cohort.path.parent / "processed"
    write_layout(cohort, out)
    return out / "patient_ehr"


def test_the_old_layout_compiles_to_the_same_cohort(cohort, old_layout, tmp_path):
    again = open_or_compile(old_layout, cache_root=tmp_path)
    assert again.vocabulary == cohort.vocabulary
    for name, split in cohort.splits.items():
        for array in ARRAYS:
            assert np.array_equal(getattr(split, array), getattr(again.split(name), array))


def _val_auc(data_dir: Path, golden: Path, root: Path) -> list[float]:
    flags = ["--mode", "finetune", "--batch_size", "64", "--max_sets", "16", "--lr", "3e-4"]
    flags += ["--max_epochs", "3", "--unfreeze_after", "1"]
    checkpoint = str(golden / "tiny" / "pretrain.ckpt")
    assert main([*flags, "--pretrained_ckpt", checkpoint, "--data_dir", str(data_dir),
                 "--output_root_dir", str(root)]) == 0  # fmt: skip
    with next(root.glob("finetune-*/metrics.csv")).open() as file:
        return [float(row["val_auc"]) for row in csv.DictReader(file)]


def test_both_fine_tune_to_the_same_val_auc_above_chance(cohort, old_layout, golden, tmp_path):
    compiled = _val_auc(cohort.path, golden, tmp_path / "compiled")
    assert _val_auc(old_layout, golden, tmp_path / "old") == pytest.approx(compiled, abs=1e-6)
    assert max(compiled) > 0.65
