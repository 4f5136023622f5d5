"""Whether training can see what it is tested on is found and said, by `data.py check` and when a run starts."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from seqsetvae.cohort import Cohort, notices, open_cohort, open_or_compile
from seqsetvae.cohort.checks import check_folder
from seqsetvae.cohort.command import main as data_command
from seqsetvae.cohort.manifest import write_manifest
from seqsetvae.cohort.report import splits_of_statistics
from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.cohort.variables import Sums
from seqsetvae.system.errors import ERROR
from tests.command import finetune, succeeded


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_synthetic(tmp_path / "data", n_stays=60, seed=2, embedding_width=12)


def _statistics_of(layout: Path, splits: tuple[str, ...], digits: int = 17) -> None:
    """Write the stats.csv that whoever computes it from these splits gets."""
    raw = open_or_compile(layout, cache_root=layout.parent.parent / "raw", progress=False)
    values = [(raw.splits[name].variable, raw.splits[name].value) for name in splits]
    variable, values_of = (np.concatenate(column) for column in zip(*values, strict=True))
    with (layout.parent / "stats.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["variable", "mean", "std"])
        for v, name in enumerate(raw.vocabulary):
            value = values_of[variable == v]
            writer.writerow([name, f"{value.mean():.{digits}g}", f"{value.std(ddof=1) or 1:.{digits}g}"])


@pytest.mark.parametrize(
    ("splits", "digits", "said"),
    [
        (("train",), 17, None),
        (("train",), 5, None),
        (("train", "valid", "test"), 17, "those of valid and test data too"),
        (("train", "valid", "test"), 5, "those of valid and test data too"),
        (("train", "valid"), 17, "those of valid data too"),
        (("test",), 17, "those of test data too"),
    ],
)
def test_statistics_of_other_splits_are_found(layout, splits, digits, said):
    _statistics_of(layout, splits, digits)
    found = _leaks(layout)
    assert [said in line for line in found] == ([True] if said else [])
    cohort = open_or_compile(layout, cache_root=layout.parent.parent / "cache", progress=False)
    assert [line for line in notices(cohort) if line.startswith("leak")] == found


def _leaks(path: Path) -> list[str]:
    findings = [finding for finding in check_folder(path).findings if finding.text.startswith("leak")]
    assert all(finding.level == ERROR for finding in findings)
    return [finding.line() for finding in findings]


def test_statistics_from_elsewhere_are_no_leak(layout):
    """Those that the synthetic data were drawn with are of no split."""
    assert _leaks(layout) == []


def test_two_variables_do_not_tell_whose_statistics_they_are():
    sums = {
        "train": Sums.from_blocks([(np.arange(2), np.zeros(2))], 2),
        "valid": Sums.from_blocks([(np.arange(2), np.ones(2))], 2),
    }
    assert splits_of_statistics(np.full(2, 0.5), sums) == []


def test_a_run_says_it_at_its_start(layout, pretrained, tmp_path):
    _statistics_of(layout, ("train", "valid", "test"))
    said = succeeded(finetune(pretrained, layout, tmp_path / "runs", max_epochs=1, unfreeze_after=1))
    assert "  leak: the means in stats.csv are those of valid and test data too" in said
    (config,) = (tmp_path / "runs").glob("*/config.json")
    assert "leak" in json.loads(config.read_text(encoding="utf-8"))["cohort"]["notices"][0]


def _with_keys(compiled: Cohort, folder: Path, split: str, **arrays: np.ndarray) -> Path:
    """A copy of a cohort in which a split has these arrays, as another program might have made it."""
    shutil.copytree(compiled.path, folder)
    for name, array in arrays.items():
        np.save(folder / split / f"{name}.npy", array)
    manifest = {
        key: value
        for key, value in compiled.manifest.items()
        if key not in ("checksums", "manifest_checksum", "format", "version", "values")
    }
    write_manifest(folder, manifest)
    return folder


def test_a_patient_in_two_splits_of_a_compiled_cohort_is_found(compiled, tmp_path):
    valid, train = compiled.split("valid"), compiled.split("train")
    subject = valid.stay_id.copy()
    subject[:2] = train.stay_id[:2]
    path = _with_keys(compiled, tmp_path / "cohort", "valid", subject_id=subject)
    message = "leak: 2 patients with stays in both train and valid"
    assert message in notices(open_cohort(path))
    assert _leaks(path) == [message]
    assert data_command(["check", str(path)]) == 1


def test_events_after_the_time_of_the_label_are_found(compiled, tmp_path):
    test = compiled.split("test")
    end = test.minute[test.stay_offset[1:] - 1] + 1
    end[:3] -= 1  # at the prediction time itself is too late
    path = _with_keys(compiled, tmp_path / "cohort", "test", prediction_minute=end)
    assert "leak: 3 stays of test with events at or after their prediction time" in notices(open_cohort(path))
