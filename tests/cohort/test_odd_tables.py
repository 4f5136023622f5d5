"""Tables as hospitals write them: what would be wrong in silence is refused or said, and what is clear is read."""

import pytest

from seqsetvae.cohort.command import main

from .conftest import EVENTS, HEADER

WIDE = "id,time,hr,{}\n1,0,80,{}\n2,0,70,{}\n"
LABELLED = ("--labels", "labels.csv", "--label_name", "died")
LONG_UNITS = "id,time,variable,value,{}\n1,0,glucose,80,mg/dL\n2,0,glucose,5,mmol/L\n"


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        (HEADER + "1,0,hr,80\n1,5,died,1\n2,0,hr,70\n", LABELLED, "the variable 'died' is called like the label"),
        (
            HEADER + "1,0,hr,80\n1,5,Died,yes\n2,0,hr,70\n",
            LABELLED,
            "If it tells the outcome, leave it out: --leave_out",
        ),
        (WIDE.format("died", 1, 0), ("--wide", *LABELLED, "--value_columns", "hr", "died"), "is called like the label"),
        *[
            (WIDE.format(name, 1001, 1002), ("--wide",), f"{said} would be a variable: an id is no measurement")
            for name, said in {"patient_id": "patient_id", "Case ID": "'Case ID'", "subjectId": "subjectId"}.items()
        ],
        *[
            (LONG_UNITS.format(name), (), f"{name} is not read, so that values of a variable in two units would be")
            for name in ("unit", "VALUEUOM", "result_units")
        ],
        (LONG_UNITS.format("ward"), (), "columns that are not read: 'ward'"),
        (HEADER + "1,0,hr,\n2,0,lactate,\n", (), "value is empty in all rows, so that each event has the value 1"),
        *[
            (HEADER + f"1,0,hr,{code}\n2,0,hr,{code}\n2,1,hr,80\n2,2,hr,90\n", (), f"'hr': {code} (2 events)")
            for code in ("-9999", "999")
        ],
    ],
)
def test_what_may_be_wrong_is_said(tables, monkeypatch, text, flags, said):
    monkeypatch.chdir(tables.root)
    tables.csv("labels.csv", "id,died\n1,1\n2,0\n")
    assert said in tables.checked(tables.csv("e.csv", text), *flags)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (HEADER + "1,0,hr,80\n1,5,died,1\n2,0,hr,70\n", ("--label_event", "died", "--predict_at", "0.05")),
        (WIDE.format("died", 1, 0), ("--wide", *LABELLED)),
        (WIDE.format("fluid", 100, 200), ("--wide",)),
        (HEADER + "1,0,hr,-9999\n2,0,hr,80\n2,1,hr,-80\n", ()),
    ],
)
def test_what_is_usual_is_not(tables, monkeypatch, text, flags):
    monkeypatch.chdir(tables.root)
    tables.csv("labels.csv", "id,died\n1,1\n2,0\n")
    page = tables.checked(tables.csv("e.csv", text), *flags)
    assert not any(mark in page for mark in ("called like", "would be a variable", "is empty in all", "for a missing"))


def test_the_column_of_the_label_is_no_variable(tables):
    """Of a wide table all columns are variables that no other flag names, and --label_name names it."""
    src = tables.csv("e.csv", WIDE.format("died", 1, 0))
    cohort = tables.compile(src, "--wide", "--labels", src, "--label_name", "died")
    assert cohort.vocabulary == ("hr",)
    assert cohort.split("train").label.tolist() == [1, 0]


@pytest.mark.parametrize(
    "cells",
    ["2150-01-31 2150-02-28", "2150/1/31 2151/2/1", "31.01.2150 01.02.2150", "1/31/2150@10:00 2/1/2150@11:30",
     "2150-01-31T10:00:00Z 2150-02-28T11:00"],
)  # fmt: skip
def test_dates_are_no_categories(tables, cells):
    """Each would be a category of its own, and some tell when a stay ends."""
    one, two = (cell.replace("@", " ") for cell in cells.split())
    src = tables.csv("e.csv", WIDE.format("discharged", one, two))
    assert f"'discharged', such as {one!r} (2 of 2 levels): a date or a time" in tables.refused(src, "--wide")
    assert tables.run(src, "--wide", "--categorical", "discharged") == 0


@pytest.mark.parametrize(
    ("name", "text", "flags", "said"),
    [
        ("e.csv", "", (), "e.csv: its first line is empty"),
        ("e.csv", EVENTS, ("--labels", "empty.csv", "--label_name", "x"), "empty.csv: its first line is empty"),
        ("e.csv", EVENTS, ("--static_columns", "age", "died", *LABELLED), "--static_columns died: the label would be"),
        ("e.json", "[]", (), "e.json: is not a table. Tables are files whose names end in .csv"),
        ("e.csv.zip", "", (), "is not a table"),
        (None, "", (), "absent.csv: no such file or folder"),
    ],
)
def test_what_cannot_be_read_is_said_by_check_and_import(tables, monkeypatch, name, text, flags, said):
    monkeypatch.chdir(tables.root)
    tables.csv("labels.csv", "id,died\n7,1\n9,0\n")
    tables.csv("empty.csv", "")
    src = tables.root / "absent.csv" if name is None else tables.csv(name, text)
    assert said in tables.refused(src, *flags)
    assert said in tables.checked(src, *flags, "--fractions", "1", "0", "0")


def test_a_file_of_its_own_meaning_in_the_folder_is_no_table_of_events(tables):
    tables.csv("d/e.csv", EVENTS)
    tables.csv("d/labels.csv", "id,died\n7,1\n9,0\n")
    stays = tables.csv("d/stays.csv", "id,age\n7,60\n")
    (tables.root / "again").symlink_to(tables.root / "d")
    tables.csv("d/~$e.csv", "lock file of a spreadsheet")
    flags = (
        "--labels",
        tables.root / "again/labels.csv",
        "--label_name",
        "died",
        "--stays",
        stays,
        "--static_columns",
        "age",
    )
    cohort = tables.compile(tables.root / "d", *flags)
    assert cohort.split("train").label.tolist() == [1, -1, 0]
    assert "not read" not in tables.said().out


def test_check_without_a_path_or_with_help_first_is_not_about_tables(capsys):
    for words in (["check"], ["check", "--help"]):
        with pytest.raises(SystemExit):
            main(words)
    assert "--label_event" not in capsys.readouterr().out
