"""Data that differ from the training data are noticed, and those that do not are not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seqsetvae.cohort import Cohort
from seqsetvae.evaluation import drift as module
from seqsetvae.evaluation.drift import FEWEST_STAYS, drift

KNOWN = np.array([True, True, True])


def _cohort(stays: int = 30, shift: float = 0.0, span: float = 48 * 60, unknown: dict[str, int] | None = None) -> Any:
    """Stays of 8 sets with one event each, of the variables a, b and c in turn; `shift` moves the z-scores of b."""
    rng = np.random.default_rng(0)
    n_sets = 8 * stays
    variable = np.arange(n_sets) % 3
    split = SimpleNamespace(
        variable=variable.astype(np.int32),
        value=rng.normal(size=n_sets) + shift * (variable == 1),
        set_offset=np.arange(n_sets + 1),
        minute=np.tile(np.linspace(0, span, 8), stays),
        stay_offset=8 * np.arange(stays + 1),
        n_events=n_sets,
    )
    return SimpleNamespace(
        vocabulary=("a", "b", "c"),
        mean=np.array([10.0, 20.0, 30.0]),
        std=np.array([1.0, 2.0, 3.0]),
        split=lambda name: split,
        manifest={"report": {"unknown_variables": {"test": unknown} if unknown else {}}},
    )


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_the_training_data_do_not_differ_from_themselves(compiled: Cohort, split: str) -> None:
    assert drift(compiled, [split], np.ones(len(compiled.vocabulary), dtype=bool), ()) == []


def test_a_variable_far_from_its_training_mean_is_named_with_both_means() -> None:
    (found,) = drift(_cohort(shift=-4), ["test"], KNOWN, ())
    assert "The mean of 1 variable is far from that of training; another unit? 'b': mean 11.872 instead of 20" in found
    assert drift(_cohort(shift=0.5), ["test"], KNOWN, ()) == []


def test_values_that_the_model_does_not_read_may_be_anything() -> None:
    assert drift(_cohort(shift=9), ["test"], KNOWN, ("b",)) == []


def test_few_stays_are_not_judged() -> None:
    assert drift(_cohort(stays=FEWEST_STAYS - 1, shift=9, span=48), ["test"], KNOWN, ()) == []
    assert len(drift(_cohort(stays=FEWEST_STAYS, shift=9, span=48), ["test"], KNOWN, ())) == 2


@pytest.mark.parametrize(("span", "unit"), [(48, "hours"), (48 * 3600, "seconds")])
def test_minutes_in_another_unit_are_noticed(span: float, unit: str) -> None:
    (found,) = drift(_cohort(span=span), ["test"], KNOWN, ())
    assert f"is `minute` in {unit}?" in found


def test_the_length_is_compared_with_that_of_the_training_stays() -> None:
    """Stays of 2 hours are no fault where all of them are so short, nor are stays of 2 months."""
    short, long = _cohort(span=120), _cohort(span=60 * 24 * 60)
    assert "is `minute` in hours?" in drift(short, ["test"], KNOWN, ())[0]
    assert drift(short, ["test"], KNOWN, (), training_hours=2.5) == []
    assert drift(long, ["test"], KNOWN, (), training_hours=900.0) == []
    (found,) = drift(_cohort(span=48), ["test"], KNOWN, (), training_hours=48.0)
    assert found.startswith("The median stay is 0.8 hours long instead of 48 as in training: is `minute` in hours?")
    (found,) = drift(_cohort(), ["test"], KNOWN, (), training_hours=0.8)
    assert "instead of 0.8 as in training: is `minute` in seconds?" in found


def test_unknown_variables_are_counted_whether_they_are_in_the_cohort_or_left_out() -> None:
    (in_cohort,) = drift(_cohort(), ["test"], np.array([True, True, False]), ())
    assert in_cohort.startswith("33.3% of the events are of 1 variable that the training data did not have: 'c'")
    (left_out,) = drift(_cohort(unknown={"x": 70, "y": 10}), ["test"], KNOWN, ())
    assert left_out.startswith("25.0% of the events are of 2 variables")
    assert "'x' (70 events); 'y' (10 events)" in left_out
    assert drift(_cohort(unknown={"x": 2}), ["test"], KNOWN, ()) == []  # below 1 %
    assert drift(_cohort(unknown={"x": 70}), ["valid"], KNOWN, ()) == []  # in another split


def test_blocks_do_not_change_the_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drift(_cohort(shift=3), ["test"], KNOWN, ())
    monkeypatch.setattr(module, "EVENTS_PER_BLOCK", 20)
    assert drift(_cohort(shift=3), ["test"], KNOWN, ()) == whole
