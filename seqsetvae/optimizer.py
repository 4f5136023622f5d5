"""Parameter groups of AdamW, by part of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Learning rates by part, and weight decay (on matrices only)."""

    head_lr: float
    backbone_lr: float
    weight_decay: float


def parameter_groups(name: str, part: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of one part: matrices decay, biases, norms and scalars do not (Loshchilov & Hutter, 2019)."""
    trainable = [value for value in part.parameters() if value.requires_grad]
    groups = [
        {"name": name, "params": [value for value in trainable if value.ndim >= 2], "weight_decay": weight_decay},
        {"name": f"{name}_no_decay", "params": [value for value in trainable if value.ndim < 2], "weight_decay": 0.0},
    ]
    return [group | {"part": name, "lr": lr, "initial_lr": lr} for group in groups if group["params"]]
