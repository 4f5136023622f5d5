"""Data that differ from the training data are noticed, and those that do not are not."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seqsetvae.cohort.profile import Profile, Window
from seqsetvae.cohort.variables import Variables
from seqsetvae.evaluation.drift import FEWEST_STAYS, drift, not_compared

KNOWN = np.array([True, True, True])


def _cohort(stays: int = 30, shift: float = 0.0, span: float = 48 * 60, unknown: dict[str, int] | None = None) -> Any:
    """Stays of 8 sets with one event each, of the variables a, b and c in turn; b is `shift` stds away."""
    rng = np.random.default_rng(0)
    n_sets = 8 * stays
    variable = np.arange(n_sets) % 3
    mean, std = np.array([10.0, 20.0, 30.0]), np.array([1.0, 2.0, 3.0])
    split = SimpleNamespace(
        variable=variable.astype(np.int32),
        value=mean[variable] + std[variable] * (rng.normal(size=n_sets) + shift * (variable == 1)),
        set_offset=np.arange(n_sets + 1),
        minute=np.tile(np.linspace(0, span, 8), stays),
        stay_offset=8 * np.arange(stays + 1),
        n_events=n_sets,
        n_stays=stays,
        prediction_minute=np.full(stays, np.nan),
    )
    return SimpleNamespace(
        vocabulary=("a", "b", "c"),
        splits={"test": split},
        mean=mean,
        std=std,
        variables=Variables(("a", "b", "c"), mean, std),
        split=lambda name: split,
        manifest={"report": {"unknown_variables": {"test": unknown} if unknown else {}}},
    )


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_the_training_data_do_not_differ_from_themselves(compiled, split):
    assert drift(compiled, [split], np.ones(len(compiled.vocabulary), dtype=bool), ()) == []


def test_a_variable_far_from_its_training_mean_is_named_with_both_means():
    (found,) = drift(_cohort(shift=-4), ["test"], KNOWN, ())
    assert "The mean of 1 variable is far from that of training; another unit? 'b': mean 11.872 instead of 20" in found
    assert drift(_cohort(shift=0.5), ["test"], KNOWN, ()) == []


def test_values_that_the_model_does_not_read_may_be_anything():
    assert drift(_cohort(shift=9), ["test"], KNOWN, ("b",)) == []


def test_few_stays_are_not_judged():
    assert drift(_cohort(stays=FEWEST_STAYS - 1, shift=9, span=48), ["test"], KNOWN, ()) == []
    assert len(drift(_cohort(stays=FEWEST_STAYS, shift=9, span=48), ["test"], KNOWN, ())) == 2


@pytest.mark.parametrize(("span", "unit"), [(48, "hours"), (48 * 3600, "seconds")])
def test_minutes_in_another_unit_are_noticed(span, unit):
    (found,) = drift(_cohort(span=span), ["test"], KNOWN, ())
    assert f"is `minute` in {unit}?" in found


def test_the_length_is_compared_with_that_of_the_training_stays():
    """Stays of 2 hours are no fault where all of them are so short, nor are stays of 2 months."""
    short, long = _cohort(span=120), _cohort(span=60 * 24 * 60)
    assert "is `minute` in hours?" in drift(short, ["test"], KNOWN, ())[0]
    assert drift(short, ["test"], KNOWN, (), training_hours=2.5) == []
    assert drift(long, ["test"], KNOWN, (), training_hours=900.0) == []
    (found,) = drift(_cohort(span=48), ["test"], KNOWN, (), training_hours=48.0)
    assert found.startswith("The median stay is 0.8 hours long instead of 48 as in training: is `minute` in hours?")
    (found,) = drift(_cohort(), ["test"], KNOWN, (), training_hours=0.8)
    assert "instead of 0.8 as in training: is `minute` in seconds?" in found


def test_unknown_variables_are_counted_whether_they_are_in_the_cohort_or_left_out():
    (in_cohort,) = drift(_cohort(), ["test"], np.array([True, True, False]), ())
    assert in_cohort.startswith("33.3% of the events are of 1 variable that the training data did not have: 'c'")
    (left_out,) = drift(_cohort(unknown={"x": 70, "y": 10}), ["test"], KNOWN, ())
    assert left_out.startswith("25.0% of the events are of 2 variables")
    assert "'x' (70 events); 'y' (10 events)" in left_out
    assert drift(_cohort(unknown={"x": 2}), ["test"], KNOWN, ()) == []  # below 1 %
    assert drift(_cohort(unknown={"x": 70}), ["valid"], KNOWN, ()) == []  # in another split


# ------------------------------------------------------------------ variables that are missing


def _training(variables: dict[str, tuple[int, int]], window: Window | None = None) -> Profile:
    """A training split of 600 stays of which `variables` are (events, stays)."""
    return Profile(window or Window(600, 0.0, None, None), variables)


USUAL_THREE = dict.fromkeys("abc", (9600, 600))


def _missing(variables: dict[str, tuple[int, int]], stays: int = 30) -> list[str]:
    return drift(_cohort(stays), ["test"], KNOWN, (), profile=_training(variables))


def test_variables_of_the_training_that_are_missing_are_named_by_their_share_of_the_events():
    many = USUAL_THREE | {f"v{n}": (19200, 580) for n in range(73)}
    (found,) = _missing(many)
    assert found.startswith("73 variables of 76 of the training data, with 98.0% of the training events, are missing")
    assert "'v0' (in 97% of the training stays, 1.3% of the events; here in 0 of 30 stays)" in found
    assert "and 68 more" in found
    assert _missing(USUAL_THREE) == []


def test_one_frequent_vital_sign_is_enough():
    (found,) = _missing(USUAL_THREE | {"heart rate": (9000, 599)})
    assert found.startswith("1 variable of 4 of the training data, with 23.8% of the training events, are missing")
    (found,) = _missing(USUAL_THREE | {"age": (600, 600), **{f"v{n}": (96_000, 3) for n in range(3)}})
    assert "'age' (in 100% of the training stays, 0.2% of the events; here in 0 of 30 stays)" in found


def test_an_absence_that_chance_explains_is_none():
    """Rare variables, however many their events, and levels of which another occurs."""
    assert _missing(USUAL_THREE | {"ECMO flow": (50_000, 6)}) == []
    levels = {"a": (9600, 600), "b": (9600, 600), "c=x": (300, 300), "c": (300, 300)}
    assert _missing(levels) == []


def test_a_variable_that_hardly_any_stay_has_counts_as_missing():
    cohort = _cohort(stays=200)
    split = cohort.split("test")
    lost = (split.variable == 2) & (np.arange(len(split.variable)) >= 40)
    split.variable[lost], split.value[lost] = 0, 10
    (found,) = drift(cohort, ["test"], KNOWN, (), profile=_training(USUAL_THREE))
    assert "'c' (in 100% of the training stays, 33.3% of the events; here in 5 of 200 stays)" in found


@pytest.mark.parametrize("stays", [1, 3, 9])
def test_a_few_stays_lack_much_or_nothing(stays):
    assert _missing(USUAL_THREE | {f"v{n}": (3000, 300) for n in range(5)}, stays) == []
    (found,) = _missing(USUAL_THREE | {f"v{n}": (19200, 500) for n in range(73)}, stays)
    assert found.startswith("73 variables of 76")


# ------------------------------------------------------------------ another window


def _window(here: Any, training: Any, stays: int = 30, span: float = 48 * 60) -> list[str]:
    """Findings for stays with prediction times `here`, of training stays with those of `training` (hours)."""
    cohorts = [_cohort(stays, span=span), _cohort(30)]
    for cohort, hours in zip(cohorts, (here, training), strict=True):
        split = cohort.split("test")
        split.prediction_minute[:] = 60 * np.resize(np.asarray(hours, dtype=float), split.n_stays)
    profile = Profile.from_cohort(cohorts[1])
    return drift(cohorts[0], ["test"], KNOWN, (), 48.0, profile)


WHOLE = float("nan")


@pytest.mark.parametrize("stays", [1, 30])
@pytest.mark.parametrize(
    ("here", "training", "said"),
    [
        (WHOLE, 24, "Trained on the first 24 h of each stay; these stays: whole stays"),
        (24, WHOLE, "these stays: the first 24 h of each stay"),
        (12, 24, "Trained on the first 24 h of each stay; these stays: the first 12 h of each stay"),
        (26, 24, "these stays: the first 26 h of each stay"),
        (500, [5, 10, 20], "Trained on events before prediction times, at hour 10 (90 % between 5 and 20)"),
    ],
)
def test_another_window_is_said(stays, here, training, said):
    (found,) = _window(here, training, stays)
    assert found.startswith("Another window than in training.")
    assert said in found


@pytest.mark.parametrize(
    ("here", "training"), [(24, 24), (WHOLE, WHOLE), ([6, 9, 22], [5, 10, 20]), (12, [5, 10, 20]), ([23, 24, 25], 24)]
)
def test_the_same_window_is_not(here, training):
    assert _window(here, training) == []


def test_stays_that_were_cut_by_hand_are_another_window_than_whole_ones():
    """Without prediction times the window shows in the lengths of the stays."""
    (found,) = _window(WHOLE, WHOLE, span=60 * 60)
    assert "Trained on whole stays, which seem to be cut after 48 h" in found
    assert _window(WHOLE, WHOLE, stays=FEWEST_STAYS - 1, span=60 * 60) == []
    uncut = _training(USUAL_THREE)
    assert len(drift(_cohort(), ["test"], KNOWN, (), 90.0, uncut)) == 1  # cut after 48 h, and half lasted 90 h
    assert drift(_cohort(), ["test"], KNOWN, (), 40.0, uncut) == []


def test_what_an_older_checkpoint_does_not_record_is_said_and_no_alarm():
    cohort = _cohort()
    assert drift(cohort, ["test"], KNOWN, ()) == []
    (line,) = not_compared(cohort, ["test"], ["a", "b", "x"], None)
    assert "does not record how often each variable occurred in training" in line
    assert "1 of its 3 variables do not occur here; these stays: whole stays" in line
    assert not_compared(cohort, ["test"], ["a", "b", "x"], _training(USUAL_THREE)) == []


def test_a_profile_reads_back_and_a_damaged_one_is_refused():
    profile = _training(USUAL_THREE, Window(600, 0.5, (1.0, 2.0, 3.0), None))
    plain = profile.as_plain()
    assert Profile.from_plain(plain) == profile
    for name, value in (("at", [1, 2]), ("predicted", 2), ("variables", {"a": [5, 6]}), ("cut", float("nan"))):
        with pytest.raises(ValueError, match="no stays can have"):
            Profile.from_plain(plain | {name: value})


def test_blocks_do_not_change_the_findings(monkeypatch):
    whole = drift(_cohort(shift=3), ["test"], KNOWN, ())
    monkeypatch.setattr("seqsetvae.cohort.format.EVENTS_PER_BLOCK", 20)
    assert drift(_cohort(shift=3), ["test"], KNOWN, ()) == whole
