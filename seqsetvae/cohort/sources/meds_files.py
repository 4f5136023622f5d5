"""The files of a MEDS data set: events, and what metadata/ says of versions, splits and codes."""

import contextlib
from argparse import Namespace
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqsetvae.cohort import imported
from seqsetvae.cohort.names import columns_are, quoted, trimmed
from seqsetvae.cohort.sources.assemble import SPLIT_NAMES, split_positions
from seqsetvae.cohort.tables.codes import EventCodes
from seqsetvae.cohort.tables.events import Events
from seqsetvae.cohort.tables.forms import refuse_versions, table_files
from seqsetvae.cohort.tables.read import column_names, read_parts, read_table
from seqsetvae.cohort.tables.stays import Samples, per_id
from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.system.errors import InputError, counted, named
from seqsetvae.system.files import read_json

SUBJECT, TIME, CODE, NUMBER, TEXT = "subject_id", "time", "code", "numeric_value", "text_value"
SUBJECT_SPLITS = "metadata/subject_splits.parquet"
LABEL, PREDICTION_TIME = "boolean_value", imported.PREDICTION_TIME
AGE, BIRTH = "age", "MEDS_BIRTH"
NO_VALUES = "none"  # of --value_column
OLDER_SUBJECT = "patient_id"  # before MEDS 0.3.3


def is_meds(path: Path) -> bool:
    """Whether a folder is a MEDS data set of any version, or its folder data/."""
    if (path / "data").is_dir() and (path / "metadata").is_dir():
        return True
    folders = [path / "data", *(path / name for name in ("train", "tuning", "held_out"))]
    first = next((file for folder in folders for file in folder.rglob("*.parquet")), None)
    with contextlib.suppress(InputError):
        there = set(column_names(first)) if first else set()
        return {SUBJECT, CODE} <= there or (OLDER_SUBJECT in there and not there.isdisjoint({CODE, "events"}))
    return False


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


def value_column(arguments: Namespace, files: Sequence[Path]) -> str | None:
    """The column of numbers; None = events have no values.

    Raises:
        InputError: files without numeric_value whose other columns may hold the values, or of an older MEDS version.
    """
    columns = {file: column_names(file) for file in files}
    for file, there in columns.items():
        _refuse_older(file, there)
    if arguments.value_column is not None:
        return None if arguments.value_column == NO_VALUES else str(arguments.value_column)
    known = {SUBJECT, TIME, CODE, *([TEXT] * arguments.text_values)}
    known |= {name for there in columns.values() if NUMBER in there for name in there}
    for file, there in columns.items():
        other = [] if NUMBER in there else [name for name in there if name not in known and _has_cells(file, name)]
        if other:
            raise InputError(f"{file}: has no column {NUMBER}, but {', '.join(other[:20])}. {_NAME_VALUES}")
    return NUMBER


def refuse_unread_values(arguments: Namespace, files: Sequence[Path], codes: EventCodes) -> None:
    """Raises InputError if numeric_value is empty in all rows while another column seems to hold the values."""
    if arguments.value_column is not None or codes.has_numbers:
        return
    schema = pq.read_schema(files[0])
    other = [each for each in schema if each.name not in (SUBJECT, TIME, CODE, NUMBER, TEXT)]
    values = [each.name for each in other if pa.types.is_floating(each.type) or "value" in each.name.lower()]
    if values:
        text = f"no event has a number in {NUMBER}, but there is {', '.join(values)}. {_NAME_VALUES}"
        raise InputError(f"{files[0].parent}: {text}")


_NAME_VALUES = (
    f"Name the column of numbers: --value_column COLUMN; --value_column {NO_VALUES} where events have no values; "
    f"--text_values reads {TEXT} as categories."
)


def _has_cells(file: Path, column: str) -> bool:
    """Whether a cell of this column is not empty."""
    return any(part.columns[column].null_count < len(part) for part in read_parts(file, [column]))


def _refuse_older(file: Path, there: Sequence[str]) -> None:
    """Raises InputError for a file of MEDS before 0.3.3."""
    missing = [name for name in (SUBJECT, TIME, CODE) if name not in there]
    if not missing:
        return
    renamed = {SUBJECT: OLDER_SUBJECT, TIME: "timestamp"}
    old = [f"{renamed[name]} to {name}" for name in missing if renamed.get(name) in there]
    advice = f" Data of another MEDS version? Rename {' and '.join(old)}." if old else ""
    if "events" in there:
        advice = " It has the events of a patient in one row, as MEDS before 0.3 had: write one row for each event."
    raise InputError(f"{file}: has no column {quoted(missing)}. {columns_are(there)}{advice}")


def description(src: Path) -> dict[str, object]:
    """metadata/dataset.json; empty without that file."""
    file = src / "metadata" / "dataset.json"
    return read_json(file) if file.is_file() else {}


def described(src: Path) -> str:
    """The data set in words, for the manifest."""
    return f"MEDS {description(src).get('meds_version', 'of unknown version')} {src.resolve()}"


def own_split(arguments: Namespace, files: Sequence[Path], events: Events, samples: Samples) -> NDArray[np.int8] | None:
    """[N] The splits in metadata/subject_splits.parquet, else of folders such as data/train; None without either.

    Raises:
        InputError: a subject without a split, or in two; some folders are those of splits and others are not.
    """
    src: Path = arguments.src
    file = src / SUBJECT_SPLITS
    if file.is_file():
        column = per_id([file], SUBJECT, ["split"], events).cells["split"].take(pa.array(samples.id))
        return split_positions(str(file), column)
    if arguments.fractions or arguments.fold:
        return None
    named = {each: split_folder(src, each) for each in files}
    others = [each for each, name in named.items() if name is None]
    if len(others) == len(files):
        return None
    if others:
        raise InputError(
            f"{others[0]}: is in no folder of a split, and other files are; {file} is not there. Divide the subjects: "
            "--fractions or --fold."
        )
    of_row = {first: SPLITS.index(SPLIT_NAMES[str(named[file])]) for first, file in events.files}
    events.database.name("files", pa.table({"first": list(of_row), "split": list(of_row.values())}))
    found = events.database.ask(
        "SELECT place, min(split) AS split, max(split) AS other FROM events JOIN ids USING (id) ASOF JOIN files ON "
        "row >= first GROUP BY place ORDER BY place"
    )
    if pc.any(pc.not_equal(found["split"], found["other"])).as_py():
        raise InputError(f"{src / 'data'}: has events of subjects that are in the folder of another split too.")
    return found["split"].to_numpy().astype(np.int8)[samples.id]


def split_folder(src: Path, file: Path) -> str | None:
    """The name of the split that a file of data/ is in, by its folders or its own name; None: it is in none."""
    folders = file.relative_to(src / "data").parts
    names = [part.lower() for part in (*folders[:-1], folders[-1].partition(".")[0])]
    return next((name for name in names if name in SPLIT_NAMES), None)


def split_notes(arguments: Namespace, files: Sequence[Path]) -> list[str]:
    """That the splits are those of folders, in words."""
    if (arguments.src / SUBJECT_SPLITS).is_file() or arguments.fractions or arguments.fold:
        return []
    names = sorted({name for file in files if (name := split_folder(arguments.src, file))})
    return [f"there is no {SUBJECT_SPLITS}; the splits are the folders {', '.join(names)} of data/"] if names else []


def unlisted_codes(src: Path, seen: Collection[str]) -> list[str]:
    """Codes that metadata/codes.parquet lacks, in words."""
    file = src / "metadata" / "codes.parquet"
    if not file.is_file():
        return [f"{file}: not found; MEDS asks for it"]
    listed = {trimmed(code or "") for code in read_table(file, [CODE])[CODE].to_pylist()}
    absent = sorted(set(seen) - listed - {AGE})
    listing = named([repr(code) for code in absent])
    return [f"{file} does not list {counted(len(absent), 'code')} of the data: {listing}"] if absent else []
