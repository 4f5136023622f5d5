"""Summaries of each variable over a stay: counts, means, extremes, times, slopes and values in windows before the end.

Legend: E events, N stays of the batch, P pairs (stay, variable), F = 35 summaries of a pair.
A summary that does not exist (no event in its window) is NaN. No variable's name is known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from seqsetvae.batches.batch import Batch

# (prefix, window in hours before the stay's end: from, to; statistics). Windows of 12 hours describe the course
# over two days; earlier events count in the statistics of the whole stay.
WHOLE_STAY = ("count", "mean", "std", "min", "max", "first", "last", "hour_first", "hour_last", "slope", "variation")
PLAN: tuple[tuple[str, float, float, tuple[str, ...]], ...] = (
    ("", float("inf"), 0.0, (*WHOLE_STAY, "hour_min", "hour_max", "decayed")),
    ("last_0_12h_", 12.0, 0.0, ("mean", "min", "max", "count")),
    ("last_12_24h_", 24.0, 12.0, ("mean", "min", "max", "count")),
    ("last_24_36h_", 36.0, 24.0, ("mean", "min", "max", "count")),
    ("last_36_48h_", 48.0, 36.0, ("mean", "min", "max", "count")),
    ("last_0_6h_", 6.0, 0.0, ("mean", "std", "slope")),
)
FIRST_HOURS = 6.0  # hours since the stay's first set
SUMMARIES = (*(prefix + name for prefix, _, _, names in PLAN for name in names), "first_6h_first", "first_6h_mean")
HALF_LIFE = 6.0  # hours before the end, of the weights of "decayed"
NEARLY = 0.9  # share of the longest stays' length
LEAST_SPREAD = 0.5  # hours², sum of squared deviations of the times below which a slope is not defined


@dataclass(frozen=True, eq=False)
class Pairs:
    """The summaries of a batch, ordered by variable."""

    stay: torch.Tensor  # [P] int64, position of the stay in the batch
    variable: torch.Tensor  # [P] int64, ascending
    values: torch.Tensor  # [P, F] float64


@dataclass(frozen=True, eq=False)
class Events:
    """Events ordered by variable, stay and time."""

    pair: torch.Tensor  # [E] int64, ascending
    n_pairs: int
    value: torch.Tensor  # [E] float64
    hour: torch.Tensor  # [E] float64, hours since the stay's first set
    before_end: torch.Tensor  # [E] float64, hours from the event to the stay's end

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the events of each pair: [E] → [P]."""
        return values.new_zeros(self.n_pairs).index_add(0, self.pair, values)

    def extreme(self, values: torch.Tensor, how: str) -> torch.Tensor:
        """Smallest (amin) or largest (amax) value of each pair: [E] → [P]."""
        start = values.new_full((self.n_pairs,), torch.inf if how == "amin" else -torch.inf)
        return start.scatter_reduce(0, self.pair, values, how)


def common_length(hours: torch.Tensor) -> float:
    """Length of the observation window, if training stays [n] were cut to one, such as their first 48 hours; else 0.

    They were if half of them are nearly as long as the longest (the 95 % quantile): then a stay without late events
    is one that was not observed late, and its windows are counted back from the end of the observation window.

    >>> common_length(torch.tensor([47.0, 47.5, 48.0, 12.0])), common_length(torch.tensor([10.0, 50.0, 90.0, 300.0]))
    (48.0, 0.0)
    """
    longest = float(torch.quantile(hours.double(), 0.95, interpolation="higher"))
    return longest if float(hours.double().median()) >= NEARLY * longest else 0.0


def stay_hours(batch: Batch) -> torch.Tensor:
    """Hours from the first to the last set of each stay: [N]."""
    end = batch.sets_per_stay.cumsum(0)
    return (batch.minute[end - 1] - batch.minute[end - batch.sets_per_stay]) / 60


def event_hours(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The set of each event, its stay, and hours since the stay's first set: [E] each."""
    of_set = batch.set_of_event
    stay = batch.stay_of_set[of_set]
    first = batch.minute[batch.sets_per_stay.cumsum(0) - batch.sets_per_stay]  # [N]
    return of_set, stay, (batch.minute[of_set] - first[stay]) / 60


def events_of(
    batch: Batch,
    variable: torch.Tensor,
    value: torch.Tensor,
    length: float = 0.0,
    until: torch.Tensor | None = None,
) -> tuple[Events, torch.Tensor, torch.Tensor]:
    """The events of a batch by pair, and stay and variable of each pair: [P], [P].

    `variable` and `value` [E] replace those of the batch; an event with variable -1 is left out. A stay ends with its
    last set, but not before `length` hours, or at the hours `until` [N], and later events are left out.
    """
    of_set, stay, hour = event_hours(batch)
    end = stay_hours(batch).clamp_min(length)
    if until is not None:
        end, variable = until, torch.where(hour <= until[stay], variable, -1)
    order = torch.argsort((variable * batch.n_stays + stay) * batch.n_sets + of_set, stable=True)
    order = order[(variable < 0).sum() :]
    key = (variable * batch.n_stays + stay)[order]
    pairs, pair = torch.unique_consecutive(key, return_inverse=True)
    events = Events(pair, len(pairs), value[order].double(), hour[order], (end[stay] - hour)[order])
    return events, pairs % batch.n_stays, pairs // batch.n_stays


class Window:
    """Statistics of the events in a window, by pair: each is [P], NaN where the window has no event."""

    def __init__(self, events: Events, inside: torch.Tensor) -> None:
        """`inside` [E] bool marks the events of the window."""
        self.events, self.inside = events, inside
        self.inside_as_number = inside.double()

    def statistic(self, name: str) -> torch.Tensor:
        """One of the statistics of PLAN."""
        value: torch.Tensor = getattr(self, name)
        return value if name == "count" else torch.where(self.count > 0, value, torch.nan)

    def _mean_of(self, values: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        weights = self.inside_as_number if weights is None else weights * self.inside_as_number
        return self.events.total(values * weights) / self.events.total(weights)

    def _extreme(self, values: torch.Tensor, how: str) -> torch.Tensor:
        outside = torch.inf if how == "amin" else -torch.inf
        return self.events.extreme(torch.where(self.inside, values, outside), how)

    def _at(self, how: str) -> torch.Tensor:
        """Value of the first (amin) or last (amax) event of the window."""
        position = torch.arange(len(self.events.value), device=self.inside.device).double()
        place = self._extreme(position, how).clamp(0, max(len(position) - 1, 0))
        return self.events.value[place.long()]

    @cached_property
    def count(self) -> torch.Tensor:
        return self.events.total(self.inside_as_number)

    @cached_property
    def mean(self) -> torch.Tensor:
        return self._mean_of(self.events.value)

    @property
    def std(self) -> torch.Tensor:
        return self._mean_of((self.events.value - self.mean[self.events.pair]) ** 2).sqrt()

    @cached_property
    def min(self) -> torch.Tensor:
        return self._extreme(self.events.value, "amin")

    @cached_property
    def max(self) -> torch.Tensor:
        return self._extreme(self.events.value, "amax")

    @property
    def first(self) -> torch.Tensor:
        return self._at("amin")

    @property
    def last(self) -> torch.Tensor:
        return self._at("amax")

    @property
    def hour_first(self) -> torch.Tensor:
        return self._extreme(self.events.hour, "amin")

    @property
    def hour_last(self) -> torch.Tensor:
        return self._extreme(self.events.hour, "amax")

    @property
    def hour_min(self) -> torch.Tensor:
        """The last time at which the smallest value was seen."""
        return self._hour_of(self.min)

    @property
    def hour_max(self) -> torch.Tensor:
        return self._hour_of(self.max)

    def _hour_of(self, extreme: torch.Tensor) -> torch.Tensor:
        is_extreme = self.events.value == extreme[self.events.pair]
        return self._extreme(torch.where(is_extreme, self.events.hour, -torch.inf), "amax")

    @property
    def slope(self) -> torch.Tensor:
        """Least-squares slope per hour; NaN where the events are too close in time."""
        deviation = self.events.hour - self._mean_of(self.events.hour)[self.events.pair]
        deviation = torch.where(self.inside, deviation, 0.0)
        spread = self.events.total(deviation**2)
        slope = self.events.total(deviation * self.events.value) / spread.clamp_min(LEAST_SPREAD)
        return torch.where(spread > LEAST_SPREAD, slope, torch.nan)

    @property
    def variation(self) -> torch.Tensor:
        """Mean absolute difference of successive values; NaN with fewer than two events. Of the whole stay only."""
        value, pair = self.events.value, self.events.pair
        step = torch.zeros_like(value)
        step[1:] = torch.where(pair[1:] == pair[:-1], (value[1:] - value[:-1]).abs(), 0.0)
        return torch.where(self.count > 1, self.events.total(step) / (self.count - 1).clamp_min(1), torch.nan)

    @property
    def decayed(self) -> torch.Tensor:
        """Mean with weights that halve every HALF_LIFE hours before the end."""
        weights = torch.exp2(-self.events.before_end / HALF_LIFE) + 1e-6  # never all zero
        return self._mean_of(self.events.value, weights)


def summarize(
    batch: Batch,
    variable: torch.Tensor,
    value: torch.Tensor,
    length: float = 0.0,
    until: torch.Tensor | None = None,
) -> Pairs:
    """The summaries of every variable that occurs in a stay.

    Args:
        batch: gives the times and the stays.
        variable: [E] int64, the variable of each event; -1 leaves the event out.
        value: [E].
        length: hours of the common observation window, see `common_length`.
        until: [N] hours, where each stay is cut as if nothing later were known; None: nowhere.
    """
    events, stay, of_pair = events_of(batch, variable, value, length, until)
    columns = []
    for _, start, end, names in PLAN:
        inside = events.before_end < start
        if end:
            inside = inside & (events.before_end >= end)
        window = Window(events, inside)
        columns += [window.statistic(name) for name in names]
    first_hours = Window(events, events.hour < FIRST_HOURS)
    columns += [first_hours.statistic("first"), first_hours.statistic("mean")]
    return Pairs(stay, of_pair, torch.stack(columns, dim=1))
