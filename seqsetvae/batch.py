"""The flat ragged batch: the one object that both the loader and the model know.

Legend: E events, S sets, N stays in the batch; P pooled width.
Events are never padded: the sets of a batch are ordered by size, so that sets of one size lie side by side and a
"size run" of them is a plain view [count, size, ...]. Attention over a stay's sets reads grids [stays, sets]: a batch
of stays of similar length is one grid, and a stay of thousands of sets has one without the short ones beside it. What
the model's loops need to know of runs and grids stands on the host (`size_runs`, `grids`), so that no step waits for
the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self

import numpy as np
import torch

MOST_PADDING = 1.5  # slots of a grid for each of its sets; attention then sees at most 1.5² times the pairs it needs
SMALL_SIZES = (1, 8, 16, 48)  # what sets are padded to for a GPU; larger sets to the next doubling of the last


class _OnDevice:
    """A dataclass of tensors and host values that moves as one; Lightning and the DataLoader call these two."""

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        assert is_dataclass(self)
        changed: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, torch.Tensor):
                changed[item.name] = change(value)
            elif isinstance(value, _OnDevice):
                changed[item.name] = value._map(change)
        return replace(self, **changed)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        """The batch on another device; asynchronous where its memory is pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The batch in memory that a GPU can copy from by itself."""
        return self._map(torch.Tensor.pin_memory)


class _OfStays(_OnDevice):
    label: torch.Tensor

    @property
    def n_stays(self) -> int:
        return len(self.label)


@dataclass(eq=False)
class PaddedSizes(_OnDevice):
    """The sets of a batch, padded to a few sizes. A GPU takes them so; a CPU takes exact sizes, without padding."""

    runs: tuple[tuple[int, int], ...]  # on the host: (places per set, how many such sets), ascending
    place: torch.Tensor  # [E] int64, where each event stands among P places: sets one after the other, each padded
    filled: torch.Tensor  # [P] bool, False where there is only padding
    stretch: torch.Tensor  # [S] float64, places of each set for one of its events; sets in ascending order of size


@dataclass(eq=False)
class Batch(_OfStays):
    """N stays with S sets and E events in all; the one object that both the loader and the model know."""

    variable: torch.Tensor  # [E] int64, index into the vocabulary; sets in ascending order of size
    value: torch.Tensor  # [E] float32 (float64 in double precision), z-score of the event's value
    set_row: torch.Tensor  # [S] int64, for each set (stay by stay, in time order) its row in the order by size
    set_index: torch.Tensor  # [S] int64, index of each set in its stay
    slot: torch.Tensor  # [S] int64, place of each set in the grids, which lie end to end: row by row, a stay a row
    minute: torch.Tensor  # [S] float64, minute of each set (float64: minutes since an epoch outgrow float32)
    sets_per_stay: torch.Tensor  # [N] int64
    label: torch.Tensor  # [N] int64, 0 or 1; -1 = no label
    stay_id: torch.Tensor  # [N] int64
    size_runs: tuple[tuple[int, int], ...]  # on the host: (events per set, how many such sets), ascending
    grids: tuple[tuple[int, int], ...]  # on the host: (stays in the grid, most sets of a stay in it), longest first
    padded: PaddedSizes | None = None  # where the batch is made for a GPU

    @property
    def sizes(self) -> tuple[tuple[int, int], ...] | PaddedSizes:
        """What the set encoder runs by: exact sizes, unless the batch carries padded ones."""
        return self.size_runs if self.padded is None else self.padded

    @property
    def n_sets(self) -> int:
        return len(self.minute)

    @property
    def stay_of_set(self) -> torch.Tensor:
        """[S] int64, position in the batch of each set's stay."""
        return torch.repeat_interleave(self.sets_per_stay, output_size=self.n_sets)


@dataclass(eq=False)
class PooledBatch(_OfStays):
    """N stays as a frozen backbone has read them: what is left to do is the head."""

    pooled: torch.Tensor  # [N, P], pooled history
    label: torch.Tensor  # [N] int64, 0 or 1
    stay_id: torch.Tensor  # [N] int64


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenated index ranges [start, start + length) without a Python loop.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def pad_sizes(sizes: np.ndarray) -> PaddedSizes:
    """How sets of these sizes, in ascending order, are padded to a few sizes.

    >>> padded = pad_sizes(np.array([1, 1, 2, 8, 9, 100]))
    >>> padded.runs
    ((1, 2), (8, 2), (16, 1), (192, 1))
    >>> padded.place[:6].tolist(), len(padded.filled), int(padded.filled.sum())
    ([0, 1, 2, 3, 10, 11], 226, 121)
    """
    doublings = int(sizes[-1]).bit_length()
    classes = np.array([*SMALL_SIZES, *(SMALL_SIZES[-1] << k for k in range(1, doublings))])
    places = classes[np.searchsorted(classes, sizes)]
    place = ranges(np.cumsum(places) - places, sizes)
    filled = np.zeros(places.sum(), dtype=bool)
    filled[place] = True
    widths, counts = np.unique(places, return_counts=True)
    return PaddedSizes(
        runs=tuple(zip(widths.tolist(), counts.tolist(), strict=True)),
        place=torch.from_numpy(place),
        filled=torch.from_numpy(filled),
        stretch=torch.from_numpy(places / sizes),
    )


def lay_in_grids(sets_per_stay: np.ndarray) -> tuple[tuple[tuple[int, int], ...], np.ndarray]:
    """Grids (stays, most sets of a stay) that hold the stays, longest first, and where each stay's row starts: [N].

    A grid takes the next shorter stay as long as it has at most MOST_PADDING slots for each of its sets. Stays of
    similar length, as the sampler brings them together, are one grid.

    >>> grids, row_start = lay_in_grids(np.array([3, 1000, 2, 3]))
    >>> grids
    ((1, 1000), (3, 3))
    >>> row_start.tolist()
    [1000, 0, 1006, 1003]
    """
    order = np.argsort(-sets_per_stay, kind="stable")
    grids: list[tuple[int, int]] = []
    held = 0  # sets in the last grid
    for length in sets_per_stay[order].tolist():
        stays, width = grids[-1] if grids else (0, 0)
        if grids and (stays + 1) * width <= MOST_PADDING * (held + length):
            grids[-1] = (stays + 1, width)
            held += length
        else:
            grids.append((1, length))
            held = length
    widths = np.repeat([width for _, width in grids], [stays for stays, _ in grids])
    row_start = np.empty_like(order)
    row_start[order] = np.cumsum(widths) - widths
    return tuple(grids), row_start
