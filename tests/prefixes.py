"""Stays that are cut off after some of their sets."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from seqsetvae.cohort import Split


def cut_after(split: Split, stay: int, n_sets: int) -> Any:
    """A split in memory of one stay, with its first `n_sets` sets alone."""
    first = int(split.stay_offset[stay])
    offset = np.array(split.set_offset[first : first + n_sets + 1])
    events = slice(int(offset[0]), int(offset[-1]))
    return SimpleNamespace(
        variable=np.array(split.variable[events]),
        value=np.array(split.value[events]),
        set_offset=offset - offset[0],
        minute=np.array(split.minute[first : first + n_sets]),
        stay_offset=np.array([0, n_sets]),
        stay_id=np.array(split.stay_id[stay : stay + 1]),
        label=np.array(split.label[stay : stay + 1]),
    )
