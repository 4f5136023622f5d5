"""Events that occur twice (the same id, time, variable and value), in two files or in one: counted, never dropped.

Letters: R records of a block, F files.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.tables.database import Records
from seqsetvae.errors import InputError, counted

TOO_MANY = 0.5  # of the events of a file: so many are in another file only where one is there twice
FEWEST = 10  # events that are: fewer may be equal by chance
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def repeats(events: Records, files: Sequence[tuple[int, Path]]) -> list[str]:
    """How many events occur twice, in words; empty if none does. `files`: row of the first of each, counted over all.

    Raises:
        InputError: half of the events of a file, or more, are in another one.
    """
    first_row = np.array([row for row, _ in files])
    pairs: Counter[tuple[int, int]] = Counter()
    size = np.zeros(len(files), dtype=np.int64)
    for records in events.blocks():
        pairs.update(_pairs(records, first_row))
        size += _by_file(records, first_row)
    for (one, other), n in pairs.items():
        if one != other and n >= max(FEWEST, TOO_MANY * min(size[one], size[other])):
            at = one if size[one] < size[other] else other
            raise InputError(
                f"{files[at][1]}: {n:,} of its {size[at]:,} events are in {files[one + other - at][1]} too (the same "
                "id, time, variable and value), as if a file were there twice. Remove one of the two."
            )
    across = sum(n for (one, other), n in pairs.items() if one != other)
    within = pairs.total() - across
    parts = [
        f"{counted(n, 'event')} {what}" for n, what in ((across, "in two files"), (within, "twice in a file")) if n
    ]
    of_all = f"{pairs.total() / max(size.sum(), 1):.1%} of all"
    return [f"the same id, time, variable and value: {' and '.join(parts)}, {of_all}; all are kept"] if parts else []


def _by_file(records: NDArray[Any], first_row: NDArray[np.int64]) -> NDArray[np.int64]:
    """[F] The number of records of each file."""
    if len(first_row) == 1:
        return np.array([len(records)])
    return np.bincount(np.searchsorted(first_row, records["row"], side="right") - 1, minlength=len(first_row))


def _pairs(records: NDArray[Any], first_row: NDArray[np.int64]) -> Counter[tuple[int, int]]:
    """(file of the first, file of another) for all events that are equal to an earlier one, with their number."""
    value = np.where(np.isnan(records["value"]), np.nan, records["value"] + 0.0)  # + 0.0: minus zero equals zero
    key = records["id"].astype(np.uint64) << np.uint64(32) | records["code"].astype(np.uint32)
    for column in (value, np.ascontiguousarray(records["time"]), np.zeros(len(key))):
        key *= _FACTOR  # odd, so that different numbers stay different
        key ^= key >> np.uint64(32)
        key ^= column.view(np.uint64)
    in_order = np.sort(key)
    twice = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    if not len(twice):
        return Counter()
    at = np.minimum(np.searchsorted(twice, key), len(twice) - 1)
    chosen = np.flatnonzero(twice[at] == key)
    group, row = at[chosen], records["row"][chosen]
    order = np.lexsort((row, group))
    group, file = group[order], np.searchsorted(first_row, row[order], side="right") - 1
    start = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    first = np.repeat(file[start], np.diff(np.append(start, len(group))))
    again = np.ones(len(group), dtype=bool)
    again[start] = False
    found, n = np.unique(np.stack([first[again], file[again]]), axis=1, return_counts=True)
    return Counter({(one, other): k for one, other, k in zip(*found.tolist(), n.tolist(), strict=True)})
