"""benchmarks.repeat prints a row for each training, so that it cannot rot."""

from __future__ import annotations

import pytest

from benchmarks.repeat import HEADER, one_training
from seqsetvae.cohort import Cohort
from seqsetvae.system.memory import STATUS


@pytest.mark.skipif(not STATUS.exists(), reason="a process's own memory is read from /proc")
def test_a_training_gives_a_row_of_the_table(compiled: Cohort) -> None:
    row = one_training(7, compiled.path, ["--preset", "small", "--batch_size", "8", "--num_workers", "0"])
    assert row.count("|") == HEADER.count("|")
    number, seconds, peak, before, after, *counts = (
        cell.strip().replace(",", "") for cell in row.strip("|").split("|")
    )
    assert int(number) == 7
    assert all(float(figure) > 0 for figure in (seconds, peak, before, after))
    assert all(int(count) >= 0 for count in counts)
