"""`python data.py export COHORT OUT --to FORMAT`: one long table, MEDS, or the SeqSetVAE layout.

In MEDS 0.4 every stay is a subject of its own, because a cohort keeps each stay on a clock of its own, from admission.
Columns beyond the standard hold what its own columns cannot: `value` (numeric_value has only 32 bits), `minute` (time
has only microseconds), `set_index` (two sets may be at the same minute) and `patient_id`.
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqsetvae import __version__
from seqsetvae.cohort.bind import SideTables, stats_of, tables_in, vectors_of, with_tables
from seqsetvae.cohort.format import SAMPLES, Cohort, Split, open_cohort, stay_blocks
from seqsetvae.cohort.imported import read_samples
from seqsetvae.system.files import new_folder, refuse_existing

COLUMNS = {  # of the rows that all formats write
    "stay_id": pa.int64(),
    "subject_id": pa.int64(),  # the patient
    "minute": pa.float64(),  # since admission
    "set_index": pa.int64(),  # the sets of a stay, numbered from 0: two may be at the same minute
    "variable": pa.string(),
    "value": pa.float64(),  # in the unit of the variable
}


def add_export(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand and its flags."""
    text = "Write a compiled cohort in a format that other programs read."
    parser = commands.add_parser("export", help=text, description=text, allow_abbrev=False)
    parser.add_argument("cohort", type=Path, metavar="COHORT", help="a compiled cohort")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; it must not exist yet")
    formats = "; ".join(f"{name}: {export.what}" for name, export in EXPORTS.items())
    parser.add_argument("--to", required=True, choices=EXPORTS, help=formats)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    refuse_existing(arguments.out)
    stats, embeddings = tables_in(arguments.cohort)
    cohort = with_tables(open_cohort(arguments.cohort), SideTables(stats_of(stats), vectors_of(embeddings)))
    for line in EXPORTS[arguments.to].write(cohort, arguments.out):
        print(f"⚠️  {line}")
    splits = "; ".join(f"{name} {split.n_stays:,}" for name, split in cohort.splits.items())
    events = sum(split.n_events for split in cohort.splits.values())
    print(f"Wrote {arguments.out}: {events:,} events of the stays {splits}; {EXPORTS[arguments.to].what}")
    return 0


def blocks(cohort: Cohort, name: str) -> Iterator[pa.Table]:
    """The events of a split with COLUMNS, some whole stays at a time."""
    split, names, schema = cohort.split(name), pa.array(cohort.vocabulary, pa.string()), pa.schema(COLUMNS)
    for stays, events in stay_blocks(split):
        columns = {
            "stay_id": split.stay_id[stays][events.stay],
            "subject_id": split.subject_id[stays][events.stay],
            "minute": events.minute,
            "set_index": events.set - split.stay_offset[stays][events.stay],
            "variable": names.take(pa.array(events.variable)),
            "value": events.value,
        }
        yield pa.table(columns, schema)


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file; floats read back to the same bits."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def _write_source_ids(cohort: Cohort, file: Path) -> None:
    """Write the id, start and prediction time that each sample of an imported cohort has in its source."""
    samples = read_samples(cohort)
    if samples is not None:
        pq.write_table(samples, file)


# ------------------------------------------------------------------ one long table


def write_table(cohort: Cohort, out: Path) -> list[str]:
    """Write OUT/{events/<split>.parquet, labels.csv}. Nothing is lost, so no line is returned.

    Raises:
        InputError: `out` exists already, or cannot be written.
    """
    with new_folder(out) as partial:
        (partial / "events").mkdir()
        for name in cohort.splits:
            schema = pa.schema(COLUMNS | {"split": pa.string()})
            with pq.ParquetWriter(partial / "events" / f"{name}.parquet", schema) as writer:
                for rows in blocks(cohort, name):
                    writer.write_table(rows.append_column("split", pa.repeat(name, len(rows))))
        labels = (
            (int(stay), "" if np.isnan(minute) else float(minute), int(label) if label >= 0 else "")
            for split in cohort.splits.values()
            for stay, minute, label in zip(split.stay_id, split.prediction_minute, split.label, strict=True)
        )
        write_csv(partial / "labels.csv", ("stay_id", "prediction_minute", cohort.label_name), labels)
        _write_source_ids(cohort, partial / SAMPLES)
    return []


# ------------------------------------------------------------------ the SeqSetVAE layout


def write_stay(folder: Path, stay_id: int, events: pa.Table) -> Path:
    """Write the events of a stay to <folder>/<stay_id>.0.parquet and return its path."""
    file = folder / f"{stay_id}.0.parquet"
    pq.write_table(events.select(("variable", "value", "minute", "set_index")), file)
    return file


def write_layout(cohort: Cohort, out: Path) -> list[str]:
    """Write OUT/{patient_ehr/<split>/<stay>.0.parquet, stats.csv, oc.csv, cached.csv}; returns what it cannot hold.

    Raises:
        InputError: `out` exists already, or cannot be written.
    """
    splits = cohort.splits.values()
    with new_folder(out) as partial:
        for name in cohort.splits:
            folder = partial / "patient_ehr" / name
            folder.mkdir(parents=True)
            for rows in blocks(cohort, name):
                stay = rows["stay_id"].to_numpy()
                start = np.flatnonzero(np.append(True, stay[1:] != stay[:-1]))
                for first, n_rows in zip(start.tolist(), np.diff(start, append=len(stay)).tolist(), strict=True):
                    write_stay(folder, int(stay[first]), rows.slice(first, n_rows))
        pairs = ((stay, label) for split in splits for stay, label in zip(split.stay_id, split.label, strict=True))
        labels = ((int(stay), int(label)) for stay, label in pairs if label >= 0)
        write_csv(partial / "oc.csv", ("ts_id", cohort.label_name), labels)
        known = np.flatnonzero(~np.isnan(cohort.mean))  # of the others there are no statistics
        stats = ((cohort.vocabulary[v], float(cohort.mean[v]), float(cohort.std[v])) for v in known)
        write_csv(partial / "stats.csv", ("variable", "mean", "std"), stats)
        named = zip(cohort.vocabulary, cohort.embeddings.tolist(), strict=True)
        vectors = ((name, *vector) for name, vector in named if vector[0] == vector[0])
        write_csv(partial / "cached.csv", ("Key", *range(cohort.embeddings.shape[1])), vectors)
    lost = {
        "the patient of each stay": any((split.subject_id != split.stay_id).any() for split in splits),
        "the prediction time of each stay": any(not np.isnan(split.prediction_minute).all() for split in splits),
    }
    return [
        f"The SeqSetVAE layout has no place for {what}, so it is not in {out}; --to table keeps it."
        for what, is_there in lost.items()
        if is_there
    ]


# ------------------------------------------------------------------ MEDS

SPLIT_NAMES = {"train": "train", "valid": "tuning", "test": "held_out"}
ADMISSION = np.datetime64("2000-01-01T00:00:00", "us")  # of every stay: a cohort has minutes since admission, no dates
ETL = "seqsetvae data.py export"  # by which data.py meds knows that all columns below are there
MICROSECONDS = 60_000_000  # in a minute
_TIME = pa.timestamp("us")
_REQUIRED = {"subject_id": pa.int64(), "time": _TIME, "code": pa.string(), "numeric_value": pa.float32()}
EXTRA = {"value": pa.float64(), "minute": pa.float64(), "set_index": pa.int64(), "patient_id": pa.int64()}


def write_meds(cohort: Cohort, out: Path) -> list[str]:
    """Write data/<split>/<n>.parquet, metadata/ and labels/<label>/<split>.parquet. Nothing is lost.

    Raises:
        InputError: `out` exists already, or cannot be written.
    """
    with new_folder(out) as partial:
        label = "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in cohort.label_name)
        labels = partial / "labels" / (label.strip(". ") or "label")
        labels.mkdir(parents=True)
        for name, split in cohort.splits.items():
            data = partial / "data" / SPLIT_NAMES[name]
            data.mkdir(parents=True)
            for number, rows in enumerate(blocks(cohort, name)):  # of whole stays: a subject must be in one file
                pq.write_table(_meds_events(rows), data / f"{number}.parquet")
            pq.write_table(_meds_labels(split), labels / f"{SPLIT_NAMES[name]}.parquet")
        metadata = partial / "metadata"
        metadata.mkdir()
        nothing = pa.nulls(len(cohort.vocabulary))
        codes = pa.array(cohort.vocabulary, pa.string())
        others = {"description": nothing.cast(pa.string()), "parent_codes": nothing.cast(pa.list_(pa.string()))}
        pq.write_table(pa.table({"code": codes} | others), metadata / "codes.parquet")
        named = [pa.repeat(SPLIT_NAMES[name], split.n_stays) for name, split in cohort.splits.items()]
        stays = np.concatenate([split.stay_id for split in cohort.splits.values()])
        splits = pa.table({"subject_id": stays, "split": pa.concat_arrays(named)})
        pq.write_table(splits, metadata / "subject_splits.parquet")
        description = {
            "dataset_name": cohort.manifest["source"],
            "etl_name": ETL,
            "etl_version": __version__,
            "meds_version": "0.4",
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "raw_source_id_columns": ["patient_id"],
            "other_extension_columns": [name for name in EXTRA if name != "patient_id"],
        }
        text = json.dumps(description, indent=1, ensure_ascii=False)
        (metadata / "dataset.json").write_text(text, encoding="utf-8")
        _write_source_ids(cohort, metadata / SAMPLES)
    return []


def _meds_events(rows: pa.Table) -> pa.Table:
    columns = {
        "subject_id": rows["stay_id"],
        "time": _time(rows["minute"].to_numpy()),
        "code": rows["variable"],
        "numeric_value": rows["value"].cast(pa.float32(), safe=False),
        **{name: rows["subject_id" if name == "patient_id" else name] for name in EXTRA},
    }
    return pa.table(columns, schema=pa.schema(_REQUIRED | EXTRA))


def _time(minute: NDArray[np.float64]) -> NDArray[np.datetime64]:
    """Minutes since admission as times, to the microsecond."""
    return ADMISSION + np.round(minute * MICROSECONDS).astype("timedelta64[us]")


def _meds_labels(split: Split) -> pa.Table:
    """The labelled stays. Where the whole stay was kept, the prediction time is a microsecond after its last event.

    MEDS allows data up to and including the prediction time, others only data before it: both then see all events.
    """
    labelled = np.flatnonzero(split.label >= 0)
    end = _time(split.minute[split.stay_offset[1:] - 1]) + np.timedelta64(1, "us")
    minute = split.prediction_minute
    time = np.where(np.isnan(minute), end, _time(np.nan_to_num(minute)))
    columns = [split.stay_id[labelled], time[labelled], split.label[labelled] == 1]
    types = {"subject_id": pa.int64(), "prediction_time": _TIME, "boolean_value": pa.bool_()}
    return pa.table(columns, schema=pa.schema([pa.field(*each, nullable=False) for each in types.items()]))


class Export(NamedTuple):
    """A format."""

    what: str  # it is, in a few words
    write: Callable[[Cohort, Path], list[str]]  # makes the new folder, complete or not at all; says what is lost


EXPORTS = {
    "layout": Export(
        "the SeqSetVAE layout (patient_ehr/<split>/<stay>.parquet, stats.csv, oc.csv, cached.csv)", write_layout
    ),
    "table": Export("one long table (events/<split>.parquet, labels.csv)", write_table),
    "meds": Export("MEDS 0.4 (data/, metadata/, labels/)", write_meds),
}
