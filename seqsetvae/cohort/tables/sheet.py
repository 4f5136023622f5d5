"""The first sheet of an Excel workbook, as a table of texts. It needs openpyxl, which comes with the extra `excel`."""

import zipfile
from collections.abc import Iterable, Sequence
from datetime import datetime, time
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from seqsetvae.errors import InputError

LARGEST_BOOK = 1 << 30  # bytes, unpacked; a sheet has at most a million rows
MOST_CELLS = 50_000_000  # of a sheet, the empty ones counted


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
        _refuse_packed(file)
        rows = _filled_rows(file, load_workbook(file, read_only=True).worksheets[0].values, len(names))
    except InputError:
        raise
    except Exception as error:  # of any kind: openpyxl takes what is in a damaged file as it is
        raise InputError(f"{file}: cannot be read: {type(error).__name__}: {str(error)[:200]}") from None
    header = list(names) or [cell or "" for cell in (rows.pop(0) if rows else [])]
    wrong = next((row for row in rows if len(row) != len(header)), None)
    if wrong is not None:
        raise InputError(f"{file}: a row has {len(wrong)} cells, {len(header)} columns are named.")
    columns = [pa.array(column, pa.string()) for column in (zip(*rows, strict=True) if rows else [[]] * len(header))]
    return pa.RecordBatch.from_arrays(columns, names=header)


def _refuse_packed(file: Path) -> None:
    """Raises InputError if the file, a zip container, holds far more than it seems to."""
    with zipfile.ZipFile(file) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > LARGEST_BOOK:
        raise InputError(f"{file}: holds {size:,} bytes, unpacked; allowed: {LARGEST_BOOK:,}. Write it as a CSV file.")


def _filled_rows(file: Path, rows: Iterable[Sequence[Any]], least: int) -> list[list[str | None]]:
    """The rows that are not empty, without empty columns at their end, of which `least` stay.

    A cell that was once edited makes the sheet larger.
    """
    filled, left = [], MOST_CELLS
    for row in rows:
        left -= len(row)
        if left < 0:
            raise InputError(f"{file}: its first sheet has more than {MOST_CELLS:,} cells. Write it as a CSV file.")
        if any(cell is not None and cell != "" for cell in row):
            filled.append([_text(cell) for cell in row])
    width = max((at + 1 for row in filled for at, cell in enumerate(row) if cell is not None), default=0)
    return [row[: max(width, least)] for row in filled]


def _text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell or None
    if isinstance(cell, datetime | time):
        return cell.isoformat()
    return str(cell).lower() if isinstance(cell, bool) else str(cell)
