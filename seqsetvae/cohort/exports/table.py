"""One long table: a Parquet file of events for each split, and a CSV file of labels. Other formats use its rows."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqsetvae.cohort.format import EVENTS_PER_BLOCK, SAMPLES, Cohort, Split
from seqsetvae.cohort.imported import read_samples
from seqsetvae.system.files import new_folder

HELP = "one long table (events/<split>.parquet, labels.csv)"
SCHEMA = pa.schema(
    [
        ("stay_id", pa.int64()),
        ("subject_id", pa.int64()),  # the patient
        ("minute", pa.float64()),  # since admission
        ("set_index", pa.int64()),  # the sets of a stay, numbered from 0: two may be at the same minute
        ("variable", pa.string()),
        ("value", pa.float64()),  # in the unit of the variable
    ]
)


def write(cohort: Cohort, out: Path) -> list[str]:
    """Write OUT/{events/<split>.parquet, labels.csv}. Nothing is lost, so no line is returned.

    Raises:
        InputError: `out` exists already, or cannot be written.
    """
    with new_folder(out) as partial:
        (partial / "events").mkdir()
        for name in cohort.splits:
            schema = SCHEMA.append(pa.field("split", pa.string()))
            with pq.ParquetWriter(partial / "events" / f"{name}.parquet", schema) as writer:
                for rows in blocks(cohort, name):
                    writer.write_table(rows.append_column("split", pa.repeat(name, len(rows))))
        write_csv(partial / "labels.csv", ("stay_id", "prediction_minute", cohort.label_name), _labels(cohort))
        write_source_ids(cohort, partial / SAMPLES)
    return []


def _labels(cohort: Cohort) -> Iterator[tuple[int, float | str, int | str]]:
    """(stay, prediction time in minutes or nothing, label or nothing) of every stay."""
    for split in cohort.splits.values():
        for stay, minute, label in zip(split.stay_id, split.prediction_minute, split.label, strict=True):
            yield int(stay), "" if np.isnan(minute) else float(minute), int(label) if label >= 0 else ""


def blocks(cohort: Cohort, name: str) -> Iterator[pa.Table]:
    """The events of a split in SCHEMA: whole stays, at most EVENTS_PER_BLOCK events or one stay at a time."""
    split, names = cohort.split(name), pa.array(cohort.vocabulary, pa.string())
    end = split.set_offset[split.stay_offset[1:]]  # [stays of the split] one past the last event of each
    first = 0
    while first < split.n_stays:
        begin = 0 if first == 0 else int(end[first - 1])
        last = max(first + 1, int(np.searchsorted(end, begin + EVENTS_PER_BLOCK, side="right")))
        yield _rows(split, names, first, last)
        first = last


def _rows(split: Split, names: pa.Array, first: int, last: int) -> pa.Table:
    """The events of the stays from `first` to before `last`."""
    set_start = split.stay_offset[first : last + 1]
    sets = slice(int(set_start[0]), int(set_start[-1]))
    event_start = split.set_offset[sets.start : sets.stop + 1]
    events = slice(int(event_start[0]), int(event_start[-1]))
    n_sets, n_events = np.diff(set_start), np.diff(event_start)
    stay = np.repeat(np.repeat(np.arange(first, last), n_sets), n_events)
    index_of_set = np.arange(sets.start, sets.stop) - np.repeat(set_start[:-1], n_sets)
    columns = {
        "stay_id": split.stay_id[stay],
        "subject_id": split.subject_id[stay],
        "minute": np.repeat(split.minute[sets], n_events),
        "set_index": np.repeat(index_of_set, n_events),
        "variable": names.take(pa.array(split.variable[events])),
        "value": split.value[events],
    }
    return pa.table(columns, SCHEMA)


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file; floats read back to the same bits."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def write_source_ids(cohort: Cohort, file: Path) -> None:
    """Write the id, start and prediction time that each sample of an imported cohort has in its source."""
    samples = read_samples(cohort)
    if samples is not None:
        pq.write_table(samples, file)
