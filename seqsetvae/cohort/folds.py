"""Cross-validation: cohorts in memory whose splits are folds of the labelled stays of another cohort."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort, Split, join_ranges
from seqsetvae.cohort.variables import TRAIN_SPLIT
from seqsetvae.system.errors import InputError

OF_STAYS = ("stay_id", "subject_id", "prediction_minute", "label")  # the arrays with an entry for each stay
POOLED = ("train", "valid")  # the test split is never part of a fold


class GatheredSplit(Split):
    """A split in memory, of stays gathered from splits of a cohort."""

    def __init__(self, name: str, arrays: dict[str, NDArray[Any]]) -> None:
        """`arrays` as in `cohort.format.ARRAYS`."""
        self.name, self._arrays = name, arrays
        for array, values in arrays.items():
            setattr(self, array, values)

    def __reduce__(self) -> tuple[Any, ...]:
        return GatheredSplit, (self.name, self._arrays)


def gather(name: str, sources: list[tuple[Split, NDArray[np.int64]]]) -> GatheredSplit:
    """The stays at these positions of each source, in this order, as one split."""
    parts: list[dict[str, NDArray[Any]]] = []
    for split, stays in sources:
        first, end = split.stay_offset[stays], split.stay_offset[stays + 1]
        first_event = split.set_offset[first]
        sets, events = join_ranges(first, end - first), join_ranges(first_event, split.set_offset[end] - first_event)
        part: dict[str, NDArray[Any]] = {
            "variable": split.variable[events],
            "value": split.value[events],
            "set_offset": split.set_offset[sets + 1] - split.set_offset[sets],
            "minute": split.minute[sets],
            "stay_offset": end - first,
        }
        parts.append(part | {array: getattr(split, array)[stays] for array in OF_STAYS})
    arrays = {array: np.concatenate([part[array] for part in parts]) for array in parts[0]}
    for offsets in ("set_offset", "stay_offset"):  # sizes → offsets
        arrays[offsets] = np.concatenate([[0], np.cumsum(arrays[offsets])])
    return GatheredSplit(name, arrays)


def unused_stays(cohort: Cohort) -> list[str]:
    """Stays of the cohort that cross-validation does not use, a sentence for each reason."""
    lines = []
    if "test" in cohort.splits:
        stays, labelled = (cohort.manifest["splits"]["test"][key] for key in ("stays", "labelled"))
        lines.append(
            f"The test split ({stays:,} stays, {labelled:,} with a label) is in no fold and was not used: folds are "
            "made of the train and valid splits. To use all stays, compile the data without a test split."
        )
    unlabelled = sum(int((cohort.splits[name].label < 0).sum()) for name in POOLED if name in cohort.splits)
    if unlabelled:
        lines.append(f"{unlabelled:,} stays of the train and valid splits have no label and are in no fold.")
    return lines


def folds(
    cohort: Cohort, n_folds: int, seed: int, train_fraction: float = 1.0, *, has_classes: bool = True
) -> Iterator[Cohort]:
    """Yield for each fold a cohort whose valid split is the fold and whose train split is all other labelled stays.

    With one fold, these are the labelled stays of the cohort's own valid and train splits.

    Stratified by label if it `has_classes` (else 0 only says that there is a label), and all stays of a subject are in
    one fold. Stays are taken in the order of their ids as text, so that the partition depends on nothing but the stays
    and the seed. With a `train_fraction` below 1, a random part
    of the training patients is kept with their stays, of each class alike. Mean and std of the variables are those of
    the fold's training stays, unless they are given (a stats.csv, a checkpoint).

    Raises:
        InputError: a class has fewer stays or patients than there are folds, a fold has one class alone, the one fold
            is no split of the cohort, or the part of the training stays is too small.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    splits = [cohort.split(name) for name in POOLED if name in cohort.splits]
    source = np.concatenate([np.full(split.n_stays, at) for at, split in enumerate(splits)])
    position = np.concatenate([np.arange(split.n_stays) for split in splits])
    label = np.concatenate([split.label for split in splits])
    order = np.argsort(np.concatenate([split.stay_id for split in splits]).astype(str), kind="stable")
    order = order[label[order] >= 0]
    subject = np.concatenate([split.subject_id for split in splits])[order]
    several = len(np.unique(subject)) < len(subject)
    classes = (0, 1) if has_classes else (0,)
    least = min(len(np.unique(subject[label[order] == value])) for value in classes)
    if least < n_folds:
        raise InputError(
            f"folds: received {n_folds}; {cohort.path} has only {least} labelled training and validation "
            f"{'patients' if several else 'stays'}{' of one class' * has_classes} of {cohort.label_name}, and each "
            "fold needs one"
        )

    def of(name: str, chosen: NDArray[np.int64]) -> GatheredSplit:
        return gather(name, [(split, position[chosen[source[chosen] == at]]) for at, split in enumerate(splits)])

    if n_folds == 1:
        is_held_out = source[order] == splits.index(cohort.split("valid"))
        parts = [(np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out))]
    else:
        partition = (StratifiedGroupKFold if several else StratifiedKFold)(n_folds, shuffle=True, random_state=seed)
        parts = list(partition.split(order, label[order], subject if several else None))
        if any(
            len(np.unique(label[order[part]])) < len(classes) for both in parts for part in both
        ):  # patients differ in stays
            raise InputError(
                f"folds: received {n_folds}; in this partition of the patients of {cohort.path} a fold has stays of "
                f"one class of {cohort.label_name} alone. Pass fewer folds, or another partition_seed."
            )
    for inside, outside in parts:
        if train_fraction < 1:
            inside = random_part(inside, label[order[inside]], subject[inside], train_fraction, seed)
        train, held_out = of("train", order[inside]), of("valid", order[outside])
        key = hashlib.sha256(train.stay_id.tobytes() + b"valid" + held_out.stay_id.tobytes()).hexdigest()
        # Another content hash: cached features of one fold must never be taken for those of another.
        manifest = cohort.manifest | {"checksums": cohort.manifest["checksums"] | {"fold": key}}
        fold = replace(cohort, manifest=manifest, splits={"train": train, "valid": held_out})
        yield fold.with_own_statistics() if cohort.variables.statistics == TRAIN_SPLIT else fold


def random_part(
    stays: NDArray[np.int64], label: NDArray[Any], subject: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.int64]:
    """A random part of the patients with all of their stays, of those with a positive stay and of the others alike.

    `subject` is the patient of each stay. Raises InputError if a class would have none.
    """
    from sklearn.model_selection import train_test_split

    _, first, patient = np.unique(subject, return_index=True, return_inverse=True)
    order = np.argsort(first)  # patients in the order of their first stays, so that single stays keep their order
    has_positive = np.zeros(len(first), dtype=label.dtype)
    np.maximum.at(has_positive, patient, label)
    least = int(np.unique(has_positive, return_counts=True)[1].min())
    if least * fraction < 1:
        of = "patients" if len(first) < len(stays) else "stays"
        raise InputError(
            f"train_fraction: received {fraction:g}; a fold has {len(first):,} training {of}, {least:,} of the rarer "
            "class, of which none would be left"
        )
    drawn, _ = train_test_split(order, train_size=fraction, stratify=has_positive[order], random_state=seed)
    rank = np.full(len(first), len(first))
    rank[drawn] = np.arange(len(drawn))
    part = np.argsort(rank[patient], kind="stable")  # stays in the order in which their patients were drawn
    return stays[part[: np.isin(patient, drawn).sum()]]
