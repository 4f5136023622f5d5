"""The second pass of a compilation: statistics, then raw values -> z-scores and names -> vocabulary, in place.

Letters: V variables. The first pass numbers variables as they appear (provisional codes); the vocabulary is sorted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from seqsetvae.cohort.format import event_blocks
from seqsetvae.cohort.leaks import splits_of_statistics
from seqsetvae.cohort.sidefiles import Stats, check_furthest, check_stats
from seqsetvae.cohort.statistics import Floats, Sums


@dataclass(frozen=True)
class Variables:
    """The variables of a cohort, sorted by name."""

    vocabulary: list[str]
    mean: Floats  # [V], NaN = no statistics
    std: Floats  # [V], likewise
    n_events: NDArray[np.int64]  # [V]
    statistics_of: list[str]  # splits whose means given statistics are


def normalise(
    folder: Path, code_of: Mapping[str, int], n_events: Mapping[str, int], stats: Stats | None, progress: bool
) -> Variables:
    """Normalise all splits of a folder in place.

    Args:
        folder: with the arrays that the first pass wrote.
        code_of: the provisional code of each variable.
        n_events: of each split.
        stats: mean and std by variable; computed from the train split without them.
        progress: show a progress bar if stderr is a terminal.

    Raises:
        InputError: statistics that cannot normalise a variable that occurs, each listed.
    """
    vocabulary = sorted(code_of)
    code = np.array([code_of[name] for name in vocabulary], dtype=np.int64)  # [V] vocabulary -> provisional
    disable = None if progress else True
    with tqdm(
        total=2 * sum(n_events.values()), desc="Computing z-scores", unit="event", unit_scale=True, disable=disable
    ) as bar:
        sums = {split: Sums.of(_blocks(folder / split, bar), len(code)) for split in n_events}
        if stats is None:
            mean, std = (column[code] for column in sums["train"].mean_and_std())
        else:
            check_stats(stats, vocabulary)
            mean, std = np.array([stats.get(name, (np.nan, np.nan)) for name in vocabulary]).T
        low = np.min([of_split.low for of_split in sums.values()], axis=0)[code]
        high = np.max([of_split.high for of_split in sums.values()], axis=0)[code]
        furthest = np.where(mean - low > high - mean, low, high)
        check_furthest(vocabulary, mean, std, furthest, from_file=stats is not None)
        known, vocabulary_index = ~np.isnan(mean), np.argsort(code).astype(np.int32)
        shift, scale = np.where(known, mean, 0.0), np.where(known, std, 1.0)
        for split in n_events:
            for variable, value in _blocks(folder / split, bar):
                variable[:] = vocabulary_index[variable]
                value[:] = (value - shift[variable]) / scale[variable]
    count = np.sum([of_split.count for of_split in sums.values()], axis=0)[code]
    counts = {split: of_split.count[code] for split, of_split in sums.items()}
    totals = {split: of_split.total[code] for split, of_split in sums.items()}
    found = [] if stats is None else splits_of_statistics(mean, counts, totals)
    return Variables(vocabulary, mean, std, count.astype(np.int64), found)


def _blocks(split: Path, bar: tqdm) -> Iterator[tuple[NDArray[np.int32], Floats]]:
    """The (variable, value) of a split in writable blocks of one fixed size, so that sums never depend on threads."""
    arrays = (np.load(split / f"{name}.npy", mmap_mode="r+", allow_pickle=False) for name in ("variable", "value"))
    for variable, value in event_blocks(*arrays):
        yield variable, value
        bar.update(len(value))
