"""Cells that hold other rows, line breaks or far too much, and small files that hold far more than they seem to."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort.command import main
from seqsetvae.cohort.names import LONGEST_CELL, swallows_rows
from seqsetvae.cohort.sidefiles import read_embeddings, read_labels, read_stats, read_variable_map
from seqsetvae.cohort.sources import physionet2012, seqsetvae_layout
from seqsetvae.cohort.tables import events, read
from seqsetvae.evaluation.groups import read_subgroup_table
from seqsetvae.system.errors import InputError
from seqsetvae.tasks.targets import read_label_file

from .conftest import HEADER

ROWS = [f"{stay},{minute},hr,{80 + stay}" for stay in range(1, 9) for minute in (0, 10)]


def with_quotes(column: int, rows: list[str] = ROWS) -> list[str]:
    """The rows with a quotation mark before a cell of row 2 and after that of row 9: all between is one cell."""
    changed = list(rows)
    for row, quoted in ((2, '"{}'), (9, '{}"')):
        cells = changed[row].split(",")
        cells[column] = quoted.format(cells[column])
        changed[row] = ",".join(cells)
    return changed


# ------------------------------------------------------------------------------------------------ line breaks


@pytest.mark.parametrize("column", ["id", "time", "variable", "value"])
@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_rows_that_two_open_quotes_swallow_are_an_error(tables, column, form):
    text = HEADER + "\n".join(with_quotes(HEADER.strip().split(",").index(column))) + "\n"
    src = tables.csv(f"e.{form}", text if form == "csv" else text.replace(",", "\t"))
    for flags in ([], ["--skip_bad"]):
        error = tables.refused(src, *flags)
        assert "row 2 (counted from 0)" in error
        assert f"column {column}" in error
        assert "Is a quotation mark not closed" in error
        assert "82" not in error.replace(str(src), "")


def test_rows_that_a_cell_of_another_column_swallows_are_an_error(tables):
    header, rows = HEADER.strip() + ",note\n", [f"{row},fine" for row in ROWS]
    src = tables.csv("e.csv", header + "\n".join(with_quotes(4, rows)) + "\n")
    said = "row 2 (counted from 0), column note: the cell has lines that are rows of the table. Is a quotation mark"
    assert said in tables.refused(src)
    tables.csv("e.csv", header + "\n".join(rows[:-1]) + f'\n{ROWS[-1]},"open\n{rows[0]}\n')
    assert "row 15 (counted from 0), column note: the cell has lines" in tables.refused(src)


def test_notes_of_several_lines_in_other_columns_and_in_variables_that_are_left_out_are_no_fault(tables):
    note = '"first, second\n\nthird"'
    rows = [*(f"{row},{note}" for row in ROWS), f"1,5,text,{note},", "2,5,hr,1,"]
    src = tables.csv("e.csv", HEADER.strip() + ',"my\nnote"\n\n' + "\r\n".join(rows))
    cohort = tables.compile(src, "--leave_out", "text")
    assert cohort.manifest["splits"]["train"]["events"] == len(ROWS) + 1


@pytest.mark.parametrize("mark", ["\n", "\r", "\0"])
def test_a_mark_that_no_name_has_is_an_error_in_parquet_too(tables, mark):
    src = tables.root / "e.parquet"
    names = ["hr", "hr", f"h{mark}r"]
    pq.write_table(pa.table({"id": [1, 2, 3], "time": [0, 0, 0], "variable": names, "value": [1, 2, 3]}), src)
    assert "e.parquet, row 2 (counted from 0), column variable: the cell holds a " in tables.refused(src)


def test_what_swallows_rows():
    assert swallows_rows("a\n1,b", ",", 2)
    assert swallows_rows("a,x\n1,b,x\n\n2,c", ",", 3)
    assert not swallows_rows("a, b and\nc", ",", 3)
    assert not swallows_rows("a,b", ",", 2)
    assert not swallows_rows("a\nb", ",", 1)


@pytest.mark.parametrize(
    ("name", "text", "read_file"),
    [
        ("oc.csv", 'ts_id,died,note\n1,0,"x\n2,1,y\n3,1,z"\n', lambda file: read_labels(file, "died")),
        ("oc.csv", 'ts_id,died\n"1,0\n2",1\n', lambda file: read_labels(file, "died")),
        ("oc.csv", 'ts_id,died\n1,0\n2,"1\n3,0\n', lambda file: read_labels(file, "died")),
        ("stats.csv", 'variable,mean,std\n"a,0,1\nb",0,1\n', read_stats),
        ("cached.csv", 'Key,0,1\n"a,0,1\nb",0,1\n', read_embeddings),
        ("map.csv", 'name,target\n"a,x\nb",y\n', read_variable_map),
        ("groups.csv", 'stay_id,sex\n1,"m\n2,f"\n4,f\n', read_subgroup_table),
        ("several.csv", 'id,a,b\n1,"0,1\n2,0",1\n', lambda file: read_label_file(file, ("a", "b"))),
        ("several.csv", 'id,a,b\n1,0,1\n2,0,"1\n3,0,1"\n', lambda file: read_label_file(file, ("a", "b"))),
    ],
)
def test_side_files_have_no_cells_of_several_rows(tmp_path, name, text, read_file):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}.*(Is a quotation mark not closed|cannot be read as a CSV)"):
        read_file(tmp_path / name)


# ------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize("row", ["3,0,{},1", "{},0,hr,1", "3,0,rhythm,{}", "3,{},hr,1"])
def test_a_cell_of_great_length_is_an_error_that_does_not_show_it(tables, row):
    src = tables.csv("e.csv", HEADER + "1,0,hr,1\n" + row.format("x" * (LONGEST_CELL + 1)) + "\n")
    assert "row 1 (counted from 0)" in (error := tables.refused(src))
    assert "the cell has 10,001 characters; allowed: 10,000." in error


def test_a_variable_name_of_great_length_in_a_layout_is_a_fault(folder, capsys):
    folder.stay("train", "4", [("x" * (LONGEST_CELL + 1), 1, 0)])
    assert main(["compile", str(folder.ehr), str(folder.root / "out")]) == 2
    error = capsys.readouterr().err
    assert "4.parquet, row 0 (counted from 0)" in error
    assert "the name has 10,001 characters; allowed: 10,000." in error
    assert len(error) < 2000
    folder.stay("train", "4", [("x" * 3_000_000, 1, 0)])
    assert main(["check", str(folder.ehr)]) == 1
    report = capsys.readouterr().out
    assert "the name has 3,000,000 characters" in report
    assert len(report) < 5000


def test_labels_take_memory_for_their_own_length_alone(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("id,a,b\n" + "".join(f"{row},0,1\n" for row in range(1000)) + f"x,{'1' * 9000},1\n")
    cells = read_label_file(file, ("a", "b")).cells
    assert cells.nbytes < 100_000
    file.write_text("id,a,b\n1," + "1" * 3_000_000 + ",1\n")
    with pytest.raises(InputError, match=r"row 0 .*column a: the cell has 3,000,000 characters"):
        read_label_file(file, ("a", "b"))


def test_a_text_that_parquet_keeps_once_does_not_fill_the_memory(tables):
    n, src = 100_000, tables.root / "e.parquet"
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array(["x" * 1_000_000]))
    columns = {"id": np.arange(n) // 100, "time": np.arange(n) % 100, "variable": long, "value": np.arange(n)}
    pq.write_table(pa.table(columns), src, store_schema=False)
    assert "column variable: the cell has 1,000,000 characters" in tables.refused(src)
    columns |= {"variable": pa.array(["hr"] * n), "value": long}
    pq.write_table(pa.table(columns), src, store_schema=False)
    assert "have texts of more than 1,073,741,824 bytes" in tables.refused(src)


def test_a_small_parquet_file_of_very_many_rows_is_an_error(tables):
    n, src = 1_000_000, tables.root / "e.parquet"
    columns = {"id": np.ones(n, np.int64), "time": np.zeros(n), "variable": pa.array(["hr"] * n), "value": np.ones(n)}
    pq.write_table(pa.table(columns), src, compression="zstd", data_page_size=1 << 26)
    assert "1,000,000 rows in" in tables.refused(src)


def test_more_rows_than_a_stay_has_are_an_error(tables, folder, monkeypatch):
    monkeypatch.setattr(events, "MOST_ROWS", 2)
    src = tables.csv("e.csv", HEADER + "1,0,hr,1\n2,0,hr,1\n1,1,hr,1\n1,2,hr,1\n")
    assert "the id '1' has 3 rows, more than 2. Is id the column of the stays" in tables.refused(src)
    monkeypatch.setattr(seqsetvae_layout, "MOST_ROWS", 2)
    assert main(["compile", str(folder.ehr), str(folder.root / "out")]) == 2
    assert "1.0.parquet: 3 rows; a stay has at most 2" in tables.said().err


def test_a_table_that_is_read_as_a_whole_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "LARGEST_TABLE", 100)
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(b"id\n" + b"1\n" * 1000))
    with pytest.raises(InputError, match="has more than 1,000 rows and 100 bytes, too many for a table"):
        read.read_table(tmp_path / "labels.csv.gz", ["id"])


def test_a_packed_table_that_is_far_larger_than_it_seems_is_an_error(tables, monkeypatch):
    monkeypatch.setattr(read, "TIMES_LARGER", (100, 1 << 20))
    src = tables.root / "e.csv.gz"
    src.write_bytes(gzip.compress(HEADER.encode() + b"1,0,hr,1\n" + b"\n" * (2 << 20)))
    assert "e.csv.gz: unpacked it is more than 100 times as large. Is it a table?" in tables.refused(src)


def test_a_workbook_of_great_size_is_an_error_and_a_cell_far_away_is_none(tables, monkeypatch):
    openpyxl = pytest.importorskip("openpyxl", reason="Excel files need it")
    book, src = openpyxl.Workbook(), tables.root / "e.xlsx"
    for row in (["id", "time", "variable", "value"], [7, 0, "hr", 80]):
        book.active.append(row)
    book.active.cell(row=5000, column=4).value = ""
    book.save(src)
    assert tables.compile(src).split("train").stay_id.tolist() == [7]
    read.read_sheet.cache_clear()
    monkeypatch.setattr(read, "MOST_CELLS", 1000)
    assert "e.xlsx: its first sheet has more than 1,000 cells. Write it as a CSV file." in tables.refused(src)
    monkeypatch.setattr(read, "LARGEST_BOOK", 1000)
    assert "unpacked; allowed: 1,000. Write it as a CSV file." in tables.refused(src)


def test_a_row_longer_than_a_part_is_an_error(tables, monkeypatch):
    monkeypatch.setattr(read, "BYTES_PER_PART", 1000)
    src = tables.root / "e.csv.gz"
    src.write_bytes(gzip.compress(HEADER.encode() + b"1,0,hr,1\n" + b"0" * (3 * read.BYTES_PER_PART)))
    assert "a row of more than 1,000 bytes. Is a quotation mark not closed?" in tables.refused(src)


# ------------------------------------------------------------------------------------------------ archives


def stay_text(number: int) -> bytes:
    rows = "".join(f"00:{minute:02},HR,{70 + minute}\n" for minute in range(8))
    return f"Time,Parameter,Value\n00:00,RecordID,{number}\n{rows}".encode()


def archive(folder: Path, add: Callable[[tarfile.TarFile], object]) -> None:
    """Outcomes-a.txt, and set-a.tar with a stay, and what `add` adds."""
    (folder / "Outcomes-a.txt").write_text("RecordID,In-hospital_death\n1,0\n")
    with tarfile.open(folder / "set-a.tar", "w") as tar:
        entry = tarfile.TarInfo("set-a/1.txt")
        entry.size = len(stay_text(1))
        tar.addfile(entry, io.BytesIO(stay_text(1)))
        add(tar)


def linked(kind: bytes, target: str, name: str = "set-a/2.txt") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_without_a_target_is_an_error(tmp_path, capsys, kind):
    archive(tmp_path, lambda tar: tar.addfile(linked(kind, "set-a/none.txt")))
    assert main(["physionet2012", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "'set-a/2.txt' is a link to 'set-a/none.txt', which it lacks" in capsys.readouterr().err


def test_an_archive_of_great_size_is_an_error_before_it_is_unpacked(tmp_path, monkeypatch, capsys):
    def fails() -> None:
        assert main(["physionet2012", str(tmp_path), str(tmp_path / "out")]) == 2
        assert (
            "holds more than 20,000 bytes, unpacked. A set of the challenge has 28 million." in capsys.readouterr().err
        )

    monkeypatch.setattr(physionet2012, "LARGEST_SET", 20_000)
    links = [linked(tarfile.LNKTYPE, "set-a/1.txt", f"set-a/{number}.txt") for number in range(2, 20)]
    archive(tmp_path, lambda tar: [tar.addfile(each) for each in links * 20])
    fails()
    packed = gzip.compress(b"\0" * 1_000_000)
    (tmp_path / "set-a.tar").unlink()
    (tmp_path / "set-a.tar.gz").write_bytes(packed)
    fails()
    (tmp_path / "set-a.tar.gz").unlink()
    with zipfile.ZipFile(tmp_path / "set-a.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("set-a/1.txt", stay_text(1))
        zipped.writestr("set-a/2.txt", b"0" * 1_000_000)
    fails()
    (tmp_path / "set-a.zip").unlink()
    (tmp_path / "set-a").mkdir()
    (tmp_path / "set-a" / "1.txt").write_bytes(b"0" * 1_000_000)
    fails()
