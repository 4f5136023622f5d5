"""Piecewise-linear encoding of numbers (Gorishniy et al., NeurIPS 2022, section 3.2), with missing numbers as zero.

Legend: R rows, F numbers of a row, Q = 4 intervals between quantiles of the training stays.
"""

from __future__ import annotations

import torch

QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)  # of the training stays
WIDTH = len(QUANTILES)  # Q + 1 numbers for each: Q filled intervals, and whether it is present
LEAST_STAYS = 50  # training stays that must have a number; nothing is learned from rarer ones


def encode(values: torch.Tensor, edges: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """How far each number fills each interval, minus the mean over the training stays, and 1 for present.

    Args:
        values: [R, F]; NaN is missing, and gives zeros.
        edges: [R, F, Q + 1] or [F, Q + 1], ascending; an interval of no width is a step.
        center: [R, F, Q] or [F, Q].

    Returns:
        [R, F, Q + 1].
    """
    present = torch.isfinite(values)[..., None]
    low, high = edges[..., :-1], edges[..., 1:]
    number = values.nan_to_num()[..., None]
    share = ((number - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
    filled = torch.where(high > low, share, (number >= high).to(values.dtype))
    return torch.cat([torch.where(present, filled - center, 0.0), present.to(values.dtype)], dim=-1)


def fit(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Edges [F, Q + 1], centers [F, Q] and which numbers are used [F], from those of training stays [R, F].

    A number is used if at least LEAST_STAYS rows have it and if it varies.
    """
    n_present = torch.isfinite(values).sum(0)
    quantiles = torch.tensor(QUANTILES, dtype=values.dtype)
    if len(values) == 0:
        edges = values.new_zeros(values.shape[1], WIDTH)
    else:
        edges = torch.nanquantile(values, quantiles, dim=0).T.nan_to_num()
    filled = encode(values, edges, edges.new_zeros(values.shape[1], WIDTH - 1))[..., :-1]
    center = filled.sum(0) / n_present.clamp_min(1)[:, None]
    return edges, center, (n_present >= LEAST_STAYS) & (edges[:, -1] > edges[:, 0])
