"""Predictions from the beginnings of stays, each cut off after some of its sets: exact for every architecture.

Legend: R beginnings, S sets of a split.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from seqsetvae.batch import Batch
from seqsetvae.cohort import Split
from seqsetvae.cohort.format import ranges
from seqsetvae.evaluation.load import FinetunedModel
from seqsetvae.evaluation.predictions import predict
from seqsetvae.loading import BatchLoader, CohortDataModule, SplitBatches
from seqsetvae.processes import own_share
from seqsetvae.sampler import LengthBucketSampler

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Beginnings of stays of a split."""

    stay: Ints  # [R] position of the stay in the split
    n_sets: Ints  # [R] how many of its first sets are kept, at least 1

    def rows(self, chosen: NDArray[np.bool_]) -> Prefixes:
        """Those that a mask [R] marks."""
        return Prefixes(self.stay[chosen], self.n_sets[chosen])

    def last_set(self, split: Split) -> Ints:
        """[R] position in the split of the last set that is kept."""
        return split.stay_offset[self.stay] + self.n_sets - 1


def every_prefix(split: Split) -> Prefixes:
    """One for each set of each stay, in the order of the split: R = S."""
    n_sets = np.diff(split.stay_offset)
    return Prefixes(np.repeat(np.arange(split.n_stays), n_sets), ranges(np.ones_like(n_sets), n_sets))


def until_hour(split: Split, hours: float) -> Prefixes:
    """The sets of the first `hours` hours since admission, of every stay that has one then."""
    early = np.concatenate([[0], np.cumsum(split.minute <= 60 * hours)])
    n_sets = np.diff(early[split.stay_offset])
    (stay,) = np.nonzero(n_sets)
    return Prefixes(stay, n_sets[stay])


class _PrefixBatches(Dataset[Batch]):
    """A dataset whose item for some rows is the batch of these beginnings."""

    def __init__(self, batches: SplitBatches, prefixes: Prefixes) -> None:
        self.batches, self.prefixes = batches, prefixes

    def __getitem__(self, rows: np.ndarray) -> Batch:
        return self.batches.batch(self.prefixes.stay[rows], self.prefixes.n_sets[rows])

    def __len__(self) -> int:
        return len(self.prefixes.stay)


def predict_prefixes(
    model: FinetunedModel,
    embeddings: torch.Tensor,
    data: CohortDataModule,
    split: str,
    prefixes: Prefixes,
    precision: AbstractContextManager[Any],
) -> NDArray[np.float64]:
    """Log-odds of class 1 for each beginning, as if its stay ended there: [R].

    Raises:
        FloatingPointError: one is not finite.
    """
    if not len(prefixes.stay):
        return np.empty(0)
    batches = data.loader(split).dataset
    assert isinstance(batches, SplitBatches)
    sampler = LengthBucketSampler(
        np.arange(len(prefixes.stay)),
        *_sizes(data.cohort.split(split), prefixes, data.max_sets),
        batch_size=data.batch_size,
        max_events=data.max_events,
        shuffle=False,
        **own_share(),
    )
    loader = BatchLoader(_PrefixBatches(batches, prefixes), sampler, data.num_workers, pin_memory=data.pin_memory)
    found = predict(model, embeddings, loader, split, precision)
    logit = np.empty(len(prefixes.stay))
    logit[sampler.batches.order] = found.logit.cpu().numpy()
    return logit


def _sizes(split: Split, prefixes: Prefixes, max_sets: int | None) -> tuple[Ints, Ints]:
    """Sets and events that the model reads of each beginning: [R], [R]."""
    end = prefixes.last_set(split) + 1
    n_sets = np.minimum(prefixes.n_sets, max_sets or prefixes.n_sets)
    return n_sets, split.set_offset[end] - split.set_offset[end - n_sets]
