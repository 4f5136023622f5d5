"""Other tasks on the challenge's data: an earlier prediction time, and the length of the hospital stay as the label."""

from pathlib import Path

import pytest

from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.command import main

from .test_physionet2012 import GOOD, write_set

FLAGS = ["--fractions", "0.5", "0.5", "0"]


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """40 stays with events at 0, 7 and 90 minutes; their lengths in days are 1 to 39, and one is unknown."""
    folder = tmp_path / "src"
    write_set(folder, "a", dict.fromkeys(range(100, 140), GOOD), deaths=set(range(100, 110)))
    rows = "".join(f"{stay},{stay - 100 or -1},{int(stay < 110)}\n" for stay in range(100, 140))
    (folder / "Outcomes-a.txt").write_text("RecordID,Length_of_stay,In-hospital_death\n" + rows)
    return folder


def test_no_event_from_the_prediction_time_on_reaches_the_cohort(src, tmp_path):
    assert main(["physionet2012", str(src), str(tmp_path / "out"), *FLAGS, "--until_hour", "1.5"]) == 0
    cohort = open_cohort(tmp_path / "out")
    for split in cohort.splits.values():
        assert set(split.minute.tolist()) == {0.0, 7.0}  # the event at 90 minutes is at hour 1.5
        assert set(split.prediction_minute.tolist()) == {90.0}


def test_the_length_of_the_stay_can_be_the_label(src, tmp_path):
    assert main(["physionet2012", str(src), str(tmp_path / "out"), *FLAGS, "--stay_over_days", "7"]) == 0
    cohort = open_cohort(tmp_path / "out")
    assert cohort.label_name == "hospital_stay_over_7_days"
    label = {
        stay: value
        for split in cohort.splits.values()
        for stay, value in zip(split.stay_id.tolist(), split.label.tolist(), strict=True)
    }
    assert label == {100: -1} | {stay: int(stay - 100 > 7) for stay in range(101, 140)}


@pytest.mark.parametrize("flag", ["--until_hour", "--stay_over_days"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_numbers_that_mean_nothing_are_refused(src, tmp_path, flag, value, capsys):
    assert main(["physionet2012", str(src), str(tmp_path / "out"), flag, value]) == 2
    assert f"{flag} {value}: allowed: a number above 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
