"""Softmax-and-mix over sets of different sizes: the only ragged part of the set encoder.

Legend: E events, S sets, h heads, m inducing points, D width, R rows.
Sets come in ascending order of size, so that a run of `count` sets of `size` events is a view [count, size, ...] of the
flat arrays: no mask, no padding. A set of one event needs one inducing row and not m, since all m attend to the same
single event and are equal; R = (number of sets of one event) + m · (number of larger sets).

Where autograd watches, flat arrays are cut into runs by one `split`, whose gradient is one concatenation; a slice for
each run would write a whole array of zeros for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

Runs = tuple[tuple[int, int], ...]  # (events per set, number of such sets), ascending


def split_events(x: torch.Tensor, runs: Runs) -> tuple[torch.Tensor, ...]:
    """Events of each run: [E, C] → [count · size, C] a run."""
    return x.split([size * count for size, count in runs])


def split_sets(x: torch.Tensor, runs: Runs) -> tuple[torch.Tensor, ...]:
    """Sets of each run: [S, C] → [count, C] a run."""
    return x.split([count for _, count in runs])


def pool_events(scores: torch.Tensor, values: torch.Tensor, runs: Runs, heads: int, m: int) -> torch.Tensor:
    """Each set's inducing points attend to its events: scores [E, h·m], values [E, h·D] → mixed [R, D], summed over h.

    The values already carry the output map of their head, so that one product mixes and adds up all heads.
    """
    return _PoolEvents.apply(scores, values.to(scores.dtype), runs, heads, m)


def read_rows(queries: torch.Tensor, rows: torch.Tensor, runs: Runs, heads: int, m: int) -> torch.Tensor:
    """Each event attends to its set's inducing rows: queries [E, h·D], rows [R, D] → mixed [E, h·D], one per head."""
    return _ReadRows.apply(queries, rows.to(queries.dtype), runs, heads, m)


# The gradients of these two are written by hand. A batch has about 15 runs, and each costs a few small products that
# write to their place in one array; autograd would record some 25 operations a run and copy whole arrays to join them.


def _larger_runs(runs: Runs, m: int) -> Iterator[tuple[int, int, slice, slice]]:
    """(count, size, their events, their inducing rows) of each run of sets of more than one event."""
    events = rows = 0
    for size, count in runs:
        n_rows = count if size == 1 else count * m
        if size > 1:
            yield count, size, slice(events, events + count * size), slice(rows, rows + n_rows)
        events, rows = events + count * size, rows + n_rows


def _n_single(runs: Runs) -> int:
    return runs[0][1] if runs[0][0] == 1 else 0


class _PoolEvents(torch.autograd.Function):
    """Softmax over the events of each set, then the mix of its values."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, values: torch.Tensor, runs: Runs, heads: int, m: int) -> torch.Tensor:
        single, width, weights = _n_single(runs), values.shape[1] // heads, []
        mixed = values.new_empty(sum(count if size == 1 else count * m for size, count in runs), width)
        mixed[:single] = values[:single].view(single, heads, width).sum(1)  # one event has all the weight
        for count, size, events, rows in _larger_runs(runs, m):
            weight = scores[events].view(count, size, heads * m).softmax(1, dtype=_softmax_dtype(scores))
            weights.append(weight.to(values.dtype).view(count, size * heads, m))
            value = values[events].view(count, size * heads, width)
            torch.bmm(weights[-1].mT, value, out=mixed[rows].view(count, m, width))
        ctx.save_for_backward(values, *weights)
        ctx.runs, ctx.heads, ctx.m = runs, heads, m
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (values, *weights), runs, heads, m = ctx.saved_tensors, ctx.runs, ctx.heads, ctx.m
        grad, single, width = grads[0].contiguous(), _n_single(runs), values.shape[1] // heads
        to_scores, to_values = values.new_zeros(len(values), heads * m), torch.empty_like(values)
        to_values[:single] = grad[:single].repeat(1, heads)
        for (count, size, events, rows), weight in zip(_larger_runs(runs, m), weights, strict=True):
            to_mixed = grad[rows].view(count, m, width)
            torch.bmm(weight, to_mixed, out=to_values[events].view(count, size * heads, width))
            to_weight = torch.bmm(values[events].view(count, size * heads, width), to_mixed.mT)
            shape = (count, size, heads * m)
            to_scores[events] = _softmax_gradient(to_weight.view(shape), weight.view(shape), 1).view(-1, heads * m)
        return to_scores, to_values, None, None, None


class _ReadRows(torch.autograd.Function):
    """Softmax over the inducing rows of each event's set, then their mix."""

    @staticmethod
    def forward(ctx: Any, queries: torch.Tensor, rows: torch.Tensor, runs: Runs, heads: int, m: int) -> torch.Tensor:
        single, width = _n_single(runs), rows.shape[1]
        scores, mixed = queries.new_zeros(len(queries) * heads, m), torch.empty_like(queries)
        for count, size, events, of_sets in _larger_runs(runs, m):
            query, key = queries[events].view(count, size * heads, width), rows[of_sets].view(count, m, width)
            torch.bmm(query, key.mT, out=_per_head(scores, events, heads).view(count, size * heads, m))
        weights = scores.softmax(1, dtype=_softmax_dtype(scores)).to(rows.dtype)
        mixed[:single] = rows[:single].repeat(1, heads)  # a single event reads the one row that there is
        for count, size, events, of_sets in _larger_runs(runs, m):
            weight = _per_head(weights, events, heads).view(count, size * heads, m)
            key, out = rows[of_sets].view(count, m, width), mixed[events].view(count, size * heads, width)
            torch.bmm(weight, key, out=out)
        ctx.save_for_backward(queries, rows, weights)
        ctx.runs, ctx.heads, ctx.m = runs, heads, m
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (queries, rows, weights), runs, heads, m = ctx.saved_tensors, ctx.runs, ctx.heads, ctx.m
        grad, single, width = grads[0].contiguous(), _n_single(runs), rows.shape[1]
        to_weights, to_queries, to_rows = torch.zeros_like(weights), torch.zeros_like(queries), torch.empty_like(rows)
        for count, size, events, of_sets in _larger_runs(runs, m):
            to_mixed, key = grad[events].view(count, size * heads, width), rows[of_sets].view(count, m, width)
            torch.bmm(to_mixed, key.mT, out=_per_head(to_weights, events, heads).view(count, size * heads, m))
        to_scores = _softmax_gradient(to_weights, weights, 1)
        to_rows[:single] = grad[:single].view(single, heads, width).sum(1)
        for count, size, events, of_sets in _larger_runs(runs, m):
            shape, key = (count, size * heads, width), rows[of_sets].view(count, m, width)
            to_score = _per_head(to_scores, events, heads).view(count, size * heads, m)
            weight = _per_head(weights, events, heads).view(count, size * heads, m)
            torch.bmm(to_score, key, out=to_queries[events].view(shape))
            to_key = torch.bmm(to_score.mT, queries[events].view(shape), out=to_rows[of_sets].view(count, m, width))
            to_key.baddbmm_(weight.mT, grad[events].view(shape))
        return to_queries, to_rows, None, None, None


def _per_head(x: torch.Tensor, events: slice, heads: int) -> torch.Tensor:
    """The rows of these events where an array has one row for each event and head: [E · h, C] → [n · h, C]."""
    return x[events.start * heads : events.stop * heads]


def _softmax_gradient(grad: torch.Tensor, weights: torch.Tensor, dim: int) -> torch.Tensor:
    """Gradient of softmax's input from that of its output, `weights`."""
    dtype = _softmax_dtype(weights)
    return torch.ops.aten._softmax_backward_data(grad.to(dtype), weights.to(dtype), dim, dtype).to(grad.dtype)


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
