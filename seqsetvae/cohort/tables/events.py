"""One pass over the event tables of a source: reads the cells, numbers the ids and sorts the events by id.

Letters: R rows of a part, E events in them, C columns of values, D ids, N samples.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from seqsetvae.cohort.tables.cells import as_facts, as_id_texts, id_numbers, in_column, split_values
from seqsetvae.cohort.tables.codes import EventCodes
from seqsetvae.cohort.tables.database import Database, Records, repeats
from seqsetvae.cohort.tables.forms import USUAL, Form
from seqsetvae.cohort.tables.read import Part, join_parts, read_parts, value_columns
from seqsetvae.cohort.tables.times import BAD_TIME, TimeColumn, TimeFlags, comparable, is_bad
from seqsetvae.cohort.tidy import MOST_ROWS, FaultyCell, Skip
from seqsetvae.system.errors import InputError, counted, shown

BAD_CELLS = 1000  # cells that are kept for messages
ROWS_PER_JOINED = 1 << 15  # of a part that is made of those of small files
Clock = TypeVar("Clock", bound="TimeColumn | None")


class Columns(NamedTuple):
    """The names of the columns of an event table; None = it has none."""

    id: str
    time: str
    variable: str | None
    value: str | None
    text: str | None = None  # levels beside the numbers
    set: str | None = None  # number of the set; None: a set is all that has one time


@dataclass(frozen=True)
class Ids:
    """The D ids of a source, in the order of their numbers if all are whole numbers, else of their texts."""

    texts: pa.Array  # [D]
    number: NDArray[np.int64]  # [D] itself as a number, or its place among the texts, from 1

    def __len__(self) -> int:
        return len(self.texts)

    def find(self, ids: pa.Array) -> NDArray[np.int32]:
        """[R] The position of each id, -1 where it is unknown or missing."""
        return pc.fill_null(pc.index_in(ids, self.texts), -1).to_numpy()


class Occurrences(NamedTuple):
    """When an event occurred: the arrays [E] are sorted by id and time."""

    id: NDArray[np.integer]  # position among the ids
    time: NDArray[Any]
    opens: NDArray[np.bool_]  # those that open a stay, so that they are not in it


@dataclass
class Events:
    """All events of a source, and what was learned of them.

    The table `events` of the database has the rows with an id (id, code, value, time, row counted over all files,
    perhaps set), those of left-out variables too; `ids` has each id, its text and its position. `records` are the
    events alone.
    """

    database: Database
    codes: EventCodes
    time: TimeColumn
    columns: Columns
    flags: TimeFlags
    form: Form
    untimed: bool  # rows without a time are for the source to judge
    ids: Ids = field(init=False)
    records: Records = field(init=False)
    first_time: NDArray[Any] = field(init=False)  # [D] of each id's events that have a time; bad without one
    last_time: NDArray[Any] = field(init=False)  # [D]
    files: list[tuple[int, Path]] = field(default_factory=list)  # (row of its first, counted over all files; file)
    bad_times: dict[int, str] = field(default_factory=dict)  # row counted over all files -> cell
    notes: list[str] = field(default_factory=list)  # rows that occur twice
    n_rows: int = 0  # of all files
    without_id: list[tuple[Path, int, int]] = field(default_factory=list)  # (file, row, how many from there on)
    has_times: bool = False  # a time was read
    has_texts: bool = False  # the ids of the table `events` are texts; whole numbers take a third of the time
    is_event: str = "true"  # in SQL, whether a row is an event: not of a variable that is left out

    def place(self, row: int) -> tuple[str, int]:
        """(file, row in it) of a row that is counted over all files."""
        return place_of(self.files, row)

    def ids_of(self, column: pa.Array) -> pa.Array:
        """[R] Ids as the table `events` holds them: whole numbers, as long as all columns are of them, else texts."""
        if not self.has_texts and pa.types.is_integer(column.type) and column.type != pa.uint64():
            return column.cast(pa.int64())
        if not self.has_texts:
            self.database.as_texts("events", "id")
            self.has_texts = True
        return as_id_texts(column)

    @property
    def is_timed(self) -> str:
        """SQL that says whether a row has a time."""
        return f"time > {BAD_TIME + 1}" if self.time.is_timestamp else "NOT isnan(time)"

    def occurrences(self, codes: Collection[int], opening: Collection[int] = ()) -> Occurrences:
        """The rows of these codes that have a time; those of `opening` open a stay."""
        rows = self.database.query(
            f"SELECT place, time, code IN ({_listed(opening)}) IS TRUE AS opens FROM events JOIN ids USING (id) "
            f"WHERE code IN ({_listed(codes)}) AND {self.is_timed} ORDER BY place, time"
        )
        return Occurrences(*(rows[name].to_numpy() for name in ("place", "time", "opens")))

    def nearest(
        self, codes: Collection[int], ids: NDArray[np.integer], time: NDArray[Any], *, later: bool
    ) -> NDArray[np.int64]:
        """[N] The time of the last row of these codes until the time of each sample, or of the first one after it.

        BAD_TIME without one. `ids` and `time`, all [N], are those of the samples; times are timestamps.
        """
        marks = self.occurrences(codes)
        self.database.name("marks", pa.table({"place": marks.id, "time": marks.time}))
        self.database.name("samples", pa.table({"n": np.arange(len(ids)), "place": ids, "time": time}))
        times = self.database.query(
            "SELECT marks.time FROM samples ASOF LEFT JOIN marks ON samples.place = marks.place "
            f"AND samples.time {'<' if later else '>='} marks.time ORDER BY n"
        )
        return pc.fill_null(times["time"], BAD_TIME).to_numpy()

    def last_times_since(self, starts: Occurrences) -> NDArray[np.int64]:
        """The time of the last event from each start until the next one of its id; the start without any."""
        self.database.name("starts", pa.table({"place": starts.id, "start": starts.time}))
        rows = self.database.query(
            f"WITH timed AS (SELECT place, time FROM events JOIN ids USING (id) WHERE {self.is_event} AND "
            f"{self.is_timed}), last AS (SELECT starts.place, start, max(time) AS time FROM timed ASOF JOIN starts ON "
            "timed.place = starts.place AND time >= start GROUP BY ALL) SELECT coalesce(last.time, start) AS time FROM "
            "starts LEFT JOIN last USING (place, start) ORDER BY place, start"
        )
        return rows["time"].to_numpy()

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


def place_of(files: Sequence[tuple[int, Path]], row: int) -> tuple[str, int]:
    """(file, row in it) of a row that is counted over all files. `files`: the row of the first of each, the file."""
    first, file = files[bisect_right(files, row, key=lambda entry: entry[0]) - 1]
    return str(file), row - first


def read_events(
    files: Sequence[Path],
    columns: Columns,
    codes: EventCodes,
    flags: TimeFlags,
    database: Database,
    *,
    optional: Collection[str] = (),
    untimed: bool = False,
    no_event: str | None = None,
    form: Form = USUAL,
) -> Events:
    """Read the events of all files into a database.

    Columns that are `optional` may be missing in a file; `untimed` is as in `Events`. Variables of the pattern
    `no_event` are no events.

    Raises:
        InputError: a file cannot be read, a column is missing or of another type, nothing is a time, or a file is there
            twice.
    """
    events: Events | None = None
    clocks = set[TimeColumn]()
    needed = [name for name in columns if name is not None and name not in optional]

    def parts_of(file: Path) -> Iterator[Part]:
        values = value_columns(file, form) if form.is_wide else ()
        return read_parts(file, [*needed, *values], list(optional), (columns.value, columns.text, *values), form)

    def clock_of_part(part: Part) -> TimeColumn:
        nonlocal events
        cells = part.columns[columns.time]
        if events is None:
            some = cells if untimed or cells.null_count < len(cells) else _first_times(files, columns.time, form)
            time = in_column(str(part.file), columns.time, lambda: TimeColumn(some, flags))
            events = Events(database, codes, time, columns, flags, form, untimed)
        return clock_of(part, events)

    with tqdm(desc="Reading events", unit="row", unit_scale=True, disable=None) as bar:
        for part, clock in timed_parts(files, parts_of, clock_of_part):
            assert events is not None
            clocks.add(clock)
            n_before = events.n_rows
            for one in part.by_file:
                if one.first_row == 0:
                    events.files.append((events.n_rows, one.file))
                events.n_rows += len(one)
            values = [name for name in part.columns if name not in needed] if form.is_wide else None
            part.use(lambda some: _add(events, some, n_before, clock, values))  # noqa: B023
            bar.update(len(part))
    if events is None:
        raise InputError(f"{', '.join(map(str, files[:3]))}: there are no rows.")
    _sort(events, no_event)
    events.notes += repeats(events.records, events.files)
    if n_dates := sum(clock.n_dates for clock in clocks):
        said = "without a time of day, among others that have one: midnight, before all else of that day"
        events.notes.append(f"{counted(n_dates, 'time')} {said}")
    return events


def timed_parts(
    files: Iterable[Path], parts_of: Callable[[Path], Iterable[Part]], clock_of_part: Callable[[Part], Clock]
) -> Iterator[tuple[Part, Clock]]:
    """The rows of all files, and how their times are written, of which the first part of each file decides.

    Small parts that are alike come as one, since all that follows takes as long for ten rows as for a thousand.
    """
    some, n_rows = list[Part](), 0
    of_some: list[Any] = []
    for file in files:
        clock: Any = None
        for part in parts_of(file):
            clock = clock or clock_of_part(part)
            kind = [clock and clock.kind, *((name, cells.type) for name, cells in part.columns.items())]
            if some and (kind != of_some[1] or n_rows + len(part) > ROWS_PER_JOINED):
                yield join_parts(some), of_some[0]
                some = []
            of_some, n_rows = (of_some, n_rows + len(part)) if some else ([clock, kind], len(part))
            some.append(part)
    if some:
        yield join_parts(some), of_some[0]


def _first_times(files: Sequence[Path], name: str, form: Form) -> pa.Array:
    """The column of times of the first part that has some. Raises InputError if none has."""
    for file in files:
        for part in read_parts(file, [name], form=form):
            if part.columns[name].null_count < len(part):
                return part.columns[name]
    raise InputError(f"{files[0]}, column {name}: no row of {counted(len(files), 'file')} has a time.")


def clock_of(part: Part, events: Events) -> TimeColumn:
    """How the times of a file are written. Raises InputError if they differ in kind from those of the events."""
    file, name = part.file, events.columns.time
    clock = comparable(str(file), name, part.columns[name], events.time, events.flags, "the times of other files")
    if clock.is_date != events.time.is_date:
        what = ("dates", "timestamps") if clock.is_date else ("timestamps", "dates")
        raise InputError(
            f"{file}, column {name}: holds {what[0]}; the times of other files are {what[1]}. A date counts as "
            "midnight, before all else of that day: write times of day in all files, or in none."
        )
    return clock


def _add(events: Events, part: Part, n_rows: int, clock: TimeColumn, values: Sequence[str] | None) -> None:
    """Add a part, whose first row is row `n_rows` over all files. `values` are the columns that are variables."""
    where, cells, columns = str(part.file), part.columns, events.columns
    ids = in_column(where, columns.id, lambda: events.ids_of(cells[columns.id]))
    time = in_column(where, columns.time, lambda: clock.read(cells[columns.time]))
    at: NDArray[np.int32] | None = None
    if values is not None:
        code, number, row, at = encode_wide(events.codes, where, cells, values, part.first_row)
    else:
        row = np.arange(len(ids))
        value, text = (None if name is None else cells.get(name) for name in (columns.value, columns.text))
        code, number = in_column(
            where,
            str(columns.value),
            lambda: events.codes.encode(cells[str(columns.variable)], value, text, part.first_row + row),
        )
    _note_rows_without_id(events, part, ids)
    bad = is_bad(time)
    if events.untimed:
        bad &= np.asarray(cells[columns.time].is_valid())
    _note_bad_times(events, n_rows, cells[columns.time], bad)
    events.has_times |= not bad.all()
    rows = {"id": ids.take(pa.array(row)), "code": code, "value": number, "time": time[row], "row": n_rows + row}
    if at is not None:
        rows["place_in_row"] = at
    if columns.set is not None:
        numbers = cells[columns.set]
        rows["set"] = in_column(where, columns.set, lambda: split_values(numbers)[0])[row]
    table = pa.table(rows)
    events.database.append("events", table.filter(table["id"].is_valid()) if ids.null_count else table)


def _sort(events: Events, no_event: str | None) -> None:
    """Number the ids, and keep the events of each together, in the order of their rows and columns."""
    database, codes, columns, is_wide = events.database, events.codes, events.columns, events.form.is_wide
    left_out = [*codes.left_out_codes(), *([] if no_event is None else codes.matching(no_event))]
    if left_out:
        events.is_event = f"code NOT IN ({_listed(left_out)})"
    # Counts alone: of many ids DuckDB keeps a group a row, which with the times is more than fits into memory.
    n_events = f", count(*) FILTER ({events.is_event}) AS n_events" if left_out else ""
    ids = database.query(f"SELECT id, count(*) AS n{n_events} FROM events GROUP BY id ORDER BY id").combine_chunks()
    if not len(ids):
        raise InputError(f"{events.files[0][1]}, column {columns.id}: none of the {events.n_rows:,} rows has an id.")
    most = ids["n"].to_numpy().argmax()
    if (n := ids["n"][most].as_py()) > MOST_ROWS:
        raise InputError(
            f"{events.files[0][1]}: the id {shown(str(ids['id'][most]))} has {n:,} rows, more than {MOST_ROWS:,}. "
            f"Is {columns.id} the column of the stays (--id_column)?"
        )
    numbers = id_numbers(ids["id"].chunk(0)) if events.has_texts else ids["id"].to_numpy()
    if numbers is not None:
        order = np.argsort(numbers)
        ids, numbers = ids.take(order), numbers[order]
    texts = ids["id"].combine_chunks().cast(pa.string())
    events.ids = Ids(texts, np.arange(1, len(ids) + 1) if numbers is None else numbers)
    places = np.arange(len(ids), dtype=np.int32)
    database.name("ids", pa.table({"id": ids["id"], "text": texts, "place": places}))
    fields = [("id", "<i4"), ("code", "<i4"), ("value", "<f8"), ("time", np.dtype(events.time.dtype).str)]
    fields += [("row", "<i8"), *([("set", "<f8")] if columns.set is not None else [])]
    events.records = Records(database.folder.parent, np.dtype(fields), ids["n_events" if left_out else "n"].to_numpy())
    n_columns = database.query("SELECT max(place_in_row) + 1 AS n FROM events")["n"][0].as_py() if is_wide else 1
    events.records.write(_with_bounds(events, _records(events, np.dtype(fields), n_columns)), n_columns)


def _with_bounds(events: Events, parts: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """The events, of which the first and the last time of each id are found on their way."""
    is_stamp = events.time.is_timestamp
    bad, low, high = (BAD_TIME, BAD_TIME, np.iinfo(np.int64).max) if is_stamp else (np.nan, -np.inf, np.inf)
    first, last = (np.full(len(events.ids), bound, events.time.dtype) for bound in (high, low))
    for records in parts:
        timed = records[~is_bad(records["time"])]
        np.minimum.at(first, timed["id"], timed["time"])
        np.maximum.at(last, timed["id"], timed["time"])
        yield records
    events.first_time, events.last_time = (np.where(first > last, bad, times) for times in (first, last))


def _records(events: Events, kind: np.dtype[Any], n_columns: int) -> Iterator[NDArray[Any]]:
    """The events, in any order, with the positions of their ids; `row` counts cells where a row has several."""
    taken = ", ".join(name for name in kind.names or () if name not in ("id", "row"))
    row = "row" if n_columns == 1 else f"row * {n_columns} + place_in_row AS row"
    query = f"SELECT place AS id, {row}, {taken} FROM events JOIN ids USING (id) WHERE {events.is_event}"
    for batch in events.database.batches(query):
        records = np.empty(len(batch), kind)
        for name in batch.schema.names:
            records[name] = batch[name].to_numpy()
        yield records


def _listed(codes: Collection[int]) -> str:
    return ", ".join(map(str, codes)) or "NULL"


def _note_rows_without_id(events: Events, part: Part, ids: pa.Array) -> None:
    missing, start = np.asarray(ids.is_null()), 0
    for one in part.by_file if missing.any() else ():
        rows = np.flatnonzero(missing[start : start + len(one)])
        if len(rows):
            events.without_id.append((one.file, one.first_row + int(rows[0]), len(rows)))
        start += len(one)


def _note_bad_times(events: Events, n_rows: int, cells: pa.Array, bad: NDArray[np.bool_]) -> None:
    rows = np.flatnonzero(bad)
    for row in rows[: max(0, BAD_CELLS - len(events.bad_times))].tolist():
        events.bad_times[n_rows + row] = str(cells[row].as_py()) if cells[row].is_valid else ""
    if len(rows) == len(bad) and not events.has_times and cells.null_count < len(cells):
        cell = next((cell for cell in cells.to_pylist() if cell is not None), None)
        raise InputError(
            f"{events.place(n_rows)[0]}: no cell of the column of times can be read: {events.time.refused(cell)}. If "
            "times are written in another way, see --time_format and --time_unit."
        )


def encode_wide(
    codes: EventCodes, where: str, cells: dict[str, pa.Array], columns: Sequence[str], first_row: int
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.int64], NDArray[np.int32]]:
    """(code [E], number [E], row [E], place of the column [E]) of the cells that are not empty, row by row.

    `first_row` is that of the part, for messages.

    Raises:
        InputError: a column that holds neither texts, numbers nor truth values, or has too many levels.
    """
    parts = []
    for kind in (pa.float64(), pa.string()):
        chosen = [at for at, name in enumerate(columns) if (kind == pa.float64()) == _is_numeric(cells[name].type)]
        filled = [in_column(where, columns[at], lambda: _filled(cells[columns[at]], kind)) for at in chosen]  # noqa: B023
        rows = [np.flatnonzero(column.is_valid()) for column in filled]
        if not any(map(len, rows)):
            continue
        at = np.repeat(np.array(chosen, np.int32), [len(of_column) for of_column in rows])
        values = pa.concat_arrays([c.take(pa.array(r)) for c, r in zip(filled, rows, strict=True)])
        names = pa.DictionaryArray.from_arrays(pa.array(at), pa.array(list(columns)))
        row = np.concatenate(rows)
        in_file = first_row + row
        code, number = in_column(where, "of values", lambda: codes.encode(names, values, None, in_file))  # noqa: B023
        parts.append((code, number, row, at))
    if not parts:
        return np.zeros(0, np.int32), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int32)
    code, number, row, at = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((at, row))
    return code[order], number[order], row[order].astype(np.int64), at[order]


def _is_numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _filled(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """[R] The cells as numbers or texts; null where one is empty. Raises InputError if they are times."""
    if pa.types.is_temporal(column.type):
        raise InputError(f"holds {column.type}, not numbers or texts; name the variables with --value_columns")
    if kind == pa.string():
        return as_facts(column)
    numbers = column.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_nan(numbers), None, numbers)


def match_notes(
    where: str, events: Events, n_rows: int, rows_of_id: NDArray[np.integer], example: object, *, most: bool = False
) -> list[str]:
    """How many rows of a table and ids of the events have no counterpart, in words.

    `rows_of_id` [D] are those of its `n_rows` that are of each id, `example` is its first id. With `most` nothing is
    said unless most of both have none.

    Raises:
        InputError: the table has rows, and none of them is of an id of the events.
    """
    without, unused = int((rows_of_id == 0).sum()), n_rows - int(rows_of_id.sum())
    if n_rows and unused == n_rows:
        raise InputError(
            f"{where}: none of its {n_rows:,} rows is of an id of the events. Its first id is {shown(example)}, "
            f"that of the events is {shown(events.ids.texts[0].as_py())}. Write ids in the same way in both."
        )
    are_most = unused > n_rows / 2 and without > len(rows_of_id) / 2
    if not unused or most > are_most:
        return []
    table, n_ids = where.rpartition(", column ")[0], len(rows_of_id)
    text = f"{table}: {unused:,} of {n_rows:,} rows are of ids without events; they are not used"
    also = f", and {without:,} of {n_ids:,} ids with events have no row. Are ids written in the same way in both?"
    return [text + also * are_most]
