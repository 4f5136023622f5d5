"""Cells of a file of labels, as text → numbers. Legend: n stays, K columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.names import is_empty
from seqsetvae.errors import InputError, shown


def numbers(
    names: tuple[str, ...],
    cells: NDArray[np.str_],
    file: str,
    is_allowed: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
    allowed: str,
) -> NDArray[np.float64]:
    """Text [n, K] → numbers [n, K], NaN for empty cells. Raises InputError naming the first that is not allowed."""
    found = np.full(cells.shape, np.nan)
    for k, name in enumerate(names):
        filled = np.flatnonzero([not is_empty(cell) for cell in cells[:, k].tolist()])
        values = np.array([_number(cell) for cell in cells[filled, k].tolist()], dtype=np.float64)
        wrong = np.flatnonzero(~is_allowed(values))
        if len(wrong):
            cell = cells[filled[wrong[0]], k]
            raise InputError(f"{file}: the column {name!r} has the value {shown(cell)}; allowed: {allowed}")
        found[filled, k] = values
    return found


def _number(cell: str) -> float:
    """NaN where the text is no number."""
    try:
        return float(cell)
    except ValueError:
        return np.nan
