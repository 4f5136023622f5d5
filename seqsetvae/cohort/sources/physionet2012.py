"""PhysioNet/CinC Challenge 2012, as published: set-a, set-b, set-c (folders or archives) and Outcomes-<set>.txt.

The convention of the literature, whose counts the tests check: rows without a variable name are left out and counted;
the RecordID row is no variable; a stay of 5 rows or fewer besides it is left out (counted before anything else is
dropped); negative values mean "missing" and are dropped, as are exact duplicate rows; ICUType k becomes the variable
ICUType_k with value 1. A set is all that is measured at one time.

Letters: F files (stays) of the challenge, R rows of their texts, E rows that remain.
"""

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray
from tqdm import tqdm

from seqsetvae.cohort.sidefiles import Labels, read_labels, stay_number
from seqsetvae.cohort.sources.opened import (
    DEFAULT_WIDTH,
    Opened,
    add_embeddings,
    add_out,
    add_stats,
    embeddings_of,
    stats_of,
)
from seqsetvae.cohort.tidy import SPLITS, Rows, Skip, Stay, UnnamedRows
from seqsetvae.errors import InputError

HELP = "Compile the PhysioNet/CinC Challenge 2012 as published (set-a, set-b, set-c, Outcomes-*.txt)."
LABEL_NAME = "in_hospital_mortality"
MIN_ROWS = 6  # a stay with fewer rows besides RecordID is left out
MAX_HOURS = 10_000  # since admission; the challenge ends at 48, so a time beyond this is an error in writing
LONGEST_ROW = 100_000  # bytes; a real row has 20, and one of a megabyte would exceed the blocks of the CSV reader
_ICU_TYPES = (1, 2, 3, 4)
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
_HEADER = b"Time,Parameter,Value"


def add_flags(parser: ArgumentParser) -> None:
    """The flags of `data.py physionet2012`."""
    parser.add_argument("src", type=Path, metavar="SRC", help="folder with the sets (folders or archives) and outcomes")
    add_out(parser)
    for split in SPLITS:
        flag = f"--{split}_sets"
        parser.add_argument(flag, nargs="+", choices="abc", default=[], help=f"whole sets for the {split} split")
    parser.add_argument(
        "--fractions",
        nargs=3,
        type=float,
        metavar=tuple(split.upper() for split in SPLITS),
        help="how to divide the stays of the sets that are not assigned; a split with whole sets of its own gets none "
        "of them (default 0.7 0.15 0.15; with --test_sets 0.8 0.2 0; with other whole sets the same without their "
        "splits, scaled to sum to 1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of that division (default %(default)s)")
    add_stats(
        parser, "mean and std of each variable: a stats.csv, or a compiled cohort (default: from the train split alone)"
    )
    add_embeddings(parser, "made from the names; a compiled cohort stands for those it holds")


def open_source(arguments: Namespace) -> Opened:
    """The sets that these flags name."""
    if arguments.embeddings and arguments.embedding_dim:
        raise InputError(f"--embedding_dim {arguments.embedding_dim} makes embeddings, but --embeddings gives them.")
    stats = stats_of(arguments.stats) if arguments.stats else None
    embeddings, width = embeddings_of(arguments.embeddings, arguments.embedding_dim or DEFAULT_WIDTH)
    assigned = {split: getattr(arguments, f"{split}_sets") for split in SPLITS}
    source = PhysioNet2012(arguments.src, assigned, arguments.fractions, arguments.seed)
    return Opened(
        source=source,
        label_name=LABEL_NAME,
        labels=source.labels,
        stats=stats,
        embeddings=embeddings,
        embedding_dim=width,
    )


class PhysioNet2012:
    """The stays of the challenge, divided into splits; see the Source protocol. Held in memory, 30 MB a set.

    Attributes:
        labels: in-hospital death by stay.
    """

    def __init__(
        self,
        src: str | Path,
        assigned: Mapping[str, Sequence[str]] | None = None,
        fractions: Sequence[float] | None = None,
        seed: int = 0,
        progress: bool = True,
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

        Raises:
            InputError: a set or its outcomes are absent, a set is assigned twice, or fractions that cannot be.
        """
        src = Path(src)
        sets = _find_sets(src)
        split_of_set = _check_assigned(src, sets, assigned or {})
        self.description = f"PhysioNet/CinC Challenge 2012, sets {', '.join(sets)} of {src.resolve()}"
        self.labels: dict[int, int] = {}
        self.skips: list[Skip] = []
        self.unnamed_rows = UnnamedRows()
        self._table_of: dict[Stay, tuple[_Table, int]] = {}
        self.stays: dict[str, list[Stay]] = {split: [] for split in SPLITS}
        loose: list[Stay] = []
        for name, path in sets.items():
            self.labels.update(_read_outcomes(src, name))
            table, skips, unnamed = _read_set(name, path, progress)
            table = replace(table, stays=[stay._replace(group=f"set {name}") for stay in table.stays])
            self.skips += skips
            self.unnamed_rows = UnnamedRows(*map(sum, zip(self.unnamed_rows, unnamed, strict=True)))
            self._table_of |= {stay: (table, at) for at, stay in enumerate(table.stays)}
            (self.stays[split_of_set[name]] if name in split_of_set else loose).extend(table.stays)
        if fractions is not None and not loose:
            raise InputError("--fractions divides sets that are in no split yet, but all are assigned. Leave it out.")
        if loose:
            self._divide(loose, choose_fractions(fractions, set(split_of_set.values())), seed)
        self.stays = {split: sorted(stays) for split, stays in self.stays.items() if stays}

    def _divide(self, stays: list[Stay], fractions: Sequence[float], seed: int) -> None:
        """Spread stays over the splits, deaths, survivors and unlabelled stays each by the same fractions."""
        rng = np.random.default_rng(seed)
        for label in (0, 1, None):
            group = sorted(stay for stay in stays if self.labels.get(stay.stay_id) == label)
            shuffled = [group[i] for i in rng.permutation(len(group))]
            ends = np.rint(np.cumsum(fractions) * len(group)).astype(int)
            for split, start, end in zip(SPLITS, [0, *ends[:-1]], ends, strict=True):
                self.stays[split].extend(shuffled[start:end])

    def read(self, stays: Sequence[Stay]) -> Rows:
        """The rows of these stays, which may lie in different sets."""
        parts = [self._table_of[stay] for stay in stays]
        names: dict[str, int] = {}
        pieces: list[tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]] = []
        codes = {id(table): _codes(table.names, names) for table in {id(t): t for t, _ in parts}.values()}
        for table, at in parts:
            rows = slice(table.offset[at], table.offset[at + 1])
            pieces.append((codes[id(table)][table.variable[rows]], table.value[rows], table.minute[rows]))
        variable, value, minute = (np.concatenate(column) for column in zip(*pieces, strict=True))
        n_rows = np.array([len(piece[0]) for piece in pieces], dtype=np.int64)
        return Rows(stays, n_rows, list(names), variable, value, minute, None, np.zeros(len(stays), dtype=bool))


def choose_fractions(fractions: Sequence[float] | None, given_sets: Collection[str]) -> Sequence[float]:
    """The fractions to divide by: nothing for the splits to which whole sets are given, of which one at least is not.

    Raises:
        InputError: the fractions given are no three shares of one whole, or one is for a split that has whole sets.
    """
    if fractions is None:
        usual = (0.8, 0.2, 0.0) if "test" in given_sets else (0.7, 0.15, 0.15)
        left = [0.0 if split in given_sets else share for split, share in zip(SPLITS, usual, strict=True)]
        return [share / sum(left) for share in left]
    given = " ".join(f"{fraction:g}" for fraction in fractions)
    if len(fractions) != 3 or min(fractions) < 0 or not abs(sum(fractions) - 1) < 1e-9:
        raise InputError(f"--fractions {given}: needs three shares (train, valid, test), none negative, that sum to 1.")
    for split, share in zip(SPLITS, fractions, strict=True):
        if split in given_sets and share > 0:
            raise InputError(
                f"--fractions {given}: {share:g} is for {split}, which has whole sets (--{split}_sets). "
                f"Give {split} the share 0, or no whole sets."
            )
    return fractions


# ------------------------------------------------------------------ finding the sets


def _find_sets(src: Path) -> dict[str, Path]:
    """Where each set lies that SRC has: a folder or an archive, by its letter."""
    found = {}
    for name in "abc":
        places = [src / f"set-{name}", *(src / f"set-{name}{suffix}" for suffix in _ARCHIVES)]
        place = next((place for place in places if place.exists()), None)
        if place is not None:
            found[name] = place
    if not found:
        raise InputError(f"{src}: holds no set of the challenge: set-a, set-b or set-c as a folder, .tar.gz or .zip.")
    return found


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


def _read_outcomes(src: Path, name: str) -> Labels:
    file = src / f"Outcomes-{name}.txt"
    if not file.is_file():
        raise InputError(f"{file}: not found. The outcomes of set {name} are published beside it; put the file there.")
    return read_labels(file, "In-hospital_death", stay_column="RecordID")


# ------------------------------------------------------------------ reading one set


@dataclass(frozen=True)
class _Table:
    """The stays of one set, their rows one after the other."""

    stays: list[Stay]
    offset: NDArray[np.int64]  # [stays + 1] into the rows
    names: list[str]
    variable: NDArray[np.int32]  # [E]
    value: NDArray[np.float64]  # [E]
    minute: NDArray[np.float64]  # [E]


def _read_set(name: str, path: Path, progress: bool) -> tuple[_Table, list[Skip], UnnamedRows]:
    """The stays of a set, what was left out of it, and how many rows had no variable name.

    All texts are parsed in one go, whatever faults they have: file by file it takes 30 times as long.
    """
    bar = tqdm(desc=f"Reading set {name}", unit="stay", disable=None if progress else True)
    with bar:
        bodies, skips = _bodies(path, bar)
    bodies, broken = _without_broken_rows(bodies)
    stays, texts, faulty = _without_faulty_cells(list(bodies), bodies, _parse(bodies))
    texts, unnamed = _without_unnamed_rows(texts)
    table, short = _clean(stays, texts)
    return table, [*skips, *broken, *faulty, *short], unnamed


def _bodies(path: Path, bar: tqdm) -> tuple[dict[Stay, bytes], list[Skip]]:
    """The text of each stay without its header, one line feed after every row."""
    bodies: dict[Stay, bytes] = {}
    skips: list[Skip] = []
    for file, text in sorted(_texts(path, bar)):
        stay = stay_number(Path(file).stem)
        text = text.replace(b"\r\n", b"\n")
        header, _, body = text.partition(b"\n")
        if stay is None:
            reason = f"the name {Path(file).name!r} is not a stay number such as 132539.txt"
            skips.append(Skip(file, reason, category="a name that is not a stay number"))
        elif b"\r" in text:
            line = text[: text.index(b"\r")].count(b"\n") + 1
            reason = f"line {line} has a carriage return without a line feed. End lines with a line feed"
            skips.append(Skip(file, reason, category="a carriage return without a line feed", stay_id=stay))
        elif header.strip() != _HEADER:
            reason = f"the first line is {header[:60]!r}, not {_HEADER.decode()!r}"
            skips.append(Skip(file, reason, category=f"a first line other than {_HEADER.decode()}", stay_id=stay))
        else:
            body = body.rstrip(b"\n")
            bodies[Stay(stay, file)] = body + b"\n" if body else b""
    return bodies, skips


def _texts(path: Path, bar: tqdm) -> Iterator[tuple[str, bytes]]:
    """(name for messages, content) of every .txt file of a folder or archive; the bar counts them."""
    try:
        if path.is_dir():
            files = [file for file in path.rglob("*.txt") if _is_stay(file.name)]
            yield from _counted(((str(file), file.read_bytes()) for file in files), bar, len(files))
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if _is_stay(name)]
                yield from _counted(((f"{path}:{name}", archive.read(name)) for name in names), bar, len(names))
        else:
            texts = [(f"{path}:{name}", text) for name, text in _untarred(path.read_bytes()) if _is_stay(name)]
            yield from _counted(texts, bar, len(texts))
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, RuntimeError) as error:
        # RuntimeError: a zip with a password, or packed in a way that is not known
        raise InputError(f"{path}: cannot be read: {error}. Download it again.") from None


def _counted(texts: Iterable[tuple[str, bytes]], bar: tqdm, total: int) -> Iterator[tuple[str, bytes]]:
    bar.reset(total)
    for text in texts:
        yield text
        bar.update()


def _is_stay(name: str) -> bool:
    return name.endswith(".txt") and not Path(name).name.startswith(".")  # macOS adds ._ files


def _untarred(archive: bytes) -> list[tuple[str, bytes]]:
    """(name, content) of all that a tar file holds, gzipped or not.

    tarfile alone would pass over damage: it stops before a gzip's checksum, and at a broken header as if at the end.
    """
    packed = gzip.decompress(archive) if archive.startswith(b"\x1f\x8b") else archive
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as tar:
        texts = [(entry.name, _content(tar, entry)) for entry in tar]
        rest = packed[tar.offset :]
    if not rest or rest.strip(b"\0"):
        raise tarfile.ReadError(f"after {len(texts):,} entries there is neither another nor an end of the archive")
    return texts


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(entry)
    return stream.read() if stream else b""


@dataclass(frozen=True)
class _Texts:
    """The rows of some texts, as written. stay [R] points at the text."""

    stay: NDArray[np.int64]
    minute: NDArray[np.float64]  # [R] NaN = not a time
    names: list[str | None]  # None = not in UTF-8
    parameter: NDArray[np.int32]  # [R] index into names
    value: NDArray[np.float64]  # [R] NaN = not a number


def _without_broken_rows(bodies: Mapping[Stay, bytes]) -> tuple[dict[Stay, bytes], list[Skip]]:
    """The texts in which every row has three cells, and for each of the others its first row that has not."""
    joined = b"".join(bodies.values())
    text = np.frombuffer(joined, dtype=np.uint8)
    ends = np.flatnonzero(text == ord("\n"))  # [R]
    n_commas = np.diff(np.searchsorted(np.flatnonzero(text == ord(",")), ends), prepend=0)
    too_long = np.diff(ends, prepend=-1) > LONGEST_ROW
    n_rows = _rows_of(bodies)
    skips = _first_faults(list(bodies), bodies, n_rows, (n_commas != 2) | too_long)
    good = {stay: body for at, (stay, body) in enumerate(bodies.items()) if at not in skips}
    return good, list(skips.values())


def _rows_of(bodies: Mapping[Stay, bytes]) -> NDArray[np.int64]:
    """[F] Rows of each text."""
    return np.array([body.count(b"\n") for body in bodies.values()], dtype=np.int64)


def _first_faults(
    stays: Sequence[Stay], bodies: Mapping[Stay, bytes], n_rows: NDArray[np.int64], bad: NDArray[np.bool_]
) -> dict[int, Skip]:
    """The first bad row of each stay that has one, by the stay's place."""
    rows = np.flatnonzero(bad)
    first_row = np.cumsum(n_rows) - n_rows
    places, first = np.unique(np.repeat(np.arange(len(stays)), n_rows)[rows], return_index=True)
    found = {}
    for at, row in zip(places.tolist(), rows[first].tolist(), strict=True):
        in_file = int(row - first_row[at])
        found[at] = _blame(stays[at], in_file, bodies[stays[at]].split(b"\n")[in_file])
    return found


def _blame(stay: Stay, row: int, line: bytes) -> Skip:
    """What is wrong with a row that cannot be used."""
    cells = line.split(b",")
    time, variable, value = [cell[:80].decode(errors="replace") for cell in [*cells, b"", b""][:3]]
    if len(cells) != 3 or len(line) > LONGEST_ROW:
        category = "a row that is not HH:MM, a name and a number"
        reason = f"not a row of HH:MM, a name and a number: {line[:80].decode(errors='replace')!r}"
    elif np.isnan(_minutes(cells[0])):
        category = "a time that is not HH:MM"
        reason = f"Time {time!r} is not HH:MM with at most {MAX_HOURS:,} hours"
    elif not np.isfinite(_number(cells[2])):
        category = "a value that is missing or not a finite number"
        reason = f"Value {value!r} is not a finite number"
    elif _name(cells[1]) is None:
        category, reason = "a variable name that is not in UTF-8", f"the name {cells[1][:80]!r} is not in UTF-8"
    else:
        category = "an ICUType other than 1 to 4"
        reason = f"the value is {_number(cells[2]):g}; an ICUType is 1, 2, 3 or 4, or negative if it is not known"
    return Skip(stay.file, reason, row, variable if len(cells) > 1 else None, category=category, stay_id=stay.stay_id)


def _parse(bodies: Mapping[Stay, bytes]) -> _Texts:
    """The cells of all rows, each of which has three."""
    n_rows = _rows_of(bodies)
    if not n_rows.sum():
        return _Texts(np.zeros(0, np.int64), np.zeros(0), [], np.zeros(0, np.int32), np.zeros(0))
    columns = ["time", "parameter", "value"]
    table = pacsv.read_csv(
        pa.BufferReader(b"".join(bodies.values())),
        # Ctrl-C while threads read aborts the process ("terminate called without an active exception").
        read_options=pacsv.ReadOptions(column_names=columns, use_threads=False),
        parse_options=pacsv.ParseOptions(quote_char=False, ignore_empty_lines=False),
        # Bytes, since one cell that is not a number or not in UTF-8 would stop the reading of all files.
        convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(columns, pa.binary())),
    )
    assert len(table) == n_rows.sum()
    times, time = _encode(table["time"])
    names, parameter = _encode(table["parameter"])
    values, value = _encode(table["value"])
    minute_of, value_of = np.array([_minutes(cell) for cell in times]), np.array([_number(cell) for cell in values])
    stay = np.repeat(np.arange(len(n_rows)), n_rows)
    return _Texts(stay, minute_of[time], [_name(cell) for cell in names], parameter, value_of[value])


def _encode(column: pa.ChunkedArray) -> tuple[list[bytes], NDArray[np.int32]]:
    """The distinct cells, and [R] which of them each row has."""
    encoded = column.combine_chunks().dictionary_encode()
    # Not to_numpy(): it imports pandas, which takes a second, and loses a Ctrl-C that comes meanwhile.
    code: NDArray[np.int32] = np.from_dlpack(encoded.indices)  # type: ignore[assignment]
    return encoded.dictionary.to_pylist(), code


def _minutes(time: bytes) -> float:
    """Minutes since admission of a time such as 07:45; NaN if it is none, or past all reason."""
    match = re.fullmatch(rb"(\d{1,5}):(\d{1,2})", time)
    hours, minutes = map(int, match.groups()) if match else (0, 60)
    return hours * 60.0 + minutes if hours <= MAX_HOURS and minutes < 60 else float("nan")


def _number(cell: bytes) -> float:
    """The number that a cell holds, NaN if it holds none."""
    try:
        return float("nan") if b"_" in cell else float(cell)  # Python alone reads 1_000
    except ValueError:
        return float("nan")


def _name(cell: bytes) -> str | None:
    """The name that a cell holds, None if it is not in UTF-8."""
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return None


def _index(names: Sequence[str | None], name: str) -> int:
    return names.index(name) if name in names else -1


def _without_faulty_cells(
    stays: list[Stay], bodies: Mapping[Stay, bytes], texts: _Texts
) -> tuple[list[Stay], _Texts, list[Skip]]:
    """The stays in which every row that has a name has a time and a value too, and the first fault of the others."""
    no_type = (texts.parameter == _index(texts.names, "ICUType")) & ~np.isin(texts.value, _ICU_TYPES)
    bad = ~np.isfinite(texts.value) | np.isnan(texts.minute) | (no_type & (texts.value >= 0))
    bad |= np.array([name is None for name in texts.names], dtype=bool)[texts.parameter]
    bad &= ~_is_unnamed(texts)  # such a row is left out, whatever else it holds
    skips = _first_faults(stays, bodies, _rows_of(bodies), bad)
    if not skips:
        return stays, texts, []
    good = np.array([at not in skips for at in range(len(stays))], dtype=bool)
    rows = np.flatnonzero(good[texts.stay])
    kept = [stay for stay, is_good in zip(stays, good, strict=True) if is_good]
    return kept, _take(replace(texts, stay=(np.cumsum(good) - 1)[texts.stay]), rows), list(skips.values())


def _without_unnamed_rows(texts: _Texts) -> tuple[_Texts, UnnamedRows]:
    """The rows that have a name, and how many have none: set c has 2,403 such rows, as `10:45,,1.9`."""
    unnamed = _is_unnamed(texts)
    if not unnamed.any():
        return texts, UnnamedRows()
    counted = UnnamedRows(int(unnamed.sum()), len(np.unique(texts.stay[unnamed])))
    return _take(texts, np.flatnonzero(~unnamed)), counted


def _is_unnamed(texts: _Texts) -> NDArray[np.bool_]:
    return np.array([name is not None and not name.strip() for name in texts.names], dtype=bool)[texts.parameter]


def _take(texts: _Texts, rows: NDArray[np.intp]) -> _Texts:
    return _Texts(texts.stay[rows], texts.minute[rows], texts.names, texts.parameter[rows], texts.value[rows])


def _clean(stays: list[Stay], texts: _Texts) -> tuple[_Table, list[Skip]]:
    """Apply the convention of the literature (top of this file)."""
    counted = texts.parameter != _index(texts.names, "RecordID")
    n_rows = np.bincount(texts.stay[counted], minlength=len(stays))
    enough = n_rows >= MIN_ROWS
    keep = np.flatnonzero(counted & enough[texts.stay] & (texts.value >= 0))
    keep = keep[~_is_repeated(texts, keep)]
    names = [name or "" for name in texts.names]  # those left without a row include names not in UTF-8
    parameter = _split_icu_type(names, texts, keep)
    value = np.where(texts.parameter[keep] == _index(texts.names, "ICUType"), 1.0, texts.value[keep])
    kept_stays = [stay for stay, is_kept in zip(stays, enough, strict=True) if is_kept]
    per_stay = np.bincount(texts.stay[keep], minlength=len(stays))[enough]
    offset = np.concatenate([[0], np.cumsum(per_stay)])
    short = [
        Skip(stays[at].file, f"{n_rows[at]} rows, fewer than {MIN_ROWS}", is_fault=False, stay_id=stays[at].stay_id)
        for at in np.flatnonzero(~enough)
    ]
    return _Table(kept_stays, offset, names, parameter, value, texts.minute[keep]), short


def _is_repeated(texts: _Texts, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """[rows] Is the row equal to an earlier one of its stay in time, parameter and value?"""
    time = texts.stay[rows] * (MAX_HOURS + 1) * 60 + texts.minute[rows].astype(np.int64)
    key = time * len(texts.names) + texts.parameter[rows]
    order = np.lexsort((texts.value[rows], key))  # stable: of equal rows the first of the file comes first
    repeated = np.zeros(len(rows), dtype=bool)
    by_key, by_value = key[order], texts.value[rows][order]
    repeated[order[1:]] = (by_key[1:] == by_key[:-1]) & (by_value[1:] == by_value[:-1])
    return repeated


def _split_icu_type(names: list[str], texts: _Texts, rows: NDArray[np.intp]) -> NDArray[np.int32]:
    """[rows] The parameter of each row, with ICUType k replaced by ICUType_k, which are added to names."""
    parameter = texts.parameter[rows].copy()
    is_type = texts.parameter[rows] == _index(names, "ICUType")
    for kind in np.unique(texts.value[rows][is_type]):
        here = is_type & (texts.value[rows] == kind)
        parameter[here] = len(names)
        names.append(f"ICUType_{int(kind)}")
    return parameter


def _codes(own: Sequence[str], names: dict[str, int]) -> NDArray[np.int32]:
    """[own] The shared code of each name, with new ones added to names."""
    return np.array([names.setdefault(name, len(names)) for name in own], dtype=np.int32)
