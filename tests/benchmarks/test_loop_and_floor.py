"""The benchmarks of the model run, on a tiny one. No figure is checked: machines differ."""

from __future__ import annotations

import pytest

from benchmarks import floor, loop
from benchmarks.works import WORKS
from seqsetvae.cohort import Cohort
from tests.tiny import SIZES


@pytest.mark.parametrize("what", WORKS)
def test_both_ways_are_timed_on_the_same_stays(compiled: Cohort, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "REPEATS", 1)
    (figure,) = loop.against_loop(what, compiled.path, SIZES, 1)
    assert figure.baseline is not None
    assert figure.ratio == pytest.approx(figure.value / figure.baseline)
    assert figure.wanted == loop.WANTED[what]


def test_a_loop_that_computes_something_else_is_noticed(compiled: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CLOSE", 0.0)
    with pytest.raises(AssertionError, match="differ"):
        loop.against_loop("frozen forward", compiled.path, SIZES, 1)


@pytest.mark.parametrize("what", WORKS)
def test_the_share_is_of_the_products_that_a_batch_needs(
    compiled: Cohort, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "REPEATS", 1)
    (figure,) = floor.share_of_rate(what, compiled.path, SIZES, 1)
    assert figure.baseline is not None
    assert figure.ratio == pytest.approx(figure.value / figure.baseline)
