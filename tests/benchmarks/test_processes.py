"""What benchmarks.processes computes of an epoch and of runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import processes
from seqsetvae.cohort import Cohort
from tests import tiny


def test_dealing_out_is_more_even_than_whole_batches() -> None:
    rng = np.random.default_rng(0)
    stays = [tiny.random_stay(rng, [1] * n_events) for n_events in range(1, 65)]
    figure = processes.imbalance(tiny.split_of(stays), 2, 4)
    assert figure.baseline is not None
    assert 1 <= figure.value < 1.05 < figure.baseline


def test_cpu_time_is_that_of_the_further_epochs(compiled: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 stays; starting takes 7 s, an epoch 2 s for one process and 3 s for two."""

    def train(cohort: Path, devices: int, epochs: int, batch_size: int) -> processes.Trained:
        return processes.Trained(100.0 * devices, 7 + epochs * (1 + devices))

    monkeypatch.setattr(processes, "train", train)
    speed, cost = processes.scaling(compiled.path, 8, 3)
    assert (speed.value, speed.baseline, speed.ratio) == (200, 100, 2)
    assert (cost.value, cost.baseline) == (pytest.approx(50), pytest.approx(1000 * 2 / 60))


@pytest.mark.slow
def test_a_run_is_measured(compiled: Cohort) -> None:
    trained = processes.train(compiled.path, 2, 1, 8)
    assert trained.stays_per_second > 0
    assert trained.cpu_seconds > 0
