"""PhysioNet/CinC Challenge 2012, as published: set-a, set-b, set-c (folders or archives) and Outcomes-<set>.txt.

The convention of the literature, whose counts the tests check: rows without a variable name are left out and counted;
the RecordID row is not a variable; a stay of 5 rows or fewer besides it is left out (counted before anything else is
dropped); negative values mean "missing" and are dropped, as are exact duplicate rows; ICUType k becomes the variable
ICUType_k with value 1. A set of events is all that is measured at one time.

Letters: N stays and E rows of a set of the challenge.
"""

import gzip
import io
import math
import re
import tarfile
import zipfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray
from tqdm import tqdm

from seqsetvae.cohort import tidy
from seqsetvae.cohort.format import join_ranges
from seqsetvae.cohort.names import trimmed
from seqsetvae.cohort.sidefiles import Labels, LabelTable, read_labels, require_match, stay_number
from seqsetvae.cohort.sources.opened import Opened, assign_by_fractions, choose_fractions
from seqsetvae.cohort.tidy import SPLITS, Bools, Rows, Skip, Stay, Stays, UnnamedRows
from seqsetvae.system.errors import InputError, cut, shown
from seqsetvae.system.files import require_no_pipe

HELP = "Compile the PhysioNet/CinC Challenge 2012 as published (set-a, set-b, set-c, Outcomes-*.txt)."
LABEL_NAME = "in_hospital_mortality"
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
MIN_ROWS = 6  # a stay with fewer rows besides RecordID is left out
MAX_HOURS = 10_000  # since admission; the challenge ends at 48, so a later time is a typing error
LARGEST_SET = 1 << 29  # bytes of all files of a set, unpacked; the 4,000 files of a real one have 28 million
LONGEST_ROW = 100_000  # bytes; a real row has 20, and one of a megabyte would exceed the blocks of the CSV reader
_ICU_TYPES = (1, 2, 3, 4)
_HEADER = b"Time,Parameter,Value"
_COLUMNS = ("time", "parameter", "value")


def add_flags(parser: ArgumentParser) -> None:
    """The flags of `data.py physionet2012`."""
    add = parser.add_argument
    add("src", type=Path, metavar="SRC", help="folder with the sets (folders or archives) and outcomes")
    for split in SPLITS:
        how: dict[str, Any] = {"action": "extend", "nargs": "+", "choices": "abc", "default": []}
        add(f"--{split}_sets", **how, help=f"whole sets for the {split} split")
    shares = "how to divide the stays of the sets that are not assigned; a split with whole sets of its own gets none "
    shares += "of them (default 0.7 0.15 0.15; with --test_sets 0.8 0.2 0; with other whole sets the same without "
    names = tuple(split.upper() for split in SPLITS)
    add("--fractions", nargs=3, type=float, metavar=names, help=shares + "their splits, scaled to sum to 1)")
    until = "leave out events from hour H on, so that the outcome is predicted at that time (default: keep all 48 h)"
    add("--until_hour", type=float, metavar="H", help=until)
    over = "label: whether the hospital stay was longer than DAYS (default label: death in hospital)"
    add("--stay_over_days", type=float, metavar="DAYS", help=over)
    add("--seed", type=int, default=0, help="of that division (default %(default)s)")


def open_source(arguments: Namespace) -> Opened:
    """The sets that these flags name."""
    assigned = {split: getattr(arguments, f"{split}_sets") for split in SPLITS}
    for flag in ("until_hour", "stay_over_days"):
        value = getattr(arguments, flag)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{flag} {value:g}: allowed: a number above 0")
    until, over = arguments.until_hour, arguments.stay_over_days
    division = arguments.fractions, arguments.seed
    source = PhysioNet2012(arguments.src, assigned, *division, until_hour=until, stay_over_days=over)
    return Opened(
        source=source,
        label_name=LABEL_NAME if over is None else f"hospital_stay_over_{over:g}_days",
        labels=source.labels,
    )


class PhysioNet2012:
    """The stays of the challenge, divided into splits; see the Source protocol. Held in memory, 30 MB per set."""

    def __init__(
        self,
        src: str | Path,
        assigned: Mapping[str, Sequence[str]] | None = None,
        fractions: Sequence[float] | None = None,
        seed: int = 0,
        progress: bool = True,
        until_hour: float | None = None,
        stay_over_days: float | None = None,
    ) -> None:
        """Read and divide the sets that SRC holds.

        Args:
            src: the folder with the sets and the outcomes.
            assigned: whole sets by split, such as {"test": ["c"]}; the stays of all other sets are divided at random.
            fractions: shares of train, valid and test in that division, which keeps the death rate of each equal;
                a split with whole sets of its own gets none. Default 0.7, 0.15, 0.15, or 0.8, 0.2, 0 if whole sets are
                the test split; of that, only the splits without whole sets, scaled to sum to 1.
            seed: of the division, which does not depend on the order of files.
            progress: show a progress bar if stderr is a terminal.
            until_hour: events from this hour on are left out; None: keep all.
            stay_over_days: the label is whether the hospital stay was longer; None: death in hospital.

        Raises:
            InputError: a set or its outcomes are missing, a set is assigned twice, or the fractions are not valid.
        """
        src = Path(src)
        sets = _find_sets(src)
        split_of_set = _check_assigned(src, sets, assigned or {})
        self.description = f"PhysioNet/CinC Challenge 2012, sets {', '.join(sets)} of {src.resolve()}"
        self.labels: dict[int, int] = {}  # by stay
        codes: dict[str, int] = {}  # variables of all sets
        n_unnamed, parts = np.zeros(2, dtype=np.int64), list[Rows]()
        for name, path in sets.items():
            labels = _read_outcomes(src, name, stay_over_days)
            self.labels.update(labels)
            rows, unnamed = read_set(name, path, codes, progress)
            require_match(src / f"Outcomes-{name}.txt", labels, rows.stays.stay_id)
            n_unnamed += unnamed
            parts.append(rows)
        self.skips = [skip for rows in parts for skip in rows.skips]
        self.unnamed_rows = UnnamedRows(*n_unnamed.tolist())
        self._names = list(codes)
        columns = ("variable", "value", "minute")
        self._columns = [np.concatenate([getattr(of, name) for of in parts]) for name in columns]
        n_rows = np.concatenate([of.n_rows for of in parts])
        number = np.concatenate([of.stays.stay_id for of in parts])
        self._first = np.append(0, np.cumsum(n_rows))
        stays = Stays(
            number,
            [stay.file for of in parts for stay in of.stays].__getitem__,
            prediction_minute=np.full(len(number), np.nan if until_hour is None else 60 * until_hour),
            group=np.concatenate([of.stays.group for of in parts]),
            n_rows=n_rows,
        )
        place_of_set = [SPLITS.index(split_of_set[name]) if name in split_of_set else -1 for name in sets]
        split = np.repeat(np.array(place_of_set, dtype=np.int8), [len(of.stays) for of in parts])
        order = np.argsort(number, kind="stable")
        loose = order[split[order] < 0]
        if len(loose):
            chosen = choose_fractions(fractions, set(split_of_set.values()))
            label = LabelTable.from_dict(self.labels).lookup(number[loose])
            split[loose] = assign_by_fractions(number[loose], label, chosen, seed)
        elif fractions is not None:
            raise InputError("--fractions divides sets that are in no split yet, but all are assigned. Leave it out.")
        of_split = {name: stays[order[split[order] == at]] for at, name in enumerate(SPLITS)}
        self.stays: Mapping[str, Sequence[Stay]] = {name: some for name, some in of_split.items() if len(some)}

    def read(self, stays: Stays) -> Rows:
        """The rows of these stays, which may be of different sets."""
        first = self._first[stays.place]
        n_rows = self._first[stays.place + 1] - first
        variable, value, minute = (column[join_ranges(first, n_rows)] for column in self._columns)
        return Rows(stays, n_rows, self._names, variable, value, minute, None, np.zeros(len(stays), dtype=bool))


def _find_sets(src: Path) -> dict[str, Path]:
    """The folder or archive of each set that SRC has, by its letter."""
    sets = {}
    for name in "abc":
        paths = (src / f"set-{name}{suffix}" for suffix in ("", *ARCHIVES))
        path = next((path for path in paths if path.exists()), None)
        if path is not None:
            sets[name] = path
    if not sets:
        raise InputError(f"{src}: holds no set of the challenge: set-a, set-b or set-c as a folder, .tar.gz or .zip.")
    return sets


def _check_assigned(src: Path, sets: Iterable[str], assigned: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The split of each set that is assigned as a whole."""
    split_of: dict[str, str] = {}
    for split, names in assigned.items():
        for name in names:
            if name not in sets:
                raise InputError(f"--{split}_sets {name}: {src} has no set {name}; it has {', '.join(sets)}.")
            if split_of.setdefault(name, split) != split:
                raise InputError(f"set {name} is given to {split_of[name]} and to {split}. Give it to one of them.")
    return split_of


def _read_outcomes(src: Path, name: str, stay_over_days: float | None) -> Labels:
    file = src / f"Outcomes-{name}.txt"
    if not file.is_file():
        raise InputError(f"{file}: not found. The outcomes of set {name} are published beside it; put the file there.")
    if stay_over_days is None:
        return read_labels(file, "In-hospital_death", stay_column="RecordID")

    def label(cell: str) -> str:
        """The label of a stay from its length in days; a length of -1 is unknown. What is no number is no label."""
        try:
            days = float(cell)
        except ValueError:
            return cell.strip()  # refused with its line, as any other cell that is neither 0 nor 1
        return "" if days < 0 else str(int(days > stay_over_days))

    return read_labels(file, "Length_of_stay", "RecordID", label)


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
            skips.append(tidy.bad_name(file, "132539.txt"))
            continue
        stay = Stay(number, file, f"set {name}")
        if b"\r" in text:
            line = text[: text.index(b"\r")].count(b"\n") + 1
            reason = f"line {line} has a carriage return without a line feed. End lines with a line feed"
            skips.append(tidy.fault(stay, "a carriage return without a line feed", reason))
        elif header.strip() != _HEADER:
            reason = f"the first line is {header[:60]!r}, not {_HEADER.decode()!r}"
            skips.append(tidy.fault(stay, f"a first line other than {_HEADER.decode()}", reason))
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


def read_set(name: str, path: Path, names: dict[str, int], progress: bool) -> tuple[Rows, UnnamedRows]:
    """The rows of set `name` and how many had no variable name. New variables are added to `names`, name -> code.

    All texts are parsed together, with their faults: file by file it takes 30 times as long.
    """
    with tqdm(desc=f"Reading set {name}", unit="stay", disable=None if progress else True) as bar:
        bodies, skips = _bodies(name, path, bar)
    text, ends = _joined(bodies)
    is_comma = np.frombuffer(text, dtype=np.uint8) == ord(",")
    n_commas = np.diff(np.searchsorted(np.flatnonzero(is_comma), ends), prepend=0)
    broken = _faults(bodies, (n_commas != 2) | (np.diff(ends, prepend=-1) > LONGEST_ROW))
    bodies = {stay: body for at, (stay, body) in enumerate(bodies.items()) if at not in broken}
    rows, is_utf_8 = _parse(bodies, names)
    bad = ~np.isfinite(rows.value) | np.isnan(rows.minute) | ~is_utf_8
    is_type = rows.variable == _code(rows.names, "ICUType")
    bad |= is_type & (rows.value >= 0) & ~np.isin(rows.value, _ICU_TYPES)
    # A row without a name is left out, with any other content.
    faulty = _faults(bodies, bad & ~_is_unnamed(rows))
    rows = rows.without(list(faulty))
    unnamed = _is_unnamed(rows)
    n_unnamed = UnnamedRows(int(unnamed.sum()), len(np.unique(rows.stay_of_row[unnamed])))
    rows, short = _clean(rows.take(np.flatnonzero(~unnamed)) if unnamed.any() else rows, names)
    return replace(rows, skips=[*skips, *broken.values(), *faulty.values(), *short]), n_unnamed


def _joined(bodies: Mapping[Stay, bytes]) -> tuple[bytes, NDArray[np.int64]]:
    """(the texts as one, the ends of its rows [E])."""
    text = b"".join(bodies.values())
    return text, np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n"))


def _n_rows(bodies: Mapping[Stay, bytes]) -> NDArray[np.int64]:
    """[N] Rows of each text."""
    return np.array([body.count(b"\n") for body in bodies.values()], dtype=np.int64)


def _faults(bodies: Mapping[Stay, bytes], bad: Bools) -> dict[int, Skip]:
    """The first bad row of each stay that has one, by the position of the stay, with the count of all: bad [E]."""
    if not bad.any():
        return {}
    text, ends = _joined(bodies)
    starts = np.append(0, ends + 1)
    rows = np.arange(len(bad))  # each is described for itself
    stays = Stays.from_list(list(bodies))
    return tidy.faults(stays, bad, _n_rows(bodies), [rows], lambda row: _describe(text[starts[row] : ends[row]]))


def _describe(line: bytes) -> tuple[tidy.FaultyCell, str]:
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
    return tidy.faulty_cell(category, variable if len(cells) > 1 else None, text), reason


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
        stays=Stays.from_list(list(bodies)),
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
    skips = [tidy.left_out(rows.stays[stay], f"{n_rows[stay]} rows, fewer than {MIN_ROWS}") for stay in short]
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
