"""Mean and std of each variable by one read of the events, and cohorts whose std came from two."""

from dataclasses import replace

import numpy as np
import pytest

from seqsetvae.cohort import Cohort, format
from seqsetvae.cohort.meaning import variables_changed
from seqsetvae.cohort.statistics import Block, Sums

from .conftest import Folder
from .test_compile import train_only


def blocks(n_blocks: int = 9, size: int = 500) -> list[Block]:
    """Variables 0 to 3, all but the first with means far from 0; variable 2 is in the last block alone; 4 nowhere."""
    rng = np.random.default_rng(0)
    made = []
    for block in range(n_blocks):
        variable = rng.choice([0, 1, 3], size).astype(np.int32)
        if block == n_blocks - 1:
            variable[:40] = 2
        value = rng.normal(np.array([0.0, 1e6, -37.0, 1e9])[variable], np.array([1.0, 30.0, 0.1, 1e-2])[variable])
        made.append((variable, value + block))  # the means of blocks differ
    return made


def test_one_read_by_blocks_gives_the_mean_and_std_of_all_values_together() -> None:
    parts = blocks()
    variable, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    mean, std = Sums.of(iter(parts), 5).mean_and_std()
    for v in range(4):
        np.testing.assert_allclose(mean[v], value[variable == v].mean(), rtol=1e-14)
        np.testing.assert_allclose(std[v], value[variable == v].std(ddof=1), rtol=1e-12)
    assert np.isnan([mean[4], std[4]]).all()


RATES = np.random.default_rng(0).normal(90, 9, (10, 99)).round(1)  # of ten stays


@pytest.fixture
def cohort(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    """Heart rates in blocks of 64 events, whose squares have other last bits when they are added in another way."""
    monkeypatch.setattr(format, "EVENTS_PER_BLOCK", 64)
    for name in ("1.0", "2.0"):
        (folder.ehr / "train" / f"{name}.parquet").unlink()
    for i, rates in enumerate(RATES):
        folder.stay("train", str(10 + i), [("heart rate", rate, minute) for minute, rate in enumerate(rates)])
    return train_only(folder)


def std_of_two_reads() -> float:
    """As versions before December 2026 computed it, block by block."""
    parts = np.split(RATES.ravel(), range(64, RATES.size, 64))
    one = [np.zeros(len(part), np.int32) for part in parts]
    total = sum(float(np.bincount(v, weights=part)[0]) for v, part in zip(one, parts, strict=True))
    mean = total / RATES.size
    squares = sum(float(np.bincount(v, weights=(part - mean) ** 2)[0]) for v, part in zip(one, parts, strict=True))
    return float(np.sqrt(squares / (RATES.size - 1)))


def test_a_std_of_two_reads_is_the_same_data(cohort: Cohort) -> None:
    earlier = replace(cohort, std=np.array([std_of_two_reads(), cohort.std[1]]))
    assert earlier.std[0] != cohort.std[0]  # in its last bits
    np.testing.assert_allclose(earlier.std[0], cohort.std[0], rtol=1e-12)
    assert variables_changed(cohort, earlier.fingerprints()) == []  # a checkpoint of an earlier version


def test_a_cohort_of_an_earlier_version_is_the_same_data_too(cohort: Cohort) -> None:
    train = cohort.split("train")
    std = std_of_two_reads()
    z = np.where(train.variable == 0, (RATES.ravel() - cohort.mean[0]) / std, train.value)
    earlier = replace(cohort, std=np.array([std, cohort.std[1]]))
    earlier.splits["train"].value = z
    assert variables_changed(earlier, cohort.fingerprints()) == []


@pytest.mark.parametrize("column", ["mean", "std"])
def test_another_mean_or_std_is_named_however_near(cohort: Cohort, column: str) -> None:
    value = getattr(cohort, column).copy()
    value[0] *= 1 + 1e-9
    assert variables_changed(cohort, replace(cohort, **{column: value}).fingerprints()) == ["heart rate"]


def test_statistics_of_a_file_are_compared_to_the_last_bit(cohort: Cohort) -> None:
    given = replace(cohort, manifest={**cohort.manifest, "statistics": "file"})
    earlier = replace(given, std=np.array([std_of_two_reads(), cohort.std[1]]))
    assert variables_changed(given, earlier.fingerprints()) == ["heart rate"]
