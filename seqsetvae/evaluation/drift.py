"""Signs that data differ from the training data in a way that makes predictions unreliable.

Legend: V variables, E events of a block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort import Cohort, Split
from seqsetvae.cohort.format import EVENTS_PER_BLOCK
from seqsetvae.cohort.imported import has_dates
from seqsetvae.cohort.plausibility import hours
from seqsetvae.cohort.skipped import counted

MOST_UNKNOWN = 0.01  # share of the events that may be of variables that were not in the training data
LARGEST_SHIFT = 1.25  # training standard deviations by which the mean over the stays may differ from that of training
FEWEST_STAYS = 10  # below which a mean or a median says little: one very sick patient moves it far
# Times by which the median stay may be shorter or longer than that of training: another unit makes it 60 times.
LARGEST_RATIO = 8.0
SHORTEST, LONGEST = 3.0, 30 * 24.0  # hours of the median stay, where the checkpoint does not record that of training
NAMED = 5  # variables that one warning names


@dataclass
class _Sums:
    """Sums over the stays of some splits, by variable."""

    events: NDArray[np.float64]  # [V]
    stays: NDArray[np.float64]  # [V] stays in which it occurs
    total: NDArray[np.float64]  # [V] sum over these stays of the mean z-score in the stay

    def add(self, split: Split) -> None:
        n_variables, event_start = len(self.events), split.set_offset[split.stay_offset]
        for first, end in _blocks(event_start):
            events = slice(int(event_start[first]), int(event_start[end]))
            stay = np.repeat(np.arange(end - first), np.diff(event_start[first : end + 1]))
            pairs, pair = np.unique(stay * n_variables + split.variable[events], return_inverse=True)
            count = np.bincount(pair)
            mean = np.bincount(pair, weights=split.value[events]) / count
            self.events += np.bincount(pairs % n_variables, weights=count, minlength=n_variables)
            self.stays += np.bincount(pairs % n_variables, minlength=n_variables)
            self.total += np.bincount(pairs % n_variables, weights=mean, minlength=n_variables)


def _blocks(event_start: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Stays in blocks of at most EVENTS_PER_BLOCK events, at least one stay: (first, end)."""
    first, n_stays = 0, len(event_start) - 1
    while first < n_stays:
        full = int(np.searchsorted(event_start, event_start[first] + EVENTS_PER_BLOCK, side="right")) - 1
        end = min(max(full, first + 1), n_stays)
        yield first, end
        first = end


def drift(
    cohort: Cohort,
    splits: Sequence[str],
    known: NDArray[np.bool_],
    rare: Sequence[str],
    training_hours: float | None = None,
) -> list[str]:
    """A sentence for each way in which these splits differ from the training data.

    Args:
        cohort: its values are z-scores by the mean and std of the training data.
        splits: which of its splits.
        known: [V] variables that were in the training data.
        rare: variables whose values the model does not read.
        training_hours: the median length of the training stays, if it is known.
    """
    lengths = np.concatenate([hours(cohort.split(name)) for name in splits])
    sums, unread = _Sums(*(np.zeros(len(cohort.vocabulary)) for _ in range(3))), Counter[str]()
    for name in splits:
        sums.add(cohort.split(name))
        unread.update(cohort.manifest["report"].get("unknown_variables", {}).get(name, {}))
    unread.update({cohort.vocabulary[v]: int(sums.events[v]) for v in np.flatnonzero(~known & (sums.events > 0))})
    read = known & ~np.isin(cohort.vocabulary, rare) & np.isfinite(cohort.std)
    return [
        *_unknown_variables(unread, float(sums.events[known].sum())),
        *_shifted_means(cohort, sums, read),
        *([] if has_dates(cohort) else _lengths(lengths, training_hours)),
    ]


def _unknown_variables(events: Counter[str], known_events: float) -> list[str]:
    """`events` are those of variables that were not in the training data, by variable."""
    share = events.total() / max(events.total() + known_events, 1)
    if share <= MOST_UNKNOWN:
        return []
    named = _named([f"{name!r} ({count:,} events)" for name, count in events.most_common()])
    return [
        f"{share:.1%} of the events are of {counted(len(events), 'variable')} that the training data did not have: "
        f"{named}. Are they known variables under another name?"
    ]


def _shifted_means(cohort: Cohort, sums: _Sums, read: NDArray[np.bool_]) -> list[str]:
    mean = sums.total / np.maximum(sums.stays, 1)  # in training standard deviations from the training mean
    is_shifted = read & (np.abs(mean) > LARGEST_SHIFT) & (sums.stays >= FEWEST_STAYS)
    shifted = np.flatnonzero(is_shifted)
    if not len(shifted):
        return []
    lines = [
        f"{cohort.vocabulary[v]!r}: mean {cohort.mean[v] + mean[v] * cohort.std[v]:g} instead of {cohort.mean[v]:g} "
        f"({mean[v]:+.1f} standard deviations)"
        for v in shifted[np.argsort(-np.abs(mean[shifted]), kind="stable")]
    ]
    return [
        f"The mean of {counted(len(shifted), 'variable')} is far from that of training; another unit? {_named(lines)}"
    ]


def _lengths(of_stays: NDArray[np.float64], training: float | None) -> list[str]:
    """Stays [N] whose minutes may be hours or seconds."""
    if len(of_stays) < FEWEST_STAYS:
        return []
    median = float(np.median(of_stays))
    shortest, longest = SHORTEST, LONGEST
    if training is not None:
        shortest, longest = training / LARGEST_RATIO, training * LARGEST_RATIO
    if shortest <= median <= longest:
        return []
    unit = "hours" if median < shortest else "seconds"
    instead = "" if training is None else f" instead of {training:.2g} as in training"
    return [
        f"The median stay is {median:.2g} hours long{instead}: is `minute` in {unit}? It must be in minutes since "
        "admission."
    ]


def _named(items: Sequence[str]) -> str:
    return "; ".join(items[:NAMED]) + (f"; and {len(items) - NAMED} more" if len(items) > NAMED else "")
