"""The small tables beside the stays: statistics (stats.csv), labels (oc.csv) and embeddings (cached.csv)."""

import csv
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.names import (
    cell_fault,
    columns_are,
    id_of_text,
    is_empty,
    quoted,
    refuse_nameless,
    swallows_rows,
    trimmed,
)
from seqsetvae.cohort.tidy import LARGEST
from seqsetvae.cohort.variables import CHECKPOINT, FILE, TRAIN_SPLIT
from seqsetvae.errors import InputError, cut, shown

# Beyond this the statistics or the value must be wrong: mistyped values are a few powers of ten away. The square of a
# z-score, and sums of squares, still fit into float32.
LARGEST_Z = 1e9
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
    def made_of(cls, labels: Labels) -> "LabelTable":
        """The same labels as arrays."""
        if isinstance(labels, LabelTable):
            return labels
        stays = sorted(labels)
        return cls(np.array(stays, np.int64), np.array([labels[stay] for stay in stays], np.int8))

    def of(self, stays: NDArray[np.int64]) -> NDArray[np.int8]:
        """[N] The label of each of these stays, -1 where it has none."""
        at = np.searchsorted(self._stay, stays)
        known = np.append(self._stay, 0)[at] == stays
        return np.where(known & (at < len(self)), np.append(self._label, 0)[at], -1).astype(np.int8)

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

    Whether a std can be used is checked later, for the variables that occur (`check_stats`).

    Raises:
        InputError: not readable, a column is missing, a cell is not a number, or a variable has two meanings.
    """
    stats: Stats = {}
    for line, (name, mean, std), _ in _table(path, ("variable", "mean", "std")):
        name, pair = trimmed(name), (_number(path, line, "mean", mean), _number(path, line, "std", std))
        if repr(stats.setdefault(name, pair)) != repr(pair):  # repr, since NaN differs from itself
            raise InputError(
                f"{path}, line {line}: variable {shown(name)} is given twice, with (mean, std) {stats[name]} and "
                f"{pair}. Keep one of the two lines."
            )
    return stats


def unusable_stats(stats: Stats, variables: Iterable[str]) -> dict[str, str]:
    """Those of these variables whose statistics cannot make a z-score, with their mean and std in words."""
    bad = {}
    for name in variables:
        mean, std = stats.get(name, (0.0, 1.0))
        if not (abs(mean) <= LARGEST and 0 < std <= LARGEST):
            bad[name] = f"mean {mean}, std {std}"
    return bad


_SOURCES = {  # where mean and std are from: what it is called, and what to do
    TRAIN_SPLIT: ("The training split", "Pass a stats.csv with a usable mean and std, or correct the values."),
    FILE: ("stats.csv", "Correct mean and std in stats.csv, or the values, or remove the line to keep the raw values."),
    CHECKPOINT: ("The checkpoint", "Correct the values: are they in another unit?"),
}


class UnusableStatsError(InputError):
    """Statistics that cannot normalise some variables. `lines`: variable -> what is wrong with its statistics."""

    def __init__(self, source: str, lines: dict[str, str], advice: str) -> None:
        listed = "".join(f"\n  {shown(name)}: {line}" for name, line in lines.items())
        super().__init__(f"{source} cannot normalise {len(lines)} variables of the data:{listed}\n{advice}")
        self.lines = lines


def check_furthest(
    variables: Sequence[str],
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
    furthest: NDArray[np.float64],
    source: str,
) -> None:
    """Check the z-score of the value that is furthest from the mean, for each variable (all arrays [V]).

    A variable whose mean is NaN has no statistics and is not checked.

    Raises:
        UnusableStatsError: a z-score above LARGEST_Z, or one that is not finite; a mean or std beyond float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        z = (furthest - mean) / std
        usable = (np.abs(z) <= LARGEST_Z) & (np.abs(mean) <= LARGEST) & (std <= LARGEST)
    bad = np.flatnonzero(~np.isnan(mean) & ~usable)
    if len(bad):
        lines = {
            variables[v]: f"mean {mean[v]:g}, std {std[v]:g}; its furthest value {furthest[v]:g} has z = {z[v]:g}"
            for v in bad.tolist()
        }
        name, advice = _SOURCES[source]
        raise UnusableStatsError(name, lines, f"{advice} A z-score may be at most {LARGEST_Z:g}.")


def check_stats(stats: Stats, variables: Iterable[str]) -> None:
    """Raises InputError, listing them, if statistics of variables that occur cannot be used (USABLE_STATS)."""
    bad = unusable_stats(stats, variables)
    if bad:
        raise InputError(
            f"stats.csv cannot normalise these variables of the data ({USABLE_STATS}):"
            + "".join(f"\n  {shown(name)}: {line}" for name, line in bad.items())
            + "\nGive each a usable std (1 keeps its unit), or remove its line to keep the raw value."
        )


def read_labels(
    path: Path, label_name: str, stay_column: str = "ts_id", as_label: Callable[[str], str] = str.strip
) -> Labels:
    """The label of each stay in a file like oc.csv (columns stay_column and label_name; others are ignored).

    A stay may be written 200001.0. An empty label means that the stay has none. `as_label` makes the label of a cell.

    Raises:
        InputError: not readable, a column is missing, a label other than 0 and 1, or two labels for one stay.
    """
    stays, labels, lines = array("q"), array("b"), array("q")
    advice = "Name the column to predict with --label_name." if stay_column == "ts_id" else ""
    for line, (stay_text, text), _ in _table(path, (stay_column, label_name), advice):
        stay = _stay_of_cell(path, line, stay_column, stay_text)
        text = "" if is_empty(text) else as_label(text)
        if not text:
            continue
        label = _number(path, line, label_name, text)
        if label not in (0, 1):
            raise InputError(
                f"{path}, line {line}: {label_name} of stay {stay} is {shown(text)}; allowed: 0, 1, empty."
            )
        stays.append(stay)
        labels.append(int(label))
        lines.append(line)
    return _label_table(path, np.array(stays, np.int64), np.array(labels, np.int8), np.array(lines, np.int64))


def _stay_of_cell(path: Path, line: int, column: str, text: str) -> int:
    try:
        name = id_of_text(text)
    except InputError as error:
        raise InputError(f"{path}, line {line}, column {column}: {error}.") from None
    stay = None if name is None else stay_number(name)
    if stay is None:
        raise InputError(f"{path}, line {line}: {column} is {shown(text)}, not a whole number.")
    return stay


def require_match(path: Path, labels: Labels, stays: NDArray[np.int64]) -> None:
    """Raises InputError if there are labels, and none of them is of one of these stays."""
    labelled = np.fromiter(labels, np.int64, len(labels))
    if len(labelled) and len(stays) and not np.isin(labelled, stays).any():
        raise InputError(
            f"{path}: none of its {len(labelled):,} labels is of a stay of the data. Its first stay is {labelled[0]}, "
            f"that of the data is {stays[0]}. Pass the labels of these stays, or none."
        )


def has_label_column(path: Path, label_name: str) -> bool:
    """Whether a file like oc.csv has a column of this name. Raises InputError if it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next((cells for cells in csv.reader(file) if cells), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return trimmed(label_name) in map(trimmed, header)


def _label_table(path: Path, stay: NDArray[np.int64], label: NDArray[np.int8], line: NDArray[np.int64]) -> LabelTable:
    """Labels as read, line by line. Raises InputError naming the first line that contradicts one before it."""
    order = np.argsort(stay, kind="stable")
    stay, label, line = stay[order], label[order], line[order]
    again = np.zeros(len(stay), dtype=bool)
    again[1:] = stay[1:] == stay[:-1]
    changed = np.flatnonzero(again[1:] & (label[1:] != label[:-1])) + 1
    if len(changed):
        at = changed[np.argmin(line[changed])]
        raise InputError(
            f"{path}, line {line[at]}: stay {stay[at]} has label 0 on one line and 1 on another. Keep one."
        )
    return LabelTable(stay[~again], label[~again])


def read_embeddings(path: Path) -> Embeddings:
    """The embedding of each variable in a cached.csv (column Key, then I numbers a line).

    Raises:
        InputError: not readable, no column Key, a cell that is not a number, a variable with two vectors, or a column
            that counts the rows.
    """
    row: dict[str, int] = {}
    vectors: list[NDArray[np.float64]] = []
    for line, (name,), cells in _table(path, ("Key",)):
        if not cells:
            raise InputError(f"{path}: has no numbers beside the column Key.")
        try:
            vector = np.array(cells, dtype=np.float64)
        except ValueError as error:
            raise InputError(
                f"{path}, line {line}, variable {shown(name)}: {error}. Every cell must be a number."
            ) from None
        name = trimmed(name)
        at = row.setdefault(name, len(vectors))
        if at == len(vectors):
            vectors.append(vector)
        elif not np.array_equal(vectors[at], vector, equal_nan=True):
            raise InputError(
                f"{path}, line {line}: variable {shown(name)} has two different vectors. Keep one of them."
            )
    if not vectors:
        raise InputError(f"{path}: contains no embedding. It needs a line `<variable>,<numbers>` for every variable.")
    _refuse_index(path, np.stack(vectors))
    return Embeddings(row, np.stack(vectors))


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


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        return float(text) if text.strip() else math.nan
    except ValueError:
        raise InputError(f"{path}, line {line}: {column} is {shown(text)}; it must be a number.") from None


def _refuse_faults(where: str, header: Sequence[str], cells: Sequence[str], chosen: Sequence[int]) -> None:
    """Raises InputError for a chosen cell that is no name or number, and for any cell that holds other lines."""
    for at, cell in enumerate(cells):
        why = cell_fault(cell.strip()) if at in chosen else None
        if "\n" in cell and swallows_rows(cell, ",", len(header)):
            why = "has lines that are rows of the table. Is a quotation mark not closed?"
        if why:
            raise InputError(f"{where}, column {header[at]}: the cell {why}")


def _table(path: Path, columns: Sequence[str], advice: str = "") -> Iterator[tuple[int, list[str], list[str]]]:
    """(line in the file, counted from 1; the cells of these columns; all other cells) of a CSV file.

    Raises:
        InputError: not readable, a line with more or fewer cells than the header, a column that is missing, twice or
            without a name. `advice` is added if the last of `columns` is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets put a byte order mark first
            reader = csv.reader(file, strict=True)
            lines = (cells for cells in reader if cells)
            header = [trimmed(cell) for cell in next(lines, [])]
            columns = [trimmed(column) for column in columns]
            missing = [column for column in columns if column not in header]
            if missing:
                text = f"{path}: has no column {quoted(missing)}. {columns_are(header)}"
                raise InputError(f"{text} {advice if columns[-1] in missing else ''}".strip())
            refuse_nameless(path, header)
            twice = [column for column in columns if header.count(column) > 1]
            if twice:
                raise InputError(f"{path}: column {twice[0]} occurs twice. Keep one of the two.")
            chosen = [header.index(column) for column in columns]
            others = [at for at in range(len(header)) if at not in chosen]
            for cells in lines:
                if len(cells) != len(header):
                    raise InputError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells where the header has {len(header)}."
                    )
                _refuse_faults(f"{path}, line {reader.line_num}", header, cells, chosen)
                yield reader.line_num, [cells[at] for at in chosen], [cells[at] for at in others]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV file in UTF-8: {cut(str(error), 300)}") from None
