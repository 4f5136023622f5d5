"""Tidy rows: the table that every source of data hands to the compiler. N stays and E events (rows) in a chunk."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from seqsetvae.system.errors import InputError, cut, shown

SPLITS = ("train", "valid", "test")
SHOWN_OF_A_CELL = 40  # characters in a count of faults
USUAL_ROWS = 256  # of a stay, where it is not known before it is read
MOST_ROWS = 10_000_000  # of one stay: an event in every three seconds of a year
LARGEST = float(np.finfo(np.float32).max)  # models compute in float32: a larger value would be infinite there

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Stay(NamedTuple):
    """One sample: the events of a subject before a prediction time. A hospital stay with one label is the simple case.

    The key of a sample is (subject, prediction time). `stay_id` is a number for it, unique in the cohort, by which
    labels and predictions name it. A subject may have several samples, all of them in one split.
    """

    stay_id: int
    file: str  # where its events are, for messages
    group: str = ""  # the part of the source that it belongs to, such as a set of PhysioNet
    subject_id: int | None = None  # the patient; None = the stay's own number, for sources with one stay per patient
    prediction_minute: float | None = None  # later events, and those at this minute, are left out; None = keep all

    @property
    def subject(self) -> int:
        """The number of the patient."""
        return self.stay_id if self.subject_id is None else self.subject_id


class Stays(Sequence[Stay]):
    """Stays as arrays: some 40 bytes each, where objects take 200, and there may be millions. N stays."""

    def __init__(
        self,
        stay_id: NDArray[np.int64],
        file_of: Callable[[int], str],
        *,
        place: NDArray[np.int64] | None = None,
        subject: NDArray[np.int64] | None = None,
        prediction_minute: Floats | None = None,
        group: NDArray[np.str_] | None = None,
        n_rows: NDArray[np.int64] | None = None,
    ) -> None:
        """The stays of a source, or some of them.

        Args:
            stay_id: [N].
            file_of: the file of a stay, for messages, by its place.
            place: [N] where the source has each; None = one after the other.
            subject: [N]; None = each is of its own.
            prediction_minute: [N] NaN = none.
            group: [N].
            n_rows: [N] about as many rows as it takes to read each; None = not known.
        """
        n = len(stay_id)
        self.stay_id, self.file_of = stay_id, file_of
        self.place = np.arange(n, dtype=np.int64) if place is None else place
        self.subject = stay_id if subject is None else subject
        self.prediction_minute = np.broadcast_to(np.nan, n) if prediction_minute is None else prediction_minute
        self.group = np.broadcast_to(np.str_(""), n) if group is None else group
        self.n_rows = np.broadcast_to(np.int64(USUAL_ROWS), n) if n_rows is None else n_rows

    @classmethod
    def from_list(cls, stays: Sequence[Stay]) -> "Stays":
        """These stays as arrays. Raises ValueError for a prediction time that is not a number."""
        if isinstance(stays, Stays):
            return stays
        for stay in stays:
            if stay.prediction_minute is not None and math.isnan(stay.prediction_minute):
                raise ValueError(f"{stay}: a prediction_minute of nan; allowed: a number, or None for the whole stay")
        return cls(
            np.array([stay.stay_id for stay in stays], dtype=np.int64),
            lambda at: stays[at].file,
            subject=np.array([stay.subject for stay in stays], dtype=np.int64),
            prediction_minute=np.array([stay.prediction_minute for stay in stays], dtype=np.float64),  # None is NaN
            group=np.array([stay.group for stay in stays], dtype=np.str_),
        )

    def __len__(self) -> int:
        return len(self.stay_id)

    @overload
    def __getitem__(self, at: int) -> Stay: ...
    @overload
    def __getitem__(self, at: slice | NDArray[Any]) -> "Stays": ...
    def __getitem__(self, at: int | slice | NDArray[Any]) -> "Stay | Stays":
        """One stay, or those of a slice, at an array of positions, or of a mask."""
        columns = ("stay_id", "place", "subject", "prediction_minute", "group", "n_rows")
        if not isinstance(at, int):
            return Stays(file_of=self.file_of, **{name: getattr(self, name)[at] for name in columns})
        number, place, subject, minute, group, _ = (getattr(self, name)[at].item() for name in columns)
        own = None if subject == number else subject
        return Stay(number, self.file_of(place), group, own, None if math.isnan(minute) else minute)


# ------------------------------------------------------------------ no stay twice, no subject in two splits


def require_separate_splits(stays: Mapping[str, Stays]) -> None:
    """Raises InputError if a stay occurs twice, or stays of one subject are in several splits."""
    leak = "so that a model could be tested on what it was trained on"
    stay_ids = {split: of_split.stay_id for split, of_split in stays.items()}
    again = repeated(np.concatenate([np.zeros(0, np.int64), *stay_ids.values()]))
    if len(again):
        places = _places(again, stay_ids, lambda split, at: stays[split][at].file)
        what = f"{len(again):,} stays occur in more than one file or split, {leak}"
        raise InputError(f"{what}:{places}\nKeep one file for each stay.")
    subjects = {split: of_split.subject for split, of_split in stays.items()}
    again = repeated(np.concatenate([np.zeros(0, np.int64), *map(np.unique, subjects.values())]))
    if len(again):
        what = f"{len(again):,} subjects have stays in more than one split, {leak}"
        places = _places(again, subjects, lambda split, _: split)
        raise InputError(f"{what}:{places}\nPut all stays of a subject into one split.")


def repeated(numbers: NDArray[Any]) -> NDArray[Any]:
    """The numbers that occur more than once, ascending."""
    in_order = np.sort(numbers)
    return np.unique(in_order[1:][in_order[1:] == in_order[:-1]])


def _places(again: Ints, numbers: Mapping[str, Ints], where: Callable[[str, int], str]) -> str:
    """Where the first of some numbers are among those of the stays of each split [N], a line for each."""
    places_of: dict[int, dict[str, None]] = {number: {} for number in again[:10].tolist()}
    for split, of_split in numbers.items():
        for at in np.flatnonzero(np.isin(of_split, again[:10])).tolist():
            places_of[int(of_split[at])][where(split, at)] = None
    more = f"\n  and {len(again) - 10:,} more" if len(again) > 10 else ""
    return "".join(f"\n  {number}: {', '.join(places)}" for number, places in places_of.items()) + more


# ------------------------------------------------------------------ faults, and rows


class FaultyCell(NamedTuple):
    """What is wrong with a row, without saying where, so that equal ones can be counted."""

    category: str
    variable: str | None = None
    text: str = ""  # of the cell, cut short


def faulty_cell(category: str, variable: str | None, text: object) -> FaultyCell:
    """A fault with the text of its cell, cut to a sane length."""
    return FaultyCell(category, variable, cut(str(text), SHOWN_OF_A_CELL))


@dataclass(frozen=True)
class Skip:
    """Why a stay is not in the cohort: a fault stops the compilation, an empty stay is only left out.

    `row` counts the data rows of the file from 0 (a header is not counted); None where the reason is not a single row.
    `category` is the kind of fault without the details of the file, so that faults can be counted by it. `stay_id` is
    None where the file name is not a stay number. `cells` counts all faulty rows, of which `row` is the first; it is
    empty where the fault is not one of rows. Without `of_stay` these rows are of no stay, and they alone are left out.
    """

    file: str
    reason: str
    row: int | None = None
    variable: str | None = None
    is_fault: bool = True
    category: str = "unspecified fault"
    stay_id: int | None = None
    cells: Mapping[FaultyCell, int] = field(default_factory=dict)
    of_stay: bool = True

    def __str__(self) -> str:
        row = "" if self.row is None else f", row {self.row} (counted from 0)"
        variable = "" if self.variable is None else f", variable {shown(self.variable)}"
        return f"{self.file}{row}{variable}: {self.reason}"


def fault(stay: Stay, category: str, reason: str, row: int | None = None, variable: str | None = None) -> Skip:
    """A fault in the file of a stay."""
    return Skip(stay.file, reason, row, variable, category=category, stay_id=stay.stay_id)


def bad_name(file: str, example: str) -> Skip:
    """A file whose name is not a stay number."""
    reason = f"the name {Path(file).name!r} is not a stay number such as {example}"
    return Skip(file, reason, category="a name that is not a stay number")


def left_out(stay: Stay, reason: str) -> Skip:
    """A stay that is left out although its file has no fault."""
    return Skip(stay.file, reason, is_fault=False, stay_id=stay.stay_id)


@dataclass(frozen=True)
class Rows:
    """Some whole stays as tidy rows, one per event; the rows of a stay are contiguous and in the order of its file."""

    stays: Stays  # N
    n_rows: NDArray[np.int64]  # [N] rows of each stay; they sum to E
    names: Sequence[str]  # the variables that `variable` points at
    variable: NDArray[np.int32]  # [E] index into names, -1 = the file has no name there
    value: Floats  # [E] in the variable's own unit, NaN = the file has no number there
    minute: Floats  # [E] minutes since admission
    set_index: Floats | None  # [E] the file's own set number, NaN where it has none; None = no file has the column
    has_set_index: Bools  # [N] does the stay's file have the column
    skips: Sequence[Skip] = ()  # files of the chunk that could not be read; they are not among the stays
    is_fact: Bools | None = None  # [E] true of the whole stay, without a time of its own; None = the source has none

    @cached_property
    def stay_of_row(self) -> Ints:
        """[E] The position of each row's stay."""
        return np.repeat(np.arange(len(self.stays)), self.n_rows)

    def take(self, rows: NDArray[np.intp]) -> "Rows":
        """These rows, in this order; stays stay in their order, and may be left without rows."""
        return replace(
            self,
            n_rows=np.bincount(self.stay_of_row[rows], minlength=len(self.stays)),
            variable=self.variable[rows],
            value=self.value[rows],
            minute=self.minute[rows],
            set_index=None if self.set_index is None else self.set_index[rows],
            is_fact=None if self.is_fact is None else self.is_fact[rows],
        )

    def without(self, positions: Sequence[int]) -> "Rows":
        """The rows without the stays at these positions."""
        if not positions:
            return self
        keep = np.ones(len(self.stays), dtype=bool)
        keep[list(positions)] = False
        kept = self.take(np.flatnonzero(keep[self.stay_of_row]))
        return replace(kept, stays=self.stays[keep], n_rows=kept.n_rows[keep], has_set_index=self.has_set_index[keep])


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
        """Stays by split, of the splits that exist. All stays of a subject are in one split."""
        ...

    def read(self, stays: Stays) -> Rows:
        """The rows of these stays, in this order; those from the prediction time on are removed afterwards."""
        ...


def faults(
    stays: Stays,
    bad: Bools,
    n_rows: NDArray[np.int64],
    keys: Sequence[NDArray[np.integer]],
    describe: Callable[[int], tuple[FaultyCell, str]],
) -> dict[int, Skip]:
    """The first faulty row of each stay that has bad rows [E], by the position of the stay, with the count of all.

    Rows of a stay with equal `keys` (each [E]) have the same fault. `describe` says what is wrong with a row.
    """
    rows = np.flatnonzero(bad)
    stay = np.repeat(np.arange(len(n_rows)), n_rows)[rows]
    start = np.cumsum(n_rows) - n_rows
    each = np.column_stack([stay, *(key[rows] for key in keys)])
    _, chosen, counts = np.unique(each, axis=0, return_index=True, return_counts=True)
    cells: dict[int, dict[FaultyCell, int]] = {}
    for at, n in zip(chosen.tolist(), counts.tolist(), strict=True):
        of_stay, cell = cells.setdefault(int(stay[at]), {}), describe(int(rows[at]))[0]
        of_stay[cell] = of_stay.get(cell, 0) + n
    skipped = {}
    for at, first in zip(*np.unique(stay, return_index=True), strict=True):
        row = int(rows[first])
        cell, reason = describe(row)
        skip = fault(stays[int(at)], cell.category, reason, row - int(start[at]), cell.variable)
        skipped[int(at)] = replace(skip, cells=cells[int(at)])
    return skipped
