"""From the history states of a stay to one row.

Legend: S sets (stay by stay), N stays, D width of a state, P pooled width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from seqsetvae.batch import Batch


def _last(history: torch.Tensor, batch: Batch) -> torch.Tensor:
    return history.index_select(0, batch.sets_per_stay.cumsum(0) - 1)


def _mean(history: torch.Tensor, batch: Batch) -> torch.Tensor:
    total = history.new_zeros(batch.n_stays, history.shape[1]).index_add(0, batch.stay_of_set, history)
    return total / batch.sets_per_stay[:, None].to(history.dtype)


def _last_and_mean(history: torch.Tensor, batch: Batch) -> torch.Tensor:
    return torch.cat([_last(history, batch), _mean(history, batch)], dim=1)


# name -> (how [S, D] becomes [N, P], P / D). The whole history of a stay is its mean; "last" is the newest state alone.
POOLINGS: dict[str, tuple[Callable[[torch.Tensor, Batch], torch.Tensor], int]] = {
    "last": (_last, 1),
    "mean": (_mean, 1),
    "last_mean": (_last_and_mean, 2),
}


def pool(history: torch.Tensor, batch: Batch, pooling: str) -> torch.Tensor:
    """History states [S, D] → one row a stay [N, P], by a name in POOLINGS."""
    return POOLINGS[pooling][0](history, batch)
