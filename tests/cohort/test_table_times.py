"""Times of tables: zones in any year, dates that do not exist, files that write them differently."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.tables.times import TimeColumn, TimeFlags, find_zone, is_bad
from seqsetvae.system.errors import InputError

from .conftest import HEADER
from .test_compile import sets_of

MINUTE = 60_000_000  # microseconds


def micros(text: str) -> int:
    return int(np.datetime64(text, "us").astype(np.int64))


# ------------------------------------------------------------------------------------------------ zones


@pytest.mark.parametrize(
    "name",
    ["Europe/Berlin", "America/New_York", "Australia/Sydney", "America/St_Johns", "Asia/Kolkata", "Africa/Casablanca"],
)
def test_local_times_follow_the_rules_of_their_zone_in_any_year(name):
    rng = np.random.default_rng(0)
    local = rng.integers(micros("1900-01-01") // MINUTE, micros("2300-01-01") // MINUTE, 2000) * MINUTE
    year = [np.arange(micros(f"{at}-01-01"), micros(f"{at + 1}-01-01"), 90 * MINUTE) for at in (2019, 2038, 2150)]
    local = np.concatenate([local, *year])  # with the days on which the clocks change
    epoch, zone, microsecond = datetime(1970, 1, 1), ZoneInfo(name), timedelta(microseconds=1)
    times = [epoch + timedelta(microseconds=time) for time in local.tolist()]
    first, second = ([time.replace(tzinfo=zone, fold=fold).utcoffset() for time in times] for fold in (0, 1))
    offset = np.array([[each // microsecond for each in fold if each is not None] for fold in (first, second)])
    assert find_zone(name).utc(local).tolist() == (local - offset[0]).tolist()
    assert find_zone(name).utc(local, earliest=True).tolist() == (local - offset.max(axis=0)).tolist()


def test_a_zone_may_be_an_offset_and_an_unknown_one_is_an_error():
    assert (-find_zone("-05:30").utc(np.array([0]))).tolist() == [-330 * MINUTE]
    for name in ("Europe/Bonn", "../etc", "Europe", ""):
        with pytest.raises(InputError, match=f"--time_zone {name}: this computer knows no such zone"):
            find_zone(name)


def test_after_2037_an_event_after_the_prediction_time_stays_out_of_the_sample(tables):
    """In Sydney it was summer for ever: in July an event was read as one of an hour before."""
    src = tables.csv("e.csv", HEADER + "1,2150-07-10 08:00,hr,1\n1,2150-07-10 10:30,hr,2\n2,2150-01-10 10:30,hr,3\n")
    labels = tables.csv("l.csv", "id,prediction_time\n1,2150-07-10T10:00+10:00\n2,2150-01-10T11:00+11:00\n")
    cohort = tables.compile(src, "--labels", labels, "--time_zone", "Australia/Sydney")
    assert sets_of(cohort, "train", 0) == [(0, [("hr", 1)])]
    assert cohort.split("train").prediction_minute.tolist() == [120, 30]
    samples = pq.read_table(cohort.path / "samples.parquet")
    assert samples["start"].to_pylist()[0] == datetime(2150, 7, 9, 22, 0, tzinfo=UTC)


def test_readings_in_the_skipped_hour_keep_their_distances(tables):
    """Their clock was not set forward. A prediction time there is the earlier of its two readings."""
    times = ("01:45", "02:00", "02:15", "02:45")
    for day in ("2021-03-28", "2150-03-29"):
        src = tables.csv("e.csv", HEADER + "".join(f"1,{day} {time},hr,{at}\n" for at, time in enumerate(times)))
        cohort = tables.compile(src, "--time_zone", "Europe/Berlin")
        assert [minute for minute, _ in sets_of(cohort, "train", 0)] == [0, 15, 30, 60]
        labels = tables.csv("l.csv", f"id,prediction_time\n1,{day} 02:50\n")
        cohort = tables.compile(src, "--labels", labels, "--time_zone", "Europe/Berlin")
        assert cohort.split("train").prediction_minute.tolist() == [5]


# ------------------------------------------------------------------------------------------------ formats


def read(texts: list[str], form: str | None = None) -> list[str | None]:
    column = pa.array(texts)
    stamps = TimeColumn(column, TimeFlags(form=form)).read(column)
    shown = [str(np.datetime64(int(time), "us").astype("M8[s]")) for time in stamps]
    return [None if bad else time for time, bad in zip(shown, is_bad(stamps).tolist(), strict=True)]


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ("%d/%m/%Y", ["29/02/2152", "1/2/2150", " 01/12/2150 "], ["31/02/2150", "29/02/2150", "12/12/20", "1/1/9999"]),
        ("%Y%m%d", ["21500228"], ["21500230", "2150228"]),
        ("%Y-%j", ["2152-366"], ["2150-366"]),
        ("%d %b %Y %H:%M:%S", ["1 Feb 2150 23:59:59", "01 FEBRUARY 2150 1:02:03"], ["30 Feb 2150 10:00:00"]),
        ("%F %T", ["2150-06-30 23:59:59"], ["2150-06-30 23:59:60", "2150-06-30 24:00:00"]),
        ("%m/%d/%y %I:%M %p", ["02/03/50 1:05 pm", "02/03/50 12:05 AM"], ["02/30/50 01:05 PM", "02/03/50 13:05 PM"]),
        (
            "%d/%m/%Y %H:%M %z",
            ["01/02/2150 10:00 +0130"],
            ["30/02/2150 10:00 +0130", "01/02/2150 10:00", "01/02/2150 10:00 +6300"],
        ),
        ("%-d.%-m.%Y", ["1.2.2150"], ["31.6.2150"]),
        (None, ["2150-02-28T10:00:00.123456789", "2150-02-28"], ["2150-02-30", "0020-12-12", "9999-12-31", "2150-2-3"]),
    ],
)
def test_a_date_that_does_not_exist_is_not_read_as_another(form, good, bad):
    stamps = read([*good, *bad], form)
    assert stamps[len(good) :] == [None] * len(bad)
    assert None not in stamps[: len(good)]


def test_formats_read_what_they_say():
    assert read(["1 FEBRUARY 2150 1:02:03"], "%d %b %Y %H:%M:%S") == ["2150-02-01T01:02:03"]
    assert read(["02/03/50 1:05 pm"], "%m/%d/%y %I:%M %p") == ["2050-02-03T13:05:00"]
    assert read(["01/02/2150 10:00 +0130", "01/02/2150 10:00 -05:00"], "%d/%m/%Y %H:%M %z") == [
        "2150-02-01T08:30:00",
        "2150-02-01T15:00:00",
    ]
    column = pa.array(["01-02-2150-10"])
    assert not TimeColumn(column, TimeFlags(form="%d-%m-%Y-%H")).has_zone  # -10 is no offset
    assert TimeColumn(pa.array([21500131]), TimeFlags(form="%Y%m%d")).read(pa.array([21500131])).tolist() == [
        micros("2150-01-31")
    ]


def test_a_zone_may_stand_after_a_space():
    """As BigQuery and R write it."""
    texts = ["2150-01-31 10:00 UTC", "2150-01-31 11:00:00.5 +01:00", "2150-01-31 08:00 -0200", " 2150-01-31T10:00Z "]
    assert read([*texts, "2150-01-31 10:00 CET", "2150-01-31 10:00 UTC+1"]) == ["2150-01-31T10:00:00"] * 4 + [None] * 2


def test_a_clock_without_a_leading_zero_is_joined_to_its_date(tables):
    text = "id,date,clock,variable,value\n1,2150-01-01,8:30,hr,1\n1,2150-01-01,12:30,hr,2\n1,2150-01-02,0:30:30,hr,3\n"
    cohort = tables.compile(tables.csv("e.csv", text), "--time_column", "date", "--clock_column", "clock")
    assert [minute for minute, _ in sets_of(cohort, "train", 0)] == [0, 240, 960.5]


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("%d/%m/%Y %H:%M %Z", "%Z cannot be read"),
        ("%d/%m/%Y %H:%M:%S.%f", "%f cannot be read"),
        ("%d/%m %H:%M", "it lacks the year"),
        ("%Y %H:%M", "it lacks the day or the month"),
        ("%d/%m/%Y %I:%M", "%I is the hour of 12 and needs %p"),
        ("%d/%m/%Y %H:%M %p", "%p belongs to %I"),
        ("%z %d/%m/%Y %H:%M", "%z must be at its end"),
        ("%d/%m/%Y %", "% cannot be read"),
    ],
)
def test_a_format_that_may_misread_times_is_an_error(form, why):
    with pytest.raises(InputError, match=why):
        TimeColumn(pa.array(["01/02/2150"]), TimeFlags(form=form))


def test_years_are_bounded_in_every_type(tables):
    for unit in ("s", "ms", "us", "ns"):
        stamps = pa.array([0, 2**62, -(2**62), None], pa.timestamp(unit))
        inside = unit == "ns"  # 2116 and 1823
        assert is_bad(TimeColumn(stamps).read(stamps)).tolist() == [False, not inside, not inside, True]
    days = pa.array([0, 2**31 - 1, -(2**31)], pa.date32())
    assert is_bad(TimeColumn(days).read(days)).tolist() == [False, True, True]


def test_int96_times_are_read_in_microseconds(tables):
    src = tables.root / "e.parquet"
    for year, status in ((9999, 2), (2500, 0)):
        times = pa.array([datetime(2500, 1, 1), datetime(year, 1, 1, 0, 7)], pa.timestamp("us"))
        columns = {"id": [1, 1], "time": times, "variable": ["hr", "hr"], "value": [1, 2]}
        pq.write_table(pa.table(columns), src, use_deprecated_int96_timestamps=True)
        assert tables.run(src) == status
    assert open_cohort(tables.root / "out").split("train").minute.tolist() == [0, 7]
    said = "'9999-01-01 00:07:00' is not a timestamp without a time zone, in the years 1600 to 2999"
    assert said in tables.said().err


def test_a_start_column_in_nanoseconds_is_read(tables):
    """pandas writes them: every stay was without a start."""
    src = tables.csv("e.csv", HEADER + "1,2150-01-01 10:00,hr,1\n")
    stays = tables.root / "stays.parquet"
    pq.write_table(pa.table({"id": [1], "start": pa.array([datetime(2150, 1, 1, 9)], pa.timestamp("ns"))}), stays)
    cohort = tables.compile(src, "--stays", stays, "--start_column", "start")
    assert sets_of(cohort, "train", 0) == [(60, [("hr", 1)])]


# ------------------------------------------------------------------------------------------------ files

NAIVE, ZONED = pa.timestamp("us"), pa.timestamp("us", "America/New_York")
KINDS: dict[str, pa.DataType | str] = {
    "naive": NAIVE,
    "zoned": ZONED,
    "date": pa.date32(),
    "number": pa.int64(),
    "duration": pa.duration("us"),
    "naive text": "2150-01-01 10:00",
    "zoned text": "2150-01-01 10:00Z",
    "number text": "5",
}


def write(path: Path, kind: pa.DataType | str) -> None:
    """Two events; texts in a CSV file."""
    path.parent.mkdir(exist_ok=True)
    if isinstance(kind, str):
        path.with_suffix(".csv").write_text(HEADER + f"1,{kind},hr,1\n1,{kind},rr,1\n")
        return
    time = pa.array([57000, 57000], pa.int32() if pa.types.is_date(kind) else pa.int64()).cast(kind)
    if pa.types.is_timestamp(kind):
        time = pa.array([datetime(2150, 1, 1, 10, tzinfo=UTC)] * 2, kind)
    pq.write_table(pa.table({"id": [1, 1], "time": time, "variable": ["hr", "rr"], "value": [1, 2]}), path)


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        ("naive", "zoned", False),
        ("zoned", "naive", False),
        ("naive text", "zoned", False),
        ("zoned text", "naive", False),
        ("zoned", "naive text", False),
        ("naive text", "zoned text", False),
        ("zoned", "date", False),
        ("naive", "date", False),
        ("date", "naive text", False),
        ("naive", "number", False),
        ("number", "naive", False),
        ("naive", "duration", False),
        ("number text", "date", False),
        ("number text", "zoned text", False),
        ("number", "number text", True),
        ("naive", "naive text", True),
        ("zoned", "zoned text", True),
    ],
)
def test_files_that_write_times_differently_are_not_put_together(tables, first, second, fits):
    src = tables.root / "src"
    write(src / "a.parquet", KINDS[first])
    write(src / "b.parquet", KINDS[second])
    assert tables.run(src, "--skip_bad") == (0 if fits else 2)
    error = tables.said().err
    if not fits:
        assert f"{src}/b." in error
        assert re.search(
            "column time: (is a|holds) (timestamp|date|number|duration).*; the times of other files are", error
        )


def test_a_zone_of_the_user_puts_files_with_and_without_zones_together(tables):
    src = tables.root / "src"
    write(src / "a.parquet", KINDS["zoned"])
    write(src / "b.csv", "2150-01-01 11:30")
    cohort = tables.compile(src, "--time_zone", "Europe/Berlin")
    assert [minute for minute, _ in sets_of(cohort, "train", 0)] == [0, 30]


# ------------------------------------------------------------------------------------------------ dates alone


def test_dates_among_times_are_counted_and_files_of_dates_are_refused(tables):
    """A date is midnight, so what happened at noon would be known at 10:00."""
    stamped = tables.csv("src/a.csv", HEADER + "1,2150-01-01 10:00,hr,1\n1,2150-01-02,hr,2\n")
    tables.compile(stamped)
    said = "1 time without a time of day, among others that have one: midnight, before all else of that day"
    assert said in tables.said().out
    dates = tables.csv("src/b.csv", HEADER + "1,2150-01-02,dx,\n2,2150-01-03,dx,\n")
    assert "b.csv, column time: holds dates; the times of other files are timestamps." in tables.refused(dates.parent)
    assert TimeColumn(pa.array(["20500102"]), TimeFlags(form="%Y%m%d")).is_date


def test_dates_of_events_are_said_where_prediction_times_have_an_hour(tables):
    src = tables.csv("e.csv", HEADER + "1,2150-01-01,dx,\n1,2150-01-02,dx,\n2,2150-01-03,dx,\n")
    said = "times of events are dates, so events of the day of a prediction time count as before it"
    for time, is_said in ((" 10:00", True), (" 00:00", False), ("", False)):
        tables.compile(src, "--labels", tables.csv("l.csv", f"id,prediction_time\n1,2150-01-02{time}\n"))
        assert (said in tables.said().out) is is_said


def test_a_column_of_prediction_times_without_any_is_said(tables):
    """Whole stays are used then: so our own exports write them."""
    src, labels = tables.csv("e.csv", HEADER + "1,0,hr,1\n"), tables.csv("l.csv", "id,at\n1,\n")
    assert tables.run(src, "--labels", labels, "--prediction_time_column", "at") == 0
    assert "l.csv: no row has a time in at, so whole stays are used" in tables.said().out


@pytest.mark.parametrize("kind", ["string_view", "large_string", "dictionary"])
def test_texts_of_parquet_are_read_in_every_type(tables, kind):
    columns = {"id": ["a", "a"], "time": ["2150-01-01 10:00", "2150-01-01 10:07"], "variable": ["hr", "rr"]}
    cells = {name: pa.array(texts) for name, texts in columns.items()}
    cast = {name: each.dictionary_encode() if kind == "dictionary" else each.cast(kind) for name, each in cells.items()}
    pq.write_table(pa.table({**cast, "value": [1.0, 2.0]}), tables.root / "e.parquet")
    cohort = tables.compile(tables.root / "e.parquet")
    assert sets_of(cohort, "train", 0) == [(0, [("hr", 1)]), (7, [("rr", 2)])]


def test_labels_on_rows_are_at_the_times_of_their_own_files(tables):
    """They were read as those of the first file are."""
    header = "id,time,variable,value,sepsis\n"
    tables.csv("src/a.csv", header + "1,2150-01-01 10:00+01:00,hr,1,\n1,2150-01-01 12:00+01:00,hr,1,0\n")
    tables.csv("src/b.csv", header + "1,2150-01-01 14:00,hr,2,1\n")
    rule = ("--label_column", "sepsis", "--label_of", "each_row")
    cohort = tables.compile(tables.root / "src", *rule, "--time_zone", "Europe/Berlin")
    assert cohort.split("train").prediction_minute.tolist() == [120, 240]
    assert cohort.split("train").label.tolist() == [0, 1]
