"""One pass of a frozen backbone over a split: features batch by batch; each process computes a share of the batches.

Legend: N stays of a batch, n of a split, P pooled width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from seqsetvae.batches.batch import Batch
from seqsetvae.system.console import Progress
from seqsetvae.system.processes import this_process
from seqsetvae.training.metrics import require_finite
from seqsetvae.training.precision import Precision


class FrozenModel(Protocol):
    """The part of a fine-tuner that is used here."""

    @property
    def backbone(self) -> Any: ...
    @property
    def embeddings(self) -> torch.Tensor: ...
    @property
    def pooling(self) -> str: ...
    @property
    def frozen(self) -> bool: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def pooled(self) -> Callable[[Batch], torch.Tensor]: ...
    def to(self, device: torch.device) -> Any: ...
    def double(self) -> Any: ...


@dataclass(frozen=True)
class FeaturePass:
    """One pass of a frozen backbone over a split."""

    stays: int
    waiting: float  # seconds spent waiting for the next batch
    seconds: float


def fill(
    rows: np.ndarray, parts: Iterable[tuple[np.ndarray, np.ndarray, float]], split: str, n_stays: int
) -> FeaturePass:
    """Write the features of all batches to `rows` [n, P]."""
    waiting, n_done, start = 0.0, 0, time.perf_counter()
    with Progress(f"Features of the frozen backbone, {split} split") as progress:
        for positions, pooled, waited in parts:
            rows[positions] = pooled
            n_done += len(positions)
            waiting += waited / this_process().world_size
            if progress.is_due():
                progress.show(n_done / n_stays, f"{n_done / (time.perf_counter() - start):,.0f} stays/s")
    return FeaturePass(n_done, waiting, time.perf_counter() - start)


@torch.inference_mode()
def pooled_batches(
    module: FrozenModel, loader: DataLoader[Any], split: str, precision: Precision
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """(positions of stays [N], their features [N, P], seconds spent waiting for the data) of each batch.

    Raises:
        FloatingPointError: one of them is not finite.
    """
    batches, requested = iter(loader), time.perf_counter()
    for positions in loader.sampler:
        batch = next(batches)
        waited = time.perf_counter() - requested
        with precision.context():
            pooled = module.pooled(batch.to(module.device))
        require_finite(pooled, batch.stay_id, split)
        yield positions, pooled.to("cpu", torch.promote_types(pooled.dtype, torch.float32)).numpy(), waited
        requested = time.perf_counter()
