"""Columns that have one value for each stay (start, patient, split, static facts), and labels with prediction times.

Letters: D ids, M rows of a table of labels.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.ids import is_empty
from seqsetvae.cohort.tables.cells import as_facts, as_id_texts, as_text, in_column, positions, split_values
from seqsetvae.cohort.tables.events import Columns, Events, clock_of, place_of
from seqsetvae.cohort.tables.forms import USUAL, Form
from seqsetvae.cohort.tables.read import column_names, read_parts, read_table
from seqsetvae.cohort.tables.times import BAD_TIME, TimeFlags, comparable, is_bad
from seqsetvae.cohort.tables.zones import DAY
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
    database, n_ids, where = events.database, len(events.ids), files[0] if len(files) == 1 else files[0].parent
    parts = enumerate(_fact_rows(files, id_column, columns, events, patients, dated if facts else None, form))
    places: list[tuple[int, Path]] = []
    example = None
    for at, (place, cell, rows) in parts:
        example = cell if at == 0 else example
        places.append(place)
        database.append("facts", rows)
    if example is None and not places:
        return OfIds({name: pa.nulls(n_ids, pa.string()) for name in columns}, np.zeros(n_ids, dtype=bool), {})
    name_of = {name: f"c{at}" for at, name in enumerate(columns)}
    asked = [f"min({c}) AS low_{c}, max({c}) AS high_{c}, count({c}) AS n_{c}" for c in name_of.values()]
    if facts and dated is not None:
        first = f"min({{'time': coalesce(time, {_latest(events)}), 'row': row, 'set': set}})"
        asked += [f"{first} FILTER ({name_of[name]} IS NOT NULL) AS first_{name_of[name]}" for name in facts]
    found = database.ask(
        f"SELECT place, grouped.* FROM ids LEFT JOIN (SELECT id, {', '.join(['count(*) AS n', *asked])} FROM facts "
        "GROUP BY id) AS grouped USING (id) ORDER BY place"
    ).combine_chunks()
    n_rows = database.ask("SELECT count(*) AS n FROM facts")["n"][0].as_py()
    has_row = np.asarray(found["n"].is_valid())
    events.notes += match_notes(
        where, id_column, events, n_rows, pc.sum(found["n"]).as_py() or 0, int(has_row.sum()), example, most=True
    )
    for name, column in name_of.items():
        if pc.any(pc.not_equal(found[f"low_{column}"], found[f"high_{column}"])).as_py():
            raise _contradiction(places, id_column, name, column, events)
        if name in facts and dated is None:
            _refuse_partial(where, name, events, found["n"], found[f"n_{column}"])
    later = {name: _later(events, found[f"first_{name_of[name]}"]) for name in facts} if dated is not None else {}
    database.drop("facts")
    return OfIds({name: found[f"low_{column}"].chunk(0) for name, column in name_of.items()}, has_row, later)


def _fact_rows(
    files: Sequence[Path],
    id_column: str,
    columns: Sequence[str],
    events: Events,
    patients: Collection[str | None],
    dated: Dated | None,
    form: Form,
) -> Iterator[tuple[tuple[int, Path], object, pa.Table]]:
    """Part by part (row of the file's first, counted over all, and file; the first cell of ids; id, row and cells)."""
    others = [] if dated is None else [dated.columns.time, *([dated.columns.set] if dated.columns.set else [])]
    n_rows = 0
    for file in files:
        clock, first = None, n_rows
        for part in read_parts(file, [id_column, *columns, *others], form=form):
            cells, where = part.columns, str(file)
            ids = in_column(where, id_column, lambda: events.ids.texts_of(cells[id_column]))  # noqa: B023
            rows: dict[str, Any] = {"id": ids, "row": np.arange(n_rows, n_rows + len(part))}
            for at, name in enumerate(columns):
                read = as_id_texts if name in patients else as_facts
                rows[f"c{at}"] = in_column(where, name, lambda: read(cells[name]))  # noqa: B023
            if dated is not None:
                times, numbers = cells[dated.columns.time], dated.columns.set
                clock = clock or clock_of(file, dated.columns.time, times, events, dated.flags)
                time = in_column(where, dated.columns.time, lambda: clock.read(times))  # noqa: B023
                rows["time"] = pa.array(time, mask=is_bad(time))
                rows["set"] = np.zeros(len(part)) if numbers is None else split_values(cells[numbers])[0]
            yield (first, file), cells[id_column][0].as_py(), pa.table(rows)
            n_rows += len(part)


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


def _latest(events: Events) -> str:
    """In SQL, a time after all others."""
    return str(np.iinfo(np.int64).max) if events.time.is_timestamp else "'inf'::DOUBLE"


def _later(events: Events, first: pa.ChunkedArray) -> Later:
    """The facts that are not known from the first event of their id on. `first` [D]: time, row and set of each."""
    latest, bad = (np.iinfo(np.int64).max, BAD_TIME) if events.time.is_timestamp else (np.inf, np.nan)
    known = np.flatnonzero(first.is_valid())
    time, row, number = (column.to_numpy() for column in first.chunk(0).take(pa.array(known)).flatten())
    start = np.where(is_bad(events.first_time), latest, events.first_time)[known]
    late = (time > start) | (time == latest)
    return Later(known[late], np.where(time == latest, bad, time)[late], row[late], number[late])


def match_notes(
    where: Path,
    id_column: str,
    events: Events,
    n_rows: int,
    n_known: int,
    n_seen: int,
    example: object,
    *,
    most: bool = False,
) -> list[str]:
    """How many rows of a table and ids of the events have no counterpart, in words.

    Args:
        where: the table.
        id_column: of its ids.
        events: of the source.
        n_rows: of the table.
        n_known: those of them that are of ids of the events.
        n_seen: ids of the events that are in the table.
        example: the first id of the table.
        most: say so only if most of both have none.

    Raises:
        InputError: the table has rows, and none of them is of an id of the events.
    """
    n_ids = len(events.ids)
    if n_rows and not n_known:
        raise InputError(
            f"{where}, column {id_column}: none of its {n_rows:,} rows is of an id of the events. Its first id is "
            f"{shown(example)}, that of the events is {shown(events.ids.texts[0].as_py())}. Write ids in the same way "
            "in both."
        )
    without, unused = n_ids - n_seen, n_rows - n_known
    are_most = unused > n_rows / 2 and without > n_ids / 2
    if not unused or most > are_most:
        return []
    text = f"{where}: {unused:,} of {n_rows:,} rows are of ids without events; they are not used"
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
    where, n_seen = files[0] if len(files) == 1 else files[0].parent, len(np.unique(ids[known]))
    example = next((part.example for part in parts if len(part.id)), None)
    match = match_notes(where, id_column, events, len(ids), len(known), n_seen, example)
    refuse_contradictions(files, [len(part.id) for part in parts], ids, time, label_of, known)
    notes = [*match, *dict.fromkeys(note for part in parts for note in part.notes)]
    return LabelRows(ids[known], None if time is None else time[known], label_of[known], notes)


def _label_part(
    file: Path,
    id_column: str,
    time_column: str | None,
    label: str | None,
    events: Events,
    flags: TimeFlags,
) -> LabelRows:
    """All rows of a table of labels; -1 for an id without events."""
    columns = [name for name in (id_column, time_column, label) if name is not None]
    table = {name: column.combine_chunks() for name, column in read_table(file, columns).items()}
    ids, missing = in_column(str(file), id_column, lambda: events.ids.find(table[id_column]))
    _refuse(file, id_column, missing, table[id_column], lambda _: "is empty; every row needs an id")
    example = table[id_column][0].as_py() if len(ids) else None
    label_of = labels_of(file, label, table[label]) if label is not None else np.full(len(ids), -1, dtype=np.int8)
    time = None
    if time_column is not None:
        if not len(ids):
            return LabelRows(ids, np.zeros(0, events.time.dtype), label_of, [], example)
        if table[time_column].null_count == len(ids):  # none has a prediction time, as if there were no such column
            return LabelRows(ids, None, label_of, [], example)
        column = table[time_column]
        clock = comparable(str(file), time_column, column, events.time, flags)
        time = in_column(str(file), time_column, lambda: clock.read(column, earliest=True))
        _refuse(file, time_column, is_bad(time), column, clock.refused)
        if events.time.is_date and not clock.is_date and (clock.is_located or (time % DAY).any()):
            said = "times of events are dates, so events of the day of a prediction time count as before it"
            return LabelRows(ids, time, label_of, [f"{file}: {said}"], example)
    return LabelRows(ids, time, label_of, [], example)


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


def refuse_contradictions(
    files: Sequence[Path],
    n_rows: Sequence[int],
    ids: NDArray[np.int32],
    time: NDArray[Any] | None,
    label: NDArray[np.int8],
    known: NDArray[np.int64],
) -> None:
    """Raises InputError if one sample has two labels."""
    keys = (label, ids) if time is None else (label, time, ids)
    order = known[np.lexsort([key[known] for key in keys])]
    same = ids[order][1:] == ids[order][:-1]
    if time is not None:
        same &= time[order][1:] == time[order][:-1]
    wrong = np.flatnonzero(same & (label[order][1:] != label[order][:-1]))
    if len(wrong):
        first = np.append(0, np.cumsum(n_rows))
        rows = sorted((int(order[wrong[0]]), int(order[wrong[0] + 1])))
        places = [(int(np.searchsorted(first, row, "right")) - 1, row) for row in rows]
        where = " and ".join(f"{files[file]}, row {row - first[file]}" for file, row in places)
        raise InputError(f"{where} (counted from 0): one sample with two different labels. Keep one.")
