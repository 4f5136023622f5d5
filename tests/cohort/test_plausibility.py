"""What `data.py check` finds in data that compile without an error: units, leaks, lost rows, wild values."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seqsetvae.cohort import plausibility
from seqsetvae.cohort.checks import check_folder
from seqsetvae.cohort.command import main
from seqsetvae.cohort.describe import Findings
from seqsetvae.cohort.plausibility import equal_stays, last_seen
from seqsetvae.errors import InputError

from .conftest import Folder, Row
from .test_compile import compiled


def hourly(rng: np.random.Generator, n_hours: int = 24, minutes_an_hour: float = 60.0) -> list[Row]:
    """Heart rate every hour and lactate at a few of these hours."""
    rows: list[Row] = [("heart rate", 80 + 10 * rng.normal(), hour * minutes_an_hour) for hour in range(n_hours)]
    at = np.sort(rng.choice(n_hours, 4, replace=False))
    rows += [("lactate", 2 + rng.normal(), float(hour * minutes_an_hour)) for hour in at]
    return sorted(rows, key=lambda row: row[2] or 0)


def without_last_values(rows: list[Row], lost: int) -> list[Row]:
    """The rows without the last values of lactate."""
    lactate = [row for row in rows if row[0] == "lactate"]
    return [row for row in rows if row[0] != "lactate"] + lactate[: len(lactate) - lost]


@pytest.fixture
def hospital(folder: Folder) -> Folder:
    """Forty training and forty validation stays of a day each, with labels of both classes."""
    for file in folder.ehr.rglob("*.parquet"):
        file.unlink()
    rng = np.random.default_rng(0)
    for number in range(80):
        folder.stay("train" if number < 40 else "valid", f"{number}", hourly(rng))
    folder.csv("oc.csv", "ts_id,in_hospital_mortality\n" + "".join(f"{n},{n % 2}\n" for n in range(80)))
    return folder


def without_side_files(hospital: Folder) -> None:
    """Statistics are those of the training split, and any variable has an embedding."""
    for name in ("stats.csv", "cached.csv"):
        (hospital.root / name).unlink()


def notes(findings: Findings, words: str) -> list[str]:
    return [note for note in findings.problems + findings.remarks if words in note]


def test_good_data_have_no_finding(hospital: Folder) -> None:
    findings = check_folder(hospital.root)
    assert findings.problems == []
    assert findings.remarks == []


def test_the_table_has_hours_and_a_line_for_all_splits(hospital: Folder) -> None:
    text = check_folder(hospital.root).text()
    assert "hours/stay" in text
    assert "23.0 / 23.0" in text
    (total,) = [line for line in text.splitlines() if line.startswith("all ")]
    assert total.split()[:4] == ["all", "80", "1,920", "2,240"]
    assert total.split()[-2:] == ["40", "(50.0%)"]


@pytest.mark.parametrize(("unit", "minutes_an_hour"), [("hours", 1.0), ("seconds", 3600.0)])
def test_minutes_in_another_unit_are_noted(hospital: Folder, unit: str, minutes_an_hour: float) -> None:
    rng = np.random.default_rng(1)
    for number in range(80):
        hospital.stay("train" if number < 40 else "valid", f"{number}", hourly(rng, 24, minutes_an_hour))
    (note,) = notes(check_folder(hospital.root), "from first to last event")
    assert "s the column minute in minutes?" in note
    assert {"hours": "less than 0.38 hours", "seconds": "more than 58 days"}[unit] in note


def test_a_split_that_lost_the_last_values_of_its_stays_is_noted(hospital: Folder) -> None:
    rng = np.random.default_rng(2)
    for number in range(40, 80):
        hospital.stay("valid", f"{number}", without_last_values(hourly(rng), 2))
    findings = check_folder(hospital.root)
    (note,) = notes(findings, "last seen at another time")
    assert note.startswith("1 of 2 variables are last seen at another time in valid than in train")
    assert "'lactate': at " in note


def test_last_times_do_not_depend_on_the_blocks(hospital: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = compiled(hospital)
    (whole, _), equal = last_seen(cohort), equal_stays(cohort)
    monkeypatch.setattr(plausibility, "EVENTS_PER_BLOCK", 100)
    (parts, _) = last_seen(cohort)
    for name, group in whole.items():
        np.testing.assert_allclose(parts[name].mean, group.mean, rtol=1e-12)
        np.testing.assert_allclose(parts[name].squared_error, group.squared_error, rtol=1e-6)
    assert equal_stays(cohort) == equal == []


def test_last_times_are_shares_of_the_stay(folder: Folder) -> None:
    folder.stay("valid", "3.0", [("heart rate", 100, 0), ("lactate", 2, 10), ("lactate", 2, 30), ("heart rate", 9, 40)])
    (by_split, by_group) = last_seen(compiled(folder))
    assert by_split["valid"].mean.tolist() == [1.0, 0.75]
    assert by_split["train"].count.tolist() == [1, 1]  # stay 2, with a single event, has no length
    assert by_group == {}


def test_the_same_rows_under_two_stay_numbers(hospital: Folder) -> None:
    rows = hourly(np.random.default_rng(5))
    hospital.stay("train", "7", rows)
    hospital.stay("train", "8", rows)
    (note,) = check_folder(hospital.root).remarks
    assert note == "1 groups of stays with the same rows in one split:\n      train/7, train/8"
    hospital.stay("valid", "50", rows[::-1])  # in another order of rows
    findings = check_folder(hospital.root)
    (problem,) = findings.problems
    assert problem.endswith("in different splits:\n      train/7, train/8, valid/50")
    hospital.stay("valid", "50", [*rows[:-1], ("lactate", 3.25, rows[-1][2])])  # one value differs
    assert check_folder(hospital.root).problems == []


def test_files_that_are_not_read_are_noted(hospital: Folder) -> None:
    for name in ("train/1.csv", "valid/2.parquet.gz", ".DS_Store", "validation.txt"):
        (hospital.ehr / name).write_text("")
    (hospital.ehr / "val").mkdir()
    (note,) = check_folder(hospital.root).remarks
    assert note.startswith("4 files or folders of ")
    assert [line.strip() for line in note.splitlines()[1:]] == [
        "val",
        "validation.txt",
        "train/1.csv",
        "valid/2.parquet.gz",
    ]


def test_labels_of_stays_that_are_not_there_are_noted(hospital: Folder) -> None:
    labels = (hospital.root / "oc.csv").read_text()
    hospital.csv("oc.csv", labels + "900,1\n901,0\n")
    (note,) = check_folder(hospital.root).remarks
    assert note == "2 of 82 labels are of stays that have no file, such as 900, 901"


def test_values_in_the_thousands_are_named_with_the_remedy_because_new_models_limit_them(hospital: Folder) -> None:
    rows = hourly(np.random.default_rng(6))
    hospital.stay("train", "7", [*rows, ("heart rate", 80 + 25_000 * 10, 70)])
    findings = check_folder(hospital.root)
    assert findings.problems == []
    (remark,) = notes(findings, "values of 1,000 or more after normalisation")
    assert "(mistyped, or a tiny std)" in remark
    assert "New models limit them (--value_clip, --min_count)" in remark
    assert "'heart rate': 1 events, furthest 250080 (z = +25000.0)" in remark


def test_a_variable_of_nearly_equal_training_values_is_no_obstacle(hospital: Folder) -> None:
    """Statistics of the training split, whose std is tiny, for values of other splits that are far from them."""
    without_side_files(hospital)
    rng = np.random.default_rng(7)
    for number in (0, 1):
        hospital.stay("train", f"{number}", [*hourly(rng), ("flow", 2 + number * 1e-5, 1400.0)])
    for number in range(40, 60):
        hospital.stay("valid", f"{number}", [*hourly(rng), ("flow", 3, 1400.0)])
    findings = check_folder(hospital.root)
    assert findings.problems == []
    assert notes(findings, "variables with most values beyond 10 standard deviations of the training values")


def test_values_that_differ_by_rounding_are_one_value(hospital: Folder) -> None:
    without_side_files(hospital)
    rng = np.random.default_rng(8)
    for number in (0, 1, 2):
        hospital.stay("train", f"{number}", [*hourly(rng), ("dose", (0.1 + 0.2, 0.3)[number % 2], 1400.0)])
    hospital.stay("valid", "40", [*hourly(rng), ("dose", 0.4, 1400.0)])
    assert check_folder(hospital.root).problems == []


@pytest.mark.parametrize("value", [150.0, 15_000.0])
def test_variables_without_training_values_are_no_obstacle(hospital: Folder, value: float) -> None:
    """Nothing is known of them in training, so a new model reads only that they occurred, whatever their raw values."""
    without_side_files(hospital)
    for number in range(40, 80):
        rows = hourly(np.random.default_rng(number))
        hospital.stay("valid", f"{number}", [*rows, *((f"new {n}", value, 1380.0) for n in range(12))])
    findings = check_folder(hospital.root)
    assert findings.problems == []
    (remark,) = notes(findings, "variables without training values, whose values are raw, beyond 10")
    assert "New models limit them" in remark


def test_raw_values_in_the_thousands_of_a_variable_of_the_training_are_not_ready(hospital: Folder) -> None:
    hospital.csv("stats.csv", "variable,mean,std\nheart rate,80,10\n")
    hospital.stay("train", "7", [*hourly(np.random.default_rng(6)), ("lactate", 2000, 70)])
    assert notes(check_folder(hospital.root), "1 variables without statistics with raw values of 1,000 or more")


def test_stays_of_years_are_not_taken_for_seconds(hospital: Folder) -> None:
    rng = np.random.default_rng(1)
    for number in range(80):
        hospital.stay("train" if number < 40 else "valid", f"{number}", hourly(rng, 24, 30 * 1440))
    (note,) = notes(check_folder(hospital.root), "from first to last event")
    assert note.startswith("half of the stays last more than 690 days")
    assert "Right for records of months or years" in note


def test_statistics_of_another_unit_are_not_ready(hospital: Folder) -> None:
    hospital.csv("stats.csv", "variable,mean,std\nheart rate,880,10\nlactate,2,1\n")
    (problem,) = check_folder(hospital.root).problems
    assert "most values beyond 10 standard deviations" in problem
    assert "'heart rate': 1,920 events" in problem


def test_no_statistics_for_many_variables_is_not_ready(hospital: Folder) -> None:
    hospital.csv("stats.csv", "variable,mean,std\nHeart Rate,80,10\nlactate,2,1\n")
    (problem,) = check_folder(hospital.root).problems
    assert "variables without statistics whose raw values go beyond 10" in problem
    assert "'heart rate': 1,920 events" in problem


def test_a_variable_of_small_raw_values_needs_no_statistics(hospital: Folder) -> None:
    hospital.csv("stats.csv", "variable,mean,std\nheart rate,80,10\n")  # lactate is never above 10
    findings = check_folder(hospital.root)
    assert findings.problems == []
    assert notes(findings, "variables without statistics, which keep their raw value")


@pytest.mark.parametrize(("mean", "std"), [("80", "1e-45"), ("80", "5e-324"), ("1e30", "10"), ("80", "1e-20")])
def test_statistics_that_make_absurd_z_scores_stop_the_compilation(
    hospital: Folder, mean: str, std: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hospital.csv("stats.csv", f"variable,mean,std\nheart rate,{mean},{std}\nlactate,2,1\n")
    with pytest.raises(InputError, match=r"stats\.csv cannot normalise 1 variables") as error:
        compiled(hospital)
    assert f"'heart rate': mean {float(mean):g}, std {float(std):g}; its furthest value " in str(error.value)
    assert main(["check", str(hospital.root)]) == 1
    text = capsys.readouterr().out
    assert "stats.csv cannot normalise 1 variables" in text
    assert "1 error, 0 warnings: NOT ready for training." in text


def test_check_says_nothing_about_labels_that_it_could_not_read(folder: Folder) -> None:
    folder.csv("oc.csv", "ts_id,died\n1,0\n2,1\n3,1\n")
    (problem,) = check_folder(folder.root).problems
    assert problem.endswith(
        "has no column in_hospital_mortality. Its columns are: ts_id, died. "
        "Name the column to predict with --label_name."
    )


def test_check_without_statistics_says_nothing_about_labels(hospital: Folder) -> None:
    (hospital.root / "stats.csv").unlink()
    findings = check_folder(hospital.root)
    assert notes(findings, "no stats.csv")
    assert not notes(findings, "label")


def test_sets_of_physionet_are_compared(shared: Callable[[str], Path], tmp_path: Path) -> None:
    """Set a without the last two values of most variables of each stay, beside set b as it is."""
    for name in ("a", "b"):
        (tmp_path / f"Outcomes-{name}.txt").symlink_to(shared(f"physionet2012/Outcomes-{name}.txt"))
        (tmp_path / f"set-{name}").mkdir()
        with tarfile.open(shared(f"physionet2012/set-{name}.tar.gz")) as archive:
            files = [entry for entry in archive if entry.isfile()][:300]
            for entry in files:
                text = archive.extractfile(entry).read().decode()  # type: ignore[union-attr]
                text = _cut_short(text) if name == "a" else text
                (tmp_path / f"set-{name}" / Path(entry.name).name).write_text(text)
    out = tmp_path / "out"
    assert main(["physionet2012", str(tmp_path), str(out), "--fractions", "0.8", "0.2", "0"]) == 0
    findings = check_folder(out)
    (note,) = notes(findings, "last seen at another time")
    assert "variables are last seen at another time in set a than in set b" in note


def _cut_short(text: str) -> str:
    header, *rows = text.splitlines()
    of: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        of.setdefault(row.split(",")[1], []).append(at)
    lost = {at for places in of.values() if len(places) > 3 for at in places[-2:]}
    return "\n".join([header, *(row for at, row in enumerate(rows) if at not in lost)]) + "\n"
