"""What a frozen backbone says of a stay never changes, so stage 1 asks it once.

Legend: n stays of a split, P pooled width.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from model_optimized import SeqSetVAEFineTuner
from seqsetvae.batch import PooledBatch
from seqsetvae.cohort import Split
from seqsetvae.loading import CohortDataModule


@dataclass(frozen=True)
class Reading:
    """One pass of a frozen backbone over a split."""

    stays: int
    waiting: float  # seconds in which it waited for its next batch
    seconds: float


class PooledRows(Dataset[PooledBatch]):
    """A split's pooled histories; `rows[stays]` is the batch of these positions."""

    def __init__(self, pooled: torch.Tensor, split: Split) -> None:
        self.pooled = pooled  # [n, P], zeros for stays that no loader asks for
        self.label = torch.from_numpy(split.label.astype(np.int64))
        self.stay_id = torch.from_numpy(np.array(split.stay_id))

    def __getitem__(self, stays: np.ndarray) -> PooledBatch:
        index = torch.from_numpy(stays)
        return PooledBatch(self.pooled[index], self.label[index], self.stay_id[index])

    def __len__(self) -> int:
        return len(self.label)


class FrozenFeatures(pl.LightningDataModule):
    """The batches of a cohort, the same stays in the same order, as a frozen backbone has read them."""

    def __init__(
        self,
        module: SeqSetVAEFineTuner,
        data: CohortDataModule,
        device: torch.device,
        precision: AbstractContextManager[Any],
    ) -> None:
        """Run the module's frozen backbone once over the training and the validation split."""
        super().__init__()
        assert module.frozen, "features of a backbone that trains are stale after one step"
        self.data = data
        module.to(device, module.embeddings.dtype)  # a Trainer has not placed it yet
        read = {split: _read(module, data, split, precision) for split in ("train", "valid")}
        self.rows = {split: rows for split, (rows, _) in read.items()}
        self.readings = [reading for _, reading in read.values()]

    def train_dataloader(self) -> DataLoader[Any]:
        """Reshuffled batches of this epoch."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        return self.data.loader("train", shuffle=True, epoch=epoch, rows=self.rows["train"])

    def val_dataloader(self) -> DataLoader[Any]:
        """Every stay of the validation split once."""
        return self.data.loader("valid", rows=self.rows["valid"])


@torch.no_grad()  # not inference_mode: the head's gradient needs to keep what it reads
def _read(
    module: SeqSetVAEFineTuner, data: CohortDataModule, split: str, precision: AbstractContextManager[Any]
) -> tuple[PooledRows, Reading]:
    """Pooled histories of a split, on the CPU."""
    stays, loader = data.cohort.split(split), data.loader(split)
    read: list[tuple[np.ndarray, torch.Tensor]] = []  # on the device until the end: a copy would wait for each batch
    waiting, n_read, start = 0.0, 0, time.perf_counter()
    with tqdm(total=stays.n_stays, desc=f"Frozen backbone, {split}", unit="stay", disable=None) as progress:
        batches, asked = iter(loader), start
        for positions in loader.sampler:
            batch = next(batches)
            waiting += time.perf_counter() - asked
            with precision:
                read.append((positions, module.pooled(batch.to(module.device))))
            n_read += batch.n_stays
            progress.update(batch.n_stays)
            asked = time.perf_counter()
    rows = torch.cat([of_batch for _, of_batch in read]).cpu()
    pooled = rows.new_zeros(stays.n_stays, rows.shape[1])
    pooled[np.concatenate([positions for positions, _ in read])] = rows
    reading = Reading(n_read, waiting, time.perf_counter() - start)
    speed = reading.stays / reading.seconds
    print(f"Frozen backbone read the {split} split once: {reading.stays:,} stays, {speed:,.0f} stays/s", flush=True)
    return PooledRows(pooled, stays), reading
