"""The SeqSetVAE layout: patient_ehr/{train,valid,test}/<stay>.parquet, with stats.csv, oc.csv, cached.csv beside it."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqsetvae.cohort.format import is_compiled
from seqsetvae.cohort.sidefiles import read_labels, stay_number
from seqsetvae.cohort.sources.opened import (
    DEFAULT_WIDTH,
    Opened,
    add_embeddings,
    add_label_name,
    add_labels,
    add_out,
    add_stats,
    embeddings_of,
    stats_of,
)
from seqsetvae.cohort.tidy import SPLITS, Rows, Skip, Stay, StayFiles, UnnamedRows
from seqsetvae.errors import InputError

HELP = "Compile the SeqSetVAE layout (a patient_ehr folder)."
DEFAULT_LABEL = "in_hospital_mortality"
ORIGIN_NOTE = "source.txt"
_NUMBERS = ("value", "minute", "set_index")
_COLUMNS = ("variable", *_NUMBERS)


@dataclass(frozen=True)
class LayoutFiles:
    """The files of an old layout; an earlier compiled cohort may stand in for its statistics and embeddings.

    None = there is none: statistics from the train split, no labels, embeddings made from the names.
    """

    patient_ehr: Path
    stats: Path | None
    labels: Path | None
    embeddings: Path | None


def add_flags(parser: ArgumentParser) -> None:
    """The flags of `data.py compile`."""
    parser.add_argument("patient_ehr", type=Path, metavar="PATIENT_EHR", help="folder with train/, valid/ or test/")
    add_out(parser)
    add_stats(
        parser, "mean and std of each variable (default: the stats.csv beside PATIENT_EHR, else from the train split)"
    )
    add_labels(parser, "default: the oc.csv beside PATIENT_EHR, if any")
    add_label_name(parser, DEFAULT_LABEL, f"default {DEFAULT_LABEL}")
    add_embeddings(parser, "the cached.csv beside PATIENT_EHR, else made from the names")


def open_source(arguments: Namespace) -> Opened:
    """The layout that these flags name."""
    files = locate_layout(arguments.patient_ehr, arguments.stats, arguments.labels, arguments.embeddings)
    return open_layout(files, arguments.label_name, arguments.embedding_dim)


def open_layout(files: LayoutFiles, label_name: str, embedding_dim: int | None = None) -> Opened:
    """The stays and side files of a layout.

    Raises:
        InputError: a side file cannot be read, or embedding_dim is given beside a cached.csv, which has its own width.
    """
    if files.embeddings and embedding_dim is not None:
        raise InputError(f"--embedding_dim {embedding_dim} makes embeddings, but {files.embeddings} gives them.")
    embeddings, width = embeddings_of(files.embeddings, embedding_dim or DEFAULT_WIDTH)
    return Opened(
        source=SeqSetVAELayout(files.patient_ehr),
        label_name=label_name,
        labels=read_labels(files.labels, label_name) if files.labels else None,
        stats=stats_of(files.stats) if files.stats else None,
        embeddings=embeddings,
        embedding_dim=width,
    )


def locate_layout(
    data_dir: Path,
    stats_path: str | Path | None = None,
    label_path: str | Path | None = None,
    embeddings_path: str | Path | None = None,
) -> LayoutFiles:
    """The files of an old layout: those given, else those beside or inside patient_ehr.

    Raises:
        InputError: no patient_ehr, or a file that was given does not exist.
    """
    patient_ehr = find_patient_ehr(data_dir)
    stats = side_file(patient_ehr, "stats.csv", "--params_map_path", stats_path)
    labels = side_file(patient_ehr, "oc.csv", "--label_path", label_path)
    embeddings = side_file(patient_ehr, "cached.csv", "--embeddings_path", embeddings_path)
    return LayoutFiles(patient_ehr, stats, labels, embeddings)


def side_file(patient_ehr: Path, name: str, flag: str, given: str | Path | None) -> Path | None:
    """The file given, else the one of this name beside or in patient_ehr, if there is one.

    A compiled cohort may be given for what it holds itself: statistics and embeddings.

    Raises:
        InputError: the file given does not exist.
    """
    if given is not None:
        if not Path(given).is_file() and not (name != "oc.csv" and is_compiled(given)):
            raise InputError(f"{flag} {given}: no such file. It should be a file like {name}.")
        return Path(given)
    usual = (patient_ehr.absolute().parent / name, patient_ehr / name)
    return next((path for path in usual if path.is_file()), None)


def find_patient_ehr(data_dir: Path) -> Path:
    """The folder with the split folders: `data_dir` itself or its patient_ehr.

    Raises:
        InputError: neither has a folder train, valid or test with parquet files; says what was found.
    """
    for folder in (data_dir, data_dir / "patient_ehr"):
        if any(any(_parquet_files(folder / split)) for split in SPLITS):
            return folder
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder. Pass a patient_ehr folder or a compiled cohort.")
    found = sorted(path.name + ("/" if path.is_dir() else "") for path in data_dir.iterdir())
    raise InputError(
        f"{data_dir}: holds neither a compiled cohort (manifest.json) nor parquet files in train/, valid/ or test/. "
        f"Found: {', '.join(found[:20]) or 'nothing'}{', ...' if len(found) > 20 else ''}."
    )


def parquet_names(folder: Path) -> NDArray[np.bytes_]:
    """[files] Names of the parquet files of a folder, sorted; none if there is no such folder."""
    return np.sort(np.array(list(map(os.fsencode, _parquet_files(folder))), dtype=np.bytes_))


def _parquet_files(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        return
    try:
        with os.scandir(folder) as entries:  # Path.glob would hold an object of 300 bytes for each file
            yield from (entry.name for entry in entries if entry.name.endswith(".parquet"))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from None


class SeqSetVAELayout:
    """The stays of a patient_ehr folder; see the Source protocol."""

    def __init__(self, patient_ehr: Path) -> None:
        """List the files. A name that is no stay number is a fault, reported by `skips`."""
        self.description = f"SeqSetVAE layout {patient_ehr.resolve()}{_origin(patient_ehr)}"
        self.patient_ehr = patient_ehr
        self.stays: dict[str, Sequence[Stay]] = {}
        self.skips: list[Skip] = []
        self.unnamed_rows = UnnamedRows()  # a row without a name is a fault in this layout
        for split in SPLITS:
            names = parquet_names(patient_ehr / split)
            if len(names):
                self.stays[split] = self._list(patient_ehr / split, names)

    def _list(self, folder: Path, names: NDArray[np.bytes_]) -> StayFiles:
        """The stays in the order of their numbers, those of one number in the order of their names."""
        number, good = np.zeros(len(names), dtype=np.int64), np.ones(len(names), dtype=bool)
        for at, name in enumerate(map(os.fsdecode, names)):
            stay = stay_number(name.removesuffix(".parquet"))
            if stay is None:
                good[at] = False
                reason = f"the name {name!r} is not a stay number such as 200001.parquet"
                category = "a name that is not a stay number"
                self.skips.append(Skip(str(folder / name), reason, category=category))
            else:
                number[at] = stay
        order = np.flatnonzero(good)
        order = order[np.argsort(number[order], kind="stable")]
        return StayFiles(folder, number[order], names[order])

    def read(self, stays: Sequence[Stay]) -> Rows:
        """The rows of these stays; files that cannot be read become faults."""
        good: list[Stay] = []
        tables: list[pa.Table] = []
        skips: list[Skip] = []
        checked: list[pa.Schema] = []
        for stay in stays:
            try:
                tables.append(_read_parquet(stay.file, checked))
                good.append(stay)
            except _UnreadableError as error:
                skips.append(Skip(stay.file, str(error), category=error.category, stay_id=stay.stay_id))
        return _as_rows(good, tables, skips)


def _origin(patient_ehr: Path) -> str:
    """What a source.txt beside patient_ehr says about where the data come from, for the manifest."""
    note = patient_ehr.resolve().parent / ORIGIN_NOTE
    return f": {note.read_text(encoding='utf-8', errors='replace').strip()}" if note.is_file() else ""


class _UnreadableError(Exception):
    """A file that is no parquet, or whose columns are not those of the layout."""

    def __init__(self, category: str, reason: str) -> None:
        super().__init__(reason)
        self.category = category


def _read_parquet(file: str, checked: list[pa.Schema]) -> pa.Table:
    """Columns variable, value, minute and, where the file has it, set_index. `checked` collects schemas found good."""
    try:
        with open(file, "rb") as stream:  # noqa: PTH123 - Path is measurably slower, and this runs for every file
            # Reading the bytes first is quicker than letting the parquet reader seek about in a small file.
            content = pa.py_buffer(stream.read())
        try:
            parquet = pq.ParquetFile(content, read_dictionary=["variable"])
        except KeyError:  # there is no such column, or one of nested content: the check of the columns says so
            parquet = pq.ParquetFile(content)
        schema = parquet.schema_arrow
        if schema not in checked:  # thousands of files share one schema
            _check_columns(schema)
            checked.append(schema)
        columns = [column for column in _COLUMNS if column in schema.names]
        table = parquet.read(columns=columns, use_threads=False)
        _check_text(table["variable"])
        return table
    except (pa.ArrowException, OSError) as error:
        raise _UnreadableError("not a readable parquet file", f"not a readable parquet file: {error}") from None


def _check_columns(schema: pa.Schema) -> None:
    missing = [column for column in ("variable", "value", "minute") if column not in schema.names]
    if missing:
        there = ", ".join(schema.names) or "none"
        reason = f"column {', '.join(missing)} is missing; the columns are {there}"
        raise _UnreadableError("a missing column", reason)
    for column in _COLUMNS:
        if schema.names.count(column) > 1:
            reason = f"column {column} occurs twice; the columns are {', '.join(schema.names)}"
            raise _UnreadableError("a column that occurs twice", reason)
    for column in _NUMBERS:
        if column in schema.names and not _is_number(schema.field(column).type):
            reason = f"column {column} holds {schema.field(column).type}, not numbers"
            raise _UnreadableError("a column that does not hold numbers", reason)
    kind = schema.field("variable").type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise _UnreadableError("a column variable that is not text", f"column variable holds {kind}, not text")


def _check_text(column: pa.ChunkedArray) -> None:
    try:
        column.validate(full=True)  # parquet promises UTF-8, but nobody checks it on the way in
    except pa.ArrowInvalid as error:
        reason = f"column variable is not text in UTF-8: {error}"
        raise _UnreadableError("a column variable that is not in UTF-8", reason) from None


def _is_number(kind: pa.DataType) -> bool:
    # A column of a stay without rows, or of nulls alone, has the type null.
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null)
    return any(is_kind(kind) for is_kind in kinds)


def _as_rows(stays: list[Stay], tables: list[pa.Table], skips: list[Skip]) -> Rows:
    """Join tables; neighbours of one schema in one go, since few large conversions are quicker than many small."""
    codes: dict[str, int] = {}
    empty = np.zeros(0)
    variable: list[NDArray[np.int32]] = [empty.astype(np.int32)]
    numbers: dict[str, list[NDArray[np.float64]]] = {column: [empty] for column in _NUMBERS}
    for _, group in groupby(tables, key=lambda table: table.schema):
        table = pa.concat_tables(group)
        variable.append(_codes(table["variable"], codes))
        for column, pieces in numbers.items():
            there = column in table.column_names
            pieces.append(_numbers(table[column]) if there else np.full(len(table), np.nan))
    has_index = np.array(["set_index" in table.column_names for table in tables], dtype=bool)
    joined = {column: np.concatenate(pieces) for column, pieces in numbers.items()}
    return Rows(
        stays=stays,
        n_rows=np.array([len(table) for table in tables], dtype=np.int64),
        names=list(codes),
        variable=np.concatenate(variable),
        value=joined["value"],
        minute=joined["minute"],
        set_index=joined["set_index"] if has_index.any() else None,
        has_set_index=has_index,
        skips=skips,
    )


def _codes(column: pa.ChunkedArray, codes: dict[str, int]) -> NDArray[np.int32]:
    """[rows] The code of each name, -1 where there is none; new names are added to `codes`."""
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.large_string()).dictionary_encode()
    encoded = column.unify_dictionaries().combine_chunks()
    local = encoded.dictionary.to_pylist()
    shared = [-1 if name is None else codes.setdefault(name, len(codes)) for name in local]
    return np.array([*shared, -1], dtype=np.int32)[pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)]


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy()
