"""The two-layer head on a pooled history.

Legend: S sets (stay by stay), N stays, D latent width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from seqsetvae.batch import Batch

CLASSES = 2  # survived, died: two logits, as the checkpoints of the old scripts have them


def _last(history: torch.Tensor, batch: Batch) -> torch.Tensor:
    return history.index_select(0, batch.sets_per_stay.cumsum(0) - 1)


def _mean(history: torch.Tensor, batch: Batch) -> torch.Tensor:
    total = history.new_zeros(batch.n_stays, history.shape[1]).index_add(0, batch.stay_of_set, history)
    return total / batch.sets_per_stay[:, None].to(history.dtype)


def _last_and_mean(history: torch.Tensor, batch: Batch) -> torch.Tensor:
    return torch.cat([_last(history, batch), _mean(history, batch)], dim=1)


# name -> (how [S, D] becomes [N, P], P / D). The whole history of a stay is its mean; "last" is the newest state alone.
POOLINGS: dict[str, tuple[Callable[[torch.Tensor, Batch], torch.Tensor], int]] = {
    "last": (_last, 1),
    "mean": (_mean, 1),
    "last_mean": (_last_and_mean, 2),
}


def pool(history: torch.Tensor, batch: Batch, pooling: str) -> torch.Tensor:
    """History states [S, D] → one row a stay [N, P], by a name in POOLINGS."""
    return POOLINGS[pooling][0](history, batch)


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """Shape of the head: how the history is pooled, units of the middle layer, dropout."""

    pooling: str
    hidden: int
    dropout: float


class Head(nn.Module):
    """Linear → ReLU → Dropout → Linear."""

    def __init__(self, latent_dim: int, pooling: str, hidden: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(POOLINGS[pooling][1] * latent_dim, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, CLASSES),
        )

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled history [N, P] → logits [N, 2], in float32 at least, whatever the precision of the run."""
        with torch.autocast(pooled.device.type, enabled=False):
            return self.net(pooled.to(torch.promote_types(pooled.dtype, torch.float32)))
