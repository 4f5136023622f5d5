"""Where stays come from: one file per origin, by the name of its subcommand of data.py; and tables in memory."""

import argparse
import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, NoReturn, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from seqsetvae.cohort import compile as compiler
from seqsetvae.cohort.format import Cohort, is_compiled
from seqsetvae.cohort.sources import meds, omop, physionet2012, seqsetvae_layout, shards, table
from seqsetvae.cohort.sources.meds_data import is_meds
from seqsetvae.cohort.sources.opened import MadeFiles, Opened, add_common, compile_flags
from seqsetvae.cohort.sources.table_flags import spool_folder
from seqsetvae.cohort.tables.forms import is_table
from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import refuse_existing


class Origin(Protocol):
    """What the module of an origin must have."""

    HELP: str  # what the subcommand does

    def add_flags(self, parser: ArgumentParser) -> None:
        """Add its flags; OUT and those of opened.add_common are added afterwards."""
        ...

    def open_source(self, arguments: Namespace) -> Opened:
        """The stays, labels and side tables that these flags name. Raises InputError."""
        ...


SOURCES: dict[str, Origin] = {
    "physionet2012": physionet2012,
    "compile": seqsetvae_layout,
    "join": shards,
    "table": table,
    "meds": meds,
    "omop": omop,
}


def recognise(path: Path) -> str | None:
    """The name of the source that reads `path`, else an InputError; None for a compiled cohort and the old layout."""
    if not path.is_dir():
        return "table"
    if is_compiled(path):
        return None
    if is_meds(path):
        return "meds"
    if omop.is_omop(path):
        return "omop"
    if any(path.glob("Outcomes-[abc].txt")):
        return "physionet2012"
    is_layout = any((folder / split).is_dir() for folder in (path, path / "patient_ehr") for split in SPLITS)
    return "table" if not is_layout and any(is_table(file) for file in path.rglob("*")) else None


# ------------------------------------------------------------------ tables in memory


_TABLES = ("events", "labels", "stays")  # arguments that may be tables in memory


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message.replace("--", ""))


def compile_cohort(out: str | Path, events: Any, *, labels: Any = None, stays: Any = None, **flags: Any) -> Cohort:
    """Compile tables into the new folder `out` and open it; it is what `data.py table` makes of the same tables.

    Args:
        out: a folder that does not exist yet.
        events: a row an event, or a row a time with wide=True: a pandas, polars or Arrow table, or a path.
        labels: ids and labels, perhaps with prediction times; likewise.
        stays: one row an id: starts, patients, facts; likewise.
        flags: those of `data.py table` by name: label_name="died", until_hour=24, static_columns=["age", "sex"].

    Raises:
        InputError: as the command, naming a table of these arguments and a row in it, counted from 0.
    """
    out = Path(out)
    refuse_existing(out)
    with tempfile.TemporaryDirectory(prefix=".seqsetvae-", dir=spool_folder(out)) as folder:
        named = {"events": events, "labels": labels, "stays": stays, **flags}
        paths = {name: _path(named.pop(name, None), Path(folder) / name) for name in _TABLES}
        words = [str(paths.pop("events")), str(out)]
        for name, value in (*paths.items(), *named.items()):
            words += _flag_words(name, value)
        parser = _Parser(prog="compile_cohort", allow_abbrev=False, add_help=False)
        table.add_flags(parser)
        add_common(parser)
        arguments = parser.parse_args(words)
        made = MadeFiles({f"{folder}/{name}.parquet": name for name in _TABLES})
        description = None if isinstance(events, str | Path) else "a table in memory"
        with made.errors():
            opened = made.renamed(table.open_source(arguments), description)
            return compiler.compile_cohort(**vars(opened), out=out, **compile_flags(arguments), progress=False)


def _path(given: Any, file: Path) -> Path | None:
    """A path as it is; a table in memory is written to a Parquet file. Raises InputError for anything else."""
    if given is None or isinstance(given, str | Path):
        return None if given is None else Path(given)
    try:
        is_pandas = hasattr(given, "iloc")  # whose index is no column
        content = pa.Table.from_pandas(given, preserve_index=False) if is_pandas else pa.table(given)
        pq.write_table(_without_views(content), file.with_suffix(".parquet"))
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{file.name}: received {type(given).__name__}: {error}") from None
    return file.with_suffix(".parquet")


def _without_views(content: pa.Table) -> pa.Table:
    """Replace dictionaries of string_view, the categories of polars, which Parquet files cannot hold."""
    kinds = content.schema.types
    views = [pa.types.is_dictionary(kind) and pa.types.is_string_view(kind.value_type) for kind in kinds]
    kinds = [pa.dictionary(pa.int32(), pa.string()) if view else kind for view, kind in zip(views, kinds, strict=True)]
    return content.cast(pa.schema(zip(content.column_names, kinds, strict=True)))


def _flag_words(name: str, value: Any) -> list[str]:
    """A flag of the data command as words: None, False and no values leave it out, True is the flag alone."""
    if value is None or value is False or (isinstance(value, list | tuple) and not value):
        return []
    values = value if isinstance(value, list | tuple) else [] if value is True else [value]
    return [f"--{name}", *map(str, values)]
