"""The encoding of single numbers for the first layer: normal scores of their place among those of the training stays.

The standard normal quantile of a number's position makes any distribution normal; a missing number is zero.

Legend: R rows, F numbers of a row, K quantiles of the training stays (edges), Q = 1 number that describes one number,
W = Q + 1 with whether it is present; V tables of edges; n numbers that are present.
"""

from __future__ import annotations

import math

import numpy as np
import torch

PROBABILITIES = tuple(np.linspace(0, 1, 33).tolist())  # of the K quantiles
PLACES, WIDTH = 1, 2  # Q, W
OUTERMOST = 1 / 64  # positions end here and at 1 - 1/64, half a step between two quantiles: scores within ±2.15
MOST_NEEDED, NEEDED_SHARE = 10, 0.02  # see `least_stays`
DIFFER = 2  # training stays that must have, and lack, what is used for its presence alone; one stay teaches nothing
Fitted = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def place(number: torch.Tensor, edges: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """Finite numbers [n], edges [V F, K] and the row of the edges of each number [n] → [n, Q].

    Positions are linear between quantiles; a number that equals several of them has their middle.
    """
    n_edges = edges.shape[1]
    last, first = n_edges - 1, row * n_edges
    below = count_below(number, edges, row)
    low, high = (edges.take(first + index.clamp(0, last)) for index in (below - 1, below))
    between = below - 1 + (number - low) / (high - low).clamp_min(1e-9)
    up_to = torch.searchsorted(edges, edges, right=True)  # number of edges that are not above each
    equal = (below + up_to.take(first + below.clamp_max(last)) - 1).to(number.dtype) / 2
    position = torch.where((high == number) & (below <= last), equal, between) / last
    return torch.special.ndtri(position.clamp(OUTERMOST, 1 - OUTERMOST))[:, None]


def places(values: torch.Tensor, fitted: Fitted, variable: torch.Tensor) -> torch.Tensor:
    """The place of each number, minus the mean over the training stays; on the host.

    Args:
        values: [R, F]; NaN is missing.
        fitted: as `fit` returns it, of each variable: edges [V, F, K], centers [V, F, Q], used [V, F].
        variable: [R], which of these a row belongs to.

    Returns:
        [R, F, Q] of the type of the values, NaN where a number is missing or not used.
    """
    edges, center, used = fitted
    present = torch.isfinite(values) & used[variable]
    where = present.flatten().nonzero()[:, 0]  # [n]
    row = (variable[:, None] * values.shape[1] + torch.arange(values.shape[1])).take(where)
    edges = edges.to(values.dtype).flatten(0, 1)
    centered = place(values.take(where), edges, row) - center.to(values.dtype).flatten(0, 1)[row]
    constant = edges[row, 0] == edges[row, -1]  # only that it is there was learned from
    placed = values.new_full((values.numel(), PLACES), torch.nan)
    placed[where] = centered.masked_fill(constant[:, None], 0.0)
    return placed.reshape(*values.shape, PLACES)


def encode(placed: torch.Tensor) -> torch.Tensor:
    """Places [R, F, Q] and 1 for present, or zeros: [R, F, W]."""
    present = torch.isfinite(placed[..., :1])
    return torch.cat([placed.nan_to_num(), present.to(placed.dtype)], dim=-1)


def fit(values: torch.Tensor, n_stays: int | None = None) -> Fitted:
    """Edges [F, K], centers [F, Q] and which numbers are used [F], from those of training stays [R, F].

    `n_stays` counts all training stays, where those that have none of these numbers are no rows.
    """
    n_present = torch.isfinite(values).sum(0)
    quantiles = torch.tensor(PROBABILITIES, dtype=values.dtype)
    if len(values) == 0:
        edges = values.new_zeros(values.shape[1], len(quantiles))
    else:
        edges = torch.nanquantile(values, quantiles, dim=0).T.nan_to_num()
    center, all_used = edges.new_zeros(1, values.shape[1], PLACES), torch.ones(1, values.shape[1]).bool()
    placed = places(values, (edges[None], center, all_used), torch.zeros(len(values), dtype=torch.int64))
    center = encode(placed)[..., :-1].sum(0) / n_present.clamp_min(1)[:, None]
    return edges, center, differing(values, edges[:, -1] > edges[:, 0], n_stays or len(values))


def quantile(edges: torch.Tensor, probability: float) -> torch.Tensor:
    """A quantile of the training stays, linear between two edges: [..., K] → [...]."""
    index = probability * (len(PROBABILITIES) - 1)
    low = math.floor(index)
    high = min(low + 1, len(PROBABILITIES) - 1)
    return edges[..., low].lerp(edges[..., high], index - low)


def least_stays(n_stays: int) -> int:
    """How many of so many training stays must have a number whose size is to be learned from.

    >>> [least_stays(n) for n in (4, 100, 400, 6000)]
    [2, 2, 8, 10]
    """
    return max(DIFFER, min(MOST_NEEDED, math.ceil(NEEDED_SHARE * n_stays)))


def differing(values: torch.Tensor, varies: torch.Tensor, n_stays: int) -> torch.Tensor:
    """Which numbers [F] differ between the training stays, by their size or by whether they are there.

    A number that varies is used if `least_stays` have it. One that does not, such as the count of a fact that a stay
    has once or not at all, is used if some stays have it, others lack it, and no number that varies tells the same by
    being there. So is the first, the count of a variable, where fewer stays have it.

    Args:
        values: [R, F] of the stays that have any; NaN is missing.
        varies: [F].
        n_stays: number of all training stays.
    """
    present = torch.isfinite(values)
    n_present, least = present.sum(0), least_stays(n_stays)
    used = varies & (n_present >= least)
    known = {presence(present, place) for place in used.nonzero()[:, 0]}
    enough = torch.where(torch.arange(len(used)) == 0, DIFFER, least)  # the first is a count
    for place in (~used & (n_present >= enough) & (n_present <= n_stays - DIFFER)).nonzero()[:, 0]:
        used[place] = presence(present, place) not in known
    return used


def presence(present: torch.Tensor, place: torch.Tensor) -> bytes:
    """Which stays have a number, comparable: bool [R, F] → R bytes."""
    return present[:, place].numpy().tobytes()


def repeated(values: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Which numbers [F] are constant and there in the same stays as an earlier constant one: [R, F], edges [F, K].

    For the network they are one fact that counts as much as a value, which has as many summaries. For trees a copy of a
    column is of no use.
    """
    present, known = torch.isfinite(values), set[bytes]()
    is_repeated = torch.zeros(len(edges), dtype=torch.bool)
    for place in (edges[:, 0] == edges[:, -1]).nonzero()[:, 0]:
        is_repeated[place] = presence(present, place) in known
        known.add(presence(present, place))
    return is_repeated


def count_below(number: torch.Tensor, edges: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """How many of its edges are less than each number: [n], [V F, K] ascending, [n] → [n].

    torch.searchsorted would need a copy of the K edges for each number. This binary search reads log2(K) of them.
    """
    n_edges = edges.shape[1]
    first = row * n_edges
    below = torch.zeros_like(row)
    for step in (1 << bit for bit in reversed(range(n_edges.bit_length()))):
        more = below + step
        is_less = edges.take(first + more.clamp_max(n_edges) - 1) < number
        below = torch.where(is_less & (more <= n_edges), more, below)
    return below
