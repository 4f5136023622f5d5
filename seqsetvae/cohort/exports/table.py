"""One long table: a Parquet file of events for each split, and a CSV file of labels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqsetvae.cohort.exports.rows import blocks, write_csv, write_source_ids
from seqsetvae.cohort.format import SAMPLES, Cohort
from seqsetvae.files import new_folder

HELP = "one long table (events/<split>.parquet, labels.csv)"
SCHEMA = pa.schema(
    [
        ("stay_id", pa.int64()),
        ("subject_id", pa.int64()),  # the patient
        ("minute", pa.float64()),  # since admission
        ("set_index", pa.int64()),  # the sets of a stay, numbered from 0: two may be at the same minute
        ("variable", pa.string()),
        ("value", pa.float64()),  # in the unit of the variable
        ("split", pa.string()),
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
            with pq.ParquetWriter(partial / "events" / f"{name}.parquet", SCHEMA) as writer:
                for table in _tables(cohort, name):
                    writer.write_table(table)
        write_csv(partial / "labels.csv", ("stay_id", "prediction_minute", cohort.label_name), _labels(cohort))
        write_source_ids(cohort, partial / SAMPLES)
    return []


def _tables(cohort: Cohort, name: str) -> Iterator[pa.Table]:
    split, names = cohort.split(name), pa.array(cohort.vocabulary, pa.string())
    for block in blocks(split):
        columns = {
            "stay_id": split.stay_id[block.stay],
            "subject_id": split.subject_id[block.stay],
            "minute": block.minute,
            "set_index": block.set_index,
            "variable": names.take(pa.array(block.variable)),
            "value": block.value,
            "split": pa.repeat(name, len(block.value)),
        }
        yield pa.table(columns, schema=SCHEMA)


def _labels(cohort: Cohort) -> Iterator[tuple[int, float | str, int | str]]:
    """(stay, prediction time in minutes or nothing, label or nothing) of every stay."""
    for split in cohort.splits.values():
        for stay, minute, label in zip(split.stay_id, split.prediction_minute, split.label, strict=True):
            yield int(stay), "" if np.isnan(minute) else float(minute), int(label) if label >= 0 else ""
