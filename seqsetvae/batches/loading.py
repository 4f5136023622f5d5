"""From a compiled cohort to batches: how stays are grouped, collated, and handed to Lightning.

Legend: E events, S sets, N stays in a batch; n stays in a split.
"""

from __future__ import annotations

import copy
import errno
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from seqsetvae.batches.batch import Batch
from seqsetvae.batches.sampler import LengthBucketSampler
from seqsetvae.batches.transform import PLAIN, ValueChange, ValueTransform
from seqsetvae.cohort import Cohort, Split, require_classes
from seqsetvae.cohort.format import join_ranges
from seqsetvae.ops.attention import Grids
from seqsetvae.ops.ragged import ExactSizes, PaddedSizes
from seqsetvae.settings.groups import DataSettings, LoaderSettings, RunSettings
from seqsetvae.system.errors import InputError


def collate(
    split: Split,
    stays: np.ndarray,
    max_sets: int | None = None,
    dtype: type = np.float32,
    padded_classes: bool = False,
    change: ValueChange | None = None,
    first_sets: np.ndarray | None = None,
) -> Batch:
    """The batch of these stays of a split, by index arithmetic on its memory-mapped arrays.

    Args:
        split: the split that holds the stays.
        stays: [N] positions of stays in the split.
        max_sets: keep only the LAST so many sets of each stay, as if its history began there; None keeps all.
        dtype: type of the values.
        padded_classes: pad sets to a few sizes, for a GPU.
        change: what turns values into those that a model reads (`ValueTransform.change`); None = they stay.
        first_sets: [N] cut each stay off after so many sets, before `max_sets` is applied; None keeps them whole.
    """
    first = split.stay_offset[stays]
    end = split.stay_offset[stays + 1] if first_sets is None else first + first_sets
    if max_sets is not None:
        first = np.maximum(first, end - max_sets)
    sets_per_stay = end - first
    sets = join_ranges(first, sets_per_stay)  # [S] stay by stay, in time order
    sizes = split.set_offset[sets + 1] - split.set_offset[sets]
    by_size = np.argsort(sizes, kind="stable")
    set_row = np.empty_like(by_size)
    set_row[by_size] = np.arange(len(by_size))
    events = join_ranges(split.set_offset[sets[by_size]], sizes[by_size])
    variable, value = split.variable[events], split.value[events]
    if change is not None:
        value = change(variable, value)
    target = getattr(split, "target", None)  # of another task than one binary label
    layout = PaddedSizes if padded_classes else ExactSizes
    return Batch(
        variable=torch.from_numpy(variable.astype(np.int64)),
        value=torch.from_numpy(value.astype(dtype)),
        sizes=layout.from_counts(sizes[by_size]),
        set_row=torch.from_numpy(set_row),
        set_index=torch.from_numpy(join_ranges(np.zeros_like(sets_per_stay), sets_per_stay)),
        grids=Grids.from_counts(sets_per_stay),
        minute=torch.from_numpy(split.minute[sets]),
        sets_per_stay=torch.from_numpy(sets_per_stay),
        label=torch.from_numpy(split.label[stays].astype(np.int64)),
        stay_id=torch.from_numpy(split.stay_id[stays]),
        target=None if target is None else torch.from_numpy(target[stays]),
    )


def take_stays(batches: Iterable[Batch], n_stays: int) -> Iterator[Batch]:
    """Batches until they hold so many stays."""
    seen = 0
    for batch in batches:
        yield batch
        seen += batch.n_stays
        if seen >= n_stays:
            return


def stay_sizes(split: Split, max_sets: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sets and events of every stay after the cut to the last `max_sets` sets: two arrays [n_stays]."""
    first, end = split.stay_offset[:-1], split.stay_offset[1:]
    if max_sets is not None:
        first = np.maximum(first, end - max_sets)
    return end - first, split.set_offset[end] - split.set_offset[first]


Prepare = Callable[[Batch], Any]  # what an architecture computes on the host when a batch is made


class SplitBatches(Dataset[Batch]):
    """A split as a dataset whose items are whole batches: `dataset[stays]` collates the stays at these positions.

    A batch of ~positions is that of these stays without their labels, see LengthBucketSampler.
    """

    def __init__(
        self,
        split: Split,
        max_sets: int | None,
        dtype: type,
        padded_classes: bool = False,
        change: ValueChange | None = None,
        prepare: Prepare | None = None,
        random_key: tuple[int, ...] = (),
        prepared_change: ValueChange | None = None,
    ) -> None:
        """`prepare` draws random numbers that depend on `random_key` and the batch alone, in whatever process.

        It gets the batch, or with `prepared_change` one whose values were changed by that.
        """
        self.split, self.max_sets, self.dtype, self.padded_classes = split, max_sets, dtype, padded_classes
        self.change, self.prepare = change, prepare
        self.random_key, self.prepared_change = random_key, prepared_change

    def __getitem__(self, stays: np.ndarray) -> Batch:
        if stays[0] < 0:
            return self[~stays].without_labels()
        return self.batch(stays)

    def batch(self, stays: np.ndarray, first_sets: np.ndarray | None = None) -> Batch:
        """The batch of the stays at these positions [N], or of only so many of their first sets [N]."""
        batch = self._collate(stays, self.change, first_sets)
        if self.prepare is not None:
            change = self.prepared_change
            changed = batch if change is None else self._collate(stays, change, first_sets)
            batch.prepared = self._prepared(stays, changed)
        return batch

    def prepared(self, stays: np.ndarray) -> Any:
        """`batch.prepared` of these stays, without their events."""
        return self._prepared(stays, self._collate(stays, self.prepared_change or self.change, None))

    def _collate(self, stays: np.ndarray, change: ValueChange | None, first_sets: np.ndarray | None) -> Batch:
        return collate(self.split, stays, self.max_sets, self.dtype, self.padded_classes, change, first_sets)

    def _prepared(self, stays: np.ndarray, batch: Batch) -> Any:
        assert self.prepare is not None
        with torch.random.fork_rng(devices=[]):
            seed = np.random.SeedSequence([*self.random_key, int(stays[0])]).generate_state(1)
            torch.manual_seed(int(seed[0]))
            return self.prepare(batch)

    def __len__(self) -> int:
        return self.split.n_stays


class BatchLoader(DataLoader[Any]):
    """A DataLoader over whole batches that raises InputError where its worker processes cannot be started."""

    def __init__(self, batches: Dataset[Any], sampler: LengthBucketSampler, num_workers: int, **options: Any) -> None:
        super().__init__(batches, batch_size=None, sampler=sampler, num_workers=num_workers, **options)

    def __iter__(self) -> Any:
        """Raises InputError."""
        try:
            if self.num_workers:  # it needs 8 + 3 n semaphores, and prints a traceback where they fail
                tried = [multiprocessing.Lock() for _ in range(8 + 3 * self.num_workers)]
                del tried  # gives them back
            return super().__iter__()
        except OSError as error:
            of_shm = error.errno not in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
            where = " in /dev/shm, the shared memory, which has nothing to do with a disk" if of_shm else ""
            raise InputError(
                f"num_workers: received {self.num_workers}, but loader processes cannot be started ({error.strerror}"
                f"{where}). Pass --num_workers 0."
            ) from None


class CohortDataModule(pl.LightningDataModule):
    """Loaders over a cohort's splits; on its own a data module for one fit. The fits of a run use StageLoaders.

    Args:
        cohort: the compiled cohort.
        batch_size: most stays in a batch.
        max_events: most events in a batch of more than one stay.
        max_sets: keep the last so many sets of each stay; None keeps all.
        num_workers: loader processes.
        dtype: type of the values, float32 or float64.
        seed: seed of the training order.
        labelled: leave out stays without a label.
        pin_memory: put batches where a GPU can copy them from by itself.
        padded_classes: pad sets to a few sizes, for a GPU.
        transform: how values are read; by default as z-scores.
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
        pin_memory: bool = False,
        padded_classes: bool = False,
        transform: ValueTransform = PLAIN,
    ) -> None:
        super().__init__()
        self.cohort, self.seed = cohort, seed
        self.batch_size, self.max_events, self.max_sets = batch_size, max_events, max_sets
        self.num_workers, self.dtype, self.labelled = num_workers, dtype, labelled
        self.pin_memory, self.padded_classes = pin_memory, padded_classes
        self.transform, self._change = transform, transform.change(cohort)
        self._prepare: dict[str, Prepare | None] = {}
        self._prepared_change: ValueChange | None = None

    def with_prepare(
        self, prepare: Prepare | None, *splits: str, transform: ValueTransform | None = None
    ) -> CohortDataModule:
        """A copy of the loaders whose batches hold what `prepare` makes of them, in these splits (none: all).

        With a `transform` it gets them with the values of that one.
        """
        changed = copy.copy(self)
        changed._prepare = {**self._prepare, **dict.fromkeys(splits or self.cohort.splits, prepare)}
        if transform not in (None, self.transform):
            changed._prepared_change = transform.change(self.cohort)
        return changed

    def with_transform(self, transform: ValueTransform) -> CohortDataModule:
        """A copy of the loaders that reads values with another transform."""
        changed = copy.copy(self)
        changed.transform, changed._change = transform, transform.change(self.cohort)
        return changed

    @property
    def prepares(self) -> bool:
        """Whether the loaders compute a part of the model."""
        return any(prepare is not None for prepare in self._prepare.values())

    def train_dataloader(self) -> DataLoader[Batch]:
        """Reshuffled batches of this epoch."""
        return self.loader("train", shuffle=True, epoch=epoch_of(self))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every stay of the validation split once."""
        return self.loader("valid")

    def loader(
        self, split: str, *, shuffle: bool = False, rows: Dataset[Any] | None = None, **position: Any
    ) -> DataLoader[Any]:
        """Batches of a split; without shuffle from short to long, every stay once.

        `rows` replaces the split's events: a dataset whose item for some positions of stays is their batch.
        `position` is the position in training, or a share: stage, epoch, rank and so on of LengthBucketSampler.
        """
        stays = self.cohort.split(split)
        n_sets, n_events = stay_sizes(stays, self.max_sets)
        sampler = LengthBucketSampler(
            self._selected(split),
            n_sets,
            n_events,
            batch_size=self.batch_size,
            max_events=self.max_events,
            shuffle=shuffle,
            seed=self.seed,
            **position,
        )
        if rows is None:
            key = (self.seed, position.get("stage", 1), position.get("epoch", 0))
            options = self._change, self._prepare.get(split), key, self._prepared_change
            batches = SplitBatches(stays, self.max_sets, self.dtype, self.padded_classes, *options)
        return BatchLoader(
            batches if rows is None else rows,
            sampler,
            self.num_workers if rows is None else 0,  # a few rows are no work for another process
            pin_memory=self.pin_memory,
            generator=torch.Generator().manual_seed(self.seed),  # its own: the global one is dropout's
        )

    def _selected(self, split: str) -> np.ndarray:
        """Positions of the stays that a loader of the split goes through."""
        stays = self.cohort.split(split)
        return np.flatnonzero(stays.label >= 0) if self.labelled else np.arange(stays.n_stays)

    def n_selected(self, split: str) -> int:
        """Stays that a loader of the split goes through."""
        return len(self._selected(split))

    def n_cut(self, split: str) -> int:
        """Stays of a split that `max_sets` shortens."""
        stays = self.cohort.split(split)
        return int((stays.stay_offset[1:] - stays.stay_offset[:-1] > (self.max_sets or np.inf)).sum())


def data_module(
    cohort: Cohort,
    transform: ValueTransform,
    settings: DataSettings,
    loader: LoaderSettings,
    run: RunSettings,
    device: torch.device,
    *,
    labelled: bool = True,
) -> CohortDataModule:
    """Loaders over the cohort; prints how many stays `max_sets` shortens, and how many are left out without a label."""
    data = CohortDataModule(
        cohort,
        batch_size=loader.batch_size,
        max_events=loader.max_events_per_batch,
        max_sets=settings.max_sets,
        num_workers=loader.num_workers,
        dtype=value_type(run),
        seed=run.seed,
        labelled=labelled,
        pin_memory=device.type == "cuda",
        padded_classes=device.type == "cuda",
        transform=transform,
    )
    print(f"Values: {transform}")
    if data.max_sets is not None:
        cut = ", ".join(f"{name} {data.n_cut(name):,} of {split.n_stays:,}" for name, split in cohort.splits.items())
        print(f"Stays shortened to their last {data.max_sets} sets (max_sets): {cut}")
    unlabelled = {name: int((split.label < 0).sum()) for name, split in cohort.splits.items()}
    if labelled and any(unlabelled.values()):
        print("Stays without a label, left out: " + ", ".join(f"{name} {n:,}" for name, n in unlabelled.items()))
    return data


def value_type(run: RunSettings) -> type:
    """Type of the values in a batch: float64 if the run is in double precision, else float32."""
    return np.float64 if run.precision == "64-true" else np.float32


def epoch_of(data: pl.LightningDataModule) -> int:
    """The epoch of the fit that uses these loaders, counted from 0."""
    return data.trainer.current_epoch if data.trainer is not None else 0


def require_both_classes(cohort: Cohort, *splits: str) -> None:
    """A split that must rank stays needs labelled stays of both classes.

    Raises:
        InputError: naming the split and the numbers of its stays by class.
    """
    for name in splits:
        require_classes(f"{cohort.path}", name, cohort.label_name, cohort.split(name).label)
