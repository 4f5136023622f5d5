"""Causal attention over the sets of each stay.

Legend: S sets of the batch (flat: stay by stay, in time order), D width, C columns, h heads (d = D / h each); a grid
has N stays of at most T sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from seqsetvae.ops.rowwise import dropout, softmax

MOST_PADDING = 1.5  # positions of a grid for each of its sets; attention then sees at most 1.5² times as many pairs
QUERY_BLOCK = 512  # sets whose attention weights are in memory at once, where these are computed explicitly


@dataclass(eq=False)
class Grids:
    """Padded grids that hold the stays, one row each; stays of similar length share a grid.

    Padding is on the right, where causal attention never looks, so it needs no mask.
    """

    position: torch.Tensor  # [S] int64, index of each set in the grids, concatenated row by row
    shapes: tuple[tuple[int, int], ...]  # on the host: (N, T) of each grid, longest first

    @classmethod
    def from_counts(cls, sets_per_stay: np.ndarray) -> Grids:
        """The grids of stays of these lengths: [number of stays].

        A grid takes the next shorter stay as long as it has at most MOST_PADDING positions for each of its sets. So
        stays of similar length, as the sampler brings them together, are one grid, and a stay of thousands of sets
        beside short ones costs its own attention and no more.

        >>> grids = Grids.from_counts(np.array([3, 1000, 2, 3]))
        >>> grids.shapes
        ((1, 1000), (3, 3))
        >>> grids.position[[0, 3, 1003, 1005]].tolist()  # where each stay starts
        [1000, 0, 1006, 1003]
        """
        order = np.argsort(-sets_per_stay, kind="stable")
        shapes: list[tuple[int, int]] = []
        held = 0  # sets in the last grid
        for length in sets_per_stay[order].tolist():
            stays, width = shapes[-1] if shapes else (0, 0)
            if shapes and (stays + 1) * width <= MOST_PADDING * (held + length):
                shapes[-1] = (stays + 1, width)
                held += length
            else:
                shapes.append((1, length))
                held = length
        widths = np.repeat([width for _, width in shapes], [stays for stays, _ in shapes])
        row_start = np.empty_like(order)
        row_start[order] = np.cumsum(widths) - widths
        first_set = np.cumsum(sets_per_stay) - sets_per_stay
        position = np.repeat(row_start - first_set, sets_per_stay) + np.arange(sets_per_stay.sum())
        return cls(torch.from_numpy(position), tuple(shapes))

    def pad(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """[S, C] → [N, T, C] for each grid, zeros where a stay has fewer sets."""
        sizes = [stays * width for stays, width in self.shapes]
        padded = flat.new_zeros(sum(sizes), flat.shape[1]).index_copy(0, self.position, flat)
        return [part.view(*shape, -1) for part, shape in zip(padded.split(sizes), self.shapes, strict=True)]

    def unpad(self, padded: list[torch.Tensor]) -> torch.Tensor:
        """[N, T, C] of each grid → [S, C]."""
        parts = [part.flatten(0, 1) for part in padded]
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)  # the usual one grid is not copied
        return rows.index_select(0, self.position)


@torch.compiler.disable  # the number of grids and of stays in each differ: every new pattern would be compiled anew
def causal_attention(projected: torch.Tensor, grids: Grids, heads: int, drop: float = 0.0) -> torch.Tensor:
    """Multi-head attention of each set to itself and the earlier sets of its stay: [S, 3D] → [S, D].

    `projected` has queries, keys and values side by side; `drop` is the dropout probability of attention weights.
    """
    mixed = []
    for grid in grids.pad(projected):
        query, key, value = grid.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # [N, h, T, d] each
        mixed.append(_attend(query, key, value, drop).transpose(1, 2).flatten(2))
    return grids.unpad(mixed)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, drop: float) -> torch.Tensor:
    """Causal attention in one grid: [N, h, T, d] each → [N, h, T, d].

    Fused kernels do not store the T² attention weights, but those for a CPU have no dropout. With dropout on a CPU the
    weights are computed explicitly: for long stays block by block, and again for the gradient of each block.
    """
    length = query.shape[2]
    if not drop or query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=drop, is_causal=True)
    if length <= QUERY_BLOCK:
        return _attend_block(query, key, value, 0, drop)
    blocks = [
        checkpoint(_attend_block, query, key, value, start, drop, use_reentrant=False)
        for start in range(0, length, QUERY_BLOCK)
    ]
    return torch.cat(blocks, dim=2)


def _attend_block(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, start: int, drop: float) -> torch.Tensor:
    """Causal attention for the QUERY_BLOCK positions from `start` on: [N, h, at most QUERY_BLOCK, d]."""
    end = min(start + QUERY_BLOCK, query.shape[2])
    hidden = torch.full((end - start, end), -torch.inf, dtype=query.dtype, device=query.device).triu(start + 1)
    scores = query[:, :, start:end] * query.shape[3] ** -0.5 @ key[:, :, :end].mT + hidden
    weights = softmax(scores, 3).to(value.dtype)
    return dropout(weights, drop, training=True) @ value[:, :, :end]
