"""Which stay a row is of: ids that are empty, that were rounded, or that are written in two ways."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort.command import main
from seqsetvae.cohort.names import MISSING
from seqsetvae.cohort.sidefiles import read_labels
from seqsetvae.cohort.tables.cells import as_ids
from seqsetvae.evaluation.groups import read_subgroup_table
from seqsetvae.system.errors import InputError
from seqsetvae.tasks.spec import numbers
from seqsetvae.tasks.targets import read_label_file

from .conftest import HEADER

GOOD = HEADER + "1,0,hr,80\n2,0,hr,70\n"


# ------------------------------------------------------------------------------------------------ empty cells


@pytest.mark.parametrize("word", [*MISSING, "na", "NONE", " nan ", "-", "", "?", "(null)"])
def test_a_word_for_an_empty_cell_is_no_id(word):
    local, texts = as_ids(pa.array([word, "7", word]))
    assert local.tolist() == [-1, 0, -1]
    assert texts == ["7"]


def test_rows_with_such_a_word_for_an_id_are_no_stay(tables):
    src = tables.csv("e.csv", GOOD + "NA,0,hr,1\n<NA>,1,hr,2\n")
    assert "row 2 (counted from 0): the row has no id, so it is of no stay; 2 rows" in tables.refused(src)
    cohort = tables.compile(src, "--skip_bad")
    assert cohort.split("train").stay_id.tolist() == [1, 2]


def test_such_a_word_is_no_patient(tables):
    src, stays = tables.csv("e.csv", GOOD), tables.csv("s.csv", "id,who\n1,NULL\n2,NULL\n")
    error = tables.refused(src, "--stays", stays, "--subject_column", "who")
    assert "column who: 2 ids have no patient, such as 1." in error


def test_such_a_word_is_an_empty_label_in_every_file_of_labels(tables, tmp_path):
    src = tables.csv("e.csv", GOOD + "3,0,hr,1\n")
    labels = tables.csv("labels.csv", "id,died\n1,1\n2,None\n3,\\N\n")
    cohort = tables.compile(src, "--labels", labels, "--label_name", "died")
    assert cohort.split("train").label.tolist() == [1, -1, -1]
    (tmp_path / "oc.csv").write_text("ts_id,died\n1,1\n2,NaN\n3,<NA>\n")
    assert dict(read_labels(tmp_path / "oc.csv", "died")) == {1: 1}
    several = tables.csv("several.csv", "id,a,b\n1,1,0.5\n2,n/a,NaT\n")
    cells = read_label_file(several, ("a", "b")).cells_by_split(cohort)["train"]
    found = numbers(("a", "b"), cells, "several.csv", np.isfinite, "a number")
    np.testing.assert_array_equal(found, [[1, 0.5], [np.nan, np.nan], [np.nan, np.nan]])


def test_such_a_word_is_an_unknown_fact_and_an_unknown_group(tables, tmp_path):
    src = tables.csv("e.csv", GOOD + "3,0,hr,1\n")
    stays = tables.csv("s.csv", "id,sex,diet\n1,#N/A,none\n3,m,none\n2,NaT,\n")
    cohort = tables.compile(src, "--stays", stays, "--static_columns", "sex", "diet")
    assert cohort.vocabulary == ("diet=none", "hr", "sex=m")
    (tmp_path / "groups.csv").write_text("stay_id,sex\nNA,m\n2,f\n")
    with pytest.raises(InputError, match="has empty cells or repeats"):
        read_subgroup_table(tmp_path / "groups.csv")


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array([123456789012.0, None, float("nan"), 2.0**53 - 1]), ["123456789012", "9007199254740991"]),
        (pa.array([100.0, 100.0], pa.float32()), ["100"]),
        (pa.array(np.array([100.0, 2000.0], np.float16)), ["100", "2000"]),
        (
            pa.array([Decimal("100.00"), Decimal("90071992547409931.00")], pa.decimal128(38, 2)),
            ["100", "90071992547409931"],
        ),
        (pa.array([Decimal("100"), Decimal("90071992547409931")], pa.decimal128(20, 0)), ["100", "90071992547409931"]),
        (pa.array([2**64 - 1, 7], pa.uint64()), ["18446744073709551615", "7"]),
        (pa.array(["100.0", "100", "12E4", "007"]), ["100", "12E4", "007"]),
        (pa.array([1e11, 1e11, 5.0]).dictionary_encode(), ["100000000000", "5"]),
        (pa.array(["a", None, "NA"]).dictionary_encode(), ["a"]),
        (pa.nulls(2), []),
    ],
)
def test_an_id_is_the_same_text_in_every_type_of_column(column, texts):
    assert as_ids(column)[1] == texts


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([2.0**53]), "9007199254740992.0 in a column of float64 is no exact whole number"),
        (pa.array([16777216.0], pa.float32()), "16777216.0 in a column of float32 is no exact whole number"),
        (pa.array([7.5]), "7.5 in a column of float64"),
        (pa.array([float("inf")]), "inf in a column of float64"),
        (pa.array(["1.23457E+11"]), "'1.23457E\\+11' is in scientific notation"),
        (pa.array(["1e+05"]), "'1e\\+05' is in scientific notation"),
        (pa.array(["1,23457E+11"]), "is in scientific notation"),
        (pa.array(["9007199254740993.0"]), "'9007199254740993.0' is a decimal number of more than 2"),
        (pa.array(["100.5"]), "'100.5' is a number with a fraction"),
        (pa.array([True]), "holds bool, not ids"),
        (pa.array([[1]]), "holds list<"),
    ],
)
def test_an_id_that_may_have_been_rounded_is_an_error(column, message):
    with pytest.raises(InputError, match=message):
        as_ids(column)


def test_labels_join_ids_that_are_large_floats(tables):
    src = tables.root / "e.parquet"
    ids = [123456789012.0, 123456789013.0]
    pq.write_table(pa.table({"id": ids, "time": [0, 0], "variable": ["hr"] * 2, "value": [1, 2]}), src)
    labels = tables.csv("labels.csv", "id,died\n123456789012,1\n123456789013.0,0\n")
    cohort = tables.compile(src, "--labels", labels, "--label_name", "died")
    assert cohort.split("train").stay_id.tolist() == [123456789012, 123456789013]
    assert cohort.split("train").label.tolist() == [1, 0]


@pytest.mark.parametrize("order", ["abcde", "edcba", "cabde", "ab"])
def test_an_id_has_one_form_in_all_files_whatever_the_types_of_their_columns(tables, order):
    numbers, texts = pa.array([7, None, 10]), pa.array(["7", None, "10"])
    columns = {"a": numbers, "b": numbers.cast(pa.uint64()), "c": numbers.cast(pa.float64()), "d": texts}
    columns |= {"e": pa.array(["7.0", None, "10.0"])}
    (tables.root / "src").mkdir()
    for at, name in enumerate(order):
        rows = {"id": columns[name], "time": [at] * 3, "variable": ["hr"] * 3, "value": [1.0] * 3}
        pq.write_table(pa.table(rows), tables.root / "src" / f"{at}.parquet")
    stays = tables.csv("stays.csv", "id,sex\n10,f\n7,m\n")
    cohort = tables.compile(tables.root / "src", "--stays", stays, "--static_columns", "sex", "--skip_bad")
    splits = {stay: split for split in cohort.splits.values() for stay in split.stay_id.tolist()}
    assert sorted(splits) == [7, 10]
    n = len(order) + 1
    assert [len(split.variable) for split in dict.fromkeys(splits.values())] in ([n, n], [2 * n])
    again = tables.csv("again.csv", "id,sex\n10,f\n7,m\n7,f\n")
    assert "column sex: 'f', but another row of the same id" in tables.refused(
        tables.root / "src", "--stays", again, "--static_columns", "sex"
    )


def test_two_ids_that_are_one_number_are_an_error(tables):
    src = tables.csv("e.csv", HEADER + "7,0,hr,1\n007,1,hr,2\nx,0,hr,3\n")
    assert "the ids '007' and '7' are one number" in tables.refused(src)


# ------------------------------------------------------------------------------------------------ labels of others


def test_labels_of_no_stay_are_an_error_that_shows_an_id_of_each_side(tables):
    src, labels = tables.csv("e.csv", GOOD), tables.csv("labels.csv", "id,died\n0001,1\n0002,0\n")
    error = tables.refused(src, "--labels", labels, "--label_name", "died")
    assert f"{labels}, column id: none of its 2 rows is of an id of the events." in error
    assert "Its first id is '0001', that of the events is '1'" in error
    error = tables.refused(src, "--stays", labels, "--static_columns", "died")
    assert "none of its 2 rows is of an id of the events" in error
    cohort = tables.compile(src)
    with pytest.raises(InputError, match=r"no row is of a stay of .*Its first id is '0001', that of the data is '1'"):
        read_label_file(labels, ("died",)).cells_by_split(cohort)


def test_few_labels_of_the_stays_are_said_with_counts_and_without_ids(tables):
    src = tables.csv("e.csv", HEADER + "".join(f"{stay},0,hr,{stay}\n" for stay in range(1, 5)))
    labels = tables.csv("labels.csv", "id,died\n1,1\n0002,0\n0003,0\n")
    notes = tables.compile(src, "--labels", labels, "--label_name", "died").manifest["import"]["notes"]
    assert notes[0] == (
        f"{labels}: 2 of 3 rows are of ids without events; they are not used, and 3 of 4 ids with events have no row. "
        "Are ids written in the same way in both?"
    )


def test_labels_of_no_stay_of_a_layout_are_an_error(folder, capsys):
    folder.csv("oc.csv", "ts_id,in_hospital_mortality\n11,0\n12,1\n")
    assert main(["compile", str(folder.ehr), str(folder.root / "out")]) == 2
    assert "oc.csv: none of its 2 labels is of a stay of the data. Its first stay is 11, that of the data is 1." in (
        capsys.readouterr().err
    )
    folder.csv("oc.csv", "ts_id,in_hospital_mortality\n1.5E+05,0\n")
    assert main(["compile", str(folder.ehr), str(folder.root / "out")]) == 2
    assert "oc.csv, column ts_id: '1.5E+05' is in scientific notation" in capsys.readouterr().err
