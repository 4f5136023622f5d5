"""The events of a cohort as rows with values in the unit of each variable, some whole stays at a time.

Letters: N stays and E events of a block, V variables.
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
# Digits after the first that a value is rounded to in search of the number that was in the source: a double holds
# 15, of which the two operations of z * std + mean may spoil two.
_DIGITS = 12
_STEPS = 4  # rounding errors that are tried in both directions


@dataclass(frozen=True)
class Block:
    """Some whole stays of a split."""

    stays: slice  # their positions in the split
    stay: NDArray[np.int64]  # [E] position in the split
    set_index: NDArray[np.int64]  # [E] number of the set in its stay, from 0
    minute: Floats  # [E]
    variable: NDArray[np.int32]  # [E] index into the vocabulary
    value: Floats  # [E] in the variable's own unit


def blocks(cohort: Cohort, split: Split) -> Iterator[Block]:
    """The stays of a split in order, in blocks of at most EVENTS_PER_BLOCK events or one stay: memory stays bounded."""
    end = split.set_offset[split.stay_offset[1:]]  # [stays of the split] one past the last event of each
    first = 0
    while first < split.n_stays:
        begin = 0 if first == 0 else int(end[first - 1])
        last = max(first + 1, int(np.searchsorted(end, begin + EVENTS_PER_BLOCK, side="right")))
        yield _block(cohort, split, slice(first, last))
        first = last


def _block(cohort: Cohort, split: Split, stays: slice) -> Block:
    set_start = split.stay_offset[stays.start : stays.stop + 1]
    sets = slice(int(set_start[0]), int(set_start[-1]))
    event_start = split.set_offset[sets.start : sets.stop + 1]
    events = slice(int(event_start[0]), int(event_start[-1]))
    n_sets, n_events = np.diff(set_start), np.diff(event_start)
    stay_of_set = np.repeat(np.arange(stays.start, stays.stop), n_sets)
    index_of_set = np.arange(sets.start, sets.stop) - np.repeat(set_start[:-1], n_sets)
    variable = split.variable[events]
    return Block(
        stays=stays,
        stay=np.repeat(stay_of_set, n_events),
        set_index=np.repeat(index_of_set, n_events),
        minute=np.repeat(split.minute[sets], n_events),
        variable=variable,
        value=raw_values(cohort, variable, split.value[events]),
    )


def raw_values(cohort: Cohort, variable: NDArray[np.int32], stored: Floats) -> Floats:
    """Stored values [E] in the unit of each variable [E].

    z * std + mean is rounded, so it may be a neighbour of the number that was in the source, 7.300000000000001 for 7.3,
    and compile to another z-score. Of the numbers around it, the first is taken that compiles to the same z-score to
    the last bit, rounded ones first.
    """
    known = ~np.isnan(cohort.mean[variable])
    mean, std, z = cohort.mean[variable][known], cohort.std[variable][known], stored[known]
    value = z * std + mean
    size = np.maximum.reduce([np.abs(z * std), np.abs(mean), np.finfo(np.float64).tiny + np.abs(value)])
    found = np.where(_same(value, mean, std, z), value, np.nan)
    for step in (step * sign for step in range(1, _STEPS + 1) for sign in (1, -1)):
        missing = np.flatnonzero(np.isnan(found))
        near = value[missing] + step * np.spacing(size[missing])
        found[missing] = np.where(_same(near, mean[missing], std[missing], z[missing]), near, np.nan)
    scale = 10.0 ** np.clip(_DIGITS - np.ceil(np.log10(size)), -300, 300)
    with np.errstate(over="ignore", invalid="ignore"):  # a rounded number that overflows is not taken
        rounded = np.round(value * scale) / scale
        found = np.where(_same(rounded, mean, std, z), rounded, found)
    raw = stored.copy()
    raw[known] = np.where(np.isnan(found), value, found)
    return raw


def _same(value: Floats, mean: Floats, std: Floats, z: Floats) -> NDArray[np.bool_]:
    """Whether these values have these z-scores, computed as a compilation does."""
    return (value - mean) / std == z


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file; floats read back to the same bits."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def write_variables(cohort: Cohort, folder: Path) -> None:
    """Write stats.csv and cached.csv: mean, std and embedding of each variable."""
    known = np.flatnonzero(~np.isnan(cohort.mean))
    stats = ((cohort.vocabulary[v], float(cohort.mean[v]), float(cohort.std[v])) for v in known)
    write_csv(folder / "stats.csv", ("variable", "mean", "std"), stats)
    vectors = ((name, *vector.tolist()) for name, vector in zip(cohort.vocabulary, cohort.embeddings, strict=True))
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
