"""A cohort that was exported and imported again is the same: `data.py export`, then `data.py table` or `meds`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seqsetvae.cohort import Cohort, open_cohort
from seqsetvae.cohort.command import main

from .conftest import Folder
from .test_compile import compiled, random_layout
from .test_samples import HOUR, compile_samples, sample

ARRAYS = ("variable", "value", "set_offset", "minute", "stay_offset", "stay_id", "label", "subject_id")


def imported(form: str, label: str, exported: Path, out: Path) -> Cohort:
    """The cohort that the command in docs/export.md makes of an exported folder."""
    table = ["table", f"{exported}/events", str(out), "--id_column", "stay_id", "--time_column", "minute"]
    table += ["--set_column", "set_index", "--subject_column", "subject_id", "--split_column", "split"]
    table += ["--labels", f"{exported}/labels.csv", "--label_name", label]
    table += ["--prediction_time_column", "prediction_minute"]
    meds = ["meds", str(exported), str(out), "--labels", f"{exported}/labels/{label}"]
    assert main(table if form == "table" else meds) == 0
    return open_cohort(out)


def require_same(one: Cohort, other: Cohort) -> None:
    assert list(one.splits) == list(other.splits)
    assert one.vocabulary == other.vocabulary
    assert one.label_name == other.label_name
    for name in one.splits:
        np.testing.assert_array_equal(one.sums(name).as_array(), other.sums(name).as_array())
    for name, split in one.splits.items():
        for array in ARRAYS:
            found = getattr(other.split(name), array)
            np.testing.assert_array_equal(found, getattr(split, array), err_msg=f"{name} {array}")


@pytest.mark.parametrize("form", ["table", "meds"])
def test_a_round_trip_changes_no_bit(form: str, folder: Folder, tmp_path: Path) -> None:
    random_layout(folder, 20)
    folder.stay("train", "2.0", [("lactate", 1.3, 5), ("lactate", 2.7, 5), ("lactate", 7.3, 5)], set_index=[4, 7, 4])
    rows = [f"{stay},{stay % 2}" for stay in (1, 2, 3, *range(100, 120))]
    folder.csv("oc.csv", "\n".join(["ts_id,died", *rows, ""]))
    cohort = compiled(folder, label_name="died")
    assert main(["export", str(cohort.path), str(tmp_path / form), "--to", form]) == 0
    require_same(cohort, imported(form, "died", tmp_path / form, tmp_path / "again"))


@pytest.mark.parametrize("form", ["table", "meds"])
def test_patients_and_prediction_times_come_back(form: str, tmp_path: Path) -> None:
    train = [sample(1, 7, 2 * HOUR), sample(2, 7, 121.5), sample(3, 8, 200.0)]
    cohort = compile_samples(tmp_path, train=train, valid=[sample(4, 9, 30.0)])
    assert main(["export", str(cohort.path), str(tmp_path / form), "--to", form]) == 0
    again = imported(form, "odd", tmp_path / form, tmp_path / "again")
    require_same(cohort, again)
    for name, split in cohort.splits.items():
        np.testing.assert_array_equal(again.split(name).prediction_minute, split.prediction_minute)


def test_a_table_keeps_stays_without_a_label(folder: Folder, tmp_path: Path) -> None:
    folder.csv("oc.csv", "ts_id,died\n1,1\n")
    cohort = compiled(folder, label_name="died")
    assert main(["export", str(cohort.path), str(tmp_path / "table"), "--to", "table"]) == 0
    require_same(cohort, imported("table", "died", tmp_path / "table", tmp_path / "again"))
