"""CSV and Parquet files as Arrow columns, a few hundred thousand rows at a time.

Cells of a CSV file stay texts here; what they mean is decided in `cells`. Letters: R rows of a part.
"""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from seqsetvae.cohort.names import columns_are, quoted, swallows_rows
from seqsetvae.cohort.tables.cells import first_fault, is_text, positions
from seqsetvae.cohort.tables.forms import SEPARATORS, USUAL, Derive, Form
from seqsetvae.cohort.tables.sheet import read_sheet
from seqsetvae.errors import InputError, cut

TEXTS, PACKED = (".csv", ".tsv", ".psv", ".txt"), ("", ".gz", ".bz2", ".zst")
PARQUET, EXCEL = (".parquet", ".pq"), ".xlsx"
SUFFIXES = (*(text + packed for text in TEXTS for packed in PACKED), *PARQUET, EXCEL)
ENDINGS = f"{', '.join(TEXTS)} (also packed: {', '.join(PACKED[1:])}), {', '.join(PARQUET)}, {EXCEL}"
_OF_SUFFIX = {".tsv": "\t", ".psv": "|"}  # between the cells; of the others the header tells
_OWN = (".", "_")  # first characters of names that are no data
_VERSIONS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
NAMED = 3  # files or endings that a note names
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
        """What `work` makes of the part; an InputError is that of the first file whose own part raises one."""
        try:
            return work(self)
        except InputError:
            for part in self.joined:
                work(part)
            raise


def join(parts: Sequence[Part]) -> Part:
    """One part of the same rows."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: pa.concat_arrays([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Part(parts[0].file, parts[0].first_row, columns, tuple(parts))


def is_table(path: Path) -> bool:
    """Whether the name is that of a CSV or Parquet file."""
    return path.name.lower().endswith(SUFFIXES)


def table_files(src: Path) -> list[Path]:
    """SRC itself, or all tables in this folder and those below it, by name.

    Names that begin with a point or an underscore do not count: hidden files, and those that Spark keeps for itself.

    Raises:
        InputError: there is no such file or folder, no table in it, or tables of several versions.
    """
    if src.is_file() and is_table(src):
        return [src]
    if not src.exists():
        raise InputError(f"{src}: no such file or folder.")
    if src.is_dir():
        refuse_versions(src)
    files = [path for path in _visible(src) if is_table(path) and path.is_file()] if src.is_dir() else []
    # A text beside other tables is no table, but a note such as README.txt.
    files = [path for path in files if ".txt" not in path.name.lower()] or files
    if not files:
        what = "holds no table" if src.is_dir() else "is not a table"
        raise InputError(f"{src}: {what}. Tables are files whose names end in {ENDINGS}.")
    return files


def _visible(folder: Path) -> list[Path]:
    """All files of a folder and those below it, and links to folders, which are not followed; sorted."""
    found: list[Path] = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(_OWN)]
        names = files + [name for name in folders if (Path(where) / name).is_symlink()]
        found += [Path(where) / name for name in names if not name.startswith(_OWN)]
    return sorted(found)


def refuse_versions(folder: Path) -> None:
    """Raises InputError for a table of Delta, Hudi or Iceberg, whose folder also holds rows that were deleted."""
    for where, folders, _ in os.walk(folder):
        found = [what for name, what in _VERSIONS.items() if name in folders]
        found += ["Iceberg"] * ("metadata" in folders and any((Path(where) / "metadata").glob("*.metadata.json")))
        if found:
            raise InputError(
                f"{where}: is a table of {found[0]}, whose folder also holds files of earlier versions. Write its "
                "current rows to Parquet or CSV files in a folder of their own."
            )


def unread_notes(src: Path, read: Collection[Path], allowed: str = ENDINGS) -> list[str]:
    """Files of a folder that are not among those that are read, in words; the names only where they are few.

    Many may be named after patients, and notes go to logs.
    """
    if not src.is_dir():
        return []
    unread = [path.relative_to(src) for path in _visible(src) if path not in read]
    notes = []
    if unread:
        endings = Counter("".join(path.suffixes[-2:]) or "no ending" for path in unread)
        shown = ", ".join(f"{n:,} {ending}" for ending, n in endings.most_common(NAMED))
        shown = ", ".join(map(str, unread)) if len(unread) <= NAMED else shown
        what = "a file of this folder is" if len(unread) == 1 else f"{len(unread):,} files of this folder are"
        notes.append(f"{src}: {what} not read: {shown}. Tables are files whose names end in {allowed}")
    if any(src.rglob("_temporary")):
        notes.append(f"{src}: holds _temporary, so that a job that writes it has not ended: rows may be missing")
    return notes


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
        with pa.input_stream(str(file), compression="detect") as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
            lines = list(islice(_first_lines(text, file), 1))
            separator = form.separator or _separator(file, lines[0] if lines else "")
            first = next(csv.reader(chain(lines, _first_lines(text, file)), delimiter=separator), [])
        if form.names and len(first) != len(form.names):
            raise InputError(f"{file}: its first line has {len(first)} cells, --columns names {len(form.names)}.")
        return list(form.names or first), separator
    except (pa.ArrowException, OSError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read: {error}") from None


def _separator(file: Path, header: str) -> str:
    """What is between the cells: that of the name's ending, a comma if the header has one, or else its only mark."""
    header = re.sub('"[^"]*("|$)', "", header)  # what is in quotes separates nothing
    known = [mark for suffix, mark in _OF_SUFFIX.items() if suffix in file.name.lower()]
    if known or "," in header:
        return known[0] if known else ","
    found = [mark for mark in SEPARATORS.values() if mark in header.strip() and mark != " "]
    if len(found) > 1:
        raise InputError(f"{file}: {' or '.join(map(repr, found))} may separate its cells. Say which with --separator.")
    return found[0] if found else ","


def _first_lines(text: io.TextIOWrapper, file: Path) -> Iterator[str]:
    """The lines of a file, as far as a header may go. Raises InputError if it goes on: packed, it might never end."""
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
                _refuse_faults(part, free)
                cells = {name: _decoded(part, name) for name in physical}
                yield Part(file, first_row, derive.columns(cells, wanted, batch.num_rows))
            first_row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        why = cut(str(error).replace("\n", " "), 300)
        if "straddling object" in why:
            why = f"a row of more than {BYTES_PER_PART:,} bytes. Is a quotation mark not closed?"
        raise InputError(f"{file}: cannot be read (after row {first_row:,}): {why}") from None


def _refuse_faults(part: Part, free: Collection[str | None]) -> None:
    """Raises InputError for a cell that no id, time, variable or label is."""
    for name, cells in part.columns.items():
        found = None if name in free else first_fault(cells)
        if found:
            where = f"{part.file}, row {part.first_row + found[0]} (counted from 0), column {name}"
            raise InputError(f"{where}: the cell {found[1]}")


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


def read_table(file: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> dict[str, pa.ChunkedArray]:
    """All rows of a small file, by column. Raises InputError as `read_parts`, and above LARGEST_TABLE."""
    parts, n_bytes = list[Part](), 0
    for part in read_parts(file, columns, optional):
        parts.append(part)
        n_bytes += sum(cells.nbytes for cells in part.columns.values())
        if n_bytes > LARGEST_TABLE:
            n_rows = f"{part.first_row + len(part):,} rows and {LARGEST_TABLE:,} bytes"
            raise InputError(f"{file}: has more than {n_rows}, too many for a table that is read as a whole.")
    names = list(parts[0].columns) if parts else list(columns)
    kind = None if parts else pa.string()
    return {name: pa.chunked_array([part.columns[name] for part in parts], kind) for name in names}


def _find_columns(file: Path, there: Sequence[str], columns: Sequence[str], optional: Sequence[str]) -> list[str]:
    missing = [name for name in dict.fromkeys(columns) if name not in there]
    if missing:
        are_joined = len(there) == 1 or any(mark in name for name in there for mark in (";", "\t", "|"))
        advice = " Say with --separator what separates them." if are_joined else ""
        raise InputError(f"{file}: has no column {quoted(missing)}. {columns_are(there)}{advice}")
    wanted = [name for name in dict.fromkeys([*columns, *optional]) if name in there]
    twice = [name for name in wanted if there.count(name) > 1]
    if twice:
        raise InputError(f"{file}: column {quoted(twice[:1])} occurs twice. {columns_are(there)}")
    return wanted


def _batches(file: Path, columns: list[str], names: list[str], separator: str, form: Form) -> Iterator[pa.RecordBatch]:
    """The rows of a file with these columns, in their order."""
    if file.name.lower().endswith(PARQUET):
        return _parquet(file, columns)
    if file.name.lower().endswith(EXCEL):
        return iter([read_sheet(file, form.names).select(columns)])
    return _csv(file, columns, names if form.names else None, separator)


def _csv(file: Path, columns: list[str], names: list[str] | None, separator: str) -> Iterator[pa.RecordBatch]:
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
    with pa.input_stream(str(file), compression="detect") as stream:
        lines = _Lines(file, stream)
        for batch in pacsv.open_csv(pa.PythonFile(lines, mode="r"), read, parse, convert):
            n_rows += batch.num_rows
            yield batch
    n_lines = n_rows + (names is None)  # with the header
    if lines.count > n_lines and lines.count - _empty_lines(file) > n_lines:  # some cells have several lines
        _refuse_swallowed_rows(file, names, separator)


def _empty_lines(file: Path) -> int:
    """The number of empty lines, or fewer: of three in a row, and of those where two parts meet."""
    with pa.input_stream(str(file), compression="detect") as stream:
        parts = iter(lambda: stream.read(BYTES_PER_PART), b"")
        return sum(part.count(b"\n\n") + part.count(b"\n\r\n") for part in parts)


class _Lines:
    """A stream that counts its lines."""

    def __init__(self, file: Path, stream: pa.NativeFile) -> None:
        self._file, self._stream, self._last, self.closed = file, stream, b"\n", False
        self._left = max(TIMES_LARGER[0] * file.stat().st_size, TIMES_LARGER[1])
        self.count = 0

    def read(self, n: int = -1) -> bytes:
        """The next bytes; at the end none."""
        data: bytes = self._stream.read(n)
        self._left -= len(data)
        if self._left < 0:
            raise InputError(f"{self._file}: unpacked it is more than {TIMES_LARGER[0]} times as large. Is it a table?")
        self.count += data.count(b"\n") + (not data and self._last != b"\n")  # the last line may have no end
        self._last = data[-1:] or b"\n"
        return data

    def close(self) -> None:
        """The stream belongs to who opened it."""
        self.closed = True


def _refuse_swallowed_rows(file: Path, names: list[str] | None, separator: str) -> None:
    """Raises InputError for the first cell whose lines are rows of the table."""
    with pa.input_stream(str(file), compression="detect") as stream:
        reader = csv.reader(
            io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline=""), delimiter=separator
        )
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
