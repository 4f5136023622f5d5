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

import torch


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
