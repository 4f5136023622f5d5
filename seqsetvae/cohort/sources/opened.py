"""What a source hands to the compiler, the flags that sources share, and how subjects are divided over the splits.

Tables that a source wrote for itself are called in messages as the user calls them, who never sees them.
Letters: N stays.
"""

import argparse
import math
import re
from argparse import ArgumentParser
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.imported import SAID, Imported
from seqsetvae.cohort.sidefiles import Labels
from seqsetvae.cohort.tidy import SPLITS, Rows, Skip, Source, Stay, Stays
from seqsetvae.system.errors import InputError, counted


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Stays and labels of a source; the names are those of the arguments of compile_cohort."""

    source: Source
    label_name: str
    labels: Labels | None  # 0 or 1 by stay number
    imported: Imported | None = None  # what the cohort keeps beside its arrays
    beside: Mapping[str, Path] = field(default_factory=dict)  # files to copy into the cohort, by their names there


def add_common(parser: ArgumentParser) -> None:
    """OUT and the flags that every source has."""
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder for the compiled cohort")
    add_compile_flags(parser)


def add_compile_flags(parser: ArgumentParser) -> None:
    """The flags of a compilation that every source has."""
    parser.add_argument("--skip_bad", action="store_true", help="leave faulty files out, listed in OUT/skipped.csv")
    text = "events of a stay within H hours are one set, at the time of the last (default: events of one time)"
    parser.add_argument("--set_hours", type=_above_0, metavar="H", help=text)
    parser.add_argument("--jobs", type=_positive, metavar="N", help="threads (default: one per core)")


def compile_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of `add_compile_flags`, as arguments of compile_cohort."""
    return {name: getattr(arguments, name) for name in ("skip_bad", "set_hours", "jobs")}


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _above_0(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{number:g} is not a number above 0")
    return number


@dataclass(frozen=True)
class MadeFiles:
    """Names that messages use for files that were made from those of the user."""

    names: Mapping[str, str]  # path -> name in messages
    has_rows: bool = True  # a row is at the same place in both

    def renamed_text(self, text: str) -> str:
        """Put these names into a text, and remove row numbers that are not those of the user's files."""
        row = "" if self.has_rows else r"(, row \d+ \(counted from 0\))?"
        for path, name in self.names.items():
            text = re.sub(re.escape(path) + row, lambda _: name, text)  # noqa: B023
        return text

    def skip(self, skip: Skip) -> Skip:
        """Put these names into a fault."""
        row = skip.row if self.has_rows or skip.file not in self.names else None
        return replace(skip, file=self.renamed_text(skip.file), reason=self.renamed_text(skip.reason), row=row)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Put these names into errors that are raised in the block."""
        try:
            yield
        except InputError as error:
            raise InputError(self.renamed_text(str(error))) from None

    def renamed(self, opened: Opened, description: str | None = None) -> Opened:
        """Put these names into the notes and faults of what was opened; description None: it stays."""
        imported = opened.imported
        said: dict[str, Any] = {name: [*map(self.renamed_text, getattr(imported, name))] for name in SAID if imported}
        imported = imported and replace(imported, **said)
        return replace(opened, source=_Renamed(opened.source, self, description), imported=imported)


class _Renamed:
    """A source whose faults have other names."""

    def __init__(self, source: Source, made: MadeFiles, description: str | None) -> None:
        self._source, self._made = source, made
        self.description = description or source.description
        self.skips, self.unnamed_rows = [*map(made.skip, source.skips)], source.unnamed_rows

    @property
    def stays(self) -> Mapping[str, Sequence[Stay]]:
        return self._source.stays

    def read(self, stays: Stays) -> Rows:
        rows = self._source.read(stays)
        return replace(rows, skips=[*map(self._made.skip, rows.skips)])


# ------------------------------------------------------------------ subjects over the splits


Ints = NDArray[np.int64]


def assign_by_fractions(
    subject: Ints, label: NDArray[np.int8], fractions: Sequence[float], seed: int
) -> NDArray[np.int8]:
    """[N] The split of each stay, a position in SPLITS: subject [N] and label [N] in the order of the stay numbers."""
    split_of: NDArray[np.int8] = np.zeros(len(np.unique(subject)), dtype=np.int8)
    for shuffled in _shuffled_classes(subject, label, seed):
        ends = np.rint(np.cumsum(fractions) * len(shuffled)).astype(int)
        for at, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            split_of[shuffled[start:end]] = at
    return split_of[np.unique(subject, return_inverse=True)[1]]


def assign_fold(subject: Ints, label: NDArray[np.int8], fold: tuple[int, int], seed: int) -> NDArray[np.int8]:
    """[N] The split of each stay: fold i of k is the test split, the next one the validation split.

    Each subject is in the test split of one of the k folds.
    """
    number, n_folds = fold
    fold_of = np.zeros(len(np.unique(subject)), dtype=np.int64)
    n_before = 0  # each class starts where the one before ended, so that folds are of equal size
    for shuffled in _shuffled_classes(subject, label, seed):
        fold_of[shuffled] = (n_before + np.arange(len(shuffled))) % n_folds
        n_before += len(shuffled)
    steps = (fold_of - (number - 1)) % n_folds
    split_of = np.select([steps == 0, steps == 1], [SPLITS.index("test"), SPLITS.index("valid")], SPLITS.index("train"))
    return split_of.astype(np.int8)[np.unique(subject, return_inverse=True)[1]]


def assign_by_time(subject: Ints, start: NDArray[np.int64], fractions: Sequence[float]) -> NDArray[np.int8]:
    """[N] The split of each stay: the earliest subjects train, the latest are the test.

    A subject is as late as the last of its stays, whose starts are `start` [N]; all its stays are in one split.
    """
    _, position = np.unique(subject, return_inverse=True)
    latest = np.full(position.max(initial=-1) + 1, np.iinfo(np.int64).min)
    np.maximum.at(latest, position, start)
    place = np.empty(len(latest), dtype=np.int64)
    place[np.argsort(latest, kind="stable")] = np.arange(len(latest))
    ends = np.rint(np.cumsum(fractions) * len(latest)).astype(int)
    return np.searchsorted(ends, place, side="right").clip(max=2).astype(np.int8)[position]


def assign_groups(group: Ints, fractions: Sequence[float], seed: int) -> NDArray[np.int8]:
    """[N] The split of each stay: whole groups, such as hospitals, each to the split that lacks most of its share."""
    present, position = np.unique(group, return_inverse=True)
    size = np.bincount(position)
    lacking = np.asarray(fractions) * len(group)
    split_of = np.zeros(len(present), dtype=np.int8)
    for at in np.random.default_rng(seed).permutation(len(present)).tolist():
        split_of[at] = int(np.argmax(np.where(np.asarray(fractions) > 0, lacking, -np.inf)))
        lacking[split_of[at]] -= size[at]
    return split_of[position]


def refuse_shared_subjects(where: str, subject: Ints, group: Ints, patients: pa.Array, values: pa.Array) -> None:
    """Raises InputError if a subject has stays of several groups [N], called as in `patients` and `values` [N]."""
    pairs = np.unique(np.stack([subject, group], axis=1), axis=0)[:, 0]
    shared = np.unique(pairs[1:][pairs[1:] == pairs[:-1]])
    if len(shared):
        rows = pa.array(np.flatnonzero(subject == shared[0]))
        patient, several = (", ".join(column.take(rows).unique().to_pylist()[:3]) for column in (patients, values))
        raise InputError(
            f"{where}: {counted(len(shared), 'patient')} with several values, such as {patient} with {several}. A "
            "value is in one split, and so is a patient: leave out --split_by, so that patients are divided at random, "
            "or write a split for each patient into a column (--split_column)."
        )


def _shuffled_classes(subject: Ints, label: NDArray[np.int8], seed: int) -> Iterator[Ints]:
    """Shuffled positions of subjects with negative labels alone, with a positive one, and with none.

    A position is that among the sorted subjects; before shuffling they are in the order of their first stays.
    """
    _, first, position = np.unique(subject, return_index=True, return_inverse=True)
    highest = np.full(len(first), -1, dtype=np.int8)
    np.maximum.at(highest, position, label)
    in_order = np.argsort(first)
    rng = np.random.default_rng(seed)
    for value in (0, 1, -1):
        of_class = in_order[highest[in_order] == value]
        yield of_class[rng.permutation(len(of_class))]


def read_fold(text: str | None) -> tuple[int, int] | None:
    """(i, k) of a text `i/k`. Raises InputError unless k is 3 or more and i is one of 1 to k."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    number, n_folds = map(int, match.groups()) if match else (0, 0)
    if n_folds < 3 or not 1 <= number <= n_folds:
        raise InputError(
            f"--fold {text}: allowed: i/k with k of 3 or more and i from 1 to k. With 1/5 fold 1 is the test split, "
            "fold 2 the validation split, and the others are the training split."
        )
    return number, n_folds


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
