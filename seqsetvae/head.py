"""The two-layer head on a pooled history.

Legend: S sets (stay by stay), N stays, D latent width, P pooled width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

CLASSES = 2  # survived, died: two logits, as the checkpoints of the old scripts have them


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """Shape of the head: how the history is pooled, units of the middle layer, dropout."""

    pooling: str
    hidden: int
    dropout: float


class Head(nn.Module):
    """Linear → ReLU → Dropout → Linear."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        """`width` is P."""
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, CLASSES),
        )

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled history [N, P] → logits [N, 2], in float32 at least, whatever the precision of the run."""
        with torch.autocast(pooled.device.type, enabled=False):
            return self.net(pooled.to(torch.promote_types(pooled.dtype, torch.float32)))
