"""Columns that have one value for each stay (start, patient, split, static facts), and labels with prediction times.

Letters: D ids, M rows of a table of labels.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.ids import is_empty
from seqsetvae.cohort.tables.cells import as_facts, as_id_texts, as_text, in_column, positions
from seqsetvae.cohort.tables.events import Events
from seqsetvae.cohort.tables.first_rows import EveryRow, FirstRows
from seqsetvae.cohort.tables.forms import USUAL, Form
from seqsetvae.cohort.tables.read import column_names, read_parts, read_table
from seqsetvae.cohort.tables.times import TimeFlags, comparable, is_bad
from seqsetvae.cohort.tables.zones import DAY
from seqsetvae.errors import InputError, shown

_ALLOWED_LABELS = "0, 1, false, true, empty"
_LABELS = {"0": 0, "1": 1, "false": 0, "true": 1}


def per_id(
    files: Sequence[Path],
    id_column: str,
    columns: Sequence[str],
    events: Events,
    patients: Collection[str | None] = (),
    *,
    first: FirstRows | EveryRow | None = None,
    form: Form = USUAL,
) -> dict[str, pa.Array]:
    """For each column its value for each id of the events, as a text [D]; null where it has none.

    The table has one row a stay, or repeats the value on several; rows of other ids do not count, nor do empty cells.
    `patients` are columns of ids. `first` learns in which rows facts stand.

    Raises:
        InputError: not readable, a column is missing, an id has two values, or no id of the events is in the table.
    """
    n_ids = len(events.ids)
    sides = _Sides(files, id_column, events)
    seen = {column: np.zeros(n_ids, dtype=bool) for column in columns}
    hashes = {column: np.zeros(n_ids, dtype=np.int64) for column in columns}
    chunks: dict[str, list[pa.Array]] = {column: [] for column in columns}
    owners: dict[str, list[NDArray[np.int32]]] = {column: [] for column in columns}
    for file in files:
        for part in read_parts(file, [id_column, *columns, *(first.columns if first else ())], form=form):
            ids, _ = in_column(str(file), id_column, lambda: events.ids.find(part.columns[id_column]))  # noqa: B023
            sides.add(part.columns[id_column], ids)
            if first is not None:
                first.begin(part, ids)
            for column in columns:
                read = as_id_texts if column in patients else as_facts
                text = in_column(str(file), column, lambda: read(part.columns[column]))  # noqa: B023
                encoded = text.dictionary_encode()
                hashed = np.array([*map(hash, encoded.dictionary.to_pylist()), 0], dtype=np.int64)
                cell = hashed[positions(encoded)]
                rows = np.flatnonzero((ids >= 0) & np.asarray(text.is_valid()))
                if first is not None and column in first.names:
                    first.add(column, ids[rows], rows)
                found, example = np.unique(ids[rows], return_index=True)
                is_new = ~seen[column][found]
                owners[column].append(found[is_new])
                chunks[column].append(text.take(rows[example[is_new]]))
                hashes[column][found[is_new]] = cell[rows[example[is_new]]]
                seen[column][found] = True
                other = np.flatnonzero(hashes[column][ids[rows]] != cell[rows])
                if len(other):
                    row = int(rows[other[0]])
                    raise InputError(
                        f"{file}, row {part.first_row + row} (counted from 0), column {column}: "
                        f"{shown(text[row].as_py())}, but another row of the same {id_column} has another value. A "
                        "stay has one value in this column."
                    )
    sides.require_match()
    events.notes += sides.notes(most=True)
    return {column: _scattered(chunks[column], owners[column], n_ids) for column in columns}


class _Sides:
    """Which ids a table shares with the events."""

    def __init__(self, files: Sequence[Path], id_column: str, events: Events) -> None:
        self._where = files[0] if len(files) == 1 else files[0].parent
        self._id_column, self._events = id_column, events
        self._seen = np.zeros(len(events.ids), dtype=bool)
        self._n_rows = self._n_known = 0
        self._example: object = None

    def add(self, cells: pa.Array, ids: NDArray[np.int32]) -> None:
        """Add rows: their cells, and where their ids are among those of the events, -1 = nowhere."""
        self._seen[ids[ids >= 0]] = True
        self._n_known += int((ids >= 0).sum())
        if not self._n_rows and len(ids):
            self._example = cells[0].as_py()
        self._n_rows += len(ids)

    def require_match(self) -> None:
        """Raises InputError if the table has rows, and none of them is of an id of the events."""
        if self._n_rows and not self._n_known:
            raise InputError(
                f"{self._where}, column {self._id_column}: none of its {self._n_rows:,} rows is of an id of the "
                f"events. Its first id is {shown(self._example)}, that of the events is "
                f"{shown(next(iter(self._events.ids.position), None))}. Write ids in the same way in both."
            )

    def notes(self, most: bool = False) -> list[str]:
        """How many rows and ids have no counterpart, in words; with `most` only if most of both have none."""
        n_ids, n_rows = len(self._events.ids), self._n_rows
        without, unused = n_ids - int(self._seen.sum()), n_rows - self._n_known
        are_most = unused > n_rows / 2 and without > n_ids / 2
        if not unused or most > are_most:
            return []
        text = f"{self._where}: {unused:,} of {n_rows:,} rows are of ids without events; they are not used"
        also = f", and {without:,} of {n_ids:,} ids with events have no row. Are ids written in the same way in both?"
        return [text + also * are_most]


def _scattered(chunks: list[pa.Array], owners: list[NDArray[np.int32]], n_ids: int) -> pa.Array:
    """[D] The values at the positions of their owners."""
    position = np.full(n_ids, -1, dtype=np.int64)
    owner = np.concatenate([np.zeros(0, np.int32), *owners])
    position[owner] = np.arange(len(owner))
    values = pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())
    return values.take(pa.array(position, mask=position < 0))


@dataclass(frozen=True)
class LabelRows:
    """The rows of a table of labels whose ids have events."""

    id: NDArray[np.int32]  # [M] position among the ids
    time: NDArray[Any] | None  # [M] prediction time; None: the table has none
    label: NDArray[np.int8]  # [M] 0, 1 or -1
    notes: list[str]


def read_label_rows(
    files: Sequence[Path], id_column: str, time_column: str | None, label: str | None, events: Events, flags: TimeFlags
) -> LabelRows:
    """Labels by (id, prediction time); `label` None: the tables have prediction times alone.

    Raises:
        InputError: not readable, a column is missing, a row without id or prediction time, a label other than 0 and 1
            or empty, two labels for one sample, or no row of an id with events.
    """
    sides = _Sides(files, id_column, events)
    parts = [_label_part(file, id_column, time_column, label, events, flags, sides) for file in files]
    sides.require_match()
    ids, label_of = (np.concatenate([getattr(part, name) for part in parts]) for name in ("id", "label"))
    times = [part.time for part in parts if part.time is not None]
    if times and len(times) < len(parts):
        raise InputError(f"{files[0].parent}: some files have prediction times in {time_column}, others have none.")
    time = np.concatenate(times) if times else None
    known = np.flatnonzero(ids >= 0)
    refuse_contradictions(files, [len(part.id) for part in parts], ids, time, label_of, known)
    notes = [*sides.notes(), *dict.fromkeys(note for part in parts for note in part.notes)]
    return LabelRows(ids[known], None if time is None else time[known], label_of[known], notes)


def _label_part(
    file: Path,
    id_column: str,
    time_column: str | None,
    label: str | None,
    events: Events,
    flags: TimeFlags,
    sides: _Sides,
) -> LabelRows:
    """All rows of a table of labels; -1 for an id without events."""
    columns = [name for name in (id_column, time_column, label) if name is not None]
    table = {name: column.combine_chunks() for name, column in read_table(file, columns).items()}
    ids, missing = in_column(str(file), id_column, lambda: events.ids.find(table[id_column]))
    _refuse(file, id_column, missing, table[id_column], lambda _: "is empty; every row needs an id")
    sides.add(table[id_column], ids)
    label_of = labels_of(file, label, table[label]) if label is not None else np.full(len(ids), -1, dtype=np.int8)
    time = None
    if time_column is not None:
        if not len(ids):
            return LabelRows(ids, np.zeros(0, events.time.dtype), label_of, [])
        if table[time_column].null_count == len(ids):  # none has a prediction time, as if there were no such column
            return LabelRows(ids, None, label_of, [])
        column = table[time_column]
        clock = comparable(str(file), time_column, column, events.time, flags)
        time = in_column(str(file), time_column, lambda: clock.read(column, earliest=True))
        _refuse(file, time_column, is_bad(time), column, clock.refused)
        if events.time.is_date and not clock.is_date and (clock.is_located or (time % DAY).any()):
            said = "times of events are dates, so events of the day of a prediction time count as before it"
            return LabelRows(ids, time, label_of, [f"{file}: {said}"])
    return LabelRows(ids, time, label_of, [])


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
