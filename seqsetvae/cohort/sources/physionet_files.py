"""The files of one set of the PhysioNet/CinC Challenge 2012, read into tidy rows.

The convention of the literature, whose counts the tests check: rows without a variable name are left out and counted;
the RecordID row is not a variable; a stay of 5 rows or fewer besides it is left out (counted before anything else is
dropped); negative values mean "missing" and are dropped, as are exact duplicate rows; ICUType k becomes the variable
ICUType_k with value 1. A set of events is all that is measured at one time.

Letters: N stays and E rows of a set of the challenge.
"""

import gzip
import io
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray
from tqdm import tqdm

from seqsetvae.cohort.names import trimmed
from seqsetvae.cohort.sidefiles import stay_number
from seqsetvae.cohort.tidy import (
    Bools,
    FaultyCell,
    Rows,
    Skip,
    Stay,
    Stays,
    UnnamedRows,
    bad_name,
    fault,
    faulty_cell,
    first_bad_rows,
    left_out,
)
from seqsetvae.system.errors import InputError, cut, shown
from seqsetvae.system.files import require_no_pipe

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
MIN_ROWS = 6  # a stay with fewer rows besides RecordID is left out
MAX_HOURS = 10_000  # since admission; the challenge ends at 48, so a later time is a typing error
LARGEST_SET = 1 << 29  # bytes of all files of a set, unpacked; the 4,000 files of a real one have 28 million
LONGEST_ROW = 100_000  # bytes; a real row has 20, and one of a megabyte would exceed the blocks of the CSV reader
_ICU_TYPES = (1, 2, 3, 4)
_HEADER = b"Time,Parameter,Value"
_COLUMNS = ("time", "parameter", "value")


def read_set(name: str, path: Path, names: dict[str, int], progress: bool) -> tuple[Rows, UnnamedRows]:
    """The rows of set `name` and how many had no variable name. New variables are added to `names`, name -> code.

    All texts are parsed together, with their faults: file by file it takes 30 times as long.
    """
    with tqdm(desc=f"Reading set {name}", unit="stay", disable=None if progress else True) as bar:
        bodies, skips = _bodies(name, path, bar)
    bodies, broken = _without_broken_rows(bodies)
    rows, faulty = _without_faulty_cells(bodies, *_parse(bodies, names))
    unnamed = _is_unnamed(rows)
    n_unnamed = UnnamedRows(int(unnamed.sum()), len(np.unique(rows.stay_of_row[unnamed])))
    rows, short = _clean(rows.take(np.flatnonzero(~unnamed)) if unnamed.any() else rows, names)
    return replace(rows, skips=[*skips, *broken, *faulty, *short]), n_unnamed


# ------------------------------------------------------------------ folders and archives


def _bodies(name: str, path: Path, bar: tqdm) -> tuple[dict[Stay, bytes], list[Skip]]:
    """The text of each stay without its header, one line feed after every row."""
    bodies: dict[Stay, bytes] = {}
    skips: list[Skip] = []
    texts = []
    for text_of_file in _texts(path, bar):
        texts.append(text_of_file)
        bar.update()
    for file, text in sorted(texts):
        number = stay_number(Path(file).stem)
        text = text.replace(b"\r\n", b"\n")
        header, _, body = text.partition(b"\n")
        if number is None:
            skips.append(bad_name(file, "132539.txt"))
            continue
        stay = Stay(number, file, f"set {name}")
        if b"\r" in text:
            line = text[: text.index(b"\r")].count(b"\n") + 1
            reason = f"line {line} has a carriage return without a line feed. End lines with a line feed"
            skips.append(fault(stay, "a carriage return without a line feed", reason))
        elif header.strip() != _HEADER:
            reason = f"the first line is {header[:60]!r}, not {_HEADER.decode()!r}"
            skips.append(fault(stay, f"a first line other than {_HEADER.decode()}", reason))
        else:
            body = body.rstrip(b"\n")
            bodies[stay] = body + b"\n" if body else b""
    return bodies, skips


def _texts(path: Path, bar: tqdm) -> Iterator[tuple[str, bytes]]:
    """(name for messages, content) of every .txt file of a folder or archive; `bar` gets their number.

    Raises:
        InputError: it cannot be read, or holds more than LARGEST_SET bytes.
    """
    require_no_pipe(path)
    left = LARGEST_SET
    for name, text in _packed_texts(path, bar):
        left -= len(text)
        if left < 0:
            raise _too_large(path)
        yield name, text


def _too_large(path: Path) -> InputError:
    """The error, to be raised."""
    return InputError(
        f"{path}: holds more than {LARGEST_SET:,} bytes, unpacked. A set of the challenge has 28 million."
    )


def _packed_texts(path: Path, bar: tqdm) -> Iterator[tuple[str, bytes]]:
    """(name for messages, content) of every .txt file. Raises InputError."""
    try:
        if path.is_dir():
            files = [file for file in path.rglob("*") if _is_stay(file.name)]
            for file in files:
                require_no_pipe(file)
            bar.reset(len(files))
            for file in files:
                with file.open("rb") as stream:
                    yield str(file), stream.read(LARGEST_SET + 1)
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                entries = [entry for entry in archive.infolist() if _is_stay(entry.filename)]
                bar.reset(len(entries))
                if sum(entry.file_size for entry in entries) > LARGEST_SET:
                    raise _too_large(path)
                for entry in entries:
                    with archive.open(entry) as stream:  # which ends at that size, whatever it holds
                        yield f"{path}:{entry.filename}", stream.read(entry.file_size + 1)
        else:
            texts = [(f"{path}:{name}", text) for name, text in _untarred(path)]
            bar.reset(len(texts))
            yield from texts
    except InputError:
        raise
    except Exception as error:  # of any kind: zipfile and tarfile take the numbers in a damaged header as they are
        raise InputError(f"{path}: cannot be read: {cut(str(error), 300)}. Download it again.") from None


def _is_stay(name: str) -> bool:
    return name.lower().endswith(".txt") and not Path(name).name.startswith((".", "_"))  # macOS adds ._ files


def _untarred(path: Path) -> list[tuple[str, bytes]]:
    """(name, content) of the stays that a tar file holds, gzipped or not.

    tarfile alone would not notice damage: it stops before a gzip's checksum, and at a broken header as if at the end.
    """
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if is_packed else path.open("rb") as stream:
        unpacked = stream.read(LARGEST_SET + 1)
    if len(unpacked) > LARGEST_SET:
        raise _too_large(path)
    texts, n_entries, left = [], 0, LARGEST_SET
    with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as tar:
        for entry in tar:
            n_entries += 1
            if _is_stay(entry.name):
                left -= entry.size  # of a sparse entry, more than the archive has
                text = b"" if left < 0 else _content(tar, entry)
                left -= len(text) * (not entry.isfile())  # of a link, what it points to
                if left < 0:
                    raise _too_large(path)
                texts.append((entry.name, text))
        rest = unpacked[tar.offset :]
    if not rest or rest.strip(b"\0"):
        raise tarfile.ReadError(f"after {n_entries:,} entries there is neither another nor an end of the archive")
    return texts


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    try:
        stream = tar.extractfile(entry)
    except KeyError:
        raise tarfile.ReadError(f"{shown(entry.name)} is a link to {shown(entry.linkname)}, which it lacks") from None
    return stream.read() if stream else b""


# ------------------------------------------------------------------ texts -> rows


def _n_rows(bodies: Mapping[Stay, bytes]) -> NDArray[np.int64]:
    """[N] Rows of each text."""
    return np.array([body.count(b"\n") for body in bodies.values()], dtype=np.int64)


def _without_broken_rows(bodies: dict[Stay, bytes]) -> tuple[dict[Stay, bytes], list[Skip]]:
    """The texts in which every row has three cells, and the first other row of each of the rest."""
    text = np.frombuffer(b"".join(bodies.values()), dtype=np.uint8)
    ends = np.flatnonzero(text == ord("\n"))  # [E]
    n_commas = np.diff(np.searchsorted(np.flatnonzero(text == ord(",")), ends), prepend=0)
    too_long = np.diff(ends, prepend=-1) > LONGEST_ROW
    skips = _first_faults(bodies, (n_commas != 2) | too_long)
    good = {stay: body for position, (stay, body) in enumerate(bodies.items()) if position not in skips}
    return good, list(skips.values())


def _first_faults(bodies: dict[Stay, bytes], bad: Bools) -> dict[int, Skip]:
    """The first bad row of each stay that has one, by the position of the stay, with the count of all: bad [E]."""
    stays, n_rows, found = list(bodies), _n_rows(bodies), dict[int, Skip]()
    ends = np.cumsum(n_rows)
    for at, _, first in first_bad_rows(bad, n_rows):
        lines = bodies[stays[at]].split(b"\n")
        in_stay = np.flatnonzero(bad[ends[at] - n_rows[at] : ends[at]])
        cells = Counter(_describe(lines[row])[0] for row in in_stay.tolist())
        cell, reason = _describe(lines[first])
        found[at] = replace(fault(stays[at], cell.category, reason, first, cell.variable), cells=cells)
    return found


def _describe(line: bytes) -> tuple[FaultyCell, str]:
    """What is wrong with a row that cannot be used."""
    cells = line.split(b",")
    time, variable, value = [cell[:80].decode(errors="replace") for cell in [*cells, b"", b""][:3]]
    if len(cells) != 3 or len(line) > LONGEST_ROW:
        category, text = "a row that is not HH:MM, a name and a number", line[:80].decode(errors="replace")
        reason = f"not a row of HH:MM, a name and a number: {text!r}"
    elif np.isnan(_minutes(cells[0])):
        category, text = "a time that is not HH:MM", time
        reason = f"Time {time!r} is not HH:MM with at most {MAX_HOURS:,} hours"
    elif not np.isfinite(_number(cells[2])):
        category, text = "a value that is missing or not a finite number", value
        reason = f"Value {value!r} is not a finite number"
    elif not _is_utf_8(cells[1]):
        category, text = "a variable name that is not in UTF-8", ""
        reason = f"the name {cells[1][:80]!r} is not in UTF-8"
    else:
        category, text = "an ICUType other than 1 to 4", value
        reason = f"the value is {_number(cells[2]):g}; an ICUType is 1, 2, 3 or 4, or negative if it is not known"
    return faulty_cell(category, variable if len(cells) > 1 else None, text), reason


def _parse(bodies: dict[Stay, bytes], names: dict[str, int]) -> tuple[Rows, Bools]:
    """The rows, each of three cells, and [E] whether the name is in UTF-8. NaN = not a time, or not a number."""
    n_rows = _n_rows(bodies)
    if n_rows.sum():
        table = pacsv.read_csv(
            pa.BufferReader(b"".join(bodies.values())),
            # Ctrl-C while threads read aborts the process ("terminate called without an active exception").
            read_options=pacsv.ReadOptions(column_names=_COLUMNS, use_threads=False),
            parse_options=pacsv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            # Bytes, since one cell that is not a number or not in UTF-8 would stop the reading of all files.
            convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS, pa.binary())),
        )
    else:
        table = pa.table({column: pa.array([], pa.binary()) for column in _COLUMNS})
    assert len(table) == n_rows.sum()
    (times, time), (parameters, parameter), (values, value) = (_encode(table[column]) for column in _COLUMNS)
    decoded = [trimmed(cell.decode(errors="replace")) for cell in parameters]
    code = np.array([names.setdefault(name, len(names)) for name in decoded], dtype=np.int32)
    rows = Rows(
        stays=Stays.of(list(bodies)),
        n_rows=n_rows,
        names=list(names),
        variable=code[parameter],
        value=np.array([_number(cell) for cell in values], dtype=np.float64)[value],
        minute=np.array([_minutes(cell) for cell in times], dtype=np.float64)[time],
        set_index=None,
        has_set_index=np.zeros(len(bodies), dtype=bool),
    )
    return rows, np.array([_is_utf_8(cell) for cell in parameters], dtype=bool)[parameter]


def _encode(column: pa.ChunkedArray) -> tuple[list[bytes], NDArray[np.int32]]:
    """The distinct cells, and [E] which of them each row has."""
    encoded = column.combine_chunks().dictionary_encode()
    # Not to_numpy(): it imports pandas, which takes a second, and loses a Ctrl-C that comes meanwhile.
    code: NDArray[np.int32] = np.from_dlpack(encoded.indices)  # type: ignore[assignment]
    return encoded.dictionary.to_pylist(), code


def _minutes(time: bytes) -> float:
    """Minutes since admission of a time such as 07:45; NaN if it is not a time, or later than MAX_HOURS."""
    match = re.fullmatch(rb"(\d{1,5}):(\d{1,2})", time)
    hours, minutes = map(int, match.groups()) if match else (0, 60)
    return hours * 60.0 + minutes if hours <= MAX_HOURS and minutes < 60 else float("nan")


def _number(cell: bytes) -> float:
    """The number in a cell, NaN if there is none."""
    try:
        return float("nan") if b"_" in cell else float(cell)  # only Python reads 1_000
    except ValueError:
        return float("nan")


def _is_utf_8(cell: bytes) -> bool:
    return cell.decode(errors="replace").encode() == cell


def _without_faulty_cells(bodies: dict[Stay, bytes], rows: Rows, is_utf_8: Bools) -> tuple[Rows, list[Skip]]:
    """The stays in which every row that has a name has a time and a value too, and the first fault of the others."""
    is_type = rows.variable == _code(rows.names, "ICUType")
    bad = ~np.isfinite(rows.value) | np.isnan(rows.minute) | ~is_utf_8
    bad |= is_type & (rows.value >= 0) & ~np.isin(rows.value, _ICU_TYPES)
    skips = _first_faults(bodies, bad & ~_is_unnamed(rows))  # a row without a name is left out, with any other content
    return rows.without(list(skips)), list(skips.values())


def _is_unnamed(rows: Rows) -> Bools:
    return np.array([not name.strip() for name in rows.names], dtype=bool)[rows.variable]  # [E]


def _code(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else -1


# ------------------------------------------------------------------ the convention of the literature


def _clean(rows: Rows, names: dict[str, int]) -> tuple[Rows, list[Skip]]:
    """Apply the convention (top of this file) to rows that have a name; ICUType_k is added to `names`."""
    counted = rows.variable != _code(rows.names, "RecordID")
    n_rows = np.bincount(rows.stay_of_row[counted], minlength=len(rows.stays))
    short = np.flatnonzero(n_rows < MIN_ROWS).tolist()
    skips = [left_out(rows.stays[stay], f"{n_rows[stay]} rows, fewer than {MIN_ROWS}") for stay in short]
    rows = rows.take(np.flatnonzero(counted & (rows.value >= 0))).without(short)
    rows = rows.take(np.flatnonzero(~_is_repeated(rows)))
    is_type, variable = rows.variable == _code(rows.names, "ICUType"), rows.variable.copy()
    for kind in np.unique(rows.value[is_type]).tolist():
        variable[is_type & (rows.value == kind)] = names.setdefault(f"ICUType_{kind:g}", len(names))
    return replace(rows, variable=variable, value=np.where(is_type, 1.0, rows.value)), skips


def _is_repeated(rows: Rows) -> Bools:
    """[E] Is the row equal to an earlier one of its stay in time, parameter and value?"""
    time = rows.stay_of_row * (MAX_HOURS + 1) * 60 + rows.minute.astype(np.int64)
    key = time * len(rows.names) + rows.variable
    order = np.lexsort((rows.value, key))  # stable: of equal rows the first of the file comes first
    repeated = np.zeros(len(key), dtype=bool)
    by_key, by_value = key[order], rows.value[order]
    repeated[order[1:]] = (by_key[1:] == by_key[:-1]) & (by_value[1:] == by_value[:-1])
    return repeated
