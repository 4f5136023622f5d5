"""The benchmark sections run, on a few synthetic stays and in this process, so that they cannot rot."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import data, growth, measure
from benchmarks.__main__ import SECTIONS, table
from seqsetvae.cohort import Cohort
from seqsetvae.system import memory
from tests.benchmarks.turns import in_this_process


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for section in (data, growth):
        monkeypatch.setattr(section, "isolated", lambda benchmark, *arguments: benchmark(*arguments))
    monkeypatch.setattr(growth, "apart", in_this_process)


def test_data_runs_on_a_compiled_cohort(compiled: Cohort, tmp_path: Path) -> None:
    figures = data.section(compiled.path, tmp_path, n_stays=12, n_read=8)
    assert len(figures) == 9
    assert all(figure.value >= 0 for figure in figures)
    assert all(figure.note.startswith("synthetic stays") for figure in figures)  # as the manifest says, not the flag
    assert [figure.wanted for figure in figures if figure.wanted] == [50, 50]
    assert (tmp_path / "compiled" / "manifest.json").is_file()


@pytest.mark.skipif(not memory.STATUS.exists(), reason="a process's own memory is read from /proc")
def test_growth_compares_sizes_and_says_that_stays_are_synthetic(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(growth, "ENOUGH", 500)
    figures = {figure.what: figure for figure in growth.section(None, tmp_path, sizes=(600, 300))}
    assert figures["compile 600 stays"].value > 0
    compared = figures["load an epoch of 600 stays"]
    assert compared.baseline == figures["load an epoch of 300 stays"].value
    assert compared.ratio == pytest.approx(compared.value / compared.baseline)
    assert all(figure.note.startswith("synthetic") for figure in figures.values())
    assert list(tmp_path.iterdir()) == []  # cohorts of a million stays do not pile up
    assert "own memory to compile each further stay" in table("growth", list(figures.values()))


def test_a_time_is_that_of_all_the_stays_it_was_taken_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(growth, "apart", lambda builds, repeats: [measure.Timed(2.0, 1.0) for _ in builds])
    figures = growth._speeds("compile", growth.compile_again, (growth.ENOUGH // 10, growth.ENOUGH * 2), tmp_path)
    assert [figure.value for figure in figures] == [growth.ENOUGH / 2, growth.ENOUGH]


def test_sections_are_registered() -> None:
    assert {"data", "growth"} <= SECTIONS.keys()
