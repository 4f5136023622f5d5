"""What a folder of tables holds: files that are no data, that are not read, or whose rows are there twice."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort.command import main
from seqsetvae.cohort.sidefiles import VariableMap
from seqsetvae.cohort.tables import database
from seqsetvae.cohort.tables.codes import EventCodes
from seqsetvae.cohort.tables.database import open_database
from seqsetvae.cohort.tables.events import Columns, TimeFlags, read_events

from .conftest import EVENTS, HEADER


@pytest.mark.parametrize("name", ["_temporary/0/part-1.csv", "_SUCCESS", "_copy.csv", ".part-0.csv.crc", ".b.csv"])
def test_files_that_a_program_keeps_for_itself_are_no_data(tables, name):
    tables.csv("src/a.csv", EVENTS)
    expected = tables.compile(tables.root / "src")
    tables.csv(f"src/{name}", EVENTS)
    cohort = tables.compile(tables.root / "src")
    assert cohort.manifest["checksums"] == expected.manifest["checksums"]
    said = [note for note in cohort.manifest["import"]["notes"] if "rows may be missing" in note]
    assert len(said) == ("_temporary" in name)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("_delta_log/00000000000000000000.json", "Delta"),
        ("sub/_delta_log/0.json", "Delta"),
        (".hoodie/hoodie.properties", "Hudi"),
        ("metadata/v1.metadata.json", "Iceberg"),
    ],
)
def test_a_table_that_also_holds_earlier_versions_is_an_error(tables, name, what):
    tables.csv("src/a.csv", EVENTS)
    tables.csv(f"src/{name}", "{}")
    assert f"is a table of {what}, whose folder also holds files of earlier versions" in tables.refused(
        tables.root / "src"
    )


def test_files_that_are_not_read_are_said(tables):
    tables.csv("src/a.csv", EVENTS)
    for name in ("b.csv.xz", "sub/b.orc"):
        tables.csv(f"src/{name}", "x")
    src = tables.root / "src"
    said = f"{src}: 2 files of this folder are not read: b.csv.xz, sub/b.orc. Tables are files whose names end in"
    tables.compile(src)
    assert said in tables.said().out
    main(["check", str(src)])
    assert said in tables.said().out
    for number in range(5):
        tables.csv(f"src/p{number}.json", "x")
    tables.compile(src)
    assert "7 files of this folder are not read: 5 .json, 1 .csv.xz, 1 .orc." in tables.said().out


@pytest.mark.parametrize("name", ["events (1).csv", "events.parquet"])
def test_a_file_that_is_there_twice_is_an_error(tables, name):
    file = tables.csv("src/events.csv", HEADER + "".join(f"{stay},0,hr,{stay}\n" for stay in range(12)))
    if name.endswith(".csv"):
        shutil.copy(file, file.with_name(name))
    else:
        columns = {"id": [*range(11)], "time": [0.0] * 11, "variable": ["hr"] * 11, "value": [*range(11)]}
        pq.write_table(pa.table(columns), file.with_name(name))
    error = tables.refused(tables.root / "src")
    assert "events are in" in error
    assert "(the same id, time, variable and value), as if a file were there twice." in error
    assert str(file) in error
    assert str(file.with_name(name)) in error


def test_rows_that_occur_twice_are_counted_and_kept(tables):
    tables.csv("src/a.csv", EVENTS + "7,0,hr,80\n7,0,hr,81\n7,0,rhythm,sinus\n7,0,rhythm,sinus\n")
    tables.csv("src/b.csv", HEADER + "9,0,hr,70\n9,1,hr,70\n9,0,lactate,70\n")
    cohort = tables.compile(tables.root / "src")
    assert cohort.manifest["import"]["notes"][-1] == (
        "the same id, time, variable and value: 1 event in two files and 2 events twice in a file, 25.0% of all; "
        "all are kept"
    )
    assert cohort.manifest["splits"]["train"]["events"] == 12


def test_repeated_rows_are_counted_exactly_in_blocks_of_any_size(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, [5, 4, 3, 3], (400, 4))
    files = [tmp_path / f"{at}.csv" for at in range(4)]
    for file, part in zip(files, np.split(rows, 4), strict=True):
        file.write_text(HEADER + "".join(f"{a},{b},v{c},{d}\n" for a, b, c, d in part.tolist()))
    seen: dict[tuple[int, ...], int] = {}
    within = across = 0
    for at, row in enumerate(map(tuple, rows.tolist())):
        first = seen.setdefault(row, at)
        within += first != at and first // 100 == at // 100
        across += first // 100 != at // 100
    monkeypatch.setattr("seqsetvae.cohort.tables.database.TOO_MANY", np.inf)
    for size in (1 << 21, 50):
        monkeypatch.setattr(database, "ROWS_PER_BLOCK", size)
        codes = EventCodes(VariableMap())
        with open_database(tmp_path, 1) as db:
            (note,) = read_events(files, Columns("id", "time", "variable", "value"), codes, TimeFlags(), db).notes
        assert f"{across:,} events in two files and {within:,} events twice in a file" in note


def test_hidden_files_of_a_layout_are_no_stays(folder):
    for name in ("._1", "_copy"):
        (folder.ehr / "train" / f"{name}.parquet").write_bytes(b"x")
    assert main(["compile", str(folder.ehr), str(folder.root / "out")]) == 0


@pytest.mark.parametrize(
    ("row", "flags", "message"),
    [
        (",0,hr,80,0", [], "c.csv, row 1 (counted from 0): the row has no id"),
        ("3,noon,hr,80,0", [], "c.csv, row 1 (counted from 0), variable 'hr': id 3, column time: 'noon' is not"),
        ("3,1,hr,,0", [], "c.csv, row 1 (counted from 0), variable 'hr': id 3, column value: empty"),
        ("3,1,rhythm,a\0b,0", [], "c.csv, column value: row 1 (counted from 0), variable 'rhythm': the cell holds"),
        ("3,1,hr,80,2", ["--label_column", "died"], "c.csv, row 1 (counted from 0), column died: '2' is not a label"),
        (
            "3,1,hr,80,1",
            ["--static_columns", "died"],
            "c.csv, row 1 (counted from 0), column died: '1', but another row",
        ),
        ("1.5e17,1,hr,80,0", [], "c.csv, column id: '1.5e17' is in scientific notation"),
    ],
)
def test_faults_in_small_files_that_are_read_together_name_the_file(tables, row, flags, message):
    for at, name in enumerate("abcd", start=1):
        bad = f"{row}\n" if name == "c" else ""
        tables.csv(f"src/{name}.csv", f"{HEADER.strip()},died\n{at},0,hr,80,0\n{bad}{at},2,hr,81,0\n")
    assert message in tables.refused(tables.root / "src", *flags)
