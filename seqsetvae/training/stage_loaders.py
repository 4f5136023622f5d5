"""The loaders of one stage of a run: which batches of which epoch this process trains on, also after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from seqsetvae.batches.loading import CohortDataModule, epoch_of


class StageLoaders(pl.LightningDataModule):
    """The loaders of one stage of a run, built anew for each epoch, so that worker processes get its order too.

    `rows` holds a dataset for each split where something else than its events is read, such as cached features.
    """

    def __init__(self, data: CohortDataModule, stage: int, rows: Mapping[str, Dataset[Any]] | None = None) -> None:
        super().__init__()
        self.data, self.stage, self.rows = data, stage, rows or {}

    def train_dataloader(self) -> DataLoader[Any]:
        """Reshuffled batches of this epoch."""
        position = {"stage": self.stage, "epoch": epoch_of(self), "offset": _batches_done(self)}
        return self.data.loader("train", shuffle=True, rows=self.rows.get("train"), **position, **self._process())

    def val_dataloader(self) -> DataLoader[Any]:
        """Every stay of the validation split once."""
        return self.data.loader("valid", rows=self.rows.get("valid"), **self._process())

    def _process(self) -> dict[str, Any]:
        if self.trainer is None:
            return {}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}


def _batches_done(data: pl.LightningDataModule) -> int:
    """Batches of this epoch that were trained before a restart inside it."""
    if data.trainer is None:
        return 0
    loop = data.trainer.fit_loop
    epoch: Any = loop.epoch_progress.current
    return 0 if epoch.ready == epoch.processed else loop.epoch_loop.batch_progress.current.ready
