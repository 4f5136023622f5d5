"""CSV, Parquet and Excel files as Arrow columns, a few hundred thousand rows at a time.

Cells of a CSV file stay texts here; what they mean is decided in `cells`. Letters: R rows of a part.
"""

import csv
import io
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, time
from functools import lru_cache
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqsetvae.cohort.names import columns_are, quoted, refuse_nameless, swallows_rows, trimmed
from seqsetvae.cohort.tables.cells import first_fault, is_text, positions
from seqsetvae.cohort.tables.forms import EXCEL, PARQUET, SEPARATORS, USUAL, Derive, Form
from seqsetvae.system.errors import InputError, cut

_OF_SUFFIX = {".tsv": "\t", ".psv": "|"}  # between the cells; of the others the header tells
ENCODING = (
    "Write it in UTF-8, or name the encoding of the tables: data.py table --encoding cp1252 (latin-1, utf-16, ...)."
)
ROWS_PER_PART = 1 << 18
BYTES_PER_PART = 1 << 23  # of a CSV file
HEADER_CHARACTERS = 1 << 20  # at most
# Bounds that no real data reach, so that a small packed file cannot fill the memory.
LARGEST_TABLE = 1 << 30  # bytes of a table that is read as a whole: labels, one row a stay
LARGEST_PART = 1 << 30  # bytes of the texts of a column in a part of a Parquet file
TIMES_LARGER = 100, 1 << 28  # unpacked than packed, above so many bytes
ROWS_PER_BYTE = 16  # of a Parquet file with more than a part of rows; so many are equal ones alone


@dataclass(frozen=True)
class Part:
    """Some rows of a file, or all rows of several small files, with the columns that were asked for."""

    file: Path  # the first one of several
    first_row: int  # the position of its first row in the file, counted from 0 without the header
    columns: dict[str, pa.Array]  # each [R]
    joined: tuple["Part", ...] = ()  # of several files, the part of each

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def by_file(self) -> tuple["Part", ...]:
        """The part of each file."""
        return self.joined or (self,)

    def use(self, work: Callable[["Part"], Any]) -> Any:
        """Return work(part); an InputError is that of the first file whose own part raises one."""
        try:
            return work(self)
        except InputError:
            for part in self.joined:
                work(part)
            raise

    def refuse(self, name: str, bad: NDArray[np.bool_], why: Callable[[object], str]) -> None:
        """Raises InputError for the first bad cell [R] of a column, if there is one; `why` says what is wrong."""
        rows = np.flatnonzero(bad)
        if len(rows):
            more = f" ({len(rows):,} such rows)" if len(rows) > 1 else ""
            raise InputError(
                f"{self.place(int(rows[0]))}, column {name}: {why(self.columns[name][rows[0]].as_py())}.{more}"
            )

    def place(self, row: int) -> str:
        """A row of the part, for messages."""
        return f"{self.file}, row {self.first_row + row} (counted from 0)"


def join_parts(parts: Sequence[Part]) -> Part:
    """All rows as one part."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: pa.concat_arrays([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Part(parts[0].file, parts[0].first_row, columns, tuple(parts))


def column_names(file: Path, form: Form = USUAL) -> list[str]:
    """The names of the columns that are in the file. Raises InputError if it cannot be read."""
    return _header(file, form)[0]


def _header(file: Path, form: Form) -> tuple[list[str], str]:
    """(the names of the columns, what is between the cells of a text file). Raises InputError as `column_names`."""
    try:
        if file.name.lower().endswith(PARQUET):
            if form.names:
                raise InputError(f"{file}: a Parquet file has the names of its columns; leave out --columns.")
            return list(pq.read_schema(file).names), ""
        if file.name.lower().endswith(EXCEL):
            return list(read_sheet(file, form.names).schema.names), ""
        with _unpacked(file, form) as stream:
            text = _text_of(stream)
            lines = list(islice(_first_lines(text, file), 1))
            separator = form.separator or _separator(file, lines[0] if lines else "")
            first = next(csv.reader(chain(lines, _first_lines(text, file)), delimiter=separator), [])
        if form.names and len(first) != len(form.names):
            raise InputError(f"{file}: its first line has {len(first)} cells, --columns names {len(form.names)}.")
        if not first:
            raise InputError(f"{file}: its first line is empty, which should hold the names of the columns.")
        return list(form.names or first), separator
    except (pa.ArrowException, OSError, csv.Error, UnicodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from None


@contextmanager
def _unpacked(file: Path, form: Form) -> Iterator[pa.NativeFile]:
    """The bytes of a text file in UTF-8. Arrow itself opens no file whose name is no text."""
    packing = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}.get(file.suffix.lower())
    with file.open("rb") as packed, pa.input_stream(packed, compression=packing) as stream:
        is_other = form.encoding != USUAL.encoding
        yield pa.transcoding_input_stream(stream, form.encoding, USUAL.encoding) if is_other else stream


def _text_of(stream: pa.NativeFile) -> io.TextIOWrapper:
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")


def _separator(file: Path, header: str) -> str:
    """What is between the cells: that of the name's ending, a comma if the header has one, or else its only mark."""
    header = re.sub('"[^"]*("|$)', "", header)  # what is in quotes separates nothing
    known = [mark for suffix, mark in _OF_SUFFIX.items() if suffix in file.name.lower()]
    if known or "," in header:
        return known[0] if known else ","
    marks = [mark for mark in SEPARATORS.values() if mark in header.strip() and mark != " "]
    if len(marks) > 1:
        raise InputError(f"{file}: {' or '.join(map(repr, marks))} may separate its cells. Say which with --separator.")
    return marks[0] if marks else ","


def _first_lines(text: io.TextIOWrapper, file: Path) -> Iterator[str]:
    """The lines of a file, as far as a header may go. Raises InputError if it is longer: packed, it might never end."""
    left = HEADER_CHARACTERS
    while line := text.readline(left):
        left -= len(line)
        if left <= 0:
            raise InputError(
                f"{file}: its header does not end within {HEADER_CHARACTERS:,} characters. Is it a table of lines, "
                "with the names of the columns in the first one?"
            )
        yield line


def read_parts(
    file: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    free: Collection[str | None] = (),
    form: Form = USUAL,
) -> Iterator[Part]:
    """The rows of a file, part by part, with `columns` and those of `optional` that it has.

    Cells of the columns `free` may be texts of several lines.

    Raises:
        InputError: not readable, a column is missing or occurs twice, a line has more or fewer cells than the header, a
            cell holds a line break or other rows, or the file is far larger than it seems.
    """
    names, separator = _header(file, form)
    physical = _find_columns(file, names, form.physical(columns), form.physical(optional))
    derive, wanted = Derive(form, file), list(dict.fromkeys([*columns, *optional]))
    first_row = 0
    try:
        for batch in _batches(file, physical, names, separator, form):
            if batch.num_rows:
                part = Part(file, first_row, dict(zip(physical, batch.columns, strict=True)))
                for name in [name for name in part.columns if name not in free]:
                    if fault := first_fault(part.columns[name]):
                        raise InputError(f"{part.place(fault[0])}, column {name}: the cell {fault[1]}")
                cells = {name: _decoded(part, name) for name in physical}
                yield Part(file, first_row, derive.columns(cells, wanted, batch.num_rows))
            first_row += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeError) as error:
        why = cut(str(error).replace("\n", " "), 300)
        if "invalid UTF8" in why:
            why += f". {ENCODING}"
        if "straddling object" in why:
            why = f"a row of more than {BYTES_PER_PART:,} bytes. Is a quotation mark not closed?"
        raise InputError(f"{file}: cannot be read (after row {first_row:,}): {why}") from None


def _decoded(part: Part, name: str) -> pa.Array:
    """A column, texts that Parquet keeps in a dictionary as texts. Raises InputError if they would fill the memory."""
    cells = part.columns[name]
    if not (pa.types.is_dictionary(cells.type) and is_text(cells.type.value_type)):
        return cells
    length = np.append(pc.fill_null(pc.binary_length(cells.dictionary), 0).to_numpy(zero_copy_only=False), 0)
    if length[positions(cells)].sum() > LARGEST_PART:
        rows = f"{len(cells):,} rows from row {part.first_row} on"
        raise InputError(f"{part.file}, column {name}: {rows} have texts of more than {LARGEST_PART:,} bytes.")
    return cells.dictionary_decode()


def read_table(file: Path, columns: Sequence[str], form: Form = USUAL) -> dict[str, pa.Array]:
    """All rows of a small file, by column. Raises InputError as `read_parts`, and above LARGEST_TABLE."""
    parts, n_bytes = list[Part](), 0
    for part in read_parts(file, columns, form=form):
        parts.append(part)
        n_bytes += sum(cells.nbytes for cells in part.columns.values())
        if n_bytes > LARGEST_TABLE:
            n_rows = f"{part.first_row + len(part):,} rows and {LARGEST_TABLE:,} bytes"
            raise InputError(f"{file}: has more than {n_rows}, too many for a table that is read as a whole.")
    if not parts:
        return {name: pa.nulls(0, pa.string()) for name in columns}
    return {name: pa.concat_arrays([part.columns[name] for part in parts]) for name in parts[0].columns}


def read_side_table(
    file: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    advice: str = "",
    fold: Callable[[str], str] = trimmed,
) -> tuple[dict[str, pa.Array], list[str]]:
    """(the columns, by these names, and those of `optional` that it has; all its other names) of a small file.

    Spaces around names do not count, nor does what `fold` takes off them.

    Raises:
        InputError: as `read_table`, or a column has no name. `advice` is added if the last of `columns` is missing.
    """
    header = column_names(file)
    there = [fold(name) for name in header]
    refuse_nameless(file, there)
    missing = [name for name in columns if fold(name) not in there]
    if missing:
        raise _no_columns(file, missing, header, advice if columns[-1] in missing else "")
    chosen = [name for name in (*columns, *optional) if fold(name) in there]
    twice = [name for name in chosen if there.count(fold(name)) > 1]
    if twice:
        raise InputError(f"{file}: column {twice[0]} occurs twice. Keep one of the two.")
    names = {name: header[there.index(fold(name))] for name in chosen}
    cells = read_table(file, list(names.values()))
    return {name: cells[own] for name, own in names.items()}, [own for own in header if own not in names.values()]


def _find_columns(file: Path, present: Sequence[str], columns: Sequence[str], optional: Sequence[str]) -> list[str]:
    missing = [name for name in dict.fromkeys(columns) if name not in present]
    if missing:
        are_joined = len(present) == 1 or any(mark in name for name in present for mark in (";", "\t", "|"))
        raise _no_columns(file, missing, present, "Say with --separator what separates them." if are_joined else "")
    wanted = [name for name in dict.fromkeys([*columns, *optional]) if name in present]
    twice = [name for name in wanted if present.count(name) > 1]
    if twice:
        raise InputError(f"{file}: column {quoted(twice[:1])} occurs twice. {columns_are(present)}")
    return wanted


def _no_columns(file: Path, missing: Sequence[str], present: Sequence[str], advice: str) -> InputError:
    """The error, to be raised."""
    if any(mark in name for name in present for mark in "\ufffd\0"):
        return InputError(
            f"{file}: cannot be read as a CSV file in UTF-8: its header is in another encoding, unless it is no text, "
            f"or packed, which the ending of its name would say. {ENCODING}"
        )
    return InputError(f"{file}: has no column {quoted(missing)}. {columns_are(present)} {advice}".strip())


def _batches(file: Path, columns: list[str], names: list[str], separator: str, form: Form) -> Iterator[pa.RecordBatch]:
    """The rows of a file with these columns, in their order."""
    if file.name.lower().endswith(PARQUET):
        return _parquet(file, columns)
    if file.name.lower().endswith(EXCEL):
        return iter([read_sheet(file, form.names).select(columns)])
    return _csv(file, columns, names if form.names else None, separator, form)


def _csv(
    file: Path, columns: list[str], names: list[str] | None, separator: str, form: Form
) -> Iterator[pa.RecordBatch]:
    convert = pacsv.ConvertOptions(
        include_columns=columns,
        column_types=dict.fromkeys(columns, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    # Without threads the reader knows the number of a row that it cannot read.
    read = pacsv.ReadOptions(block_size=BYTES_PER_PART, use_threads=False, column_names=names)
    parse = pacsv.ParseOptions(delimiter=separator, newlines_in_values=True)
    n_rows = 0
    with _unpacked(file, form) as stream:
        lines = _Lines(file, stream)
        for batch in pacsv.open_csv(pa.PythonFile(lines, mode="r"), read, parse, convert):
            n_rows += batch.num_rows
            yield batch
    if lines.count > n_rows + (names is None):  # and the header: some cells have several lines
        _refuse_swallowed_rows(file, names, separator, form)


class _Lines:
    """A stream that counts its lines that are not empty, or more: of three empty ones in a row two count."""

    def __init__(self, file: Path, stream: pa.NativeFile) -> None:
        self._file, self._stream, self._last, self.closed = file, stream, b"\n", False
        self._left = max(TIMES_LARGER[0] * file.stat().st_size, TIMES_LARGER[1])
        self.count = 0

    def read(self, n: int = -1) -> bytes:
        """The next bytes; none at the end."""
        data: bytes = self._stream.read(n)
        self._left -= len(data)
        if self._left < 0:
            raise InputError(f"{self._file}: unpacked it is more than {TIMES_LARGER[0]} times as large. Is it a table?")
        self.count += data.count(b"\n") - data.count(b"\n\n") - data.count(b"\n\r\n")
        self.count += not data and self._last != b"\n"  # the last line may have no end
        self._last = data[-1:] or b"\n"
        return data

    def close(self) -> None:
        """Do nothing: whoever opened the stream closes it."""
        self.closed = True


def _refuse_swallowed_rows(file: Path, names: list[str] | None, separator: str, form: Form) -> None:
    """Raises InputError for the first cell whose lines are rows of the table."""
    with _unpacked(file, form) as stream:
        reader = csv.reader(_text_of(stream), delimiter=separator)
        try:
            header, row, line = names or next(reader), -1, reader.line_num
            for cells in reader:
                row += bool(cells)
                if reader.line_num > line + 1:
                    for name, cell in zip(header, cells, strict=False):
                        if swallows_rows(cell, separator, len(header)):
                            raise InputError(
                                f"{file}, row {row} (counted from 0), column {name}: the cell has lines that are rows "
                                "of the table. Is a quotation mark not closed? If not, write the table without this "
                                "column."
                            )
                line = reader.line_num
        except csv.Error as error:
            raise InputError(
                f"{file}, row {row + 1} (counted from 0): {error}. Is a quotation mark not closed?"
            ) from None


def _parquet(file: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    size = file.stat().st_size
    with pq.ParquetFile(file) as parquet:
        metadata, schema = parquet.metadata, parquet.schema_arrow
    if metadata.num_rows > max(ROWS_PER_PART, ROWS_PER_BYTE * size):
        rows = f"{metadata.num_rows:,} rows in {size:,} bytes"
        raise InputError(f"{file}: {rows}: all of them are equal, or nearly so. Is it a table of events?")
    # Texts as dictionaries: a file may hold one of a megabyte once, for a million rows.
    texts = [name for name in columns if is_text(schema.field(name).type)]
    # Nanoseconds, the default for INT96, end in 2262: 9999 would be 1816.
    with pq.ParquetFile(file, read_dictionary=texts, coerce_int96_timestamp_unit="us") as parquet:
        for batch in parquet.iter_batches(ROWS_PER_PART, columns=columns):
            batch.validate(full=True)  # parquet requires UTF-8, but no reader checks it
            batch = batch.select(columns)
            if any(kind == pa.string_view() for kind in batch.schema.types):  # as polars writes texts
                plain = [pa.string() if kind == pa.string_view() else kind for kind in batch.schema.types]
                batch = batch.cast(pa.schema(zip(columns, plain, strict=True)))
            yield batch


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
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST_BOOK:
            what = f"{size:,} bytes, unpacked; allowed: {LARGEST_BOOK:,}"
            raise InputError(f"{file}: holds {what}. Write it as a CSV file.")
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


def value_columns(file: Path, form: Form) -> list[str]:
    """The columns of a file that are variables: those that the flags name, as far as it has them, or else all others.

    Raises:
        InputError: a column without a name, as pandas writes the numbers of rows, or no column is left.
    """
    there = column_names(file, form)
    columns = [name for name in (form.value_columns or there) if name not in form.taken and name in there]
    if not form.value_columns:
        named = ["taken" if name in form.taken else name for name in there]
        refuse_nameless(file, named, ", or name the variables with --value_columns")
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
