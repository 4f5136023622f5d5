"""Batches: what collate makes of a split, and which stays come together when."""

from __future__ import annotations

import pickle
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data import CohortDataModule, require_both_classes
from seqsetvae.architectures.seqsetvae import reference as plain
from seqsetvae.batch import Batch
from seqsetvae.cohort import Cohort
from seqsetvae.errors import InputError
from seqsetvae.loading import LengthBucketSampler, SplitBatches, _ranges, collate, group_by_length, stay_sizes
from tests import tiny


def _sets_of(batch: Batch) -> list[plain.PlainSet]:
    """The sets of a batch, stay by stay in time order, read back by its legend in a plain loop."""
    starts, start = [], 0
    for size, count in batch.size_runs:
        for _ in range(count):
            starts.append((start, size))
            start += size
    assert start == len(batch.variable) == len(batch.value)
    sets: list[plain.PlainSet] = []
    for minute, row in zip(batch.minute.tolist(), batch.set_row.tolist(), strict=True):
        first, size = starts[row]
        events = slice(first, first + size)
        sets.append((minute, list(zip(batch.variable[events].tolist(), batch.value[events].tolist(), strict=True))))
    return sets


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3, 4], [3, 1], [2], [4, 4, 0]])
@pytest.mark.parametrize("max_sets", [None, 1, 3, 100])
def test_collate_holds_exactly_the_chosen_stays(chosen: list[int], max_sets: int | None) -> None:
    stays = tiny.ragged_stays()
    batch = collate(tiny.split_of(stays), np.array(chosen), max_sets, np.float64)
    kept = [stays[i][-max_sets:] if max_sets else stays[i] for i in chosen]  # the LAST sets
    assert _sets_of(batch) == [one for stay in kept for one in stay]
    assert batch.sets_per_stay.tolist() == [len(stay) for stay in kept]
    assert batch.stay_id.tolist() == [100 + i for i in chosen]
    assert batch.label.tolist() == [i % 2 for i in chosen]
    assert batch.set_index.tolist() == [t for stay in kept for t in range(len(stay))]
    assert batch.stay_of_set.tolist() == [n for n, stay in enumerate(kept) for _ in stay]
    assert (batch.n_stays, batch.n_sets) == (len(kept), sum(map(len, kept)))


@pytest.mark.parametrize("lengths", [[7, 7, 7], [5, 6, 7], [1, 3, 3000], [3000, 1, 2, 1, 2900, 40, 41], [1]])
def test_each_stay_has_a_row_of_a_grid_and_padding_is_bounded(lengths: list[int]) -> None:
    batch = tiny.batch_of([[(float(minute), [(0, 1.0)]) for minute in range(length)] for length in lengths])
    row_of_slot = [(width, grid, row) for grid, (n, width) in enumerate(batch.grids) for row in range(n)]
    rows = [[key] * key[0] for key in row_of_slot]
    slots = [(key[1:], column) for row in rows for column, key in enumerate(row)]
    places = [slots[slot] for slot in batch.slot.tolist()]
    of_stays = [places[end - length : end] for end, length in zip(np.cumsum(lengths), lengths, strict=True)]
    assert all([column for _, column in stay] == list(range(len(stay))) for stay in of_stays)
    assert all(len({row for row, _ in stay}) == 1 for stay in of_stays)
    assert len({stay[0][0] for stay in of_stays}) == len(lengths) == sum(n for n, _ in batch.grids)
    assert len(slots) <= 1.5 * sum(lengths)


def test_the_batches_of_an_epoch_are_one_grid_each_or_little_more(compiled: Cohort) -> None:
    batches = list(_module(compiled).loader("train", shuffle=True))
    assert sum(len(batch.grids) for batch in batches) <= 1.1 * len(batches)


def test_no_event_is_padded_and_no_embedding_is_copied() -> None:
    stays = tiny.ragged_stays()
    batch = tiny.batch_of(stays)
    n_events = sum(len(events) for stay in stays for _, events in stay)
    assert batch.variable.shape == batch.value.shape == (n_events,)
    largest = max(value.numel() for value in vars(batch).values() if isinstance(value, torch.Tensor))
    assert largest == n_events
    assert list(batch.size_runs) == sorted(batch.size_runs)


def test_dtypes_are_those_of_the_legend() -> None:
    for dtype, torch_dtype in ((np.float32, torch.float32), (np.float64, torch.float64)):
        batch = tiny.batch_of(tiny.ragged_stays(), dtype)
        assert batch.value.dtype == torch_dtype
        assert batch.minute.dtype == torch.float64
        for name in ("variable", "set_row", "set_index", "slot", "sets_per_stay", "label", "stay_id"):
            assert getattr(batch, name).dtype == torch.int64, name


def test_a_batch_survives_pickling_and_moving() -> None:
    batch = tiny.batch_of(tiny.ragged_stays())
    for other in (pickle.loads(pickle.dumps(batch)), batch.to("cpu")):
        for item in fields(Batch):
            ours, theirs = getattr(batch, item.name), getattr(other, item.name)
            assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs, item.name


def test_ranges_are_concatenated() -> None:
    assert _ranges(np.array([5, 0, 9]), np.array([2, 3, 1])).tolist() == [5, 6, 0, 1, 2, 9]


def test_stay_sizes_count_what_the_cut_leaves() -> None:
    stays = tiny.ragged_stays()
    n_sets, n_events = stay_sizes(tiny.split_of(stays), 2)
    assert n_sets.tolist() == [min(len(stay), 2) for stay in stays]
    assert n_events.tolist() == [sum(len(events) for _, events in stay[-2:]) for stay in stays]


# ---------------------------------------------------------------------------------------------------- which stays, when

N_SETS = np.random.default_rng(2).integers(1, 200, 333)
N_EVENTS = N_SETS * 5


def _sampler(**changes: Any) -> LengthBucketSampler:
    options: dict[str, Any] = {"batch_size": 8, "max_events": 4000, "shuffle": True, "seed": (1, 1)} | changes
    return LengthBucketSampler(np.arange(333), N_SETS, N_EVENTS, **options)


def _batches(sampler: LengthBucketSampler, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return [batch.tolist() for batch in sampler]


@pytest.mark.parametrize("shuffle", [True, False])
def test_epochs_are_those_of_the_plain_twin(shuffle: bool) -> None:
    """Pins who is with whom, and when: a run must find the batches of its epoch again, in every version."""
    for batch_size, max_events in ((8, 4000), (3, 700), (1, 1), (32, 10**9)):
        sampler = _sampler(shuffle=shuffle, batch_size=batch_size, max_events=max_events)
        for epoch in (0, 3):
            expected = _plain_epoch(shuffle, batch_size, max_events, epoch)
            assert _batches(sampler, epoch) == expected
            assert len(sampler) == len(expected)


def _plain_epoch(shuffle: bool, batch_size: int, max_events: int, epoch: int) -> list[list[int]]:
    """The batches of _sampler, one stay at a time."""
    rng = np.random.default_rng([1, 1, epoch])
    order = rng.permutation(np.arange(333)).tolist() if shuffle else list(range(333))
    pool_size = 16 * batch_size if shuffle else len(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), pool_size):
        batches.append([])
        for stay in sorted(order[start : start + pool_size], key=lambda stay: N_SETS[stay]):
            full = len(batches[-1]) == batch_size or N_EVENTS[[*batches[-1], stay]].sum() > max_events
            if full and batches[-1]:
                batches.append([])
            batches[-1].append(stay)
    return [batches[i] for i in rng.permutation(len(batches))] if shuffle else batches


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_every_stay_once(shuffle: bool) -> None:
    for epoch in range(3):
        batches = _batches(_sampler(shuffle=shuffle), epoch)
        assert sorted(stay for batch in batches for stay in batch) == list(range(333))
        assert all(batches)


def test_the_order_is_a_function_of_seed_stage_and_epoch() -> None:
    assert _batches(_sampler(), 3) == _batches(_sampler(), 3)
    seen = [
        _batches(_sampler(seed=seed), epoch) for seed, epoch in (((1, 1), 3), ((1, 1), 4), ((1, 2), 3), ((2, 1), 3))
    ]
    assert all(ours != theirs for i, ours in enumerate(seen) for theirs in seen[:i])


def test_epochs_group_stays_anew() -> None:
    """Not only the order of batches changes: who is with whom does."""
    first, second = ({frozenset(batch) for batch in _batches(_sampler(), epoch)} for epoch in (0, 1))
    assert len(first & second) < len(first) / 4


def test_without_shuffling_all_epochs_are_alike_and_sorted() -> None:
    batches = _batches(_sampler(shuffle=False), 0)
    assert batches == _batches(_sampler(shuffle=False), 5)
    lengths = [N_SETS[stay] for batch in batches for stay in batch]
    assert lengths == sorted(lengths)


def test_batches_respect_both_caps() -> None:
    for batch in _batches(_sampler(max_events=1500)):
        assert len(batch) <= 8
        assert len(batch) == 1 or N_EVENTS[batch].sum() <= 1500


def test_a_stay_beyond_the_cap_is_a_batch_of_its_own() -> None:
    n_sets, n_events = np.array([1, 2, 3, 4]), np.array([10, 10, 9999, 10])
    batches = [batch.tolist() for batch in group_by_length(np.arange(4), n_sets, n_events, 8, 100)]
    assert batches == [[0, 1], [2], [3]]


def test_stays_of_a_batch_are_of_similar_length() -> None:
    """Padding of the history grid: far below that of random order."""

    def padding(batches: list[list[int]]) -> float:
        grid = sum(len(batch) * N_SETS[batch].max() for batch in batches)
        return float(grid / N_SETS.sum() - 1)

    order = np.random.default_rng(0).permutation(333).tolist()
    assert padding(_batches(_sampler(max_events=10**9))) < 0.15
    assert padding([order[i : i + 8] for i in range(0, 333, 8)]) > 0.6


def test_no_stays_make_no_batches() -> None:
    for shuffle in (True, False):
        none = LengthBucketSampler(
            np.array([], dtype=int), N_SETS, N_EVENTS, batch_size=8, max_events=9, shuffle=shuffle
        )
        assert list(none) == []


# ---------------------------------------------------------------------------------------------------- loaders


def _module(cohort: Cohort, **options: Any) -> CohortDataModule:
    return CohortDataModule(cohort, **{"batch_size": 8, "max_events": 4000, "seed": 7} | options)


def _same(ours: Batch, theirs: Batch) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for item in fields(Batch)
        for a, b in [(getattr(ours, item.name), getattr(theirs, item.name))]
    )


def test_worker_processes_make_the_same_batches(compiled: Cohort) -> None:
    """Also where they are spawned, as on macOS and Windows: the dataset is pickled and the maps are opened again."""
    here = list(_module(compiled).loader("train", shuffle=True, epoch=2))
    loader = _module(compiled).loader("train", shuffle=True, epoch=2)
    spawned: DataLoader[Batch] = DataLoader(
        loader.dataset, sampler=loader.sampler, batch_size=None, num_workers=2, multiprocessing_context="spawn"
    )
    theirs = list(spawned)
    assert len(here) == len(theirs)
    assert all(_same(ours, other) for ours, other in zip(here, theirs, strict=True))


def test_a_dataset_pickles_without_its_data(compiled: Cohort) -> None:
    dataset = SplitBatches(compiled.split("train"), None, np.float32)
    assert len(pickle.dumps(dataset)) < 1000
    assert _same(pickle.loads(pickle.dumps(dataset))[[0, 3]], dataset[[0, 3]])


def test_loaders_do_not_draw_from_the_global_random_numbers(compiled: Cohort) -> None:
    """Dropout must not depend on how many loaders there are."""
    before = torch.get_rng_state()
    list(_module(compiled).loader("train", shuffle=True))
    assert torch.equal(before, torch.get_rng_state())


def _unlabelled(cohort: Cohort, stays: list[int]) -> Cohort:
    """The cohort, with these stays of every split without a label."""
    changed = {}
    for name, split in cohort.splits.items():
        label = np.array(split.label)
        label[stays] = -1
        arrays = {
            array: getattr(split, array)
            for array in ("variable", "value", "set_offset", "minute", "stay_offset", "stay_id", "n_stays")
        }
        changed[name] = SimpleNamespace(**arrays | {"label": label})
    return Cohort(**{item.name: getattr(cohort, item.name) for item in fields(Cohort)} | {"splits": changed})


def test_stays_without_a_label_are_left_out_of_training_and_validation_and_are_no_zeros(compiled: Cohort) -> None:
    data = _module(_unlabelled(compiled, [0, 5]))
    for loader, split in ((data.train_dataloader(), "train"), (data.val_dataloader(), "valid")):
        batches = list(loader)
        seen = torch.cat([batch.stay_id for batch in batches]).tolist()
        ids = compiled.split(split).stay_id.tolist()
        assert sorted(seen) == sorted(set(ids) - {ids[0], ids[5]})
        assert min(int(batch.label.min()) for batch in batches) == 0
    everything = torch.cat([batch.stay_id for batch in _module(data.cohort, labelled=False).loader("train")]).tolist()
    assert sorted(everything) == sorted(compiled.split("train").stay_id.tolist())


def test_a_split_of_one_class_is_an_error_that_says_what_it_holds(compiled: Cohort) -> None:
    label = compiled.split("valid").label
    dead = np.flatnonzero(label == 1).tolist()
    with pytest.raises(
        InputError,
        match=rf"split 'valid' has {len(label) - len(dead)} stays of class 0, 0 of class 1 and "
        rf"{len(dead)} without a label",
    ):
        require_both_classes(_unlabelled(compiled, dead), "valid")
    require_both_classes(compiled, "train", "valid", "test")


def test_the_data_module_says_how_many_stays_max_sets_cuts(compiled: Cohort) -> None:
    lengths = np.diff(compiled.split("train").stay_offset)
    assert _module(compiled, max_sets=20).n_cut("train") == int((lengths > 20).sum()) > 0
    assert _module(compiled).n_cut("train") == 0
