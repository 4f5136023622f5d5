"""Write stays and cohorts in the SeqSetVAE layout."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort
from seqsetvae.files import refuse_existing


@dataclass(frozen=True)
class StayTable:
    """One stay, ready to be written as a parquet file. E events."""

    stay_id: int
    variable: Sequence[str]  # E
    value: NDArray[np.float64]  # [E] in the variable's own unit
    minute: NDArray[np.float64]  # [E]
    set_index: NDArray[np.int64]  # [E]


def write_stay(folder: Path, stay: StayTable) -> Path:
    """Write <folder>/<stay_id>.0.parquet and return its path."""
    columns = {"variable": stay.variable, "value": stay.value, "minute": stay.minute, "set_index": stay.set_index}
    file = folder / f"{stay.stay_id}.0.parquet"
    pq.write_table(pa.table(columns), file)
    return file


def write_table(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a small CSV file; floats read back to the same bits."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def write_layout(cohort: Cohort, out: str | Path) -> Path:
    """Write a cohort as OUT/{patient_ehr/<split>/<stay>.0.parquet, stats.csv, oc.csv, cached.csv}; returns patient_ehr.

    Raises:
        InputError: `out` exists already.
    """
    out = Path(out)
    refuse_existing(out)
    for name in cohort.splits:
        folder = out / "patient_ehr" / name
        folder.mkdir(parents=True)
        for stay in _stays_of(cohort, name):
            write_stay(folder, stay)
    known = np.flatnonzero(~np.isnan(cohort.mean))
    stats = ((cohort.vocabulary[v], float(cohort.mean[v]), float(cohort.std[v])) for v in known)
    write_table(out / "stats.csv", ("variable", "mean", "std"), stats)
    labels = (
        (int(stay), int(label))
        for split in cohort.splits.values()
        for stay, label in zip(split.stay_id, split.label, strict=True)
        if label >= 0
    )
    write_table(out / "oc.csv", ("ts_id", cohort.label_name), labels)
    vectors = ((name, *vector.tolist()) for name, vector in zip(cohort.vocabulary, cohort.embeddings, strict=True))
    write_table(out / "cached.csv", ("Key", *range(cohort.embeddings.shape[1])), vectors)
    return out / "patient_ehr"


def _stays_of(cohort: Cohort, name: str) -> Iterable[StayTable]:
    split = cohort.split(name)
    names = cohort.vocabulary
    known = ~np.isnan(cohort.mean)
    mean, std = np.where(known, cohort.mean, 0.0), np.where(known, cohort.std, 1.0)
    for stay, start, end in zip(split.stay_id, split.stay_offset[:-1], split.stay_offset[1:], strict=True):
        offset = split.set_offset[start : end + 1]
        events = slice(offset[0], offset[-1])
        variable, n_events = split.variable[events], np.diff(offset)
        yield StayTable(
            stay_id=int(stay),
            variable=[names[v] for v in variable],
            value=split.value[events] * std[variable] + mean[variable],
            minute=np.repeat(split.minute[start:end], n_events),
            set_index=np.repeat(np.arange(end - start), n_events),
        )
