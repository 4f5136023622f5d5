"""Attention and means within sets of different sizes: the only part of the set encoder that is ragged.

Legend: E events, S sets, C columns, D width, h heads, m inducing points, R inducing rows, P positions (events and
padding).
Sets are in ascending order of size, so that a run of `count` sets of `size` events is a view [count, size, ...] of the
flat arrays. There are two layouts with the same methods, and a batch has one of them:

- ExactSizes, for a CPU: nothing is padded; about 15 runs in a batch, each with a few small matrix products.
- PaddedSizes, for a GPU: sets are padded to a few sizes; 3 or 4 runs, so that few kernels of few shapes are launched.
  Padding changes no value and no gradient: padded scores are so low that their attention weight is exactly 0, means
  leave padding out, and results at padded positions are dropped.

A set of one event needs one inducing row, because all m attend to the same event and are equal; so R = (number of sets
of one event) + m · (number of larger sets).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from seqsetvae.ops.rowwise import at_least_float32, softmax

Runs = tuple[tuple[int, int], ...]  # (events per set, number of such sets), ascending

SMALL_SIZES = (1, 8, 16, 48)  # PaddedSizes pads to these; larger sets to the next doubling of the last


class SetSizes:
    """The sizes of the sets of a batch, and the operations within sets; PaddedSizes replaces the methods that pad."""

    runs: Runs  # on the host, so that no step waits for the device

    def pad(self, x: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
        """Events at their positions in the runs, `fill` at the others: [E, C] → [P, C]."""
        return x

    def unpad(self, x: torch.Tensor) -> torch.Tensor:
        """Inverse of `pad`: [P, C] → [E, C]."""
        return x

    def event_masks(self) -> Sequence[torch.Tensor | None]:
        """Masks of the positions that hold an event, [count, size] for each run; None where all do."""
        return (None,) * len(self.runs)

    def events_per_set(self, device: torch.device) -> torch.Tensor:
        """Size of each set, in ascending order: [S] int64."""
        sizes, counts = torch.tensor(self.runs, device=device).unbind(1)
        return sizes.repeat_interleave(counts)

    def split(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The sets of each run: [E, C] → [count, size, C] a run.

        By one `split`, whose gradient is one concatenation; that of a slice would be an array of zeros for each run.
        """
        parts = self.pad(x).split([size * count for size, count in self.runs])
        return [part.view(count, size, -1) for part, (size, count) in zip(parts, self.runs, strict=True)]

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """Mean over each set's events: [E, D] → [S, D]."""
        return torch.cat([part.mean(1) for part in self.split(x)])

    def spread(self, rows: torch.Tensor) -> torch.Tensor:
        """Repeat each set's row for each of its events: [S, D] → [E, D]."""
        parts = zip(rows.split([count for _, count in self.runs]), self.runs, strict=True)
        return self.unpad(torch.cat([part.repeat_interleave(size, dim=0) for part, (size, _) in parts]))

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
        """Multi-head attention of each event to all events of its set: [E, D] each → [E, D]."""
        mixed = []
        for is_event, *parts in zip(self.event_masks(), *map(self.split, (query, key, value)), strict=True):
            q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in parts)  # [count, h, size, d]
            mask = None if is_event is None else is_event[:, None, None]  # [count, 1, 1, size]
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            mixed.append(attended.transpose(1, 2).flatten(2).flatten(0, 1))
        return self.unpad(torch.cat(mixed))

    def pool_events(self, scores: torch.Tensor, values: torch.Tensor, heads: int, m: int) -> torch.Tensor:
        """Each set's inducing points attend to its events: scores [E, h·m], values [E, h·D] → [R, D], summed over h.

        The values are already multiplied by the output map of their head, so that one product mixes and adds all heads.
        """
        scores = self.pad(scores, torch.finfo(scores.dtype).min)  # finite, so that softmax gives 0 and never NaN
        return _PoolEvents.apply(scores, self.pad(values).to(scores.dtype), self.runs, heads, m)

    def read_rows(self, queries: torch.Tensor, rows: torch.Tensor, heads: int, m: int) -> torch.Tensor:
        """Each event attends to its set's inducing rows: queries [E, h·D], rows [R, D] → [E, h·D], one D per head."""
        return self.unpad(_ReadRows.apply(self.pad(queries), rows.to(queries.dtype), self.runs, heads, m))


@dataclass
class ExactSizes(SetSizes):
    """Every run has sets of exactly one size; positions are events."""

    runs: Runs

    @classmethod
    def from_counts(cls, sizes: np.ndarray) -> ExactSizes:
        """The layout of sets of these sizes, in ascending order: [S]."""
        return cls(_runs(sizes))


@dataclass(eq=False)
class PaddedSizes(SetSizes):
    """Every run has sets that are padded to one of a few sizes."""

    runs: Runs  # of padded sizes
    event_position: torch.Tensor  # [E] int64, index of each event among P
    is_event: torch.Tensor  # [P] bool, False where there is only padding
    padding_factor: torch.Tensor  # [S] float64, padded size / size of each set

    @classmethod
    def from_counts(cls, sizes: np.ndarray) -> PaddedSizes:
        """The layout of sets of these sizes, in ascending order: [S].

        >>> padded = PaddedSizes.from_counts(np.array([1, 1, 2, 8, 9, 100]))
        >>> padded.runs
        ((1, 2), (8, 2), (16, 1), (192, 1))
        >>> padded.event_position[:6].tolist(), len(padded.is_event), int(padded.is_event.sum())
        ([0, 1, 2, 3, 10, 11], 226, 121)
        """
        doublings = int(sizes[-1]).bit_length()
        allowed = np.array([*SMALL_SIZES, *(SMALL_SIZES[-1] << k for k in range(1, doublings))])
        padded = allowed[np.searchsorted(allowed, sizes)]  # [S]
        position_in_set = np.arange(padded.sum()) - np.repeat(np.cumsum(padded) - padded, padded)  # [P]
        is_event = position_in_set < np.repeat(sizes, padded)
        arrays = np.flatnonzero(is_event), is_event, padded / sizes
        return cls(_runs(padded), *map(torch.from_numpy, arrays))

    def pad(self, x: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
        return x.new_full((len(self.is_event), x.shape[1]), fill).index_copy(0, self.event_position, x)

    def unpad(self, x: torch.Tensor) -> torch.Tensor:
        return _Unpad.apply(x, self.event_position)

    def event_masks(self) -> Sequence[torch.Tensor | None]:
        parts = zip(self.is_event.split([size * count for size, count in self.runs]), self.runs, strict=True)
        return [None if size == 1 else part.view(count, size) for part, (size, count) in parts]

    def events_per_set(self, device: torch.device) -> torch.Tensor:
        return (super().events_per_set(device) / self.padding_factor).round().long()

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        means = super().mean(x)
        return means * self.padding_factor[:, None].to(means.dtype)


def _runs(sizes: np.ndarray) -> Runs:
    values, counts = np.unique(sizes, return_counts=True)
    return tuple(zip(values.tolist(), counts.tolist(), strict=True))


class _Unpad(torch.autograd.Function):
    """`index_select` of distinct positions: the gradient is a copy, where torch's would add atomically."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(position)
        ctx.n_positions = len(x)
        return x.index_select(0, position)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (position,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.n_positions, gradient.shape[1]).index_copy(0, position, gradient), None


# The gradients of the next two are written by hand: each run costs a few small products that write into slices of one
# array, where autograd would record some 25 operations a run and copy whole arrays to join them.


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
            weight = softmax(scores[events].view(count, size, heads * m), 1)
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
        weights = softmax(scores, 1).to(rows.dtype)
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
    exact = at_least_float32(weights)
    return torch.ops.aten._softmax_backward_data(grad.to(exact.dtype), exact, dim, exact.dtype).to(grad.dtype)
