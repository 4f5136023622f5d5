"""The set encoder: each set of (variable, value) events becomes a Gaussian over R^D.

Legend: E events, S sets, V variables, I embedding width, R reduced width, D latent width, h heads (d = D / h each),
m inducing points, Rw inducing rows of a batch (see ops/ragged.py).
Source: Set Transformer (Lee et al., ICML 2019, equations 6-10) with the details of the SeqSetVAE checkpoints: there is
no residual inside a MAB, and one around each level.

Products of weights are formed once per step, so that fewer rows are projected: inducing queries with key weights, value
weights with output weights, query weights with key weights. It is the same function of the same parameters
(reference.py is the plain form). Key biases are left out: they add the same number to all scores of a query, and
softmax does not depend on it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from seqsetvae.models.seqsetvae.sizes import Sizes
from seqsetvae.ops.ragged import SetSizes
from seqsetvae.ops.rowwise import dropout, feed_forward

EVENT_DROPOUT = 0.1  # on each event vector, in training
GAUSSIAN_DROPOUT = 0.1  # inside mu_logvar, in training
LOGVAR_LIMIT = 10.0  # logvar is clamped to ± this
NORM_EPSILON = 1e-8  # added to the length of a variable's direction


class MAB(nn.Module):
    """Multi-head attention block: holds the weights of its attention, and computes what follows the attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.multihead = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ln1 = nn.LayerNorm(dim)
        self.ff = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.ln2 = nn.LayerNorm(dim)

    def forward(self, attended: torch.Tensor) -> torch.Tensor:
        """Attention output [R, D] → block output [R, D]."""
        return feed_forward(attended, self.ln1, self.ff, self.ln2)


def _full_precision(x: torch.Tensor) -> torch.autocast:
    """Turn autocast off: products of weights are cheap, and their rounding errors would affect every event."""
    return torch.autocast(x.device.type, enabled=False)


def _heads(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a projection by head: [D, D] → [h, d, D]."""
    return weight.view(heads, -1, weight.shape[1])


def fold_constant_queries(attention: nn.MultiheadAttention, queries: torch.Tensor) -> torch.Tensor:
    """Key weights multiplied by these queries [m, D]: [h·m, D]; multiplied by an event they give its scores."""
    heads, scale = attention.num_heads, attention.head_dim**-0.5
    query_weight, key_weight, _ = attention.in_proj_weight.chunk(3)
    query_bias = attention.in_proj_bias[: len(query_weight)]
    query = F.linear(queries, query_weight, query_bias).view(len(queries), heads, -1).transpose(0, 1)  # [h, m, d]
    return (query @ _heads(key_weight, heads) * scale).flatten(0, 1)


def fold_queries(attention: nn.MultiheadAttention) -> tuple[torch.Tensor, torch.Tensor]:
    """Query weights multiplied by key weights: weight [h·D, D] and bias [h·D] of queries for unprojected keys."""
    heads, scale = attention.num_heads, attention.head_dim**-0.5
    query_weight, key_weight, _ = (_heads(part, heads) for part in attention.in_proj_weight.chunk(3))
    query_bias = attention.in_proj_bias.chunk(3)[0].view(heads, 1, -1)  # [h, 1, d]
    weight = key_weight.transpose(1, 2) @ query_weight * scale  # [h, D, D]
    bias = query_bias @ key_weight * scale  # [h, 1, D]
    return weight.flatten(0, 1), bias.flatten()


def fold_values(attention: nn.MultiheadAttention) -> tuple[torch.Tensor, torch.Tensor]:
    """Value weights multiplied by output weights, by head: weight [h, D, D] and the bias [D] of all heads together."""
    heads = attention.num_heads
    value_weight = _heads(attention.in_proj_weight.chunk(3)[2], heads)  # [h, d, D]
    value_bias = attention.in_proj_bias.chunk(3)[2]
    out = attention.out_proj.weight  # [D, D]
    weight = out.view(len(out), heads, -1).transpose(0, 1) @ value_weight  # [h, D, D]
    return weight, F.linear(value_bias, out, attention.out_proj.bias)


class ISAB(nn.Module):
    """Induced set attention: m learned points attend to the events of a set, then every event attends to the points."""

    def __init__(self, dim: int, heads: int, m: int) -> None:
        super().__init__()
        self.inducing = nn.Parameter(torch.randn(m, dim))
        self.mab1 = MAB(dim, heads)
        self.mab2 = MAB(dim, heads)

    def forward(self, x: torch.Tensor, sizes: SetSizes) -> torch.Tensor:
        """Events [E, D] of sets in ascending order of size → [E, D]."""
        rows = self.mab1(self._attend_to_events(x, sizes))
        return self.mab2(self._attend_to_points(x, rows, sizes))

    def _attend_to_events(self, x: torch.Tensor, sizes: SetSizes) -> torch.Tensor:
        attention, m = self.mab1.multihead, len(self.inducing)
        with _full_precision(x):
            keys = fold_constant_queries(attention, self.inducing)
            weight, bias = fold_values(attention)
        scores = F.linear(x, keys)  # [E, h·m]
        shared = (bias / attention.num_heads).repeat(attention.num_heads)  # attention weights add up to 1 per head
        values = F.linear(x, weight.flatten(0, 1), shared)  # [E, h·D]
        return sizes.pool_events(scores, values, attention.num_heads, m)  # [Rw, D]

    def _attend_to_points(self, x: torch.Tensor, rows: torch.Tensor, sizes: SetSizes) -> torch.Tensor:
        attention, m = self.mab2.multihead, len(self.inducing)
        with _full_precision(x):
            query_weight, query_bias = fold_queries(attention)
            weight, bias = fold_values(attention)
        queries = F.linear(x, query_weight, query_bias)  # [E, h·D]
        mixed = sizes.read_rows(queries, rows, attention.num_heads, m)  # [E, h·D]
        return F.linear(mixed, weight.transpose(0, 1).flatten(1), bias)  # [E, D]


class SetEncoder(nn.Module):
    """Events → the Gaussian of each set, taken from the last level."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        dim = sizes.latent_dim
        self.dim_reducer = None if sizes.reduced_dim is None else nn.Linear(sizes.input_dim, sizes.reduced_dim)
        self.embed = nn.Sequential(nn.Linear(sizes.event_dim, dim), nn.LayerNorm(dim), nn.GELU())
        self.encoder_layers = nn.ModuleList(ISAB(dim, sizes.heads, sizes.m) for _ in range(sizes.levels))
        hidden = nn.Linear(dim, dim), nn.LayerNorm(dim), nn.GELU(), nn.Dropout(GAUSSIAN_DROPOUT)
        self.mu_logvar = nn.Sequential(*hidden, nn.Linear(dim, 2 * dim))

    def directions(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Unit direction of each variable: embeddings [V, I] → [V, R]."""
        with _full_precision(embeddings):
            reduced = embeddings if self.dim_reducer is None else self.dim_reducer(embeddings)
            return reduced / (reduced.norm(dim=-1, keepdim=True) + NORM_EPSILON)

    def event_vectors(self, variable: torch.Tensor, value: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """Direction: which variable; signed length: how abnormal the value is. [E], [E], [V, I] → [E, R]."""
        return F.embedding(variable, self.directions(embeddings)) * value[:, None]  # faster gradient than indexing

    def _embedded(self, variable: torch.Tensor, value: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """First linear layer on every event: [E, D]. Without dropout it is a row per variable times the value."""
        linear = self.embed[0]
        assert isinstance(linear, nn.Linear)
        if self.training:
            return linear(dropout(self.event_vectors(variable, value, embeddings), EVENT_DROPOUT, training=True))
        with _full_precision(embeddings):
            table = F.linear(self.directions(embeddings), linear.weight)  # [V, D]
            return torch.addcmul(linear.bias, F.embedding(variable, table), value[:, None])

    def features(
        self, variable: torch.Tensor, value: torch.Tensor, embeddings: torch.Tensor, sizes: SetSizes
    ) -> torch.Tensor:
        """Mean over the events of each set after the last level: [S, D], sets in ascending order of size."""
        x = self.embed[2](self.embed[1](self._embedded(variable, value, embeddings)))
        for layer in self.encoder_layers:
            x = layer(x, sizes) + x
        return sizes.mean(x)

    def mean(self, features: torch.Tensor) -> torch.Tensor:
        """mu of each set: [S, D] → [S, D]; the half of the last map that gives logvar is not computed."""
        last, dim = self.mu_logvar[-1], features.shape[1]
        assert isinstance(last, nn.Linear)
        return F.linear(self.mu_logvar[:-1](features), last.weight[:dim], last.bias[:dim])

    def gaussian(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(mu, logvar) of each set: [S, D] → [S, D] each."""
        mu, logvar = self.mu_logvar(features).chunk(2, dim=-1)
        return mu, logvar.clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)
