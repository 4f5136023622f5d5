"""The synthetic cohort: labelled as such, reproducible, with a signal that is there but not perfect."""

import errno
from pathlib import Path

import numpy as np
import pytest

from seqsetvae.cohort import Split, open_or_compile
from seqsetvae.cohort.sources import synthetic
from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.system.errors import InputError


def features(split: Split, n_variables: int) -> np.ndarray:
    """[N, 2V + 1] mean and last z-score of each variable, and a constant."""
    rows = np.zeros((split.n_stays, 2 * n_variables + 1))
    rows[:, -1] = 1
    for stay in range(split.n_stays):
        events = slice(*split.set_offset[split.stay_offset[stay : stay + 2]])
        for variable in range(n_variables):
            values = split.value[events][split.variable[events] == variable]
            if len(values):
                rows[stay, variable], rows[stay, n_variables + variable] = values.mean(), values[-1]
    return rows


def auroc(score: np.ndarray, label: np.ndarray) -> float:
    positive, negative = score[label == 1], score[label == 0]
    return float((positive[:, None] > negative).mean())


def test_a_linear_model_learns_it_but_not_perfectly(tmp_path):
    cohort = open_or_compile(write_synthetic(tmp_path / "data"), cache_root=tmp_path / "cache")
    assert cohort.manifest["source"].endswith(": synthetic, no real patients (600 stays, seed 0)")
    train = cohort.split("train")
    x, y = features(train, len(cohort.vocabulary)), train.label.astype(float)
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ y)  # ridge regression
    unseen = [cohort.split("valid"), cohort.split("test")]
    score = np.concatenate([features(split, len(cohort.vocabulary)) @ weights for split in unseen])
    assert 0.75 < auroc(score, np.concatenate([split.label for split in unseen])) < 0.9
    assert cohort.variables.given is None


def test_equal_seeds_write_equal_data(tmp_path):
    hashes = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        data = write_synthetic(tmp_path / name, n_stays=20, seed=seed, embedding_width=3)
        hashes.append(open_or_compile(data, cache_root=tmp_path / "cache").content_hash)
    assert hashes[0] == hashes[1] != hashes[2]
    with pytest.raises(InputError, match="exists already"):
        write_synthetic(tmp_path / "a")


def test_a_full_disk_is_one_error(tmp_path, monkeypatch):
    def full(folder: Path, stay_id: int, events: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(synthetic, "write_stay", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        write_synthetic(tmp_path / "out", n_stays=5)
