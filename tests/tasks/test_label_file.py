"""Labels of tasks are joined to an imported cohort by the ids and prediction times of its source."""

import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.command import main
from seqsetvae.system.errors import InputError
from seqsetvae.tasks.targets import read_label_file
from tests.cohort.conftest import HEADER, Tables
from tests.command import command, run_of, succeeded


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


TEXT_IDS = HEADER + "p10,0,hr,80\np2,0,hr,70\np2,90,hr,75\n"
STAMPS = "id,time,variable,value\n" + "".join(
    f"{stay},2020-01-0{day}T0{hour}:00:00+01:00,hr,80\n" for stay in (2, 1) for day in (1, 2) for hour in (1, 3)
)
TIMED = "id,prediction_time,died,los\n" + "".join(
    f"{stay},2020-01-0{day}T02:00:00+01:00,{day - 1},{10 * stay + day}\n" for stay in (2, 1) for day in (1, 2)
)


def cells(tables: Tables, cohort_flags: tuple[object, ...], text: str, events: str = TEXT_IDS) -> list[str]:
    """The cells of `los` in the order of the stays."""
    cohort = tables.compile(tables.csv("events.csv", events), *cohort_flags)
    labels = read_label_file(tables.csv("los.csv", text), ("los",))
    found: list[str] = labels.cells_by_split(cohort)["train"][:, 0].tolist()
    return found


@pytest.mark.parametrize("column", ["id", "stay_id", "ts_id"])
def test_text_ids_find_the_stay_that_has_the_id_in_the_source(tables, column):
    assert cells(tables, (), f"{column},los\np2,5\np10,7\nother,9\n") == ["7", "5"]


def test_the_id_column_of_the_import_is_that_of_the_labels(tables):
    flags = ("--id_column", "admission")
    text = "admission,id,los\np2,x,5\np10,y,7\n"
    assert cells(tables, flags, text, TEXT_IDS.replace("id,", "admission,", 1)) == ["7", "5"]


def test_a_stay_id_is_that_of_the_source_where_the_import_numbered_the_samples(tables):
    labels = tables.csv("labels.csv", TIMED)
    flags = ("--labels", labels, "--label_name", "died")
    cohort = tables.compile(tables.csv("events.csv", STAMPS), *flags)
    assert cohort.split("train").stay_id.tolist() == [1, 2, 3, 4]
    assert cells(tables, flags, TIMED, STAMPS) == ["11", "12", "21", "22"]
    only = "stay_id,prediction_time,los\n2,2020-01-02T01:00:00Z,8\n"  # the same point of time in another zone
    assert cells(tables, flags, only, STAMPS) == ["", "", "", "8"]
    said = "row 0 (counted from 0): the id '2' has several samples in the cohort, at different prediction times."
    with pytest.raises(InputError, match=re.escape(said)):
        cells(tables, flags, "stay_id,los\n2,8\n", STAMPS)


def test_prediction_times_in_hours_are_those_of_the_import(tables):
    labels = tables.csv("labels.csv", "id,prediction_time\np10,1\np2,1\np2,2\n")
    flags = ("--labels", labels, "--time_unit", "hours")
    assert cells(tables, flags, "id,prediction_time,los\np2,2,5\np2,1,6\np10,1,7\n") == ["7", "6", "5"]


def test_an_id_that_a_spreadsheet_would_run_is_found_as_predictions_write_it(tables):
    events = TEXT_IDS.replace("p2,", "=2+1,")
    assert cells(tables, (), "id,los\n'=2+1,5\np10,7\n", events) == ["5", "7"]
    assert cells(tables, (), "id,los\n=2+1,5\np10,7\n", events) == ["5", "7"]
    labels = tables.csv("labels.csv", "id,died\n'=2+1,1\np10,0\n")
    cohort = tables.compile(tables.csv("events.csv", events), "--labels", labels, "--label_name", "died")
    assert cohort.split("train").label.tolist() == [1, 0]


@pytest.mark.parametrize("unit", ["seconds", "minutes", "hours", "days"])
def test_times_of_samples_are_the_numbers_of_the_source(tables, unit):
    text = "id,prediction_time,los\np2,0.1,6\np2,7.3,5\np10,1.7,7\n"
    flags = ("--labels", tables.csv("labels.csv", text), "--time_unit", unit)
    cohort = tables.compile(tables.csv("events.csv", TEXT_IDS), *flags)
    samples = pq.read_table(cohort.path / "samples.parquet").to_pylist()
    assert [(row["id"], row["prediction_time"]) for row in samples] == [("p10", 1.7), ("p2", 0.1), ("p2", 7.3)]
    found = read_label_file(tables.csv("los.csv", text), ("los",)).cells_by_split(cohort)["train"][:, 0].tolist()
    assert found == [["7", "6", "5"][stay - 1] for stay in cohort.split("train").stay_id.tolist()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,los\np2,5\np2,6\n", "row 1 (counted from 0): two different labels for 'p2'. Keep one."),
        ("id,los\np2,5\n,6\n", "row 1 (counted from 0), column id: is empty; every row needs an id"),
        ("patient,los\np2,5\n", "has no column of ids: id or ts_id or stay_id. Its columns are: patient, los."),
        ("id,prediction_time,los\np2,60,5\n", "the model would see what came after them"),
        ("id,los\n", "has no rows"),
    ],
)
def test_labels_that_cannot_be_joined_are_one_clear_error(tables, text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        cells(tables, (), text)


def test_a_stay_of_the_old_layout_is_a_number(compiled, tmp_path):
    (tmp_path / "oc.csv").write_text("ts_id,los\nx7,5\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"row 0 \(counted from 0\), column ts_id: 'x7' is not a whole number"):
        read_label_file(tmp_path / "oc.csv", ("los",)).cells_by_split(compiled)  # type: ignore[arg-type]


def test_a_regression_on_labels_of_meds_needs_no_binary_label(tmp_path):
    days = pd.to_datetime("2020-01-01") + pd.to_timedelta(range(3), unit="D")
    times_of_day = [day + pd.Timedelta(minutes=at) for day in days for at in (0, 9)]
    rows = [(stay, at, 60.0 + stay) for stay in range(1, 13) for at in times_of_day]
    events = pd.DataFrame(rows, columns=["subject_id", "time", "numeric_value"]).assign(code="HR")
    (tmp_path / "set" / "data").mkdir(parents=True)
    events.to_parquet(tmp_path / "set" / "data" / "0.parquet")
    times = events.iloc[::2].assign(prediction_time=lambda table: table["time"] + pd.Timedelta(minutes=5))
    labels = times.assign(float_value=times["subject_id"] + times["prediction_time"].dt.day / 10)
    labels[["subject_id", "prediction_time", "float_value"]].sample(frac=1, random_state=0).to_parquet(
        tmp_path / "los.parquet"
    )
    words = ["--labels", tmp_path / "los.parquet", "--label_name", "none"]
    out = tmp_path / "cohort"
    assert main(["meds", *map(str, [tmp_path / "set", out, *words, "--fractions", 0.5, 0.5, 0])]) == 0
    cohort = open_cohort(out)
    assert cohort.label_name == "none"
    found = read_label_file(tmp_path / "los.parquet", ("float_value",)).cells_by_split(cohort)
    for name, split in cohort.splits.items():
        assert [float(cell) // 1 for cell in found[name][:, 0]] == split.subject_id.tolist()
        assert [float(cell) * 10 % 10 for cell in found[name][:, 0]] == pytest.approx([1, 2, 3] * (split.n_stays // 3))
    said = succeeded(
        command(
            "finetune",
            architecture="variable_summaries",
            from_random_weights="true",
            data_dir=out,
            output_root_dir=tmp_path / "runs",
            task="regression",
            label_name="float_value",
            label_path=tmp_path / "los.parquet",
            max_epochs=1,
        )
    )
    assert "Task: regression" in said
    succeeded(command("evaluate", ckpt=run_of(tmp_path / "runs"), split="valid"))
    columns = pd.read_csv(run_of(tmp_path / "runs") / "predictions.csv").columns
    assert {"id", "prediction_time"} <= set(columns)
