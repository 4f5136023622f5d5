"""Pooling: from the history states of a stay to one row.

Legend: S sets (stay by stay), N stays, D width of a state, P pooled width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def _last(history: torch.Tensor, sets_per_stay: torch.Tensor) -> torch.Tensor:
    return history.index_select(0, sets_per_stay.cumsum(0) - 1)


def _mean(history: torch.Tensor, sets_per_stay: torch.Tensor) -> torch.Tensor:
    stay_of_set = torch.repeat_interleave(sets_per_stay, output_size=len(history))
    total = history.new_zeros(len(sets_per_stay), history.shape[1]).index_add(0, stay_of_set, history)
    return total / sets_per_stay[:, None].to(history.dtype)


def _last_and_mean(history: torch.Tensor, sets_per_stay: torch.Tensor) -> torch.Tensor:
    return torch.cat([_last(history, sets_per_stay), _mean(history, sets_per_stay)], dim=1)


# name -> (function from [S, D] and sets per stay [N] to [N, P], P / D)
POOLINGS: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], int]] = {
    "last": (_last, 1),
    "mean": (_mean, 1),
    "last_mean": (_last_and_mean, 2),
}


def pool(history: torch.Tensor, sets_per_stay: torch.Tensor, pooling: str) -> torch.Tensor:
    """History states [S, D] of stays with so many sets [N] → one row a stay [N, P]; `pooling` is a name in POOLINGS."""
    return POOLINGS[pooling][0](history, sets_per_stay)
