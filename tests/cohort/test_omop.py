"""`data.py omop`: the tables of an OMOP common data model become a cohort of visits. All data here are SYNTHETIC."""

from pathlib import Path

import pytest

from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.command import main

from .test_compile import sets_of

TABLES = {
    "VISIT_OCCURRENCE": (
        "VISIT_OCCURRENCE_ID,PERSON_ID,VISIT_CONCEPT_ID,VISIT_START_DATE,VISIT_START_DATETIME,VISIT_END_DATE\n"
        "11,1,9201,2020-01-01,2020-01-01 10:00:00,2020-01-03\n12,2,9201,2020-02-01,,2020-02-02\n"
        "13,1,9202,2021-01-01,2021-01-01 10:00:00,2021-01-01\n"
    ),
    "PERSON": "PERSON_ID,GENDER_CONCEPT_ID,YEAR_OF_BIRTH,BIRTH_DATETIME\n1,8507,1950,1950-01-01\n2,8532,1980,\n",
    "DEATH": "PERSON_ID,DEATH_DATE\n2,2020-02-02\n1,2022-01-01\n",
    "CONCEPT": (
        "CONCEPT_ID,CONCEPT_NAME\n8507,MALE\n8532,FEMALE\n9201,Inpatient\n30,Lactate\n40,Sepsis\n50,Sinus rhythm\n"
    ),
    "MEASUREMENT": (
        "MEASUREMENT_ID,PERSON_ID,VISIT_OCCURRENCE_ID,MEASUREMENT_CONCEPT_ID,MEASUREMENT_DATE,MEASUREMENT_DATETIME,"
        "VALUE_AS_NUMBER,VALUE_AS_CONCEPT_ID,UNIT_SOURCE_VALUE,MEASUREMENT_SOURCE_VALUE\n"
        "1,1,11,30,2020-01-01,2020-01-01 11:00:00,2.5,0,mmol/L,x\n"
        "2,1,11,0,2020-01-01,2020-01-01 11:00:00,,50,,ECG\n"
        "3,2,12,30,2020-02-01,,30,0,mg/dL,x\n4,2,,30,2020-02-01,,30,0,mg/dL,x\n"
    ),
    "CONDITION_OCCURRENCE": (
        "CONDITION_OCCURRENCE_ID,PERSON_ID,VISIT_OCCURRENCE_ID,CONDITION_CONCEPT_ID,CONDITION_START_DATE\n"
        "1,1,11,40,2020-01-02\n2,1,13,77,2021-01-01\n"
    ),
}


def replace_in(file: Path, old: str, new: str) -> None:
    """Change a table, which holds what is replaced."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in TABLES.items():
        (tmp_path / "omop").mkdir(exist_ok=True)
        (tmp_path / "omop" / f"{name}.csv").write_text(text)
    return tmp_path / "omop"


def compiled(folder: Path, *flags: str) -> list[str]:
    return ["omop", str(folder), str(folder.parent / "out"), "--fractions", "1", "0", "0", *flags]


def test_visits_are_stays_and_records_are_events_with_units(folder, capsys):
    assert main(compiled(folder, "--label_present", "death")) == 0
    split = open_cohort(folder.parent / "out").split("train")
    assert split.stay_id.tolist() == [11, 12, 13]
    assert split.subject_id.tolist() == [1, 2, 1]
    assert split.label.tolist() == [0, 1, 0]  # person 1 died after both visits
    cohort = open_cohort(folder.parent / "out")
    facts = [("age", 70.0), ("gender=MALE", 1), ("visit=Inpatient", 1)]
    assert sets_of(cohort, "train", 0) == [
        (0, facts),
        (60, [("measurement/Lactate [mmol/L]", 2.5), ("measurement/source ECG=Sinus rhythm", 1)]),
        (2279, [("condition/Sepsis", 1)]),  # a date alone: the end of that day
    ]
    assert ("measurement/Lactate [mg/dL]", 30) in sets_of(cohort, "train", 1)[-1][1]
    assert ("condition/concept 77", 1) in sets_of(cohort, "train", 2)[-1][1]
    said = capsys.readouterr().out
    assert "measurement: 4 rows, of which 1 are of no visit that is read, and not used" in said
    assert cohort.manifest["source"] == f"OMOP {folder}"


def test_some_kinds_of_visits_alone_and_a_window(folder):
    assert main(compiled(folder, "--visit_concepts", "9201", "--until_hour", "2")) == 0
    cohort = open_cohort(folder.parent / "out")
    assert cohort.split("train").stay_id.tolist() == [11]  # what visit 12 has is of an unknown hour of its first day
    assert [minute for minute, _ in sets_of(cohort, "train", 0)] == [0, 60]


def test_check_recognises_the_folder(folder, capsys):
    main(["check", str(folder), "--label_present", "death"])
    assert capsys.readouterr().out.startswith(f"OMOP {folder}")


@pytest.mark.parametrize(
    ("gone", "flags", "said"),
    [
        ("PERSON", (), "has no table person"),
        ("", ("--visit_concepts", "1"), "--visit_concepts 1: no visit is of these concepts"),
    ],
)
def test_what_is_missing_is_one_error(folder, gone, flags, said, capsys):
    if gone:
        (folder / f"{gone}.csv").unlink()
    assert main(compiled(folder, *flags)) == 2
    assert said in capsys.readouterr().err
    assert not (folder.parent / "out").exists()


def test_numbers_of_visits_may_be_written_as_decimals(folder):
    """As pandas writes a column with empty cells."""
    file = folder / "CONDITION_OCCURRENCE.csv"
    file.write_text(file.read_text().replace("1,1,11,40", "1,1,11.0,40"))
    assert main(compiled(folder)) == 0
    assert "condition/Sepsis" in open_cohort(folder.parent / "out").vocabulary


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("VISIT_OCCURRENCE", "\n1", "\n9", "no event is of a visit that is read"),
        ("VISIT_OCCURRENCE", "2020-01-01 10:00:00", "soon", "the start of a visit 'soon' is no date"),
        ("PERSON", "1950-01-01", "1950", "the birth '1950' is no date"),
    ],
)
def test_what_is_no_visit_or_no_date_is_one_error(folder, name, old, new, said, capsys):
    replace_in(folder / f"{name}.csv", old, new)
    assert main(compiled(folder)) == 2
    assert said in capsys.readouterr().err


def test_a_table_that_is_there_twice_is_refused(folder, capsys):
    (folder / "measurement.csv.gz").touch()
    assert main(compiled(folder)) == 2
    assert "has the table measurement more than once: MEASUREMENT.csv, measurement.csv.gz" in capsys.readouterr().err


def test_a_faulty_cell_names_the_table_and_the_visit(folder, capsys):
    """Not the file, deleted by now, in which its events were rewritten."""
    file = folder / "CONDITION_OCCURRENCE.csv"
    replace_in(file, "40,2020-01-02", "40,soon")
    said = f"{file}, variable 'condition/Sepsis': id 11, column time: 'soon' is not a timestamp"
    assert main(compiled(folder)) == 2
    assert said in capsys.readouterr().err
    assert main(compiled(folder, "--skip_bad")) == 0
    assert said in capsys.readouterr().out
    skipped = (folder.parent / "out" / "skipped.csv").read_text()
    assert f"{file},,condition/Sepsis" in skipped
    assert ".parquet" not in skipped


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("PERSON", "2,8532,1980,\n", "2,8532,1980,\n2,8532,1981,\n", "person_id 2 has 2 rows that differ (1 such id)"),
        ("DEATH", "2,2020-02-02\n", "2,2020-02-02\n2,2020-02-01\n", "person_id 2 has 2 rows that differ"),
        ("VISIT_OCCURRENCE", "\n13,1,", "\n12,1,", "visit_occurrence_id 12 has 2 rows that differ"),
        ("VISIT_OCCURRENCE", "\n13,1,", "\n,1,", "1 visit without visit_occurrence_id"),
        ("VISIT_OCCURRENCE", "\n13,1,", "\n13,,", "1 visit without person_id"),
        (
            "VISIT_OCCURRENCE",
            "2020-02-01,,",
            "2020-02-01,2020-02-01 10:00:00+01:00,",
            "column start: the start is missing",
        ),
        (
            "VISIT_OCCURRENCE",
            "13,1,9202,2021-01-01,2021-01-01 10:00:00",
            "13,1,9202,,",
            "column start: the start is missing",
        ),
        ("MEASUREMENT", "2.5,0", "1e39,0", "1e+39 is not a finite number"),
    ],
)
def test_a_fault_names_the_table_that_it_is_in(folder, name, old, new, said, capsys):
    file = folder / f"{name}.csv"
    replace_in(file, old, new)
    assert main(compiled(folder)) == 2
    error = capsys.readouterr().err
    assert f"{file}" in error
    assert said in error
    assert ".parquet" not in error


def test_rows_that_are_there_twice_change_nothing(folder):
    assert main(compiled(folder)) == 0
    expected = open_cohort(folder.parent / "out").content_hash
    (folder.parent / "out").rename(folder.parent / "first")
    for name in ("PERSON", "DEATH", "VISIT_OCCURRENCE"):
        file = folder / f"{name}.csv"
        file.write_text(file.read_text() + file.read_text().splitlines()[1] + "\n")
    assert main(compiled(folder)) == 0
    assert open_cohort(folder.parent / "out").content_hash == expected


def test_unknown_persons_and_visits_without_events_are_counted(folder, capsys):
    person, visit = folder / "PERSON.csv", folder / "VISIT_OCCURRENCE.csv"
    replace_in(person, "\n2,", "\n3,")
    visit.write_text(visit.read_text() + "14,1,9201,2022-01-01,2022-01-01 10:00:00,2022-01-01\n")
    assert main(compiled(folder)) == 0
    notes = open_cohort(folder.parent / "out").manifest["import"]["notes"]
    assert f"{person}: lacks the persons of 1 visit" in notes
    assert f"{visit}: 1 visit without an event, not in the cohort" in notes
    assert notes[0] in capsys.readouterr().out
