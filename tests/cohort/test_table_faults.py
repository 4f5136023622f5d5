"""Faults in long tables: one clear error names file, row and column, and --skip_bad leaves the stay out."""

import csv
import gzip
import re
import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.command import main
from seqsetvae.cohort.imported import read_skipped, write_skipped
from seqsetvae.cohort.tables import read
from seqsetvae.cohort.tidy import Skip
from tests.tiny import largest_file

from .conftest import HEADER

GOOD = "1,0,hr,80\n1,30,hr,90\n2,0,hr,70\n2,10,lactate,2\n"
STAMPED = "1,2020-01-01 10:00,hr,80\n2,2020-01-01 10:00,hr,70\n"


@pytest.mark.parametrize(
    ("rows", "row", "variable", "reason"),
    [
        (GOOD + "3,0,hr,\n3,1,hr,5\n", 4, "hr", "id 3, column value: empty, and other rows of this variable have"),
        (GOOD + "3,0,hr,>90\n", 4, "hr", "id 3, column value: '>90' is not a number, and other rows of this variable"),
        (GOOD + '3,0,hr,"7,4"\n', 4, "hr", "id 3, column value: '7,4' is not a number"),
        (GOOD + "3,0,hr,5\n3,1,hr,inf\n", 5, "hr", "id 3, column value: inf is not a finite number"),
        (GOOD + "3,0,hr,1e39\n", 4, "hr", "id 3, column value: 1e+39 is not a finite number that float32 can hold"),
        (GOOD + "3,0, ,5\n", 4, None, "id 3, column variable: the variable has no name"),
        (GOOD + "3,,hr,5\n", 4, "hr", "id 3, column time: an empty cell is not a number of minutes"),
        (GOOD + "3,soon,hr,5\n", 4, "hr", "id 3, column time: 'soon' is not a number of minutes"),
        (GOOD + '3,"3,5",hr,5\n', 4, "hr", "id 3, column time: '3,5' is not a number of minutes (pass --decimal , if"),
        (STAMPED + "3,,hr,5\n", 2, "hr", "id 3, column time: an empty cell is not a timestamp without a time zone"),
        (STAMPED + "3,2020-13-01 00:00,hr,5\n", 2, "hr", "column time: '2020-13-01 00:00' is not a timestamp without"),
        (STAMPED + "3,2020-01-01 00:00Z,hr,5\n", 2, "hr", "is not a timestamp without a time zone"),
    ],
)
def test_a_faulty_row_is_an_error_and_its_stay_may_be_left_out(tables, rows, row, variable, reason):
    src = tables.csv("e.csv", HEADER + rows)
    error = tables.refused(src)
    assert error.startswith("error: 1 faulty stay:\n  1 stay, 1 row: ")
    named = "" if variable is None else f", variable {variable!r}"
    assert f"for example {src}, row {row} (counted from 0){named}: " in error
    assert reason in error
    assert "or pass --skip_bad to leave them out" in error
    assert re.search(r"--skip_bad would leave out 1 of 3 stays \(33\.3%\)\.$", error.strip())  # no label, no rates
    assert not (tables.root / "out").exists()
    assert tables.run(src, "--skip_bad") == 0
    assert "1 faulty stay left out; see" in tables.said().out
    cohort = open_cohort(tables.root / "out")
    assert cohort.split("train").stay_id.tolist() == [1, 2]
    (skip,) = read_skipped(cohort.path)
    assert (skip.file, skip.row, skip.variable, skip.is_fault) == (str(src), row, variable, True)


def test_rows_without_an_id_are_counted_as_rows_and_are_no_stay(tables, monkeypatch):
    monkeypatch.setattr(read, "BYTES_PER_PART", 64)  # many parts, and still one line
    src = tables.csv("e.csv", HEADER + GOOD + "".join(f",{minute},hr,1\n" for minute in range(16)))
    said = "the row has no id, so it is of no stay; 16 rows of 20 (80.0%) without one"
    error = tables.refused(src)
    assert error.startswith(f"error: 16 rows of no stay:\n  16 rows: a row without an id, for example {src}, row 4 ")
    assert error.count(said) == 1
    assert "--skip_bad would leave out those rows alone." in error
    assert main(["check", str(src), "--fractions", "1", "0", "0"]) == 1
    assert "16 rows of no stay, which --skip_bad leaves out:" in tables.said().out
    assert tables.run(src, "--skip_bad") == 0
    text = tables.said().out
    assert said in text
    assert "faulty stay" not in text
    cohort = open_cohort(tables.root / "out")
    assert cohort.split("train").stay_id.tolist() == [1, 2]
    assert cohort.manifest["report"]["faulty_files"] == cohort.manifest["report"]["left_out"] == 0
    main(["check", str(cohort.path)])
    assert "16 rows of no stay, left out when it was compiled:" in tables.said().out


def test_faults_are_counted_in_rows_and_stays_by_kind_variable_and_text(tables):
    rows = "".join(f"{stay},{at},hr,>90\n" for stay in range(10, 22) for at in range(3)) + "10,9,hr,error\n"
    src = tables.csv("e.csv", HEADER + GOOD + rows + "10,10,lactate,\n30,soon,hr,5\n30,late,hr,5\n")
    assert tables.run(src) == 2
    lines = [line.split(", for example ")[0] for line in tables.said().err.splitlines()]
    assert lines[:7] == [
        "error: 13 faulty stays:",
        "  12 stays, 37 rows: a value that is not a number, of a variable with numbers",
        "      'hr': '>90': 36 rows of 12 stays",
        "      'hr': 'error': 1 row of 1 stay",
        "  1 stay, 2 rows: a time that is missing or cannot be read",
        "      'hr': 'soon': 1 row of 1 stay",
        "      'hr': 'late': 1 row of 1 stay",
    ]
    assert lines[7] == "  1 stay, 1 row: a value that is missing, of a variable with numbers"
    assert main(["check", str(src), "--fractions", "1", "0", "0"]) == 1
    text = tables.said().out
    assert "13 faulty stays, which --skip_bad leaves out:\n      12 stays, 37 rows: " in text
    assert text.count("is not a number, and other rows") == 1  # one example, not a line for each stay


def test_a_faulty_row_of_an_id_with_several_samples_is_counted_once(tables):
    src = tables.csv("e.csv", HEADER + GOOD + "1,40,hr,>90\n")
    labels = tables.csv("labels.csv", "id,prediction_time\n1,50\n1,60\n1,70\n2,50\n")
    assert tables.run(src, "--labels", labels) == 2
    assert "error: 3 faulty stays:\n  3 stays, 1 row: a value that is not a number" in tables.said().err


def test_a_row_is_counted_in_its_own_file(tables):
    for name, rows in (("a.csv", GOOD), ("b.csv", GOOD + "3,0,hr,inf\n"), ("c.csv", "4,x,hr,1\n4,1,hr,1\n")):
        tables.csv(f"src/{name}", HEADER + rows)
    error = tables.refused(tables.root / "src")
    assert "2 faulty stays" in error
    assert f"{tables.root / 'src' / 'b.csv'}, row 4 (counted from 0)" in error
    assert f"{tables.root / 'src' / 'c.csv'}, row 0 (counted from 0)" in error


@pytest.mark.parametrize(("place", "cell"), [(0, ""), (1, ""), (1, "soon"), (2, "soon")])
def test_a_file_without_times_is_a_faulty_stay_of_its_folder(tables, place, cell):
    for at in range(3):
        time = cell if at == place else f"2020-01-01 1{at}:00"
        tables.csv(f"src/p{at}.csv", f"time,hr\n{time},{at}\n")
    flags = ("--wide", "--id_from", "filename")
    error = tables.refused(tables.root / "src", *flags)
    file = tables.root / "src" / f"p{place}.csv"
    said = f"{cell!r}" if cell else "an empty cell"
    assert error.startswith("error: 1 faulty stay:")
    assert f"{file}, row 0 (counted from 0), variable 'hr': id {file.stem}, column time: {said} is not a" in error
    assert tables.run(tables.root / "src", *flags, "--skip_bad") == 0
    assert len(open_cohort(tables.root / "out").split("train").stay_id) == 2


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("id,time,value\n1,0,3\n", [], "e.csv: has no column variable. Its columns are: id, time, value."),
        ("id,time,variable\n1,0,hr\n", [], "e.csv: has no column value."),
        ("id time variable value\n1 0 hr 1\n", [], "Say with --separator what separates them."),
        ("id,time,variable,value,value\n1,0,hr,1,2\n", [], "e.csv: column value occurs twice"),
        (
            HEADER + "1,0,hr,1,9\n",
            [],
            "e.csv: cannot be read (after row 0): CSV parse error: Row #2: Expected 4 columns",
        ),
        (HEADER, [], "e.csv: there are no rows."),
        (HEADER + ",0,hr,1\nNA,1,hr,2\n", [], "e.csv, column id: none of the 2 rows has an id."),
        (HEADER + ",0,hr,1\n", ["--start_column", "value"], "e.csv, column id: none of the 1 rows has an id."),
        (HEADER + "1,noon,hr,1\n", [], "no cell of the column of times can be read: 'noon' is not a timestamp"),
        (HEADER + "1,,hr,1\n2,,hr,1\n", [], "e.csv, column time: no row of 1 file has a time."),
        (
            HEADER + "1,,hr,1\n1,noon,hr,1\n",
            [],
            "no cell of the column of times can be read: 'noon' is not a timestamp",
        ),
        (HEADER + '1,"3,5",hr,1\n', [], "'3,5' is not a number of minutes (pass --decimal , if it is a number)"),
        (HEADER + "1,3.5,hr,1\n", ["--decimal", ","], "'3.5' is not a number of minutes (pass --decimal . if it is a"),
        (HEADER + "1,0,hr,1\n", ["--time_format", "%d.%m.%Y"], "'0' is not a timestamp like %d.%m.%Y"),
        (HEADER + "1,2020-01-01,hr,1\n", ["--time_zone", "Mars"], "--time_zone Mars: this computer knows no such zone"),
        (HEADER + "".join(f"1,0,note,text{at}\n" for at in range(1001)), [], "'note' has more than 1,000 different"),
        (HEADER + GOOD, ["--until_hour", "-1"], "--until_hour -1: allowed: a number above 0"),
        (HEADER + GOOD, ["--fold", "1/5", "--fractions", "1", "0", "0"], "--fold and --fractions: give one of them."),
        (HEADER + GOOD, ["--label_name", "died"], "--label_name died names a column of --labels"),
        (HEADER + GOOD, ["--labels", "nowhere.csv"], "--labels nowhere.csv: no such file"),
        (HEADER + GOOD, ["--stays", "nowhere.csv"], "--stays nowhere.csv: no such file"),
        (HEADER + GOOD, ["--split_column", "part", "--fold", "1/5"], "--split_column names the splits of the data"),
        (HEADER + GOOD, ["--static_columns", "age"], "e.csv: has no column age"),
    ],
)
def test_what_concerns_the_whole_table_is_an_error_with_or_without_skip_bad(tables, text, flags, message):
    src = tables.csv("e.csv", text)
    for more in ([], ["--skip_bad"]):
        assert message in tables.refused(src, *flags, *more)
    assert not (tables.root / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not parquet at all", "e.parquet: cannot be read: "), (None, "e.parquet, column time: holds list<")],
)
def test_a_parquet_file_that_cannot_be_used_is_an_error(tables, content, message):
    src = tables.root / "e.parquet"
    if content is None:
        pq.write_table(pa.table({"id": [1], "time": [[1.0]], "variable": ["hr"], "value": [1.0]}), src)
    else:
        src.write_bytes(content)
    assert message in tables.refused(src)


def test_a_csv_file_that_is_not_in_utf8_is_an_error(tables):
    (tables.root / "e.csv").write_bytes(HEADER.encode() + "1,0,Größe,1\n".encode("latin-1"))
    assert "e.csv: cannot be read (after row 0): " in tables.refused(tables.root / "e.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,died\n1,0\n2,2\n", "labels.csv, row 1 (counted from 0), column died: '2' is not a label; allowed: 0, 1"),
        ("id,died\n1,0\n,1\n", "labels.csv, row 1 (counted from 0), column id: is empty; every row needs an id"),
        ("id,died\n1,0\n2,1\n1,1\n", "labels.csv, row 2 (counted from 0): two different labels for '1'. Keep one."),
        ("id,dead\n1,0\n", "labels.csv: has no column died. Its columns are: id, dead."),
        (
            "id,died,prediction_time\n1,0,5\n2,1,\n",
            "row 1 (counted from 0), column prediction_time: an empty cell is not a number of",
        ),
        (
            "id,died,prediction_time\n1,0,2020-01-01\n",
            "is a timestamp without a time zone; times of events are a number",
        ),
    ],
)
def test_a_fault_in_the_labels_is_an_error(tables, text, message):
    src, labels = tables.csv("e.csv", HEADER + GOOD), tables.csv("labels.csv", text)
    assert message in tables.refused(src, "--labels", labels, "--label_name", "died", "--skip_bad")


def test_times_with_and_without_zones_are_not_compared(tables):
    src = tables.csv("e.csv", HEADER + "1,2020-01-01T10:00Z,hr,80\n")
    labels = tables.csv("labels.csv", "id,prediction_time\n1,2020-01-01 12:00\n")
    assert tables.run(src, "--labels", labels) == 2
    assert "say with --time_zone (data.py table) where those without one were recorded" in tables.said().err
    assert tables.run(src, "--labels", labels, "--time_zone", "Europe/Berlin") == 0
    assert open_cohort(tables.root / "out").split("train").prediction_minute.tolist() == [60]


def test_a_start_that_is_missing_is_a_fault_of_the_stay(tables):
    src, stays = tables.csv("e.csv", HEADER + STAMPED), tables.csv("s.csv", "id,start\n1,2020-01-01\n")
    flags = ("--stays", stays, "--start_column", "start")
    assert f"e.csv, id 2: {stays}, column start: the start is missing or not a time" in tables.refused(src, *flags)
    assert tables.run(src, *flags, "--skip_bad") == 0
    samples = pq.read_table(tables.root / "out" / "samples.parquet").to_pylist()
    assert [(row["id"], row["split"], row["reason"] is None) for row in samples] == [
        ("1", "train", True),
        ("2", None, False),
    ]


@pytest.mark.parametrize(
    ("stays", "flags", "message"),
    [
        ("id,p\n1,a\n1,b\n2,a\n", ["--subject_column", "p"], "row 1 (counted from 0), column p: 'b', but another row"),
        ("id,p\n1,a\n", ["--subject_column", "p"], "column p: 1 ids have no patient, such as 2."),
        ("id,p\n1,train\n2,dev\n", ["--split_column", "p"], "column p: 'dev' is no split; allowed: train, valid, test"),
        ("id,p\n1,train\n", ["--split_column", "p"], "column p: 1 stay without a split"),
    ],
)
def test_a_fault_in_the_table_of_stays_is_an_error(tables, stays, flags, message):
    src, file = tables.csv("e.csv", HEADER + GOOD), tables.csv("stays.csv", stays)
    error = tables.refused(src, "--stays", file, *flags, "--skip_bad")
    assert str(file) in error
    assert message in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\nhr\n", "map.csv: has no column target. Its columns are: name."),
        (
            "name,target\nhr,\n",
            "map.csv, row 0 (counted from 0): the target is empty. To drop a variable, use --leave_out.",
        ),
        (
            "name,target,factor\nhr,x,0\n",
            "map.csv, row 0 (counted from 0): factor is 0, which would make all values equal.",
        ),
        (
            "name,target,factor\nhr,x,ten\n",
            "map.csv, row 0 (counted from 0): factor is 'ten'; it must be a finite number.",
        ),
        ("name,target\nhr,x\nhr,y\n", "map.csv, row 1 (counted from 0): name 'hr' is given twice. Keep one row."),
        ("name,target\nhr\n", "map.csv: cannot be read (after row 0): CSV parse error: Row #2: Expected 2 columns"),
    ],
)
def test_a_fault_in_the_variable_map_is_an_error(tables, text, message):
    src, mapping = tables.csv("e.csv", HEADER + GOOD), tables.csv("map.csv", text)
    assert message in tables.refused(src, "--variable_map", mapping)


# ------------------------------------------------------------------------------------------------ check


def test_check_reports_everything_about_a_table_before_it_is_compiled(tables):
    src = tables.csv("e.csv", HEADER + GOOD + "3,0,hr,\n4,0,hr,1\n5,5,hr,7\n")
    labels = tables.csv("labels.csv", "id,died\n1,0\n2,1\n3,1\n4,0\n9,0\n")
    before = sorted(tables.root.rglob("*"))
    words = ["check", str(src), "--labels", str(labels), "--label_name", "died", "--fractions", "0.5", "0.5", "0"]
    assert main(words) == 1
    text = tables.said().out
    for expected in (
        f"table {src}",
        "1 faulty stay, which --skip_bad leaves out:\n      1 stay, 1 row: a value that is missing",
        f"{src}, row 4 (counted from 0), variable 'hr': id 3, column value: empty",
        f"{labels}: 1 of 5 rows are of ids without events; they are not used",
        "died is known at the end of the stay: leave out what comes shortly before (--until_hour H)",
        "2 errors, 3 warnings: NOT ready for training.\nTo import: ",
    ):
        assert expected in text
    assert text.index("Warnings:") < text.index("known at the end of the stay")
    assert "\n  7 rows with 5 ids in the column id\n" in text
    assert f"\nDecided:\n  - the label is died in {labels}: 1 for 2, 0 for 2, unknown for 1\n" in text
    assert shlex.split(text.splitlines()[-1])[4:] == ["table", str(src), "OUT", *words[2:]]
    assert sorted(tables.root.rglob("*")) == before
    assert main([*words, "--until_hour", "24"]) == 1
    assert "known at the end of the stay" not in tables.said().out


def test_check_asks_for_a_window_only_where_the_label_is_an_end_of_stay_event(tables):
    src = tables.csv("e.csv", HEADER + GOOD)
    for name, is_end in (("hospital_death", True), ("los_over_7_days", True), ("lossy", False), ("sepsis", False)):
        labels = tables.csv("labels.csv", f"id,{name}\n1,0\n2,1\n")
        main(["check", str(src), "--labels", str(labels), "--label_name", name, "--fractions", "1", "0", "0"])
        text = tables.said().out
        assert f"{name} is predicted from all events up to the end of each stay" in text
        assert ("--until_hour" in text) is is_end


def test_check_says_what_is_wrong_with_a_table_that_cannot_be_read(tables):
    assert main(["check", str(tables.csv("e.csv", "id,time\n1,0\n"))]) == 1
    text = tables.said().out
    assert "e.csv: has no column variable, value. Its columns are: id, time." in text
    assert text.endswith("1 error, 0 warnings: NOT ready for training.\n")


def test_a_full_disk_is_one_error_however_few_events_there_are(tables):
    src = tables.csv("e.csv", HEADER + GOOD)
    with largest_file(20):
        assert f"{tables.root}: cannot be written (File too large). Free disk space" in tables.refused(src)
    assert not list(tables.root.glob(".*"))


def test_a_failure_leaves_nothing_behind(tables):
    src = tables.csv("e.csv", HEADER + GOOD + "3,0,hr,\n")
    before = sorted(tables.root.rglob("*"))
    assert tables.run(src) == 2
    assert sorted(tables.root.rglob("*")) == before
    with src.open(encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 6


def test_the_unit_of_minutes_is_doubted_only_where_times_are_numbers(tables):
    rows = "".join(f"{stay},2020-01-01 10:0{minute},hr,1\n" for stay in range(6) for minute in range(3))
    numbers = "".join(f"{stay},{minute},hr,1\n" for stay in range(6) for minute in range(3))
    for text, is_doubted in ((rows, False), (numbers, True)):
        main(["check", str(tables.csv("e.csv", HEADER + text))])
        assert ("Are the times in minutes (--time_unit)?" in tables.said().out) is is_doubted


def test_a_packed_file_whose_header_never_ends_is_refused(tables):
    """A few kilobytes may unpack to more than the memory holds."""
    src = tables.root / "events.csv.gz"
    with gzip.open(src, "wb") as packed:
        packed.write(b"x" * 2**24)
    assert "its header does not end within 1,048,576 characters" in tables.refused(src)


@pytest.mark.parametrize("kind", [pa.time64("us"), pa.time32("ms")])
def test_times_of_a_day_are_no_points_of_time(tables, kind):
    cells = {"id": ["1", "2"], "variable": ["hr", "hr"], "value": [80.0, 70.0]}
    good = pa.array([0, 60_000_000], pa.timestamp("us"))
    other = pa.array([0, 60], pa.int32() if kind == pa.time32("ms") else pa.int64()).cast(kind)
    pq.write_table(pa.table({**cells, "time": other}), tables.root / "events.parquet")
    said = f"column time: holds {kind}; allowed: timestamps, dates, durations, texts or numbers"
    assert said in tables.refused(tables.root / "events.parquet")
    (tables.root / "parts").mkdir()  # the same in a later file
    for name, time in (("1", good), ("2", other)):
        pq.write_table(pa.table({**cells, "time": time}), tables.root / "parts" / f"{name}.parquet")
    assert f"2.parquet, column time: holds {kind}; allowed" in tables.refused(tables.root / "parts")


def test_no_text_of_the_data_runs_in_a_spreadsheet_that_opens_skipped_csv(tmp_path):
    skips = [Skip(f"{text}.csv", text, 1, text, is_fault=True) for text in ("=1+1", "@SUM(1)", "-1+1", "plain")]
    write_skipped(tmp_path, skips)
    lines = (tmp_path / "skipped.csv").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "'=1+1.csv,1,'=1+1,'=1+1,fault"
    assert read_skipped(tmp_path) == skips
