"""`data.py table`: one long table of events, or several, becomes a cohort."""

import gzip
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.command import main
from seqsetvae.cohort.tables import database, read

from .conftest import EVENTS, HEADER
from .test_compile import sets_of


def test_rows_become_sets_by_stay_and_minute(tables):
    cohort = tables.compile(tables.csv("events.csv", EVENTS))
    assert cohort.split("train").stay_id.tolist() == [7, 8, 9]
    assert sets_of(cohort, "train", 0) == [(0, [("hr", 80)]), (30, [("lactate", 2), ("hr", 90)])]
    assert sets_of(cohort, "train", 1) == [(5, [("hr", 60)])]
    assert cohort.split("train").subject_id.tolist() == [7, 8, 9]
    assert cohort.label_name == "none"


def test_columns_may_have_other_names_and_the_time_another_unit(tables):
    text = "stay,hour,item,result,note\n7.0,0.5,hr,80,a\n7,1,hr,90,b\n"
    columns = ("--id_column", "stay", "--time_column", "hour", "--variable_column", "item", "--value_column", "result")
    cohort = tables.compile(tables.csv("e.csv", text), *columns, "--time_unit", "hours")
    assert sets_of(cohort, "train", 0) == [(30, [("hr", 80)]), (60, [("hr", 90)])]
    text = text.replace(",0.5,", ",1800000,").replace(",1,", ",3600000,")
    cohort = tables.compile(tables.csv("ms.csv", text), *columns, "--time_unit", "milliseconds")
    assert sets_of(cohort, "train", 0) == [(30, [("hr", 80)]), (60, [("hr", 90)])]


@pytest.mark.parametrize("form", ["parquet", "csv.gz", "tsv", "folder"])
def test_every_form_of_a_table_gives_the_same_cohort(tables, form):
    expected = tables.compile(tables.csv("events.csv", EVENTS))
    rows = [line.split(",") for line in EVENTS.splitlines()[1:]]
    src = tables.root / f"other.{form}"
    if form == "parquet":
        columns = list(zip(*rows, strict=True))
        numbers = [list(map(float, columns[at])) for at in (1, 3)]
        table = {"id": list(map(int, columns[0])), "time": numbers[0], "variable": columns[2], "value": numbers[1]}
        pq.write_table(pa.table(table), src)
    elif form == "csv.gz":
        src.write_bytes(gzip.compress(EVENTS.encode()))
    elif form == "tsv":
        src.write_text(EVENTS.replace(",", "\t"), encoding="utf-8")
    else:
        for at in range(5):
            tables.csv(f"other.folder/sub/{at}.csv", HEADER + ",".join(rows[at]) + "\n")
    cohort = tables.compile(src)
    assert cohort.manifest["checksums"] == expected.manifest["checksums"]


def test_rows_in_any_order_and_parts_and_buckets_of_any_size_give_the_same_cohort(tables, monkeypatch):
    rng = np.random.default_rng(0)
    lines = [f"{stay},{minute},v{minute % 3},{stay + minute}\n" for stay in range(40) for minute in range(stay % 7 + 1)]
    expected = tables.compile(tables.csv("a.csv", HEADER + "".join(lines)))
    shuffled = HEADER + "".join(lines[at] for at in rng.permutation(len(lines)))
    monkeypatch.setattr(read, "BYTES_PER_PART", 64)
    monkeypatch.setattr(database, "ROWS_PER_BLOCK", 10)
    cohort = tables.compile(tables.csv("b.csv", shuffled))
    same = {name: sum for name, sum in cohort.manifest["checksums"].items() if name != "samples.parquet"}
    assert same.items() <= expected.manifest["checksums"].items()
    assert cohort.manifest["report"]["stays_out_of_order"] > 0


# ------------------------------------------------------------------------------------------------ times


def test_timestamps_with_zones_count_from_the_first_event(tables):
    text = HEADER + (
        "a,2021-03-28 01:30:00+01:00,hr,1\na,2021-03-28T03:30:00+02:00,hr,2\na,2021-03-28T02:00:00Z,hr,3\n"
        "b,2021-10-31T00:00:00.250Z,hr,4\nb,2021-10-31 00:00Z,hr,5\n"
    )
    cohort = tables.compile(tables.csv("e.csv", text))
    assert sets_of(cohort, "train", 0) == [(0, [("hr", 1)]), (60, [("hr", 2)]), (90, [("hr", 3)])]
    assert sets_of(cohort, "train", 1) == [(0, [("hr", 5)]), (0.25 / 60, [("hr", 4)])]


def test_times_of_a_named_zone_know_summer_and_winter(tables):
    text = HEADER + "1,28/03/2021 01:30,hr,1\n1,28/03/2021 03:30,hr,2\n"
    src, form = tables.csv("e.csv", text), ("--time_format", "%d/%m/%Y %H:%M")
    assert sets_of(tables.compile(src, *form), "train", 0)[1][0] == 120  # one clock that never changes
    assert sets_of(tables.compile(src, *form, "--time_zone", "Europe/Berlin"), "train", 0)[1][0] == 60


def test_timestamps_of_parquet_are_read_in_every_unit_and_zone(tables):
    times = [datetime(2020, 1, 1, tzinfo=UTC) + timedelta(minutes=minute) for minute in (0, 7)]
    for kind in (pa.timestamp("ns", "Asia/Tokyo"), pa.timestamp("ms", "UTC"), pa.timestamp("us", "UTC")):
        src = tables.root / f"{kind.unit}.parquet"
        columns = {"id": [1, 1], "time": pa.array(times, kind), "variable": ["hr", "hr"], "value": [1, 2]}
        pq.write_table(pa.table(columns), src)
        assert sets_of(tables.compile(src), "train", 0) == [(0, [("hr", 1)]), (7, [("hr", 2)])]


def test_a_stay_starts_where_a_column_says(tables):
    src = tables.csv("e.csv", HEADER + "1,2020-01-01 10:00,hr,1\n1,2020-01-01 11:00,hr,2\n2,2020-01-02 00:00,hr,3\n")
    stays = tables.csv("stays.csv", "id,admitted\n2,2020-01-01 23:50\n1,2020-01-01 10:30\n5,2020-01-01 10:30\n")
    cohort = tables.compile(src, "--stays", stays, "--start_column", "admitted")
    assert [sets_of(cohort, "train", at)[0][0] for at in (0, 1)] == [-30, 10]


def test_until_hour_hides_what_comes_later(tables):
    src = tables.csv("e.csv", HEADER + "1,0,hr,1\n1,59.9,hr,2\n1,60,hr,3\n2,60,hr,4\n")
    cohort = tables.compile(src, "--until_hour", 1)
    assert sets_of(cohort, "train", 0) == [(0, [("hr", 1)]), (59.9, [("hr", 2)])]
    assert cohort.split("train").prediction_minute.tolist() == [60]
    assert 'id 2",,,"the stay has no rows before its prediction time' in (cohort.path / "skipped.csv").read_text()


# ------------------------------------------------------------------------------------------------ variables


def test_categories_and_events_without_a_value_have_the_value_1(tables):
    src = tables.csv(
        "e.csv", HEADER + "1,0,rhythm,sinus\n1,1,rhythm,atrial fib\n1,2,dialysis,\n1,3,hr,80\n1,4,unit,3\n"
    )
    cohort = tables.compile(src, "--categorical", "unit")
    assert [events for _, events in sets_of(cohort, "train", 0)] == [
        [("rhythm=sinus", 1)],
        [("rhythm=atrial fib", 1)],
        [("dialysis", 1)],
        [("hr", 80)],
        [("unit=3", 1)],
    ]


def test_rows_of_a_numeric_variable_without_a_number_may_be_left_out_or_become_levels(tables):
    src = tables.csv("e.csv", HEADER + "1,0,hr,80\n1,1,hr,>200\n1,2,hr,\n1,3,hr,NaN\n1,4,hr,+1e2\n")
    cohort = tables.compile(src, "--non_numeric", "leave_out")
    assert [events for _, events in sets_of(cohort, "train", 0)] == [[("hr", 80)], [("hr", 100)]]
    (note,) = [note for note in cohort.manifest["import"]["notes"] if "without a number" in note]
    assert note == "rows of numeric variables without a number, left out: 'hr' (3 events)"
    cohort = tables.compile(src, "--non_numeric", "level")
    names = [events[0][0] for _, events in sets_of(cohort, "train", 0)]
    assert names == ["hr", "hr=>200", "hr=none", "hr=none", "hr"]


def test_levels_may_be_in_a_column_of_their_own_and_events_may_have_no_values_at_all(tables):
    text = "id,time,variable,value,said\n1,0,hr,80,high\n1,1,rhythm,,sinus\n1,2,culture,,\n"
    cohort = tables.compile(tables.csv("e.csv", text), "--text_column", "said")
    assert [events for _, events in sets_of(cohort, "train", 0)] == [
        [("hr", 80)],
        [("rhythm=sinus", 1)],
        [("culture", 1)],
    ]
    cohort = tables.compile(tables.csv("f.csv", "id,time,variable\n1,0,I10\n1,1,E11\n"), "--value_column", "none")
    assert [events for _, events in sets_of(cohort, "train", 0)] == [[("I10", 1)], [("E11", 1)]]


def test_static_facts_are_the_first_events_of_the_first_set(tables):
    src = tables.csv("e.csv", HEADER + "1,-5,hr,80\n1,0,hr,81\n2,30,hr,70\n3,0,hr,60\n")
    stays = tables.csv("stays.csv", "id,sex,age\n1,f,60.5\n2,m,\n9,f,1\n")
    cohort = tables.compile(src, "--stays", stays, "--static_columns", "sex", "age")
    assert sets_of(cohort, "train", 0) == [(-5, [("sex=f", 1), ("age", 60.5), ("hr", 80)]), (0, [("hr", 81)])]
    assert sets_of(cohort, "train", 1) == [(0, [("sex=m", 1)]), (30, [("hr", 70)])]
    assert sets_of(cohort, "train", 2) == [(0, [("hr", 60)])]
    repeated = tables.csv("f.csv", "id,time,variable,value,age\n1,0,hr,80,61\n1,5,hr,81,61\n1,6,hr,82,\n")
    cohort = tables.compile(repeated, "--static_columns", "age")
    assert sets_of(cohort, "train", 0)[0] == (0, [("age", 61), ("hr", 80)])


def test_a_set_may_have_a_number(tables):
    src = tables.csv("e.csv", "id,time,variable,value,set\n1,5,b,1,4\n1,5,a,2,3\n1,5,c,3,4\n")
    assert sets_of(tables.compile(src), "train", 0) == [(5, [("b", 1), ("a", 2), ("c", 3)])]
    cohort = tables.compile(src, "--set_column", "set")
    assert sets_of(cohort, "train", 0) == [(5, [("a", 2)]), (5, [("b", 1), ("c", 3)])]


# ------------------------------------------------------------------------------------------------ another hospital


def test_a_variable_map_renames_and_converts_and_is_kept_in_the_manifest(tables):
    src = tables.csv("e.csv", HEADER + "1,0,Temp F,212\n1,0,HR,80\n1,0,Heart Rate,81\n1,1,sex,m\n")
    text = "name,target,factor,offset\nTemp F,temp,0.5555555555555556,-17.77777777777778\n"
    text += "HR,hr,,\nHeart Rate,hr,1,0\nRR,rr,,\n"
    mapping = tables.csv("map.csv", text)
    cohort = tables.compile(src, "--variable_map", mapping)
    (_, events), (_, later) = sets_of(cohort, "train", 0)
    assert [(name, round(value, 9)) for name, value in events] == [("temp", 100), ("hr", 80), ("hr", 81)]
    assert later == [("sex=m", 1)]
    kept = cohort.manifest["import"]["variable_map"]
    assert kept[1] == {"name": "HR", "target": "hr", "factor": 1.0, "offset": 0.0}
    assert f"1 of 4 names of {mapping} do not occur: 'RR'" in tables.said().out


def test_variables_are_left_out_by_name(tables):
    src = tables.csv("b.csv", HEADER + "1,0,hr,80\n1,0,DISCHARGE//home,\n1,0,DISCHARGE//died,\n1,0,death?,1\n")
    cohort = tables.compile(src, "--leave_out", "DISCHARGE//*", "death?")
    assert cohort.vocabulary == ("hr",)
    assert "3 variables left out by name: 'DISCHARGE//died' (1 event)" in tables.said().out


LEVELS = HEADER + "1,0,rhythm,afib\n1,1,rhythm,AF\n1,2,rhythm,sinus\n1,3,rhythm,died\n1,4,HR,80\n1,5,ward,3\n"


def test_levels_are_renamed_and_left_out_by_name(tables):
    src = tables.csv("e.csv", LEVELS)
    mapping = tables.csv("map.csv", "name,target\nrhythm=afib,fibrillation\nrhythm=AF,fibrillation\nHR,hr\nward,unit\n")
    flags = ("--leave_out", "rhythm=d*", "hr", "--variable_map", mapping, "--categorical", "unit")
    cohort = tables.compile(src, *flags)
    events = [event for _, those in sets_of(cohort, "train", 0) for event in those]
    assert events == [("fibrillation", 1), ("fibrillation", 1), ("rhythm=sinus", 1), ("unit=3", 1)]
    said = tables.said().out
    assert "2 variables left out by name: " in said
    assert "do not occur" not in said
    assert "no variable or level" not in said


def test_names_that_match_nothing_are_said(tables):
    src = tables.csv("e.csv", LEVELS)
    flags = ("--leave_out", "DEATH*", "rhythm=died", "--categorical", "unit", "ward")
    tables.compile(src, *flags)
    for said in (tables.said().out, tables.checked(src, *flags)):
        assert "--leave_out 'DEATH*': no variable or level of the data is called so" in said
        assert "--categorical 'unit': no variable or level of the data is called so" in said


# ------------------------------------------------------------------------------------------------ samples and splits


def test_labels_may_be_several_for_each_stay_with_a_prediction_time_each(tables):
    src = tables.csv("e.csv", HEADER + "x,0,hr,1\nx,60,hr,2\nx,120,hr,3\ny,0,hr,4\nz,0,hr,5\n")
    labels = tables.csv(
        "labels.csv", "id,prediction_time,died,back\nx,120,1,\nx,60,0,1\ny,60,FALSE,0\nw,60,1,1\nx,60,0,1\n"
    )
    cohort = tables.compile(src, "--labels", labels, "--label_name", "died")
    split = cohort.split("train")
    assert split.stay_id.tolist() == [1, 2, 3]
    assert split.subject_id.tolist() == [1, 1, 2]
    assert split.prediction_minute.tolist() == [60, 120, 60]
    assert split.label.tolist() == [0, 1, 0]
    assert [len(sets_of(cohort, "train", at)) for at in range(3)] == [1, 2, 1]
    samples = pq.read_table(cohort.path / "samples.parquet").to_pylist()
    assert [(row["stay_id"], row["id"], row["prediction_time"]) for row in samples] == [
        (1, "x", 60),
        (2, "x", 120),
        (3, "y", 60),
    ]
    assert cohort.manifest["import"]["notes"][:2] == [
        f"{labels}: 1 of 5 rows are of ids without events; they are not used",
        "1 id without a prediction time, left out",
    ]
    assert tables.compile(src, "--labels", labels, "--label_name", "back").split("train").label.tolist() == [1, -1, 0]


def test_all_stays_of_a_patient_are_in_one_split_and_the_seed_decides_which(tables):
    rows = [(f"s{at}", f"p{at // 3}") for at in range(90)]
    src = tables.csv("e.csv", HEADER + "".join(f"{stay},0,hr,{at}\n" for at, (stay, _) in enumerate(rows)))
    stays = tables.csv("stays.csv", "id,patient\n" + "".join(f"{stay},{patient}\n" for stay, patient in rows))
    flags = (src, "--stays", stays, "--subject_column", "patient")
    first, other = (tables.compile(*flags, "--fractions", 0.6, 0.2, 0.2, "--seed", seed) for seed in (0, 1))
    assert [split.n_stays for split in first.splits.values()] == [54, 18, 18]
    patients = [set(split.subject_id.tolist()) for split in first.splits.values()]
    assert sum(map(len, patients)) == 30
    assert first.split("test").stay_id.tolist() != other.split("test").stay_id.tolist()


def test_every_patient_is_in_the_test_split_of_one_fold(tables):
    src = tables.csv("e.csv", HEADER + "".join(f"{stay},0,hr,{stay}\n" for stay in range(23)))
    labels = tables.csv("labels.csv", "id,died\n" + "".join(f"{stay},{int(stay < 8)}\n" for stay in range(23)))
    tested, validated = [], []
    for fold in ("1/4", "2/4", "3/4", "4/4"):
        cohort = tables.compile(src, "--labels", labels, "--label_name", "died", "--fold", fold)
        tested.append(cohort.split("test").stay_id.tolist())
        validated.append(cohort.split("valid").stay_id.tolist())
        assert cohort.split("test").label.sum() == 2
    assert sorted(stay for fold in tested for stay in fold) == list(range(23))
    assert validated == [*tested[1:], tested[0]]
    assert sorted(map(len, tested)) == [5, 6, 6, 6]
    for fold in ("0/4", "5/4", "1/2", "half"):
        assert f"--fold {fold}: allowed: i/k with k of 3 or more" in tables.refused(src, "--fold", fold)


def test_the_data_may_have_splits_of_their_own(tables):
    src = tables.csv("e.csv", "id,time,variable,value,part\n1,0,hr,1,train\n2,0,hr,2,tuning\n3,0,hr,3,held_out\n")
    cohort = tables.compile(src, "--split_column", "part")
    assert {name: split.stay_id.tolist() for name, split in cohort.splits.items()} == {
        "train": [1],
        "valid": [2],
        "test": [3],
    }


def test_statistics_are_those_of_the_training_split(tables):
    src = tables.csv("e.csv", "id,time,variable,value,part\n1,0,hr,1,train\n1,1,hr,3,train\n3,0,hr,100,test\n")
    out = tables.root / "out"
    assert main(["table", str(src), str(out), "--split_column", "part"]) == 0
    assert open_cohort(out).mean.tolist() == [2]
