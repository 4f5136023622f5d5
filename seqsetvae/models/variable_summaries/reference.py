"""The plain reference: summaries of one variable of one stay at a time, in numpy. Tests and benchmarks compare with it.

Legend: F = 35 summaries, W numbers of an encoded summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np

OUTERMOST = 1 / 64  # half a step between two of the 33 quantiles
Event = tuple[float, float]  # (hour since the stay's first set, value), in time order


def plain_summaries(events: Sequence[Event], end: float) -> list[float]:
    """The 35 summaries of one variable in one stay that ends `end` hours after its first set."""
    summaries = _whole_stay(events, end)
    for start, stop in ((12.0, 0.0), (24.0, 12.0), (36.0, 24.0), (48.0, 36.0)):
        values = [value for hour, value in events if end - hour < start and (stop == 0 or end - hour >= stop)]
        summaries += [float(np.mean(values)), min(values), max(values)] if values else [np.nan] * 3
        summaries.append(len(values))
    last_hours = [(hour, value) for hour, value in events if end - hour < 6]
    values = [value for _, value in last_hours]
    summaries += [float(np.mean(values)), float(np.std(values)), _slope(last_hours)] if values else [np.nan] * 3
    first = [value for hour, value in events if hour < 6]
    summaries += [first[0], float(np.mean(first))] if first else [np.nan] * 2
    return summaries


def _whole_stay(events: Sequence[Event], end: float) -> list[float]:
    hours, values = [hour for hour, _ in events], [value for _, value in events]
    steps = [abs(after - before) for before, after in pairwise(values)]
    weights = [2 ** ((hour - end) / 6) + 1e-6 for hour in hours]
    return [
        len(values),
        float(np.mean(values)),
        float(np.std(values)),
        min(values),
        max(values),
        values[0],
        values[-1],
        hours[0],
        hours[-1],
        _slope(events),
        float(np.mean(steps)) if steps else np.nan,
        max(hour for hour, value in events if value == min(values)),
        max(hour for hour, value in events if value == max(values)),
        float(np.average(values, weights=weights)),
    ]


def _slope(events: Sequence[Event]) -> float:
    hours, values = np.array(events).T
    spread = ((hours - hours.mean()) ** 2).sum()
    return float(((hours - hours.mean()) * values).sum() / spread) if spread > 0.5 else np.nan


def plain_normal_score(number: float, edges: Sequence[float], center: Sequence[float]) -> list[float]:
    """One number as the normal score of its position among the edges, less the center; 1 for present."""
    if not np.isfinite(number):
        return [0.0, 0.0]
    equal = [index for index, edge in enumerate(edges) if edge == number]
    index = float(np.mean(equal)) if equal else float(np.interp(number, edges, range(len(edges))))
    position = np.clip(index / (len(edges) - 1), OUTERMOST, 1 - OUTERMOST)
    return [NormalDist().inv_cdf(position) - center[0], 1.0]


def plain_relevance(numbers: Sequence[float], labels: Sequence[int], n_inputs: int) -> float:
    """The share of the labels' entropy that the best threshold of a number explains, less what chance gives."""
    n, whole, best = len(labels), _entropy(labels), 0.0
    for threshold in (number for number in numbers if np.isfinite(number)):
        for is_inside in (np.less_equal, np.greater):  # neither holds for a number that is missing
            sides: list[list[int]] = [[], []]
            for number, label in zip(numbers, labels, strict=True):
                sides[bool(is_inside(number, threshold))].append(label)
            best = max(best, whole - sum(len(side) * _entropy(side) for side in sides) / n)
    return max(0.0, (best - np.log(n * n_inputs) / n) / whole)


def _entropy(labels: Sequence[int]) -> float:
    shares = [labels.count(value) / len(labels) for value in set(labels)]
    return -sum(share * float(np.log(share)) for share in shares)
