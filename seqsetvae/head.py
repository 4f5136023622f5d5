"""The classification head, its loss, and how checkpoints record the settings of both.

Legend: N stays, P pooled width, C = 2 classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from seqsetvae.batch import NO_LABEL
from seqsetvae.ops.rowwise import at_least_float32
from seqsetvae.settings.groups import FinetuningRates, HeadSettings, LossSettings

CLASSES = 2  # survived, died: two logits, as the checkpoints of the old scripts have them


class Head(nn.Module):
    """Linear → ReLU → Dropout → Linear."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        """`width` is P."""
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, CLASSES))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled history [N, P] → logits [N, 2], in float32 at least, whatever the precision of the run."""
        with torch.autocast(pooled.device.type, enabled=False):
            return self.net(at_least_float32(pooled))


def cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, class_weight: torch.Tensor | None = None, smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy of logits [N, 2] and classes [N], a weighted mean over the stays with a label.

    `class_weight` [2] weighs the stays of each class; `smoothing` is the fraction of each target that is spread evenly
    over both classes (Szegedy et al., 2016).
    """
    logits = at_least_float32(logits)
    weight = None if class_weight is None else class_weight.to(logits)
    return F.cross_entropy(logits, target, weight=weight, ignore_index=NO_LABEL, label_smoothing=smoothing)


def focal(logits: torch.Tensor, target: torch.Tensor, gamma: float, alpha: float | None) -> torch.Tensor:
    """Focal loss (Lin et al., 2017, equation 5) of logits [N, 2] and classes [N], a mean over the stays with a label.

    `alpha` weighs class 1 and 1 - alpha class 0; None weighs both by 1. It is computed from log-probabilities, so that
    it is finite for a confident wrong prediction.
    """
    log_probabilities = F.log_softmax(at_least_float32(logits), dim=1)
    log_probability = log_probabilities.gather(1, target.clamp_min(0)[:, None]).squeeze(1)  # [N], of the true class
    # The lower limit keeps the gradient of the power finite for a confident right prediction and gamma below 1.
    miss = (-torch.expm1(log_probability)).clamp_min(torch.finfo(log_probability.dtype).tiny)  # 1 - probability
    loss = -(miss**gamma) * log_probability
    if alpha is not None:
        loss = loss * torch.where(target == 1, alpha, 1 - alpha)
    labelled = target != NO_LABEL
    return (loss * labelled).sum() / labelled.sum()


class Loss(nn.Module):
    """The loss of fine-tuning, in float32 at least. Stays without a label have no part in it."""

    class_weight: torch.Tensor

    def __init__(self, settings: LossSettings, positive_weight: float = 1.0) -> None:
        """`positive_weight` is the number that `settings.class_weight` stands for, on the data of the run."""
        super().__init__()
        self.settings, self.positive_weight = settings, positive_weight
        self.register_buffer("class_weight", torch.tensor([1.0, positive_weight]), persistent=False)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean loss of logits [N, 2] and classes [N]; NaN if no stay has a label."""
        settings = self.settings
        if settings.loss == "focal":
            return focal(logits, target, settings.focal_gamma, settings.focal_alpha)
        return cross_entropy(logits, target, self.class_weight, settings.label_smoothing)

    def weight(self, target: torch.Tensor) -> torch.Tensor | float:
        """What the mean over these stays, which all have a label, divides by: the sum of their class weights."""
        return self.class_weight[target].sum() if self.positive_weight != 1 else float(len(target))

    def with_weight(self, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss and what it divides by, where stays may lack a label; (0, 0) if all do."""
        weight = target != NO_LABEL
        if self.positive_weight != 1:
            weight = self.class_weight[target.clamp_min(0)] * weight
        weight = weight.sum()
        return self(logits, target).masked_fill(weight == 0, 0.0), weight


# Checkpoints keep the names that these settings had before they were flags, so that all of them can be read.


def recorded_settings(
    head: HeadSettings, loss: Loss, rates: FinetuningRates, weight_decay: float
) -> dict[str, dict[str, Any]]:
    """What a fine-tuned checkpoint records of its settings in `hyper_parameters`."""
    settings = loss.settings
    return {
        "head": {"pooling": head.head_pooling, "hidden": head.head_hidden, "dropout": head.head_dropout},
        "loss": {
            "name": settings.loss,
            "positive_weight": loss.positive_weight,
            "label_smoothing": settings.label_smoothing,
            "focal_gamma": settings.focal_gamma,
            "focal_alpha": settings.focal_alpha,
        },
        "optimizer": {"head_lr": rates.cls_head_lr, "backbone_lr": rates.lr, "weight_decay": weight_decay},
    }


def head_settings(recorded: dict[str, Any]) -> HeadSettings:
    """The settings of a head from what its checkpoint records of them. Raises KeyError."""
    return HeadSettings(
        head_pooling=recorded["pooling"], head_hidden=recorded["hidden"], head_dropout=recorded["dropout"]
    )
