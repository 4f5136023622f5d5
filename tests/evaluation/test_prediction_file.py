"""Prediction files: numbers read back to the same bits, and nothing that was there is lost."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsetvae.evaluation.prediction_file import set_aside, table_bytes, write_result, write_table
from seqsetvae.system.files import AlreadyThereError, CannotWriteError
from seqsetvae.system.privacy import from_cell
from tests.tiny import largest_file


def test_csv_reads_back_to_the_same_bits(tmp_path):
    numbers = np.concatenate([np.random.default_rng(0).normal(size=1000) * 10.0 ** np.arange(1000) ** 0.5, [5e-324]])
    table = pa.table({"logit": numbers, "reason": [None, 'a "quoted", text'] + [None] * 999})
    write_table(tmp_path / "new.csv", table)
    with (tmp_path / "new.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["logit"]) for row in rows] == numbers.tolist()
    assert [row["reason"] for row in rows[:2]] == ["", 'a "quoted", text']
    assert (tmp_path / "new.csv").read_bytes() == table_bytes(table, ".csv")


FORMULAS = ["=cmd|'/c calc'!A1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\n=1", "＝1", "'=1", "-"]
PLAIN = ["P-1", "-5", "+5.5", "-1e-3", "1-1", "'quoted'", "", "a=b"]


def test_no_text_of_the_data_runs_in_a_spreadsheet(tmp_path):
    """Columns named by the data, ids and variables; negative numbers, and texts that are numbers, stay."""
    texts = FORMULAS + PLAIN
    table = pa.table({"id": texts, "logit": [-1.5] * len(texts), "=label": texts})
    write_table(tmp_path / "p.csv", table)
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "logit", "'=label"]
    assert [row[0] for row in rows] == [f"'{text}" for text in FORMULAS] + PLAIN
    assert [row[2] for row in rows] == [row[0] for row in rows]
    assert {row[1] for row in rows} == {"-1.5"}
    assert [from_cell(row[0]) for row in rows] == texts
    write_table(tmp_path / "p.parquet", table)
    assert pq.read_table(tmp_path / "p.parquet")["id"].to_pylist() == texts
    assert table_bytes(pa.table({"id": ["\r=1"]}), ".csv") == b"id\n =1\n"


@pytest.mark.parametrize("name", ["there.csv", "there.parquet"])
def test_a_file_that_is_there_is_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(AlreadyThereError):
        write_table(tmp_path / name, pa.table({"stay_id": [1]}))
    assert (tmp_path / name).read_text() == "mine"


def test_older_results_are_kept_under_other_names(tmp_path):
    target = tmp_path / "evaluation.json"
    assert write_result(target, b"first") is None
    assert write_result(target, b"first") is None  # the same again
    kept = [write_result(target, content) for content in (b"second", b"third")]
    assert all(path is not None and path.name.startswith("evaluation-") for path in kept)
    assert [path.read_bytes() for path in kept if path] == [b"first", b"second"]
    assert target.read_bytes() == b"third"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_result_that_is_set_aside_keeps_its_content_under_another_name(tmp_path):
    target = tmp_path / "predictions.csv"
    assert set_aside(target) is None
    target.write_bytes(b"older")
    kept = set_aside(target)
    assert kept is not None
    assert kept.read_bytes() == b"older"
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]


def test_a_full_disk_leaves_the_older_result(tmp_path):
    target = tmp_path / "evaluation.json"
    write_result(target, b"first")
    with largest_file(1000), pytest.raises(CannotWriteError):
        write_result(target, bytes(10_000))
    assert target.read_bytes() == b"first"
