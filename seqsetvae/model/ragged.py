"""Softmax-and-mix over sets of different sizes: the only ragged part of the set encoder.

Legend: E events, S sets, h heads, m inducing points, D width, R rows.
Sets come in ascending order of size, so that a run of `count` sets of `size` events is a view [count, size, ...] of the
flat arrays: no mask, no padding. A set of one event needs one inducing row and not m, since all m attend to the same
single event and are equal; R = (number of sets of one event) + m · (number of larger sets).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

Runs = tuple[tuple[int, int], ...]  # (events per set, number of such sets), ascending


def views(runs: Runs, m: int) -> Iterator[tuple[int, int, slice, slice]]:
    """(size, count, rows of the run's events, rows of its inducing points) for each run."""
    event, row = 0, 0
    for size, count in runs:
        rows = count if size == 1 else count * m
        yield size, count, slice(event, event + size * count), slice(row, row + rows)
        event, row = event + size * count, row + rows


def pool_events(scores: torch.Tensor, values: torch.Tensor, runs: Runs, heads: int, m: int) -> torch.Tensor:
    """Each set's inducing points attend to its events: scores [E, h·m], values [E, h·D] → mixed [R, D], summed over h.

    The values already carry the output map of their head, so that one product mixes and adds up all heads.
    """
    width = values.shape[1] // heads
    mixed = []
    for size, count, events, _ in views(runs, m):
        if size == 1:
            mixed.append(values[events].view(count, heads, width).sum(1))
            continue
        weights = scores[events].view(count, size, heads, m).softmax(1, dtype=_softmax_dtype(scores)).to(values.dtype)
        weights = weights.permute(0, 3, 1, 2).reshape(count, m, size * heads)
        mixed.append(torch.bmm(weights, values[events].view(count, size * heads, width)).view(count * m, width))
    return torch.cat(mixed)


def read_rows(queries: torch.Tensor, rows: torch.Tensor, runs: Runs, heads: int, m: int) -> torch.Tensor:
    """Each event attends to its set's inducing rows: queries [E, h·D], rows [R, D] → mixed [E, h·D], one per head."""
    width = rows.shape[1]
    mixed = []
    for size, count, events, keys in views(runs, m):
        if size == 1:
            mixed.append(rows[keys].repeat(1, heads))
            continue
        key = rows[keys].view(count, m, width)
        query = queries[events].view(count, size * heads, width)
        weights = torch.bmm(query, key.transpose(1, 2)).softmax(2, dtype=_softmax_dtype(query)).to(key.dtype)
        mixed.append(torch.bmm(weights, key).view(count * size, heads * width))
    return torch.cat(mixed)


def mean_of_events(x: torch.Tensor, runs: Runs) -> torch.Tensor:
    """Mean over each set's events: [E, D] → [S, D]."""
    return torch.cat([x[events].view(count, size, -1).mean(1) for size, count, events, _ in views(runs, 1)])


def _softmax_dtype(x: torch.Tensor) -> torch.dtype:
    """Softmax statistics in float32 at least, whatever the precision of the run."""
    return torch.promote_types(x.dtype, torch.float32)
