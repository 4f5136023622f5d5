"""The benchmark sections run, on a few synthetic stays and in this process, so that they cannot rot."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import data
from seqsetvae.cohort import Cohort


def test_data_runs_on_a_compiled_cohort(compiled: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "isolated", lambda benchmark, *arguments: benchmark(*arguments))
    figures = data.section(compiled.path, tmp_path, n_stays=12, n_read=8)
    assert len(figures) == 9
    assert all(figure.value >= 0 for figure in figures)
    assert all(figure.note.startswith("synthetic stays") for figure in figures)  # as the manifest says, not the flag
    assert [figure.wanted for figure in figures if figure.wanted] == [50, 50]
    assert (tmp_path / "compiled" / "manifest.json").is_file()
