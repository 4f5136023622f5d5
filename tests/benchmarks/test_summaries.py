"""The benchmark of variable_summaries: both ways get the same stays, and every vocabulary is trained."""

from __future__ import annotations

import pytest

from benchmarks import summaries
from seqsetvae.cohort import Cohort


def test_summaries_are_compared_with_the_plain_reference(compiled: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "REPEATS", 1)
    (figure,) = summaries.against_reference(compiled.path, 8)
    assert figure.baseline is not None
    assert figure.ratio == pytest.approx(figure.value / figure.baseline)


@pytest.mark.parametrize("n_variables", [44, 200])
def test_a_step_trains_any_size_of_the_vocabulary(n_variables: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "REPEATS", 1)
    (figure,) = summaries.training_step(n_variables, 8)
    assert f"{n_variables} variables" in figure.what
    assert figure.value > 0


def test_stays_have_as_many_variables_whatever_the_vocabulary() -> None:
    for n_variables in (44, 500):
        batch = summaries.synthetic_batch(n_variables, 4)
        assert batch.n_stays == 4
        assert batch.variable.unique().numel() <= 4 * summaries.VARIABLES_PER_STAY
