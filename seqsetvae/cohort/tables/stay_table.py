"""Columns that have one value for each stay (start, patient, split, static facts), and labels with prediction times.

Letters: D ids, M rows of a table of labels.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.names import is_empty
from seqsetvae.cohort.tables.cells import as_facts, as_id_texts, as_text, in_column, positions, split_values
from seqsetvae.cohort.tables.events import Columns, Events, clock_of, place_of, timed_parts
from seqsetvae.cohort.tables.forms import USUAL, Form
from seqsetvae.cohort.tables.read import Part, column_names, read_parts, read_table
from seqsetvae.cohort.tables.times import BAD_TIME, DAY, TimeColumn, TimeFlags, comparable, is_bad
from seqsetvae.errors import InputError, shown

_ALLOWED_LABELS = "0, 1, false, true, empty"
_LABELS = {"0": 0, "1": 1, "false": 0, "true": 1}


class Later(NamedTuple):
    """The facts of a column that first stand on a later row of their id than its first."""

    id: NDArray[np.int64]  # [K] position among the ids, ascending
    time: NDArray[Any]  # [K] of that row; bad if no such row has a time
    row: NDArray[np.int64]  # [K] counted over all files
    set: NDArray[np.float64]  # [K] its number of a set; 0 without a column of such numbers


class OfIds(NamedTuple):
    """Columns of a table with one value for each id."""

    cells: dict[str, pa.Array]  # by column [D] texts; null where an id has none
    has_row: NDArray[np.bool_]  # [D] which ids are in the table
    later: dict[str, Later]  # by column of facts, where the table has times


class Dated(NamedTuple):
    """How the rows of a table have times, so that facts are known from their row on."""

    columns: Columns
    flags: TimeFlags


def per_id(
    files: Sequence[Path],
    id_column: str,
    columns: Sequence[str],
    events: Events,
    patients: Collection[str | None] = (),
    *,
    facts: Sequence[str] = (),
    dated: Dated | None = None,
    form: Form = USUAL,
) -> OfIds:
    """The columns of a table that has one row an id, or repeats their values on several rows of it.

    Rows of other ids do not count, nor do empty cells. `patients` are columns of ids. One of `facts` that is filled in
    later must not be known before: with `dated` it is known from the time of its first row on, and without, an id must
    have it on each of its rows.

    Raises:
        InputError: not readable, a column is missing, an id has two values or lacks a fact on some of its rows, or no
            id of the events is in the table.
    """
    database, where = events.database, files[0] if len(files) == 1 else files[0].parent
    dated = dated if facts else None
    others = [] if dated is None else [name for name in (dated.columns.time, dated.columns.set) if name is not None]
    places, n_rows, example = list[tuple[int, Path]](), 0, None

    def clock_of_part(part: Part) -> TimeColumn | None:
        if dated is None:
            return None
        return clock_of(part.file, dated.columns.time, part.columns[dated.columns.time], events, dated.flags)

    def rows_of(part: Part, clock: TimeColumn | None) -> dict[str, Any]:
        cells, name = part.columns, str(part.file)
        rows: dict[str, Any] = {"id": in_column(name, id_column, lambda: events.ids.texts_of(cells[id_column]))}
        for at, column in enumerate(columns):
            read = as_id_texts if column in patients else as_facts
            rows[f"c{at}"] = in_column(name, column, lambda: read(cells[column]))  # noqa: B023
        return rows | (_dates(name, cells, dated.columns, clock) if dated is not None and clock is not None else {})

    needed = [id_column, *columns, *others]
    for part, clock in timed_parts(files, lambda file: read_parts(file, needed, form=form), clock_of_part):
        example = example if n_rows else part.columns[id_column][0].as_py()
        rows = part.use(lambda some: rows_of(some, clock))  # noqa: B023
        database.append("facts", pa.table(rows | {"row": np.arange(n_rows, n_rows + len(part))}))
        for one in part.by_file:
            places.append((n_rows - one.first_row, one.file))
            n_rows += len(one)
    if not n_rows:
        n_ids = len(events.ids)
        return OfIds({name: pa.nulls(n_ids, pa.string()) for name in columns}, np.zeros(n_ids, dtype=bool), {})
    found = _grouped(events, columns, facts if dated is not None else ())
    n_of_id = pc.fill_null(found["n"], 0).to_numpy()
    events.notes += match_notes(f"{where}, column {id_column}", events, n_rows, n_of_id, example, most=True)
    for at, name in enumerate(columns):
        if pc.any(pc.not_equal(found[f"low{at}"], found[f"high{at}"])).as_py():
            raise _contradiction(places, id_column, name, f"c{at}", events)
        if name in facts and dated is None:
            _refuse_partial(where, name, events, found["n"], found[f"n{at}"])
    later = {} if dated is None else {name: _later(events, found[f"first{columns.index(name)}"]) for name in facts}
    database.drop("facts")
    return OfIds({name: found[f"low{at}"].chunk(0) for at, name in enumerate(columns)}, n_of_id > 0, later)


def _grouped(events: Events, columns: Sequence[str], dated: Collection[str]) -> pa.Table:
    """[D] By id: its rows, and of each column the least and the greatest text, the cells, the first row if dated."""
    asked = [f"min(c{at}) AS low{at}, max(c{at}) AS high{at}, count(c{at}) AS n{at}" for at in range(len(columns))]
    latest = np.iinfo(np.int64).max if events.time.is_timestamp else "'inf'::DOUBLE"
    first = f"min({{'time': coalesce(time, {latest}), 'row': row, 'set': set}})"
    asked += [f"{first} FILTER (c{at} IS NOT NULL) AS first{at}" for at, name in enumerate(columns) if name in dated]
    return events.database.ask(
        f"SELECT grouped.* FROM ids LEFT JOIN (SELECT id, count(*) AS n, {', '.join(asked)} FROM facts GROUP BY id) AS "
        "grouped USING (id) ORDER BY place"
    ).combine_chunks()


def _dates(where: str, cells: dict[str, pa.Array], columns: Columns, clock: TimeColumn) -> dict[str, Any]:
    """The time of each row, and its number of a set."""
    time = in_column(where, columns.time, lambda: clock.read(cells[columns.time]))
    sets = np.zeros(len(time)) if columns.set is None else split_values(cells[columns.set])[0]
    return {"time": pa.array(time, mask=is_bad(time)), "set": sets}


def _contradiction(
    places: Sequence[tuple[int, Path]], id_column: str, name: str, column: str, events: Events
) -> InputError:
    """The error, to be raised, for the first cell that differs from an earlier one of its id."""
    first = f"SELECT id, arg_min({column}, row) AS first FROM facts WHERE {column} IS NOT NULL GROUP BY id"
    found = events.database.ask(
        f"SELECT row, {column} AS cell FROM facts JOIN ({first}) USING (id) JOIN ids USING (id) "
        f"WHERE {column} <> first ORDER BY row LIMIT 1"
    )
    file, row = place_of(places, found["row"][0].as_py())
    return InputError(
        f"{file}, row {row} (counted from 0), column {name}: {shown(found['cell'][0].as_py())}, but another row of the "
        f"same {id_column} has another value. A stay has one value in this column."
    )


def _refuse_partial(where: Path, name: str, events: Events, n_rows: pa.Array, n_facts: pa.Array) -> None:
    """Raises InputError if an id has a fact on some of its rows alone, so that it may have been filled in later."""
    wrong = np.flatnonzero(pc.and_(pc.greater(n_facts, 0), pc.less(n_facts, n_rows)).fill_null(False).to_numpy())
    if len(wrong):
        example, n_filled, n_all = (column[int(wrong[0])].as_py() for column in (events.ids.texts, n_facts, n_rows))
        raise InputError(
            f"{where}, column {name}: the id {shown(example)} has it on {n_filled:,} of its {n_all:,} rows "
            f"({len(wrong):,} such ids). What was filled in later must not be known from the start: keep one row an "
            "id, or write it on each of its rows."
        )


def _later(events: Events, first: pa.ChunkedArray) -> Later:
    """The facts that are not known from the first event of their id on. `first` [D]: time, row and set of each."""
    latest, bad = (np.iinfo(np.int64).max, BAD_TIME) if events.time.is_timestamp else (np.inf, np.nan)
    known = np.flatnonzero(first.is_valid())
    time, row, number = (column.to_numpy() for column in first.chunk(0).take(pa.array(known)).flatten())
    start = np.where(is_bad(events.first_time), latest, events.first_time)[known]
    late = (time > start) | (time == latest)
    return Later(known[late], np.where(time == latest, bad, time)[late], row[late], number[late])


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


@dataclass(frozen=True)
class LabelRows:
    """The rows of a table of labels whose ids have events."""

    id: NDArray[np.int32]  # [M] position among the ids
    time: NDArray[Any] | None  # [M] prediction time; None: the table has none
    label: NDArray[np.int8]  # [M] 0, 1 or -1
    notes: list[str]
    example: object = None  # the first id of the table


def read_label_rows(
    files: Sequence[Path], id_column: str, time_column: str | None, label: str | None, events: Events, flags: TimeFlags
) -> LabelRows:
    """Labels by (id, prediction time); `label` None: the tables have prediction times alone.

    Raises:
        InputError: not readable, a column is missing, a row without id or prediction time, a label other than 0 and 1
            or empty, two labels for one sample, or no row of an id with events.
    """
    parts = [_label_part(file, id_column, time_column, label, events, flags) for file in files]
    ids, label_of = (np.concatenate([getattr(part, name) for part in parts]) for name in ("id", "label"))
    times = [part.time for part in parts if part.time is not None]
    if times and len(times) < len(parts):
        raise InputError(f"{files[0].parent}: some files have prediction times in {time_column}, others have none.")
    time = np.concatenate(times) if times else None
    known = np.flatnonzero(ids >= 0)
    where = files[0] if len(files) == 1 else files[0].parent
    rows_of_id = np.bincount(ids[known], minlength=len(events.ids))
    example = next((part.example for part in parts if len(part.id)), None)
    match = match_notes(f"{where}, column {id_column}", events, len(ids), rows_of_id, example)
    first_rows = np.cumsum([0, *(len(part.id) for part in parts)]).tolist()
    places = list(zip(first_rows, files, strict=False))
    _refuse_contradictions(places, [ids] if time is None else [time, ids], label_of, known)
    notes = [*match, *dict.fromkeys(note for part in parts for note in part.notes)]
    return LabelRows(ids[known], None if time is None else time[known], label_of[known], notes)


def _label_part(
    file: Path, id_column: str, time_column: str | None, label: str | None, events: Events, flags: TimeFlags
) -> LabelRows:
    """All rows of a table of labels; -1 for an id without events."""
    columns = [name for name in (id_column, time_column, label) if name is not None]
    table = {name: column.combine_chunks() for name, column in read_table(file, columns).items()}
    ids, missing = in_column(str(file), id_column, lambda: events.ids.find(table[id_column]))
    _refuse(file, id_column, missing, table[id_column], lambda _: "is empty; every row needs an id")
    label_of = labels_of(file, label, table[label]) if label is not None else np.full(len(ids), -1, dtype=np.int8)
    time, notes = None, []
    column = table.get(time_column or "")
    if column is not None and (not len(ids) or column.null_count < len(ids)):  # else it is as if it were not there
        clock = comparable(str(file), str(time_column), column, events.time, flags)
        time = in_column(str(file), str(time_column), lambda: clock.read(column, earliest=True))
        _refuse(file, str(time_column), is_bad(time), column, clock.refused)
        if events.time.is_date and not clock.is_date and (clock.is_located or (time % DAY).any()):
            said = "times of events are dates, so events of the day of a prediction time count as before it"
            notes = [f"{file}: {said}"]
    return LabelRows(ids, time, label_of, notes, table[id_column][0].as_py() if len(ids) else None)


def find_time_column(file: Path, named: str | None, usual: str) -> str | None:
    """The column of prediction times: the one that was named, else the usual one if the table has it."""
    return named or (usual if usual in column_names(file) else None)


def labels_of(file: Path, name: str, column: pa.Array) -> NDArray[np.int8]:
    """[R] Labels as 0, 1 and -1 for an empty cell. Raises InputError for any other cell."""
    encoded = in_column(str(file), name, lambda: as_text(column)).dictionary_encode()
    texts = [text.lower().removesuffix(".0") for text in encoded.dictionary.to_pylist()]
    code = np.array([*(-1 if is_empty(text) else _LABELS.get(text, -2) for text in texts), -1], dtype=np.int8)
    label = code[positions(encoded)]
    _refuse(file, name, label == -2, column, lambda cell: f"{shown(cell)} is not a label; allowed: {_ALLOWED_LABELS}")
    return label


def _refuse(file: Path, name: str, bad: NDArray[np.bool_], column: pa.Array, why: Callable[[object], str]) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        cell = column[int(rows[0])].as_py()
        more = f" ({len(rows):,} such rows)" if len(rows) > 1 else ""
        raise InputError(f"{file}, row {rows[0]} (counted from 0), column {name}: {why(cell)}.{more}")


def _refuse_contradictions(
    places: Sequence[tuple[int, Path]],
    keys: Sequence[NDArray[Any]],
    label: NDArray[np.int8],
    known: NDArray[np.int64],
) -> None:
    """Raises InputError if one sample has two labels; `keys` tell samples apart."""
    order = known[np.lexsort([key[known] for key in (label, *keys)])]
    same = np.all([key[order][1:] == key[order][:-1] for key in keys], axis=0)
    wrong = np.flatnonzero(same & (label[order][1:] != label[order][:-1]))
    if len(wrong):
        rows = sorted(order[wrong[0] : wrong[0] + 2].tolist())
        where = " and ".join(f"{file}, row {row}" for file, row in (place_of(places, row) for row in rows))
        raise InputError(f"{where} (counted from 0): one sample with two different labels. Keep one.")
