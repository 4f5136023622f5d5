"""Stage 1 computes the features of the frozen backbone once and caches them, because they never change.

Legend: n stays of a split, P pooled width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from model_optimized import SeqSetVAEFineTuner
from seqsetvae.batch import PooledBatch
from seqsetvae.cohort import Split
from seqsetvae.console import Progress
from seqsetvae.files import AlreadyThereError
from seqsetvae.loading import CohortDataModule
from seqsetvae.metrics import require_finite
from seqsetvae.training.features import Arithmetic, FeatureFolder


@dataclass(frozen=True)
class Reading:
    """One pass of a frozen backbone over a split."""

    stays: int
    waiting: float  # seconds in which it waited for its next batch
    seconds: float


class PooledRows(Dataset[PooledBatch]):
    """Cached features of a split; `rows[stays]` is the batch of the stays at these positions."""

    def __init__(self, pooled: np.ndarray, split: Split) -> None:
        self.pooled = pooled  # [n, P], in memory or memory-mapped; zeros for stays that no loader reads
        self.label = split.label.astype(np.int64)
        self.stay_id = np.array(split.stay_id)

    def __getitem__(self, stays: np.ndarray) -> PooledBatch:
        return PooledBatch(*(torch.from_numpy(column[stays]) for column in (self.pooled, self.label, self.stay_id)))

    def __len__(self) -> int:
        return len(self.label)


class FrozenFeatures(pl.LightningDataModule):
    """The batches of a cohort, same stays in the same order, with cached features instead of events.

    Attributes:
        readings: passes over the data that were needed; none for a split whose features were cached.
    """

    def __init__(self, module: SeqSetVAEFineTuner, data: CohortDataModule, arithmetic: Arithmetic, root: Path) -> None:
        """Load the features of the training and validation split from the cache at `root`, or compute them."""
        super().__init__()
        assert module.frozen, "features of a backbone that trains are stale after one step"
        self.data = data
        module.to(arithmetic.device, module.embeddings.dtype)  # no Trainer has moved it yet
        self.rows: dict[str, PooledRows] = {}
        self.readings: list[Reading] = []
        for split in ("train", "valid"):
            pooled, reading = _find_or_read(module, data, split, arithmetic, root)
            self.rows[split] = PooledRows(pooled, data.cohort.split(split))
            self.readings += [] if reading is None else [reading]

    def train_dataloader(self) -> DataLoader[Any]:
        """Reshuffled batches of this epoch."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        return self.data.loader("train", shuffle=True, epoch=epoch, rows=self.rows["train"])

    def val_dataloader(self) -> DataLoader[Any]:
        """Every stay of the validation split once."""
        return self.data.loader("valid", rows=self.rows["valid"])


def _find_or_read(
    module: SeqSetVAEFineTuner, data: CohortDataModule, split: str, arithmetic: Arithmetic, root: Path
) -> tuple[np.ndarray, Reading | None]:
    """Features of a split [n, P], and the pass over the data if there was one."""
    folder = FeatureFolder.of(root, module, data, split, arithmetic)
    found, reading = folder.find(), None
    if found is not None:
        stays = f"{data.n_selected(split):,} {split} stays"
        print(f"Cached features of the frozen backbone: {stays}, from {folder.path}")
        return found, None
    try:
        with folder.new() as rows:
            reading = _read(module, data, split, arithmetic, rows)
        speed = reading.stays / reading.seconds
        print(
            f"Computed the features of the frozen backbone: {reading.stays:,} {split} stays, {speed:,.0f} stays/s, "
            f"cached in {folder.path}",
            flush=True,
        )
    except AlreadyThereError:
        print(f"Another run has computed the same features: {folder.path} is used", flush=True)
    return folder.open(), reading


@torch.inference_mode()
def _read(
    module: SeqSetVAEFineTuner, data: CohortDataModule, split: str, arithmetic: Arithmetic, rows: np.ndarray
) -> Reading:
    """Compute the features of a split [n, P].

    Raises:
        FloatingPointError: one of them is not finite.
    """
    loader = data.loader(split)
    waiting, n_read, start = 0.0, 0, time.perf_counter()
    with Progress(f"Features of the frozen backbone, {split} split") as progress:
        batches, asked = iter(loader), start
        for positions in loader.sampler:
            batch = next(batches)
            waiting += time.perf_counter() - asked
            with arithmetic.context():
                pooled = module.pooled(batch.to(module.device))
            require_finite(pooled, batch.stay_id, split)
            rows[positions] = pooled.to("cpu", torch.promote_types(pooled.dtype, torch.float32)).numpy()
            n_read += batch.n_stays
            if progress.is_due():
                progress.show(n_read / data.n_selected(split), f"{n_read / (time.perf_counter() - start):,.0f} stays/s")
            asked = time.perf_counter()
    return Reading(n_read, waiting, asked - start)
