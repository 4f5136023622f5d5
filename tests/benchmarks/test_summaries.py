"""The benchmark of variable_summaries: both ways get the same stays, and every vocabulary is trained."""

from __future__ import annotations

import pytest
from torch.utils.flop_counter import FlopCounterMode

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
    figures = summaries.training_step(n_variables, 8)
    for figure in figures:
        assert f"{n_variables} variables" in figure.what
        assert figure.value > 0
    for figure in figures[1:]:
        assert figure.baseline is not None
        assert figure.ratio == pytest.approx(figure.value / figure.baseline)


def test_the_products_of_a_step_are_those_of_its_pairs_and_of_the_head() -> None:
    """Forward pass and gradient of the weight, and in the head the gradient of its input too."""
    batch = summaries.synthetic_batch(44, 4)
    module, step = summaries._module_and_step(44, batch)
    prepared = module.backbone.summaries(batch, module.embeddings)
    with FlopCounterMode(display=False) as counter:
        step(batch)
    pairs = 4 * len(prepared.variable) * 70 * 256
    combinations = 4 * 4 * module.backbone.combination_weight.numel()
    assert summaries.plain_products(len(prepared.variable), (70, 256))[1] == pairs
    of_head = counter.get_total_flops() - pairs - combinations
    shared = 6 * 4 * 16 * 256 * 256
    assert shared <= of_head < 1.1 * shared


def test_stays_have_as_many_variables_whatever_the_vocabulary() -> None:
    for n_variables in (44, 500):
        batch = summaries.synthetic_batch(n_variables, 4)
        assert batch.n_stays == 4
        assert batch.variable.unique().numel() <= 4 * summaries.VARIABLES_PER_STAY
