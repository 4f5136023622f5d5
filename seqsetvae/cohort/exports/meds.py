"""MEDS 0.4 (Medical Event Data Standard): data/<split>/<n>.parquet, metadata/ and labels/<label>/<split>.parquet.

Every stay is a MEDS subject of its own, because a cohort keeps each stay on a clock of its own, from admission. Columns
beyond the standard hold what its own columns cannot: `value` (numeric_value has only 32 bits), `minute` (time has only
microseconds), `set_index` (two sets may be at the same minute) and `patient_id`.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqsetvae import __version__
from seqsetvae.cohort.exports.table import blocks, write_source_ids
from seqsetvae.cohort.format import SAMPLES, Cohort, Split
from seqsetvae.system.files import new_folder

HELP = "MEDS 0.4 (data/, metadata/, labels/)"
SPLIT_NAMES = {"train": "train", "valid": "tuning", "test": "held_out"}
ADMISSION = np.datetime64("2000-01-01T00:00:00", "us")  # of every stay: a cohort has minutes since admission, no dates
ETL = "seqsetvae data.py export"  # by which data.py meds knows that all columns below are there
MICROSECONDS = 60_000_000  # in a minute
_TIME = pa.timestamp("us")
_REQUIRED = [("subject_id", pa.int64()), ("time", _TIME), ("code", pa.string()), ("numeric_value", pa.float32())]
EXTRA = {"value": pa.float64(), "minute": pa.float64(), "set_index": pa.int64(), "patient_id": pa.int64()}
SCHEMA = pa.schema([*_REQUIRED, *EXTRA.items()])


def write(cohort: Cohort, out: Path) -> list[str]:
    """Write a MEDS data set into the new folder `out`. Nothing is lost, so no line is returned.

    Raises:
        InputError: `out` exists already, or cannot be written.
    """
    with new_folder(out) as partial:
        for name, split in cohort.splits.items():
            data = partial / "data" / SPLIT_NAMES[name]
            data.mkdir(parents=True)
            for number, rows in enumerate(blocks(cohort, name)):  # of whole stays: a subject must be in one file
                pq.write_table(_events(rows), data / f"{number}.parquet")
            labels = partial / "labels" / _as_file_name(cohort.label_name) / f"{SPLIT_NAMES[name]}.parquet"
            labels.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(_labels(split), labels)
        (partial / "metadata").mkdir()
        pq.write_table(_codes(cohort), partial / "metadata" / "codes.parquet")
        pq.write_table(_splits(cohort), partial / "metadata" / "subject_splits.parquet")
        text = json.dumps(_description(cohort), indent=1, ensure_ascii=False)
        (partial / "metadata" / "dataset.json").write_text(text, encoding="utf-8")
        write_source_ids(cohort, partial / "metadata" / SAMPLES)
    return []


def _events(rows: pa.Table) -> pa.Table:
    columns = {
        "subject_id": rows["stay_id"],
        "time": _time(rows["minute"].to_numpy()),
        "code": rows["variable"],
        "numeric_value": rows["value"].cast(pa.float32(), safe=False),
        "value": rows["value"],
        "minute": rows["minute"],
        "set_index": rows["set_index"],
        "patient_id": rows["subject_id"],
    }
    return pa.table(columns, schema=SCHEMA)


def _time(minute: NDArray[np.float64]) -> NDArray[np.datetime64]:
    """Minutes since admission as times, to the microsecond."""
    return ADMISSION + np.round(minute * MICROSECONDS).astype("timedelta64[us]")


def _labels(split: Split) -> pa.Table:
    """The labelled stays. Where the whole stay was kept, the prediction time is a microsecond after its last event.

    MEDS allows data up to and including the prediction time, others only data before it: both then see all events.
    """
    labelled = np.flatnonzero(split.label >= 0)
    end = _time(split.minute[split.stay_offset[1:] - 1]) + np.timedelta64(1, "us")
    minute = split.prediction_minute
    time = np.where(np.isnan(minute), end, _time(np.nan_to_num(minute)))
    columns = {
        "subject_id": split.stay_id[labelled],
        "prediction_time": time[labelled],
        "boolean_value": split.label[labelled] == 1,
    }
    types = [("subject_id", pa.int64()), ("prediction_time", _TIME), ("boolean_value", pa.bool_())]
    return pa.table(columns, schema=pa.schema([pa.field(*each, nullable=False) for each in types]))


def _as_file_name(label: str) -> str:
    """The label's name as the name of a folder."""
    return "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in label).strip(". ") or "label"


def _codes(cohort: Cohort) -> pa.Table:
    """Every code."""
    n = len(cohort.vocabulary)
    nothing = {"description": pa.nulls(n, pa.string()), "parent_codes": pa.nulls(n, pa.list_(pa.string()))}
    return pa.table({"code": pa.array(cohort.vocabulary, pa.string())} | nothing)


def _splits(cohort: Cohort) -> pa.Table:
    splits = cohort.splits.items()
    names = [pa.repeat(SPLIT_NAMES[name], split.n_stays) for name, split in splits]
    stays = np.concatenate([split.stay_id for _, split in splits])
    return pa.table({"subject_id": stays, "split": pa.concat_arrays(names)})


def _description(cohort: Cohort) -> dict[str, object]:
    return {
        "dataset_name": cohort.manifest["source"],
        "etl_name": ETL,
        "etl_version": __version__,
        "meds_version": "0.4",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "raw_source_id_columns": ["patient_id"],
        "other_extension_columns": [name for name in EXTRA if name != "patient_id"],
    }
