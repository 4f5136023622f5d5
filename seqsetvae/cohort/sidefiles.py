"""The small tables beside the data: statistics (stats.csv), labels (oc.csv), embeddings (cached.csv), variable maps."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.names import trimmed
from seqsetvae.cohort.tables.cells import as_text, split_values
from seqsetvae.cohort.tables.labels import LabelFile
from seqsetvae.cohort.tables.read import Part, read_side_table, read_table
from seqsetvae.cohort.tidy import LARGEST
from seqsetvae.system.errors import InputError, named, shown

USABLE_STATS = "mean and std must be finite numbers that float32 can hold, the std above 0"
STATS, CACHED = "stats.csv", "cached.csv"  # their usual names, beside the data or in a compiled cohort
Stats = dict[str, tuple[float, float]]  # variable -> (mean, std), in the variable's own unit
Labels = Mapping[int, int]  # stay -> 0 or 1; a stay that is absent has no label


class LabelTable(Labels):
    """Labels by stay as two arrays: 9 bytes a stay, where a dict takes 80."""

    def __init__(self, stay: NDArray[np.int64], label: NDArray[np.int8]) -> None:
        """label[i] is that of stay[i]; the stays ascend."""
        self._stay, self._label = stay, label

    @classmethod
    def from_dict(cls, labels: Labels) -> "LabelTable":
        """These labels as arrays."""
        if isinstance(labels, LabelTable):
            return labels
        stays = sorted(labels)
        return cls(np.array(stays, np.int64), np.array([labels[stay] for stay in stays], np.int8))

    def lookup(self, stays: NDArray[np.int64]) -> NDArray[np.int8]:
        """[N] The label of each of these stays, -1 where it has none."""
        if not len(self):
            return np.full(len(stays), -1, dtype=np.int8)
        at = np.minimum(np.searchsorted(self._stay, stays), len(self) - 1)
        return np.where(self._stay[at] == stays, self._label[at], -1).astype(np.int8)

    def __getitem__(self, stay: int) -> int:
        at = int(np.searchsorted(self._stay, stay))
        if at == len(self) or self._stay[at] != stay:
            raise KeyError(stay)
        return int(self._label[at])

    def __iter__(self) -> Iterator[int]:
        return map(int, self._stay)

    def __len__(self) -> int:
        return len(self._stay)


@dataclass(frozen=True)
class Embeddings:
    """The vectors of a cached.csv. `row` maps a variable to its row of `vectors` [K, I], float64."""

    row: dict[str, int]
    vectors: NDArray[np.float64]


def read_stats(path: Path) -> Stats:
    """Mean and std of each variable in a stats.csv (columns variable, mean, std; an empty cell is NaN).

    Whether a std can be used is checked later, for the variables that occur (`bind.with_tables`).

    Raises:
        InputError: not readable, a column is missing, a cell is not a number, or a variable has two meanings.
    """
    stats: Stats = {}
    columns, _ = read_side_table(path, ("variable", "mean", "std"))
    numbers = [_numbers(path, name, columns[name]).tolist() for name in ("mean", "std")]
    for row, (name, *pair) in enumerate(zip(as_text(columns["variable"]).to_pylist(), *numbers, strict=True)):
        first = stats.setdefault(name or "", (pair[0], pair[1]))
        if repr(first) != repr(tuple(pair)):  # repr, since NaN differs from itself
            raise InputError(
                f"{path}, row {row} (counted from 0): variable {shown(name)} is given twice, with (mean, std) {first} "
                f"and {tuple(pair)}. Keep one of the two rows."
            )
    return stats


def _numbers(path: Path, name: str, column: pa.Array, *, filled: bool = False) -> NDArray[np.float64]:
    """A column of numbers, NaN for an empty cell. Raises InputError for any other one, and with `filled` for it too."""
    numbers, texts = split_values(column)
    bad = np.asarray(texts.is_valid()) | (filled & np.asarray(column.is_null()))
    Part(path, 0, {name: column}).refuse(name, bad, lambda cell: f"{shown(cell or '')} is not a number")
    return numbers


def unusable_stats(stats: Stats, variables: Iterable[str]) -> dict[str, str]:
    """The variables among these whose statistics cannot make a z-score, with their mean and std in words."""
    bad = {}
    for name in variables:
        mean, std = stats.get(name, (0.0, 1.0))
        if not (abs(mean) <= LARGEST and 0 < std <= LARGEST):
            bad[name] = f"mean {mean}, std {std}"
    return bad


def read_labels(
    path: Path, label_name: str, stay_column: str = "ts_id", as_label: Callable[[str], str] = str
) -> Labels:
    """The label of each stay in a file like oc.csv (columns stay_column and label_name; others are ignored).

    A stay may be written 200001.0. An empty label means that the stay has none. `as_label` makes the label of a cell.

    Raises:
        InputError: as `LabelFile`: not readable, a column is missing, a label other than 0 and 1, or two for one stay.
    """
    advice = "Name the column to predict with --label_name." if stay_column == "ts_id" else ""
    file = LabelFile([Part(path, 0, read_side_table(path, (stay_column, label_name), advice=advice)[0])])
    stay, label = file.numbers(stay_column), file.labels(label_name, as_label)
    file.refuse_contradictions(stay_column, [stay], [label], np.flatnonzero(label >= 0))
    stay, first = np.unique(stay[label >= 0], return_index=True)
    return LabelTable(stay, label[label >= 0][first])


def require_match(path: Path, labels: Labels, stays: NDArray[np.int64]) -> None:
    """Raises InputError if there are labels, and none of them is of one of these stays."""
    labelled = np.fromiter(labels, np.int64, len(labels))
    if len(labelled) and len(stays) and not np.isin(labelled, stays).any():
        raise InputError(
            f"{path}: none of its {len(labelled):,} labels is of a stay of the data. Its first stay is {labelled[0]}, "
            f"that of the data is {stays[0]}. Pass the labels of these stays, or none."
        )


def read_embeddings(path: Path) -> Embeddings:
    """The embedding of each variable in a cached.csv (column Key, then I numbers a line).

    Raises:
        InputError: not readable, no column Key, a cell that is not a number, a variable with two vectors, or a column
            that counts the rows.
    """
    columns, others = read_side_table(path, ("Key",))
    names = [name or "" for name in as_text(columns["Key"]).to_pylist()]
    if not others:
        raise InputError(f"{path}: has no numbers beside the column Key.")
    if not names:
        raise InputError(f"{path}: contains no embedding. It needs a line `<variable>,<numbers>` for every variable.")
    cells = read_table(path, others)
    vectors = np.column_stack([_numbers(path, name, cells[name], filled=True) for name in others])
    first: dict[str, int] = {}
    for at, name in enumerate(names):
        if not np.array_equal(vectors[first.setdefault(name, at)], vectors[at], equal_nan=True):
            raise InputError(
                f"{path}, row {at} (counted from 0): variable {shown(name)} has two different vectors. Keep one."
            )
    vectors = vectors[list(first.values())]
    _refuse_index(path, vectors)
    return Embeddings({name: at for at, name in enumerate(first)}, vectors)


def _refuse_index(path: Path, vectors: NDArray[np.float64]) -> None:
    """Raises InputError if a column of vectors numbers the rows, which is no dimension, whatever its name."""
    is_whole = (vectors == np.rint(vectors)).all(axis=0)
    index = np.flatnonzero(is_whole & (np.diff(vectors, axis=0) > 0).all(axis=0))
    if len(vectors) > 2 and len(index) and not is_whole.all():
        raise InputError(
            f"{path}: number {index[0] + 1} of each vector is {vectors[0, index[0]]:g}, {vectors[1, index[0]]:g}, "
            f"{vectors[2, index[0]]:g} ... from line to line. This is an index and not a dimension; remove the column."
        )


def embedding_faults(given: Embeddings, variables: Sequence[str]) -> tuple[list[str], list[str]]:
    """The variables without a vector, and those with one that float32 cannot hold."""
    broken = {int(row) for row in np.flatnonzero(~(np.abs(given.vectors) <= LARGEST).all(axis=1))}
    missing = [name for name in variables if name not in given.row]
    return missing, [name for name in variables if given.row.get(name) in broken]


def stay_number(text: str) -> int | None:
    """The stay that a text such as "200001" or "200001.0" names; None if it is not a whole number of 64 bits."""
    match = re.fullmatch(r"(-?\d+)(\.0*)?", text.strip(), re.ASCII)  # not float(), which rounds ids beyond 2^53
    number = int(match[1]) if match else None
    return number if number is not None and -(2**63) <= number < 2**63 else None


REQUIRED = ("name", "target")
OPTIONAL = {"factor": 1.0, "offset": 0.0}  # and their values where a cell is empty or the column is missing


@dataclass(frozen=True)
class VariableMap:
    """value in the cohort = value here · factor + offset, under the name `target`. Other variables stay as they are."""

    file: str = ""
    entries: dict[str, tuple[str, float, float]] = field(default_factory=dict)  # name -> (target, factor, offset)

    def target(self, name: str) -> str:
        """The name of a variable in the cohort."""
        return self.entries[name][0] if name in self.entries else name

    def unit(self, name: str) -> tuple[float, float]:
        """(factor, offset) of a variable."""
        return self.entries[name][1:] if name in self.entries else (1.0, 0.0)

    def notes(self, seen: Iterable[str]) -> list[str]:
        """Which of its names the data do not have, in words."""
        absent = sorted(self.entries.keys() - set(seen))
        listing = named([repr(name) for name in absent])
        return [f"{len(absent)} of {len(self.entries)} names of {self.file} do not occur: {listing}"] if absent else []

    def as_plain(self) -> list[dict[str, Any]]:
        """A dictionary for the manifest."""
        rows = self.entries.items()
        return [{"name": name, "target": to, "factor": by, "offset": plus} for name, (to, by, plus) in rows]


def read_variable_map(path: Path | None) -> VariableMap:
    """The mapping in a CSV file with the columns name, target, and perhaps factor (1) and offset (0).

    Raises:
        InputError: not readable, a column is missing, a name is empty or repeated, a factor or offset is not usable.
    """
    if path is None:
        return VariableMap()
    columns, _ = read_side_table(path, REQUIRED, tuple(OPTIONAL), fold=lambda name: trimmed(name).lower())
    texts = {name: [trimmed(cell or "") for cell in cells.to_pylist()] for name, cells in columns.items()}
    entries: dict[str, tuple[str, float, float]] = {}
    for row, (name, target) in enumerate(zip(*(texts[name] for name in REQUIRED), strict=True)):
        where = f"{path}, row {row} (counted from 0)"
        if not name or not target:
            empty = "target" if name else "name"
            raise InputError(f"{where}: the {empty} is empty. To drop a variable, use --leave_out.")
        factor, offset = (_number(where, of, texts[of][row] if of in texts else "") for of in OPTIONAL)
        if factor == 0:
            raise InputError(f"{where}: factor is 0, which would make all values equal.")
        if entries.setdefault(name, (target, factor, offset)) != (target, factor, offset):
            raise InputError(f"{where}: name {name!r} is given twice. Keep one row.")
    return VariableMap(str(path), entries)


def _number(where: str, column: str, text: str) -> float:
    try:
        number = float(text) if text else OPTIONAL[column]
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {column} is {text!r}; it must be a finite number.")
    return number
