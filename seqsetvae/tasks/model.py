"""A task in training and prediction: its loss, its metrics over a split, and outputs for all stays.

Legend: N stays of a batch, n of a split, K columns of labels, O outputs of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from seqsetvae.batch import Batch
from seqsetvae.metrics import require_finite
from seqsetvae.ops.rowwise import at_least_float32
from seqsetvae.processes import columns_of_all
from seqsetvae.settings.groups import LossSettings
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import Spec


class TaskLoss(nn.Module):
    """The loss of a task, a mean over the labels that there are; it has the methods of head.Loss."""

    positive_weight = 1.0

    def __init__(self, spec: Spec, settings: LossSettings) -> None:
        super().__init__()
        self.spec, self.settings = spec, settings

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean loss of outputs [N, O] and targets [N, K]; NaN without any label."""
        total, count = TASKS[self.spec.task].loss(self.spec, at_least_float32(output), target)
        return total / count

    def weight(self, target: torch.Tensor) -> torch.Tensor:
        """What the mean divides by: the number of labels."""
        return (~target.isnan()).sum()

    def with_weight(self, output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss and what it divides by; (0, 0) without any label."""
        weight = self.weight(target)
        return self(output, target).masked_fill(weight == 0, 0.0), weight


class GatheredOutputs(Metric):
    """Gathers the outputs of all batches and processes, on the device."""

    full_state_update = False
    output: list[torch.Tensor]
    target: list[torch.Tensor]

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        for name in ("output", "target"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, output: torch.Tensor, target: torch.Tensor, stay_id: torch.Tensor) -> None:
        """Add a batch: outputs [N, O], targets [N, K]."""
        self.output.append(output.detach().double())
        self.target.append(target)

    def compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(outputs, targets) of all stays."""
        return dim_zero_cat(self.output), dim_zero_cat(self.target)

    def metrics(self) -> dict[str, torch.Tensor]:
        """The metrics of the task over the stays with a label."""
        output, target = self.compute()
        known = ~target.isnan().all(dim=1)
        return TASKS[self.spec.task].metrics(self.spec, output[known], target[known])


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs of a model for the stays of a split."""

    split: str
    stay_id: torch.Tensor  # [n] int64
    output: torch.Tensor  # [n, O] float64


@torch.inference_mode()
def predict_outputs(
    model: Callable[[Any, torch.Tensor], torch.Tensor],
    embeddings: torch.Tensor,
    batches: Iterable[Batch],
    split: str,
    precision: AbstractContextManager[Any],
) -> Outputs:
    """Outputs of a fine-tuned model for every stay of these batches, ascending by stay.

    Raises:
        FloatingPointError: an output is not finite.
    """
    parts = []
    for cpu_batch in batches:
        batch = cpu_batch.to(embeddings.device)
        with precision:
            output = model(batch, embeddings)
        require_finite(output, cpu_batch.stay_id, split)
        parts.append((cpu_batch.stay_id, output.double().cpu()))
    stay_id, outputs = columns_of_all(parts)
    order = stay_id.argsort()
    return Outputs(split, stay_id[order], outputs[order])
