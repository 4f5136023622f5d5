"""The flat ragged batch, how stays are grouped into batches, and the loader's dataset.

Legend: E events, S sets, N stays in the batch; T most sets of a stay in the batch; V variables of the cohort.
Events are never padded: the sets of a batch are ordered by size, so that sets of one size lie side by side and a
"size run" of them is a plain view [count, size, ...]. What the model's loops need to know of those runs stands on the
host (`size_runs`, `max_sets`), so that no step waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Self

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from seqsetvae.cohort import Split

POOL_BATCHES = 16  # batches sorted by length together: 8 % padding where random order has 78 %, and epochs still differ


class _OnDevice:
    """A dataclass of tensors and host values that moves as one; Lightning and the DataLoader call these two."""

    label: torch.Tensor

    @property
    def n_stays(self) -> int:
        return len(self.label)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        assert is_dataclass(self)
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        tensors = {name: change(value) for name, value in values.items() if isinstance(value, torch.Tensor)}
        return replace(self, **tensors)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        """The batch on another device; asynchronous where its memory is pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The batch in memory that a GPU can copy from by itself."""
        return self._map(torch.Tensor.pin_memory)


@dataclass(eq=False)
class Batch(_OnDevice):
    """N stays with S sets and E events in all; the one object that both the loader and the model know."""

    variable: torch.Tensor  # [E] int64, index into the vocabulary; sets in ascending order of size
    value: torch.Tensor  # [E] float32 (float64 in double precision), z-score of the event's value
    set_row: torch.Tensor  # [S] int64, for each set (stay by stay, in time order) its row in the order by size
    slot: torch.Tensor  # [S] int64, place of each set in the padded grid [N, T]: stay · T + index in the stay
    minute: torch.Tensor  # [S] float64, minute of each set (float64: minutes since an epoch outgrow float32)
    sets_per_stay: torch.Tensor  # [N] int64
    label: torch.Tensor  # [N] int64, 0 or 1; -1 = no label
    stay_id: torch.Tensor  # [N] int64
    size_runs: tuple[tuple[int, int], ...]  # on the host: (events per set, how many such sets), ascending
    max_sets: int  # on the host: T

    @property
    def n_sets(self) -> int:
        return len(self.minute)


@dataclass(eq=False)
class PooledBatch(_OnDevice):
    """N stays as a frozen backbone has read them: what is left to do is the head."""

    pooled: torch.Tensor  # [N, P], pooled history
    label: torch.Tensor  # [N] int64, 0 or 1
    stay_id: torch.Tensor  # [N] int64


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenated index ranges [start, start + length) without a Python loop.

    >>> _ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def collate(split: Split, stays: np.ndarray, max_sets: int | None = None, dtype: type = np.float32) -> Batch:
    """The batch of these stays of a split, by index arithmetic on its memory-mapped arrays.

    Args:
        split: the split that holds the stays.
        stays: [N] positions of stays in the split.
        max_sets: keep only the LAST so many sets of each stay, as if its history began there; None keeps all.
        dtype: type of the values.
    """
    first, end = split.stay_offset[stays], split.stay_offset[stays + 1]
    if max_sets is not None:
        first = np.maximum(first, end - max_sets)
    sets_per_stay = end - first
    sets = _ranges(first, sets_per_stay)  # [S] stay by stay, in time order
    sizes = split.set_offset[sets + 1] - split.set_offset[sets]
    by_size = np.argsort(sizes, kind="stable")
    set_row = np.empty_like(by_size)
    set_row[by_size] = np.arange(len(by_size))
    events = _ranges(split.set_offset[sets[by_size]], sizes[by_size])
    run_sizes, run_counts = np.unique(sizes, return_counts=True)
    grid_width = int(sets_per_stay.max())
    slot = _ranges(np.arange(len(stays)) * grid_width, sets_per_stay)
    return Batch(
        variable=torch.from_numpy(split.variable[events].astype(np.int64)),
        value=torch.from_numpy(split.value[events].astype(dtype)),
        set_row=torch.from_numpy(set_row),
        slot=torch.from_numpy(slot),
        minute=torch.from_numpy(split.minute[sets]),
        sets_per_stay=torch.from_numpy(sets_per_stay),
        label=torch.from_numpy(split.label[stays].astype(np.int64)),
        stay_id=torch.from_numpy(split.stay_id[stays]),
        size_runs=tuple(zip(run_sizes.tolist(), run_counts.tolist(), strict=True)),
        max_sets=grid_width,
    )


def stay_sizes(split: Split, max_sets: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sets and events of every stay after the cut to the last `max_sets` sets: two arrays [n_stays]."""
    first, end = split.stay_offset[:-1], split.stay_offset[1:]
    if max_sets is not None:
        first = np.maximum(first, end - max_sets)
    return end - first, split.set_offset[end] - split.set_offset[first]


def group_by_length(
    order: np.ndarray, n_sets: np.ndarray, n_events: np.ndarray, batch_size: int, max_events: int
) -> list[np.ndarray]:
    """Cut stays, taken in `order`, into batches of similar length.

    Pools of POOL_BATCHES batches are sorted by number of sets and cut wherever a batch is full, by stays or by events.
    A stay that alone exceeds `max_events` is a batch of its own.
    """
    batches: list[np.ndarray] = []
    for pool_start in range(0, len(order), POOL_BATCHES * batch_size):
        pool = order[pool_start : pool_start + POOL_BATCHES * batch_size]
        pool = pool[np.argsort(n_sets[pool], kind="stable")]
        batches.extend(_cut(pool, n_events[pool].tolist(), batch_size, max_events))
    return batches


def _cut(pool: np.ndarray, n_events: list[int], batch_size: int, max_events: int) -> Iterator[np.ndarray]:
    start, events = 0, 0
    for position, size in enumerate(n_events):
        if position > start and (position - start == batch_size or events + size > max_events):
            yield pool[start:position]
            start, events = position, 0
        events += size
    yield pool[start:]


class LengthBucketSampler(Sampler[np.ndarray]):
    """Batches of similar length, a pure function of (seed, epoch), so that a run can be resumed anywhere.

    With `shuffle` the stays are permuted, pooled, and the batches permuted again, anew for each epoch; without it the
    batches go from short to long, the same every time.
    """

    def __init__(
        self,
        stays: np.ndarray,
        n_sets: np.ndarray,
        n_events: np.ndarray,
        *,
        batch_size: int,
        max_events: int,
        shuffle: bool,
        seed: Sequence[int] = (0,),
    ) -> None:
        self.stays, self.n_sets, self.n_events = stays, n_sets, n_events
        self.batch_size, self.max_events, self.shuffle, self.seed = batch_size, max_events, shuffle, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Lay out the batches of this epoch; called before the epoch's iterator is made."""
        self.epoch = epoch
        self.batches = self._shuffled(np.random.default_rng([*self.seed, epoch])) if self.shuffle else self._sorted()

    def _shuffled(self, rng: np.random.Generator) -> list[np.ndarray]:
        batches = group_by_length(
            rng.permutation(self.stays), self.n_sets, self.n_events, self.batch_size, self.max_events
        )
        return [batches[position] for position in rng.permutation(len(batches))]

    def _sorted(self) -> list[np.ndarray]:
        order = self.stays[np.argsort(self.n_sets[self.stays], kind="stable")]
        return list(_cut(order, self.n_events[order].tolist(), self.batch_size, self.max_events)) if len(order) else []

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class SplitBatches(Dataset[Batch]):
    """A split as a dataset whose items are whole batches: `dataset[stays]` collates those stays."""

    def __init__(self, split: Split, max_sets: int | None, dtype: type) -> None:
        self.split, self.max_sets, self.dtype = split, max_sets, dtype

    def __getitem__(self, stays: Sequence[int] | np.ndarray) -> Batch:
        return collate(self.split, np.asarray(stays), self.max_sets, self.dtype)

    def __len__(self) -> int:
        return self.split.n_stays
