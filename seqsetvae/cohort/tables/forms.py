"""Which files are tables, and how they are written, if not with a header and one full row an event.

Letters: R rows of a part.
"""

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from seqsetvae.cohort.tables.cells import as_facts, as_text
from seqsetvae.system.errors import InputError, shown

TEXTS, PACKED = (".csv", ".tsv", ".psv", ".txt"), ("", ".gz", ".bz2", ".zst")
PARQUET, EXCEL = (".parquet", ".pq"), ".xlsx"
SUFFIXES = (*(text + packed for text in TEXTS for packed in PACKED), *PARQUET, EXCEL)
ENDINGS = f"{', '.join(TEXTS)} (also packed: {', '.join(PACKED[1:])}), {', '.join(PARQUET)}, {EXCEL}"
_OWN = (".", "_", "~$")  # first characters of names that are no data; ~$ is that of files open in Office
_VERSIONS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
NAMED = 3  # files or endings that a note names


def is_table(path: Path) -> bool:
    """Whether the name is that of a CSV or Parquet file."""
    return path.name.lower().endswith(SUFFIXES)


def table_files(src: Path) -> list[Path]:
    """SRC itself, or all tables in this folder and those below it, by name.

    Names that begin with a point, an underscore or ~$ do not count: hidden files, those of Spark, open ones of Office.

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
    visible: list[Path] = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(_OWN)]
        names = files + [name for name in folders if (Path(where) / name).is_symlink()]
        visible += [Path(where) / name for name in names if not name.startswith(_OWN)]
    return sorted(visible)


def refuse_versions(folder: Path) -> None:
    """Raises InputError for a table of Delta, Hudi or Iceberg, whose folder also holds rows that were deleted."""
    for where, folders, _ in os.walk(folder):
        kinds = [what for name, what in _VERSIONS.items() if name in folders]
        kinds += ["Iceberg"] * ("metadata" in folders and any((Path(where) / "metadata").glob("*.metadata.json")))
        if kinds:
            raise InputError(
                f"{where}: is a table of {kinds[0]}, whose folder also holds files of earlier versions. Write its "
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


COLUMN, FILE_NAME, FOLDER = "column", "filename", "folder"  # where the id of a row is
ID_PLACES = (COLUMN, FILE_NAME, FOLDER)
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}


@dataclass(frozen=True)
class Form:
    """What the flags say of the tables of SRC; the default is a header and one full row an event."""

    encoding: str = "utf-8"  # of text files
    separator: str | None = None  # between the cells of a text file; None: the one of its name or header
    names: tuple[str, ...] = ()  # of the columns, in files without a header
    id_column: str = "id"
    id_place: str = COLUMN  # one of ID_PLACES
    time_column: str = "time"
    clock_column: str | None = None  # time of day, where the time column holds the date alone
    fill_down: tuple[str, ...] = ()  # columns whose empty cells mean the cell above
    is_wide: bool = False  # a column a variable, and a time a row
    value_columns: tuple[str, ...] = ()  # those that are variables; without any, all that are not taken
    taken: frozenset[str | None] = frozenset()  # columns with another meaning

    def physical(self, columns: Sequence[str]) -> list[str]:
        """The columns to read from a file for these columns."""
        names = [name for name in columns if name != self.id_column or self.id_place == COLUMN]
        if self.clock_column is not None and self.time_column in names:
            names.append(self.clock_column)
        return list(dict.fromkeys(names))


USUAL = Form()


@dataclass
class Derive:
    """The columns of a file that are made of its name or of other columns, part by part."""

    form: Form
    file: Path
    _above: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # the last cell of each column, and its id

    def columns(self, cells: dict[str, pa.Array], wanted: Sequence[str], n_rows: int) -> dict[str, pa.Array]:
        """The `wanted` columns of a part [R], from the cells that were read."""
        form, cells = self.form, dict(cells)
        for name in sorted(form.fill_down, key=lambda name: name != form.id_column):
            if name in cells:
                cells[name] = self._filled(name, cells[name], cells.get(form.id_column))
        if form.clock_column is not None and form.time_column in cells:
            cells[form.time_column] = _joined(cells[form.time_column], cells[form.clock_column])
        if form.id_column in wanted and form.id_place != COLUMN:
            cells[form.id_column] = pa.repeat(pa.scalar(id_of_path(self.file, form.id_place)), n_rows)
        return {name: cells[name] for name in wanted if name in cells}

    def _filled(self, name: str, column: pa.Array, ids: pa.Array | None) -> pa.Array:
        """Empty cells become the cell above, also that of the part before; not that of another id."""
        cells = pc.if_else(as_facts(column).is_null(), None, column)
        above, above_id = self._above.get(name, (None, None))
        filled = pc.fill_null_forward(pa.concat_arrays([pa.array([above], column.type), cells]))
        if ids is not None and name != self.form.id_column:
            ids = pa.concat_arrays([pa.array([above_id], ids.type), ids])
            owner = pc.fill_null_forward(pc.if_else(pa.concat_arrays([pa.array([True]), cells.is_valid()]), ids, None))
            filled = pc.if_else(pc.equal(owner, ids), filled, None)
        self._above[name] = filled[-1].as_py(), None if ids is None else ids[-1].as_py()
        return filled[1:]


def id_of_path(file: Path, place: str) -> str:
    """The id that a file's name (without its endings), or its folder's, states; `id=101` is 101.

    >>> id_of_path(Path("training/p100001.psv.gz"), FILE_NAME), id_of_path(Path("id=101/part-0.parquet"), FOLDER)
    ('p100001', '101')
    """
    name = file.name.split(".")[0] if place == FILE_NAME else file.absolute().parent.name
    text = name.rpartition("=")[2]
    if not text:
        raise InputError(f"{file}: the name of its {'folder' if place == FOLDER else 'file'} states no id (--id_from).")
    return text


def refuse_shared_ids(src: Path, files: Sequence[Path], place: str) -> None:
    """Raises InputError if two files, or two folders of them, would give one id, or a file of SRC itself gives none."""
    first: dict[str, Path] = {}
    for file in files if place != COLUMN else ():
        owner = file if place == FILE_NAME else file.parent
        if owner == src and place == FOLDER:
            raise InputError(f"{file}: is in {src} itself; --id_from folder needs a folder for each id in it.")
        name = id_of_path(file, place)
        if first.setdefault(name, owner) != owner:
            raise InputError(
                f"--id_from {place}: {first[name]} and {owner} would both be the id {shown(name)}. Give each id one "
                f"{'file' if place == FILE_NAME else 'folder'}, or write the ids in a column (--id_from column)."
            )


def _joined(date: pa.Array, clock: pa.Array) -> pa.Array:
    """Dates and times of day as texts `date clock`; null where one is empty. 8:30 is 08:30."""
    midnight = r"[ T]00:00:00(\.0+)?$"  # of a date that was written as a timestamp
    day = pc.replace_substring_regex(as_text(date), midnight, "")
    return pc.binary_join_element_wise(day, pc.replace_substring_regex(as_text(clock), "^([0-9]):", r"0\1:"), " ")
