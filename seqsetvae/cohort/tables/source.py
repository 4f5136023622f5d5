"""Events and samples as a source for the compiler (see the Source protocol): faults are found here, row by row.

Letters: N stays of a chunk, E rows of a chunk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort import tidy
from seqsetvae.cohort.tables.cells import written_numbers
from seqsetvae.cohort.tables.codes import DROP, KEEP, NO_NUMBER, NO_VALUE, UNNAMED, Decision
from seqsetvae.cohort.tables.events import Events
from seqsetvae.cohort.tables.stays import Later, Samples, minutes
from seqsetvae.cohort.tables.times import BAD_TIME, is_bad

_STATIC_ROW = -1  # the row of an event that is no row of an event table
_STATIC_SET = float(-(2**53))  # its number of a set, where the source has such numbers
_CATEGORIES = {
    UNNAMED: "a row without a variable name",
    NO_VALUE: "a value that is missing, of a variable with numbers",
    NO_NUMBER: "a value that is not a number, of a variable with numbers",
}


@dataclass(frozen=True)
class StaticColumn:
    """A fact of each sample, such as age; it becomes an event in the first set, or at the time of a later row."""

    name: str  # of the column
    code: NDArray[np.int32]  # [samples] code of the variable or level, UNNAMED where the fact is unknown
    value: NDArray[np.float64]  # [samples] NaN for a level
    later: Later | None = None  # facts that first stand on a later row

    def records(
        self, samples: Samples, at: NDArray[np.int64], kind: np.dtype[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """(the facts of the samples `at` as records of events, the place in `at` of each)."""
        known = np.flatnonzero(self.code[at] != UNNAMED)
        facts = np.zeros(len(known), kind)
        facts["code"], facts["value"] = self.code[at][known], self.value[at][known]
        facts["time"] = BAD_TIME if kind["time"] == np.int64 else np.nan
        facts["row"] = _STATIC_ROW
        if self.later is not None and len(self.later.id):
            ids = samples.id[at][known]
            place = np.minimum(np.searchsorted(self.later.id, ids), len(self.later.id) - 1)
            rows = np.flatnonzero(self.later.id[place] == ids)
            for name in ("time", "row", *({"set"} & set(kind.names or ()))):
                facts[name][rows] = getattr(self.later, name)[place[rows]]
        return facts, known


@dataclass(frozen=True)
class StayEnd:
    """When the stay of each sample ends."""

    name: str  # where that is from: a column or a code
    time: NDArray[Any]  # [N] on the clock of the events; bad where there is none
    expected: bool = True  # whether each stay should have one


@dataclass(frozen=True)
class SourceTables:
    """What a source read from its tables: events, samples and how they came about."""

    description: str
    events: Events
    samples: Samples  # those that are compiled, [N]
    every_sample: Samples  # those that are left out before included
    label_name: str | None
    own_split: NDArray[np.int8] | None = None  # [N] the splits of the data, as positions in SPLITS
    how_split: str = "the data's own"
    static: Sequence[StaticColumn] = ()
    static_rows: bool = False  # events without a time are facts of the stay
    from_start: bool = False  # events before the start of a sample are left out
    skips: Sequence[tidy.Skip] = ()  # stays that are not among the samples
    read: Sequence[str] = ()  # what the tables hold, in words
    rules: Sequence[str] = ()  # how labels and prediction times were made of the data, in words
    notes: Sequence[str] = ()
    end: StayEnd | None = None  # of the samples; None: the data do not say when stays end


class EventSource:
    """The samples of event tables, divided into splits."""

    def __init__(self, tables: SourceTables, decision: Decision, split: NDArray[np.int8]) -> None:
        """`decision` is what becomes of each code, and `split` [samples] the position of each sample's in SPLITS."""
        self.description, self.unnamed_rows = tables.description, tidy.UnnamedRows()
        self.skips = [*tables.events.skips(), *tables.skips]
        self.decision, self.events, self.columns, self.samples = (
            decision,
            tables.events,
            tables.events.columns,
            tables.samples,
        )
        self.static, self.static_rows, self.from_start = tables.static, tables.static_rows, tables.from_start
        stays = tables.samples.stays(tables.events.records.n_of_id)
        of_split = {name: stays[split == at] for at, name in enumerate(tidy.SPLITS)}
        self.stays: Mapping[str, Sequence[tidy.Stay]] = {name: some for name, some in of_split.items() if len(some)}

    def read(self, stays: tidy.Stays) -> tidy.Rows:
        """The rows of these stays; rows of a faulty stay are left out, and the fault is in `skips`."""
        at = stays.place
        records, n_rows = self.events.records.read(self.samples.id[at].astype(np.int64))
        records, n_rows = self._with_facts(records, n_rows, at)
        stay_of = np.repeat(np.arange(len(stays)), n_rows)
        code = records["code"]
        action = np.append(self.decision.action, KEEP)[code]
        action[code == UNNAMED] = KEEP
        value = np.append(self.decision.value, np.nan)[code]
        value = np.where(np.isnan(value), records["value"], value)
        is_static = self._is_static(records)
        # The source's own numbers of sets; static facts are a set before all others.
        set_index = None if self.columns.set is None else np.where(is_static, _STATIC_SET, records["set"])
        bad = (code == UNNAMED) | (action == NO_VALUE) | (action == NO_NUMBER)
        bad |= is_bad(records["time"]) & ~is_static
        bad |= (action == KEEP) & (code != UNNAMED) & ~(np.abs(value) <= tidy.LARGEST)
        if set_index is not None:
            bad |= ~np.isfinite(set_index)
        rows = tidy.Rows(
            stays=stays,
            n_rows=n_rows,
            names=self.decision.names,
            variable=code,
            value=value,
            minute=self._minutes(records, is_static, at, stay_of),
            set_index=set_index,
            has_set_index=np.full(len(stays), set_index is not None),
            is_fact=is_static,
        )
        skips = self._faults(rows, records, action, bad) if bad.any() else {}
        dropped = action == DROP
        if self.from_start:
            dropped |= rows.minute < 0
        if dropped.any():
            rows = rows.take(np.flatnonzero(~dropped))
        return replace(rows.without(list(skips)), skips=list(skips.values()))

    def _is_static(self, records: NDArray[Any]) -> NDArray[np.bool_]:
        is_static = records["row"] == _STATIC_ROW
        return is_static | (records["time"] == BAD_TIME) if self.static_rows else is_static

    def _with_facts(
        self, records: NDArray[Any], n_rows: NDArray[np.int64], at: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The records with the facts of each sample; those known from the start are before its other events."""
        stay_of = np.repeat(np.arange(len(at)), n_rows)
        for column in self.static:
            facts, known = column.records(self.samples, at, records.dtype)
            records, stay_of = np.concatenate([records, facts]), np.concatenate([stay_of, known])
        is_static = self._is_static(records)
        if not self.static and not is_static.any():
            return records, n_rows
        order = np.lexsort((np.where(is_static, _STATIC_ROW, records["row"]), ~is_static, stay_of))
        return records[order], np.bincount(stay_of, minlength=len(at)).astype(np.int64)

    def _minutes(
        self, records: NDArray[Any], is_static: NDArray[np.bool_], at: NDArray[np.int64], stay_of: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """[E] Minutes from the start of each stay; static facts are at the first event, or at 0 if that is later."""
        minute = minutes(records["time"], self.samples.start[at][stay_of])
        if is_static.any():
            first = np.zeros(len(at))
            timed = np.flatnonzero(~is_static) if not self.from_start else np.zeros(0, dtype=np.int64)
            np.fmin.at(first, stay_of[timed], minute[timed])
            minute[is_static] = first[stay_of[is_static]]
        return minute

    def _faults(
        self, rows: tidy.Rows, records: NDArray[Any], action: NDArray[np.int8], bad: tidy.Bools
    ) -> dict[int, tidy.Skip]:
        """The first fault of each stay that has one, by position, with the count of all its faulty rows."""
        known = np.isin(records["row"], list(self.events.bad_times))  # of the others the cell was not kept
        place = np.where(known, records["row"], -1 - is_bad(records["time"]))
        keys = [records["code"], rows.value.view(np.int64), place]
        start = np.cumsum(rows.n_rows) - rows.n_rows

        def describe(row: int) -> tuple[tidy.FaultyCell, str]:
            cell, reason, column = self._describe(records[row], rows.value[row], int(action[row]))
            file = rows.stays[int(rows.stay_of_row[row])].file
            return cell, f"id {file.rpartition(', id ')[2]}, column {column}: {reason}"

        faults = tidy.faults(rows.stays, bad, rows.n_rows, keys, describe)
        for at, skip in faults.items():
            assert skip.row is not None
            number, sample = int(records["row"][start[at] + skip.row]), rows.stays.place[at]
            file, in_file = self.events.place(number) if number != _STATIC_ROW else (skip.file, None)
            again = sample > 0 and self.samples.id[sample] == self.samples.id[sample - 1]
            # The rows of an id that has several samples are counted once.
            cells = dict.fromkeys(skip.cells, 0) if again else skip.cells
            faults[at] = replace(skip, file=file, row=in_file, cells=cells)
        return faults

    def _describe(self, record: NDArray[Any], value: float, action: int) -> tuple[tidy.FaultyCell, str, str | None]:
        """(what is wrong with a row, the same in words, the name of the column)."""
        code, columns = int(record["code"]), self.columns
        name = None if code == UNNAMED else self.decision.names[code]
        category, text = _CATEGORIES.get(UNNAMED if code == UNNAMED else action, ""), ""
        if code == UNNAMED:
            return tidy.faulty_cell(category, None, ""), "the variable has no name", columns.variable
        if action in (NO_VALUE, NO_NUMBER):
            name, _, text = str(name).partition("=") if action == NO_NUMBER else (name, "", "")
            said = f"{text!r} is not a number" if text else "empty"
            form = written_numbers([text], self.events.codes.decimal).advice if text else ""
            reason = f"{said}, and other rows of this variable have numbers. {f'It is {form}. ' * bool(form)}{_ADVICE}"
            return tidy.faulty_cell(category, name, text), reason, columns.value or name
        if is_bad(record["time"]):
            category, cell = "a time that is missing or cannot be read", self.events.bad_times.get(int(record["row"]))
            time = self.events.time
            reason = f"the cell is not {time.allowed}" if cell is None else time.refused(cell)
            return tidy.faulty_cell(category, name, cell or ""), reason, columns.time
        if not abs(value) <= tidy.LARGEST:
            reason = f"{value} is not a finite number that float32 can hold"
            return tidy.faulty_cell("a value that is not a finite number", name, value), reason, columns.value or name
        category = "a number of a set that is missing or not a finite number"
        return tidy.faulty_cell(category, name, record["set"]), f"{record['set']} is not a finite number", columns.set


_ADVICE = (
    "--non_numeric leave_out drops such rows, --non_numeric level makes texts levels, --categorical NAME makes all its "
    "values levels"
)
