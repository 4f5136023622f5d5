"""Whether training can see what it is tested on: patients in two splits, events after the label's time, statistics.

A compilation refuses or removes the first two. They are looked for again in a compiled cohort, which may have been made
in another way.

Letters: V variables.
"""

from collections.abc import Mapping
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort, Split
from seqsetvae.cohort.variables import FILE

CLOSE = 0.01  # of the distance between two means
FEWEST_VARIABLES = 3  # whose means can tell splits apart


def leaks(cohort: Cohort) -> list[str]:
    """What validation or test data told training, a line each; empty if nothing was found."""
    lines = []
    for first, second in combinations(cohort.splits.values(), 2):
        shared = np.intersect1d(first.subject_id, second.subject_id)
        if len(shared):
            lines.append(f"leak: {len(shared):,} patients have stays in both {first.name} and {second.name}")
    for split in cohort.splits.values():
        late = int((_last_minute(split) >= split.prediction_minute).sum())  # NaN: no prediction time, never late
        if late:
            lines.append(f"leak: {late:,} stays of {split.name} have events at or after their prediction time")
    told = [name for name in _splits_of_file(cohort) if name != "train"]
    if told:
        lines.append(
            f"leak: the means in stats.csv are those of {' and '.join(told)} data too: compute the statistics from the "
            "training split alone (leave stats.csv out, and they are)"
        )
    return lines


def _last_minute(split: Split) -> NDArray[np.float64]:
    return split.minute[split.stay_offset[1:] - 1]


def _splits_of_file(cohort: Cohort) -> list[str]:
    """The splits whose means those of a stats.csv are."""
    if cohort.variables.statistics != FILE:
        return []
    sums = {name: cohort.sums(name) for name in cohort.splits}
    counts, totals = ({name: getattr(each, what) for name, each in sums.items()} for what in ("count", "total"))
    return splits_of_statistics(cohort.mean, counts, totals)


def splits_of_statistics(
    mean: NDArray[np.float64], count: Mapping[str, NDArray[np.float64]], total: Mapping[str, NDArray[np.float64]]
) -> list[str]:
    """The splits whose values given means [V] are the means of; empty if they are of none, or it cannot be told.

    Args:
        mean: given, NaN = none.
        count, total: number and sum of the values of each variable by split, [V] each.
    """
    others = [name for name in count if name != "train"]
    if not others or "train" not in count:
        return []
    with np.errstate(invalid="ignore", divide="ignore"):
        of_train = total["train"] / count["train"]
        for names in chain.from_iterable(combinations(count, size) for size in range(1, len(count) + 1)):
            if names == ("train",):
                continue
            theirs = sum(total[name] for name in names) / sum(count[name] for name in names)
            distance = np.abs(theirs - of_train)
            tells = (distance > 1e-9 * np.abs(of_train)) & np.isfinite(mean) & np.isfinite(distance)
            fits = np.abs(mean - theirs) <= CLOSE * distance
            if tells.sum() >= FEWEST_VARIABLES and fits[tells].mean() > 0.5:
                return list(names)
    return []
