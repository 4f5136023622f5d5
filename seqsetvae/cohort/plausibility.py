"""Plausibility of a whole cohort: time spans, when variables are last seen, stays with the same rows.

Everything is computed in blocks of stays, so memory does not grow with the cohort.
Letters: N stays, V variables, E events of a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import EVENTS_PER_BLOCK, Cohort, Split

CELLS_PER_BLOCK = 1 << 22  # stays times variables
FEWEST_STAYS = 30  # of each of two groups, below which the last times of a variable are not compared
STANDARD_ERRORS = 5.0  # a difference of means beyond this is not chance, even among hundreds of variables
SMALLEST_SHIFT = 0.02  # of a stay's length: smaller differences are of no interest, however certain
SHARE_SHIFTED = 0.2  # of the variables: chance and a change of practice move a few, lost rows move many
FEWEST_EQUAL_ROWS = 6  # two stays of fewer rows may be equal by chance


def hours(split: Split) -> NDArray[np.float64]:
    """[N] Hours from the first to the last set of each stay."""
    first, last = split.stay_offset[:-1], split.stay_offset[1:] - 1
    return (split.minute[last] - split.minute[first]) / 60


def median_hours(split: Split) -> float | None:
    """The median length of the stays; None where it is 0, as of stays with one set each, or where there is no stay."""
    return (float(np.median(hours(split))) or None) if split.n_stays else None


def _blocks(split: Split, most_stays: int) -> Iterator[slice]:
    """The stays of a split in slices of at most `most_stays` stays and EVENTS_PER_BLOCK events, at least one stay."""
    event_start = split.set_offset[split.stay_offset]  # [N + 1]
    start = 0
    while start < split.n_stays:
        by_events = int(np.searchsorted(event_start, event_start[start] + EVENTS_PER_BLOCK, side="right")) - 1
        end = min(max(by_events, start + 1), start + most_stays, split.n_stays)
        yield slice(start, end)
        start = end


class _Events(NamedTuple):
    """The events of some stays of a split, in time order within each stay."""

    stay: NDArray[np.int64]  # [E] position in the block
    minute: NDArray[np.float64]  # [E]
    variable: NDArray[np.int32]  # [E]
    value: NDArray[np.float64]  # [E]


def _events(split: Split, stays: slice) -> _Events:
    offset = split.set_offset[split.stay_offset[stays.start] : split.stay_offset[stays.stop] + 1]
    sets = slice(split.stay_offset[stays.start], split.stay_offset[stays.stop])
    n_sets, n_events = np.diff(split.stay_offset[stays.start : stays.stop + 1]), np.diff(offset)
    stay = np.repeat(np.repeat(np.arange(stays.stop - stays.start), n_sets), n_events)
    events = slice(offset[0], offset[-1])
    return _Events(stay, np.repeat(split.minute[sets], n_events), split.variable[events], split.value[events])


# ------------------------------------------------------------------ when in the stay each variable is last seen


class LastSeen:
    """Where in a stay each variable is last seen, over the stays of one group: 0 = at its start, 1 = at its end."""

    def __init__(self, n_variables: int) -> None:
        """No stay yet. `count` [V] is the number of stays in which a variable occurs."""
        self.count, self.total, self.squares = np.zeros((3, n_variables))

    def add(self, position: NDArray[np.float64]) -> None:
        """Add stays: position [N, V], NaN where the variable does not occur."""
        self.count += (~np.isnan(position)).sum(axis=0)
        self.total += np.nansum(position, axis=0)
        self.squares += np.nansum(position**2, axis=0)

    @property
    def mean(self) -> NDArray[np.float64]:
        """[V] NaN for a variable that does not occur."""
        with np.errstate(invalid="ignore"):
            return self.total / self.count

    @property
    def squared_error(self) -> NDArray[np.float64]:
        """[V] The squared standard error of the mean."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.maximum(self.squares / self.count - self.mean**2, 0) / self.count


def last_seen(cohort: Cohort) -> list[dict[str, LastSeen]]:
    """By split, and by group of the source where it has groups (the sets of PhysioNet)."""
    n_variables = len(cohort.vocabulary)
    by_split = {name: LastSeen(n_variables) for name in cohort.splits}
    by_group: dict[str, LastSeen] = {}
    for name, split in cohort.splits.items():
        group_of = _groups(cohort, name)
        for stays in _blocks(split, max(1, CELLS_PER_BLOCK // n_variables)):
            position = _positions(split, stays, n_variables)
            by_split[name].add(position)
            for group in np.unique(group_of[stays]).tolist():
                by_group.setdefault(group, LastSeen(n_variables)).add(position[group_of[stays] == group])
    return [by_split, dict(sorted(by_group.items()))]


def _groups(cohort: Cohort, split: str) -> NDArray[np.str_]:
    """[N] The group of each stay of a split, from the manifest; empty if the source has no groups."""
    runs = cohort.manifest.get("groups", {}).get(split)
    if not runs:
        return np.zeros(0, dtype=np.str_)
    return np.repeat([group for group, _ in runs], [n_stays for _, n_stays in runs])


def _positions(split: Split, stays: slice, n_variables: int) -> NDArray[np.float64]:
    """[N, V] The last minute of each variable, as a share of its stay; NaN where it does not occur.

    A stay whose events are all at one time has no length, and NaN throughout.
    """
    events = _events(split, stays)
    last = np.full((stays.stop - stays.start, n_variables), np.nan)
    last[events.stay, events.variable] = events.minute  # the last assignment remains, and it is the latest event
    first, end = split.minute[split.stay_offset[:-1][stays]], split.minute[split.stay_offset[1:][stays] - 1]
    length = np.where(end > first, end - first, np.nan)
    return (last - first[:, None]) / length[:, None]


@dataclass(frozen=True)
class Shift:
    """Variables that two groups see last at different times."""

    earlier: str  # the group in which most of them are last seen earlier
    later: str
    compared: int  # variables with enough stays in both
    shifted: NDArray[np.int64]  # variables that differ, the largest difference first
    means: NDArray[np.float64]  # [shifted, 2] in the earlier and in the later group


def shifts(groups: dict[str, LastSeen]) -> list[Shift]:
    """Pairs of groups in which a good share of the variables is last seen at different times."""
    found = []
    for (one, a), (other, b) in combinations(groups.items(), 2):
        enough = (a.count >= FEWEST_STAYS) & (b.count >= FEWEST_STAYS)
        difference = np.where(enough, a.mean - b.mean, 0.0)
        error = np.sqrt(np.where(enough, a.squared_error + b.squared_error, 0.0))
        shifted = np.flatnonzero((np.abs(difference) > STANDARD_ERRORS * error) & (np.abs(difference) > SMALLEST_SHIFT))
        if len(shifted) and len(shifted) >= SHARE_SHIFTED * enough.sum():
            shifted = shifted[np.argsort(-np.abs(difference[shifted]), kind="stable")]
            a_is_earlier = np.median(difference[shifted]) < 0
            names, pair = ((one, other), (a, b)) if a_is_earlier else ((other, one), (b, a))
            means = np.column_stack([group.mean[shifted] for group in pair])
            found.append(Shift(*names, int(enough.sum()), shifted, means))
    return found


# ------------------------------------------------------------------ stays with the same rows


def equal_stays(cohort: Cohort) -> list[list[tuple[str, int]]]:
    """Stays (split, stay number) of different subjects with the same rows (minute, variable, value), in any order."""
    names = list(cohort.splits)
    hashes = np.concatenate([_row_hashes(cohort.splits[name]) for name in names])
    n_stays = [cohort.splits[name].n_stays for name in names]
    split_of = np.repeat(np.arange(len(names)), n_stays)
    stay_id = np.concatenate([cohort.splits[name].stay_id for name in names])
    order = np.argsort(hashes, kind="stable")
    in_order = hashes[order]
    repeated = np.unique(in_order[1:][(in_order[1:] == in_order[:-1]) & (in_order[1:] != 0)])
    starts, ends = (np.searchsorted(in_order, repeated, side=side) for side in ("left", "right"))
    subject = np.concatenate([split.subject_id for split in cohort.splits.values()])
    groups = [order[start:end] for start, end in zip(starts, ends, strict=True)]
    groups = [group for group in groups if (subject[group] != subject[group[0]]).any()]  # not samples of one subject
    return [[(names[split_of[i]], int(stay_id[i])) for i in group] for group in groups]


def _row_hashes(split: Split) -> NDArray[np.uint64]:
    """[N] A hash of the rows of each stay that does not depend on their order; 0 for stays of few rows."""
    result = np.zeros(split.n_stays, dtype=np.uint64)
    for stays in _blocks(split, split.n_stays):
        events = _events(split, stays)
        row = scrambled(events.variable.astype(np.uint64))
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
