"""Batches: what collate makes of a split, and which stays come together when."""

import pickle
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data import CohortDataModule, require_both_classes
from seqsetvae.batches.batch import Batch
from seqsetvae.batches.loading import SplitBatches, collate, stay_sizes
from seqsetvae.cohort import Cohort
from seqsetvae.models.seqsetvae import reference as plain
from seqsetvae.system.errors import InputError
from tests import tiny


def _sets_of(batch: Batch) -> list[plain.PlainSet]:
    """The sets of a batch, stay by stay in time order, read back by its legend in a plain loop."""
    starts, start = [], 0
    for size, count in batch.sizes.runs:
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
def test_collate_holds_exactly_the_chosen_stays(chosen, max_sets):
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
def test_each_stay_has_a_row_of_a_grid_and_padding_is_bounded(lengths):
    batch = tiny.batch_of([[(float(minute), [(0, 1.0)]) for minute in range(length)] for length in lengths])
    shapes = batch.grids.shapes
    row_of_slot = [(width, grid, row) for grid, (n, width) in enumerate(shapes) for row in range(n)]
    rows = [[key] * key[0] for key in row_of_slot]
    slots = [(key[1:], column) for row in rows for column, key in enumerate(row)]
    places = [slots[slot] for slot in batch.grids.position.tolist()]
    of_stays = [places[end - length : end] for end, length in zip(np.cumsum(lengths), lengths, strict=True)]
    assert all([column for _, column in stay] == list(range(len(stay))) for stay in of_stays)
    assert all(len({row for row, _ in stay}) == 1 for stay in of_stays)
    assert len({stay[0][0] for stay in of_stays}) == len(lengths) == sum(n for n, _ in shapes)
    assert len(slots) <= 1.5 * sum(lengths)


def test_the_batches_of_an_epoch_are_one_grid_each_or_little_more(compiled):
    batches = list(_module(compiled).loader("train", shuffle=True))
    assert sum(len(batch.grids.shapes) for batch in batches) <= 1.1 * len(batches)


def test_no_event_is_padded_and_no_embedding_is_copied():
    stays = tiny.ragged_stays()
    batch = tiny.batch_of(stays)
    n_events = sum(len(events) for stay in stays for _, events in stay)
    assert batch.variable.shape == batch.value.shape == (n_events,)
    assert max(value.numel() for value in tiny.tensors_of(batch)) == n_events
    assert list(batch.sizes.runs) == sorted(batch.sizes.runs)


def test_dtypes_are_those_of_the_legend():
    for dtype, torch_dtype in ((np.float32, torch.float32), (np.float64, torch.float64)):
        batch = tiny.batch_of(tiny.ragged_stays(), dtype)
        assert batch.value.dtype == torch_dtype
        assert batch.minute.dtype == torch.float64
        others = tiny.values_of(batch).items() - {("value", batch.value), ("minute", batch.minute)}
        assert {value.dtype for _, value in others if isinstance(value, torch.Tensor)} == {torch.int64}


@pytest.mark.parametrize("padded_classes", [False, True])
def test_a_batch_survives_pickling_and_moving(padded_classes):
    batch = tiny.batch_of(tiny.ragged_stays(), padded_classes=padded_classes)
    for other in (pickle.loads(pickle.dumps(batch)), batch.to("cpu")):
        assert tiny.same(batch, other)
    assert {value.device.type for value in tiny.tensors_of(batch.to("meta"))} == {"meta"}


def test_stay_sizes_are_those_after_max_sets():
    stays = tiny.ragged_stays()
    n_sets, n_events = stay_sizes(tiny.split_of(stays), 2)
    assert n_sets.tolist() == [min(len(stay), 2) for stay in stays]
    assert n_events.tolist() == [sum(len(events) for _, events in stay[-2:]) for stay in stays]


# ---------------------------------------------------------------------------------------------------- loaders


def _module(cohort: Cohort, **options: Any) -> CohortDataModule:
    return CohortDataModule(cohort, **{"batch_size": 8, "max_events": 4000, "seed": 7} | options)


@pytest.mark.slow  # its processes import torch; test_a_dataset_pickles_without_its_data is the part that is ours
def test_worker_processes_make_the_same_batches(compiled):
    """Also where they are spawned, as on macOS and Windows: the dataset is pickled and the maps are opened again."""
    here = list(_module(compiled).loader("train", shuffle=True, epoch=2))
    loader = _module(compiled).loader("train", shuffle=True, epoch=2)
    spawned: DataLoader[Batch] = DataLoader(
        loader.dataset, sampler=loader.sampler, batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    theirs = list(spawned)
    assert len(here) == len(theirs)
    assert all(tiny.same(ours, other) for ours, other in zip(here, theirs, strict=True))


OPEN_FILES = Path("/proc/self/fd")


@pytest.mark.skipif(not OPEN_FILES.exists(), reason="open files are counted in /proc")
@pytest.mark.parametrize("prepare", [None, lambda batch: batch.grids, lambda batch: batch.minute.numpy()])
def test_batches_of_worker_processes_hold_no_open_files(compiled, prepare):
    """Ids and labels of a whole epoch are kept, and the limit of open files is often 1,024."""
    data = _module(compiled, num_workers=1, batch_size=1).with_prepare(prepare)
    batches = iter(data.loader("train"))
    kept = [next(batches)]
    before = len(list(OPEN_FILES.iterdir()))
    kept += [next(batches) for _ in range(20)]
    assert len(list(OPEN_FILES.iterdir())) <= before
    assert not any(tensor.is_shared() for batch in kept for tensor in (batch.stay_id, batch.grids.position))
    assert type(kept[0].prepared) is type(data.with_prepare(prepare).loader("train").dataset[np.array([0])].prepared)


def test_a_dataset_pickles_without_its_data(compiled):
    dataset = SplitBatches(compiled.split("train"), None, np.float32)
    assert len(pickle.dumps(dataset)) < 1000
    assert tiny.same(pickle.loads(pickle.dumps(dataset))[np.array([0, 3])], dataset[np.array([0, 3])])


def test_loaders_do_not_draw_from_the_global_random_numbers(compiled):
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


def test_stays_without_a_label_are_left_out_of_training_and_validation_and_are_no_zeros(compiled):
    data = _module(_unlabelled(compiled, [0, 5]))
    for loader, split in ((data.train_dataloader(), "train"), (data.val_dataloader(), "valid")):
        batches = list(loader)
        seen = torch.cat([batch.stay_id for batch in batches]).tolist()
        ids = compiled.split(split).stay_id.tolist()
        assert sorted(seen) == sorted(set(ids) - {ids[0], ids[5]})
        assert min(int(batch.label.min()) for batch in batches) == 0
    everything = torch.cat([batch.stay_id for batch in _module(data.cohort, labelled=False).loader("train")]).tolist()
    assert sorted(everything) == sorted(compiled.split("train").stay_id.tolist())


def test_a_split_of_one_class_is_an_error_with_its_counts(compiled):
    label = compiled.split("valid").label
    dead = np.flatnonzero(label == 1).tolist()
    with pytest.raises(
        InputError,
        match=rf"split 'valid' has {len(label) - len(dead)} stays of class 0, 0 of class 1 and "
        rf"{len(dead)} without a label",
    ):
        require_both_classes(_unlabelled(compiled, dead), "valid")
    require_both_classes(compiled, "train", "valid", "test")


def test_the_number_of_stays_that_max_sets_shortens(compiled):
    lengths = np.diff(compiled.split("train").stay_offset)
    assert _module(compiled, max_sets=20).n_cut("train") == int((lengths > 20).sum()) > 0
    assert _module(compiled).n_cut("train") == 0


def test_a_stay_that_only_fills_up_a_process_has_no_label(compiled):
    dataset = SplitBatches(compiled.split("train"), None, np.float32)
    padding, whole = dataset[np.array([~7])], dataset[np.array([7])]
    assert padding.label.tolist() == [-1]
    assert torch.equal(padding.stay_id, whole.stay_id)
    assert torch.equal(padding.value, whole.value)
