"""No stay twice, and no subject in two splits: a model must not be tested on what it was trained on."""

from collections.abc import Callable
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.tidy import Source, Stay
from seqsetvae.errors import InputError


def require_separate_splits(source: Source) -> None:
    """Raises InputError if a stay occurs twice, or stays of one subject are in several splits."""
    sizes = list(map(len, source.stays.values()))
    keys = ((stay.stay_id, stay.subject) for stay in chain.from_iterable(source.stays.values()))
    stay, subject = np.fromiter(keys, np.dtype((np.int64, 2)), sum(sizes)).T  # both [all stays]
    leak = "so that a model could be tested on what it was trained on"
    _refuse(
        _repeated(stay),
        lambda stay, _: (stay.stay_id, stay.file),
        source,
        f"stays occur in more than one file or split, {leak}",
        "Keep one file for each stay.",
    )
    of_split = [np.unique(numbers) for numbers in np.split(subject, np.cumsum(sizes)[:-1])]
    _refuse(
        _repeated(np.concatenate(of_split)),
        lambda stay, split: (stay.subject, split),
        source,
        f"subjects have stays in more than one split, {leak}",
        "Put all stays of a subject into one split.",
    )


def _repeated(numbers: NDArray[np.int64]) -> list[int]:
    """The numbers that occur more than once, ascending."""
    numbers = np.sort(numbers)
    return np.unique(numbers[1:][numbers[1:] == numbers[:-1]]).tolist()


def _refuse(
    numbers: list[int], found_at: Callable[[Stay, str], tuple[int, str]], source: Source, fault: str, advice: str
) -> None:
    """Raises InputError listing these numbers, if there are any, with where each was found."""
    if not numbers:
        return
    found: dict[int, dict[str, None]] = {number: {} for number in numbers}
    for split, stays in source.stays.items():
        for number, where in (found_at(stay, split) for stay in stays):
            if number in found:
                found[number][where] = None
    shown = "".join(f"\n  {number}: {', '.join(found[number])}" for number in numbers[:10])
    more = f"\n  and {len(numbers) - 10:,} more" if len(numbers) > 10 else ""
    raise InputError(f"{len(numbers):,} {fault}:{shown}{more}\n{advice}")
