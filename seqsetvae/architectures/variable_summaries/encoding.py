"""Encodings of single numbers for the first layer: their place among those of the training stays; missing is zero.

Legend: R rows, F numbers of a row, K quantiles of the training stays (edges), Q numbers that describe one number,
W = Q + 1 with whether it is present.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

LEAST_STAYS = 50  # training stays that must have a number; nothing is learned from rarer ones
Fitted = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Encoding(ABC):
    """How a number is described by its place among the quantiles of the training stays."""

    def __init__(self, probabilities: Sequence[float], places: int) -> None:
        """`probabilities` [K] of the quantiles, ascending; `places` is Q."""
        self.probabilities = tuple(probabilities)
        self.places = places
        self.width = places + 1

    @abstractmethod
    def place(self, number: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Finite numbers [R, F] and edges [R, F, K] or [F, K] → [R, F, Q]."""

    def encode(self, values: torch.Tensor, edges: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
        """The place of each number, minus the mean over the training stays, and 1 for present.

        Args:
            values: [R, F]; NaN is missing, and gives zeros.
            edges: [R, F, K] or [F, K], ascending.
            center: [R, F, Q] or [F, Q].

        Returns:
            [R, F, W].
        """
        present = torch.isfinite(values)[..., None]
        place = torch.where(present, self.place(values.nan_to_num(), edges) - center, 0.0)
        return torch.cat([place, present.to(values.dtype)], dim=-1)

    def fit(self, values: torch.Tensor) -> Fitted:
        """Edges [F, K], centers [F, Q] and which numbers are used [F], from those of training stays [R, F].

        A number is used if at least LEAST_STAYS rows have it and if it varies.
        """
        n_present = torch.isfinite(values).sum(0)
        quantiles = torch.tensor(self.probabilities, dtype=values.dtype)
        if len(values) == 0:
            edges = values.new_zeros(values.shape[1], len(quantiles))
        else:
            edges = torch.nanquantile(values, quantiles, dim=0).T.nan_to_num()
        place = self.encode(values, edges, edges.new_zeros(values.shape[1], self.places))[..., :-1]
        center = place.sum(0) / n_present.clamp_min(1)[:, None]
        return edges, center, (n_present >= LEAST_STAYS) & (edges[:, -1] > edges[:, 0])

    def quantile(self, edges: torch.Tensor, probability: float) -> torch.Tensor:
        """A quantile of the training stays, linear between two edges: [..., K] → [...]."""
        index = float(np.interp(probability, self.probabilities, range(len(self.probabilities))))
        low = math.floor(index)
        high = min(low + 1, len(self.probabilities) - 1)
        return edges[..., low].lerp(edges[..., high], index - low)


class PiecewiseLinear(Encoding):
    """How far a number fills each interval between five quantiles (Gorishniy et al., NeurIPS 2022, section 3.2)."""

    def __init__(self) -> None:
        super().__init__((0.0, 0.1, 0.5, 0.9, 1.0), places=4)

    def place(self, number: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """The share of each interval that lies below the number; an interval of no width is a step."""
        low, high = edges[..., :-1], edges[..., 1:]
        share = ((number[..., None] - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
        return torch.where(high > low, share, (number[..., None] >= high).to(number.dtype))


class NormalScores(Encoding):
    """The standard normal quantile of a number's position among the training stays: any distribution becomes normal."""

    OUTERMOST = 1 / 64  # positions end here and at 1 - 1/64, half a step between two quantiles: scores within ±2.15

    def __init__(self) -> None:
        super().__init__(np.linspace(0, 1, 33).tolist(), places=1)

    def place(self, number: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Positions are linear between quantiles; a number that equals several of them has their middle."""
        edges = edges.expand(*number.shape, -1).contiguous()
        below = torch.searchsorted(edges, number[..., None])  # edges less than the number
        up_to = torch.searchsorted(edges, number[..., None], right=True)
        last = edges.shape[-1] - 1
        low, high = (edges.gather(-1, index.clamp(0, last)) for index in (below - 1, below))
        between = below - 1 + (number[..., None] - low) / (high - low).clamp_min(1e-9)
        equal = (below + up_to - 1).to(number.dtype) / 2
        position = torch.where(up_to > below, equal, between) / last
        return torch.special.ndtri(position.clamp(self.OUTERMOST, 1 - self.OUTERMOST))


ENCODINGS: dict[str, Encoding] = {"normal_scores": NormalScores(), "piecewise_linear": PiecewiseLinear()}
