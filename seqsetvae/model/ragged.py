"""Softmax-and-mix over sets of different sizes: the only ragged part of the set encoder.

Legend: E events, S sets, h heads, m inducing points, D width, R rows.
Sets come in ascending order of size, so that a run of `count` sets of `size` events is a view [count, size, ...] of the
flat arrays: no mask, no padding. A set of one event needs one inducing row and not m, since all m attend to the same
single event and are equal; R = (number of sets of one event) + m · (number of larger sets).

Flat arrays are cut into runs by one `split`, whose gradient is one concatenation; a slice for each run would write a
whole array of zeros for each.
"""

from __future__ import annotations

import torch

Runs = tuple[tuple[int, int], ...]  # (events per set, number of such sets), ascending


def split_events(x: torch.Tensor, runs: Runs) -> tuple[torch.Tensor, ...]:
    """Events of each run: [E, C] → [count · size, C] a run."""
    return x.split([size * count for size, count in runs])


def split_sets(x: torch.Tensor, runs: Runs) -> tuple[torch.Tensor, ...]:
    """Sets of each run: [S, C] → [count, C] a run."""
    return x.split([count for _, count in runs])


def _split_inducing(x: torch.Tensor, runs: Runs, m: int) -> tuple[torch.Tensor, ...]:
    """Inducing rows of each run: [R, C] → [count · m, C] a run, or [count, C] for sets of one event."""
    return x.split([count if size == 1 else count * m for size, count in runs])


def pool_events(scores: torch.Tensor, values: torch.Tensor, runs: Runs, heads: int, m: int) -> torch.Tensor:
    """Each set's inducing points attend to its events: scores [E, h·m], values [E, h·D] → mixed [R, D], summed over h.

    The values already carry the output map of their head, so that one product mixes and adds up all heads.
    """
    width = values.shape[1] // heads
    mixed = []
    for (size, count), score, value in zip(runs, split_events(scores, runs), split_events(values, runs), strict=True):
        if size == 1:
            mixed.append(value.view(count, heads, width).sum(1))
            continue
        weights = score.view(count, size, heads, m).softmax(1, dtype=_softmax_dtype(score)).to(value.dtype)
        weights = weights.permute(0, 3, 1, 2).reshape(count, m, size * heads)
        mixed.append(torch.bmm(weights, value.view(count, size * heads, width)).view(count * m, width))
    return torch.cat(mixed)


def read_rows(queries: torch.Tensor, rows: torch.Tensor, runs: Runs, heads: int, m: int) -> torch.Tensor:
    """Each event attends to its set's inducing rows: queries [E, h·D], rows [R, D] → mixed [E, h·D], one per head."""
    width = rows.shape[1]
    mixed = []
    for (size, count), query, key in zip(
        runs, split_events(queries, runs), _split_inducing(rows, runs, m), strict=True
    ):
        if size == 1:
            mixed.append(key.repeat(1, heads))
            continue
        key = key.view(count, m, width)
        query = query.view(count, size * heads, width)
        weights = torch.bmm(query, key.transpose(1, 2)).softmax(2, dtype=_softmax_dtype(query)).to(key.dtype)
        mixed.append(torch.bmm(weights, key).view(count * size, heads * width))
    return torch.cat(mixed)


def mean_of_events(x: torch.Tensor, runs: Runs) -> torch.Tensor:
    """Mean over each set's events: [E, D] → [S, D]."""
    parts = zip(runs, split_events(x, runs), strict=True)
    return torch.cat([part.view(count, size, -1).mean(1) for (size, count), part in parts])


def spread(rows: torch.Tensor, runs: Runs) -> torch.Tensor:
    """Repeat each set's row for each of its events: [S, D] → [E, D]."""
    parts = zip(runs, split_sets(rows, runs), strict=True)
    return torch.cat([part.repeat_interleave(size, dim=0) for (size, _), part in parts])


def _softmax_dtype(x: torch.Tensor) -> torch.dtype:
    """Softmax statistics in float32 at least, whatever the precision of the run."""
    return torch.promote_types(x.dtype, torch.float32)
