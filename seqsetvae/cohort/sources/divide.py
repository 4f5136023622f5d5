"""Dividing the subjects of a source over the splits at random."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from seqsetvae.cohort.sidefiles import Labels
from seqsetvae.cohort.tidy import SPLITS, Stay
from seqsetvae.errors import InputError


def divide(stays: Iterable[Stay], labels: Labels, fractions: Sequence[float], seed: int) -> dict[str, list[Stay]]:
    """Subjects with a positive stay, with negative ones alone, and unlabelled ones, each by the same fractions.

    All stays of a subject are in one split. The result does not depend on the order of the stays.
    """
    stays_of: dict[int, list[Stay]] = {}
    for stay in sorted(stays):
        stays_of.setdefault(stay.subject, []).append(stay)
    highest = {subject: max(labels.get(stay.stay_id, -1) for stay in own) for subject, own in stays_of.items()}
    rng = np.random.default_rng(seed)
    splits: dict[str, list[Stay]] = {split: [] for split in SPLITS}
    for label in (0, 1, -1):
        subjects = [subject for subject in stays_of if highest[subject] == label]
        shuffled = [subjects[i] for i in rng.permutation(len(subjects))]
        ends = np.rint(np.cumsum(fractions) * len(subjects)).astype(int)
        for split, start, end in zip(SPLITS, [0, *ends[:-1]], ends, strict=True):
            splits[split] += [stay for subject in shuffled[start:end] for stay in stays_of[subject]]
    return splits


def choose_fractions(fractions: Sequence[float] | None, given_sets: Collection[str]) -> Sequence[float]:
    """The fractions to divide by: 0 for the splits to which whole sets are given; at least one split has none.

    Raises:
        InputError: not three shares that sum to 1, or a share for a split that has whole sets.
    """
    if fractions is None:
        usual = (0.8, 0.2, 0.0) if "test" in given_sets else (0.7, 0.15, 0.15)
        left = [0.0 if split in given_sets else share for split, share in zip(SPLITS, usual, strict=True)]
        return [share / sum(left) for share in left]
    given = " ".join(f"{fraction:g}" for fraction in fractions)
    if len(fractions) != 3 or min(fractions) < 0 or not abs(sum(fractions) - 1) < 1e-9:
        raise InputError(f"--fractions {given}: needs three shares (train, valid, test), none negative, that sum to 1.")
    for split, share in zip(SPLITS, fractions, strict=True):
        if split in given_sets and share > 0:
            raise InputError(
                f"--fractions {given}: {share:g} is for {split}, which has whole sets (--{split}_sets). "
                f"Give {split} the share 0, or no whole sets."
            )
    return fractions
