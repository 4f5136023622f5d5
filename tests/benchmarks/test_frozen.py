"""The benchmark of the frozen stage runs, and says what it measured. No figure is checked: machines differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import frozen
from benchmarks.__main__ import SECTIONS, table
from tests import tiny


def test_the_section_runs_on_a_tiny_synthetic_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "PRACTICE", tiny.SIZES)
    monkeypatch.setattr(frozen, "SYNTHETIC_STAYS", 50)
    monkeypatch.setattr(frozen, "EPOCHS", 2)
    monkeypatch.setattr(frozen, "isolated", lambda work, *arguments: work(*arguments))  # starting processes is slow
    figures = frozen.section(None, tmp_path)
    assert [figure.what for figure in figures] == [
        "frozen run, 2 epochs, features computed",
        "frozen run, 2 epochs, features found in the cache",
        "epoch of the head, validation included",
        "frozen run, backbone in every step",
    ]
    assert all("synthetic" in figure.note and figure.value > 0 for figure in figures)
    for run in figures[:2]:
        assert run.baseline == figures[3].value
        assert run.ratio == pytest.approx(figures[3].value / run.value)
    assert "40 stays" in figures[2].note
    assert "one epoch measured, × 2" in figures[3].note
    assert "≥ 15" in table(SECTIONS["frozen"][0], figures)
