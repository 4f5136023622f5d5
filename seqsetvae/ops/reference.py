"""Plain forms of the operations in this folder, for one set or one stay at a time; tests compare with them.

Legend: n events of a set or sets of a stay, D width, h heads, m inducing points.
"""

from __future__ import annotations

import torch


def pool_events(scores: torch.Tensor, values: torch.Tensor, heads: int) -> torch.Tensor:
    """Scores [n, h·m] and values [n, h·D] of a set → its inducing rows [m, D]."""
    weights = scores.unflatten(1, (heads, -1)).softmax(0)  # [n, h, m]
    return torch.einsum("nhm,nhd->md", weights, values.unflatten(1, (heads, -1)))


def read_rows(queries: torch.Tensor, rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Queries [n, h·D] and inducing rows [m, D] of a set → [n, h·D]."""
    return ((queries.unflatten(1, (heads, -1)) @ rows.T).softmax(2) @ rows).flatten(1)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, causal: bool) -> torch.Tensor:
    """Multi-head attention within a set, or within a stay (`causal`): [n, D] each → [n, D]."""
    q, k, v = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in (query, key, value))  # [h, n, d]
    scores = q @ k.mT / q.shape[2] ** 0.5
    if causal:
        scores = scores + torch.full_like(scores[0], -torch.inf).triu(1)
    return (scores.softmax(2) @ v).transpose(0, 1).flatten(1)


def pool(states: torch.Tensor, pooling: str) -> torch.Tensor:
    """History states [n, D] of a stay → [P]."""
    last, mean = states[-1], states.mean(0)
    return {"last": last, "mean": mean, "last_mean": torch.cat([last, mean])}[pooling]
