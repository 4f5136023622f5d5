"""Facts in columns of the events: known from the row on in which they first stand."""

import pytest

from seqsetvae.cohort.command import main
from seqsetvae.cohort.tables import read

from .test_compile import sets_of

COLUMNS = "id,time,variable,value,age,drug\n"
# Stay 1 gets the drug at minute 3000, stay 2 at its first row; the age of stay 3 is filled in at minute 60.
ROWS = [
    "1,0,hr,80,50,\n",
    "1,1500,hr,81,50,\n",
    "1,3000,hr,82,50,iv\n",
    "1,3600,hr,83,50,iv\n",
    "2,30,hr,70,60,iv\n",
    "2,90,hr,71,,\n",
    "3,0,hr,60,,\n",
    "3,60,hr,61,70,\n",
]
FACTS = ("--static_columns", "age", "drug")


def shuffled() -> str:
    return COLUMNS + "".join(ROWS[at] for at in (3, 5, 1, 7, 2, 0, 6, 4))


@pytest.mark.parametrize("text", [COLUMNS + "".join(ROWS), shuffled()])
@pytest.mark.parametrize("part", [64, 1 << 23])
def test_a_fact_that_is_filled_in_later_is_an_event_of_that_row(tables, monkeypatch, text, part):
    """It was known at minute 0."""
    monkeypatch.setattr(read, "BYTES_PER_PART", part)
    cohort = tables.compile(tables.csv("e.csv", text), *FACTS)
    said = "first value is on a later row of the stay, known from the time of that row: 'age' (1 stay), 'drug' (1 stay)"
    assert said in tables.said().out
    assert sets_of(cohort, "train", 0) == [
        (0, [("age", 50), ("hr", 80)]),
        (1500, [("hr", 81)]),
        (3000, [("hr", 82), ("drug=iv", 1)]),
        (3600, [("hr", 83)]),
    ]
    assert sets_of(cohort, "train", 1) == [(0, [("age", 60), ("drug=iv", 1)]), (30, [("hr", 70)]), (90, [("hr", 71)])]
    assert sets_of(cohort, "train", 2) == [(0, [("hr", 60)]), (60, [("hr", 61), ("age", 70)])]


def test_a_sample_has_the_facts_of_the_rows_before_its_prediction_time(tables):
    src = tables.csv("e.csv", COLUMNS + "".join(ROWS))
    labels = tables.csv("l.csv", "id,prediction_time\n1,1440\n1,3000\n1,3001\n3,60\n")
    cohort = tables.compile(src, *FACTS, "--labels", labels)
    known = [{name for _, events in sets_of(cohort, "train", at) for name, _ in events} for at in range(4)]
    assert known == [{"age", "hr"}, {"age", "hr"}, {"age", "hr", "drug=iv"}, {"hr"}]
    cohort = tables.compile(src, *FACTS, "--until_hour", 24)
    assert [[name for name, _ in sets_of(cohort, "train", at)[0][1]] for at in (0, 2)] == [["age", "hr"], ["hr"]]


def test_a_fact_follows_dates_and_the_numbers_of_sets(tables):
    text = "id,time,variable,value,set,drug\n1,2150-01-01 10:00,hr,1,5,\n1,2150-01-01 11:00,hr,2,6,\n"
    src = tables.csv("e.csv", text + "1,2150-01-01 11:00,rr,3,7,iv\n")
    cohort = tables.compile(src, "--static_columns", "drug", "--set_column", "set", "--time_zone", "Europe/Berlin")
    assert sets_of(cohort, "train", 0)[1:] == [(60, [("hr", 2)]), (60, [("rr", 3), ("drug=iv", 1)])]


def test_a_fact_on_a_row_that_is_left_out_is_known_from_that_row_on(tables):
    src = tables.csv(
        "e.csv", "id,time,variable,value,sex\n1,0,note,,f\n1,5,hr,1,\n2,0,hr,1,\n2,9,note,,f\n2,10,hr,1,\n"
    )
    cohort = tables.compile(src, "--static_columns", "sex", "--leave_out", "note")
    assert sets_of(cohort, "train", 0) == [(0, [("sex=f", 1)]), (5, [("hr", 1)])]
    assert sets_of(cohort, "train", 1) == [(0, [("hr", 1)]), (9, [("sex=f", 1)]), (10, [("hr", 1)])]


def test_a_table_of_stays_has_a_fact_on_every_row_of_an_id(tables):
    """It has no times: events given as --stays must not hide when a fact was filled in."""
    src = tables.csv("e.csv", COLUMNS + "".join(ROWS))
    assert tables.run(src, "--stays", src, "--static_columns", "drug", "--skip_bad") == 2
    assert "e.csv, column drug: the id '1' has it on 2 of its 4 rows (2 such ids)" in tables.said().err
    stays = tables.csv("s.csv", "id,age,sex\n1,50,\n1,50,\n2,60,m\n4,,f\n4,3,f\n")
    cohort = tables.compile(src, "--stays", stays, "--static_columns", "age", "sex")
    assert sets_of(cohort, "train", 1)[0] == (0, [("age", 60), ("sex=m", 1)])


def test_check_says_which_facts_are_known_later(tables):
    main(["check", str(tables.csv("e.csv", COLUMNS + "".join(ROWS))), *FACTS])
    assert "facts whose first value is on a later row of the stay" in tables.said().out
