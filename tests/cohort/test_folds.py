"""Folds: each labelled stay is held out once, and a fold's stays are those of the cohort, event for event."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from seqsetvae.batches.loading import collate
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.folds import folds, gather, random_part, unused_stays
from seqsetvae.system.errors import InputError


def _pooled(cohort: Cohort) -> set[int]:
    return {stay for name in ("train", "valid") for stay in cohort.split(name).stay_id.tolist()}


def test_each_stay_is_held_out_once_and_the_test_split_never_appears(compiled):
    held_out: list[int] = []
    for fold in folds(compiled, 4, seed=1):
        valid, train = (fold.split(name).stay_id.tolist() for name in ("valid", "train"))
        assert set(valid) | set(train) == _pooled(compiled)
        assert not set(valid) & set(train)
        assert set(fold.splits) == {"train", "valid"}
        held_out += valid
    assert sorted(held_out) == sorted(_pooled(compiled))


def test_stays_that_are_in_no_fold_are_counted(compiled):
    (line,) = unused_stays(compiled)
    stays = compiled.split("test").n_stays
    assert line.startswith(f"The test split ({stays} stays, {stays} with a label) is in no fold and was not used")
    assert unused_stays(replace(compiled, splits={name: compiled.split(name) for name in ("train", "valid")})) == []


def test_folds_are_stratified_and_depend_on_the_seed_alone(compiled):
    rates = [fold.split("valid").label.mean() for fold in folds(compiled, 4, seed=1)]
    assert max(rates) - min(rates) <= 1 / 20  # one stay
    one, again, other = ([f.split("valid").stay_id.tolist() for f in folds(compiled, 4, seed)] for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_gathered_stays_have_the_same_events(compiled):
    train, valid = compiled.split("train"), compiled.split("valid")
    taken = gather("valid", [(train, np.array([5, 2])), (valid, np.array([0]))])
    batch = collate(taken, np.arange(3))
    for row, (split, position) in enumerate([(train, 5), (train, 2), (valid, 0)]):
        expected, found = collate(split, np.array([position])), collate(taken, np.array([row]))
        for name in ("variable", "value", "minute", "label", "stay_id", "sets_per_stay"):
            assert np.array_equal(getattr(expected, name), getattr(found, name)), name
        assert int(batch.stay_id[row]) == int(split.stay_id[position])
    copy = pickle.loads(pickle.dumps(taken))  # as for a worker process
    assert np.array_equal(copy.value, taken.value)


def test_a_fold_has_a_content_hash_of_its_own(compiled):
    """Cached features of one fold must never be taken for those of another."""
    hashes = {fold.content_hash for fold in folds(compiled, 4, seed=1)}
    assert len(hashes | {compiled.content_hash}) == 5
    part = next(folds(compiled, 4, seed=1, train_fraction=0.5))  # the same held-out stays, and fewer training stays
    assert part.content_hash not in hashes


def test_a_part_of_the_training_stays_keeps_the_held_out_ones(compiled):
    whole, part = (next(folds(compiled, 4, 1, fraction)) for fraction in (1.0, 0.5))
    assert np.array_equal(whole.split("valid").stay_id, part.split("valid").stay_id)
    assert set(part.split("train").stay_id) < set(whole.split("train").stay_id)
    assert part.split("train").n_stays == whole.split("train").n_stays // 2
    assert part.split("train").label.mean() == pytest.approx(whole.split("train").label.mean(), abs=1 / 30)


def test_more_folds_than_stays_of_a_class_are_refused(compiled, tmp_path):
    with pytest.raises(InputError, match=r"folds: received 50; .* has only \d+ labelled"):
        next(folds(compiled, 50, seed=1))


def test_folds_need_as_many_patients_of_each_class(compiled):
    of_one = replace(compiled, splits={name: copy.copy(compiled.split(name)) for name in ("train", "valid")})
    for split in of_one.splits.values():
        split.subject_id = np.where(split.label == 1, -1, split.stay_id)
    with pytest.raises(InputError, match=r"folds: received 3; .* has only 1 labelled training and validation patients"):
        next(folds(of_one, 3, seed=1))


def test_a_part_without_a_stay_of_a_class_is_refused(compiled):
    with pytest.raises(InputError, match=r"train_fraction: received 0\.01; a fold has \d+ training stays"):
        next(folds(compiled, 2, 1, 0.01))


def test_all_stays_of_a_subject_are_in_one_fold(compiled):
    subjects = {name: compiled.split(name).stay_id // 3 for name in ("train", "valid")}
    several = replace(compiled, splits={name: copy.copy(compiled.split(name)) for name in subjects})
    for name, subject in subjects.items():
        several.split(name).subject_id = subject
    for fold in folds(several, 3, seed=1):
        inside, outside = (set(fold.split(name).subject_id.tolist()) for name in ("train", "valid"))
        assert outside
        assert not inside & outside


def test_of_single_stays_the_part_is_the_one_that_scikit_learn_draws():
    """Numbers of runs from before patients were drawn stay as they were."""
    stays, label = np.arange(100, 150), (np.arange(50) % 3 == 0).astype(np.int8)
    drawn, _ = train_test_split(stays, train_size=0.4, stratify=label, random_state=1)
    assert np.array_equal(random_part(stays, label, 1000 - stays, 0.4, 1), drawn)


def test_a_part_of_the_training_stays_is_one_of_whole_patients(compiled):
    several = replace(compiled, splits={name: copy.copy(compiled.split(name)) for name in ("train", "valid")})
    for split in several.splits.values():
        split.subject_id = split.stay_id // 3
    whole, part = (next(folds(several, 2, 1, fraction)).split("train") for fraction in (1.0, 0.5))
    drawn = set(part.subject_id.tolist())
    assert sorted(part.stay_id) == sorted(whole.stay_id[np.isin(whole.subject_id, list(drawn))])
    assert len(drawn) == len(set(whole.subject_id.tolist())) // 2
    assert set(part.label.tolist()) == {0, 1}
    with pytest.raises(InputError, match=r"train_fraction: received 0\.01; a fold has \d+ training patients"):
        next(folds(several, 2, 1, 0.01))
