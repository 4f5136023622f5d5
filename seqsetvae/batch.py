"""The flat ragged batch: the one object that both the loader and the model know.

Legend: E events, S sets, N stays in the batch; P pooled width.
Events are never padded: the sets of a batch are ordered by size, so that sets of one size are adjacent and a "size
run" of them is a plain view [count, size, ...]. Attention over a stay's sets reads grids [stays, sets]: a batch of
stays of similar length is one grid, and a stay of thousands of sets has a grid without the short ones. The shapes of
runs and grids, which the model's loops need, are on the host (`size_runs`, `grids`), so that no step waits for the
device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self

import numpy as np
import torch

NO_LABEL = -1
MOST_PADDING = 1.5  # size of a grid for each of its sets; attention then sees at most 1.5² times the pairs it needs
SMALL_SIZES = (1, 8, 16, 48)  # what sets are padded to for a GPU; larger sets: the next doubling of the last


class OnDevice:
    """A dataclass of tensors and host values that moves as one; Lightning and the DataLoader call these two."""

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        assert is_dataclass(self)
        changed: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, torch.Tensor):
                changed[item.name] = change(value)
            elif isinstance(value, OnDevice):
                changed[item.name] = value._map(change)
        return replace(self, **changed)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        """The batch on another device; asynchronous where its memory is pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The batch in memory that a GPU can copy from by itself."""
        return self._map(torch.Tensor.pin_memory)


class _OfStays(OnDevice):
    label: torch.Tensor

    @property
    def n_stays(self) -> int:
        return len(self.label)


@dataclass(eq=False)
class PaddedSizes(OnDevice):
    """The sets of a batch, padded to a few sizes, for a GPU; a CPU uses exact sizes, without padding."""

    runs: tuple[tuple[int, int], ...]  # on the host: (padded size, number of such sets), ascending
    event_position: torch.Tensor  # [E] int64, index of each event among P: all sets in a row, each padded
    is_event: torch.Tensor  # [P] bool, False where there is only padding
    padding_factor: torch.Tensor  # [S] float64, padded size / size of each set; sets in ascending order of size


@dataclass(eq=False)
class Batch(_OfStays):
    """N stays with S sets and E events in all; the one object that both the loader and the model know."""

    variable: torch.Tensor  # [E] int64, index into the vocabulary; sets in ascending order of size
    value: torch.Tensor  # [E] float32 (float64 in double precision), z-score of the event's value
    set_row: torch.Tensor  # [S] int64, for each set (stay by stay, in time order) its row in the order by size
    set_index: torch.Tensor  # [S] int64, index of each set in its stay
    grid_position: torch.Tensor  # [S] int64, index of each set in the grids, concatenated row by row, one row per stay
    minute: torch.Tensor  # [S] float64, minute of each set (float64: minutes since an epoch outgrow float32)
    sets_per_stay: torch.Tensor  # [N] int64
    label: torch.Tensor  # [N] int64, 0 or 1; -1 = no label
    stay_id: torch.Tensor  # [N] int64
    size_runs: tuple[tuple[int, int], ...]  # on the host: (events per set, number of such sets), ascending
    grids: tuple[tuple[int, int], ...]  # on the host: (stays in the grid, most sets of a stay in it), longest first
    padded: PaddedSizes | None = None  # where the batch is made for a GPU
    target: torch.Tensor | None = None  # [N] float32, soft label: probability of class 1; None: the label is the target
    prepared: OnDevice | None = None  # what the architecture computes on the host, if it computes anything

    @property
    def sizes(self) -> tuple[tuple[int, int], ...] | PaddedSizes:
        """The sizes that the set encoder uses: exact ones, unless the batch has padded ones."""
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
    """N stays as cached features of a frozen backbone: only the head remains to be computed."""

    pooled: torch.Tensor  # [N, P], pooled history
    label: torch.Tensor  # [N] int64, 0 or 1
    stay_id: torch.Tensor  # [N] int64
    target: torch.Tensor | None = None  # as in Batch


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
    >>> padded.event_position[:6].tolist(), len(padded.is_event), int(padded.is_event.sum())
    ([0, 1, 2, 3, 10, 11], 226, 121)
    """
    doublings = int(sizes[-1]).bit_length()
    classes = np.array([*SMALL_SIZES, *(SMALL_SIZES[-1] << k for k in range(1, doublings))])
    padded = classes[np.searchsorted(classes, sizes)]
    position = ranges(np.cumsum(padded) - padded, sizes)
    is_event = np.zeros(padded.sum(), dtype=bool)
    is_event[position] = True
    widths, counts = np.unique(padded, return_counts=True)
    return PaddedSizes(
        runs=tuple(zip(widths.tolist(), counts.tolist(), strict=True)),
        event_position=torch.from_numpy(position),
        is_event=torch.from_numpy(is_event),
        padding_factor=torch.from_numpy(padded / sizes),
    )


def lay_in_grids(sets_per_stay: np.ndarray) -> tuple[tuple[tuple[int, int], ...], np.ndarray]:
    """Grids (stays, most sets of a stay) that hold the stays, longest first, and where each stay's row starts: [N].

    A grid takes the next shorter stay as long as it has at most MOST_PADDING positions for each of its sets. Stays of
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
