"""Bootstrap intervals of metrics, whatever the task.

A resample is a row of weights: how often each stay was drawn. Subjects (patients) are drawn, each with all stays,
because stays of one subject are alike: intervals that take them as independent are too narrow.

Legend: n stays, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.tasks.scores import Floats, Ints, MetricValues, Scores

RESAMPLES = 2000
LEVEL = 0.95  # of the intervals
MOST_UNDEFINED = 0.05  # share of resamples in which a metric may be undefined; above it there is no interval
WEIGHTS_PER_BLOCK = 1 << 18  # weights in memory at once: 2 MiB stay in a core's cache


@dataclass(frozen=True)
class Interval:
    """A metric, and the 2.5th and 97.5th percentile of its bootstrap distribution; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def as_plain(self) -> dict[str, float | None]:
        """A dictionary for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


def resamples(label: Ints, number: int, seed: int, subject: Ints | None = None) -> Iterator[Floats]:
    """`number` rows of weights [R, n] in blocks: subjects drawn with replacement, each with all of its stays.

    As many subjects with a positive stay, and as many without one, are drawn as there are. Where each stay is of
    another subject (as without `subject` [n]), every resample so has the positives and negatives of the sample.
    """
    rng = np.random.default_rng(seed)
    row, has_positive = _subjects(label, subject)
    per_block = max(1, WEIGHTS_PER_BLOCK // len(label))
    strata = [np.flatnonzero(has_positive == value) for value in (False, True)]
    for start in range(0, number, per_block):
        rows = min(per_block, number - start)
        weights = np.zeros((rows, len(has_positive)))
        for subjects in (each for each in strata if len(each)):
            drawn = rng.integers(len(subjects), size=(rows, len(subjects)))
            drawn += np.arange(rows)[:, None] * len(subjects)
            weights[:, subjects] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        yield weights if row is None else weights[:, row]


def _subjects(label: Ints, subject: Ints | None) -> tuple[Ints | None, NDArray[np.bool_]]:
    """(place of each stay's subject among the subjects [n], whether each subject has a positive stay [subjects]).

    The first is None where each stay is of another subject, so that subjects are the stays in their order.
    """
    if subject is None or not shares_subjects(subject):
        return None, label == 1
    _, row = np.unique(subject, return_inverse=True)
    return row, np.bincount(row, weights=label == 1) > 0


def shares_subjects(subject: Ints) -> bool:
    """Whether several of these stays [n] are of one subject."""
    return len(np.unique(subject)) < len(subject)


def bootstrap(
    label: Ints,
    metrics: Callable[[Floats], Mapping[Any, Floats]],
    number: int = RESAMPLES,
    seed: int = 0,
    subject: Ints | None = None,
) -> dict[Any, Interval]:
    """Each metric of the whole sample, with its percentile interval over stratified resamples of the subjects.

    `metrics` maps weights [R, n] to values [R]. The same label, subject, number and seed give the same resamples, so
    differences of two models are paired. With zeros in place of the label [n] the number of stays with the outcome
    varies too, as it would in other data; without `subject` [n] stays are resampled.
    """
    values = metrics(np.ones((1, len(label))))
    blocks = [metrics(weights) for weights in resamples(label, number, seed, subject)]
    return {name: _interval(float(values[name][0]), [block[name] for block in blocks]) for name in values}


def _interval(value: float, blocks: list[Floats]) -> Interval:
    if not np.isfinite(value):
        return Interval(None)
    drawn = np.concatenate(blocks) if blocks else np.zeros(0)
    defined = drawn[np.isfinite(drawn)]
    if not len(defined) or len(defined) < (1 - MOST_UNDEFINED) * len(drawn):
        return Interval(value)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def difference(model: Scores, other: Scores, number: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
    """`model` minus `other` on the same stays: AUROC and AUPRC with paired intervals, over the subjects of `model`."""

    def metrics(weights: Floats) -> MetricValues:
        ours, theirs = model.ranking(weights), other.ranking(weights)
        return {name: ours[name] - theirs[name] for name in ours}

    return bootstrap(model.label, metrics, number, seed, model.subject)
