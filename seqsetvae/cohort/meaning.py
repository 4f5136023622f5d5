"""Whether the variables of a cohort mean what they meant to a checkpoint.

Letters: V variables, E events of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from seqsetvae.cohort.exports.rows import raw_values
from seqsetvae.cohort.format import Cohort, event_blocks
from seqsetvae.cohort.statistics import Block, Floats, Sums


def variables_changed(cohort: Cohort, recorded: Mapping[str, str]) -> list[str]:
    """The variables whose mean, std or embedding differs from that of these fingerprints (`Cohort.fingerprints`).

    Versions before December 2026 read the training events a second time for the std, which gave it other last bits
    (2e-13 of it at most on PhysioNet 2012). So where they differ, both kinds of std are computed again from the values,
    and a variable that has either is unchanged.

    Returns:
        Names that both have, sorted.
    """
    changed = _different(cohort, recorded)
    if not changed or cohort.manifest["statistics"] != "train split":
        return changed
    sums = Sums.of(_raw_blocks(cohort), len(cohort.vocabulary))
    mean, std = sums.mean_and_std()
    for squares in (sums.squares, _squares_of_a_second_read(cohort, sums)):
        std = replace(sums, squares=squares).mean_and_std()[1]
        changed = sorted(set(changed) & set(_different(replace(cohort, mean=mean, std=std), recorded)))
    return changed


def _different(cohort: Cohort, recorded: Mapping[str, str]) -> list[str]:
    ours = cohort.fingerprints()
    return sorted(name for name in ours.keys() & recorded.keys() if ours[name] != recorded[name])


def _raw_blocks(cohort: Cohort) -> Iterator[Block]:
    """The training events in the blocks of a compilation, in the unit of each variable."""
    train = cohort.split("train")
    for variable, value in event_blocks(train.variable, train.value):
        yield variable, raw_values(cohort, variable, value)


def _squares_of_a_second_read(cohort: Cohort, sums: Sums) -> Floats:
    """Sums of squared distances to the mean [V], as versions before December 2026 added them."""
    mean = sums.total / np.maximum(sums.count, 1)
    squares = np.zeros(len(mean))
    for variable, value in _raw_blocks(cohort):
        squares += np.bincount(variable, weights=(value - mean[variable]) ** 2, minlength=len(mean))
    return squares
