"""The events of a cohort as rows, some whole stays at a time.

Letters: E events of a block.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqsetvae.cohort.format import EVENTS_PER_BLOCK, Cohort, Split
from seqsetvae.cohort.imported import read_samples

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """Some whole stays of a split."""

    stays: slice  # their positions in the split
    stay: NDArray[np.int64]  # [E] position in the split
    set_index: NDArray[np.int64]  # [E] number of the set in its stay, from 0
    minute: Floats  # [E]
    variable: NDArray[np.int32]  # [E] index into the vocabulary
    value: Floats  # [E] in the variable's own unit


def blocks(split: Split) -> Iterator[Block]:
    """The stays of a split in order, in blocks of at most EVENTS_PER_BLOCK events or one stay: memory stays bounded."""
    end = split.set_offset[split.stay_offset[1:]]  # [stays of the split] one past the last event of each
    first = 0
    while first < split.n_stays:
        begin = 0 if first == 0 else int(end[first - 1])
        last = max(first + 1, int(np.searchsorted(end, begin + EVENTS_PER_BLOCK, side="right")))
        yield _block(split, slice(first, last))
        first = last


def _block(split: Split, stays: slice) -> Block:
    set_start = split.stay_offset[stays.start : stays.stop + 1]
    sets = slice(int(set_start[0]), int(set_start[-1]))
    event_start = split.set_offset[sets.start : sets.stop + 1]
    events = slice(int(event_start[0]), int(event_start[-1]))
    n_sets, n_events = np.diff(set_start), np.diff(event_start)
    stay_of_set = np.repeat(np.arange(stays.start, stays.stop), n_sets)
    index_of_set = np.arange(sets.start, sets.stop) - np.repeat(set_start[:-1], n_sets)
    return Block(
        stays=stays,
        stay=np.repeat(stay_of_set, n_events),
        set_index=np.repeat(index_of_set, n_events),
        minute=np.repeat(split.minute[sets], n_events),
        variable=split.variable[events],
        value=split.value[events],
    )


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file; floats read back to the same bits."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def write_variables(cohort: Cohort, folder: Path) -> None:
    """Write stats.csv and cached.csv: mean, std and embedding of each variable that has them."""
    known = np.flatnonzero(~np.isnan(cohort.mean))
    stats = ((cohort.vocabulary[v], float(cohort.mean[v]), float(cohort.std[v])) for v in known)
    write_csv(folder / "stats.csv", ("variable", "mean", "std"), stats)
    pairs = zip(cohort.vocabulary, cohort.embeddings.tolist(), strict=True)
    vectors = ((name, *vector) for name, vector in pairs if vector[0] == vector[0])
    write_csv(folder / "cached.csv", ("Key", *range(cohort.embeddings.shape[1])), vectors)


def write_source_ids(cohort: Cohort, file: Path) -> None:
    """Write the id, start and prediction time that each sample of an imported cohort has in its source."""
    samples = read_samples(cohort)
    if samples is not None:
        pq.write_table(samples, file)


def has_patients(split: Split) -> bool:
    """Whether stays have a patient of another number."""
    return bool((split.subject_id != split.stay_id).any())


def has_prediction_times(split: Split) -> bool:
    """Whether stays end at a prediction time."""
    return not bool(np.isnan(split.prediction_minute).all())
