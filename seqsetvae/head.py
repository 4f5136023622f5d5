"""The classification head, alone or as an ensemble, its loss, and how checkpoints record the settings of both.

Legend: N stays, P pooled width, H hidden width, K members of an ensemble, O outputs: 2 for one binary label, as many as
a task needs otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from seqsetvae.batch import NO_LABEL
from seqsetvae.ops.rowwise import at_least_float32
from seqsetvae.settings.groups import FinetuningRates, HeadSettings, LossSettings

CLASSES = 2  # survived, died: two logits, as the checkpoints of the old scripts have them


class Head(nn.Module):
    """Linear → ReLU → Dropout → Linear."""

    def __init__(self, width: int, hidden: int, dropout: float, outputs: int = CLASSES) -> None:
        """`width` is P."""
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled history [N, P] → outputs [N, O], in float32 at least, whatever the precision of the run."""
        with torch.autocast(pooled.device.type, enabled=False):
            return self.net(at_least_float32(pooled))


class EnsembleHead(nn.Module):
    """K two-layer heads with shared matrices and scales and biases of their own (BatchEnsemble, Wen et al., 2020).

    Each member is trained on its own loss, and the prediction is the mean of their log-odds (TabM, Gorishniy et al.,
    2025): about the accuracy of an ensemble at the cost of one head.
    """

    def __init__(self, width: int, hidden: int, dropout: float, members: int, outputs: int | None = None) -> None:
        """`width` is P; without `outputs` there is one number, the log-odds of class 1."""
        super().__init__()
        shape = (members,) if outputs is None else (members, outputs)
        self.shared = nn.Linear(width, hidden, bias=False)
        self.scale_in = nn.Parameter(torch.randint(0, 2, (members, width)).float() * 2 - 1)
        self.scale_hidden = nn.Parameter(torch.ones(members, hidden))
        self.bias_hidden = nn.Parameter((torch.rand(members, hidden) * 2 - 1) / width**0.5)
        self.out = nn.Parameter(torch.randn(*shape, hidden) / hidden**0.5)
        self.bias = nn.Parameter(torch.zeros(shape))
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled history [N, P] → outputs of each member [N, K, O] in training, of their mean [N, O] otherwise."""
        with torch.autocast(pooled.device.type, enabled=False):
            x = at_least_float32(pooled)[:, None] * self.scale_in  # [N, K, P]
            hidden = self.dropout(torch.relu(self.shared(x) * self.scale_hidden + self.bias_hidden))
            if self.out.ndim == 3:
                outputs = torch.einsum("nkh,koh->nko", hidden, self.out) + self.bias
                return outputs if self.training else outputs.mean(1)
            log_odds = (hidden * self.out).sum(2) + self.bias
            log_odds = log_odds if self.training else log_odds.mean(1)
            return torch.stack([-log_odds / 2, log_odds / 2], dim=-1)


def build_head(width: int, settings: HeadSettings, outputs: int | None = None) -> Head | EnsembleHead:
    """A head on pooled histories of this width (P); without `outputs` (O) that of one binary label."""
    shape = width, settings.head_hidden, settings.head_dropout
    if settings.head_members > 1:
        return EnsembleHead(*shape, settings.head_members, outputs)
    return Head(*shape, CLASSES if outputs is None else outputs)


def set_prior(head: Head | EnsembleHead, prevalence: float) -> None:
    """Let an untrained ensemble start at the prevalence, so that its first steps are not spent on that."""
    if isinstance(head, EnsembleHead):
        nn.init.constant_(head.bias, torch.logit(torch.tensor(prevalence, dtype=torch.float64)).item())


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


def weight_of_positives(class_weight: str | float, label: np.ndarray) -> float:
    """What `class_weight` stands for with these training labels: 1, a number, or negatives / positives."""
    if isinstance(class_weight, float):
        return class_weight
    return float((label == 0).sum() / (label == 1).sum()) if class_weight == "balanced" else 1.0


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
    head: HeadSettings, loss: Any, rates: FinetuningRates, weight_decay: float
) -> dict[str, dict[str, Any]]:
    """What a fine-tuned checkpoint records of its settings in `hyper_parameters`; `loss` is a Loss or a TaskLoss."""
    settings = loss.settings
    return {
        "head": {
            "pooling": head.head_pooling,
            "hidden": head.head_hidden,
            "dropout": head.head_dropout,
            "members": head.head_members,
        },
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
        head_pooling=recorded["pooling"],
        head_hidden=recorded["hidden"],
        head_dropout=recorded["dropout"],
        head_members=recorded.get("members", 1),  # checkpoints from before there were ensembles
    )
