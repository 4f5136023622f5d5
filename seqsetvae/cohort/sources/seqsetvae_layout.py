"""The SeqSetVAE layout: patient_ehr/{train,valid,test}/<stay>.parquet, with stats.csv, oc.csv, cached.csv beside it."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort
from seqsetvae.cohort.sidefiles import stay_number
from seqsetvae.cohort.tidy import SPLITS, Rows, Skip, Stay, StayFiles, UnnamedRows
from seqsetvae.errors import InputError
from seqsetvae.files import refuse_existing

ORIGIN_NOTE = "source.txt"
_NUMBERS = ("value", "minute", "set_index")
_COLUMNS = ("variable", *_NUMBERS)


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


# ------------------------------------------------------------------ writing the layout


@dataclass(frozen=True)
class StayTable:
    """One stay, ready to be written as a parquet file. E events."""

    stay_id: int
    variable: Sequence[str]  # E
    value: NDArray[np.float64]  # [E] in the variable's own unit
    minute: NDArray[np.float64]  # [E]
    set_index: NDArray[np.int64]  # [E]


def write_stay(folder: Path, stay: StayTable) -> Path:
    """Write <folder>/<stay_id>.0.parquet and return its path."""
    columns = {"variable": stay.variable, "value": stay.value, "minute": stay.minute, "set_index": stay.set_index}
    file = folder / f"{stay.stay_id}.0.parquet"
    pq.write_table(pa.table(columns), file)
    return file


def write_table(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a small CSV file; floats read back to the same bits."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def write_layout(cohort: Cohort, out: str | Path) -> Path:
    """Write a cohort as OUT/{patient_ehr/<split>/<stay>.0.parquet, stats.csv, oc.csv, cached.csv}; returns patient_ehr.

    Raises:
        InputError: `out` exists already.
    """
    out = Path(out)
    refuse_existing(out)
    for name in cohort.splits:
        folder = out / "patient_ehr" / name
        folder.mkdir(parents=True)
        for stay in _stays_of(cohort, name):
            write_stay(folder, stay)
    known = np.flatnonzero(~np.isnan(cohort.mean))
    stats = ((cohort.vocabulary[v], float(cohort.mean[v]), float(cohort.std[v])) for v in known)
    write_table(out / "stats.csv", ("variable", "mean", "std"), stats)
    labels = (
        (int(stay), int(label))
        for split in cohort.splits.values()
        for stay, label in zip(split.stay_id, split.label, strict=True)
        if label >= 0
    )
    write_table(out / "oc.csv", ("ts_id", cohort.label_name), labels)
    vectors = ((name, *vector.tolist()) for name, vector in zip(cohort.vocabulary, cohort.embeddings, strict=True))
    write_table(out / "cached.csv", ("Key", *range(cohort.embeddings.shape[1])), vectors)
    return out / "patient_ehr"


def _stays_of(cohort: Cohort, name: str) -> Iterable[StayTable]:
    split = cohort.split(name)
    names = cohort.vocabulary
    known = ~np.isnan(cohort.mean)
    mean, std = np.where(known, cohort.mean, 0.0), np.where(known, cohort.std, 1.0)
    for stay, start, end in zip(split.stay_id, split.stay_offset[:-1], split.stay_offset[1:], strict=True):
        offset = split.set_offset[start : end + 1]
        events = slice(offset[0], offset[-1])
        variable, n_events = split.variable[events], np.diff(offset)
        yield StayTable(
            stay_id=int(stay),
            variable=[names[v] for v in variable],
            value=split.value[events] * std[variable] + mean[variable],
            minute=np.repeat(split.minute[start:end], n_events),
            set_index=np.repeat(np.arange(end - start), n_events),
        )
