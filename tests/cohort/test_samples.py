"""Samples: a source may yield several per subject, each with its own prediction time and label."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from seqsetvae.cohort import Cohort, compile_cohort, open_cohort, summary
from seqsetvae.cohort.imported import read_skipped
from seqsetvae.cohort.profile import equal_stays
from seqsetvae.cohort.sources.opened import assign_by_fractions
from seqsetvae.cohort.tidy import Rows, Skip, Stay, Stays, UnnamedRows
from seqsetvae.system.errors import InputError

from .test_compile import compiled, sets_of

HOUR = 60.0


class HourlyStays:
    """Every stay has one event at the start of each of six hours, whose value is the hour, in reversed order."""

    description = "hourly"

    def __init__(self, **stays: Sequence[Stay]) -> None:
        self.stays = stays
        self.skips: list[Skip] = []
        self.unnamed_rows = UnnamedRows()

    def read(self, stays: Stays) -> Rows:
        n, hours = len(stays), np.tile(np.arange(5.0, -1, -1), len(stays))
        return Rows(
            stays=stays,
            n_rows=np.full(n, 6),
            names=["hour"],
            variable=np.zeros(6 * n, dtype=np.int32),
            value=hours,
            minute=HOUR * hours,
            set_index=hours,
            has_set_index=np.ones(n, dtype=bool),
        )


def sample(number: int, subject: int | None = None, end: float | None = None) -> Stay:
    return Stay(number, f"stay {number}", subject_id=subject, prediction_minute=end)


def compile_samples(folder: Path, **stays: Sequence[Stay]) -> Cohort:
    labels = {stay.stay_id: stay.stay_id % 2 for of_split in stays.values() for stay in of_split}
    return compile_cohort(HourlyStays(**stays), folder / "out", label_name="odd", labels=labels)


def test_only_events_before_the_prediction_time_are_in_the_cohort(tmp_path):
    stays = [sample(1, 7, 2 * HOUR), sample(2, 7, 2 * HOUR + 1), sample(3, 7), sample(4, 8, 1000 * HOUR)]
    cohort = compile_samples(tmp_path, train=stays)
    split = cohort.split("train")
    assert np.diff(split.stay_offset).tolist() == [2, 3, 6, 6]  # the event at minute 120 is not before minute 120
    assert sets_of(cohort, "train", 0) == [(0, [("hour", 0.0)]), (HOUR, [("hour", 1.0)])]
    assert split.label.tolist() == [1, 0, 1, 0]
    assert split.subject_id.tolist() == [7, 7, 7, 8]
    assert split.subjects_of(np.array([4, 1, 3])).tolist() == [8, 7, 7]
    assert split.prediction_minute.tolist()[:2] == [120, 121]
    assert np.isnan(split.prediction_minute[2])
    assert pickle.loads(pickle.dumps(split)).subject_id.tolist() == [7, 7, 7, 8]
    assert "4 stays of 2 subjects, 3 with a prediction time" in summary(cohort)


def test_statistics_do_not_see_what_comes_after_the_prediction_time(tmp_path):
    source = HourlyStays(train=[sample(1, end=2 * HOUR)])
    cohort = compile_cohort(source, tmp_path / "out", label_name="odd")
    assert cohort.mean.tolist() == [0.5]


def test_a_stay_without_events_before_its_prediction_time_is_left_out_and_listed(tmp_path):
    cohort = compile_samples(tmp_path, train=[sample(1, end=0.0), sample(2, end=1.0), sample(3, end=-1.5)])
    assert cohort.split("train").stay_id.tolist() == [2]
    reasons = [skip.reason for skip in read_skipped(cohort.path)]
    assert reasons == [f"the stay has no rows before its prediction time, minute {end}" for end in ("0", "-1.5")]


def test_a_prediction_time_that_is_no_number_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"stay_id=3.*a prediction_minute of nan; allowed: a number, or None"):
        compile_samples(tmp_path, train=[sample(2), sample(3, end=float("nan"))])


def test_a_subject_in_two_splits_is_an_error(tmp_path):
    with pytest.raises(
        InputError, match=r"1 subjects have stays in more than one split(.|\n)*7: train, valid\nPut all"
    ):
        compile_samples(tmp_path, train=[sample(1, 7), sample(2, 8)], valid=[sample(3, 7), sample(4)])
    with pytest.raises(InputError, match=r"1 stays occur in more than one file"):
        compile_samples(tmp_path, train=[sample(1, 7, HOUR), sample(1, 7)])
    assert not list(tmp_path.iterdir())


def test_without_subjects_and_prediction_times_every_stay_is_whole_and_its_own_subject(folder):
    cohort = compiled(folder)
    split = cohort.split("train")
    assert split.subject_id.tolist() == split.stay_id.tolist() == [1, 2]
    assert np.isnan(split.prediction_minute).tolist() == [True, True]
    assert not list(cohort.path.rglob("subject_id.npy")) + list(cohort.path.rglob("prediction_minute.npy"))
    assert "subject" not in summary(cohort)


@pytest.mark.parametrize("name", ["subject_id", "prediction_minute"])
def test_a_damaged_or_missing_key_is_noticed(tmp_path, name):
    path = compile_samples(tmp_path, train=[sample(1, 7, HOUR), sample(2, 7)]).path
    file = path / "train" / f"{name}.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{name}.npy: damaged .its bytes"):
        open_cohort(path)
    np.save(file, np.load(file)[:1])
    with pytest.raises(InputError, match=f"{name}.npy: damaged .1 entries, not 2"):
        open_cohort(path, verify=False)
    file.unlink()  # the default must not replace what was there
    with pytest.raises(InputError, match=f"{name}.npy: damaged .the file is missing"):
        open_cohort(path, verify=False)


def test_a_random_division_keeps_the_stays_of_a_subject_together():
    stays = [sample(10 * subject + at, subject, HOUR * at) for subject in range(40) for at in (1, 2, 3)]
    labels = {stay.stay_id: int(stay.subject < 10 and stay.stay_id % 10 == 2) for stay in stays if stay.subject < 30}
    subject = np.array([stay.subject for stay in stays])
    label = np.array([labels.get(stay.stay_id, -1) for stay in stays], dtype=np.int8)
    split = assign_by_fractions(subject, label, (0.6, 0.2, 0.2), seed=0)
    subjects = [set(subject[split == at].tolist()) for at in range(3)]
    assert [len(found) for found in subjects] == [24, 8, 8]
    assert [sum(subject < 10 for subject in found) for found in subjects] == [6, 2, 2]  # positive
    assert [sum(subject >= 30 for subject in found) for found in subjects] == [6, 2, 2]  # unlabelled
    assert len(split) == 120
    assert not subjects[0] & subjects[1]


def test_samples_of_one_subject_may_have_the_same_rows(tmp_path):
    of_one = compile_samples(tmp_path / "one", train=[sample(1, 7), sample(2, 7, 1000 * HOUR)])
    assert equal_stays(of_one) == []
    of_two = compile_samples(tmp_path / "two", train=[sample(1, 7), sample(2, 7)], valid=[sample(3, 8)])
    assert equal_stays(of_two) == [[("train", 1), ("train", 2), ("valid", 3)]]
