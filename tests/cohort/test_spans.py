"""When stays begin and end: one absurd time, numbers of another clock, events before minute 0, facts alone, the end."""

from collections.abc import Callable

import numpy as np
import pytest

from seqsetvae.cohort import notices, open_cohort
from seqsetvae.cohort.checks import check_folder
from seqsetvae.cohort.command import main
from seqsetvae.cohort.spans import DAY, YEAR, refuse_other_clocks
from seqsetvae.system.errors import InputError

from .conftest import HEADER
from .test_compile import compiled, sets_of
from .test_meds import MEDS

STAMPED = "".join(f"{stay},2020-01-0{stay} 0{hour}:00,hr,{80 + hour}\n" for stay in range(1, 9) for hour in range(6))
NUMBERS = "".join(f"{stay},{60 * hour},hr,{80 + hour}\n" for stay in range(1, 9) for hour in range(6))
LABELS = "id,died\n" + "".join(f"{stay},{stay % 2}\n" for stay in range(1, 9))


# ------------------------------------------------------------------------------------------------ one absurd time


@pytest.mark.parametrize(
    ("row", "hours", "is_absurd"),
    [
        ("3,1900-01-01 00:00,hr,80\n", "1,051,949", False),  # within a life
        ("3,2300-01-01 00:00,hr,80\n", "2,454,384", True),
    ],
)
def test_a_stay_of_years_among_stays_of_hours_is_named(tables, row, hours, is_absurd):
    """Before the cut: after it, the stay is one event, or as short as any other."""
    src, labels = tables.csv("e.csv", HEADER + STAMPED + row), tables.csv("l.csv", LABELS)
    flags = ("--labels", labels, "--label_name", "died", "--until_hour", 24)
    said = "1 stay of more than 1 year from first to last event, before anything is cut off (the longest "
    main(["check", str(src), *map(str, flags)])
    text = tables.said().out
    assert said + hours in text
    assert f"\n      {src}, id 3: from minute 0 to " in text
    assert (said in text.split("Warnings:")[0]) is is_absurd
    cohort = tables.compile(src, *flags)
    out = tables.said().out
    assert said + hours in out
    assert f"{src}, id 3: " in out
    lines = "\n".join(notices(cohort))  # when a training starts: no ids
    assert said + hours in lines
    assert "id 3" not in lines


def test_records_of_years_are_not_all_named(tables):
    rows = "".join(f"{stay},20{year}-01-01,hr,{year}\n" for stay in range(1, 9) for year in range(10, 12 + stay))
    main(["check", str(tables.csv("e.csv", HEADER + rows))])
    assert "before anything is cut off" not in tables.said().out
    main(["check", str(tables.csv("e.csv", HEADER + rows + "3,1790-01-01,hr,80\n"))])
    assert "1 stay of more than 1" in tables.said().out


def test_a_stay_far_from_its_start_is_named(tables):
    src = tables.csv("e.csv", HEADER + NUMBERS + "9,95000000,hr,80\n")
    said = "1 of 9 stays have their first event more than 30 days from minute 0 (the furthest 1,583,333 hours)"
    main(["check", str(src), "--until_hour", "24"])
    text = tables.said().out
    assert said in text
    assert f"{src}, id 9: from minute 95,000,000 to 95,000,000" in text
    tables.compile(src)
    assert said in tables.said().out


def test_stays_of_the_old_layout_are_looked_at_too(folder):
    folder.stay("train", "4", [("lactate", 1, 0), ("lactate", 1, 17e6 * 60)])
    folder.stay("train", "5", [("lactate", 1, -5), ("lactate", 1, 0), ("lactate", 1, 95e6)])
    cohort = compiled(folder)
    for text in ("\n".join(notices(cohort)), check_folder(folder.root).text(), check_folder(cohort.path).text()):
        assert "2 stays of more than 1 year from first to last event" in text
        assert "(the longest 17,000,000 hours" in text
        assert "1 of 11 events (9.1%) of 1 stay are before minute 0" in text
    assert "train/4.parquet: from minute 0 to 1,020,000,000" in check_folder(folder.root).text()


# ------------------------------------------------------------------------------------------------ another clock


CLOCKS: dict[str, tuple[Callable[[float], float], str]] = {
    "seconds since 1970": (lambda day: 1577836800 + 86400 * day, "seconds since 1970"),
    "seconds of a shifted date": (lambda day: 5e9 + 86400 * day, "seconds since 1970"),
    "milliseconds since 1970": (lambda day: 1000 * (1577836800 + 86400 * day), "milliseconds since 1970"),
    "nanoseconds since 1970": (lambda day: 1e9 * (1577836800 + 86400 * day), "nanoseconds since 1970"),
    "days of a spreadsheet": (lambda day: 43831.25 + day, "days since 1900 as a spreadsheet writes dates"),
    "dates": (lambda day: 20200101 + day, "dates written as YYYYMMDD: read them with --time_format %Y%m%d"),
    "dates and minutes": (lambda day: 202001010930 + 10000 * day, "read them with --time_format %Y%m%d%H%M"),
    "dates and seconds": (lambda day: 20200101093000 + 1000000 * day, "--time_format %Y%m%d%H%M%S"),
    "anything else": (lambda day: 1e7 + day, "more than ten years after the start of the stay"),
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_numbers_of_another_clock_are_refused(clock):
    number, message = CLOCKS[clock]
    first = np.array([number(day) for day in range(20)])
    with pytest.raises(InputError) as error:
        refuse_other_clocks(first, 1.0, "minutes")
    assert message in str(error.value)
    assert f"such as {first[0]:.12g}, " in str(error.value)


def test_numbers_from_the_start_of_stays_are_not_refused():
    for first in (np.zeros(9), np.full(9, 18 * DAY), np.append(np.zeros(9), 1577836800.0), np.full(9, -20 * YEAR)):
        refuse_other_clocks(first, 1.0, "minutes")
    refuse_other_clocks(np.full(4, 43831.0), 1.0, "minutes")  # a month after the start, by chance
    refuse_other_clocks(np.full(9, 43831.0) / 60, 1 / 60, "seconds")  # half a day


def test_another_clock_is_an_error_of_every_source_with_numbers(tables, folder):
    rows = "".join(f"{stay},{1577836800 + 3600 * hour},hr,80\n" for stay in range(1, 9) for hour in range(6))
    src = tables.csv("e.csv", HEADER + rows)
    for flags in ([], ["--time_unit", "seconds"], ["--until_hour", "24"], ["--skip_bad"]):
        assert "are seconds since 1970, by their size" in tables.refused(src, *flags)
    assert not (tables.root / "out").exists()
    start = tables.csv("s.csv", "id,start\n" + "".join(f"{stay},1577836800\n" for stay in range(1, 9)))
    flags = ["--time_unit", "seconds", "--stays", start, "--start_column", "start"]
    assert sets_of(tables.compile(src, *flags), "train", 0)[1][0] == 60
    for file in folder.ehr.rglob("*.parquet"):
        folder.stay(file.parent.name, file.stem, [("heart rate", 1, 20200131), ("lactate", 1, 20200201)])
    (finding,) = check_folder(folder.root).findings
    assert "20200131, 20200131 minutes, are dates written as YYYYMMDD" in finding.text


# ------------------------------------------------------------------------------------------------ facts alone


@pytest.mark.parametrize("until", [None, 1])
def test_a_stay_of_facts_alone_is_left_out_and_listed(tables, until):
    """The same stays are used with facts and without, so that both can be compared."""
    src = tables.csv("e.csv", HEADER + "1,0,hr,80\n2,90,hr,70\n3,5,hr,60\n4,5,note,x\n")
    stays = tables.csv("stays.csv", "id,age\n1,60\n2,70\n3,80\n4,90\n")
    window = [] if until is None else ["--until_hour", until]
    flags = ("--leave_out", "note", *window)
    without = tables.compile(src, *flags).split("train").stay_id.tolist()
    cohort = tables.compile(src, *flags, "--stays", stays, "--static_columns", "age")
    assert cohort.split("train").stay_id.tolist() == without == ([1, 2, 3] if until is None else [1, 3])
    before = "" if until is None else " before its prediction time, minute 60"
    assert f"the stay has no rows but facts{before}" in (cohort.path / "skipped.csv").read_text()


def test_a_subject_of_meds_without_an_event_with_a_time_is_left_out(tmp_path):
    data = MEDS(tmp_path)
    data.events([(1, None, "SEX//F", None), (1, "2020-01-01", "HR", 80), (2, None, "SEX//M", None)])
    cohort = data.compile()
    assert cohort.split("train").stay_id.tolist() == [1]
    assert "no rows but facts" in (open_cohort(cohort.path).path / "skipped.csv").read_text()


# ------------------------------------------------------------------------------------------------ the end of stays

DAYS = "".join(f"{stay},2020-01-01 00:00,hr,80\n{stay},2020-01-01 12:00,hr,80\n" for stay in range(1, 9))
DAYS += "".join(f"{stay},2020-01-02 12:00,hr,80\n" for stay in range(4, 9))
ENDS = "id,out\n1,2020-01-01 13:00\n2,2020-01-01 20:00\n3,2020-01-02 00:00\n4,2020-01-02 11:00\n5,\n"
ENDS += "".join(f"{stay},2020-01-03 00:00\n" for stay in range(6, 9))


def test_stays_that_ended_before_their_prediction_time_are_left_out_and_counted(tables):
    src, labels, stays = (
        tables.csv(name, text) for name, text in (("e.csv", HEADER + DAYS), ("l.csv", LABELS), ("s.csv", ENDS))
    )
    flags = ("--labels", labels, "--label_name", "died", "--until_hour", 24)
    ends = ("--stays", stays, "--end_column", "out")
    assert tables.compile(src, *flags).split("train").n_stays == 8
    tables.said()
    cohort = tables.compile(src, *flags, *ends, "--static_columns", "out", "--leave_out", "out*")
    out = tables.said().out
    rates = "died: 50.0% (of 2 with a label) of those left out, 50.0% (of 6 with a label) of those kept"
    assert f"column out: 2 of 8 stays ended before their prediction time, left out; {rates}" in out
    assert "column out: 1 of 8 stays have no end, and are used: it is not known whether they had ended" in out
    assert "2 stays with too few rows or an early end left out" in out
    assert cohort.split("train").stay_id.tolist() == [3, 4, 5, 6, 7, 8]  # 3 ends at that time, not before it
    assert cohort.manifest["import"]["end"] == "column out"
    assert "the stay ended before its prediction time (column out)" in (cohort.path / "skipped.csv").read_text()
    main(["check", str(cohort.path)])
    assert "it is not known which stays had ended" not in tables.said().out


def test_prediction_times_after_the_end_are_the_same(tables):
    rows = "".join(f"{stay},{hour},hr,80,{10 * stay}\n" for stay in range(1, 5) for hour in range(5))
    src = tables.csv("e.csv", "id,time,variable,value,out\n" + rows)  # repeated on each row
    labels = tables.csv("l.csv", "id,prediction_time,died\n1,5,1\n1,20,1\n2,20,0\n3,40,1\n4,9,0\n")
    flags = ("--labels", labels, "--label_name", "died", "--end_column", "out", "--time_unit", "hours")
    cohort = tables.compile(src, *flags)
    assert cohort.split("train").stay_id.tolist() == [1, 3, 5]
    assert cohort.split("train").prediction_minute.tolist() == [300, 1200, 540]


def test_events_after_the_end_are_said_where_whole_stays_are_used(tables):
    src, stays = tables.csv("e.csv", HEADER + DAYS), tables.csv("s.csv", ENDS + "7,2020-01-03 00:00\n")
    assert tables.compile(src, "--stays", stays, "--end_column", "out").split("train").n_stays == 8
    said = "column out: 1 of 7 stays have events after their end, which are used: there are no prediction times"
    assert said in tables.said().out


def test_an_end_that_is_no_time_or_before_all_is_said(tables):
    src = tables.csv("e.csv", HEADER + DAYS)
    words = ["table", str(src), str(tables.root / "out"), "--until_hour", "24", "--end_column", "out", "--stays"]
    assert main([*words, str(tables.csv("s.csv", "id,out\n1,home\n2,\n"))]) == 2
    assert "s.csv, column out: 'home' is not a timestamp" in tables.said().err
    early = tables.csv("s.csv", "id,out\n" + "".join(f"{stay},2019-01-01 00:00\n" for stay in range(1, 9)))
    assert main([*words, str(early)]) == 2
    assert "no stay is left. The first that was left out: " in tables.said().err
    with early.open("a") as file:
        file.write("8,2019-01-01 00:00\n")
    assert main([*words[:3], *words[5:], str(early)]) == 0
    assert "column out: 8 stays of 8 end before they start" in tables.said().out


def test_check_says_that_it_cannot_know_which_stays_had_ended(tables):
    src, labels = tables.csv("e.csv", HEADER + DAYS), tables.csv("l.csv", LABELS)
    words = ["check", str(src), "--labels", str(labels), "--label_name", "died", "--fractions", "0.5", "0.5", "0"]
    main([*words, "--until_hour", "24"])
    text = tables.said().out
    assert "it is not known which stays had ended by their prediction time" in text
    shown = (
        "3 of 8 have no event from that time on; died: 66.7% (of 3 with a label) of these, 40.0% (of 5 with a label)"
    )
    assert shown in text
    main(words)
    assert "it is not known which stays had ended" not in tables.said().out


def test_a_code_of_meds_may_be_the_end(tmp_path, capsys):
    """Also a code that states the outcome, whose events are left out themselves."""
    data = MEDS(tmp_path)
    data.events(
        [
            (1, "2020-01-01", "ADMISSION", None),
            (1, "2020-01-01 01:00", "HR", 80),
            (1, "2020-01-02", "HOSPITAL_DISCHARGE//HOME", None),
            (1, "2020-03-01", "ADMISSION", None),
            (1, "2020-03-01 01:00", "HR", 80),
            (2, "2020-01-01", "ADMISSION", None),
            (2, "2020-01-01 01:00", "HR", 80),
            (2, "2020-01-01 05:00", "MEDS_DEATH", None),
        ]
    )
    labels = data.labels((1, "2020-01-01 12:00", False), (1, "2020-03-02", False), (2, "2020-01-02", True))
    flags = ("--labels", labels, "--start_code", "ADMISSION")
    assert data.compile(*flags).split("train").n_stays == 3
    assert data.compile(*flags, "--end_code", "MEDS_DEATH").split("train").subject_id.tolist() == [1, 1]
    said = "code MEDS_DEATH: 1 of 3 stays ended before their prediction time, left out; mortality: 100.0% (of 1 with a"
    assert said in capsys.readouterr().out
    data.labels(
        (1, "2020-01-01 12:00", False),
        (1, "2020-01-05", False),
        (1, "2020-03-02", False),
        (2, "2020-01-01 03:00", True),
    )
    cohort = data.compile(*flags, "--end_code", "HOSPITAL_DISCHARGE*")
    assert cohort.split("train").stay_id.tolist() == [1, 3, 4]
    assert "have no end" not in capsys.readouterr().out  # alive, or still there
    assert data.compile(*flags, "--end_code", "DEATH").split("train").n_stays == 4
    assert "code DEATH: no stay has an end by it, so that none is left out" in capsys.readouterr().out
