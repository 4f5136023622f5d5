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
from seqsetvae.cohort.names import trimmed
from seqsetvae.cohort.sidefiles import CACHED, STATS, read_labels, require_match, stay_number
from seqsetvae.cohort.sources.opened import Opened
from seqsetvae.cohort.sources.shards import as_shard, part
from seqsetvae.cohort.tidy import MOST_ROWS, SPLITS, Rows, Skip, Stay, Stays, UnnamedRows, bad_name, fault
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import require_no_pipe

HELP = "Compile the SeqSetVAE layout (a patient_ehr folder)."
DEFAULT_LABEL = "in_hospital_mortality"
ORIGIN_NOTE = "source.txt"
_NUMBERS = ("value", "minute", "set_index")
_COLUMNS = ("variable", *_NUMBERS)


@dataclass(frozen=True)
class SideFiles:
    """The side tables that a user named; None = the one beside or inside patient_ehr, if there is one."""

    stats: Path | None = None
    labels: Path | None = None
    embeddings: Path | None = None

    def by_flag(self) -> dict[str, tuple[str, Path | None]]:
        """A dictionary from each flag to the usual name of its file and the one that was named."""
        return {
            "--params_map_path": ("stats.csv", self.stats),
            "--label_path": ("oc.csv", self.labels),
            "--embeddings_path": ("cached.csv", self.embeddings),
        }

    def require(self) -> None:
        """Raises InputError if a file that was named does not exist.

        A compiled cohort may be named for statistics and embeddings.
        """
        for flag, (name, path) in self.by_flag().items():
            if path is not None and not path.is_file() and not (name != "oc.csv" and is_compiled(path)):
                raise InputError(f"{flag} {path}: no such file. It should be a file like {name}.")

    def refuse(self, cohort: Path) -> None:
        """Raises InputError if labels were named for a compiled cohort, which has its own."""
        if self.labels is not None:
            raise InputError(
                f"{cohort} is a compiled cohort, which holds its labels already. Leave out --label_path {self.labels}, "
                "or pass the data that it was compiled from."
            )


NOT_NAMED = SideFiles()


@dataclass(frozen=True)
class LayoutFiles:
    """The files of a SeqSetVAE layout; None = there is none."""

    patient_ehr: Path
    stats: Path | None
    labels: Path | None
    embeddings: Path | None


def locate_layout(data_dir: Path, named: SideFiles = NOT_NAMED) -> LayoutFiles:
    """The files of a SeqSetVAE layout. Raises InputError if there is no patient_ehr, or not a file that was named."""
    patient_ehr = find_patient_ehr(data_dir)
    named.require()
    side_files = []
    for name, path in named.by_flag().values():
        usual = (patient_ehr.absolute().parent / name, patient_ehr / name)
        side_files.append(path or next((file for file in usual if file.is_file()), None))
    return LayoutFiles(patient_ehr, *side_files)


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
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in data_dir.iterdir())
    raise InputError(
        f"{data_dir}: holds neither a compiled cohort (manifest.json) nor parquet files in train/, valid/ or test/. "
        f"Found: {', '.join(names[:20]) or 'nothing'}{', ...' if len(names) > 20 else ''}."
    )


def parquet_names(folder: Path) -> NDArray[np.bytes_]:
    """[files] Names of the parquet files of a folder, sorted; none if there is no such folder."""
    return np.sort(np.array(list(map(os.fsencode, _parquet_files(folder))), dtype=np.bytes_))


def _parquet_files(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        return
    try:
        with os.scandir(folder) as entries:  # Path.glob would hold an object of 300 bytes for each file
            for entry in entries:
                if entry.name.endswith(".parquet") and not entry.name.startswith((".", "_")):
                    if not entry.is_file():
                        require_no_pipe(entry.path)
                    yield entry.name
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from None


def add_flags(parser: ArgumentParser) -> None:
    """The flags of `data.py compile`."""
    parser.add_argument("patient_ehr", type=Path, metavar="PATIENT_EHR", help="folder with train/, valid/ or test/")
    add_label_flags(parser, "PATIENT_EHR", DEFAULT_LABEL, f"default {DEFAULT_LABEL}")
    text = "compile only part I of N of the stays, to be joined by `data.py join`; one job for each part"
    parser.add_argument("--shard", type=part, metavar="I/N", help=text)


def add_label_flags(parser: ArgumentParser, folder: str, default_label: str | None, text: str) -> None:
    """The labels of `folder`; `text` says what is used without --label_name."""
    labels = f"default: the oc.csv beside {folder}, if any"
    parser.add_argument("--labels", "--label_path", type=Path, metavar="OC_CSV", help=labels)
    parser.add_argument("--label_name", default=default_label, help=f"column of oc.csv ({text})")


def open_source(arguments: Namespace) -> Opened:
    """The layout that these flags name."""
    files = locate_layout(arguments.patient_ehr, SideFiles(labels=arguments.labels))
    opened = open_layout(files, arguments.label_name)
    return opened if arguments.shard is None else as_shard(opened, arguments.shard)


def open_layout(files: LayoutFiles, label_name: str, needs_labels: bool = True) -> Opened:
    """The stays and labels of a layout; its stats.csv and cached.csv go with it.

    Raises:
        InputError: the labels cannot be read, or labels are needed and there are only those of other stays.
    """
    source = SeqSetVAELayout(files.patient_ehr)
    labels = read_labels(files.labels, label_name) if files.labels else None
    if needs_labels and files.labels and labels is not None:
        stays = (stay.stay_id for of_split in source.stays.values() for stay in of_split)
        require_match(files.labels, labels, np.fromiter(stays, np.int64))
    beside = {name: file for name, file in ((STATS, files.stats), (CACHED, files.embeddings)) if file is not None}
    return Opened(source=source, label_name=label_name, labels=labels, beside=beside)


class SeqSetVAELayout:
    """The stays of a patient_ehr folder; see the Source protocol."""

    def __init__(self, patient_ehr: Path) -> None:
        """List the files. A name that is not a stay number is a fault, reported by `skips`."""
        note = patient_ehr.resolve().parent / ORIGIN_NOTE  # where the data come from, for the manifest
        origin = f": {note.read_text(encoding='utf-8', errors='replace').strip()}" if note.is_file() else ""
        self.description = f"SeqSetVAE layout {patient_ehr.resolve()}{origin}"
        self.patient_ehr = patient_ehr
        self.stays: dict[str, Sequence[Stay]] = {}
        self.skips: list[Skip] = []
        self.unnamed_rows = UnnamedRows()  # a row without a name is a fault in this layout
        for split in SPLITS:
            names = parquet_names(patient_ehr / split)
            if len(names):
                self.stays[split] = self._list(patient_ehr / split, names)

    def _list(self, folder: Path, names: NDArray[np.bytes_]) -> Stays:
        """The stays in the order of their numbers, those of one number in the order of their names."""
        numbers = [stay_number(os.fsdecode(name).removesuffix(".parquet")) for name in names]
        good = np.array([number is not None for number in numbers])
        self.skips += [bad_name(str(folder / os.fsdecode(name)), "200001.parquet") for name in names[~good]]
        number = np.array([number for number in numbers if number is not None], dtype=np.int64)
        order = np.argsort(number, kind="stable")
        names = names[good][order]
        return Stays(number[order], lambda at: f"{folder}{os.sep}{os.fsdecode(names[at])}")

    def read(self, stays: Stays) -> Rows:
        """The rows of these stays; files that cannot be read become faults."""
        good: list[int] = []
        tables: list[pa.Table] = []
        skips: list[Skip] = []
        checked: list[pa.Schema] = []
        for at, stay in enumerate(stays):
            table = _read_parquet(stay.file, checked)
            if isinstance(table, pa.Table):
                tables.append(table)
                good.append(at)
            else:
                skips.append(fault(stay, *table))
        return _as_rows(stays[np.array(good, np.int64)], tables, skips)


def _read_parquet(file: str, checked: list[pa.Schema]) -> pa.Table | tuple[str, str]:
    """Columns variable, value, minute and, where the file has it, set_index; or (kind of fault, what is wrong).

    `checked` collects schemas that were found good: thousands of files share one.
    """
    try:
        with open(file, "rb") as stream:  # noqa: PTH123 - Path is measurably slower, and this runs for every file
            # Reading all bytes first is faster than the seeks of the parquet reader in a small file.
            content = pa.py_buffer(stream.read())
        try:
            parquet = pq.ParquetFile(content, read_dictionary=["variable"])
        except KeyError:  # no such column, or a nested one: reported by the check of the columns
            parquet = pq.ParquetFile(content)
        if (n_rows := parquet.metadata.num_rows) > MOST_ROWS:
            return "too many rows for one stay", f"{n_rows:,} rows; a stay has at most {MOST_ROWS:,}"
        schema = parquet.schema_arrow
        if schema not in checked:
            if wrong := _column_fault(schema):
                return wrong
            checked.append(schema)
        table = parquet.read(columns=[column for column in _COLUMNS if column in schema.names], use_threads=False)
        try:
            table["variable"].validate(full=True)  # parquet requires UTF-8, but no reader checks it
        except pa.ArrowInvalid as error:
            return "a column variable that is not in UTF-8", f"column variable is not text in UTF-8: {error}"
        return table
    except (pa.ArrowException, OSError) as error:
        return "not a readable parquet file", f"not a readable parquet file: {error}"


def _column_fault(schema: pa.Schema) -> tuple[str, str] | None:
    """(kind of fault, what is wrong) if the columns are not those of the layout."""
    names, listed = schema.names, ", ".join(schema.names) or "none"
    missing = [column for column in ("variable", "value", "minute") if column not in names]
    if missing:
        return "a missing column", f"column {', '.join(missing)} is missing; the columns are {listed}"
    for column in _COLUMNS:
        if names.count(column) > 1:
            return "a column that occurs twice", f"column {column} occurs twice; the columns are {listed}"
    for column in _NUMBERS:
        if column in names and not _is_number(kind := schema.field(column).type):
            return "a column that does not hold numbers", f"column {column} holds {kind}, not numbers"
    kind = schema.field("variable").type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        return "a column variable that is not text", f"column variable holds {kind}, not text"
    return None


def _is_number(kind: pa.DataType) -> bool:
    # A column of a stay without rows, or of nulls alone, has the type null.
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null)
    return any(is_kind(kind) for is_kind in kinds)


def _as_rows(stays: Stays, tables: list[pa.Table], skips: list[Skip]) -> Rows:
    """Join tables; consecutive ones with the same schema together: few large conversions are faster than many small."""
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
    shared = [-1 if name is None else codes.setdefault(trimmed(name), len(codes)) for name in local]
    return np.array([*shared, -1], dtype=np.int32)[pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)]


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy()
