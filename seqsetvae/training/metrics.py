"""Metrics over a split: mean losses, and whether all outputs are finite.

Each is a torchmetrics Metric: it adds up on the device, without a host sync per step, and reduces over processes.

Legend: N stays, P width of an output.
"""

from __future__ import annotations

import torch
from torchmetrics import Metric


class NotFiniteError(FloatingPointError):
    """A loss or metric is not finite, in a batch of training or validation that `batch` counts from 0."""

    def __init__(self, message: str, batch: int | None = None, *, in_training: bool = False) -> None:
        super().__init__(message)
        self.batch, self.in_training = batch, in_training


class RunningMean(Metric):
    """Weighted mean of a loss over the batches of an epoch, summed on the device and read once, at the end.

    Lightning's `log` computes the same sums, but a call in every step takes longer than a training step of the head.
    torchmetrics' MeanMetric checks for NaN with a host sync in every step; with that check off it ignores the weights
    (version 1.9). Here a NaN must remain visible.
    """

    full_state_update = False
    total: torch.Tensor
    weight: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")  # takes the type of a loss
        self.add_state("weight", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")  # counts stay exact
        self._total: torch.Tensor | float = 0.0  # of the batches that are not yet in the states
        self._weight: torch.Tensor | float = 0.0

    def add(self, value: torch.Tensor, weight: torch.Tensor | float) -> None:
        """Add the mean of the next batch; `weight` is what that mean was divided by, such as its number of stays.

        A vector of several means is added entry by entry.

        This is not `update`, because torchmetrics' wrapper around it is slow beside a training step of the head.
        """
        self._total = self._total + value.detach() * weight
        self._weight = self._weight + weight

    def so_far(self) -> torch.Tensor | None:
        """The mean over the batches of this process since the last reset, on the device; None before the first."""
        return self._total / self._weight if isinstance(self._total, torch.Tensor) else None

    def partial(self) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        """The sums of this process since the last reset, for a checkpoint inside an epoch."""
        return self._total, self._weight

    def restore(self, partial: tuple[torch.Tensor | float, torch.Tensor | float], device: torch.device) -> None:
        """Continue from the sums that `partial` returned."""
        self._total, self._weight = (part.to(device) if isinstance(part, torch.Tensor) else part for part in partial)

    def update(self) -> None:
        """Add the batches so far to the states, which are reduced over processes."""
        self.total, self.weight = self.total + self._total, self.weight + self._weight
        self._total = self._weight = 0.0

    def compute(self) -> torch.Tensor:
        """The mean over all batches of all processes since the last reset."""
        return (self.total / self.weight).to(self.total.dtype)

    def compute_and_reset(self) -> torch.Tensor:
        """The mean over all batches of all processes since the last call."""
        self.update()
        mean = self.compute()
        self.reset()
        return mean


class FiniteCheck(Metric):
    """Whether every validation batch is finite; counted on the device and read once, at the end."""

    full_state_update = False
    count: torch.Tensor
    first: torch.Tensor
    NONE = 2**62  # above every index

    def __init__(self) -> None:
        super().__init__()
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")  # batches that are not finite
        self.add_state("first", torch.tensor(self.NONE), dist_reduce_fx="min")  # index of the first of them

    def update(self, values: torch.Tensor, batch_index: int) -> None:
        """Check the logits or the loss of a batch."""
        finite = values.isfinite().all()
        self.count = self.count + ~finite
        self.first = self.first.minimum(finite * self.NONE + batch_index)  # where() would copy its scalars to the GPU

    def compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(number of batches that are not finite, index of the first of them)."""
        return self.count, self.first

    def check_and_reset(self, metric: str) -> None:
        """Raises NotFiniteError if a batch was not finite, before anything ranks this epoch by it."""
        count, first = map(int, self.compute())
        self.reset()
        if count:
            raise NotFiniteError(
                f"{metric} is not finite: the model output is NaN or infinite in {count} validation batches, first in "
                f"batch {first}. Lower the learning rates, or use --precision 32-true. If there is a best.ckpt, it is "
                "from an earlier epoch.",
                batch=first,
            )


class NotFiniteOutputError(FloatingPointError):
    """The output for some stays is NaN or infinite, where only the data or the checkpoint can be the cause."""

    def __init__(self, stays: list[int], split: str, where: str = "") -> None:
        self.stays, self.split = stays, split
        super().__init__(
            f"The model output is NaN or infinite for {where or f'stay {stays[0]}'} of the {split} split. Check the "
            "values of that stay (python data.py check), or use --precision 32-true."
        )


def require_finite(rows: torch.Tensor, stay_id: torch.Tensor, split: str) -> None:
    """Check outputs in evaluation, where only the data or the checkpoint can be the cause: rows [N, P], stay_id [N].

    Raises:
        NotFiniteOutputError: naming the first stay whose row is not finite.
    """
    broken = ~rows.reshape(len(rows), -1).isfinite().all(dim=1).cpu()
    if broken.any():
        raise NotFiniteOutputError(stay_id.cpu()[broken].tolist(), split)
