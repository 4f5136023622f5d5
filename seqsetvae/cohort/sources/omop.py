"""The OMOP common data model: clinical tables (CSV or Parquet) are rewritten as events and stays, then read as a table.

A stay is a visit. Letters: R rows of a part.
"""

import contextlib
import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqsetvae.cohort.imported import PREDICTION_TIME
from seqsetvae.cohort.sources import table
from seqsetvae.cohort.sources.opened import MadeFiles, Opened
from seqsetvae.cohort.sources.table_flags import add_label_flags, add_label_rule_flags, add_shared_flags, spool_folder
from seqsetvae.cohort.tables.cells import as_facts, as_id_texts, cast_cells, in_column
from seqsetvae.cohort.tables.forms import SUFFIXES, table_files
from seqsetvae.cohort.tables.read import column_names, read_parts
from seqsetvae.system.errors import InputError, counted, shown

HELP = "Compile the tables of an OMOP common data model (measurement, observation, condition, drug, procedure, visit)."
VISIT, PERSON, DEATH = "visit_occurrence", "person", "death"
ID, NO_CONCEPT = "visit_occurrence_id", "0"
FACTS = ("age", "gender", "race", "ethnicity", "visit")


class _Domain(NamedTuple):
    """The columns of a clinical table, in lower case; None = it has none."""

    concept: str
    time: str  # of the event, or of its begin; the date is in the column without `time`
    number: str | None = None
    level: str | None = None  # concept of the value
    text: str | None = None


DOMAINS = {
    "measurement": _Domain("measurement_concept_id", "measurement_datetime", "value_as_number", "value_as_concept_id"),
    "observation": _Domain(
        "observation_concept_id", "observation_datetime", "value_as_number", "value_as_concept_id", "value_as_string"
    ),
    "condition_occurrence": _Domain("condition_concept_id", "condition_start_datetime"),
    "drug_exposure": _Domain("drug_concept_id", "drug_exposure_start_datetime"),
    "procedure_occurrence": _Domain("procedure_concept_id", "procedure_datetime"),
}


def add_flags(parser: ArgumentParser) -> None:
    """The flags of `data.py omop`."""
    parser.add_argument("src", type=Path, metavar="FOLDER", help="a folder with a file, or folder of files, a table")
    visits = "visits of these concepts alone, such as 9201 (inpatient) and 9203 (emergency); default: all"
    parser.add_argument("--visit_concepts", nargs="+", default=[], metavar="ID", help=visits)
    add_label_flags(parser, f"--id_column ({ID})", None, PREDICTION_TIME)
    add_label_rule_flags(parser)
    add_shared_flags(parser)


def open_source(arguments: Namespace) -> Opened:
    """The tables of this folder. Raises InputError."""
    files_of = {name: _files(arguments.src, name) for name in (*DOMAINS, VISIT, PERSON, DEATH, "concept")}
    missing = [name for name in (VISIT, PERSON) if not files_of[name]]
    domains = [name for name in DOMAINS if files_of[name]]
    if missing or not domains:
        raise InputError(
            f"{arguments.src}: has no table {' and no table '.join(missing) or ', '.join(DOMAINS)}. Tables are files "
            f"such as {missing[0] if missing else 'measurement'}.csv, or folders of that name, in upper or lower case."
        )
    if arguments.label_present == DEATH and not files_of[DEATH]:
        raise InputError(f"{arguments.src}: has no table {DEATH}, so that nobody would have died (--label_present).")
    names = _concepts(files_of["concept"])
    with tempfile.TemporaryDirectory(prefix=".seqsetvae-omop-", dir=spool_folder(arguments.out)) as temporary:
        folder = Path(temporary)
        visits, n_unknown = _stays(files_of, names, arguments.visit_concepts)
        pq.write_table(visits, folder / "stays.parquet")
        (folder / "events").mkdir()
        read, lost, seen = list[str](), list[str](), set[str]()  # seen: visits with events
        if n_unknown:
            lost.append(f"{_shown(files_of[PERSON])}: lacks the persons of {counted(n_unknown, 'visit')}")
        for name in DOMAINS:
            if files_of[name]:
                n_rows, n_used = _write_events(name, files_of[name], names, visits[ID], folder / "events", seen)
                read.append(f"{name}: {counted(n_rows, 'row')}")
                if n_used < n_rows:
                    others = f"of which {n_rows - n_used:,} are of no visit that is read, and not used"
                    lost.append(f"{read[-1]}, {others}")
        if not seen:
            raise InputError(f"{arguments.src}: no event is of a visit that is read ({ID}). {'; '.join(lost)}.")
        if n_silent := visits.num_rows - len(seen):
            lost.append(f"{_shown(files_of[VISIT])}: {counted(n_silent, 'visit')} without an event, not in the cohort")
        parser = ArgumentParser(add_help=False)
        table.add_flags(parser)
        of_table = vars(parser.parse_args(["SRC"])) | vars(arguments)  # flags that are not given have their defaults
        of_table |= {"stays": folder / "stays.parquet", "start_column": "start", "end_column": "end"}
        of_table |= {"subject_column": "subject", "static_columns": list(FACTS), "text_column": "text"}
        of_table |= {"non_numeric": "level", "id_column": ID}
        made = {str(folder / "events" / f"{name}.parquet"): _shown(files_of[name]) for name in domains}
        made |= {str(folder / "stays.parquet"): _shown(files_of[VISIT])}
        files, called = sorted((folder / "events").iterdir()), MadeFiles(made, has_rows=False)
        with called.errors():
            opened = table.open_tables(Namespace(**of_table), files, read=read, notes=lost)
    return called.renamed(opened, f"OMOP {arguments.src.resolve()}")


def is_omop(path: Path) -> bool:
    """Whether a folder has the tables of visits and persons."""
    return bool(_files(path, VISIT) and _files(path, PERSON))


def _files(folder: Path, name: str) -> list[Path]:
    """The files of a table; none if there is no such table."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.")
    paths = []
    for path in sorted(folder.iterdir()):
        stem = path.name.lower()
        if (path.is_dir() and stem == name) or (path.is_file() and stem.removeprefix(name) in SUFFIXES):
            paths.append(path)
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise InputError(f"{folder}: has the table {name} more than once: {names}. Keep one.")
    return table_files(paths[0]) if paths else []


def _shown(files: Sequence[Path]) -> str:
    """The name of a table in messages: its file, or the folder of its files."""
    return str(files[0] if len(files) == 1 else files[0].parent)


def _read(file: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[dict[str, pa.Array]]:
    """The parts of a table as texts by lower-case name; columns that are missing and optional are empty."""
    of_lower = {name.lower(): name for name in column_names(file)}
    wanted = [name for name in dict.fromkeys([*columns, *optional]) if name in of_lower or name in columns]
    for part in read_parts(file, [of_lower.get(name, name) for name in wanted], free=tuple(of_lower.values())):
        cells = {name: _texts(file, name, part.columns[of_lower[name]]) for name in wanted}
        yield cells | {name: pa.nulls(len(part), pa.string()) for name in optional if name not in of_lower}


def _texts(file: Path, name: str, cells: pa.Array) -> pa.Array:
    """[R] Cells as texts. Numbers of visits, persons and concepts are written alike in all tables: 12.0 is 12."""
    read = as_id_texts if name.endswith("_id") or name == "year_of_birth" else as_facts
    return in_column(str(file), name, lambda: read(cells))


def _concepts(files: list[Path]) -> dict[str, str]:
    """Concept id -> name, of the vocabulary; a name that several concepts have carries the id."""
    names: dict[str, str] = {}
    for file in files:
        for cells in _read(file, ["concept_id", "concept_name"]):
            names |= dict(zip(cells["concept_id"].to_pylist(), cells["concept_name"].to_pylist(), strict=True))
    seen = Counter(names.values())
    return {concept: name if seen[name] == 1 else f"{name} ({concept})" for concept, name in names.items()}


def _named(concepts: pa.Array, names: dict[str, str]) -> pa.Array:
    """[R] The name of each concept, its id where the vocabulary lacks it, null for none."""
    encoded = concepts.dictionary_encode()
    texts = [
        None if text in (None, NO_CONCEPT) else names.get(text) or f"concept {text}"
        for text in encoded.dictionary.to_pylist()
    ]
    return pa.array(texts, pa.string()).take(encoded.indices)


def _time(cells: dict[str, pa.Array], column: str, clock: str) -> pa.Array:
    """[R] The time; a date alone, or at midnight, as sources without times of day write it, is at `clock` of its day.

    Events are then at the end of the day, so that none is known before it was, and visits begin with the day.
    """
    text = pc.coalesce(cells[column], cells[column.removesuffix("time")])
    day = pc.replace_substring_regex(text, r"^([0-9]{4}-[0-9]{2}-[0-9]{2})([ T]00:00(:00(\.0+)?)?)?$", r"\1")
    return pc.if_else(pc.equal(pc.utf8_length(day), 10), pc.binary_join_element_wise(day, clock, " "), text)


def _whole(files: list[Path], columns: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    parts = [pa.table({name: pa.nulls(0, pa.string()) for name in dict.fromkeys((*columns, *optional))})]
    parts += [pa.table(cells) for file in files for cells in _read(file, columns, optional)]
    return pa.concat_tables([part.select(parts[0].column_names) for part in parts])


def _one_row_each(files: list[Path], key: str, rows: pa.Table) -> pa.Table:
    """Rows without those that occur twice. Raises InputError if two of one `key` differ."""
    rows = rows.group_by(rows.column_names, use_threads=False).aggregate([])
    counts = rows.group_by(key, use_threads=False).aggregate([([], "count_all")])
    several = counts.filter(pc.greater(counts["count_all"], 1))
    if several.num_rows:
        example, n = (several[name][0].as_py() for name in (key, "count_all"))
        more = counted(several.num_rows, "such id")
        raise InputError(f"{_shown(files)}: {key} {example} has {n} rows that differ ({more}). Keep one row for each.")
    return rows


def _stays(files: dict[str, list[Path]], names: dict[str, str], concepts: Sequence[str]) -> tuple[pa.Table, int]:
    """(a row a visit: its id, subject, start, end, death (within the visit) and FACTS; visits of unknown persons)."""
    time = ["visit_start_datetime", "visit_start_date", "visit_end_datetime", "visit_end_date"]
    visits = _whole(files[VISIT], [ID, "person_id", "visit_concept_id"], time)
    for name in (ID, "person_id"):
        if visits[name].null_count:
            raise InputError(f"{_shown(files[VISIT])}: {counted(visits[name].null_count, 'visit')} without {name}.")
    if concepts:
        visits = visits.filter(pc.is_in(visits["visit_concept_id"], pa.array(list(concepts))))
        if not visits.num_rows:
            raise InputError(f"--visit_concepts {' '.join(concepts)}: no visit is of these concepts.")
    birth = ["birth_datetime", "year_of_birth", "gender_concept_id", "race_concept_id", "ethnicity_concept_id"]
    persons = _whole(files[PERSON], ["person_id"], birth)
    deaths = _whole(files[DEATH], ["person_id"], ["death_datetime", "death_date"])
    died = pc.coalesce(deaths["death_datetime"], deaths["death_date"])
    dead = pa.table({"person_id": deaths["person_id"], "death": died})
    visits = _one_row_each(files[VISIT], ID, visits)
    persons = _one_row_each(files[PERSON], "person_id", persons.filter(persons["person_id"].is_valid()))
    dead = _one_row_each(files[DEATH], "person_id", dead.filter(dead["person_id"].is_valid()))
    n_unknown = visits.num_rows - pc.sum(pc.is_in(visits["person_id"], persons["person_id"])).as_py()
    rows = visits.join(persons, "person_id").join(dead, "person_id").combine_chunks()
    cells = {name: rows[name].combine_chunks() for name in rows.column_names}
    start = _time(cells, "visit_start_datetime", "00:00")
    end = _time(cells, "visit_end_datetime", "23:59")
    where = files[VISIT][0].parent
    times = {"start of a visit": start, "death": cells["death"], "end of a visit": end}
    day = [_day(where, what, column) for what, column in times.items()]
    within = pc.and_(pc.greater_equal(day[1], day[0]), pc.less_equal(day[1], pc.coalesce(day[2], day[1])))
    columns = {ID: cells[ID], "subject": cells["person_id"], "start": start, "end": end}
    died = pc.if_else(pc.fill_null(within, False), cells["death"], None)
    columns |= {"death": died, "age": _age(where, cells, start)}
    columns |= {name: _named(cells[f"{name}_concept_id"], names) for name in ("gender", "race", "ethnicity", "visit")}
    return pa.table(columns), n_unknown


def _day(where: Path, column: str, time: pa.Array) -> pa.Array:
    """[R] The dates of times. Raises InputError for a cell that is none."""
    day = cast_cells(pc.utf8_slice_codeunits(time, 0, 10), pa.date32())
    wrong = pc.and_(day.is_null(), time.is_valid())
    if pc.any(wrong).as_py():
        cell, n = shown(time.filter(wrong)[0].as_py()), pc.sum(wrong).as_py()
        raise InputError(f"{where}: the {column} {cell} is no date such as 2150-01-31 ({counted(n, 'such visit')}).")
    return day


def _age(where: Path, cells: dict[str, pa.Array], start: pa.Array) -> pa.Array:
    """[R] Years from birth, or from the middle of the year of birth, to the start, as texts with one decimal."""
    middle = pc.binary_join_element_wise(cells["year_of_birth"], "07-01", "-")
    birth = pc.coalesce(cells["birth_datetime"], middle)
    days = pc.days_between(_day(where, "birth", birth), _day(where, "start of a visit", start))
    return pc.round(pc.divide(days.cast(pa.float64()), 365.25), 1).cast(pa.string())


def _write_events(
    name: str, files: list[Path], names: dict[str, str], visits: pa.ChunkedArray, folder: Path, seen: set[str]
) -> tuple[int, int]:
    """Write the events of a clinical table, those of a visit, to a file; returns (its rows, those of a visit).

    The visits that have some are added to `seen`.
    """
    domain, n_rows, n_used = DOMAINS[name], 0, 0
    values = [*filter(None, domain[2:]), domain.time, domain.time.removesuffix("time")]
    units = ["unit_source_value", "unit_concept_id"] if domain.number else []
    source = domain.concept.replace("_concept_id", "_source_value")
    with contextlib.ExitStack() as stack:
        writer = None
        for file in files:
            for cells in _read(file, [ID, domain.concept], [*values, *units, source]):
                rows = pa.table(_event_columns(name, domain, cells, names, source))
                n_rows += rows.num_rows
                rows = rows.filter(pc.is_in(rows[ID], visits.combine_chunks()))
                n_used += rows.num_rows
                seen.update(pc.unique(rows[ID]).to_pylist())
                writer = writer or stack.enter_context(pq.ParquetWriter(folder / f"{name}.parquet", rows.schema))
                writer.write_table(rows)
    return n_rows, n_used


def _event_columns(
    name: str, domain: _Domain, cells: dict[str, pa.Array], names: dict[str, str], source: str
) -> dict[str, pa.Array]:
    """The columns of `data.py table`, [R] each."""
    kind, empty = name.split("_")[0], pa.nulls(len(cells[ID]), pa.string())
    concept = _named(cells[domain.concept], names)
    variable = pc.coalesce(concept, pc.binary_join_element_wise("source", cells[source], " "), pa.scalar("unknown"))
    variable = pc.binary_join_element_wise(kind, variable, "/")
    number = cells[domain.number] if domain.number else empty
    if domain.number:
        unit = pc.coalesce(cells["unit_source_value"], _named(cells["unit_concept_id"], names))
        with_unit = pc.binary_join_element_wise(variable, pc.binary_join_element_wise("[", unit, "]", ""), " ")
        variable = pc.if_else(pc.and_(number.is_valid(), with_unit.is_valid()), with_unit, variable)
    level = _named(cells[domain.level], names) if domain.level else empty
    text = pc.coalesce(level, cells[domain.text]) if domain.text else level
    return {
        ID: cells[ID],
        "time": _time(cells, domain.time, "23:59"),
        "variable": variable,
        "value": number,
        "text": text,
    }
