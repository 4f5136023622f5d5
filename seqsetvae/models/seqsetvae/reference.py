"""The plain form of the model, of pretraining's decoder and of its loss: one set at a time, with stock torch modules.

It is slow and obvious on purpose and shares no code with the fast form; tests compare the two. The names of its
parameters are those of a pretrained checkpoint, so that one state dict fits both.
A set is (minute, [(variable, value), ...]); a stay is a list of sets in time order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

PlainSet = tuple[float, list[tuple[int, float]]]


class PlainMAB(nn.Module):
    """a = LN1(MHA(q, kv, kv)); out = LN2(W2 GELU(W1 a)). No residual."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.multihead = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ln1 = nn.LayerNorm(dim)
        self.ff = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.ln2 = nn.LayerNorm(dim)

    def forward(self, query: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        attended, _ = self.multihead(query, kv, kv)
        return self.ln2(self.ff(self.ln1(attended)))


class PlainISAB(nn.Module):
    """H = MAB1(inducing, x); out = MAB2(x, H)."""

    def __init__(self, dim: int, heads: int, m: int) -> None:
        super().__init__()
        self.inducing = nn.Parameter(torch.zeros(m, dim))
        self.mab1 = PlainMAB(dim, heads)
        self.mab2 = PlainMAB(dim, heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mab2(x, self.mab1(self.inducing, x))


class PlainSetEncoder(nn.Module):
    """The events of one set → (mu, logvar) after every level."""

    def __init__(self, sizes: Any) -> None:
        super().__init__()
        latent_dim = sizes.latent_dim
        self.reduces = sizes.reduced_dim is not None
        if self.reduces:
            self.dim_reducer = nn.Linear(sizes.input_dim, sizes.reduced_dim)
        width = sizes.reduced_dim if self.reduces else sizes.input_dim
        self.embed = nn.Sequential(nn.Linear(width, latent_dim), nn.LayerNorm(latent_dim), nn.GELU())
        self.encoder_layers = nn.ModuleList([PlainISAB(latent_dim, sizes.heads, sizes.m) for _ in range(sizes.levels)])
        hidden = nn.Linear(latent_dim, latent_dim), nn.LayerNorm(latent_dim), nn.GELU(), nn.Dropout(0.1)
        self.mu_logvar = nn.Sequential(*hidden, nn.Linear(latent_dim, 2 * latent_dim))

    def event(self, embedding: torch.Tensor, value: float) -> torch.Tensor:
        r = self.dim_reducer(embedding) if self.reduces else embedding
        return r / (r.square().sum().sqrt() + 1e-8) * value

    def forward(
        self, events: list[tuple[int, float]], embeddings: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        x = torch.stack([self.event(embeddings[variable], value) for variable, value in events])
        levels = [self.embed(x)]
        for layer in self.encoder_layers:
            levels.append(layer(levels[-1]) + levels[-1])
        gaussians = []
        for x in levels[1:] or levels:
            mu, logvar = self.mu_logvar(x.mean(dim=0)).chunk(2)
            gaussians.append((mu, logvar.clamp(-10, 10)))
        return gaussians


class PlainRunning(nn.Module):
    """The beginning of a stay → what its last set gets from the statistics of each variable until then."""

    def __init__(self, sizes: Any) -> None:
        super().__init__()
        self.of_variable = nn.Linear(sizes.input_dim, 9 * sizes.latent_dim, bias=False)

    def forward(self, sets: Sequence[PlainSet], embeddings: torch.Tensor) -> torch.Tensor:
        measured: dict[int, list[tuple[float, torch.Tensor]]] = {}
        for minute, events in sets:
            for variable in {variable for variable, _ in events}:
                values = torch.tensor([value for each, value in events if each == variable], dtype=torch.float64)
                measured.setdefault(variable, []).append((minute / 60, values.clamp(-10, 10).mean()))
        now = sets[-1][0] / 60
        total = self.of_variable.weight.new_zeros(self.of_variable.out_features // 9)
        for variable, pairs in measured.items():
            values = torch.stack([value for _, value in pairs])
            fade = torch.tensor([0.5 ** ((now - hour) / 6) for hour, _ in pairs], dtype=values.dtype)
            statistics = [
                torch.tensor((math.log1p(len(pairs)) - 1.5) / 0.5, dtype=torch.float64),
                values[-1],
                values.mean(),
                values.min(),
                values.max(),
                (values * fade).sum() / fade.sum(),
                values[-1] - values[0],
                torch.tensor(math.log1p(now - pairs[-1][0]) - 1.5, dtype=torch.float64),
                torch.tensor(1.0, dtype=torch.float64),
            ]
            vector = embeddings[variable] / embeddings[variable].norm() / math.sqrt(len(embeddings[variable]))
            matrix = self.of_variable(vector).view(9, -1)
            total = total + torch.stack([each.to(matrix) for each in statistics]) @ matrix
        return total


class PlainBackbone(nn.Module):
    """A stay's sets → mu, logvar and history of each."""

    def __init__(self, sizes: Any) -> None:
        """`sizes` has the attributes of `Sizes`."""
        super().__init__()
        self.dim = latent_dim = sizes.latent_dim
        self.set_encoder = PlainSetEncoder(sizes)
        shape = latent_dim, sizes.transformer_heads, sizes.ff_dim, sizes.transformer_dropout
        layer = nn.TransformerEncoderLayer(*shape, activation="gelu", batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, sizes.transformer_layers, enable_nested_tensor=False)
        self.post_transformer_norm = nn.LayerNorm(latent_dim, eps=1e-6)
        self.rel_time_bucket_embed = nn.Embedding(64, latent_dim)
        self.running = PlainRunning(sizes) if sizes.running_statistics else None
        self.register_buffer("alibi_slope", torch.tensor(1.0))
        self.register_buffer("time_tau", torch.tensor(60.0))

    def position(self, index: int) -> torch.Tensor:
        row = [
            math.sin(index * 10000 ** (-d / self.dim))
            if d % 2 == 0
            else math.cos(index * 10000 ** (-(d - 1) / self.dim))
            for d in range(self.dim)
        ]
        return torch.tensor(row, dtype=torch.float64)

    def forward(
        self, stay: Sequence[PlainSet], embeddings: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(mu, logvar, history), each [T, D]."""
        gaussians = [self.set_encoder(events, embeddings)[-1] for _, events in stay]
        mu = torch.stack([mean for mean, _ in gaussians])
        rows, before = [], None
        for index, (minute, _) in enumerate(stay):
            since = 0.0 if before is None else max(minute - before, 0.0)
            before = minute
            row = mu[index] + self.position(index).to(mu) + self.rel_time_bucket_embed.weight[bucket(since)]
            if self.running is not None:
                row = row + self.running(stay[: index + 1], embeddings)
            rows.append(nn.functional.layer_norm(row, (self.dim,)))
        future = torch.triu(torch.ones(len(stay), len(stay), dtype=torch.bool), diagonal=1)
        x = torch.stack(rows)[None]
        for layer in self.transformer.layers:
            x = layer(x, src_mask=future)
        return mu, torch.stack([logvar for _, logvar in gaussians]), self.post_transformer_norm(x)[0]


def bucket(minutes: float) -> int:
    """Index by torch.bucketize of log1p of the minutes among log1p of the 63 float32 edges, in double precision."""
    edges = torch.logspace(math.log10(0.5), math.log10(1440), 63, dtype=torch.float32)
    gap = torch.tensor(minutes, dtype=torch.float64)
    return int(torch.bucketize(gap.log1p(), edges.double().log1p(), right=False))


class PlainPMA(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.mab = PlainMAB(dim, heads)
        self.ff = nn.Linear(dim, dim)
        self.ln = nn.LayerNorm(dim)


class PlainLayer(nn.Module):
    """z = ISAB(c); k = LN(GELU(ff(z))); out = MAB(seeds, k) + seeds; without dropout, as in the tests."""

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
