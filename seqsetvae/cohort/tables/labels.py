"""Files of labels: an id, perhaps a prediction time, and one or more labels a row. Letters: R rows of all files."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.names import MISSING, is_empty
from seqsetvae.cohort.tables.cells import NUMBER, as_id_texts, as_known_ids, as_text, cast_cells, in_column, positions
from seqsetvae.cohort.tables.read import Part
from seqsetvae.cohort.tables.times import DAY, TimeColumn, TimeFlags, comparable, is_bad
from seqsetvae.system.errors import InputError, shown

OTHER = -2  # the code of a cell that is no label
_WORDS = {"false": 0, "true": 1}


class LabelFile:
    """The columns of one or several files of labels; an error about a cell names its file and row."""

    def __init__(self, parts: Sequence[Part], path: Path | None = None) -> None:
        """`parts`: each file as a whole; `path` is that of all of them, for messages."""
        self._parts = parts
        self.path = path or (parts[0].file if len(parts) == 1 else parts[0].file.parent)
        self._first_row = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._first_row[-1])

    @property
    def columns(self) -> list[str]:
        """The columns that every file has."""
        return [name for name in self._parts[0].columns if all(name in part.columns for part in self._parts)]

    def is_filled(self, name: str) -> bool:
        """Whether there is such a column, and a cell of it is not empty."""
        return any(name in part.columns and part.columns[name].null_count < len(part) for part in self._parts)

    def place(self, row: int) -> str:
        """A row, for messages."""
        part, at = self._find(row)
        return part.place(at)

    def _find(self, row: int) -> tuple[Part, int]:
        at = int(np.searchsorted(self._first_row, row, side="right")) - 1
        return self._parts[at], row - int(self._first_row[at])

    def first_cell(self, name: str) -> object:
        """The first cell, for messages; None without rows."""
        return next((part.columns[name][0].as_py() for part in self._parts if len(part)), None)

    def ids(self, name: str, known: pa.Array | None = None) -> pa.Array:
        """[R] The ids as texts, as those that are `known` are written. Raises InputError for an empty one."""
        ids = self._read(name, lambda cells: as_id_texts(cells) if known is None else as_known_ids(cells, known))
        self.refuse(name, np.asarray(ids.is_null()), lambda _: "is empty; every row needs an id")
        return ids

    def numbers(self, name: str) -> NDArray[np.int64]:
        """[R] The ids as whole numbers of 64 bits. Raises InputError for any other one."""
        ids = self.ids(name)
        numbers = cast_cells(pc.if_else(pc.match_substring_regex(ids, "^-?[0-9]+$"), ids, None), pa.int64())
        self.refuse(name, np.asarray(numbers.is_null()), lambda cell: f"{shown(cell)} is not a whole number")
        return numbers.to_numpy()

    def times(self, name: str, events: TimeColumn, flags: TimeFlags) -> tuple[NDArray[Any] | None, list[str]]:
        """(prediction times [R] on the clock of the events; what is odd about them); None: the column is empty.

        Raises:
            InputError: some files have none, a cell is no time, or times cannot be compared with those of the events.
        """
        clocks, times, notes = [], [], []
        for part in self._parts:
            file, cells = part.file, part.columns.get(name, pa.nulls(len(part)))
            if len(cells) and cells.null_count == len(cells):
                continue
            clock = comparable(str(file), name, cells, events, flags)
            time = in_column(str(file), name, lambda: clock.read(cells, earliest=True))  # noqa: B023
            if events.is_date and not clock.is_date and (clock.is_located or (time % DAY).any()):
                said = "times of events are dates, so events of the day of a prediction time count as before it"
                notes.append(f"{file}: {said}")
            clocks.append(clock)
            times.append(time)
        if not times:
            return None, []
        if len(times) < len(self._parts):
            raise InputError(f"{self.path}: some files have prediction times in {name}, others have none.")
        self.refuse(name, is_bad(np.concatenate(times)), clocks[0].refused)
        return np.concatenate(times), notes

    def labels(self, name: str, as_label: Callable[[str], str] = str, advice: str = "") -> NDArray[np.int8]:
        """[R] Labels as 0, 1 and -1 for an empty cell. Raises InputError, with `advice`, for any other cell.

        `as_label` makes the label of a cell that is not empty.
        """
        labels = label_codes(self._read(name, as_text), as_label)
        self.refuse(name, labels == OTHER, lambda cell: no_label(cell) + advice)
        return labels

    def levels(self, name: str) -> Counter[str]:
        """How often each cell that is not empty occurs in a column, as `labels` reads them."""
        return levels_of(self._read(name, as_text))

    def texts(self, name: str) -> NDArray[np.str_]:
        """[R] The labels of any task as texts, empty where there is none."""
        encoded = self._read(name, _plain_texts).dictionary_encode()
        # Objects: numpy's own texts would all be as long as the longest.
        return np.array(encoded.dictionary.to_pylist(), dtype=object)[positions(encoded)]

    def refuse(self, name: str, bad: NDArray[np.bool_], why: Callable[[object], str]) -> None:
        """Raises InputError for the first bad row [R] of a column, if there is one."""
        for part, of_part in zip(self._parts, np.split(bad, self._first_row[1:-1]), strict=True):
            part.refuse(name, of_part, why)

    def refuse_contradictions(
        self, id_column: str, keys: Sequence[NDArray[Any]], labels: Sequence[NDArray[Any]], rows: NDArray[np.intp]
    ) -> None:
        """Raises InputError if one sample has two labels in these rows; `keys`, each [R], tell samples apart."""
        order = rows[np.lexsort([column[rows] for column in (*labels, *keys)])]
        same, other = order[:-1], order[1:]
        is_one = np.all([key[same] == key[other] for key in keys], axis=0)
        wrong = np.flatnonzero(is_one & np.any([label[same] != label[other] for label in labels], axis=0))
        if len(wrong):
            one, two = sorted(order[wrong[0] :][:2].tolist())
            part, row = self._find(one)
            which = shown(part.columns[id_column][row]) + " at one prediction time" * (len(keys) > 1)
            raise InputError(f"{self.place(one)} and {self.place(two)}: two different labels for {which}. Keep one.")

    def _read(self, name: str, read: Callable[[pa.Array], pa.Array]) -> pa.Array:
        """[R] A column of texts."""
        return pa.concat_arrays(
            [in_column(str(part.file), name, lambda: read(part.columns[name])) for part in self._parts]  # noqa: B023
        )


def label_codes(texts: pa.Array, as_label: Callable[[str], str] = str) -> NDArray[np.int8]:
    """[R] Labels as 0 and 1, -1 for an empty cell, OTHER for any other one."""
    encoded = texts.dictionary_encode()
    codes = [-1 if is_empty(text) else _code(as_label(text)) for text in encoded.dictionary.to_pylist()]
    return np.array([*codes, -1], dtype=np.int8)[positions(encoded)]


def _code(label: str) -> int:
    if not label:
        return -1
    number = float(label) if re.match(NUMBER, label) else _WORDS.get(label.lower())
    return int(number) if number in (0, 1) else OTHER


def levels_of(texts: pa.Array) -> Counter[str]:
    """How often each text that is not empty occurs."""
    pairs = texts.drop_null().value_counts().to_pylist()
    return Counter({pair["values"]: pair["counts"] for pair in pairs if not is_empty(pair["values"])})


def label_rule(values: Collection[str]) -> Callable[[str], str]:
    """The label of a cell that is not empty: 1 if it is one of the values, else 0; without values the cell itself.

    >>> [label_rule(["Expired", "2"])(cell) for cell in ("Expired", "Alive", "2.0", "0")]
    ['1', '0', '1', '0']
    """
    if not values:
        return str
    wanted = {_number_or_text(value) for value in values}
    return lambda cell: str(int(_number_or_text(cell) in wanted))


def _number_or_text(text: str) -> float | str:
    return float(text) if re.match(NUMBER, text) else text


def no_label(cell: object) -> str:
    """What is wrong with a cell, for messages."""
    return f"{shown(cell)} is not a label; allowed: 0, 1, false, true, empty"


def _plain_texts(column: pa.Array) -> pa.Array:
    """Texts without spaces around them, "" for an empty cell; truth values are 0 and 1."""
    column = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
    if pa.types.is_floating(column.type):  # NaN of pandas is an empty cell
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    try:
        text = pc.utf8_trim_whitespace(column.cast(pa.string()).fill_null(""))
    except (pa.ArrowException, NotImplementedError):
        raise InputError(f"holds {column.type}, not numbers or text") from None
    return pc.if_else(pc.is_in(text, pa.array(MISSING)), "", text)
