"""The plain twin of pretraining's decoder and loss: one set at a time, straight from the maths, nothing shared."""

from __future__ import annotations

import torch
from torch import nn

from seqsetvae.architectures.seqsetvae.reference import PlainISAB, PlainMAB


class PlainPMA(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.mab = PlainMAB(dim, heads)
        self.ff = nn.Linear(dim, dim)
        self.ln = nn.LayerNorm(dim)


class PlainLayer(nn.Module):
    """z = ISAB(c); k = LN(GELU(ff(z))); out = MAB(seeds, k) + seeds (dropout left out: tests compare without it)."""

    def __init__(self, dim: int, heads: int, m: int) -> None:
        super().__init__()
        self.isab = PlainISAB(dim, heads, m)
        self.pma = PlainPMA(dim, heads)

    def forward(self, c: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        k = self.pma.ln(nn.functional.gelu(self.pma.ff(self.isab(c))))
        return self.pma.mab(seeds, k) + seeds


class PlainDecoder(nn.Module):
    """One state → n events."""

    def __init__(self, event_dim: int, dim: int, levels: int, heads: int, m: int) -> None:
        super().__init__()
        self.decoder_layers = nn.ModuleList([PlainLayer(dim, heads, m) for _ in range(levels)])
        self.out = nn.Linear(dim, event_dim)

    def forward(self, state: torch.Tensor, seeds: list[torch.Tensor]) -> torch.Tensor:
        """[D] and, for the levels from the last to the first, seeds [n, D] → [n, R]."""
        c = state[None]
        for layer, level_seeds in zip(reversed(self.decoder_layers), seeds, strict=True):
            c = layer(c, level_seeds) + c
        return self.out(c)


def plain_set_distance(recon: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1·dir + 1·mag + 3·chamfer − 0.1·spread of two sets [n, R], pair by pair."""
    pairs = [[_pair(p, q) for q in target] for p in recon]
    terms = [torch.stack([torch.stack([pair[k] for pair in row]) for row in pairs]) for k in range(3)]
    direction, magnitude, chamfer = (0.5 * (d.min(dim=1).values.mean() + d.min(dim=0).values.mean()) for d in terms)
    spread = (recon - recon.mean(dim=0)).square().mean(dim=0).mean()
    return direction + magnitude + 3 * chamfer - 0.1 * spread


def _pair(p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    cosine = (p * q).sum() / ((p.norm() + 1e-8) * (q.norm() + 1e-8))
    return 1 - cosine, (p.norm() - q.norm()).abs(), (p - q).square().sum()
