"""`data.py table`: a column a variable, ids in names of files, and other forms in which tables are published."""

import bz2
import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .conftest import EVENTS
from .test_compile import sets_of

WIDE = "stay,hour,hr,lactate,rhythm,sex\n7,0,80,,sinus,f\n7,0.5,90,2,NA,f\n8,1,60,nan,afib,m\n"
NAMES = ("--id_column", "stay", "--time_column", "hour", "--time_unit", "hours")


def test_each_cell_that_is_not_empty_is_an_event_of_its_column(tables):
    cohort = tables.compile(tables.csv("wide.csv", WIDE), "--wide", *NAMES, "--static_columns", "sex")
    assert sets_of(cohort, "train", 0) == [
        (0, [("sex=f", 1), ("hr", 80), ("rhythm=sinus", 1)]),
        (30, [("hr", 90), ("lactate", 2)]),
    ]
    assert sets_of(cohort, "train", 1) == [(0, [("sex=m", 1)]), (60, [("hr", 60), ("rhythm=afib", 1)])]


def test_parquet_gives_the_events_of_the_same_csv(tables):
    wide = {"stay": [7, 7, 8], "hour": [0, 0.5, 1], "hr": [80, 90, 60], "lactate": [None, 2.0, float("nan")]}
    wide |= {"rhythm": ["sinus", None, "afib"], "sex": ["f", "f", "m"]}
    pq.write_table(pa.table(wide), tables.root / "wide.parquet")
    ours = tables.compile(tables.root / "wide.parquet", "--wide", *NAMES)
    theirs = tables.compile(tables.csv("wide.csv", WIDE), "--wide", *NAMES)
    assert ours.content_hash == theirs.content_hash


def test_events_of_a_row_are_in_the_order_of_its_columns_however_many_threads_sort_them(tables):
    names, n = [f"v{at}" for at in range(40)], 20_000
    wide = {"stay": np.arange(n) % 50, "hour": np.arange(n) // 50} | {name: np.arange(n) for name in names}
    pq.write_table(pa.table(wide), tables.root / "wide.parquet")
    cohort = tables.compile(tables.root / "wide.parquet", "--wide", *NAMES, "--jobs", "4")
    for split in cohort.splits.values():
        order = np.array([int(cohort.vocabulary[v][1:]) for v in split.variable]).reshape(-1, len(names))
        assert (order == np.arange(len(names))).all()


def test_named_columns_alone_are_variables(tables):
    cohort = tables.compile(tables.csv("wide.csv", WIDE), "--wide", *NAMES, "--value_columns", "lactate", "rhythm")
    assert cohort.vocabulary == ("lactate", "rhythm=afib", "rhythm=sinus")


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("fast", "id 8, column hr: 'fast' is not a number"),
        ("1e39", "id 8, column hr: 1e+39 is not a finite number that float32 can hold"),
    ],
)
def test_a_cell_that_is_no_number_names_its_column_and_row(tables, cell, said):
    src = tables.csv("wide.csv", WIDE.replace("60,nan", f"{cell},nan"))
    assert f"wide.csv, row 2 (counted from 0), variable 'hr': {said}" in tables.refused(src, "--wide", *NAMES)


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us"), pa.duration("s"), pa.time32("ms")])
def test_times_are_no_values(tables, kind):
    number = pa.array([1, None], pa.int32() if kind.bit_width == 32 else pa.int64())
    columns = {"id": [7, 8], "time": [0, 1], "hr": [80, 90], "other": number.cast(kind)}
    pq.write_table(pa.table(columns), tables.root / "wide.parquet")
    said = f"column other: holds {kind}, not numbers or texts; name the variables with --value_columns"
    assert said in tables.refused(tables.root / "wide.parquet", "--wide")
    cohort = tables.compile(tables.root / "wide.parquet", "--wide", "--value_columns", "hr")
    assert cohort.vocabulary == ("hr",)


def test_a_file_may_lack_variables_that_another_has(tables):
    tables.csv("src/a.csv", "id,time,hr,note\n7,0,80,x\n")
    tables.csv("src/b.csv", "id,time,lactate,rr\n8,0,2,20\n")
    flags = ("--wide", "--value_columns", "hr", "lactate")
    assert tables.compile(tables.root / "src", *flags).vocabulary == ("hr", "lactate")
    tables.csv("src/c.csv", "id,time,rr\n9,0,20\n")
    for more, said in (
        ((), "c.csv: no column is left for variables. Its columns are: id, time, rr."),
        (("heart rate",), "--value_columns 'heart rate': no file has such a column. Its columns are: id, time, rr."),
        (("time",), "--value_columns time: another flag gives this column another meaning"),
    ):
        assert said in tables.refused(tables.root / "src", *flags, *more)


@pytest.mark.parametrize("name", ["", " ", "Unnamed: 0", "__index_level_0__"])
def test_a_column_without_a_name_is_refused(tables, name):
    src = tables.csv("wide.csv", f"{name},stay,hour,hr\n0,7,0,80\n1,8,1,90\n")
    said = tables.refused(src, "--wide", *NAMES)
    assert "column 1 has no name" in said
    assert "or name the variables with --value_columns" in said
    assert tables.compile(src, "--wide", *NAMES, "--value_columns", "hr").vocabulary == ("hr",)
    of_id = ("--id_column", name, "--time_column", "hour", "--time_unit", "hours")
    assert tables.compile(src, "--wide", *of_id).vocabulary == ("hr", "stay")


def test_ids_may_be_the_names_of_files_or_folders(tables):
    for stay, value in ((7, 80), (8, 60)):
        tables.csv(f"files/p{stay:03}.psv", f"hour|hr\n0|{value}\n")
        tables.csv(f"folders/id={stay}/part-0.csv", f"hour,hr\n0,{value}\n")
    flags = ("--wide", "--time_column", "hour")
    for place in ("filename", "folder"):
        cohort = tables.compile(tables.root / f"{place.removesuffix('name')}s", *flags, "--id_from", place)
        assert [sets_of(cohort, "train", at) for at in (0, 1)] == [[(0, [("hr", 80)])], [(0, [("hr", 60)])]]
    assert cohort.split("train").stay_id.tolist() == [7, 8]


@pytest.mark.parametrize(
    ("place", "files", "said"),
    [
        ("filename", ["A/1.csv", "B/1.csv"], "{src}/A/1.csv and {src}/B/1.csv would both be the id '1'"),
        ("filename", ["1.csv", "1.csv.gz"], "{src}/1.csv and {src}/1.csv.gz would both be the id '1'"),
        ("filename", ["id=1.csv", "1.2020.csv"], "{src}/1.2020.csv and {src}/id=1.csv would both be the id '1'"),
        ("folder", ["A/1/x.csv", "1/y.csv"], "{src}/1 and {src}/A/1 would both be the id '1'"),
        ("folder", ["id=1/day=2/x.csv", "id=2/day=2/x.csv"], "{src}/id=1/day=2 and {src}/id=2/day=2 would both be"),
        ("folder", ["1/x.csv", "2/x.csv", "y.csv"], "{src}/y.csv: is in {src} itself; --id_from folder needs"),
    ],
)
def test_ids_that_two_files_or_folders_share_are_refused(tables, place, files, said):
    for at, name in enumerate(files):
        file = tables.csv(f"src/{name}", f"hour,hr\n0,{at}\n")
        if name.endswith(".gz"):
            file.write_bytes(gzip.compress(file.read_bytes()))
    src = tables.root / "src"
    flags = ("--wide", "--time_column", "hour", "--id_from", place)
    assert said.format(src=src) in tables.refused(src, *flags)


def test_files_of_one_folder_are_one_id_and_a_file_may_be_named_itself(tables):
    for at, name in enumerate(["id=1/a.csv", "id=1/b.csv", "id=2/a.csv"]):
        file = tables.csv(f"src/{name}", f"hour,hr\n{at},{at}\n")
    flags = ("--wide", "--time_column", "hour", "--id_from", "folder")
    assert tables.compile(tables.root / "src", *flags).split("train").stay_id.tolist() == [1, 2]
    assert tables.compile(file, *flags).split("train").stay_id.tolist() == [2]


def test_empty_cells_may_mean_the_cell_above(tables, monkeypatch):
    monkeypatch.setattr("seqsetvae.cohort.tables.read.BYTES_PER_PART", 40)
    rows = ["id,time,variable,value"]
    for stay in range(1, 30):
        rows += [f"{stay},0,hr,{stay}", f",1,hr,{stay + 1}", f",2,hr,{stay + 2}"]
    cohort = tables.compile(tables.csv("e.csv", "\n".join(rows) + "\n"), "--fill_down", "id")
    assert cohort.split("train").stay_id.tolist() == list(range(1, 30))
    assert sets_of(cohort, "train", 28) == [(0, [("hr", 29)]), (1, [("hr", 30)]), (2, [("hr", 31)])]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--fill_down", "Stay"), "--fill_down Stay: no file has such a column. Its columns are: stay, hour, hr,"),
        (("--value_column", "hr"), "have no meaning with --wide; see --value_columns"),
        (("--variable_column", "hr"), "have no meaning with --wide; see --value_columns"),
        (
            ("--label_column", "rhythm", "--static_columns", "rhythm"),
            "--static_columns rhythm: the label would be known",
        ),
        (("--label_present", "sex", "--static_columns", "sex"), "--static_columns sex: the label would be known from"),
    ],
)
def test_flags_that_would_change_nothing_or_give_the_label_away_are_refused(tables, flags, said):
    src = tables.csv("wide.csv", WIDE)
    assert said in tables.refused(src, "--wide", *NAMES, *flags)


def test_columns_of_parquet_are_not_named_again(tables):
    pq.write_table(pa.table({"id": [7], "time": [0], "hr": [80]}), tables.root / "wide.parquet")
    flags = ("--wide", "--columns", "id,time,pulse")
    said = "a Parquet file has the names of its columns; leave out --columns"
    assert said in tables.refused(tables.root / "wide.parquet", *flags)


def test_a_cell_is_never_filled_with_that_of_another_id(tables):
    rows = "7,0,80,f\n7,1,81,\n8,0,70,\n8,1,71,m\n9,0,60,\n"
    src = tables.csv("wide.csv", f"id,time,hr,sex\n{rows}")
    cohort = tables.compile(src, "--wide", "--static_columns", "sex", "--fill_down", "sex")
    of_stays = [{name for _, events in sets_of(cohort, "train", at) for name, _ in events} for at in range(3)]
    assert of_stays == [{"sex=f", "hr"}, {"sex=m", "hr"}, {"hr"}]


@pytest.mark.parametrize(
    ("name", "separator", "flags"),
    [
        ("e.csv", ";", ()),
        ("e.csv", "|", ()),
        ("e.txt", "\t", ()),
        ("e.psv", "|", ()),
        ("e.csv", " ", ("--separator", "space")),
    ],
)
def test_the_separator_is_that_of_the_header_or_of_the_flag(tables, name, separator, flags):
    expected = tables.compile(tables.csv("events.csv", EVENTS))
    other = tables.compile(tables.csv(f"other/{name}", EVENTS.replace(",", separator)), *flags)
    assert other.content_hash == expected.content_hash


def test_what_is_in_quotes_in_the_header_separates_nothing(tables):
    src = tables.csv("e.csv", 'stay;hour;"Temp; skin, left"\n7;0;36,5\n')
    cohort = tables.compile(src, "--wide", *NAMES, "--decimal", ",")
    assert sets_of(cohort, "train", 0) == [(0, [("Temp; skin, left", 36.5)])]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("id, time,variable,value", "has no column time. Its columns are: id, ' time', variable, value."),
        ("Case ID,time,variable,value", "has no column id. Its columns are: 'Case ID', time, variable, value."),
        ("id;time;value (mg,l)", "Its columns are: 'id;time;value (mg', l). Say with --separator what separates them."),
    ],
)
def test_names_of_columns_with_spaces_are_quoted(tables, header, said):
    assert said in tables.refused(tables.csv("e.csv", header + "\n"))


def test_two_possible_separators_are_refused(tables):
    src = tables.csv("e.csv", "id;time|variable;value\n")
    assert "Say which with --separator" in tables.refused(src)


def test_packed_tables_without_a_header_and_with_two_columns_of_time(tables):
    expected = tables.compile(tables.csv("e.csv", "id,time,variable,value\n7,2020-01-31 12:30,hr,80\n"))
    src = tables.root / "packed" / "e.csv.bz2"
    src.parent.mkdir()
    src.write_bytes(bz2.compress(b"7,2020-01-31,12:30,hr,80\n"))
    flags = ("--columns", "id,date,clock,variable,value", "--time_column", "date", "--clock_column", "clock")
    assert tables.compile(src, *flags).content_hash == expected.content_hash


def test_a_sheet_of_excel_is_read_as_texts(tables):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    rows = (["id", "time", "variable", "value"], [7, 0, "hr", 80.5], [8, 5, "hr", 60], [None, None, None, None, ""])
    for row in rows:
        book.active.append(row)
    (tables.root / "sheet").mkdir()
    book.save(tables.root / "sheet" / "e.xlsx")
    cohort = tables.compile(tables.root / "sheet" / "e.xlsx")
    assert [sets_of(cohort, "train", at) for at in (0, 1)] == [[(0, [("hr", 80.5)])], [(5, [("hr", 60)])]]


def test_empty_columns_at_the_end_of_a_sheet_are_none(tables):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["id", "time", "hr", None], [7, 0, 80, None], [8, 5, None, ""]):
        book.active.append(row)
    book.active.cell(4, 5).number_format = "0.00"
    book.save(tables.root / "e.xlsx")
    assert sets_of(tables.compile(tables.root / "e.xlsx", "--wide"), "train", 0) == [(0, [("hr", 80)])]
    book.active.delete_rows(1)
    book.save(tables.root / "e.xlsx")
    cohort = tables.compile(tables.root / "e.xlsx", "--wide", "--columns", "id,time,hr,a,b")
    assert sets_of(cohort, "train", 0) == [(0, [("hr", 80)])]


def test_files_without_rows_are_counted_where_a_file_is_a_stay(tables):
    for at, rows in enumerate(("", "0,80\n", "", "0,90\n", "")):
        tables.csv(f"src/{at}.csv", f"time,hr\n{rows}")
    flags = ("--wide", "--id_from", "filename")
    assert tables.compile(tables.root / "src", *flags).split("train").stay_id.tolist() == [1, 3]
    assert "3 files without a row, so without a stay in the cohort" in tables.said().out


def test_durations_are_times_since_the_start(tables):
    text = "id,time,variable,value\n7,26:30,hr,80\n7,1 days 02:45:00,hr,90\n"
    cohort = tables.compile(tables.csv("e.csv", text), "--time_unit", "duration")
    assert sets_of(cohort, "train", 0) == [(1590, [("hr", 80)]), (1605, [("hr", 90)])]
    columns = {
        "id": [7, 7],
        "time": pa.array([95400, 96300], pa.duration("s")),
        "variable": ["hr"] * 2,
        "value": [80, 90],
    }
    pq.write_table(pa.table(columns), tables.root / "e.parquet")
    assert tables.compile(tables.root / "e.parquet").content_hash == cohort.content_hash


def test_times_may_be_in_weeks_and_years(tables):
    for unit, minutes in (("weeks", 10_080), ("years", 525_960)):
        cohort = tables.compile(tables.csv("e.csv", "id,time,variable,value\n7,1,hr,80\n"), "--time_unit", unit)
        assert sets_of(cohort, "train", 0) == [(minutes, [("hr", 80)])]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "UTF-16", "utf-8"])
@pytest.mark.parametrize("packed", [False, True])
def test_tables_may_be_in_another_encoding(tables, encoding, packed):
    texts = {
        "e.csv": "id,time,température,rythme\n1,0,37.5,régulier\n2,0,38,irrégulier\n",
        "stays.csv": "id,unité\n1,réanimation\n2,réanimation\n",
        "labels.csv": "id,état\n1,décédé\n2,\n",
    }
    files = [tables.root / (name + ".gz" * packed) for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        file.write_bytes(gzip.compress(text.encode(encoding)) if packed else text.encode(encoding))
    facts = ("--stays", files[1], "--static_columns", "unité", "--labels", files[2], "--label_name", "état")
    cohort = tables.compile(files[0], "--wide", *facts, "--label_positive", "décédé", "--encoding", encoding)
    assert cohort.vocabulary == ("rythme=irrégulier", "rythme=régulier", "température", "unité=réanimation")
    assert cohort.split("train").label.tolist() == [1, -1]


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        ("id,time,variable,value\n1,0,fièvre,1\n".encode("latin-1"), None, "name the encoding of the tables: data.py"),
        ("id,time,variable,valeur médiane\n1,0,f,1\n".encode("latin-1"), None, "--encoding cp1252"),
        ("id,time,variable,value\n1,0,f,1\n".encode("utf-16"), None, "--encoding cp1252 (latin-1, utf-16, ...)"),
        (b"id,time,variable,value\n1,0,f,1\n", "utf-16", "e.csv: cannot be read: UTF-16 stream does not start with"),
        (b"id,time,variable,value\n1,0,f\xe8,1\n", "ascii", "'ascii' codec can't decode byte 0xe8"),
        (b"id,time,variable,value\n1,0,f,1\n", "klingon", "--encoding klingon: Python knows no such encoding"),
        (b"id,time,variable,value\n1,0,f,1\n", "base64", "--encoding base64: Python knows no such encoding"),
    ],
)
def test_another_encoding_is_said_and_not_guessed(tables, text, encoding, message):
    (tables.root / "e.csv").write_bytes(text)
    assert message in tables.refused(tables.root / "e.csv", *(["--encoding", encoding] if encoding else []))
