"""The files of a MEDS data set: events, and what metadata/ says of versions, splits and codes."""

from argparse import Namespace
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort import imported
from seqsetvae.cohort.names import trimmed
from seqsetvae.cohort.skipped import counted
from seqsetvae.cohort.sources.assemble import split_positions
from seqsetvae.cohort.tables.events import Events
from seqsetvae.cohort.tables.read import read_table, refuse_versions, table_files, unread_notes
from seqsetvae.cohort.tables.samples import Samples
from seqsetvae.cohort.tables.stay_table import per_id
from seqsetvae.errors import InputError
from seqsetvae.files import read_json

SUBJECT, TIME, CODE, NUMBER, TEXT = "subject_id", "time", "code", "numeric_value", "text_value"
LABEL, PREDICTION_TIME = "boolean_value", imported.PREDICTION_TIME
AGE, BIRTH = "age", "MEDS_BIRTH"


def data_files(src: Path) -> list[Path]:
    """The files of events. Raises InputError if there are none."""
    data = src / "data"
    if not data.is_dir():
        raise InputError(f"{src}: has no folder data/. Pass the folder of a MEDS data set, with data/ and metadata/.")
    refuse_versions(src)
    files = [file for file in table_files(data) if file.name.lower().endswith(".parquet")]
    if not files:
        raise InputError(f"{data}: holds no .parquet file.")
    return files


def unread(src: Path, files: Collection[Path], labels: Path | None) -> list[str]:
    """Files of data/ and of a folder of labels that are not read, in words."""
    of_labels = unread_notes(labels, set(table_files(labels))) if labels else []
    return [*unread_notes(src / "data", set(files), (".parquet",)), *of_labels]


def task_name(arguments: Namespace) -> str | None:
    """What the label is called; None without labels, or with prediction times alone."""
    labels: Path | None = arguments.labels
    if labels is None or arguments.label_name is None:
        return None
    return arguments.task or (labels.stem if labels.is_file() else labels.name)


def description(src: Path) -> dict[str, object]:
    """metadata/dataset.json; empty without that file."""
    file = src / "metadata" / "dataset.json"
    return read_json(file) if file.is_file() else {}


def described(src: Path) -> str:
    """The data set in words, for the manifest."""
    return f"MEDS {description(src).get('meds_version', 'of unknown version')} {src.resolve()}"


def own_split(src: Path, events: Events, samples: Samples) -> NDArray[np.int8] | None:
    """[N] The splits in metadata/subject_splits.parquet; None without that file."""
    file = src / "metadata" / "subject_splits.parquet"
    if not file.is_file():
        return None
    column = per_id([file], SUBJECT, ["split"], events)["split"].take(pa.array(samples.id))
    return split_positions(str(file), column)


def unlisted_codes(src: Path, seen: Collection[str]) -> list[str]:
    """Codes that metadata/codes.parquet lacks, in words."""
    file = src / "metadata" / "codes.parquet"
    if not file.is_file():
        return [f"{file}: not found; MEDS asks for it"]
    listed = {trimmed(code or "") for code in read_table(file, [CODE])[CODE].to_pylist()}
    absent = sorted(set(seen) - listed - {AGE})
    shown = ", ".join(map(repr, absent[:8])) + (", ..." if len(absent) > 8 else "")
    return [f"{file} does not list {counted(len(absent), 'code')} of the data: {shown}"] if absent else []
