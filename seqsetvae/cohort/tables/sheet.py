"""The first sheet of an Excel workbook, as a table of texts. It needs openpyxl, which comes with the extra `excel`."""

from collections.abc import Sequence
from datetime import datetime, time
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from seqsetvae.errors import InputError


@lru_cache(maxsize=1)
def read_sheet(file: Path, names: Sequence[str] = ()) -> pa.RecordBatch:
    """All rows of the first sheet; `names` are those of its columns where it has no header.

    Raises:
        InputError: openpyxl is missing, or the file cannot be read.
    """
    if find_spec("openpyxl") is None:
        raise InputError(f"{file}: an Excel file needs openpyxl, which is not installed: pip install openpyxl")
    from openpyxl import load_workbook

    try:
        rows = [[_text(cell) for cell in row] for row in load_workbook(file, read_only=True).worksheets[0].values]
    except Exception as error:  # of any kind: openpyxl takes what is in a damaged file as it is
        raise InputError(f"{file}: cannot be read: {type(error).__name__}: {str(error)[:200]}") from None
    rows = [row for row in rows if any(cell is not None for cell in row)]
    header = list(names) or [cell or "" for cell in (rows.pop(0) if rows else [])]
    wrong = next((row for row in rows if len(row) != len(header)), None)
    if wrong is not None:
        raise InputError(f"{file}: a row has {len(wrong)} cells, {len(header)} columns are named.")
    columns = [pa.array(column, pa.string()) for column in (zip(*rows, strict=True) if rows else [[]] * len(header))]
    return pa.RecordBatch.from_arrays(columns, names=header)


def _text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell or None
    if isinstance(cell, datetime | time):
        return cell.isoformat()
    return str(cell).lower() if isinstance(cell, bool) else str(cell)
