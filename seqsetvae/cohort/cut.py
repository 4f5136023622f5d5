"""Tidy rows -> sets: checked, without what lies after the prediction time, in time order, and cut into sets.

Letters: N stays in a chunk, E events (rows) in a chunk, S sets in a chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.names import cell_fault
from seqsetvae.cohort.spans import StaySpans, spans_of
from seqsetvae.cohort.tidy import (
    LARGEST,
    Bools,
    FaultyCell,
    Floats,
    Ints,
    Rows,
    Skip,
    Stays,
    count_cells,
    fault,
    faulty_cell,
    first_bad_rows,
    left_out,
)


@dataclass(frozen=True)
class CutRows:
    """The good stays of a chunk, in time order and cut into sets, values still in their own units."""

    stays: Stays  # N
    n_sets: NDArray[np.int64]  # [N]
    n_events: NDArray[np.int64]  # [S] events of each set
    minute: Floats  # [S]
    names: Sequence[str]
    variable: NDArray[np.int32]  # [E] index into names
    value: Floats  # [E]
    n_reordered: int  # stays whose rows were not in time order
    skips: Sequence[Skip]  # faults and empty stays, in the order of the stays
    spans: StaySpans  # before anything was cut off


def cut(rows: Rows) -> CutRows:
    """Check rows, remove those from the prediction time on, put each stay in time order and cut it into sets.

    With a set_index one set per value of it, in the order of (minute, set_index); without it one set per distinct
    minute. Rows of a set keep the order of the file. Stays with a fault, and stays without rows, go to `skips`.
    """
    stays = rows.stays
    skips: list[Skip] = []
    rows = _leave_out(rows, _bad_rows(rows), skips)
    rows = _leave_out(rows, _two_minute_sets(rows), skips)
    whole, rows = rows, _before_prediction(rows)  # after the checks: a fault anywhere in a file is reported
    rows = _leave_out(rows, _empty_stays(rows), skips)
    spans = spans_of(whole, rows)
    if skips:
        order = {number: at for at, number in enumerate(stays.stay_id.tolist())}
        skips.sort(key=lambda skip: order[skip.stay_id])
    rows, n_reordered = _in_time_order(rows)
    starts = _set_starts(rows)
    n_sets = np.bincount(rows.stay_of_row[starts], minlength=len(rows.stays)).astype(np.int64)
    n_events = np.diff(np.append(starts, len(rows.value)))
    columns = (rows.minute[starts], rows.names, rows.variable, rows.value)
    return CutRows(rows.stays, n_sets, n_events, *columns, n_reordered, [*rows.skips, *skips], spans)


def _leave_out(rows: Rows, found: dict[int, Skip], skips: list[Skip]) -> Rows:
    """The rows without the stays at the positions that were found; why is added to `skips`."""
    skips += found.values()
    return rows.without(list(found))


def _bad_rows(rows: Rows) -> dict[int, Skip]:
    """The first faulty row of each stay that has one, by the position of the stay, with the count of all."""
    # The last is for index -1.
    unusable = np.array([not name.strip() or cell_fault(name.strip()) is not None for name in rows.names] + [True])
    bad = unusable[rows.variable] | ~(np.abs(rows.value) <= LARGEST) | ~(np.abs(rows.minute) <= LARGEST)
    if rows.set_index is not None:
        bad |= np.repeat(rows.has_set_index, rows.n_rows) & ~np.isfinite(rows.set_index)
    if not bad.any():
        return {}
    keys: list[Ints] = [rows.variable, rows.value.view(np.int64), rows.minute.view(np.int64)]
    cells = count_cells(bad, rows.n_rows, keys, lambda row: _describe(rows, row)[0])
    found = {}
    for at, row, in_stay in first_bad_rows(bad, rows.n_rows):
        cell, reason = _describe(rows, row)
        found[at] = replace(fault(rows.stays[at], cell.category, reason, in_stay, cell.variable), cells=cells[at])
    return found


def _describe(rows: Rows, row: int) -> tuple[FaultyCell, str]:
    """What is wrong with a row."""
    code = int(rows.variable[row])
    name = rows.names[code] if code >= 0 else None
    if name is None or not name.strip():
        category, text, reason = "a row without a variable name", "", "the variable has no name"
    elif why := cell_fault(name.strip()):
        category, text = "a variable name with a line break, a NUL character or of great length", ""
        reason = f"the name {why}"
    elif not abs(rows.value[row]) <= LARGEST:
        category, text = "a value that is missing or not a finite number", rows.value[row]
        reason = f"value is {text}, not a finite number that float32 can hold"
    elif not abs(rows.minute[row]) <= LARGEST:
        category, text = "a minute that is missing or not a finite number", rows.minute[row]
        reason = f"minute is {text}, not a finite number that float32 can hold"
    else:
        assert rows.set_index is not None
        category, text = "a set_index that is missing or not a finite number", rows.set_index[row]
        reason = f"set_index is {text}, not a finite number"
    return faulty_cell(category, name, text), reason


def _two_minute_sets(rows: Rows) -> dict[int, Skip]:
    """Stays in which rows of one set_index have different minutes, by position."""
    if rows.set_index is None:
        return {}
    stay_of = rows.stay_of_row
    order = np.arange(len(stay_of))
    if _descents(stay_of, rows.set_index).any():
        order = np.lexsort((rows.set_index, stay_of))
    stay, index, minute = stay_of[order], rows.set_index[order], rows.minute[order]
    same_set = (stay[1:] == stay[:-1]) & (index[1:] == index[:-1]) & rows.has_set_index[stay[1:]]
    found: dict[int, Skip] = {}
    for i in np.flatnonzero(same_set & (minute[1:] != minute[:-1])):
        at, row = int(stay[i + 1]), int(order[i + 1])
        reason = f"set_index {index[i]:g} has two minutes, {minute[i]:g} and {minute[i + 1]:g}"
        row_in_stay, name = int(row - rows.n_rows[:at].sum()), rows.names[int(rows.variable[row])]
        found.setdefault(at, fault(rows.stays[at], "a set_index with two minutes", reason, row_in_stay, name))
    return found


def _before_prediction(rows: Rows) -> Rows:
    """The rows before the prediction time of their stay."""
    end = rows.stays.prediction_minute
    if np.isnan(end).all():
        return rows
    return rows.take(np.flatnonzero(~(rows.minute >= np.repeat(end, rows.n_rows))))


def _empty_stays(rows: Rows) -> dict[int, Skip]:
    """Stays without an event; facts alone are none, so that the same stays are used with facts and without."""
    found = {}
    n_timed = rows.n_rows if rows.is_fact is None else rows.take(np.flatnonzero(~rows.is_fact)).n_rows
    for position in np.flatnonzero(n_timed == 0).tolist():
        stay = rows.stays[position]
        end = stay.prediction_minute
        before = "" if end is None else f" before its prediction time, minute {end:g}"
        besides = " but facts" if rows.n_rows[position] else ""
        found[position] = left_out(stay, f"the stay has no rows{besides}{before}")
    return found


def _descents(stay: Ints, key: Floats) -> Bools:
    """[E-1] Where a key falls from one row to the next of the same stay."""
    return (key[1:] < key[:-1]) & (stay[1:] == stay[:-1])


def _in_time_order(rows: Rows) -> tuple[Rows, int]:
    """The rows by (minute, set_index), stable, and how many stays that changed."""
    stay = rows.stay_of_row
    late = _descents(stay, rows.minute)
    if rows.set_index is not None:
        late |= _descents(stay, rows.set_index) & (rows.minute[1:] == rows.minute[:-1])
    if not late.any():
        return rows, 0
    keys = [stay.astype(np.min_scalar_type(len(rows.stays))), rows.minute]  # small integers are sorted by their digits
    order = np.lexsort([*([] if rows.set_index is None else [rows.set_index]), *reversed(keys)])
    return rows.take(order), len(np.unique(stay[1:][late]))


def _set_starts(rows: Rows) -> Ints:
    """[S] The first row of each set, for rows in time order."""
    stay = rows.stay_of_row
    new = np.ones(len(stay), dtype=bool)
    new[1:] = (stay[1:] != stay[:-1]) | (rows.minute[1:] != rows.minute[:-1])
    if rows.set_index is not None:
        new[1:] |= (rows.set_index[1:] != rows.set_index[:-1]) & rows.has_set_index[stay[1:]]
    return np.flatnonzero(new)
