"""A file of labels, and which of its rows is that of which stay of a cohort.

A cohort of one file a stay has the numbers of stays. An imported one has numbers of its own (`stay_id`) and keeps the
ids and prediction times of its source in samples.parquet: labels are joined to those.

Legend: n stays of a split, K columns of labels, m rows of the file.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort import Cohort
from seqsetvae.cohort.imported import (
    ID_COLUMN,
    IMPORT,
    PREDICTION_TIME,
    SAMPLE_TIMES,
    TIME_COLUMN,
    TIMESTAMPS,
    read_samples,
)
from seqsetvae.cohort.names import MISSING, columns_are
from seqsetvae.cohort.sidefiles import stay_number
from seqsetvae.cohort.tables.cells import as_ids, in_column, positions
from seqsetvae.cohort.tables.read import column_names, read_table, table_files
from seqsetvae.cohort.tables.times import MINUTES, TimeColumn, TimeFlags, comparable, is_bad
from seqsetvae.errors import InputError, shown
from seqsetvae.privacy import from_cell

STAY_COLUMNS = ("ts_id", "stay_id", "id")
SUBJECT = "subject_id"  # the id of a MEDS data set


@dataclass(frozen=True, eq=False)
class LabelFile:
    """All columns of a file of labels, or of a folder of them."""

    path: Path
    names: tuple[str, ...]  # of the labels
    columns: Mapping[str, pa.Array]  # each [m]
    cells: NDArray[np.str_]  # [m, K] labels as text, empty where there is none

    def of(self, cohort: Cohort) -> dict[str, NDArray[np.str_]]:
        """By split [n, K]: the cells of its stays, empty for those that are not in the file.

        Raises:
            InputError: no column of ids, an id that is missing or no number where it must be one, two rows for one
                stay, a row that is that of several samples, or no row of any stay.
        """
        row_of = self._rows(cohort)
        stays = np.concatenate([split.stay_id for split in cohort.splits.values()])
        if not np.isin(np.fromiter(row_of, np.int64, len(row_of)), stays).any():
            raise InputError(
                f"{self.path}: no row is of a stay of {cohort.path}. Its first id is {shown(self._first_id(cohort))}, "
                f"that of the data is {shown(_source_id(cohort, int(stays[0])))}. Write ids (and prediction times) in "
                "the same way in both."
            )
        found = {}
        for name, split in cohort.splits.items():
            rows = np.array([row_of.get(stay, -1) for stay in split.stay_id.tolist()], dtype=np.int64)
            found[name] = np.where(rows[:, None] >= 0, self.cells[rows], "")
        return found

    def _rows(self, cohort: Cohort) -> dict[int, int]:
        """stay_id → row of the file."""
        samples = read_samples(cohort)
        if samples is None:
            name = self._id_column(_id_columns(cohort))
            return self._by_key([self._number(name, row, text) for row, text in enumerate(self._ids(name))])
        of_import = cohort.manifest.get(IMPORT, {})
        name = self._id_column(_id_columns(cohort))
        known = set(samples["id"].to_pylist())
        ids = [text if text in known else from_cell(text) for text in self._ids(name)]  # as predictions have them
        time_column = of_import.get(TIME_COLUMN) or PREDICTION_TIME
        if time_column not in self.columns or self.columns[time_column].null_count == len(ids):
            return self._by_id(ids, samples)
        if samples[PREDICTION_TIME].null_count == len(samples):
            raise InputError(
                f"{self.path}: has prediction times in {time_column}, but the stays of {cohort.path} have none, so the "
                "model would see what came after them. Import the data again with --labels and these times."
            )
        times = self._times(time_column, samples, of_import)
        keys = zip(samples["id"].to_pylist(), _plain_times(samples[PREDICTION_TIME], of_import), strict=True)
        row_of = self._by_key(list(zip(ids, times.tolist(), strict=True)))
        stays = zip(samples["stay_id"].to_pylist(), keys, strict=True)
        return {stay: row_of[key] for stay, key in stays if key in row_of}

    def _first_id(self, cohort: Cohort) -> object:
        return self.columns[self._id_column(_id_columns(cohort))][0].as_py()

    def _by_id(self, ids: Sequence[str], samples: pa.Table) -> dict[int, int]:
        """stay_id → row, by the id of the source alone."""
        row_of, stay_of = self._by_key(ids), dict[str, int]()
        for stay, source_id in zip(samples["stay_id"].to_pylist(), samples["id"].to_pylist(), strict=True):
            if source_id in row_of and stay_of.setdefault(source_id, stay) != stay:
                raise InputError(
                    f"{self.path}, row {row_of[source_id]} (counted from 0): the id {source_id!r} has several samples "
                    f"in the cohort, at different prediction times. Add a column {PREDICTION_TIME} with the time of "
                    "each label."
                )
        return {stay: row_of[source_id] for source_id, stay in stay_of.items()}

    def _by_key(self, keys: Sequence[Any]) -> dict[Any, int]:
        """key → its row. Raises InputError if one has two rows with different labels."""
        row_of: dict[Hashable, int] = {}
        for row, key in enumerate(keys):
            first = row_of.setdefault(key, row)
            if first != row and (self.cells[first] != self.cells[row]).any():
                shown = key[0] if isinstance(key, tuple) else key
                at = " at one prediction time" if isinstance(key, tuple) else ""
                raise InputError(
                    f"{self.path}, rows {first} and {row} (counted from 0): stay {shown} occurs twice{at} with "
                    "different labels; give it one row"
                )
        return row_of

    def _id_column(self, usual: Sequence[str]) -> str:
        name = next((name for name in usual if name in self.columns), None)
        if name is None:
            raise InputError(f"{self.path}: has no column of ids: {' or '.join(usual)}. {columns_are(self.columns)}")
        return name

    def _ids(self, name: str) -> list[str]:
        """[m] The ids as texts."""
        local, texts = in_column(str(self.path), name, lambda: as_ids(self.columns[name]))
        missing = np.flatnonzero(local < 0)
        if len(missing):
            raise InputError(f"{self.path}, row {missing[0]} (counted from 0): {name} is empty; every row needs an id")
        return [texts[at] for at in local.tolist()]

    def _number(self, name: str, row: int, text: str) -> int:
        number = stay_number(text)
        if number is None:
            raise InputError(f"{self.path}, row {row} (counted from 0): {name} is {shown(text)}, not a whole number")
        return number

    def _times(self, name: str, samples: pa.Table, of_import: Mapping[str, Any]) -> NDArray[Any]:
        """[m] Prediction times on the clock of the samples."""
        unit = of_import.get("times", "minutes")
        unit = "minutes" if unit == TIMESTAMPS else unit
        form, zone, decimal = (of_import.get(name) for name in ("time_format", "time_zone", "decimal"))
        flags = TimeFlags(unit, form, zone, decimal=decimal or ".")
        of_samples = TimeColumn(samples[PREDICTION_TIME].combine_chunks(), unit)
        column = self.columns[name]
        clock = comparable(str(self.path), name, column, of_samples, flags)
        time = in_column(str(self.path), name, lambda: clock.read(column, earliest=True))
        bad = np.flatnonzero(is_bad(time))
        if len(bad):
            cell = self.columns[name][int(bad[0])].as_py()
            raise InputError(
                f"{self.path}, row {bad[0]} (counted from 0), column {name}: {shown(cell or 'empty')} is not "
                f"{clock.allowed}"
            )
        return time


def _id_columns(cohort: Cohort) -> tuple[str, ...]:
    """The names that the column of ids may have, the best first."""
    if IMPORT not in cohort.manifest:
        return STAY_COLUMNS
    usual = ("id", "ts_id", "stay_id", *([SUBJECT] * cohort.manifest["source"].startswith("MEDS")))
    return tuple(dict.fromkeys([cohort.manifest[IMPORT].get(ID_COLUMN, "id"), *usual]))


def _source_id(cohort: Cohort, stay: int) -> object:
    """What the source calls a stay."""
    samples = read_samples(cohort)
    if samples is None:
        return stay
    return dict(zip(samples["stay_id"].to_pylist(), samples["id"].to_pylist(), strict=True)).get(stay, stay)


def _plain_times(column: pa.ChunkedArray, of_import: Mapping[str, Any]) -> list[Any]:
    """Microseconds, or minutes; None = none."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.int64()).to_pylist()
    factor = MINUTES[of_import.get(SAMPLE_TIMES, "minutes")]
    return [None if number is None else number * factor for number in column.to_pylist()]


def read_label_file(path: Path, names: tuple[str, ...]) -> LabelFile:
    """Read a file of labels, or all files of a folder.

    Raises:
        InputError: it cannot be read, has no rows, or lacks one of the columns `names`.
    """
    tables = []
    for file in [path] if path.is_file() else table_files(path):
        there = column_names(file)
        missing = [name for name in names if name not in there]
        if missing:
            raise InputError(
                f"{file}: has no column {missing[0]!r}. {columns_are(there)} --label_name lists the "
                "columns to predict, separated by commas."
            )
        tables.append(pa.table(read_table(file, there)))
    try:
        table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        raise InputError(f"{path}: its files have different columns: {error}") from None
    if not len(table):
        raise InputError(f"{path}: has no rows")
    columns = {name: _joined(table[name]) for name in table.column_names}
    cells = np.stack([in_column(str(path), name, lambda: _text(columns[name])) for name in names], axis=1)  # noqa: B023
    return LabelFile(path, names, columns, cells)


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks else pa.array([], column.type)


def _text(column: pa.Array) -> NDArray[np.str_]:
    if pa.types.is_floating(column.type):  # NaN of pandas is an empty cell
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    try:
        text = pc.utf8_trim_whitespace(column.cast(pa.string()).fill_null(""))
    except (pa.ArrowException, NotImplementedError):
        raise InputError(f"holds {column.type}, not numbers or text") from None
    encoded = pc.if_else(pc.is_in(text, pa.array(MISSING)), "", text).dictionary_encode()
    # Objects: numpy's own texts would all be as long as the longest.
    return np.array(encoded.dictionary.to_pylist(), dtype=object)[positions(encoded)]
