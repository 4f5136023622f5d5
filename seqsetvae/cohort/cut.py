"""Tidy rows -> sets: checked, without what lies after the prediction time, in time order, cut into sets, and written.

The arrays of a split are written piece by piece, in bounded memory.
Letters: N stays in a chunk, E events (rows) in a chunk, S sets in a chunk.
"""

import io
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort import tidy
from seqsetvae.cohort.format import ARRAYS, OPTIONAL_ARRAYS
from seqsetvae.cohort.names import cell_fault
from seqsetvae.cohort.sidefiles import LabelTable
from seqsetvae.cohort.spans import StaySpans, spans_of


@dataclass(frozen=True)
class CutRows:
    """The good stays of a chunk, in time order and cut into sets, values still in their own units."""

    stays: tidy.Stays  # N
    n_sets: NDArray[np.int64]  # [N]
    n_events: NDArray[np.int64]  # [S] events of each set
    minute: tidy.Floats  # [S]
    names: Sequence[str]
    variable: NDArray[np.int32]  # [E] index into names
    value: tidy.Floats  # [E]
    n_reordered: int  # stays whose rows were not in time order
    skips: Sequence[tidy.Skip]  # faults and empty stays, in the order of the stays
    spans: StaySpans  # before anything was cut off


def cut(rows: tidy.Rows, set_hours: float | None = None) -> CutRows:
    """Check rows, remove those from the prediction time on, put each stay in time order and cut it into sets.

    With `set_hours` one set per period of a stay; with a set_index one set per value of it, in the order of (minute,
    set_index); without either one set per distinct minute. Rows of one time keep the order of the file. Stays with a
    fault, and stays without rows, go to `skips`.
    """
    stays = rows.stays
    skips: list[tidy.Skip] = []
    rows = _leave_out(rows, _bad_rows(rows), skips)
    whole = rows = _leave_out(rows, _two_minute_sets(rows), skips)
    end = rows.stays.prediction_minute
    if not np.isnan(end).all():  # after the checks: a fault anywhere in a file is reported
        rows = rows.take(np.flatnonzero(~(rows.minute >= np.repeat(end, rows.n_rows))))
    rows = _leave_out(rows, _empty_stays(rows), skips)
    spans = spans_of(whole, rows)
    if skips:
        order = {number: at for at, number in enumerate(stays.stay_id.tolist())}
        skips.sort(key=lambda skip: order[skip.stay_id])
    rows, n_reordered = _in_time_order(rows)
    rows = rows if set_hours is None else _in_periods(rows, set_hours)
    starts = _set_starts(rows)
    n_sets = np.bincount(rows.stay_of_row[starts], minlength=len(rows.stays)).astype(np.int64)
    n_events = np.diff(np.append(starts, len(rows.value)))
    columns = (rows.minute[starts], rows.names, rows.variable, rows.value)
    return CutRows(rows.stays, n_sets, n_events, *columns, n_reordered, [*rows.skips, *skips], spans)


def _leave_out(rows: tidy.Rows, skipped: dict[int, tidy.Skip], skips: list[tidy.Skip]) -> tidy.Rows:
    """The rows without the stays at the positions in `skipped`, whose reasons are added to `skips`."""
    skips += skipped.values()
    return rows.without(list(skipped))


def _bad_rows(rows: tidy.Rows) -> dict[int, tidy.Skip]:
    """The first faulty row of each stay that has one, by the position of the stay, with the count of all."""
    # The last is for index -1.
    unusable = np.array([not name.strip() or cell_fault(name.strip()) is not None for name in rows.names] + [True])
    bad = unusable[rows.variable] | ~(np.abs(rows.value) <= tidy.LARGEST) | ~(np.abs(rows.minute) <= tidy.LARGEST)
    if rows.set_index is not None:
        bad |= np.repeat(rows.has_set_index, rows.n_rows) & ~np.isfinite(rows.set_index)
    if not bad.any():
        return {}
    keys: list[tidy.Ints] = [rows.variable, rows.value.view(np.int64), rows.minute.view(np.int64)]
    return tidy.faults(rows.stays, bad, rows.n_rows, keys, lambda row: _describe(rows, row))


def _describe(rows: tidy.Rows, row: int) -> tuple[tidy.FaultyCell, str]:
    """What is wrong with a row."""
    code = int(rows.variable[row])
    name = rows.names[code] if code >= 0 else None
    if name is None or not name.strip():
        category, text, reason = "a row without a variable name", "", "the variable has no name"
    elif why := cell_fault(name.strip()):
        category, text = "a variable name with a line break, a NUL character or of great length", ""
        reason = f"the name {why}"
    else:
        good = {"value": abs(rows.value[row]) <= tidy.LARGEST, "minute": abs(rows.minute[row]) <= tidy.LARGEST}
        column = next((column for column, is_good in good.items() if not is_good), "set_index")
        category, text = f"a {column} that is missing or not a finite number", getattr(rows, column)[row]
        reason = f"{column} is {text}, not a finite number" + " that float32 can hold" * (column in good)
    return tidy.faulty_cell(category, name, text), reason


def _two_minute_sets(rows: tidy.Rows) -> dict[int, tidy.Skip]:
    """Stays in which rows of one set_index have different minutes, by position."""
    if rows.set_index is None:
        return {}
    stay_of = rows.stay_of_row
    order = np.arange(len(stay_of))
    if _descents(stay_of, rows.set_index).any():
        order = np.lexsort((rows.set_index, stay_of))
    stay, index, minute = stay_of[order], rows.set_index[order], rows.minute[order]
    same_set = (stay[1:] == stay[:-1]) & (index[1:] == index[:-1]) & rows.has_set_index[stay[1:]]
    skipped: dict[int, tidy.Skip] = {}
    for i in np.flatnonzero(same_set & (minute[1:] != minute[:-1])):
        at, row = int(stay[i + 1]), int(order[i + 1])
        reason = f"set_index {index[i]:g} has two minutes, {minute[i]:g} and {minute[i + 1]:g}"
        row_in_stay, name = int(row - rows.n_rows[:at].sum()), rows.names[int(rows.variable[row])]
        skipped.setdefault(at, tidy.fault(rows.stays[at], "a set_index with two minutes", reason, row_in_stay, name))
    return skipped


def _empty_stays(rows: tidy.Rows) -> dict[int, tidy.Skip]:
    """Stays without an event. Facts do not count, so that the choice of facts does not change which stays are used."""
    skipped = {}
    n_timed = rows.n_rows if rows.is_fact is None else rows.take(np.flatnonzero(~rows.is_fact)).n_rows
    for position in np.flatnonzero(n_timed == 0).tolist():
        stay = rows.stays[position]
        end = stay.prediction_minute
        before = "" if end is None else f" before its prediction time, minute {end:g}"
        besides = " but facts" if rows.n_rows[position] else ""
        skipped[position] = tidy.left_out(stay, f"the stay has no rows{besides}{before}")
    return skipped


def _descents(stay: tidy.Ints, key: tidy.Floats) -> tidy.Bools:
    """[E-1] Where a key falls from one row to the next of the same stay."""
    return (key[1:] < key[:-1]) & (stay[1:] == stay[:-1])


def _in_time_order(rows: tidy.Rows) -> tuple[tidy.Rows, int]:
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


def _in_periods(rows: tidy.Rows, hours: float) -> tidy.Rows:
    """Rows in time order, each at the minute of the last one of its period, so that no set has a row of later on.

    Periods of so many hours are counted from the first row of each stay.
    """
    stay, minute, n = rows.stay_of_row, rows.minute, rows.n_rows
    period = (minute - np.repeat(minute[np.cumsum(n) - n], n)) // (60 * hours)
    is_last = np.append((stay[1:] != stay[:-1]) | (period[1:] != period[:-1]), True)[: len(stay)]
    ends = np.flatnonzero(is_last)
    at_end = np.repeat(minute[ends], np.diff(ends, prepend=-1))
    return replace(rows, minute=at_end, set_index=None, has_set_index=np.zeros(len(rows.stays), dtype=bool))


def _set_starts(rows: tidy.Rows) -> tidy.Ints:
    """[S] The first row of each set, for rows in time order."""
    stay = rows.stay_of_row
    new = np.ones(len(stay), dtype=bool)
    new[1:] = (stay[1:] != stay[:-1]) | (rows.minute[1:] != rows.minute[:-1])
    if rows.set_index is not None:
        new[1:] |= (rows.set_index[1:] != rows.set_index[:-1]) & rows.has_set_index[stay[1:]]
    return np.flatnonzero(new)


# ------------------------------------------------------------------ the arrays of a split


_HEADER_BYTES = 128  # of the .npy of any one-dimensional array


class _ArrayWriter:
    """Writes a one-dimensional .npy of unknown length."""

    def __init__(self, file: Path, dtype: np.dtype[Any]) -> None:
        self.dtype, self.length = dtype, 0
        self._stream = file.open("wb")
        self._stream.write(bytes(_HEADER_BYTES))  # until the length is known

    def append(self, piece: NDArray[Any]) -> None:
        """Add a one-dimensional piece at the end."""
        self._stream.write(np.ascontiguousarray(piece, dtype=self.dtype).data)
        self.length += len(piece)

    def __enter__(self) -> "_ArrayWriter":
        return self

    def __exit__(self, *error: object) -> None:
        header = io.BytesIO()
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(header, described)
        assert len(header.getvalue()) == _HEADER_BYTES  # numpy pads it so that a shape can grow in place
        self._stream.seek(0)
        self._stream.write(header.getvalue())
        self._stream.close()


class SplitWriter:
    """Appends chunks to the arrays of one split folder; variables have provisional codes.

    Attributes:
        counts: of stays, sets, events, labelled stays and positives so far.
        groups: (group of the source, stays in a row).
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder."""
        folder.mkdir()
        self._folder, self._stack = folder, ExitStack()
        self._arrays = {
            name: self._stack.enter_context(_ArrayWriter(folder / f"{name}.npy", dtype))
            for name, dtype in {**ARRAYS, **OPTIONAL_ARRAYS}.items()
        }
        self._arrays["set_offset"].append(np.zeros(1))
        self._arrays["stay_offset"].append(np.zeros(1))
        self._needed: set[str] = set()  # optional arrays that say more than the default
        self.counts = dict.fromkeys(("stays", "sets", "events", "labelled", "positives"), 0)
        self.groups: list[tuple[str, int]] = []

    def append(self, part: CutRows, codes: NDArray[np.int32], labels: LabelTable) -> None:
        """Add the stays of a chunk: codes [E] of its events, labels by stay number."""
        stays, label = part.stays, labels.lookup(part.stays.stay_id)
        pieces: dict[str, NDArray[Any]] = {
            "variable": codes,
            "value": part.value,
            "set_offset": self.counts["events"] + np.cumsum(part.n_events),
            "minute": part.minute,
            "stay_offset": self.counts["sets"] + np.cumsum(part.n_sets),
            "stay_id": stays.stay_id,
            "label": label,
            "subject_id": stays.subject,
            "prediction_minute": stays.prediction_minute,
        }
        for name, piece in pieces.items():
            self._arrays[name].append(piece)
        has_time = ~np.isnan(stays.prediction_minute)
        needed = {"subject_id": (stays.subject != stays.stay_id).any(), "prediction_minute": has_time.any()}
        self._needed |= {name for name, is_needed in needed.items() if is_needed}
        starts = np.flatnonzero(np.append(True, stays.group[1:] != stays.group[:-1])[: len(stays)])
        for group, n in zip(stays.group[starts].tolist(), np.diff([*starts, len(stays)]).tolist(), strict=True):
            before = self.groups.pop()[1] if self.groups and self.groups[-1][0] == group else 0
            self.groups.append((group, before + n))
        added = (len(label), len(part.minute), len(codes), int((label >= 0).sum()), int((label == 1).sum()))
        self.counts = {name: n + more for (name, n), more in zip(self.counts.items(), added, strict=True)}

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        for name in OPTIONAL_ARRAYS.keys() - self._needed:
            (self._folder / f"{name}.npy").unlink()
