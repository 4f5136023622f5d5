"""What `data.py check` finds in data that compile without an error: units, leaks, lost rows, wild values."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seqsetvae.cohort.checks import Check, check_folder
from seqsetvae.cohort.command import main
from seqsetvae.cohort.profile import equal_stays, last_seen
from seqsetvae.system.errors import ERROR, NOTE, WARNING, Finding, InputError

from .conftest import Folder, Row
from .test_compile import compiled


def hourly(seed: int, n_hours: int = 24, minutes_an_hour: float = 60.0, lost: int = 0) -> list[Row]:
    """Heart rate every hour, and lactate at a few of these hours without the last `lost` of them."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = [("heart rate", 80 + 10 * rng.normal(), hour * minutes_an_hour) for hour in range(n_hours)]
    at = np.sort(rng.choice(n_hours, 4, replace=False))[: 4 - lost]
    rows += [("lactate", 2 + rng.normal(), float(hour * minutes_an_hour)) for hour in at]
    return sorted(rows, key=lambda row: row[2] or 0)


def split_of(number: int) -> str:
    return "train" if number < 40 else "valid"


@pytest.fixture
def hospital(folder: Folder) -> Folder:
    """Forty training and forty validation stays of a day each, with labels of both classes."""
    for file in folder.ehr.rglob("*.parquet"):
        file.unlink()
    for number in range(80):
        folder.stay(split_of(number), f"{number}", hourly(number))
    folder.csv("oc.csv", "ts_id,in_hospital_mortality\n" + "".join(f"{n},{n % 2}\n" for n in range(80)))
    return folder


def found(check: Check, words: str = "") -> list[Finding]:
    """Errors and warnings with these words."""
    return [finding for finding in check.findings if finding.level != NOTE and words in finding.line()]


def test_good_data_have_no_finding(hospital):
    check = check_folder(hospital.root)
    assert found(check) == []
    text = check.text()
    assert "hours/stay" in text
    assert "23.0 / 23.0" in text
    (total,) = [line for line in text.splitlines() if line.startswith("all ")]
    assert total.split()[:4] == ["all", "80", "1,920", "2,240"]
    assert total.split()[-2:] == ["40", "(50.0%)"]


def _all_stays(folder: Folder, minutes_an_hour: float) -> None:
    for number in range(80):
        folder.stay(split_of(number), f"{number}", hourly(number, 24, minutes_an_hour))


def _add(folder: Folder, numbers: range, *rows: Row) -> None:
    for number in numbers:
        folder.stay(split_of(number), f"{number}", [*hourly(number), *rows])


def _stats(folder: Folder, *lines: str) -> None:
    folder.csv("stats.csv", "\n".join(["variable,mean,std", *lines]) + "\n")


def _own_stats(folder: Folder) -> None:
    """Statistics are those of the training split, and any variable has an embedding."""
    for name in ("stats.csv", "cached.csv"):
        (folder.root / name).unlink()


def _lose_last_values(folder: Folder) -> None:
    for number in range(40, 80):
        folder.stay("valid", f"{number}", hourly(number, lost=2))


def _same_rows(folder: Folder, other: bool) -> None:
    """Two training stays, and perhaps a validation stay with the rows in another order."""
    for split, number in [("train", "7"), ("train", "8"), ("valid", "50")][: 2 + other]:
        folder.stay(split, number, hourly(105)[:: -1 if split == "valid" else 1])


def _files(folder: Folder) -> None:
    for name in ("train/1.csv", "valid/2.parquet.gz", ".DS_Store", "validation.txt"):
        (folder.ehr / name).write_text("")
    (folder.ehr / "val").mkdir()


def _labels(folder: Folder) -> None:
    folder.csv("oc.csv", (folder.root / "oc.csv").read_text() + "900,1\n901,0\n")


def _nearly_equal(folder: Folder) -> None:
    """The std of the training values is tiny, and values of other splits are far from them."""
    _own_stats(folder)
    for number in (0, 1):
        _add(folder, range(number, number + 1), ("flow", 2 + number * 1e-5, 1400.0))
    _add(folder, range(40, 60), ("flow", 3, 1400.0))


def _unseen(folder: Folder, value: float) -> None:
    """Nothing is known of them in training, so a new model reads only that they occurred, whatever their raw values."""
    _own_stats(folder)
    _add(folder, range(40, 80), *((f"new {n}", value, 1380.0) for n in range(12)))


LIMITED = "New models limit them (--value_clip, --min_count)"
# What is changed; level, words and first item of the one finding about it
CASES: dict[str, tuple[Callable[[Folder], None], str, str, str]] = {
    "hours": (
        lambda f: _all_stays(f, 1),
        WARNING,
        "half of the stays last less than 0.38 hours from first to last event (the longest 0.38 hours). Is the column "
        "minute in minutes? If they are hours, stays look too short",
        "",
    ),
    "seconds": (
        lambda f: _all_stays(f, 3600),
        WARNING,
        "more than 58 days from first to last event (the longest 1,380.00 hours). That is right for records of months "
        "or years. Of stays in hospital: is the column minute in minutes? If they are seconds, stays look too long",
        "",
    ),
    "years": (lambda f: _all_stays(f, 30 * 1440), WARNING, "half of the stays last more than 690 days", ""),
    "lost last values": (
        _lose_last_values,
        WARNING,
        "1 of 2 variables are last seen at another time in valid than in train, most of them earlier. Are the last",
        "'lactate': at ",
    ),
    "same rows in one split": (
        lambda f: _same_rows(f, other=False),
        WARNING,
        "1 group of stays with the same rows in one split",
        "train/7, train/8",
    ),
    "same rows in two splits": (
        lambda f: _same_rows(f, other=True),
        ERROR,
        "1 group of stays with the same rows in different splits",
        "train/7, train/8, valid/50",
    ),
    "files that are not read": (_files, WARNING, "4 unread files (or folder) in ", "val"),
    "labels of no stay": (_labels, WARNING, "2 labels (of 82) of stays without a file", "900"),
    "a value in the thousands": (
        lambda f: _add(f, range(7, 8), ("heart rate", 80 + 25_000 * 10, 70)),
        WARNING,
        f"1 variable with values of 1,000 or more after normalisation (mistyped, or a tiny std). {LIMITED}",
        "'heart rate': 1 event, the furthest 250080 (z = +25000.0)",
    ),
    "nearly equal training values": (
        _nearly_equal,
        WARNING,
        f"with most values more than 10 standard deviations from the mean of the training values. {LIMITED}",
        "'flow': 20 events",
    ),
    "no training value": (
        lambda f: _unseen(f, 150),
        WARNING,
        f"12 variables without training values, and so without mean and std, that have values beyond 10. {LIMITED}",
        "'new 0': 40 events, the furthest 150 (no statistics)",
    ),
    "no training value, in the thousands": (lambda f: _unseen(f, 15_000), WARNING, "without training values", "'new"),
    "raw values in the thousands": (
        lambda f: (_stats(f, "heart rate,80,10"), _add(f, range(7, 8), ("lactate", 2000, 70)))[0],
        ERROR,
        "1 variable without mean and std that have values of 1,000 or more, which nothing limits",
        "'lactate': 1 event",
    ),
    "statistics of another unit": (
        lambda f: _stats(f, "heart rate,880,10", "lactate,2,1"),
        ERROR,
        "1 variable with most values more than 10 standard deviations from the mean: their mean and std do not fit",
        "'heart rate': 1,920 events",
    ),
    "no statistics for many variables": (
        lambda f: _stats(f, "Heart Rate,80,10", "lactate,2,1"),
        ERROR,
        "1 variable without mean and std that have values beyond 10: too many to train on",
        "'heart rate': 1,920 events",
    ),
    "no statistics for small raw values": (
        lambda f: _stats(f, "heart rate,80,10"),  # lactate is never above 10
        WARNING,
        "1 variable without mean and std (not in stats.csv), whose values are read as they are",
        "'lactate': 320 events",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_odd_is_found(hospital, case):
    change, level, words, item = CASES[case]
    change(hospital)
    check = check_folder(hospital.root)
    (finding,) = found(check, words)
    assert finding.level == level
    assert (finding.items or ("",))[0].startswith(item)
    assert check.is_ready == (level != ERROR)


def test_unread_files_are_all_named_but_hidden_ones(hospital):
    _files(hospital)
    (finding,) = found(check_folder(hospital.root))
    assert finding.items == ("val", "validation.txt", "train/1.csv", "valid/2.parquet.gz")


def test_stays_of_which_one_value_differs_are_not_equal(hospital):
    _same_rows(hospital, other=True)
    rows = hourly(105)[::-1]
    hospital.stay("valid", "50", [*rows[:-1], ("lactate", 3.25, rows[-1][2])])
    (finding,) = found(check_folder(hospital.root), "same rows")
    assert finding.level == WARNING  # the two training stays


def test_values_that_differ_by_rounding_are_one_value(hospital):
    _own_stats(hospital)
    for number in (0, 1, 2):
        _add(hospital, range(number, number + 1), ("dose", (0.1 + 0.2, 0.3)[number % 2], 1400.0))
    _add(hospital, range(40, 41), ("dose", 0.4, 1400.0))
    assert check_folder(hospital.root).is_ready


def test_last_times_do_not_depend_on_the_blocks(hospital, monkeypatch):
    cohort = compiled(hospital)
    (whole, _), equal = last_seen(cohort), equal_stays(cohort)
    monkeypatch.setattr("seqsetvae.cohort.format.EVENTS_PER_BLOCK", 100)
    (parts, _) = last_seen(cohort)
    for name, sums in whole.items():
        np.testing.assert_allclose(parts[name], sums, rtol=1e-12)
    assert equal_stays(cohort) == equal == []


def test_last_times_are_shares_of_the_stay(folder):
    folder.stay("valid", "3.0", [("heart rate", 100, 0), ("lactate", 2, 10), ("lactate", 2, 30), ("heart rate", 9, 40)])
    (by_split, by_group) = last_seen(compiled(folder))
    assert by_split["valid"].tolist() == [[1, 1], [1, 0.75], [1, 0.75**2]]
    assert by_split["train"][0].tolist() == [1, 1]  # stay 2, with a single event, has no length
    assert by_group == {}


@pytest.mark.parametrize(("mean", "std"), [("80", "1e-45"), ("80", "5e-324"), ("1e30", "10"), ("80", "1e-20")])
def test_statistics_that_make_absurd_z_scores_stop_the_compilation(hospital, mean, std, capsys):
    _stats(hospital, f"heart rate,{mean},{std}", "lactate,2,1")
    with pytest.raises(InputError, match=r"stats\.csv cannot normalise 1 variables") as error:
        compiled(hospital)
    assert f"'heart rate': mean {float(mean):g}, std {float(std):g}; its furthest value " in str(error.value)
    assert main(["check", str(hospital.root)]) == 1
    text = capsys.readouterr().out
    assert "stats.csv cannot normalise 1 variables" in text
    assert "1 error, 0 warnings: NOT ready for training." in text


def test_check_says_nothing_about_labels_that_it_could_not_read(hospital):
    text = (hospital.root / "oc.csv").read_text()
    hospital.csv("oc.csv", text.replace("in_hospital_mortality", "died"))
    (finding,) = found(check_folder(hospital.root))
    assert finding.text.endswith(
        "has no column in_hospital_mortality. Its columns are: ts_id, died. "
        "Name the column to predict with --label_name."
    )


def test_check_without_statistics_says_so_and_nothing_about_labels(hospital):
    (hospital.root / "stats.csv").unlink()
    check = check_folder(hospital.root)
    assert any("no stats.csv" in finding.text for finding in check.findings)
    assert found(check) == []


def test_sets_of_physionet_are_compared(shared, tmp_path):
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
    (finding,) = found(check_folder(out), "last seen at another time")
    assert "variables are last seen at another time in set a than in set b" in finding.text


def _cut_short(text: str) -> str:
    header, *rows = text.splitlines()
    of: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        of.setdefault(row.split(",")[1], []).append(at)
    lost = {at for places in of.values() if len(places) > 3 for at in places[-2:]}
    return "\n".join([header, *(row for at, row in enumerate(rows) if at not in lost)]) + "\n"
