"""Rows with a column a variable: each cell that is not empty is an event of the variable that the column names.

Letters: R rows of a part, E events in them, C columns of values.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.names import columns_are, quoted, refuse_nameless
from seqsetvae.cohort.tables.cells import as_facts, in_column
from seqsetvae.cohort.tables.codes import EventCodes
from seqsetvae.cohort.tables.forms import Form
from seqsetvae.cohort.tables.read import column_names
from seqsetvae.errors import InputError


def value_columns(file: Path, there: Sequence[str], named: Sequence[str], taken: Collection[str]) -> list[str]:
    """The columns of a file that are variables: those that the flags name, as far as it has them, or else all others.

    Raises:
        InputError: a column without a name, as pandas writes the numbers of rows, or no column is left.
    """
    columns = [name for name in (named or there) if name not in taken and name in there]
    if not named:
        refuse_nameless(
            file, ["taken" if name in taken else name for name in there], ", or name the variables with --value_columns"
        )
    if not columns:
        raise InputError(f"{file}: no column is left for variables. {columns_are(there)}")
    return columns


def refuse_absent(files: Sequence[Path], flag: str, named: Sequence[str], form: Form) -> None:
    """Raises InputError if no file has one of the columns that a flag names; a file may lack some."""
    absent = list(named)
    for file in files if named else ():
        there = column_names(file, form)
        absent = [name for name in absent if name not in there]
        if not absent:
            return
    if absent:
        raise InputError(f"{flag} {quoted(absent)}: no file has such a column. {columns_are(there)}")


def encode_wide(
    codes: EventCodes, where: str, cells: dict[str, pa.Array], columns: Sequence[str], first_row: int
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.int64], NDArray[np.int32]]:
    """(code [E], number [E], row [E], place of the column [E]) of the cells that are not empty, row by row.

    `first_row` is that of the part, for messages.

    Raises:
        InputError: a column that holds neither texts, numbers nor truth values, or has too many levels.
    """
    parts = []
    for kind in (pa.float64(), pa.string()):
        chosen = [at for at, name in enumerate(columns) if (kind == pa.float64()) == _is_numeric(cells[name].type)]
        filled = [in_column(where, columns[at], lambda: _filled(cells[columns[at]], kind)) for at in chosen]  # noqa: B023
        rows = [np.flatnonzero(column.is_valid()) for column in filled]
        if not any(map(len, rows)):
            continue
        at = np.repeat(np.array(chosen, np.int32), [len(of_column) for of_column in rows])
        values = pa.concat_arrays([c.take(pa.array(r)) for c, r in zip(filled, rows, strict=True)])
        names = pa.DictionaryArray.from_arrays(pa.array(at), pa.array(list(columns)))
        row = np.concatenate(rows)
        in_file = first_row + row
        code, number = in_column(where, "of values", lambda: codes.encode(names, values, None, in_file))  # noqa: B023
        parts.append((code, number, row, at))
    if not parts:
        return np.zeros(0, np.int32), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int32)
    code, number, row, at = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((at, row))
    return code[order], number[order], row[order].astype(np.int64), at[order]


def _is_numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _filled(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """[R] The cells as numbers or texts; null where one is empty. Raises InputError if they are times."""
    if pa.types.is_temporal(column.type):
        raise InputError(f"holds {column.type}, not numbers or texts; name the variables with --value_columns")
    if kind == pa.string():
        return as_facts(column)
    numbers = column.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_nan(numbers), None, numbers)
