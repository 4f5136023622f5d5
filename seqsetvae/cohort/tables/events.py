"""One pass over the event tables of a source: ids are numbered, cells are read, and records go into the store.

Letters: R rows of a part, D ids.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from seqsetvae.cohort.skipped import counted
from seqsetvae.cohort.tables.cells import as_ids, in_column, split_values
from seqsetvae.cohort.tables.codes import LEFT_OUT, EventCodes
from seqsetvae.cohort.tables.forms import USUAL, Form
from seqsetvae.cohort.tables.read import Part, column_names, read_parts
from seqsetvae.cohort.tables.repeats import repeats
from seqsetvae.cohort.tables.store import EventStore
from seqsetvae.cohort.tables.times import BAD_TIME, TimeColumn, TimeFlags, comparable, is_bad
from seqsetvae.cohort.tables.wide import encode_wide, value_columns
from seqsetvae.cohort.tidy import MOST_ROWS, FaultyCell, Skip
from seqsetvae.errors import InputError
from seqsetvae.privacy import from_cell

BAD_CELLS = 1000  # cells that are kept for messages
Hook = Callable[[Part, NDArray[np.int32], NDArray[np.int32], NDArray[Any]], NDArray[np.bool_]]


class Columns(NamedTuple):
    """The names of the columns of an event table; None = it has none."""

    id: str
    time: str
    variable: str | None
    value: str | None
    text: str | None = None  # levels beside the numbers
    set: str | None = None  # number of the set; None: a set is all that has one time


class Wide(NamedTuple):
    """Of tables with a column a variable."""

    named: Sequence[str]  # the columns that are variables; without any, all that are not taken
    taken: Collection[str]  # columns with another meaning


class Ids:
    """Ids as texts, numbered in order of appearance."""

    def __init__(self) -> None:
        self.position: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.position)

    def add(self, column: pa.Array) -> NDArray[np.int32]:
        """[R] The position of each id, new ones included; -1 where there is none."""
        local, texts = as_ids(column)
        positions = [self.position.setdefault(text, len(self.position)) for text in texts]
        return np.array([*positions, -1], dtype=np.int32)[local]

    def find(self, column: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """(the position of each id [R], -1 where it is unknown or missing; whether it is missing [R])."""
        local, texts = as_ids(column)
        positions = [self.position.get(text, self.position.get(from_cell(text), -1)) for text in texts]
        return np.array([*positions, -1], dtype=np.int32)[local], local < 0


@dataclass
class Events:
    """All events of a source, on disk, and what was learned of them."""

    ids: Ids
    store: EventStore
    codes: EventCodes
    time: TimeColumn
    first_time: NDArray[Any]  # [D] of each id's events that have a time; BAD_TIME or NaN without one
    files: list[tuple[int, Path]] = field(default_factory=list)  # (row of its first, counted over all files; file)
    bad_times: dict[int, str] = field(default_factory=dict)  # row counted over all files -> cell
    notes: list[str] = field(default_factory=list)  # rows that occur twice
    n_rows: int = 0  # of all files
    without_id: list[tuple[Path, int, int]] = field(default_factory=list)  # (file, row, how many from there on)

    def place(self, row: int) -> tuple[str, int]:
        """(file, row in it) of a row that is counted over all files."""
        first, file = self.files[bisect_right(self.files, row, key=lambda entry: entry[0]) - 1]
        return str(file), row - first

    @property
    def n_files(self) -> int:
        """Files that have rows."""
        return len({first for first, _ in self.files if first < self.n_rows})

    def skips(self) -> list[Skip]:
        """The rows without an id, which are of no stay."""
        if not self.without_id:
            return []
        file, row, _ = self.without_id[0]
        n, n_files = sum(n for _, _, n in self.without_id), len({file for file, _, _ in self.without_id})
        share = f"{counted(n, 'row')} of {self.n_rows:,} ({n / self.n_rows:.1%})" + f" in {n_files:,} files" * (
            n_files > 1
        )
        reason = f"the row has no id, so it is of no stay; {share} without one"
        category = "a row without an id"
        return [Skip(str(file), reason, row, category=category, cells={FaultyCell(category): n}, of_stay=False)]


def read_events(
    files: Sequence[Path],
    columns: Columns,
    codes: EventCodes,
    flags: TimeFlags,
    folder: Path,
    *,
    optional: Collection[str] = (),
    hook: Hook | None = None,
    form: Form = USUAL,
    wide: Wide | None = None,
) -> Events:
    """Read the events of all files into a store in `folder`.

    Columns that are `optional` may be missing in a file. `hook` gets a part with its ids, codes and times, all [R], and
    returns which rows are events. `wide` tables have a column a variable in place of those of variables and values.

    Raises:
        InputError: a file cannot be read, a column is missing or of another type, nothing is a time, or a file is there
            twice.
    """
    events: Events | None = None
    n_rows, clocks = 0, set[TimeColumn]()
    needed = [name for name in columns if name is not None and name not in optional]
    with tqdm(desc="Reading events", unit="row", unit_scale=True, disable=None) as bar:
        for file in files:
            if events is not None:
                events.files.append((n_rows, file))
            clock = None
            values = None if wide is None else value_columns(file, column_names(file, form), *wide)
            needs, free = [*needed, *(values or ())], (columns.value, columns.text, *(values or ()))
            for part in read_parts(file, needs, list(optional), free, form):
                cells = part.columns[columns.time]
                if events is None:
                    some = cells if hook or cells.null_count < len(cells) else _first_times(files, columns.time, form)
                    events = _start(file, some, columns, codes, flags, folder)
                clock = clock or clock_of(file, columns.time, cells, events, flags)
                clocks.add(clock)
                _add(events, part, n_rows, columns, clock, hook, values)
                n_rows += len(part)
                events.n_rows = n_rows
                bar.update(len(part))
    if events is None:
        raise InputError(f"{', '.join(map(str, files[:3]))}: there are no rows.")
    if not len(events.ids):
        raise InputError(f"{files[0]}, column {columns.id}: none of the {n_rows:,} rows has an id.")
    events.store.finish(len(events.ids))
    events.notes += repeats(events.store, events.files)
    if n_dates := sum(clock.n_dates for clock in clocks):
        said = "without a time of day, among others that have one: midnight, before all else of that day"
        events.notes.append(f"{counted(n_dates, 'time')} {said}")
    return events


def _first_times(files: Sequence[Path], name: str, form: Form) -> pa.Array:
    """The column of times of the first part that has some. Raises InputError if none has."""
    for file in files:
        for part in read_parts(file, [name], form=form):
            if part.columns[name].null_count < len(part):
                return part.columns[name]
    raise InputError(f"{files[0]}, column {name}: no row of {counted(len(files), 'file')} has a time.")


def _start(file: Path, cells: pa.Array, columns: Columns, codes: EventCodes, flags: TimeFlags, folder: Path) -> Events:
    time = in_column(str(file), columns.time, lambda: TimeColumn(cells, *flags))
    store = EventStore(folder, time.dtype, has_set=columns.set is not None)
    return Events(Ids(), store, codes, time, np.zeros(0, time.dtype), [(0, file)])


def clock_of(file: Path, name: str, cells: pa.Array, events: Events, flags: TimeFlags) -> TimeColumn:
    """How the times of one of the files are written. Raises InputError if they differ in kind from the files before."""
    clock = comparable(str(file), name, cells, events.time, flags, "the times of other files")
    if clock.is_date != events.time.is_date:
        what = ("dates", "timestamps") if clock.is_date else ("timestamps", "dates")
        raise InputError(
            f"{file}, column {name}: holds {what[0]}; the times of other files are {what[1]}. A date counts as "
            "midnight, before all else of that day: write times of day in all files, or in none."
        )
    return clock


def _add(
    events: Events,
    part: Part,
    n_rows: int,
    columns: Columns,
    clock: TimeColumn,
    hook: Hook | None,
    values: Sequence[str] | None,
) -> None:
    """Add a part, whose first row is row `n_rows` over all files. `values` are the columns that are variables."""
    where, cells = str(part.file), part.columns
    ids = in_column(where, columns.id, lambda: events.ids.add(cells[columns.id]))
    time = in_column(where, columns.time, lambda: clock.read(cells[columns.time]))
    if values is not None:
        code, number, row = encode_wide(events.codes, where, cells, values, part.first_row)
    else:
        row = np.arange(len(ids))
        value, text = (None if name is None else cells.get(name) for name in (columns.value, columns.text))
        code, number = in_column(
            where,
            str(columns.value),
            lambda: events.codes.encode(cells[str(columns.variable)], value, text, part.first_row + row),
        )
    _note_rows_without_id(events, part, ids)
    is_event = (ids[row] >= 0) & (code != LEFT_OUT)
    bad = is_bad(time)
    if hook is not None:
        is_event &= hook(part, ids, code, time)
        bad &= np.asarray(cells[columns.time].is_valid())  # what has no time is for the source to judge
    _note_bad_times(events, n_rows, cells[columns.time], bad)
    chosen, row = np.flatnonzero(is_event), row[is_event]
    records = np.zeros(len(chosen), events.store.dtype)
    of_events = (("id", ids[row]), ("code", code[chosen]), ("value", number[chosen]), ("time", time[row]))
    for name, column in (*of_events, ("row", n_rows + row)):
        records[name] = column
    if columns.set is not None:
        numbers = cells[columns.set]
        records["set"] = in_column(where, columns.set, lambda: split_values(numbers)[0])[row]
    if events.store.append(records) > MOST_ROWS:
        raise InputError(
            f"{where}: one id has more than {MOST_ROWS:,} rows, by row {part.first_row + len(ids):,}. Is "
            f"{columns.id} the column of the stays (--id_column)?"
        )
    _note_first_times(events, records["id"], records["time"])


def _note_rows_without_id(events: Events, part: Part, ids: NDArray[np.int32]) -> None:
    rows = np.flatnonzero(ids < 0)
    if len(rows):
        events.without_id.append((part.file, part.first_row + int(rows[0]), len(rows)))


def _note_bad_times(events: Events, n_rows: int, cells: pa.Array, bad: NDArray[np.bool_]) -> None:
    rows = np.flatnonzero(bad)
    for row in rows[: max(0, BAD_CELLS - len(events.bad_times))].tolist():
        events.bad_times[n_rows + row] = str(cells[row].as_py()) if cells[row].is_valid else ""
    if len(rows) == len(bad) and is_bad(events.first_time).all() and cells.null_count < len(cells):  # none read yet
        cell = next((cell for cell in cells.to_pylist() if cell is not None), None)
        raise InputError(
            f"{events.files[-1][1]}: no cell of the column of times can be read: {events.time.refused(cell)}. If times "
            "are written in another way, see --time_format and --time_unit."
        )


def _note_first_times(events: Events, ids: NDArray[np.int32], time: NDArray[Any]) -> None:
    missing, latest = (BAD_TIME, np.iinfo(np.int64).max) if events.time.is_timestamp else (np.nan, np.inf)
    n_new = len(events.ids) - len(events.first_time)
    events.first_time = np.append(events.first_time, np.full(n_new, missing, events.time.dtype))
    good = ~is_bad(time)
    found = np.unique(ids)
    first = np.full(len(events.ids), latest, events.time.dtype) if len(found) * 8 > len(events.ids) else None
    if first is None:  # few of many ids: work on these alone
        local = np.searchsorted(found, ids)
        first = np.full(len(found), latest, events.time.dtype)
        np.minimum.at(first, local[good], time[good])
    else:
        np.minimum.at(first, ids[good], time[good])
        first = first[found]
    old = events.first_time[found]
    lower = (first != latest) & (is_bad(old) | (first < old))
    events.first_time[found[lower]] = first[lower]
