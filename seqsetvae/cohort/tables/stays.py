"""Columns with one value for each stay (start, patient, split, static facts), and the samples.

A sample says who, from when, until when, with which label, in which split. Letters: D ids, N samples.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.tables.cells import as_facts, as_id_texts, as_known_ids, id_numbers, in_column, split_values
from seqsetvae.cohort.tables.events import Events, clock_of, match_notes, place_of, timed_parts
from seqsetvae.cohort.tables.forms import USUAL, Form
from seqsetvae.cohort.tables.label_rules import LabelRows
from seqsetvae.cohort.tables.read import Part, read_parts
from seqsetvae.cohort.tables.times import BAD_TIME, MICROSECONDS, TimeColumn, is_bad
from seqsetvae.cohort.tidy import Stays
from seqsetvae.system.errors import InputError, shown


class Later(NamedTuple):
    """Facts of a column that first occur on a later row of their id than its first."""

    id: NDArray[np.int64]  # [K] position among the ids, ascending
    time: NDArray[Any]  # [K] of that row; bad if no such row has a time
    row: NDArray[np.int64]  # [K] counted over all files
    set: NDArray[np.float64]  # [K] its number of a set; 0 without a column of such numbers


class IdColumns(NamedTuple):
    """Columns of a table with one value for each id."""

    cells: dict[str, pa.Array]  # by column [D] texts; null where an id has none
    has_row: NDArray[np.bool_]  # [D] which ids are in the table
    later: dict[str, Later]  # by column of facts, where the table has times


def per_id(
    files: Sequence[Path],
    id_column: str,
    columns: Sequence[str],
    events: Events,
    patients: Collection[str | None] = (),
    *,
    facts: Sequence[str] = (),
    dated: bool = False,
    form: Form = USUAL,
) -> IdColumns:
    """The columns of a table that has one row an id, or repeats their values on several rows of it.

    Rows of other ids do not count, nor do empty cells. `patients` are columns of ids. One of `facts` that is filled in
    later must not be known before: with `dated`, in tables of events, it is known from the time of its first row on,
    and without, an id must have it on each of its rows.

    Raises:
        InputError: not readable, a column is missing, an id has two values or lacks a fact on some of its rows, or no
            id of the events is in the table.
    """
    database, where = events.database, files[0] if len(files) == 1 else files[0].parent
    dated, at_time, at_set = dated and bool(facts), events.columns.time, events.columns.set
    others = [name for name in (at_time, at_set) if name is not None] if dated else []
    places, n_rows, example = list[tuple[int, Path]](), 0, None

    def rows_of(part: Part, clock: TimeColumn | None) -> dict[str, Any]:
        cells, name = part.columns, str(part.file)
        ids = in_column(name, id_column, lambda: as_known_ids(cells[id_column], events.ids.texts))
        rows: dict[str, Any] = {"id": ids}
        for at, column in enumerate(columns):
            read = as_id_texts if column in patients else as_facts
            rows[f"c{at}"] = in_column(name, column, lambda: read(cells[column]))  # noqa: B023
        if clock is not None:
            time = in_column(name, at_time, lambda: clock.read(cells[at_time]))
            rows["time"] = pa.array(time, mask=is_bad(time))
            rows["set"] = np.zeros(len(time)) if at_set is None else split_values(cells[at_set])[0]
        return rows

    needed, files = [id_column, *columns, *others], files if columns else ()
    clock_of_part: Callable[[Part], TimeColumn | None] = (
        (lambda part: clock_of(part, events)) if dated else (lambda _: None)
    )
    for part, clock in timed_parts(files, lambda file: read_parts(file, needed, form=form), clock_of_part):
        example = example if n_rows else part.columns[id_column][0].as_py()
        rows = part.use(lambda some: rows_of(some, clock))  # noqa: B023
        database.append("facts", pa.table(rows | {"row": np.arange(n_rows, n_rows + len(part))}))
        for one in part.by_file:
            places.append((n_rows - one.first_row, one.file))
            n_rows += len(one)
    if not n_rows:
        n_ids = len(events.ids)
        return IdColumns({name: pa.nulls(n_ids, pa.string()) for name in columns}, np.zeros(n_ids, dtype=bool), {})
    grouped = _grouped(events, columns, facts if dated else ())
    n_of_id = pc.fill_null(grouped["n"], 0).to_numpy()
    events.notes += match_notes(f"{where}, column {id_column}", events, n_rows, n_of_id, example, most=True)
    for at, name in enumerate(columns):
        if pc.any(pc.not_equal(grouped[f"low{at}"], grouped[f"high{at}"])).as_py():
            raise _contradiction(places, id_column, name, f"c{at}", events)
        if name in facts and not dated:
            _refuse_partial(where, name, events, grouped["n"], grouped[f"n{at}"])
    later = {name: _later(events, grouped[f"first{columns.index(name)}"]) for name in facts} if dated else {}
    database.drop("facts")
    return IdColumns({name: grouped[f"low{at}"].chunk(0) for at, name in enumerate(columns)}, n_of_id > 0, later)


def _grouped(events: Events, columns: Sequence[str], dated: Collection[str]) -> pa.Table:
    """[D] By id: its rows, and of each column the least and the greatest text, the cells, the first row if dated."""
    asked = [f"min(c{at}) AS low{at}, max(c{at}) AS high{at}, count(c{at}) AS n{at}" for at in range(len(columns))]
    latest = np.iinfo(np.int64).max if events.time.is_timestamp else "'inf'::DOUBLE"
    first = f"min({{'time': coalesce(time, {latest}), 'row': row, 'set': set}})"
    asked += [f"{first} FILTER (c{at} IS NOT NULL) AS first{at}" for at, name in enumerate(columns) if name in dated]
    return events.database.query(
        f"SELECT grouped.* FROM ids LEFT JOIN (SELECT id, count(*) AS n, {', '.join(asked)} FROM facts GROUP BY id) AS "
        "grouped ON grouped.id = ids.text ORDER BY place"
    ).combine_chunks()


def _contradiction(
    places: Sequence[tuple[int, Path]], id_column: str, name: str, column: str, events: Events
) -> InputError:
    """The error, to be raised, for the first cell that differs from an earlier one of its id."""
    first = f"SELECT id, arg_min({column}, row) AS first FROM facts WHERE {column} IS NOT NULL GROUP BY id"
    other = events.database.query(
        f"SELECT row, {column} AS cell FROM facts JOIN ({first}) USING (id) JOIN ids ON facts.id = ids.text "
        f"WHERE {column} <> first ORDER BY row LIMIT 1"
    )
    file, row = place_of(places, other["row"][0].as_py())
    return InputError(
        f"{file}, row {row} (counted from 0), column {name}: {shown(other['cell'][0].as_py())}, but another row of the "
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


@dataclass(frozen=True)
class Samples:
    """N samples in the order of their numbers."""

    source: str  # for messages
    id_text: pa.Array  # [D] the ids as the source writes them
    stay_id: NDArray[np.int64]  # [N] ascending
    subject: NDArray[np.int64]  # [N]
    id: NDArray[np.int32]  # [N] position among the ids
    start: NDArray[Any]  # [N] minute 0, on the clock of the events
    end: NDArray[Any]  # [N] prediction time on that clock; BAD_TIME or NaN = none
    label: NDArray[np.int8]  # [N] 0, 1 or -1

    def __len__(self) -> int:
        return len(self.stay_id)

    def take(self, chosen: NDArray[Any]) -> "Samples":
        """These samples: positions that ascend, or a mask."""
        per_sample = ("stay_id", "subject", "id", "start", "end", "label")
        return replace(self, **{name: getattr(self, name)[chosen] for name in per_sample})

    @property
    def minute(self) -> NDArray[np.float64]:
        """[N] Prediction time in minutes after the start; NaN = none."""
        return np.where(is_bad(self.end), np.nan, minutes(self.end, self.start))

    def stays(self, n_rows: NDArray[np.int64] | None = None) -> Stays:
        """The samples as the compiler knows them: n_rows [D] of each id, if they are to be read."""
        return Stays(
            self.stay_id,
            lambda at: f"{self.source}, id {self.id_text[int(self.id[at])]}",
            subject=self.subject,
            prediction_minute=self.minute,
            n_rows=None if n_rows is None else n_rows[self.id],
        )


def make_samples(
    source: str, events: Events, start: NDArray[Any], subject: pa.Array | None, labels: LabelRows | None
) -> Samples:
    """One sample for each id, or for each (id, prediction time) of the labels, without the numbers of the samples.

    Args:
        source: for messages.
        events: their ids.
        start: [D] minute 0 of each id.
        subject: [D] the patient of each id; None: every id is a patient.
        labels: None: no sample has a label.
    """
    numbers = events.ids.number
    timed = labels is not None and labels.time is not None
    if timed:
        assert labels is not None
        assert labels.time is not None
        order = np.lexsort((labels.time, labels.id))
        ids, time, label = labels.id[order], labels.time[order], labels.label[order]
        again = np.zeros(len(ids), dtype=bool)
        again[1:] = (ids[1:] == ids[:-1]) & (time[1:] == time[:-1])
        ids, time, label = ids[~again], time[~again], label[~again]
    else:
        ids = np.arange(len(numbers), dtype=np.int32)
        of_id = np.full(len(numbers), -1, dtype=np.int8)
        if labels is not None:
            of_id[labels.id] = labels.label
        label, time = of_id[ids], np.full(len(ids), BAD_TIME if start.dtype == np.int64 else np.nan, start.dtype)
    subject_of_id = numbers if subject is None else _subjects(subject)
    once = len(np.unique(ids)) == len(ids)
    stay_id = numbers[ids] if once else np.arange(1, len(ids) + 1)
    return Samples(source, events.ids.texts, stay_id, subject_of_id[ids], ids, start[ids], time, label)


def minutes(time: NDArray[Any], start: NDArray[Any]) -> NDArray[np.float64]:
    """Minutes from start to time; both are timestamps in microseconds, or minutes."""
    return (time - start) / MICROSECONDS if time.dtype == np.int64 else time - start


def _subjects(column: pa.Array) -> NDArray[np.int64]:
    """[D] The number of each id's patient: itself, or its place among their texts. The caller refused empty cells."""
    encoded = column.dictionary_encode()
    texts = encoded.dictionary
    numbers = id_numbers(texts)
    if numbers is None:
        numbers = np.empty(len(texts), dtype=np.int64)
        numbers[pc.array_sort_indices(texts).to_numpy()] = np.arange(1, len(texts) + 1)
    return numbers[encoded.indices.to_numpy(zero_copy_only=False)]
