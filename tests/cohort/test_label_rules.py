"""`data.py table`: labels, prediction times and splits that are made of the data."""

import numpy as np
import pytest

from seqsetvae.cohort import Cohort

from .test_compile import sets_of

# Hours; stay 1 becomes septic at hour 3, stay 2 never, stay 3 has no label.
ROWS = "id,time,hr,septic\n1,1,80,0\n1,2,81,0\n1,3,82,1\n2,1,70,0\n2,2,71,0\n3,1,60,\n"
HOURLY = ("--wide", "--time_unit", "hours", "--label_column", "septic")


def labels_of(cohort: Cohort) -> dict[int, int]:
    split = cohort.split("train")
    return dict(zip(split.stay_id.tolist(), split.label.tolist(), strict=True))


@pytest.mark.parametrize(("rule", "labels"), [("any", [1, 0, -1]), ("first", [0, 0, -1]), ("last", [1, 0, -1])])
def test_the_label_of_a_stay_is_made_of_its_rows(tables, rule, labels):
    cohort = tables.compile(tables.csv("e.csv", ROWS), *HOURLY, "--label_of", rule)
    assert list(labels_of(cohort).values()) == labels
    assert cohort.vocabulary == ("hr",)
    assert cohort.label_name == "septic"


LEVELS = "id,outcome\n1,Expired\n2,Alive\n3,\n4,Expired\n5,Hospice\n"
CODES = "id,outcome\n1,2\n2,0\n3,\n4,2.0\n5,1\n"
WITHIN = "id,time,hr,outcome\n1,1,80,Alive\n1,2,81,Expired\n2,1,70,Alive\n3,1,60,\n4,1,60,Expired\n5,1,60,Hospice\n"


@pytest.mark.parametrize(
    ("labels", "positive", "label"),
    [
        (LEVELS, ["Expired"], [1, 0, -1, 1, 0]),
        (LEVELS, ["Expired", "Hospice"], [1, 0, -1, 1, 1]),
        (CODES, ["2"], [1, 0, -1, 1, 0]),
        (CODES, ["2.0", "1"], [1, 0, -1, 1, 1]),
        (None, ["Expired"], [1, 0, -1, 1, 0]),
        (LEVELS.replace("3,", "3,na").replace("2,Alive", "2,-"), ["Expired"], [1, -1, -1, 1, 0]),
    ],
)
def test_other_labels_than_0_and_1_are_said_by_their_values(tables, labels, positive, label):
    flags = ["--wide", "--time_unit", "hours", "--label_positive", *positive, "--value_columns", "hr"]
    if labels is None:
        flags += ["--label_column", "outcome"]
    else:
        flags += ["--labels", tables.csv("labels.csv", labels), "--label_name", "outcome"]
    cohort = tables.compile(tables.csv("e.csv", WITHIN), *flags)
    assert list(labels_of(cohort).values()) == label
    decided = cohort.manifest["import"]["decided"]
    (said,) = [line for line in decided if line.startswith("outcome: label 1 is '")]
    assert ", label 0 is '" in said
    assert "'na'" not in said
    assert "'-'" not in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--label_name", "outcome"],
            "'Expired' is not a label; allowed: 0, 1, false, true, empty (--label_positive says",
        ),
        (
            ["--label_name", "outcome", "--label_positive", "expired"],
            "--label_positive 'expired': no cell of outcome has this value, but 'Expired', 'Alive', 'Hospice'.",
        ),
        (["--label_positive", "Expired"], "--label_positive is of --label_name or --label_column"),
    ],
)
def test_values_that_do_not_occur_are_refused(tables, flags, message):
    labels = tables.csv("labels.csv", LEVELS)
    assert message in tables.refused(tables.csv("e.csv", WITHIN), "--wide", "--labels", labels, *flags)


def test_each_row_may_be_a_prediction_at_its_time(tables):
    cohort = tables.compile(tables.csv("e.csv", ROWS), *HOURLY, "--label_of", "each_row")
    split = cohort.split("train")  # nothing is known before the first hour, so that these samples are left out
    assert split.prediction_minute.tolist() == [120, 180, 120]
    assert split.label.tolist() == [0, 1, 0]
    assert sets_of(cohort, "train", 1) == [(60, [("hr", 80)]), (120, [("hr", 81)])]


@pytest.mark.parametrize(
    ("rule", "rows", "at"),
    [
        ("first", "1,1,80,1\n2,1,70,1\n2,1,71,0\n2,2,71,0\n", "1 hours"),
        ("last", "1,1,80,1\n2,1,70,1\n2,2.5,71,0\n2,2.5,71,1\n", "2.5 hours"),
        ("each_row", "1,1,80,1\n2,1,70,1\n2,2,71,0\n2,2,71,1\n2,3,71,1\n", "2 hours"),
        ("last", "1,2020-01-01 10:00,80,1\n2,2020-01-01 10:30,71,0\n2,2020-01-01 10:30,71,1\n", "2020-01-01 10:30:00"),
    ],
)
def test_two_labels_at_the_time_that_counts_are_refused(tables, rule, rows, at):
    src = tables.csv("e.csv", "id,time,hr,septic\n" + rows)
    said = f"--label_of {rule}: stay '2' has rows with septic 0 and with 1 at one time, {at} (1 such stay)"
    assert said in tables.refused(src, *HOURLY, "--label_of", rule)


def test_two_labels_at_a_time_that_does_not_count_are_no_tie(tables):
    src = tables.csv("e.csv", "id,time,hr,septic\n1,1,80,1\n1,2,81,0\n1,2,82,1\n1,3,80,0\n1,3,80,0\n1,3,80,\n")
    for rule, label in (("first", 1), ("last", 0), ("any", 1)):
        assert labels_of(tables.compile(src, *HOURLY, "--label_of", rule)) == {1: label}


@pytest.mark.parametrize("name", ["move=icu", "transfer=icu", "admission", "hr", "pulse", " pulse "])
def test_a_label_event_may_have_its_name_in_the_tables_or_in_the_cohort(tables, name):
    events = "1,0,rr,20\n1,600,rr,20\n2,0,rr,20\n2,600,rr,20\n1,130,move,icu\n2,130,move,ward\n1,300,hr,80\n"
    src = tables.csv("e.csv", "id,time,variable,value\n" + events)
    names = tables.csv("map.csv", "name,target\nmove,transfer\ntransfer=icu,admission\nhr,pulse\n")
    flags = ("--predict_at", 2, "--variable_map", names, "--label_event", name)
    assert labels_of(tables.compile(src, *flags)) == {1: 1, 2: 0}


def test_where_names_are_exchanged_the_label_event_is_that_of_the_cohort(tables):
    src = tables.csv(
        "e.csv", "id,time,variable,value\n1,0,rr,20\n1,300,a,1\n2,0,rr,20\n2,300,b,1\n2,600,rr,1\n1,600,rr,1\n"
    )
    names = tables.csv("map.csv", "name,target\na,b\nb,a\n")
    cohort = tables.compile(src, "--predict_at", 2, "--variable_map", names, "--label_event", "b")
    assert labels_of(cohort) == {1: 1, 2: 0}


@pytest.mark.parametrize("event", ["move", "move=icu", "transfer"])
@pytest.mark.parametrize("pattern", ["move", "tran*"])
def test_a_label_event_that_is_left_out_is_said_to_be(tables, event, pattern):
    src = tables.csv("e.csv", "id,time,variable,value\n1,0,hr,80\n1,300,move,icu\n1,600,hr,80\n")
    names = tables.csv("map.csv", "name,target\nmove,transfer\n")
    flags = ("--predict_at", "3", "--variable_map", str(names), "--leave_out", pattern, "--label_event", event)
    assert f"--label_event {event}: --leave_out takes this variable out. Leave it in" in tables.refused(src, *flags)


def test_an_event_after_the_prediction_time_is_the_label(tables):
    events = "id,time,variable,value\n" + "".join(f"{stay},0,hr,80\n{stay},600,hr,80\n" for stay in (1, 2, 3, 4))
    src = tables.csv("e.csv", events + "1,130,move,icu\n2,30,move,icu\n3,500,move,icu\n4,200,move,ward\n")
    flags = ("--predict_at", 2, "--label_event", "move=icu", "--horizon", 3)
    cohort = tables.compile(src, *flags)
    assert labels_of(cohort) == {1: 1, 3: 0, 4: 0}  # stay 2 had it before
    assert cohort.vocabulary == ("hr",)
    assert "it had occurred before: 1 sample" in tables.said().out
    assert labels_of(tables.compile(src, *flags[:4])) == {1: 1, 3: 1, 4: 0}


def test_predictions_may_be_made_every_few_hours_of_a_stay(tables):
    events = "id,time,variable,value\n" + "".join(f"7,{minute},hr,80\n" for minute in range(0, 301, 30)) + "8,0,hr,70\n"
    split = tables.compile(tables.csv("e.csv", events), "--predict_every", 2).split("train")
    assert split.prediction_minute.tolist() == [120, 240]
    assert np.diff(split.stay_offset).tolist() == [4, 8]


def test_a_time_of_death_that_is_there_is_the_label(tables):
    events = tables.csv("e.csv", "id,time,variable,value\n1,0,hr,80\n2,0,hr,80\n3,0,hr,80\n")
    stays = tables.csv("stays.csv", "id,died_at\n1,2150-01-01\n2,\n")
    cohort = tables.compile(events, "--stays", stays, "--label_present", "died_at")
    assert labels_of(cohort) == {1: 1, 2: 0, 3: -1}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--label_event", "hr"), "--label_event needs prediction times"),
        (("--label_event", "hr", "--until_hour", "3"), "--label_event needs prediction times"),
        (("--label_event", "sepsis", "--predict_at", "3"), "no event of the data is of this variable"),
        (("--label_event", "hr", "--label_column", "x", "--predict_at", "3"), "each gives the label"),
        (("--predict_at", "3", "--predict_every", "3"), "give one of them"),
        (("--horizon", "3"), "--label_event, which is not given"),
        (("--predict_at", "-3"), "numbers above 0"),
        (("--split_by", "start"), "--split_by start needs timestamps"),
    ],
)
def test_flags_that_do_not_fit_are_refused(tables, flags, said):
    src = tables.csv("e.csv", "id,time,variable,value\n1,0,hr,80\n2,300,hr,80\n")
    assert said in tables.refused(src, *flags)


def test_the_latest_patients_are_the_test(tables):
    rows = [f"{stay},2020-01-{stay:02} 12:00,hr,{stay}" for stay in range(10, 0, -1)]
    src = tables.csv("e.csv", "id,time,variable,value\n" + "\n".join(rows) + "\n")
    cohort = tables.compile(src, "--split_by", "start", "--fractions", 0.6, 0.2, 0.2)
    stays = {name: split.stay_id.tolist() for name, split in cohort.splits.items()}
    assert stays == {"train": [1, 2, 3, 4, 5, 6], "valid": [7, 8], "test": [9, 10]}


def test_patients_of_two_hospitals_are_refused(tables):
    rows = [f"{stay},0,hr,80,{'ABC'[stay % 3]},p{max(stay, 4)}" for stay in range(30)]
    src = tables.csv("e.csv", "id,time,variable,value,site,patient\n" + "\n".join(rows) + "\n")
    flags = ("--split_by", "site", "--subject_column", "patient")
    said = "e.csv, column site: 1 patient with several values, such as p4 with A, B, C. A value is in one split, and so"
    error = tables.refused(src, *flags)
    assert said in error
    assert "leave out --split_by" in error


def test_a_hospital_is_in_one_split(tables):
    rows = [f"{stay},0,hr,80,{'ABC'[stay % 3]}" for stay in range(30)]
    src = tables.csv("e.csv", "id,time,variable,value,site\n" + "\n".join(rows) + "\n")
    cohort = tables.compile(src, "--split_by", "site", "--fractions", 0.4, 0.3, 0.3)
    sites = {name: {"ABC"[stay % 3] for stay in split.stay_id.tolist()} for name, split in cohort.splits.items()}
    assert sorted(map(len, sites.values())) == [1, 1, 1]
