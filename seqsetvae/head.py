"""The two-layer head on a pooled history, alone or as an ensemble.

Legend: N stays, P pooled width, H hidden width, K members of an ensemble.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

CLASSES = 2  # survived, died: two logits, as the checkpoints of the old scripts have them


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """Shape of the head: how the history is pooled, units of the middle layer, dropout, members."""

    pooling: str
    hidden: int
    dropout: float
    members: int = 1


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


class EnsembleHead(nn.Module):
    """K two-layer heads with shared matrices and scales and biases of their own (BatchEnsemble, Wen et al., 2020).

    Each member is trained on its own loss, and the prediction is the mean of their log-odds (TabM, Gorishniy et al.,
    2025): about the accuracy of an ensemble at the cost of one head.
    """

    def __init__(self, width: int, hidden: int, dropout: float, members: int) -> None:
        """`width` is P."""
        super().__init__()
        self.shared = nn.Linear(width, hidden, bias=False)
        self.scale_in = nn.Parameter(torch.randint(0, 2, (members, width)).float() * 2 - 1)
        self.scale_hidden = nn.Parameter(torch.ones(members, hidden))
        self.bias_hidden = nn.Parameter((torch.rand(members, hidden) * 2 - 1) / width**0.5)
        self.out = nn.Parameter(torch.randn(members, hidden) / hidden**0.5)
        self.bias = nn.Parameter(torch.zeros(members))
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled history [N, P] → logits of each member [N, K, 2] in training, of their mean [N, 2] otherwise."""
        with torch.autocast(pooled.device.type, enabled=False):
            x = pooled.to(torch.promote_types(pooled.dtype, torch.float32))[:, None] * self.scale_in  # [N, K, P]
            hidden = self.dropout(torch.relu(self.shared(x) * self.scale_hidden + self.bias_hidden))
            log_odds = (hidden * self.out).sum(2) + self.bias
            log_odds = log_odds if self.training else log_odds.mean(1)
            return torch.stack([-log_odds / 2, log_odds / 2], dim=-1)


def build_head(width: int, hidden: int, dropout: float, members: int = 1) -> Head | EnsembleHead:
    """The head of these sizes."""
    return Head(width, hidden, dropout) if members == 1 else EnsembleHead(width, hidden, dropout, members)


def set_prior(head: Head | EnsembleHead, prevalence: float) -> None:
    """Let an untrained ensemble start at the prevalence, so that its first steps are not spent on that."""
    if isinstance(head, EnsembleHead):
        nn.init.constant_(head.bias, torch.logit(torch.tensor(prevalence, dtype=torch.float64)).item())
