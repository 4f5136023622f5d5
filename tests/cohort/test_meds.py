"""`data.py meds`: a MEDS data set and its labels become a cohort, without what states the outcome."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsetvae.cohort import Cohort, open_cohort
from seqsetvae.cohort.command import main
from seqsetvae.cohort.imported import read_samples
from seqsetvae.cohort.sources import recognise

from .test_compile import sets_of

meds = pytest.importorskip("meds", reason="the schemas of MEDS are those of the package meds")

Event = tuple[int, str | None, str, float | None]  # subject, time, code, number
Label = tuple[int, str, bool]  # subject, prediction time, label


def time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def as_table(schema: type, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> pa.Table:
    """Rows as a table that the schema of the package accepts."""
    cells = list(zip(*rows, strict=True))
    return schema.align(pa.table({name: list(cell) for name, cell in zip(columns, cells, strict=True)}))  # type: ignore[attr-defined]


class MEDS:
    """A MEDS data set under construction."""

    def __init__(self, root: Path) -> None:
        self.root, self.n_cohorts = root, 0

    def write(self, file: str, table: pa.Table) -> Path:
        path = self.root / "set" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return path

    def events(self, *shards: Sequence[Event]) -> None:
        """data/<n>.parquet, and metadata."""
        for number, rows in enumerate(shards):
            cells = [(subject, time(at), code, value) for subject, at, code, value in rows]
            table = as_table(meds.DataSchema, ("subject_id", "time", "code", "numeric_value"), cells)
            self.write(f"data/{number}.parquet", table)
        codes = sorted({row[2] for rows in shards for row in rows})
        self.write("metadata/codes.parquet", as_table(meds.CodeMetadataSchema, ("code",), [(code,) for code in codes]))
        (self.root / "set" / "metadata" / "dataset.json").write_text(json.dumps({"meds_version": "0.4.1"}))

    def splits(self, **subjects: Sequence[int]) -> None:
        rows = [(subject, split) for split, those in subjects.items() for subject in those]
        self.write("metadata/subject_splits.parquet", as_table(meds.SubjectSplitSchema, ("subject_id", "split"), rows))

    def labels(self, *rows: Label) -> Path:
        cells = [(subject, time(at), label) for subject, at, label in rows]
        table = as_table(meds.LabelSchema, ("subject_id", "prediction_time", "boolean_value"), cells)
        return self.write("task/mortality.parquet", table)

    def run(self, *flags: object) -> int:
        """The exit status."""
        self.n_cohorts += 1
        words = ["meds", str(self.root / "set"), str(self.root / f"cohort{self.n_cohorts}")]
        return main([*words, *map(str, flags)])

    def compile(self, *flags: object) -> Cohort:
        """The cohort; everything is in the training split unless the data or the flags say otherwise."""
        has_splits = (self.root / "set" / "metadata" / "subject_splits.parquet").exists() or "--fractions" in flags
        assert self.run(*flags, *([] if has_splits else ["--fractions", 1, 0, 0])) == 0
        return open_cohort(self.root / f"cohort{self.n_cohorts}")


@pytest.fixture
def data(tmp_path: Path) -> MEDS:
    """Two subjects; the first has two labels, and dies after the second."""
    data = MEDS(tmp_path)
    data.events(
        [
            (1, None, "SEX//F", None),
            (1, "1960-01-01", "MEDS_BIRTH", None),
            (1, "2020-01-01 00:00", "ADMISSION//EW", None),
            (1, "2020-01-01 00:00", "HR", 80),
            (1, "2020-01-01 01:00", "HR", 90),
            (1, "2020-01-01 02:00", "HR", None),
            (1, "2020-01-02 00:00", "HOSPITAL_DISCHARGE//DIED", None),
            (1, "2020-01-02 00:10", "MEDS_DEATH", None),
        ],
        [(5, "2021-06-01 10:00", "HR", 70), (5, "2021-06-01 10:30", "LACTATE", 2.5)],
    )
    return data


def test_each_label_is_a_sample_with_the_events_before_its_prediction_time(data):
    labels = data.labels((1, "2020-01-01 02:00", False), (1, "2020-01-01 01:00", True), (5, "2021-06-01 10:10", False))
    cohort = data.compile("--labels", labels)
    split = cohort.split("train")
    assert split.subject_id.tolist() == [1, 1, 5]
    assert split.label.tolist() == [1, 0, 0]
    assert split.prediction_minute.tolist() == [60, 120, 10]
    first = (0, [("SEX//F", 1), ("age", pytest.approx(60.0, abs=1e-2)), ("ADMISSION//EW", 1), ("HR", 80)])
    assert sets_of(cohort, "train", 0)[1:] == []  # the event at the prediction time is not before it
    minute, events = sets_of(cohort, "train", 0)[0]
    assert (minute, sorted(events)) == (first[0], sorted(first[1]))
    assert sets_of(cohort, "train", 1)[1:] == [(60, [("HR", 90)])]
    assert cohort.label_name == "mortality"
    assert cohort.manifest["source"].startswith("MEDS 0.4.1 ")


def test_codes_that_state_the_outcome_never_reach_the_cohort(data, capsys):
    cohort = data.compile()  # whole records
    assert set(cohort.vocabulary) == {"SEX//F", "age", "ADMISSION//EW", "HR", "HR=none", "LACTATE"}
    said = "2 variables left out by name: 'HOSPITAL_DISCHARGE//DIED' (1 event), 'MEDS_DEATH' (1 event)"
    assert said in capsys.readouterr().out
    assert cohort.manifest["import"]["leave_out"][:2] == ["MEDS_DEATH", "MEDS_DEATH//*"]
    cohort = data.compile("--leave_out", "LACTATE", "ADMISSION*")
    assert set(cohort.vocabulary) == {"SEX//F", "age", "HR", "HR=none"}


def test_the_splits_are_those_of_the_data_unless_a_flag_divides_them(data):
    data.splits(train=[5], held_out=[1])
    cohort = data.compile()
    assert {name: split.stay_id.tolist() for name, split in cohort.splits.items()} == {"train": [5], "test": [1]}
    assert cohort.manifest["import"]["splits"] == "the data's own"
    cohort = data.compile("--fractions", 0.5, 0.5, 0)
    assert set(cohort.splits) == {"train", "valid"}
    assert cohort.manifest["import"]["splits"] == "by patient at random, 0.5 0.5 0, seed 0"


def test_a_sample_may_start_at_the_last_event_of_a_code(data):
    data.events(
        [
            (1, "2020-01-01 00:00", "ADMISSION//A", None),
            (1, "2020-01-01 01:00", "HR", 1),
            (1, "2020-03-01 00:00", "ADMISSION//B", None),
            (1, "2020-03-01 01:00", "HR", 2),
            (1, "2020-03-01 03:00", "HR", 3),
        ],
        [(5, "2021-06-01 10:00", "HR", 70)],
    )
    labels = data.labels((1, "2020-01-01 02:00", False), (1, "2020-03-01 02:00", True), (5, "2021-06-01 11:00", False))
    cohort = data.compile("--labels", labels, "--start_code", "ADMISSION//*")
    assert sets_of(cohort, "train", 0) == [(0, [("ADMISSION//A", 1)]), (60, [("HR", 1)])]
    assert sets_of(cohort, "train", 1) == [(0, [("ADMISSION//B", 1)]), (60, [("HR", 2)])]
    assert cohort.split("train").prediction_minute.tolist() == [120, 120]
    samples = read_samples(cohort)
    assert samples is not None
    assert samples["reason"].to_pylist() == [None, None, "no event ADMISSION//* before its prediction time"]


def two_admissions(data: MEDS) -> None:
    """Subject 1 is admitted twice, and dies in the second stay; subject 5 has one stay, of 10 hours."""
    first = [(1, f"2020-01-01 {hour:02}:00", "HR", 80) for hour in range(1, 20)]
    second = [(1, f"2020-02-01 {hour:02}:00", "HR", 90) for hour in range(1, 20)]
    other = [(5, f"2021-06-01 {hour:02}:00", "HR", 70) for hour in range(1, 11)]
    marks: list[Event] = [
        (1, "2020-01-01 00:00", "HOSPITAL_ADMISSION//EW", None),
        (1, "2020-01-01 05:30", "ICU_ADMISSION//A", None),
        (1, "2020-01-01 20:00", "HOSPITAL_DISCHARGE//HOME", None),
        (1, "2020-02-01 00:00", "HOSPITAL_ADMISSION//EW", None),
        (1, "2020-02-01 08:30", "ICU_ADMISSION//B", None),
        (1, "2020-02-01 20:00", "MEDS_DEATH", None),
        (5, "2021-06-01 00:00", "HOSPITAL_ADMISSION//EW", None),
    ]
    data.events([*marks[:6], *first, *second], [marks[6], *other])


STAYS = ("--start_code", "HOSPITAL_ADMISSION*")


def samples_of(cohort: Cohort) -> list[tuple[int, float, int]]:
    """(subject, hour of the prediction, label)."""
    split = cohort.split("train")
    columns = (split.subject_id.tolist(), (split.prediction_minute / 60).tolist(), split.label.tolist())
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        # Death is no input, but a label; the record of subject 1 is one stay without --start_code.
        (("--label_event", "MEDS_DEATH", "--predict_at", 12), [(1, 12, 1)]),
        (("--label_event", "MEDS_DEATH", "--horizon", 24, "--predict_at", 12), [(1, 12, 0)]),
        (
            ("--label_event", "MEDS_DEATH", "--horizon", 24, "--predict_at", 6, *STAYS),
            [(1, 6, 0), (1, 6, 1), (5, 6, 0)],
        ),
        # Of the two stays of subject 1, each with its own intensive care; in the first it is before hour 6.
        (("--label_event", "ICU_ADMISSION*", "--predict_at", 6, *STAYS), [(1, 6, 1), (5, 6, 0)]),
        (("--label_event", "ICU_ADMISSION*", "--predict_at", 6), [(5, 6, 0)]),
        # The admission that opens a stay is not one in it.
        (("--label_event", "HOSPITAL_ADMISSION*", "--predict_at", 6, *STAYS), [(1, 6, 1), (1, 6, 0), (5, 6, 0)]),
        (("--label_present", "MEDS_DEATH", "--predict_every", 9, *STAYS), [(1, 9, 1), (1, 18, 1)] * 2 + [(5, 9, 0)]),
        (("--label_present", "ICU_ADMISSION//B", "--predict_every", 19, *STAYS), [(1, 19, 1)] * 2),
        (("--label_present", "ICU_ADMISSION//B", "--until_hour", 10), [(1, 10, 1), (5, 10, 0)]),
        # Stays end at their last event, or by their end code.
        (("--predict_at", 20, *STAYS, "--end_code", "MEDS_DEATH"), [(1, 20, -1)]),
    ],
)
def test_labels_and_prediction_times_follow_from_codes(data, flags, expected):
    two_admissions(data)
    cohort = data.compile(*flags)
    assert samples_of(cohort) == expected
    assert not {"MEDS_DEATH", flags[1]} & set(cohort.vocabulary)
    assert cohort.label_name == (flags[1] if str(flags[0]).startswith("--label") else "none")


def test_the_times_of_labels_may_be_those_of_a_rule(data):
    two_admissions(data)
    times = data.labels((1, "2020-01-01 04:00", False), (1, "2020-02-01 09:00", False), (5, "2021-06-01 03:00", True))
    cohort = data.compile("--labels", times, "--label_event", "ICU_ADMISSION*", "--horizon", 3, *STAYS)
    assert samples_of(cohort) == [(1, 4, 1), (5, 3, 0)]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--label_event", "MEDS_DEATH"), "--label_event needs prediction times"),
        (("--label_event", "SEPSIS", "--predict_at", 1), "--label_event SEPSIS: no event with a time has this code"),
        (("--label_event", "HR", "--label_present", "HR", "--predict_at", 1), "each gives the label; keep one"),
        (("--labels", "LABELS", "--predict_at", 1), "--predict_at and --labels: give one of them"),
        (("--labels", "LABELS", "--label_name", "boolean_value", "--label_present", "HR"), "each gives the label"),
    ],
)
def test_rules_of_labels_that_do_not_fit_are_refused(data, flags, said, capsys):
    labels = data.labels((1, "2020-01-01 02:00", False))
    assert data.run(*(labels if flag == "LABELS" else flag for flag in flags)) == 2
    assert said in capsys.readouterr().err


def test_texts_become_levels_if_they_are_asked_for(data):
    rows = [(1, time("2020-01-01"), "RHYTHM", None, "sinus"), (1, time("2020-01-02"), "HR", 80.0, "high")]
    columns = ("subject_id", "time", "code", "numeric_value", "text_value")
    data.write("data/0.parquet", as_table(meds.DataSchema, columns, rows))
    assert data.compile().vocabulary == ("HR", "LACTATE", "RHYTHM")
    assert data.compile("--text_values").vocabulary == ("HR", "LACTATE", "RHYTHM=sinus")


@pytest.mark.parametrize(("text", "advice"), [("8,5", "a decimal comma"), ("8", "a number in the column of texts")])
def test_numbers_in_the_texts_are_no_categories(data, capsys, text, advice):
    rows = [(1, time("2020-01-01"), "GLU", None, text), (1, time("2020-01-02"), "RHYTHM", None, "sinus")]
    columns = ("subject_id", "time", "code", "numeric_value", "text_value")
    data.write("data/0.parquet", as_table(meds.DataSchema, columns, rows))
    assert data.run("--text_values") == 2
    assert f"'GLU', such as '{text}' (1 of 1 level): {advice}" in capsys.readouterr().err
    assert f"GLU={text}" in data.compile("--text_values", "--categorical", "GLU").vocabulary


def test_a_data_set_without_numbers_is_read(data):
    for number in (0, 1):
        table = pq.read_table(data.root / "set" / "data" / f"{number}.parquet").drop_columns(["numeric_value"])
        data.write(f"data/{number}.parquet", table)
    assert "HR" in data.compile().vocabulary


@pytest.mark.parametrize("with_empty_numbers", [False, True])
def test_numbers_in_another_column_are_an_error_until_it_is_named(data, capsys, with_empty_numbers):
    for number in (0, 1):
        table = pq.read_table(data.root / "set" / "data" / f"{number}.parquet")
        table = table.rename_columns({"numeric_value": "value"}).append_column("stay", pa.array([7] * len(table)))
        if with_empty_numbers:
            table = table.append_column("numeric_value", pa.nulls(len(table), pa.float32()))
        data.write(f"data/{number}.parquet", table)
    assert data.run() == 2
    error = capsys.readouterr().err
    missing = "0.parquet: has no column numeric_value, but value, stay."
    assert ("no event has a number in numeric_value, but there is value" if with_empty_numbers else missing) in error
    assert "Name the column of numbers: --value_column COLUMN; --value_column none where events have no values" in error
    cohort = data.compile("--value_column", "value")
    assert sets_of(cohort, "train", 1) == [(0, [("HR", 70)]), (30, [("LACTATE", 2.5)])]
    assert sets_of(data.compile("--value_column", "none"), "train", 1) == [(0, [("HR", 1)]), (30, [("LACTATE", 1)])]


def test_texts_without_a_column_of_numbers_are_an_error(data, capsys):
    rows = [(1, time("2020-01-01"), "RHYTHM", "sinus"), (1, time("2020-01-02"), "RHYTHM", "afib")]
    table = as_table(meds.DataSchema, ("subject_id", "time", "code", "text_value"), rows)
    for number in (0, 1):
        data.write(f"data/{number}.parquet", table)
    assert data.run() == 2
    assert "has no column numeric_value, but text_value." in capsys.readouterr().err
    assert data.compile("--text_values").vocabulary == ("RHYTHM=afib", "RHYTHM=sinus")


@pytest.mark.parametrize("form", ["{split}/0.parquet", "{split}.parquet", "{split}/shards/1.parquet"])
def test_folders_are_the_splits_where_metadata_does_not_say_them(data, capsys, form):
    first, second = (data.root / "set" / "data" / f"{number}.parquet" for number in (0, 1))
    tables = {"train": pq.read_table(first), "held_out": pq.read_table(second)}
    for file in (first, second):
        file.unlink()
    (data.root / "set" / "metadata" / "codes.parquet").unlink()
    (data.root / "set" / "metadata" / "dataset.json").unlink()
    (data.root / "set" / "metadata").rmdir()
    for split, table in tables.items():
        data.write(f"data/{form.format(split=split)}", table)
    assert data.run() == 0
    cohort = open_cohort(data.root / "cohort1")
    assert {name: split.subject_id.tolist() for name, split in cohort.splits.items()} == {"train": [1], "test": [5]}
    assert "the splits are the folders held_out, train of data/" in capsys.readouterr().out
    assert recognise(data.root / "set") == "meds"
    assert list(data.compile("--fractions", 1, 0, 0).splits) == ["train"]
    data.write(f"data/{form.format(split='tuning')}", tables["train"].slice(1, 3))
    assert data.run() == 2
    assert "has events of subjects that are in the folder of another split too" in capsys.readouterr().err
    data.write(
        f"data/{form.format(split='tuning')}",
        pa.concat_tables([tables["held_out"].set_column(0, "subject_id", pa.array([8, 9]))]),
    )
    data.write(
        "data/more/0.parquet", pa.concat_tables([tables["held_out"].set_column(0, "subject_id", pa.array([8, 9]))])
    )
    assert data.run() == 2
    assert "more/0.parquet: is in no folder of a split, and other files are" in capsys.readouterr().err


def test_older_versions_are_recognised(data, capsys):
    table = pq.read_table(data.root / "set" / "data" / "0.parquet")
    data.write("data/0.parquet", table.rename_columns({"subject_id": "patient_id", "time": "timestamp"}))
    assert recognise(data.root / "set") == "meds"
    assert data.run() == 2
    assert "Data of another MEDS version? Rename patient_id to subject_id and timestamp to time." in (
        capsys.readouterr().err
    )
    nested = pa.table({"patient_id": [1], "events": [[{"time": datetime(2020, 1, 1), "code": "HR"}]]})
    data.write("data/0.parquet", nested)
    assert data.run() == 2
    assert "It has the events of a patient in one row, as MEDS before 0.3 had" in capsys.readouterr().err


def test_a_fault_in_the_data_set_is_an_error(data, capsys):
    table = pq.read_table(data.root / "set" / "data" / "1.parquet")
    data.write("data/1.parquet", table.rename_columns({"subject_id": "patient_id"}))
    assert data.run() == 2
    assert "1.parquet: has no column subject_id. Its columns are: patient_id" in capsys.readouterr().err
    data.write("data/1.parquet", table.set_column(3, "numeric_value", pa.array([1.0, float("inf")], pa.float32())))
    assert data.run() == 2
    error = capsys.readouterr().err
    assert "1 faulty stay" in error
    assert "1.parquet, row 1 (counted from 0), variable 'LACTATE': id 5, column numeric_value: inf is not" in error
    assert data.compile("--skip_bad").split("train").stay_id.tolist() == [1]
    data.splits(train=[1], held_out=[6])
    assert data.run("--skip_bad") == 2
    assert "subject_splits.parquet: 1 stay without a split" in capsys.readouterr().err
    labels = data.labels((1, "2020-01-01 01:00", True), (1, "2020-01-01 01:00", False))
    assert data.run("--labels", labels) == 2
    assert "two different labels for '1' at one prediction time. Keep one." in capsys.readouterr().err
    assert main(["meds", str(data.root), str(data.root / "out")]) == 2
    assert "has no folder data/. Pass the folder of a MEDS data set" in capsys.readouterr().err


GLU = [(subject, f"2020-01-01 0{hour}:30", "GLU", 7.0) for subject in (1, 2) for hour in (0, 1, 3)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [(s, None, c, v) for s, _, c, v in GLU],
            "/data: no event has a time. An event without a time counts as a fact",
        ),
        ([*GLU[:-1], (2, None, "GLU", 9.0)], "row 5 (counted from 0), code 'GLU': some rows of this code have a time"),
        ([*GLU, (2, None, "GLU", None)], "row 6 (counted from 0), code 'GLU': some rows of this code have a time"),
        ([*GLU, (2, None, "LAC", 1.0), (2, None, "LAC", 2.0)], "code 'LAC': one subject has this code several times"),
        ([*GLU, (2, None, "MEDS_BIRTH", None)], "code 'MEDS_BIRTH': some rows of this code have a time"),
    ],
)
def test_events_that_lost_their_times_are_no_facts(data, capsys, rows, said):
    """A measurement of 3.5 h was known to a prediction at 2 h."""
    data.events(rows)
    (data.root / "set" / "data" / "1.parquet").unlink()
    labels = data.labels((1, "2020-01-01 02:00", True), (2, "2020-01-01 02:00", False))
    assert data.run("--labels", labels, "--skip_bad", "--fractions", 1, 0, 0) == 2
    assert said in capsys.readouterr().err
    code = rows[-1][2]
    if code != "GLU":
        assert code not in data.compile("--leave_out", code).vocabulary


def test_a_code_that_lost_its_times_in_another_shard_is_an_error(data, capsys):
    """Each shard alone looks as it should."""
    data.events(GLU[:3], [(5, None, "GLU", 7.0), (5, "2020-01-01 01:00", "HR", 80)])
    assert data.run("--fractions", 1, 0, 0) == 2
    assert "1.parquet, row 0 (counted from 0), code 'GLU': some rows" in capsys.readouterr().err


def test_a_fact_may_be_of_many_subjects_and_several_facts_may_have_one_target(data, capsys):
    facts = [(subject, None, code, None) for subject in (1, 2) for code in ("GENDER//M", "ALLERGY//A", "ALLERGY//B")]
    data.events([*facts, (1, None, "HEIGHT", 180.0)], GLU[:3])
    mapping = data.root / "map.csv"
    mapping.write_text("name,target\nALLERGY//A,allergy\nALLERGY//B,allergy\n")
    cohort = data.compile("--variable_map", mapping)
    assert set(cohort.vocabulary) == {"GENDER//M", "allergy", "HEIGHT", "GLU"}
    said = "numbers without a time count as known from the start of each sample: 'HEIGHT' (1 event)"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("kind", [pa.string(), pa.timestamp("us")])
def test_a_time_that_cannot_be_read_is_a_fault_and_no_fact(data, capsys, kind):
    times = ["2020-01-01 00:00:00", "9999-12-31 00:00:00"]
    cells = pa.array(times if kind == pa.string() else [time(text) for text in times], kind)
    columns = {"subject_id": [1, 1], "time": cells, "code": ["HR", "DX"], "numeric_value": pa.array([1.0, None])}
    data.write("data/0.parquet", pa.table(columns))
    assert data.run("--fractions", 1, 0, 0) == 2
    said = "row 1 (counted from 0), variable 'DX': id 1, column time: '9999-12-31 00:00:00' is not a timestamp"
    assert said in capsys.readouterr().err


def test_a_column_of_times_without_any_type_is_an_error(data, capsys):
    for name in ("0", "1"):
        table = pq.read_table(data.root / "set" / "data" / f"{name}.parquet")
        data.write(f"data/{name}.parquet", table.set_column(1, "time", pa.nulls(len(table))))
    assert data.run("--fractions", 1, 0, 0) == 2
    assert "/data: no event has a time." in capsys.readouterr().err


def test_times_of_meds_are_timestamps(data, capsys):
    table = pq.read_table(data.root / "set" / "data" / "1.parquet")
    zoned = table.set_column(1, "time", table["time"].cast(pa.timestamp("us", "UTC")))
    data.write("data/1.parquet", zoned)
    assert data.run("--fractions", 1, 0, 0) == 2
    assert "1.parquet, column time: is a timestamp with a time zone; the times of other" in capsys.readouterr().err
    for name in ("0", "1"):
        data.write(f"data/{name}.parquet", table.set_column(1, "time", pa.array([10.0, 20.0])))
    assert data.run("--fractions", 1, 0, 0) == 2
    assert "the column time holds a number of minutes, not timestamps" in capsys.readouterr().err


def test_check_looks_at_the_data_set_before_it_is_compiled(data, capsys):
    labels = data.labels((1, "2020-01-01 02:00", True), (5, "2021-06-01 10:10", False), (9, "2020-01-01", False))
    table = pq.read_table(data.root / "set" / "metadata" / "codes.parquet")
    data.write("metadata/codes.parquet", table.slice(1))
    data.splits(train=[1], tuning=[5])
    assert main(["check", str(data.root / "set"), "--labels", str(labels)]) == 1
    text = capsys.readouterr().out
    for expected in (
        "1 of 3 rows are of ids without events",
        "codes.parquet does not list 1 code of the data: 'ADMISSION//EW'",
        "2 variables left out by name",
        "valid: 0 positive and 1 negative stays",
    ):
        assert expected in text
    assert "events up to the end" not in text  # there are prediction times
