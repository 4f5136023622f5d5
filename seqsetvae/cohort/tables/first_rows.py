"""Since when facts in columns of tables are known: one that is filled in later must not be known before.

Letters: R rows of a part, D ids, K facts of a column that were filled in later.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.tables.cells import in_column, split_values
from seqsetvae.cohort.tables.events import Columns, Events, clock_of
from seqsetvae.cohort.tables.read import Part
from seqsetvae.cohort.tables.times import BAD_TIME, TimeColumn, TimeFlags, is_bad
from seqsetvae.errors import InputError, shown


class Later(NamedTuple):
    """The facts of a column that first stand on a later row of their id than its first."""

    id: NDArray[np.int64]  # [K] position among the ids, ascending
    time: NDArray[Any]  # [K] of that row; bad if no such row has a time
    row: NDArray[np.int64]  # [K] counted over all files
    set: NDArray[np.float64]  # [K] its number of a set; 0 without a column of such numbers


class FirstRows:
    """By column, the earliest row of each id that has a fact there."""

    def __init__(self, columns: Columns, names: Sequence[str], events: Events, flags: TimeFlags) -> None:
        """`names` are the columns of facts."""
        self.columns = [columns.time, *([columns.set] if columns.set is not None else [])]
        self.names, self._columns, self._events, self._flags = frozenset(names), columns, events, flags
        kind = np.dtype([("time", events.time.dtype), ("row", np.int64), ("set", np.float64)])
        self._latest = np.inf if kind["time"] == np.float64 else np.iinfo(np.int64).max
        nothing = np.array([(self._latest, -1, 0.0)], kind)
        self._first = {name: np.repeat(nothing, len(events.ids)) for name in names}
        self._n_rows, self._part = 0, np.zeros(0, kind)
        self._clock: TimeColumn | None = None

    def begin(self, part: Part, ids: NDArray[np.int32]) -> None:
        """Read the times of a part; parts come in the order of their files."""
        cells = part.columns[self._columns.time]
        if not part.first_row or self._clock is None:
            self._clock = clock_of(part.file, self._columns.time, cells, self._events, self._flags)
        clock = self._clock
        time = in_column(str(part.file), self._columns.time, lambda: clock.read(cells))
        self._part = np.zeros(len(part), self._part.dtype)
        self._part["time"] = np.where(is_bad(time), self._latest, time)
        self._part["row"] = np.arange(self._n_rows, self._n_rows + len(part))
        if self._columns.set is not None:
            self._part["set"] = split_values(part.columns[self._columns.set])[0]
        self._n_rows += len(part)

    def add(self, name: str, ids: NDArray[np.int32], rows: NDArray[np.int64]) -> None:
        """The rows of the part, with their ids, that have a fact in column `name`."""
        found = self._part[rows]
        order = np.lexsort((found["time"], ids))
        ids, found = ids[order], found[order]
        first = np.append(True, ids[1:] != ids[:-1]) if len(ids) else np.zeros(0, dtype=bool)
        ids, found = ids[first], found[first]
        old = self._first[name][ids]
        earlier = (found["time"] < old["time"]) | (old["row"] < 0)
        self._first[name][ids[earlier]] = found[earlier]

    def later(self, name: str) -> Later:
        """The facts of a column that are not known from the first event of their id on."""
        first = self._first[name]
        start = np.where(is_bad(self._events.first_time), self._latest, self._events.first_time)
        ids = np.flatnonzero((first["row"] >= 0) & ((first["time"] > start) | (first["time"] == self._latest)))
        first = first[ids]
        bad = BAD_TIME if first["time"].dtype == np.int64 else np.nan
        time = np.where(first["time"] == self._latest, bad, first["time"])
        return Later(ids, time, first["row"], first["set"])


class EveryRow:
    """Facts in a table without times: an id has them on each of its rows, or when they were filled in is unknown."""

    columns: Sequence[str] = ()  # that are read beside those of the facts

    def __init__(self, names: Sequence[str], events: Events) -> None:
        """`names` are the columns of facts."""
        self.names, self._ids = frozenset(names), events.ids
        self._n_rows = np.zeros(len(events.ids), dtype=np.int64)
        self._n_facts = {name: np.zeros(len(events.ids), dtype=np.int64) for name in names}

    def begin(self, part: Part, ids: NDArray[np.int32]) -> None:
        """Count the rows of a part."""
        self._n_rows += np.bincount(ids[ids >= 0], minlength=len(self._n_rows))

    def add(self, name: str, ids: NDArray[np.int32], rows: NDArray[np.int64]) -> None:
        """Count the facts in column `name`."""
        self._n_facts[name] += np.bincount(ids, minlength=len(self._n_rows))

    def check(self, where: str) -> None:
        """Raises InputError if an id has a fact on some of its rows alone."""
        for name, n_facts in self._n_facts.items():
            wrong = np.flatnonzero((n_facts > 0) & (n_facts < self._n_rows))
            if len(wrong):
                example = list(self._ids.position)[int(wrong[0])]
                raise InputError(
                    f"{where}, column {name}: the id {shown(example)} has it on {n_facts[wrong[0]]:,} of its "
                    f"{self._n_rows[wrong[0]]:,} rows ({len(wrong):,} such ids). What was filled in later must not be "
                    "known from the start: keep one row an id, or write it on each of its rows."
                )
