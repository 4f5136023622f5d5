"""The one table that every source of data hands to the compiler, and how it is cut into sets.

Letters: N stays in a chunk, E events (rows) in a chunk, S sets in a chunk.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "valid", "test")
LARGEST = float(np.finfo(np.float32).max)  # models compute in float32: a larger value would be infinite there

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Stay(NamedTuple):
    """One stay of a source: its number, the file it lies in, and the part of the source that it is of, if any."""

    stay_id: int
    file: str
    group: str = ""


class StayFiles(Sequence[Stay]):
    """Stays that are files of one folder, as two arrays: about 24 bytes a stay, where Stay objects take 190.

    A cohort may have a million of them, of which a compilation looks at a few hundred at a time.
    """

    def __init__(self, folder: Path, number: NDArray[np.int64], name: NDArray[np.bytes_]) -> None:
        """Stay number[i] lies in the file folder / name[i]; names as the file system spells them (`os.fsencode`)."""
        self.folder, self.number, self.name = folder, number, name

    def __len__(self) -> int:
        return len(self.number)

    def __iter__(self) -> Iterator[Stay]:
        return map(self.__getitem__, range(len(self)))

    @overload
    def __getitem__(self, at: int) -> Stay: ...
    @overload
    def __getitem__(self, at: slice) -> "StayFiles": ...
    def __getitem__(self, at: int | slice) -> "Stay | StayFiles":
        if isinstance(at, slice):
            return StayFiles(self.folder, self.number[at], self.name[at])
        return Stay(int(self.number[at]), f"{self.folder}{os.sep}{os.fsdecode(self.name[at])}")


@dataclass(frozen=True)
class Skip:
    """Why a file has no place in the cohort: a fault stops the compilation, an empty stay is only left out.

    `row` counts the data rows of the file from 0 (a header is not counted); None where no single row is to blame.
    `category` is the kind of fault without the details of the file, so that faults can be counted by it. `stay_id` is
    None where the file name is no stay number.
    """

    file: str
    reason: str
    row: int | None = None
    variable: str | None = None
    is_fault: bool = True
    category: str = "unspecified fault"
    stay_id: int | None = None

    def __str__(self) -> str:
        row = "" if self.row is None else f", row {self.row} (counted from 0)"
        variable = "" if self.variable is None else f", variable {self.variable!r}"
        return f"{self.file}{row}{variable}: {self.reason}"


@dataclass(frozen=True)
class Rows:
    """Some whole stays as tidy rows: one row an event, the rows of a stay together and in the order of its file."""

    stays: Sequence[Stay]  # N
    n_rows: NDArray[np.int64]  # [N] rows of each stay; they sum to E
    names: Sequence[str]  # the variables that `variable` points at
    variable: NDArray[np.int32]  # [E] index into names, -1 = the file has no name there
    value: Floats  # [E] in the variable's own unit, NaN = the file has no number there
    minute: Floats  # [E] minutes since admission
    set_index: Floats | None  # [E] the file's own set number, NaN where it has none; None = no file has the column
    has_set_index: Bools  # [N] does the stay's file have the column
    skips: Sequence[Skip] = ()  # files of the chunk that could not be read; they are not among the stays


class UnnamedRows(NamedTuple):
    """Rows without a variable name that a source left out, and the number of files that had such rows."""

    rows: int = 0
    files: int = 0


class Source(Protocol):
    """An origin of data. `read` is called from several threads, for slices of one split's stays."""

    description: str
    skips: list[Skip]  # what was left out before reading
    unnamed_rows: UnnamedRows

    @property
    def stays(self) -> Mapping[str, Sequence[Stay]]:
        """By split; only the splits that exist."""
        ...

    def read(self, stays: Sequence[Stay]) -> Rows:
        """The rows of these stays, in this order."""
        ...


@dataclass(frozen=True)
class CutRows:
    """The good stays of a chunk, in time order and cut into sets, values still in their own units."""

    stays: Sequence[Stay]  # N
    n_sets: NDArray[np.int64]  # [N]
    n_events: NDArray[np.int64]  # [S] events of each set
    minute: Floats  # [S]
    names: Sequence[str]
    variable: NDArray[np.int32]  # [E] index into names
    value: Floats  # [E]
    n_reordered: int  # stays whose rows were not in time order
    skips: Sequence[Skip]  # faults and empty stays, in the order of the stays


def cut(rows: Rows) -> CutRows:
    """Check rows, put each stay in time order and cut it into sets.

    With a set_index one set per value of it, in the order of (minute, set_index); without it one set per distinct
    minute. Rows of a set keep the order of the file. Stays with a fault, and stays without rows, go to `skips`.
    """
    skips = {**_bad_rows(rows), **_empty_stays(rows)}
    if skips:
        rows = _without(rows, np.array(sorted(skips)))
    split_sets = _two_minute_sets(rows)
    if split_sets:
        kept = np.delete(np.arange(len(rows.stays) + len(skips)), sorted(skips))
        skips.update({int(kept[stay]): skip for stay, skip in split_sets.items()})
        rows = _without(rows, np.array(sorted(split_sets)))
    rows, n_reordered = _in_time_order(rows)
    starts = _set_starts(rows)
    in_order = [*rows.skips, *(skips[stay] for stay in sorted(skips))]
    n_sets = np.bincount(_stay_of_row(rows)[starts], minlength=len(rows.stays)).astype(np.int64)
    n_events = np.diff(np.append(starts, len(rows.value)))
    return CutRows(
        rows.stays, n_sets, n_events, rows.minute[starts], rows.names, rows.variable, rows.value, n_reordered, in_order
    )


def _stay_of_row(rows: Rows) -> Ints:
    return np.repeat(np.arange(len(rows.stays)), rows.n_rows)  # [E]


def _row_in_file(rows: Rows, row: int, stay: int) -> int:
    return int(row - rows.n_rows[:stay].sum())


def _bad_rows(rows: Rows) -> dict[int, Skip]:
    """The first faulty row of each stay that has one, by the stay's place in the chunk."""
    nameless = np.array([not name.strip() for name in rows.names] + [True])  # the last answers to index -1
    bad = nameless[rows.variable] | ~(np.abs(rows.value) <= LARGEST) | ~np.isfinite(rows.minute)
    if rows.set_index is not None:
        bad |= np.repeat(rows.has_set_index, rows.n_rows) & ~np.isfinite(rows.set_index)
    at = np.flatnonzero(bad)
    stays, first = np.unique(_stay_of_row(rows)[at], return_index=True)
    return {int(stay): _blame(rows, int(row), int(stay)) for stay, row in zip(stays, at[first], strict=True)}


def _blame(rows: Rows, row: int, stay: int) -> Skip:
    code = int(rows.variable[row])
    name = rows.names[code] if code >= 0 else None
    if name is None or not name.strip():
        category, reason = "a row without a variable name", "the variable has no name"
    elif not abs(rows.value[row]) <= LARGEST:
        category = "a value that is missing or not a finite number"
        reason = f"value is {rows.value[row]}, not a finite number that float32 can hold"
    elif not np.isfinite(rows.minute[row]):
        category = "a minute that is missing or not a finite number"
        reason = f"minute is {rows.minute[row]}, not a finite number"
    else:
        assert rows.set_index is not None
        category = "a set_index that is missing or not a finite number"
        reason = f"set_index is {rows.set_index[row]}, not a finite number"
    where = rows.stays[stay]
    return Skip(where.file, reason, _row_in_file(rows, row, stay), name, category=category, stay_id=where.stay_id)


def _empty_stays(rows: Rows) -> dict[int, Skip]:
    empty = np.flatnonzero(rows.n_rows == 0).tolist()
    return {
        stay: Skip(rows.stays[stay].file, "the stay has no rows", is_fault=False, stay_id=rows.stays[stay].stay_id)
        for stay in empty
    }


def _two_minute_sets(rows: Rows) -> dict[int, Skip]:
    """Stays in which rows of one set_index have different minutes, by place in the chunk."""
    if rows.set_index is None:
        return {}
    stay_of = _stay_of_row(rows)
    order = np.arange(len(stay_of))
    if _descents(stay_of, rows.set_index).any():
        order = np.lexsort((rows.set_index, stay_of))
    stay, index, minute = stay_of[order], rows.set_index[order], rows.minute[order]
    same_set = (stay[1:] == stay[:-1]) & (index[1:] == index[:-1]) & rows.has_set_index[stay[1:]]
    found: dict[int, Skip] = {}
    for i in np.flatnonzero(same_set & (minute[1:] != minute[:-1])):
        at, row = int(stay[i + 1]), int(order[i + 1])
        reason = f"set_index {index[i]:g} has two minutes, {minute[i]:g} and {minute[i + 1]:g}"
        name = rows.names[int(rows.variable[row])]
        where = rows.stays[at]
        category = "a set_index with two minutes"
        skip = Skip(where.file, reason, _row_in_file(rows, row, at), name, category=category, stay_id=where.stay_id)
        found.setdefault(at, skip)
    return found


def _descents(stay: Ints, key: Floats) -> Bools:
    """[E-1] Where a key falls from one row to the next of the same stay."""
    return (key[1:] < key[:-1]) & (stay[1:] == stay[:-1])


def _in_time_order(rows: Rows) -> tuple[Rows, int]:
    """The rows by (minute, set_index), stable, and how many stays that moved."""
    stay = _stay_of_row(rows)
    late = _descents(stay, rows.minute)
    if rows.set_index is not None:
        late |= _descents(stay, rows.set_index) & (rows.minute[1:] == rows.minute[:-1])
    if not late.any():
        return rows, 0
    set_index = np.zeros(len(stay)) if rows.set_index is None else rows.set_index
    order = np.lexsort((set_index, rows.minute, stay))
    return _take_rows(rows, order, rows.stays, rows.n_rows, rows.has_set_index), len(np.unique(stay[1:][late]))


def _set_starts(rows: Rows) -> Ints:
    """[S] The first row of each set, for rows in time order."""
    stay = _stay_of_row(rows)
    new = np.ones(len(stay), dtype=bool)
    new[1:] = (stay[1:] != stay[:-1]) | (rows.minute[1:] != rows.minute[:-1])
    if rows.set_index is not None:
        new[1:] |= (rows.set_index[1:] != rows.set_index[:-1]) & rows.has_set_index[stay[1:]]
    return np.flatnonzero(new)


def _without(rows: Rows, places: Ints) -> Rows:
    """The rows without the stays at these places."""
    keep = np.ones(len(rows.stays), dtype=bool)
    keep[places] = False
    kept_rows = np.flatnonzero(np.repeat(keep, rows.n_rows))
    stays = [stay for stay, kept in zip(rows.stays, keep, strict=True) if kept]
    return _take_rows(rows, kept_rows, stays, rows.n_rows[keep], rows.has_set_index[keep])


def _take_rows(rows: Rows, order: Ints, stays: Sequence[Stay], n_rows: NDArray[np.int64], has_index: Bools) -> Rows:
    set_index = None if rows.set_index is None else rows.set_index[order]
    columns = (rows.variable[order], rows.value[order], rows.minute[order], set_index)
    return Rows(stays, n_rows, rows.names, *columns, has_index, rows.skips)
