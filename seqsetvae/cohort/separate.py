"""No stay twice, and no subject in two splits: a model must not be tested on what it was trained on."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.tidy import Stay, Stays
from seqsetvae.errors import InputError


def require_separate_splits(stays: Mapping[str, Stays]) -> None:
    """Raises InputError if a stay occurs twice, or stays of one subject are in several splits."""
    leak = "so that a model could be tested on what it was trained on"
    numbers = {split: of_split.stay_id for split, of_split in stays.items()}
    fault = f"stays occur in more than one file or split, {leak}"
    _refuse(numbers, numbers, stays, lambda stay, _: stay.file, fault, "Keep one file for each stay.")
    subjects = {split: of_split.subject for split, of_split in stays.items()}
    once = {split: np.unique(of_split) for split, of_split in subjects.items()}
    fault = f"subjects have stays in more than one split, {leak}"
    _refuse(once, subjects, stays, lambda _, split: split, fault, "Put all stays of a subject into one split.")


def _refuse(
    once: Mapping[str, NDArray[np.int64]],
    numbers: Mapping[str, NDArray[np.int64]],
    stays: Mapping[str, Stays],
    where: Callable[[Stay, str], str],
    fault: str,
    advice: str,
) -> None:
    """Raises InputError listing what is several times in `once`, with where each is; `numbers` [N] are of the stays."""
    in_order = np.sort(np.concatenate([np.zeros(0, np.int64), *once.values()]))
    repeated = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    if not len(repeated):
        return
    found: dict[int, dict[str, None]] = {number: {} for number in repeated[:10].tolist()}
    for split, of_split in numbers.items():
        for at in np.flatnonzero(np.isin(of_split, repeated[:10])).tolist():
            found[int(of_split[at])][where(stays[split][at], split)] = None
    shown = "".join(f"\n  {number}: {', '.join(places)}" for number, places in found.items())
    more = f"\n  and {len(repeated) - 10:,} more" if len(repeated) > 10 else ""
    raise InputError(f"{len(repeated):,} {fault}:{shown}{more}\n{advice}")
