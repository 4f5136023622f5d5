"""What the training data of a model were like: how often each variable occurs, and up to when events were used.

A checkpoint keeps it, so that later data can be compared with it. It is taken from the arrays, whatever the origin of
the data and the unit of their times. Legend: V variables, E events of a block, N stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import EVENTS_PER_BLOCK, Cohort, Split
from seqsetvae.cohort.plausibility import hours

PROFILE = "training_data"  # the key in checkpoints that we write
NEARLY = 0.9  # stays are cut at one time if half of them are this near to the longest of them
FIXED = 0.01  # relative: prediction times that differ by less are one hour of the stay
Floats = NDArray[np.float64]


class VariableSums:
    """Sums over the stays of some splits, by variable."""

    def __init__(self, n_variables: int) -> None:
        """No stay yet. [V]: events; stays in which it occurs; sum over these stays of the mean value in the stay."""
        self.events, self.stays, self.total = np.zeros((3, n_variables))

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


@dataclass(frozen=True)
class Window:
    """Up to when the events of some stays were used."""

    stays: int
    predicted: float  # share of the stays with a prediction time
    at: tuple[float, float, float] | None  # these times, hours after minute 0: 5 %, 50 % and 95 %; None: none has one
    cut: float | None  # hours after which stays without prediction times seem to have been cut; None: they do not

    @classmethod
    def of(cls, splits: Sequence[Split]) -> Window:
        """That of the stays of these splits."""
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
    def of(cls, cohort: Cohort) -> Profile:
        """That of the training split."""
        split, sums = cohort.split("train"), VariableSums(len(cohort.vocabulary))
        sums.add(split)
        counts = zip(cohort.vocabulary, sums.events.tolist(), sums.stays.tolist(), strict=True)
        return cls(Window.of([split]), {name: (int(n), int(stays)) for name, n, stays in counts if n})

    def as_plain(self) -> dict[str, Any]:
        """For a checkpoint."""
        at = None if self.window.at is None else list(self.window.at)
        variables = {name: list(counts) for name, counts in self.variables.items()}
        return {**vars(self.window), "at": at, "variables": variables}

    @classmethod
    def from_plain(cls, content: Any) -> Profile:
        """The reverse. Raises TypeError, KeyError, AttributeError or ValueError for other content."""
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
