"""Cells of a file of labels, as text → numbers, and what tasks with labels of their own say of them.

Legend: n stays, K columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.names import is_empty
from seqsetvae.system.errors import InputError, shown
from seqsetvae.tasks.spec import Spec

if TYPE_CHECKING:
    import torch

FEW_STAYS = 100  # below this the metrics are too uncertain for a conclusion


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


def labels(spec: Spec, target: NDArray[np.float64]) -> dict[str, np.ndarray]:
    """The columns of targets [n, K] for a table, as the file of labels has them; where there is none, anything."""
    known = np.nan_to_num(target)
    columns = np.array(spec.classes)[known.astype(np.int64)] if spec.classes else known
    return dict(zip(spec.names, columns.T, strict=True))


def counts(target: NDArray[np.float64]) -> dict[str, Any]:
    """What is said of the labels of a group of stays besides their number."""
    return {}


def strata(target: NDArray[np.float64]) -> NDArray[np.int64]:
    """Every resample draws from all stays alike."""
    return np.zeros(len(target), dtype=np.int64)


def cautions(target: NDArray[np.float64], figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader must know before believing the metrics of these stays: targets [n, K]."""
    text = f"Only {len(target):,} stays have a label: below {FEW_STAYS} the metrics are uncertain."
    return [text] * (len(target) < FEW_STAYS)


def predicted(output: torch.Tensor) -> torch.Tensor:
    """As the head gives them."""
    return output.detach().double()


def weight(target: torch.Tensor, class_weight: Any = None) -> torch.Tensor:
    """The number of labels in targets [N, K]."""
    return (~target.isnan()).sum()
