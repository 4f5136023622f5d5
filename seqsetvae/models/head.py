"""The head, alone or as an ensemble, and how checkpoints record its settings and those of its loss.

Legend: N stays, P pooled width, H hidden width, K members of an ensemble, O outputs: 2 for one binary label, as many as
a task needs otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from seqsetvae.ops.rowwise import at_least_float32
from seqsetvae.settings.groups import FinetuningRates, HeadSettings

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


def weight_of_positives(class_weight: str | float, label: np.ndarray) -> float:
    """What `class_weight` stands for with these training labels: 1, a number, or negatives / positives."""
    if isinstance(class_weight, float):
        return class_weight
    return float((label == 0).sum() / (label == 1).sum()) if class_weight == "balanced" else 1.0


# Checkpoints keep the names that these settings had before they were flags, so that all of them can be read.


def recorded_settings(
    head: HeadSettings, loss: Any, rates: FinetuningRates, weight_decay: float
) -> dict[str, dict[str, Any]]:
    """What a fine-tuned checkpoint records of its settings in `hyper_parameters`; `loss` is a tasks.model.Loss."""
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
