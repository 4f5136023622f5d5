"""What the stays of a cohort are like: lengths, how often and when each variable occurs, stays with the same rows.

A checkpoint keeps the profile of its training stays, so that later data can be compared with it. All is taken from the
arrays, whatever the origin of the data, in blocks of stays, so memory does not grow with the cohort.
Letters: V variables, E events of a block, N stays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort, Split, StayEvents, stay_blocks
from seqsetvae.system.errors import WARNING, Finding

PROFILE = "training_data"  # the key in checkpoints that we write
NEARLY = 0.9  # stays are cut at one time if half of them are this near to the longest of them
FIXED = 0.01  # relative: prediction times that differ by less are one hour of the stay
CELLS_PER_BLOCK = 1 << 22  # stays times variables
FEWEST_STAYS = 30  # of each of two groups, below which the last times of a variable are not compared
STANDARD_ERRORS = 5.0  # a difference of means beyond this is not chance, even among hundreds of variables
SMALLEST_SHIFT = 0.02  # of a stay's length: smaller differences are of no interest, however certain
SHARE_SHIFTED = 0.2  # of the variables: chance and a change of practice move a few, lost rows move many
FEWEST_EQUAL_ROWS = 6  # two stays of fewer rows may be equal by chance
Floats = NDArray[np.float64]


def hours(split: Split) -> Floats:
    """[N] Hours from the first to the last set of each stay."""
    first, last = split.stay_offset[:-1], split.stay_offset[1:] - 1
    return (split.minute[last] - split.minute[first]) / 60


def median_hours(split: Split) -> float | None:
    """The median length of the stays; None where it is 0, as of stays with one set each, or where there is no stay."""
    return (float(np.median(hours(split))) or None) if split.n_stays else None


# ------------------------------------------------------------------ the profile that a checkpoint keeps


class VariableSums:
    """Sums over the stays of some splits, by variable."""

    def __init__(self, n_variables: int) -> None:
        """No stay yet. [V]: events; stays in which it occurs; sum over these stays of the mean value in the stay."""
        self.events, self.stays, self.total = np.zeros((3, n_variables))

    def add(self, split: Split, chosen: NDArray[np.bool_] | None = None) -> None:
        """All stays of a split, or the `chosen` ones [N]."""
        n_variables = len(self.events)
        for block, events in stay_blocks(split):
            here = slice(None) if chosen is None else chosen[block][events.stay]
            pairs, pair = np.unique(events.stay[here] * n_variables + events.variable[here], return_inverse=True)
            count = np.bincount(pair)
            mean = np.bincount(pair, weights=events.value[here]) / count
            self.events += np.bincount(pairs % n_variables, weights=count, minlength=n_variables)
            self.stays += np.bincount(pairs % n_variables, minlength=n_variables)
            self.total += np.bincount(pairs % n_variables, weights=mean, minlength=n_variables)


@dataclass(frozen=True)
class Window:
    """Up to when the events of some stays were used."""

    stays: int
    predicted: float  # share of the stays with a prediction time
    at: tuple[float, float, float] | None  # these times, hours after minute 0: 5 %, 50 % and 95 %; None: none has one
    cut: float | None  # hours after which stays without prediction times seem to have been cut; None: they do not

    @classmethod
    def from_splits(cls, splits: Sequence[Split]) -> Window:
        """The profile of the stays of these splits."""
        time = np.concatenate([split.prediction_minute for split in splits]) / 60
        timed = time[np.isfinite(time)]
        low, middle, high = np.quantile(timed, (0.05, 0.5, 0.95)).tolist() if len(timed) else (0.0, 0.0, 0.0)
        length = np.concatenate([hours(split) for split in splits])
        share = len(timed) / max(len(time), 1)
        return cls(len(time), share, (low, middle, high) if len(timed) else None, None if share else cut_at(length))

    @property
    def hour(self) -> float | None:
        """The one hour of prediction of all stays; None if there is none."""
        if self.at is None or self.predicted < 1 or not self.at[2] - self.at[0] <= FIXED * abs(self.at[1]):
            return None
        return self.at[1]

    def __str__(self) -> str:
        if self.at is None:
            cut = "" if self.cut is None else f", which seem to be cut after {self.cut:.3g} h"
            return f"whole stays{cut} (no prediction times)"
        if self.hour is not None:
            return f"the first {self.hour:.4g} h of each stay"
        low, middle, high = self.at
        some = "" if self.predicted == 1 else f", of {self.predicted:.1%} of the stays; the others are whole"
        return f"events before prediction times, at hour {middle:.3g} (90 % between {low:.3g} and {high:.3g}){some}"


def cut_at(length: Floats) -> float | None:
    """The hours at which stays [N] were cut, if half of them are nearly as long as the longest; else None.

    >>> cut_at(np.array([47.0, 47.5, 48.0, 12.0])), cut_at(np.array([10.0, 50.0, 90.0, 300.0]))
    (48.0, None)
    """
    if not len(length):
        return None
    longest = float(np.quantile(length, 0.95, method="higher"))
    return longest if longest > 0 and float(np.median(length)) >= NEARLY * longest else None


@dataclass(frozen=True)
class Profile:
    """The training stays of a model."""

    window: Window
    variables: dict[str, tuple[int, int]]  # those that occur: (events, stays in which it occurs)

    @classmethod
    def from_cohort(cls, cohort: Cohort) -> Profile:
        """The profile of the training split."""
        split, sums = cohort.split("train"), VariableSums(len(cohort.vocabulary))
        sums.add(split)
        counts = zip(cohort.vocabulary, sums.events.tolist(), sums.stays.tolist(), strict=True)
        return cls(Window.from_splits([split]), {name: (int(n), int(stays)) for name, n, stays in counts if n})

    def as_plain(self) -> dict[str, Any]:
        """A dictionary for a checkpoint."""
        at = None if self.window.at is None else list(self.window.at)
        variables = {name: list(counts) for name, counts in self.variables.items()}
        return {**vars(self.window), "at": at, "variables": variables}

    @classmethod
    def from_plain(cls, content: Any) -> Profile:
        """Inverse of `as_plain`. Raises TypeError, KeyError, AttributeError or ValueError for other content."""
        variables = {name: (int(n), int(stays)) for name, (n, stays) in content["variables"].items()}
        at = None if content["at"] is None else tuple(map(float, content["at"]))
        cut = None if content["cut"] is None else float(content["cut"])
        stays, predicted = int(content["stays"]), float(content["predicted"])
        numbers = [predicted, *(at or ()), *([] if cut is None else [cut])]
        is_good = all(map(math.isfinite, numbers)) and 0 <= predicted <= 1 and len(at or (0, 0, 0)) == 3
        counts_fit = all(0 < with_it <= min(n, stays) for n, with_it in variables.values())
        if not (is_good and counts_fit and all(isinstance(name, str) for name in variables)):
            raise ValueError("counts or hours that no stays can have")
        return cls(Window(stays, predicted, at, cut), variables)  # type: ignore[arg-type]


# ------------------------------------------------------------------ when in the stay each variable is last seen


def last_seen(cohort: Cohort) -> list[dict[str, Floats]]:
    """Last seen times by split, and by group of the source where it has groups (the sets of PhysioNet).

    [3, V] each, over the stays that have a variable: their number, the sum of the times at which they have it last (0 =
    at their start, 1 = at their end), and the sum of the squares.
    """
    n_variables = len(cohort.vocabulary)
    by_split: dict[str, Floats] = {}
    by_group: dict[str, Floats] = {}
    for name, split in cohort.splits.items():
        runs = cohort.manifest.get("groups", {}).get(name, ())
        group_of = np.array([group for group, n_stays in runs for _ in range(n_stays)], dtype=np.str_)
        for stays, events in stay_blocks(split, max(1, CELLS_PER_BLOCK // n_variables)):
            time = _last_times(split, stays, events, n_variables)
            chosen = [(by_split, name, time)]
            chosen += [
                (by_group, group, time[group_of[stays] == group]) for group in np.unique(group_of[stays]).tolist()
            ]
            for sums, group, times in chosen:
                added = [(~np.isnan(times)).sum(axis=0), np.nansum(times, axis=0), np.nansum(times**2, axis=0)]
                sums[group] = sums.get(group, 0) + np.stack(added)
    return [by_split, dict(sorted(by_group.items()))]


def _last_times(split: Split, stays: slice, events: StayEvents, n_variables: int) -> Floats:
    """[N, V] The last minute of each variable, as a share of its stay; NaN where it does not occur.

    A stay whose events are all at one time has no length, and NaN throughout.
    """
    last = np.full((stays.stop - stays.start, n_variables), np.nan)
    last[events.stay, events.variable] = events.minute  # the last assignment remains, and it is the latest event
    first, end = split.minute[split.stay_offset[:-1][stays]], split.minute[split.stay_offset[1:][stays] - 1]
    length = np.where(end > first, end - first, np.nan)
    return (last - first[:, None]) / length[:, None]


def shifts(cohort: Cohort) -> Iterator[Finding]:
    """Pairs of splits or groups in which a good share of the variables is last seen at different times."""
    for groups in last_seen(cohort):
        for names in combinations(groups, 2):
            yield from _shift(cohort.vocabulary, names, [groups[name] for name in names])


def _shift(vocabulary: Sequence[str], names: tuple[str, str], sums: list[Floats]) -> Iterator[Finding]:
    """A finding if variables are last seen at different times in two groups with these names and sums."""
    count, total, squares = np.stack(sums, axis=1)  # [2, V] each
    enough = (count >= FEWEST_STAYS).all(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        squared_error = np.maximum(squares / count - mean**2, 0) / count
    difference, error = (np.where(enough, each, 0.0) for each in (mean[0] - mean[1], squared_error.sum(axis=0)))
    shifted = np.flatnonzero(np.abs(difference) > np.maximum(STANDARD_ERRORS * np.sqrt(error), SMALLEST_SHIFT))
    if not len(shifted) or len(shifted) < SHARE_SHIFTED * enough.sum():
        return
    shifted = shifted[np.argsort(-np.abs(difference[shifted]), kind="stable")]
    early, late = (0, 1) if np.median(difference[shifted]) < 0 else (1, 0)
    yield Finding(
        WARNING,
        f"{len(shifted):,} of {enough.sum():,} variables are last seen at another time in {names[early]} than in "
        f"{names[late]}, most of them earlier",
        "Are the last values of stays missing?",
        tuple(
            f"{vocabulary[v]!r}: at {mean[early, v]:.1%} of the stay in {names[early]}, {mean[late, v]:.1%} in "
            f"{names[late]}"
            for v in shifted.tolist()
        ),
    )


# ------------------------------------------------------------------ stays with the same rows


def equal_stays(cohort: Cohort) -> list[list[tuple[str, int]]]:
    """Stays (split, stay number) of different subjects with the same rows (minute, variable, value), in any order."""
    splits, code = cohort.splits.values(), np.arange(len(cohort.vocabulary), dtype=np.uint64)
    hashes, subject, number = (
        np.concatenate(columns)
        for columns in zip(
            *((row_hashes(split, code), split.subject_id, split.stay_id) for split in splits), strict=True
        )
    )
    split_of = np.repeat(list(cohort.splits), [split.n_stays for split in splits]).tolist()
    value, count = np.unique(hashes[hashes != 0], return_counts=True)
    again = np.flatnonzero(np.isin(hashes, value[count > 1]))
    again = again[np.argsort(hashes[again], kind="stable")]
    groups = np.split(again, np.flatnonzero(np.diff(hashes[again])) + 1)
    groups = [group for group in groups if (subject[group] != subject[group[:1]]).any()]  # not samples of one subject
    return [[(split_of[at], int(number[at])) for at in group] for group in groups]


def seen_before(cohort: Cohort, other: Cohort, splits: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Which stays of each split have the rows of a stay of these splits of the other cohort, by variable name."""
    of_other = np.concatenate([row_hashes(other.split(name), _codes(other)) for name in splits])
    hashes = {name: row_hashes(split, _codes(cohort)) for name, split in cohort.splits.items()}
    return {name: (of_stay != 0) & np.isin(of_stay, of_other) for name, of_stay in hashes.items()}


def _codes(cohort: Cohort) -> NDArray[np.uint64]:
    """[V] A number for each variable that is the same in every cohort."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in cohort.vocabulary)
    return np.frombuffer(b"".join(digests), np.uint64)


def row_hashes(split: Split, code: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[N] A hash of the rows of each stay that does not depend on their order; 0 for stays of few rows.

    `code` [V] is the number that stands for each variable.
    """
    result = np.zeros(split.n_stays, dtype=np.uint64)
    for stays, events in stay_blocks(split):
        row = scrambled(code[events.variable])
        for column in (events.minute, events.value):
            row = scrambled(row ^ (column + 0.0).view(np.uint64))  # + 0.0: minus zero equals zero
        n_rows = np.bincount(events.stay, minlength=stays.stop - stays.start)
        total = np.add.reduceat(row, np.cumsum(n_rows) - n_rows)
        result[stays] = np.where(n_rows >= FEWEST_EQUAL_ROWS, total, 0)
    return result


def scrambled(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A one-to-one scrambling of 64 bits (the finalizer of SplitMix64)."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
