"""A task in training: its loss, and its metrics over a split.

Legend: N stays of a batch, n of a split, K columns of labels, O outputs.
"""

from __future__ import annotations

import torch
from torch import nn
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.utilities import dim_zero_cat

from seqsetvae.ops.rowwise import at_least_float32
from seqsetvae.settings.groups import LossSettings
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import Spec, one_label


class Loss(nn.Module):
    """The loss of fine-tuning, in float32 at least, a mean over the labels that there are."""

    class_weight: torch.Tensor

    def __init__(self, settings: LossSettings, positive_weight: float = 1.0, spec: Spec = one_label()) -> None:  # noqa: B008  (frozen)
        """`positive_weight` is the number that `settings.class_weight` stands for, on the data of the run."""
        super().__init__()
        self.spec, self.settings, self.positive_weight = spec, settings, positive_weight
        self.register_buffer("class_weight", torch.tensor([1.0, positive_weight]), persistent=False)

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean loss of outputs [N, O] and targets as a batch has them; NaN without any label."""
        output = at_least_float32(output)
        return TASKS[self.spec.task].loss(self.spec, output, target, self.settings, self.class_weight)

    def weight(self, target: torch.Tensor) -> torch.Tensor | float:
        """What the mean over these stays, which all have a label, divides by: the sum of their weights."""
        one_each = target.ndim == 1 and self.positive_weight == 1
        return float(len(target)) if one_each else TASKS[self.spec.task].weight(target, self.class_weight)

    def with_weight(self, output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss and what it divides by, where stays may lack a label; (0, 0) if all do."""
        weight = TASKS[self.spec.task].weight(target, self.class_weight)
        return self(output, target).masked_fill(weight == 0, 0.0), weight


class GatheredOutputs(Metric):
    """Gathers the outputs of all batches, and in `compute` those of all processes, on the device."""

    full_state_update = False
    output: list[torch.Tensor]
    target: list[torch.Tensor]

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        for name in ("output", "target"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch: outputs of the head, and targets [N, K], or [N] labels that are -1 where there is none."""
        self.output.append(TASKS[self.spec.task].predicted(output))
        self.target.append(target.reshape(len(output), -1))

    def compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(outputs [n, O], targets [n, K]) of all stays."""
        return dim_zero_cat(self.output), dim_zero_cat(self.target)

    def metrics(self) -> dict[str, torch.Tensor]:
        """The metrics of the task over the labelled stays; stays that pad batches of processes have no label."""
        output, target = self.compute()  # one number alone comes as a scalar
        shape = (-1, self.spec.width), (-1, len(self.spec.names))
        return TASKS[self.spec.task].metrics(self.spec, output.reshape(shape[0]), target.reshape(shape[1]))


def mean_ranking(output: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """AUROC and average precision, means over the labels of which both classes occur: log-odds and 0/1/NaN [n, K]."""
    auc, auprc = [], []
    for column, label in zip(output.double().T, target.T, strict=True):
        known = ~label.isnan()
        score, truth = ranking_score(column[known]), label[known].long()
        if 0 < int(truth.sum()) < len(truth):
            auc.append(binary_auroc(score, truth, validate_args=False))
            auprc.append(binary_average_precision(score, truth, validate_args=False))
    undefined = torch.full((1,), torch.nan, device=output.device)
    return {name: torch.stack(values or [undefined[0]]).mean() for name, values in (("auc", auc), ("auprc", auprc))}


def ranking_score(logit: torch.Tensor) -> torch.Tensor:
    """Scores in (0, 1) that rank stays exactly as their log-odds do: [n] → [n], the ranks of their distinct values.

    Not the probability: a sigmoid rounds large log-odds to the same number, and those ties would change the AUROC. Any
    other function that squeezes all log-odds into (0, 1) does so too, only later.
    """
    distinct, rank = logit.unique(return_inverse=True)
    return (rank.double() + 0.5) / len(distinct)
