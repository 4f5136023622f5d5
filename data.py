"""Batches of a compiled cohort for Lightning, and the data command: `python data.py --help`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from seqsetvae.batch import Batch, LengthBucketSampler, SplitBatches, stay_sizes
from seqsetvae.cohort import Cohort
from seqsetvae.errors import InputError


class CohortDataModule(pl.LightningDataModule):
    """Loaders over a cohort's splits.

    Args:
        cohort: the compiled cohort.
        batch_size: most stays in a batch.
        max_events: most events in a batch of more than one stay.
        max_sets: keep the last so many sets of each stay; None keeps all.
        num_workers: loader processes.
        dtype: type of the values, float32 or float64.
        seed: seed of the training order; the order is a pure function of (seed, stage, epoch).
        labelled: leave out stays without a label.
    """

    def __init__(
        self,
        cohort: Cohort,
        *,
        batch_size: int,
        max_events: int,
        max_sets: int | None = None,
        num_workers: int = 0,
        dtype: type = np.float32,
        seed: int = 0,
        labelled: bool = True,
    ) -> None:
        super().__init__()
        self.cohort, self.seed, self.stage = cohort, seed, 1
        self.batch_size, self.max_events, self.max_sets = batch_size, max_events, max_sets
        self.num_workers, self.dtype, self.labelled = num_workers, dtype, labelled

    def train_dataloader(self) -> DataLoader[Batch]:
        """Reshuffled batches; called anew for each epoch, so the epoch's order holds with worker processes too."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        return self.loader("train", shuffle=True, epoch=epoch)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every stay of the validation split once."""
        return self.loader("valid")

    def loader(
        self, split: str, *, shuffle: bool = False, epoch: int = 0, rows: Dataset[Any] | None = None
    ) -> DataLoader[Any]:
        """Batches of a split; without shuffle from short to long, every stay once.

        `rows` stands in for the split's events: a dataset whose item for some positions of stays is their batch.
        """
        stays = self.cohort.split(split)
        chosen = np.flatnonzero(stays.label >= 0) if self.labelled else np.arange(stays.n_stays)
        n_sets, n_events = stay_sizes(stays, self.max_sets)
        sampler = LengthBucketSampler(
            chosen,
            n_sets,
            n_events,
            batch_size=self.batch_size,
            max_events=self.max_events,
            shuffle=shuffle,
            seed=(self.seed, self.stage),
        )
        sampler.set_epoch(epoch)
        return DataLoader(
            SplitBatches(stays, self.max_sets, self.dtype) if rows is None else rows,
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),  # its own: the global one is dropout's
        )

    def n_cut(self, split: str) -> int:
        """Stays of a split that `max_sets` shortens."""
        stays = self.cohort.split(split)
        return int((stays.stay_offset[1:] - stays.stay_offset[:-1] > (self.max_sets or np.inf)).sum())


def require_both_classes(cohort: Cohort, *splits: str) -> None:
    """A split that must rank stays needs labelled stays of both classes.

    Raises:
        InputError: naming the split and what it holds.
    """
    for name in splits:
        label = cohort.split(name).label
        alive, dead, unknown = (int((label == value).sum()) for value in (0, 1, -1))
        if not alive or not dead:
            raise InputError(
                f"{cohort.path}: split {name!r} has {alive} stays of class 0, {dead} of class 1 and "
                f"{unknown} without a label; both classes are needed. Check the column "
                f"{cohort.label_name!r} of oc.csv and --label_path."
            )


if __name__ == "__main__":
    from seqsetvae.cohort.command import main

    sys.exit(main())
