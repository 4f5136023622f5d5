"""Cohorts of the version before, which held z-scores: they are turned back into values, and nothing writes them."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqsetvae.cohort import Cohort, notices, open_cohort
from seqsetvae.cohort.format import SUMS
from seqsetvae.cohort.manifest import CHECKSUM, manifest_checksum
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import file_sha256

from .test_compile import compiled


def as_format_1(cohort: Cohort) -> Path:
    """The folder of a cohort, rewritten as the version before wrote it."""
    path = cohort.path
    for name, split in cohort.splits.items():
        z = cohort.variables.z_scores(split.variable, split.value)
        for file in ("value.npy", SUMS):
            (path / name / file).unlink()  # what is mapped stays as it is
        np.save(path / name / "value.npy", z)
    for name in ("stats.csv", "cached.csv"):
        (path / name).unlink()
    np.save(path / "embeddings.npy", cohort.embeddings)
    mean, std = ([None if np.isnan(x) else x for x in each.tolist()] for each in (cohort.mean, cohort.std))
    of_1 = {"version": 1, "values": "z_score", "mean": mean, "std": std, "statistics": "file"}
    of_1["embeddings"] = {"source": "file", "width": cohort.embeddings.shape[1]}
    of_1["checksums"] = {file.relative_to(path).as_posix(): file_sha256(file) for file in path.rglob("*.npy")}
    _change(path, **of_1)
    return path


def _change(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text()) | changes
    (path / "manifest.json").write_text(json.dumps(manifest | {CHECKSUM: manifest_checksum(manifest)}))


def test_its_values_are_turned_back_with_the_statistics_that_it_holds(folder):
    folder.csv("stats.csv", "variable,mean,std\nheart rate,80,10\n")  # lactate has none
    cohort = compiled(folder)
    again = open_cohort(as_format_1(cohort))
    for name, split in cohort.splits.items():
        copy = pickle.loads(pickle.dumps(again.split(name)))
        np.testing.assert_allclose(copy.value, split.value, rtol=1e-15)
        np.testing.assert_allclose(again.sums(name).as_array(), cohort.sums(name).as_array(), rtol=1e-12)
    assert again.variables.content_hash == cohort.variables.content_hash
    assert any("compiled by an earlier version, with z-scores" in line for line in notices(again))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [80, float("nan")]}, "mean is not a list of finite numbers or null"),
        ({"mean": [80, 1e308]}, "mean is not a list of finite numbers or null"),  # more than float32 holds
        ({"mean": [80, "2"]}, "mean is not"),
        ({"mean": [80, True]}, "mean is not"),
        ({"mean": None}, "mean is not"),
        ({"mean": [80]}, "vocabulary, mean and std are of unequal length"),
        ({"mean": [80, None]}, "a variable has a mean and no std, or the reverse"),
        ({"std": [10, -1]}, "std is not a list of finite numbers above 0 or null"),
        ({"std": [10, 0]}, "std is not"),
        ({"std": [10, float("inf")]}, "std is not"),
        ({"embeddings": {"source": "file", "width": "2"}}, "embeddings is not a source and a width"),
        ({"embeddings": {"source": "elsewhere", "width": 2}}, "embeddings is not"),
        ({"embeddings": [2]}, "embeddings is not"),
        ({"embeddings": {"source": "file"}}, "embeddings is not"),
        ({"embeddings": {"width": 2}}, "embeddings is not"),
        ({"values": "ranks"}, "values is not z_score"),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_or_range_is_one_error(folder, change, message):
    path = as_format_1(compiled(folder))
    _change(path, **change)
    with pytest.raises(InputError, match=rf"manifest\.json: damaged \({message}"):
        open_cohort(path)
