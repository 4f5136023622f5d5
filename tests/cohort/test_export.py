"""`python data.py export`: what a cohort holds comes back from every format, and from its import, to the last bit."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort import Cohort, open_cohort
from seqsetvae.cohort.command import main

from .conftest import Folder
from .test_compile import compiled, random_layout
from .test_samples import HOUR, compile_samples, sample

Event = tuple[int, int, float, str, float]  # stay, number of the set, minute, variable, stored value


@pytest.fixture
def cohort(folder: Folder) -> Cohort:
    """Random stays, two sets at one minute, a stay without a label, a variable without statistics."""
    random_layout(folder, 20)
    folder.stay("train", "2.0", [("lactate", 1.3, 5), ("lactate", 2.7, 5), ("Größe é", 7.3, 5)], set_index=[4, 7, 4])
    folder.csv("oc.csv", "ts_id,died\n1,0\n2,1\n3,1\n")
    return compiled(folder, label_name="died")


def export(cohort: Cohort, out: Path, form: str) -> Path:
    assert main(["export", str(cohort.path), str(out), "--to", form]) == 0
    return out


def stored(cohort: Cohort, name: str) -> list[Event]:
    """The events of a split as the cohort stores them, without the code under test."""
    split, found = cohort.split(name), []
    for at, stay in enumerate(split.stay_id):
        first = split.stay_offset[at]
        for one in range(first, split.stay_offset[at + 1]):
            for event in range(split.set_offset[one], split.set_offset[one + 1]):
                variable, value = cohort.vocabulary[split.variable[event]], float(split.value[event])
                found.append((int(stay), one - first, float(split.minute[one]), variable, value))
    return found


def exported(table: pa.Table, stay: str, variable: str) -> list[Event]:
    """Rows of an exported table."""
    return list(
        zip(*(table[name].to_pylist() for name in (stay, "set_index", "minute", variable, "value")), strict=True)
    )


@pytest.mark.parametrize("events_per_block", [1, 7, 10**6])
def test_a_table_holds_every_event_set_minute_and_label(cohort, tmp_path, events_per_block, monkeypatch):
    monkeypatch.setattr("seqsetvae.cohort.format.EVENTS_PER_BLOCK", events_per_block)
    out = export(cohort, tmp_path / "table", "table")
    for name in cohort.splits:
        table = pq.read_table(out / "events" / f"{name}.parquet")
        assert exported(table, "stay_id", "variable") == stored(cohort, name)
        assert set(table["split"].to_pylist()) == {name}
        assert table["subject_id"].equals(table["stay_id"])
    labels = (out / "labels.csv").read_text(encoding="utf-8").split()
    assert labels[:4] == ["stay_id,prediction_minute,died", "1,,0", "2,,1", "3,,1"]
    assert labels[4:] == [f"{stay},," for stay in cohort.split("test").stay_id]


def test_a_table_keeps_patients_and_prediction_times(tmp_path):
    cohort = compile_samples(tmp_path, train=[sample(1, 7, 2 * HOUR), sample(2, 7, 121.5), sample(3, 8)])
    out = export(cohort, tmp_path / "table", "table")
    table = pq.read_table(out / "events" / "train.parquet")
    pairs = zip(table["stay_id"].to_pylist(), table["subject_id"].to_pylist(), strict=True)
    assert list(dict.fromkeys(pairs)) == [(1, 7), (2, 7), (3, 8)]
    text = (out / "labels.csv").read_text(encoding="utf-8")
    assert text.split() == ["stay_id,prediction_minute,odd", "1,120.0,1", "2,121.5,0", "3,,1"]


def test_meds_is_what_the_meds_package_expects(cohort, tmp_path):
    meds = pytest.importorskip("meds", reason="the meds package is not installed")
    out = export(cohort, tmp_path / "meds", "meds")
    for file in (out / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        meds.DataSchema.validate(table)
        assert table["code"].type == pa.string()
        assert pc.all(pc.equal(table["numeric_value"], table["value"].cast(pa.float32()))).as_py()
    for file in (out / "labels").rglob("*.parquet"):
        meds.LabelSchema.validate(pq.read_table(file))
    meds.SubjectSplitSchema.validate(pq.read_table(out / meds.subject_splits_filepath))
    codes = pq.read_table(out / meds.code_metadata_filepath)
    meds.CodeMetadataSchema.validate(codes)
    assert codes["code"].to_pylist() == list(cohort.vocabulary)
    meds.DatasetMetadataSchema.validate(json.loads((out / meds.dataset_metadata_filepath).read_text(encoding="utf-8")))


def test_meds_loses_nothing(cohort, tmp_path):
    out = export(cohort, tmp_path / "meds", "meds")
    splits = pq.read_table(out / "metadata" / "subject_splits.parquet").to_pylist()
    for ours, theirs in (("train", "train"), ("valid", "tuning"), ("test", "held_out")):
        table = pq.read_table(out / "data" / theirs / "0.parquet")
        assert exported(table, "subject_id", "code") == stored(cohort, ours)
        minutes = [(time - datetime(2000, 1, 1)) / timedelta(minutes=1) for time in table["time"].to_pylist()]
        assert minutes == pytest.approx(table["minute"].to_pylist(), abs=1e-7)
        stays = [row["subject_id"] for row in splits if row["split"] == theirs]
        assert stays == cohort.split(ours).stay_id.tolist()
    labels = pq.read_table(out / "labels" / "died" / "train.parquet").to_pylist()
    assert [(row["subject_id"], row["boolean_value"]) for row in labels] == [(1, False), (2, True)]


def test_meds_prediction_times_let_every_event_of_the_cohort_be_used(tmp_path):
    cohort = compile_samples(tmp_path, train=[sample(1, 7, 2 * HOUR), sample(2, 7, 121.5), sample(3, 8)])
    out = export(cohort, tmp_path / "meds", "meds")
    labels = pq.read_table(out / "labels" / "odd" / "train.parquet")["prediction_time"].to_pylist()
    begin = datetime(2000, 1, 1)
    assert labels[:2] == [begin + timedelta(minutes=120), begin + timedelta(minutes=121.5)]
    assert labels[2] == begin + timedelta(hours=5, microseconds=1)  # its last event is after five hours
    table = pq.read_table(out / "data" / "train" / "0.parquet")
    assert sorted(set(zip(table["subject_id"].to_pylist(), table["patient_id"].to_pylist(), strict=True))) == [
        (1, 7),
        (2, 7),
        (3, 8),
    ]


def test_the_old_layout_says_what_it_has_no_place_for(cohort, tmp_path, capsys):
    export(cohort, tmp_path / "plain", "layout")
    assert "no place" not in capsys.readouterr().out
    samples = compile_samples(tmp_path / "samples", train=[sample(1, 7, 120.0), sample(2, 7)])
    export(samples, tmp_path / "layout", "layout")
    text = capsys.readouterr().out
    assert "The SeqSetVAE layout has no place for the patient of each stay, so it is not in" in text
    assert "no place for the prediction time of each stay" in text


def test_export_overwrites_nothing_and_reads_only_compiled_cohorts(cohort, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert main(["export", str(cohort.path), str(tmp_path / "there"), "--to", "table"]) == 2
    assert "there exists already and is not overwritten" in capsys.readouterr().err
    assert main(["export", str(tmp_path), str(tmp_path / "new"), "--to", "meds"]) == 2
    assert "is not a compiled cohort" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("form", "file"), [("table", "samples.parquet"), ("meds", "metadata/samples.parquet")])
def test_the_ids_and_dates_of_an_imported_source_are_exported(tmp_path, form, file):
    rows = [f"P{n},2024-01-0{n} {hour:02}:00,HR,{70 + n + hour}" for n in range(1, 7) for hour in range(8)]
    (tmp_path / "events.csv").write_text("id,time,variable,value\n" + "\n".join(rows) + "\n", encoding="utf-8")
    source, out = tmp_path / "cohort", tmp_path / "exported"
    assert main(["table", str(tmp_path / "events.csv"), str(source)]) == 0
    assert main(["export", str(source), str(out), "--to", form]) == 0
    kept = pq.read_table(out / file)
    assert sorted(kept["id"].to_pylist()) == [f"P{n}" for n in range(1, 7)]
    assert {f"{start:%Y-%m-%d}" for start in kept["start"].to_pylist()} == {f"2024-01-0{n}" for n in range(1, 7)}


# ------------------------------------------------------------------------------------------------ and back

ARRAYS = ("variable", "value", "set_offset", "minute", "stay_offset", "stay_id", "label", "subject_id")


def imported(form: str, label: str, exported: Path, out: Path) -> Cohort:
    """The cohort that the command in docs/export.md makes of an exported folder."""
    table = ["table", f"{exported}/events", str(out), "--id_column", "stay_id", "--time_column", "minute"]
    table += ["--set_column", "set_index", "--subject_column", "subject_id", "--split_column", "split"]
    table += ["--labels", f"{exported}/labels.csv", "--label_name", label]
    table += ["--prediction_time_column", "prediction_minute"]
    meds = ["meds", str(exported), str(out), "--labels", f"{exported}/labels/{label}"]
    assert main(table if form == "table" else meds) == 0
    return open_cohort(out)


def require_same(one: Cohort, other: Cohort) -> None:
    assert list(one.splits) == list(other.splits)
    assert one.vocabulary == other.vocabulary
    assert one.label_name == other.label_name
    for name in one.splits:
        np.testing.assert_array_equal(one.sums(name).as_array(), other.sums(name).as_array())
    for name, split in one.splits.items():
        for array in ARRAYS:
            found = getattr(other.split(name), array)
            np.testing.assert_array_equal(found, getattr(split, array), err_msg=f"{name} {array}")


@pytest.mark.parametrize("form", ["table", "meds"])
def test_a_round_trip_changes_no_bit(form, folder, tmp_path):
    random_layout(folder, 20)
    folder.stay("train", "2.0", [("lactate", 1.3, 5), ("lactate", 2.7, 5), ("lactate", 7.3, 5)], set_index=[4, 7, 4])
    rows = [f"{stay},{stay % 2}" for stay in (1, 2, 3, *range(100, 120))]
    folder.csv("oc.csv", "\n".join(["ts_id,died", *rows, ""]))
    cohort = compiled(folder, label_name="died")
    assert main(["export", str(cohort.path), str(tmp_path / form), "--to", form]) == 0
    require_same(cohort, imported(form, "died", tmp_path / form, tmp_path / "again"))


@pytest.mark.parametrize("form", ["table", "meds"])
def test_patients_and_prediction_times_come_back(form, tmp_path):
    train = [sample(1, 7, 2 * HOUR), sample(2, 7, 121.5), sample(3, 8, 200.0)]
    cohort = compile_samples(tmp_path, train=train, valid=[sample(4, 9, 30.0)])
    assert main(["export", str(cohort.path), str(tmp_path / form), "--to", form]) == 0
    again = imported(form, "odd", tmp_path / form, tmp_path / "again")
    require_same(cohort, again)
    for name, split in cohort.splits.items():
        np.testing.assert_array_equal(again.split(name).prediction_minute, split.prediction_minute)


def test_a_table_keeps_stays_without_a_label(folder, tmp_path):
    folder.csv("oc.csv", "ts_id,died\n1,1\n")
    cohort = compiled(folder, label_name="died")
    assert main(["export", str(cohort.path), str(tmp_path / "table"), "--to", "table"]) == 0
    require_same(cohort, imported("table", "died", tmp_path / "table", tmp_path / "again"))
