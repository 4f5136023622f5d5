"""The flat ragged batch, which the loader makes and the model reads.

Legend: E events, S sets, N stays in the batch; P pooled width.
Events are never padded: the sets of a batch are ordered by size, so that sets of one size are adjacent and a "size
run" of them is a plain view [count, size, ...] (`ops.ragged`). Attention over a stay's sets reads padded grids
(`ops.attention`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from multiprocessing.reduction import ForkingPickler
from typing import Any, Self

import numpy as np
import torch

from seqsetvae.ops.attention import Grids
from seqsetvae.ops.ragged import ExactSizes, PaddedSizes

NO_LABEL = -1


def map_tensors(item: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """Apply `change` to every tensor of a value, in dataclasses too."""
    return _map(item, torch.Tensor, change)


def _map(item: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Apply `change` to everything of type `kind` in a value, in dataclasses too."""
    if isinstance(item, kind):
        return change(item)
    if is_dataclass(item) and not isinstance(item, type):
        return replace(item, **{field.name: _map(getattr(item, field.name), kind, change) for field in fields(item)})
    return item


class _StayTensors:
    """Tensors and host values that move as one: Lightning calls `to`, the DataLoader `pin_memory`."""

    label: torch.Tensor
    target: torch.Tensor | None

    @property
    def n_stays(self) -> int:
        return len(self.label)

    def without_labels(self) -> Self:
        """A copy of the batch in which no stay has a label."""
        target = None if self.target is None else torch.full_like(self.target, torch.nan)
        return replace(self, label=torch.full_like(self.label, NO_LABEL), target=target)  # type: ignore[type-var]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        """The batch on another device; asynchronous where its memory is pinned."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The batch in memory that a GPU can copy from by itself."""
        return map_tensors(self, torch.Tensor.pin_memory)


@dataclass(eq=False)
class Batch(_StayTensors):
    """N stays with S sets and E events in all."""

    variable: torch.Tensor  # [E] int64, index into the vocabulary; sets in ascending order of size
    value: torch.Tensor  # [E] float32 (float64 in double precision), z-score of the event's value
    sizes: ExactSizes | PaddedSizes  # of the sets, in that order; padded where the batch is made for a GPU
    set_row: torch.Tensor  # [S] int64, for each set (stay by stay, in time order) its row in the order by size
    set_index: torch.Tensor  # [S] int64, index of each set in its stay
    grids: Grids  # position of each set for attention over the sets of a stay
    minute: torch.Tensor  # [S] float64, minute of each set (float64: minutes since an epoch outgrow float32)
    sets_per_stay: torch.Tensor  # [N] int64
    label: torch.Tensor  # [N] int64, 0 or 1; -1 = no label
    stay_id: torch.Tensor  # [N] int64
    # float32 [N, K], targets of another task than one binary label, NaN = none; None: the label is the target
    target: torch.Tensor | None = None
    prepared: Any = None  # what the architecture computes on the host, if it computes anything

    @property
    def n_sets(self) -> int:
        return len(self.minute)

    @property
    def stay_of_set(self) -> torch.Tensor:
        """[S] int64, position in the batch of each set's stay."""
        return torch.repeat_interleave(self.sets_per_stay, output_size=self.n_sets)

    @property
    def set_of_event(self) -> torch.Tensor:
        """[E] int64, the set of each event, stay by stay and in time order."""
        device, set_of_row = self.set_row.device, torch.empty_like(self.set_row)
        set_of_row[self.set_row] = torch.arange(self.n_sets, device=device)
        return set_of_row.repeat_interleave(self.sizes.events_per_set(device), output_size=len(self.variable))


@dataclass(frozen=True, eq=False)
class _Sent:
    """A tensor on its way from a loader process."""

    array: np.ndarray


def _as_arrays(batch: Batch) -> tuple[Any, ...]:
    """How a loader process sends a batch: as bytes, through its pipe.

    PyTorch would put each tensor into shared memory of its own, which is an open file until the tensor is freed. Ids of
    a whole epoch are kept, so a thousand batches would exceed the usual limit of open files.
    """
    parts = [getattr(batch, field.name) for field in fields(batch)]
    return _of_arrays, ([map_tensors(part, lambda tensor: _Sent(tensor.numpy())) for part in parts],)


def _of_arrays(parts: list[Any]) -> Batch:
    return Batch(*(_map(part, _Sent, lambda sent: torch.from_numpy(sent.array)) for part in parts))


ForkingPickler.register(Batch, _as_arrays)


@dataclass(eq=False)
class PooledBatch(_StayTensors):
    """Cached features of a frozen backbone for N stays; only the head remains to be computed."""

    pooled: torch.Tensor  # [N, P], pooled history
    label: torch.Tensor  # [N] int64, 0 or 1
    stay_id: torch.Tensor  # [N] int64
    target: torch.Tensor | None = None  # as in Batch
    prepared: Any = None  # as in Batch, where not all of the model is frozen
