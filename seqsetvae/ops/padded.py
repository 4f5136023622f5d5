"""What ragged.py does, for sets that are padded to a few sizes: the way of a GPU.

Legend: E events, S sets, P positions (events and padding), C columns; h heads, m inducing points, D width.
A set is either of its exact size (`Runs`: no padding, a loop over about 15 sizes in a batch) or padded to one of a few
(`PaddedSizes`: 3 or 4 in a batch, so that a GPU gets few launches of few shapes). Only softmax-and-mix sees padding,
through the very functions that see exact sizes: all linear maps run on the flat rows of events.

Padding takes part in nothing: padded scores are so low that their weight is exactly 0, means and minima leave it out,
and what is computed at padded positions is dropped with them, values and gradients.
"""

from __future__ import annotations

from typing import Any

import torch

from seqsetvae.batch import PaddedSizes
from seqsetvae.ops import ragged
from seqsetvae.ops.ragged import Runs

SetSizes = Runs | PaddedSizes


def runs_of(sizes: SetSizes) -> Runs:
    """Runs of sets as the loops see them."""
    return sizes.runs if isinstance(sizes, PaddedSizes) else sizes


def pad_events(x: torch.Tensor, sizes: SetSizes, fill: float = 0.0) -> torch.Tensor:
    """Events to their padded positions, `fill` in between: [E, C] → [P, C]; exact sizes are not padded."""
    if not isinstance(sizes, PaddedSizes):
        return x
    return x.new_full((len(sizes.is_event), x.shape[1]), fill).index_copy(0, sizes.event_position, x)


def unpad_events(x: torch.Tensor, sizes: SetSizes) -> torch.Tensor:
    """The reverse: [P, C] → [E, C]."""
    return _Unpad.apply(x, sizes.event_position) if isinstance(sizes, PaddedSizes) else x


class _Unpad(torch.autograd.Function):
    """`index_select` by distinct positions: its gradient is a copy, where torch would add atomically."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(position)
        ctx.n_positions = len(x)
        return x.index_select(0, position)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (position,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.n_positions, gradient.shape[1]).index_copy(0, position, gradient), None


def event_masks(sizes: SetSizes) -> tuple[torch.Tensor | None, ...]:
    """For each run which positions hold an event, [count, size]; None where all do."""
    if not isinstance(sizes, PaddedSizes):
        return (None,) * len(sizes)
    parts = sizes.is_event.split([size * count for size, count in sizes.runs])
    runs = zip(sizes.runs, parts, strict=True)
    return tuple(None if size == 1 else part.view(count, size) for (size, count), part in runs)


def pool_events(scores: torch.Tensor, values: torch.Tensor, sizes: SetSizes, heads: int, m: int) -> torch.Tensor:
    """Each set's inducing points attend to its events: scores [E, h·m], values [E, h·D] → mixed [R, D]."""
    scores = pad_events(scores, sizes, torch.finfo(scores.dtype).min)  # finite: softmax makes it 0, and never NaN
    return ragged.pool_events(scores, pad_events(values, sizes), runs_of(sizes), heads, m)


def read_rows(queries: torch.Tensor, rows: torch.Tensor, sizes: SetSizes, heads: int, m: int) -> torch.Tensor:
    """Each event attends to its set's inducing rows: queries [E, h·D], rows [R, D] → mixed [E, h·D]."""
    return unpad_events(ragged.read_rows(pad_events(queries, sizes), rows, runs_of(sizes), heads, m), sizes)


def mean_of_events(x: torch.Tensor, sizes: SetSizes) -> torch.Tensor:
    """Mean over each set's events: [E, D] → [S, D]."""
    means = ragged.mean_of_events(pad_events(x, sizes), runs_of(sizes))
    return means * sizes.padding_factor[:, None].to(means.dtype) if isinstance(sizes, PaddedSizes) else means


def spread(rows: torch.Tensor, sizes: SetSizes) -> torch.Tensor:
    """Repeat each set's row for each of its events: [S, D] → [E, D]."""
    return unpad_events(ragged.spread(rows, runs_of(sizes)), sizes)
