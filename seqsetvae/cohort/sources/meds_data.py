"""A MEDS data set: its files, what metadata/ says of versions, splits and codes, and what the codes say of subjects.

Codes tell facts, births, the starts and ends of stays, and label events. Facts are events without a time, which count
as known from the start. One that lost its time would be a leak. Letters: D subjects, S stays, M times of subjects.
"""

import contextlib
from argparse import Namespace
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqsetvae.cohort import imported
from seqsetvae.cohort.names import columns_are, quoted, trimmed
from seqsetvae.cohort.report import most_events
from seqsetvae.cohort.sources.assemble import SPLIT_NAMES, split_positions
from seqsetvae.cohort.tables.codes import UNNAMED, EventCodes
from seqsetvae.cohort.tables.events import Events, Occurrences
from seqsetvae.cohort.tables.forms import refuse_versions, table_files
from seqsetvae.cohort.tables.label_rules import (
    LabelRows,
    event_labels,
    labels_of_samples,
    prediction_grid,
    present_labels,
)
from seqsetvae.cohort.tables.read import column_names, read_parts, read_table
from seqsetvae.cohort.tables.source import StaticColumn, StayEnd
from seqsetvae.cohort.tables.stays import Samples, per_id
from seqsetvae.cohort.tables.times import BAD_TIME, MICROSECONDS, is_bad
from seqsetvae.cohort.tidy import SPLITS, Skip, left_out
from seqsetvae.system.errors import InputError, counted, named, shown
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


def _refuse_older(file: Path, columns: Sequence[str]) -> None:
    """Raises InputError for a file of MEDS before 0.3.3."""
    missing = [name for name in (SUBJECT, TIME, CODE) if name not in columns]
    if not missing:
        return
    renamed = {SUBJECT: OLDER_SUBJECT, TIME: "timestamp"}
    old = [f"{renamed[name]} to {name}" for name in missing if renamed.get(name) in columns]
    advice = f" Data of another MEDS version? Rename {' and '.join(old)}." if old else ""
    if "events" in columns:
        advice = " It has the events of a patient in one row, as MEDS before 0.3 had: write one row for each event."
    raise InputError(f"{file}: has no column {quoted(missing)}. {columns_are(columns)}{advice}")


def description(src: Path) -> dict[str, object]:
    """metadata/dataset.json; empty without that file."""
    file = src / "metadata" / "dataset.json"
    return read_json(file) if file.is_file() else {}


def description_of(src: Path) -> str:
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
    splits = events.database.query(
        "SELECT place, min(split) AS split, max(split) AS other FROM events JOIN ids USING (id) ASOF JOIN files ON "
        "row >= first GROUP BY place ORDER BY place"
    )
    if pc.any(pc.not_equal(splits["split"], splits["other"])).as_py():
        raise InputError(f"{src / 'data'}: has events of subjects that are in the folder of another split too.")
    return splits["split"].to_numpy().astype(np.int8)[samples.id]


def split_folder(src: Path, file: Path) -> str | None:
    """The name of the split that a file of data/ is in, by its folders or its own name; None: it is in none."""
    folders = file.relative_to(src / "data").parts
    names = [part.lower() for part in (*folders[:-1], folders[-1].partition(".")[0])]
    return next((name for name in names if name in SPLIT_NAMES), None)


def split_notes(arguments: Namespace, files: Sequence[Path]) -> list[str]:
    """A sentence that says that the splits are those of folders."""
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


# ------------------------------------------------------------------ what the codes say


_WHY = "An event without a time counts as a fact that is known from the start, before every prediction time."


def fact_notes(src: Path, events: Events) -> list[str]:
    """The codes with numbers that are facts, in words: of a measurement, the times would be missing.

    Raises:
        InputError: there are no times, or rows without one may have lost it.
    """
    database, time = events.database, events.time
    database.name("names", events.codes.table())
    untimed = f"time = {BAD_TIME}" if time.is_timestamp else "isnan(time)"
    facts = database.query(
        f"SELECT name, bool_or(NOT ({untimed})) AS timed, min(row) FILTER ({untimed} AND NOT left_out) AS first, "
        f"count(*) FILTER ({untimed} AND NOT left_out AND numeric) AS n FROM events JOIN names USING (code) "
        "GROUP BY name ORDER BY name"
    ).to_pylist()
    again = database.query(
        f"SELECT DISTINCT name FROM (SELECT id, name FROM events JOIN names USING (code) WHERE {untimed} AND NOT "
        "left_out GROUP BY id, name HAVING count(*) > 1) ORDER BY name"
    )
    first = {row["name"]: row["first"] for row in facts if row["first"] is not None}  # code -> its first row
    timed = {row["name"] for row in facts if row["timed"]}
    if first and not timed - {BIRTH}:
        raise InputError(f"{src / 'data'}: no event has a time. {_WHY}")
    if not time.is_timestamp:
        raise InputError(f"{src / 'data'}: the column time holds {time.described}, not timestamps.")
    wrong = {
        # A birth must have a time.
        "some rows of this code have a time, and others have none": sorted(first.keys() & (timed | {BIRTH})),
        "one subject has this code several times, without a time": again["name"].to_pylist(),
    }
    for what, codes in wrong.items():
        if codes:
            file, row = events.place(first[codes[0]])
            others = f" So it is with {len(codes) - 1:,} more codes: {', '.join(map(shown, codes[1:6]))}."
            raise InputError(
                f"{file}, row {row} (counted from 0), code {shown(codes[0])}: {what}. {_WHY}{others * (len(codes) > 1)}"
                f" Write the times, or leave these codes out: --leave_out {shown(codes[0])}"
            )
    numbers = Counter({row["name"]: row["n"] for row in facts if row["n"]})
    said = "numbers without a time count as known from the start of each sample"
    return [f"{said}: {most_events(numbers)}"] if numbers else []


START, END, EVENT, PRESENT = "start_code", "end_code", "label_event", "label_present"  # flags of codes
_YEAR = 365.25 * 24 * 60 * MICROSECONDS
_LATEST = np.iinfo(np.int64).max


class Marks:
    """When births and the codes of the flags occurred."""

    def __init__(self, events: Events, arguments: Namespace) -> None:
        """A flag that is not given has no marks."""
        self._events, self._arguments = events, arguments
        patterns = {flag: getattr(arguments, flag) for flag in (START, END, EVENT, PRESENT)}
        self._codes = {flag: [] if name is None else events.codes.matching(name) for flag, name in patterns.items()}

    def _label_marks(self, flag: str) -> Occurrences:
        marks = self._events.occurrences(self._codes[flag], self._codes[START])
        if not len(marks.id):
            raise InputError(f"--{flag} {getattr(self._arguments, flag)}: no event with a time has this code.")
        return marks

    def labels(self, rows: LabelRows | None) -> LabelRows | None:
        """Labels and prediction times by the rules of the flags; `rows` are those of --labels.

        Raises:
            InputError: no event has the code of the label.
        """
        flags, n_ids = self._arguments, len(self._events.ids)
        if flags.predict_at or flags.predict_every:
            ids, start, end = self._stays()
            grid = prediction_grid(start, end, sorted(set(flags.predict_at)), flags.predict_every)
            rows = replace(grid, id=ids[grid.id].astype(np.int32))
        if flags.label_event:
            if rows is None or rows.time is None:
                raise InputError(f"--label_event: {flags.labels} has no prediction times.")
            since = self._starts_before(rows.id, rows.time) if flags.start_code else None
            return event_labels(rows, flags.label_event, flags.horizon, self._label_marks(EVENT), since)
        if flags.label_present:
            has = np.zeros(n_ids, dtype=bool)
            has[self._label_marks(PRESENT).id] = True
            labels = present_labels(PRESENT, pa.array(has, mask=~has), np.ones_like(has))
            n = f"{has.sum():,} of {len(has):,}"
            note = f"the label is 1 for subjects that have an event {flags.label_present} at any time: {n}"
            return labels_of_samples(replace(labels, notes=[note]), rows, len(has))
        return rows

    def _stays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(subject [S], start [S], end [S]): the end is that of the end code, else the last event of the stay."""
        events = self._events
        if not self._arguments.start_code:
            ids, start = np.arange(len(events.ids)), events.first_time
            end = self._ends_after(ids, start)
            return ids, start, np.where(is_bad(end), events.last_time, end)
        starts = events.occurrences(self._codes[START])
        last = events.last_times_since(starts)
        again = np.append(starts.id[1:] == starts.id[:-1], False)
        until = np.where(again, np.append(starts.time[1:], 0) - 1, _LATEST)
        end = self._ends_after(starts.id, starts.time)
        return starts.id, starts.time, np.where(is_bad(end) | (end > until), last, end)

    def _ends_after(self, ids: NDArray[Any], time: NDArray[Any]) -> NDArray[Any]:
        """[M] The first end after each time of a subject; BAD_TIME where there is none."""
        return self._events.nearest(self._codes[END], ids, time, later=True)

    def _starts_before(self, ids: NDArray[Any], time: NDArray[Any]) -> NDArray[Any]:
        """[M] The last start at or before each time of a subject; BAD_TIME where there is none."""
        return self._events.nearest(self._codes[START], ids, time, later=False)

    def end(self, samples: Samples) -> StayEnd | None:
        """The first event with the end code after the start of each sample; unknown where there is none."""
        if self._arguments.end_code is None:
            return None
        return StayEnd(f"code {self._arguments.end_code}", self._ends_after(samples.id, samples.start), expected=False)

    def age(self, samples: Samples) -> list[StaticColumn]:
        """The age of each sample in years, at its prediction time, or at its start where it has none."""
        codes = self._events.codes
        births = self._events.occurrences(sorted(set(codes.matching(BIRTH)) - set(codes.left_out_codes())))
        if not len(births.id):
            return []
        birth = np.full(len(samples.id_text), _LATEST)
        np.minimum.at(birth, births.id, births.time)
        known = np.flatnonzero(birth[samples.id] != _LATEST)
        at = np.where(is_bad(samples.end), samples.start, samples.end)[known]
        code, value = np.full(len(samples), UNNAMED, dtype=np.int32), np.full(len(samples), np.nan)
        years = pa.array((at - birth[samples.id][known]) / _YEAR)
        code[known], value[known] = codes.encode(pa.array([AGE] * len(known)), years)
        return [StaticColumn(AGE, code, value)]

    def with_starts(self, samples: Samples) -> tuple[Samples, list[Skip]]:
        """The samples from the last start at or before their prediction time; those without one are left out."""
        code = self._arguments.start_code
        if code is None:
            return samples, []
        start = self._starts_before(samples.id, np.where(is_bad(samples.end), _LATEST, samples.end))
        has = ~is_bad(start)
        reason = f"no event {code} before its prediction time"
        skips = [left_out(stay, reason) for stay in samples.stays()[~has]]
        return replace(samples, start=np.where(has, start, samples.start)).take(has), skips
