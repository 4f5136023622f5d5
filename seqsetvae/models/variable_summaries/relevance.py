"""How much of the labels of training stays one summary alone explains, by its best threshold; no weight is trained.

Legend: N labelled stays, P pairs (stay, variable), V variables, F summaries of a pair, C combinations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from seqsetvae.models.variable_summaries.prepare import Summaries

Relevance = tuple[torch.Tensor, torch.Tensor]  # of each summary [V, F] and combination [C], from 0 to 1


def relevance(
    batches: Sequence[Summaries], labels: Sequence[torch.Tensor], n_variables: int, n_inputs: int
) -> Relevance:
    """The share of the labels' entropy that the best threshold of each summary explains, less what chance gives.

    Args:
        batches: summaries of all labelled training stays.
        labels: of the stays of each batch, 0 or 1.
        n_variables: V.
        n_inputs: number of summaries and combinations among which the best would be found by chance.
    """
    label = torch.cat(list(labels)).double()
    of_pair = torch.cat([each[batch.stay] for batch, each in zip(batches, labels, strict=True)]).double()
    variable, values, combinations = (
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("variable", "values", "combinations")
    )
    n_stays, n_positive = len(label), float(label.sum())
    order = variable.argsort(stable=True)
    counts = torch.bincount(variable, minlength=n_variables).tolist()
    rows = zip(values[order].split(counts), of_pair[order].split(counts), strict=True)
    of_summaries = torch.stack([explained(*row, n_stays, n_positive) for row in rows])
    entropy = float(_entropy(label.mean()))
    chance = math.log(n_stays * n_inputs) / n_stays  # as many thresholds are tried (Bonferroni)
    information = of_summaries, explained(combinations, label, n_stays, n_positive)
    return tuple(((each - chance) / entropy).clamp_min(0).float() for each in information)  # type: ignore[return-value]


def explained(values: torch.Tensor, label: torch.Tensor, n_stays: int, n_positive: float) -> torch.Tensor:
    """Information, in nats, that the best threshold of each column gives about the labels of all stays: [P, F] → [F].

    Stays that lack a number, or are no rows, are on the other side of the threshold, whichever side that is.
    """
    if not len(values):
        return torch.zeros(values.shape[1], dtype=torch.float64)
    ranked, order = values.sort(dim=0)  # NaN comes last
    present = torch.isfinite(ranked)
    n_below, positive_below = present.double().cumsum(0), (label[order] * present).cumsum(0)
    sides = ((n_below, positive_below), (n_below[-1] - n_below, positive_below[-1] - positive_below))
    gains = [_information(*side, n_stays, n_positive) for side in sides]
    is_last = torch.ones_like(present)  # of equal numbers
    is_last[:-1] = ranked[:-1] != ranked[1:]
    return torch.where(present & is_last, torch.maximum(*gains), 0.0).amax(0)


def _information(n: torch.Tensor, positive: torch.Tensor, n_stays: int, n_positive: float) -> torch.Tensor:
    """Information about the label in whether a stay is among these n, some of which are positive."""
    others = n_stays - n
    within = n * _entropy(positive / n.clamp_min(1)) + others * _entropy((n_positive - positive) / others.clamp_min(1))
    return _entropy(torch.tensor(n_positive / n_stays, dtype=n.dtype)) - within / n_stays


def _entropy(share: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(share) + torch.special.entr(1 - share)
