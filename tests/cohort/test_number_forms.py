"""Numbers in a form that is not read never become a category each; categories that hold digits stay categories."""

import pytest

from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.tables.cells import written_numbers

from .conftest import HEADER
from .test_compile import sets_of
from .test_table_faults import GOOD


@pytest.mark.parametrize(
    ("levels", "advice"),
    [
        (["85,0", "86,5", "90,25"], "a decimal comma; pass --decimal ,"),
        (["1,5e3"], "a decimal comma; pass --decimal ,"),
        (["150,000", "98,000"], "separated thousands or a decimal comma"),
        (["150,000", "1,150,000"], "thousands that are separated"),
        (["1,150.5"], "thousands that are separated"),
        (["1 234", "1'234", "1\xa0234,5"], "thousands that are separated"),
        (["1.234,5", "12.345,0"], "points between thousands and perhaps a decimal comma"),
        (["85 bpm", "90bpm", "36.6 °C", "12%", "7 mg/dL", "5 x10^9/L", "$12"], "a unit beside the number"),
        (["36.6 C", "37.1 C", "38 C"], "a unit beside the number"),
        (["12 foo", "13 foo", "15 foo"], "a unit beside the number"),
        ([">90", "<5", "≥ 12 mg/dL", "less than 3"], "a bound"),
        (["1/2", "120/80"], "two numbers in one cell"),
        (["2020-01-31", "2020/1/31", "31.12.2020", "1/2/2020 10:00"], "a date or a time"),
        (["１２", "٨٥", "−5", "'85", '="85"', "85*"], "unusual digits, signs or marks"),
    ],
)
def test_numbers_in_another_form_are_recognised(levels, advice):
    written = written_numbers(levels)
    assert sorted(written.levels) == sorted(levels)
    assert written.advice.startswith(advice)


@pytest.mark.parametrize(
    "levels",
    [
        ["I50.9", "E11.9", "4A023N7", "1A00", "8140/3", "0075T", "0054T", "0042T"],  # codes
        ["A+", "0-", "AB", "0 Rh+"],
        ["2020-01", "01/2020", "12 Jan", "13 Jan", "14 Jan", "12:30", "10 am", "11 am"],
        ["Grade 2", "Stage 3", "T1", "2A", "3B"],
        ["4 Spontaneously", "3 To Speech", "1 None"],
        ["1+", "2+", "3+"],
        ["<40", "40-60", ">60"],
        [">7", ">8", "Norm"],
        ["1st", "2nd", "3rd", "4th", "5th", "6th"],
        ["4 West", "7 West", "5 East"],
    ],
)
def test_categories_with_digits_are_categories(levels):
    assert not written_numbers(levels).levels


@pytest.mark.parametrize("flags", [[], ["--skip_bad"], ["--non_numeric", "level"]])
def test_a_variable_of_numbers_in_another_form_is_an_error_unless_they_are_said_to_be_categories(tables, flags):
    rows = '1,0,temp,"36,6"\n1,1,temp,"37,1"\n2,0,temp,38\n2,0,rhythm,sinus\n1,0,egfr,>90\n2,0,egfr,>60\n'
    src = tables.csv("e.csv", HEADER + GOOD + rows)
    error = tables.refused(src, *flags)
    assert "2 variables with numbers or dates in a form that is not read" in error
    assert "'temp', such as '36,6' (2 of 2 levels): a decimal comma; pass --decimal ," in error
    assert "'egfr', such as '>90' (2 of 2 levels): a bound" in error
    assert "rhythm" not in error
    assert tables.run(src, *flags, "--categorical", "temp", "egfr") == 0
    assert {"temp=36,6", "temp=38", "egfr=>90"} <= set(open_cohort(tables.root / "out").vocabulary)


def test_a_level_that_is_renamed_or_left_out_by_name_is_no_number(tables):
    src = tables.csv("e.csv", HEADER + GOOD + "1,0,egfr,>90\n2,0,egfr,>60\n")
    mapping = tables.csv("map.csv", "name,target\negfr=>90,kidneys are well\n")
    assert tables.run(src, "--variable_map", mapping, "--leave_out", "egfr=>60") == 0
    assert open_cohort(tables.root / "out").vocabulary == ("hr", "kidneys are well", "lactate")


def test_more_numbers_in_another_form_than_there_may_be_levels_are_no_free_text(tables):
    src = tables.csv("e.csv", HEADER + "".join(f'1,0,x,"{at},5"\n' for at in range(1001)))
    assert "a decimal comma; pass --decimal ," in tables.refused(src)


def test_decimal_reads_commas_in_values_facts_and_times(tables):
    src = tables.csv("e.tsv", HEADER.replace(",", "\t") + "1\t0\ttemp\t36,5\n1\t0,5\ttemp\t37\n1\t0,5\tplt\t150,000\n")
    stays = tables.csv("stays.csv", 'id,age\n1,"63,5"\n')
    facts = ["--stays", stays, "--static_columns", "age"]
    assert tables.run(src, "--decimal", ",", "--time_unit", "hours", *facts) == 0
    sets = sets_of(open_cohort(tables.root / "out"), "train", 0)
    assert sets == [(0, [("age", 63.5), ("temp", 36.5)]), (30, [("temp", 37), ("plt", 150)])]
    assert "is read as the decimal comma (150,000 is 150): 'plt' (1 event)" in tables.said().out


@pytest.mark.parametrize(
    ("cell", "advice"),
    [
        ("1.234,5", "points between thousands and perhaps a decimal comma"),
        ("36.6", "a decimal point, where --decimal asks for a comma"),
    ],
)
def test_decimal_refuses_a_point(tables, cell, advice):
    assert advice in tables.refused(tables.csv("e.csv", f'{HEADER}1,0,x,"{cell}"\n'), "--decimal", ",")
    assert tables.run(tables.csv("e.csv", f'{HEADER}1,0,x,3\n1,1,x,4\n1,1,x,"{cell}"\n'), "--decimal", ",") == 2
    assert f"'{cell}' is not a number, and other rows of this variable have numbers. It is {advice}" in (
        tables.said().err
    )
