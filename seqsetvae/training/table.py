"""What a new model learns from the training stays before training: quantiles, and what the network is averaged with.

Legend: n labelled stays of a split, c columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seqsetvae.batches.loading import CohortDataModule, take_stays
from seqsetvae.models.linear import LinearModel, log_loss
from seqsetvae.models.members import (
    KINDS_OF_TREES,
    LINEAR,
    NETWORK,
    Fitted,
    Member,
    Members,
    chosen_weights,
)
from seqsetvae.models.trees import MAX_STAYS, BoostedTrees
from seqsetvae.settings.groups import TreeSettings
from seqsetvae.system.console import print_line

FIT_STAYS = 20_000  # that quantiles are computed from, which bounds memory


def fit_to_training_stays(backbone: Any, data: CohortDataModule) -> None:
    """Call the backbone's `fit`, if it has one, with at most FIT_STAYS training stays in random order."""
    if hasattr(backbone, "fit"):
        backbone.fit(data.cohort, take_stays(data.loader("train", shuffle=True), FIT_STAYS))


@dataclass(frozen=True)
class OutOfFold:
    """A part of the training stays, and what was trained without it."""

    trained_on: np.ndarray  # ids of the other stays
    stay_id: np.ndarray  # of the part
    network: np.ndarray | None  # log-odds of a network that was trained on the other stays; None: it has no weight


def fit_members(
    settings: TreeSettings,
    backbone: Any,
    variables: torch.Tensor,
    data: CohortDataModule,
    out_of_fold: Callable[[], Sequence[OutOfFold]],
) -> Members | None:
    """The network and what it is averaged with; None: it is alone. `out_of_fold` trains what weights are chosen by."""
    if not settings.beside_network:
        if hasattr(backbone, "drop_pretrained"):
            backbone.drop_pretrained()
        return None
    parts = [] if settings.average == "fixed" else out_of_fold()
    stays, table = table_of_split(backbone, variables, data, "train")
    print_line(f"Boosted trees: {len(table):,} training stays, {table.shape[1]:,} columns")
    split = data.cohort.split("train")
    if not parts:
        return Members.fixed(BoostedTrees.fit(table, split.label[stays], settings.tree_models))
    members = _weighted(settings.tree_models, table, split.label[stays], split.stay_id[stays], parts)
    print_line(f"Average: {members}")
    return members


def _weighted(
    tree_models: int, table: np.ndarray, label: np.ndarray, stay_id: np.ndarray, parts: Sequence[OutOfFold]
) -> Members:
    """Members for the stays of a table [n, c]: each is fitted to all of them, weights are chosen by the parts."""
    rows = [
        (np.flatnonzero(np.isin(stay_id, part.trained_on)), np.flatnonzero(np.isin(stay_id, part.stay_id)))
        for part in parts
    ]
    found: list[tuple[str, Fitted | None, np.ndarray]] = []  # name, what was fitted, log-odds out of fold [n]
    if parts[0].network is not None:
        found.append((NETWORK, None, _of_networks(stay_id, parts)))
    for place, (name, kind) in enumerate(list(KINDS_OF_TREES.items())[:tree_models]):
        models = len(range(place, tree_models, len(KINDS_OF_TREES)))  # of each kind in turn
        found.append((name, *BoostedTrees.of_best_length(table, label, kind, models, rows)))
    found.append((LINEAR, *LinearModel.of_best_strength(table, label, rows)))
    known = np.concatenate([held_out for _, held_out in rows])
    every = np.stack([log_odds for *_, log_odds in found])[:, known]
    of_each = zip(found, chosen_weights(every, label[known]), log_loss(every, label[known]), strict=True)
    members = [Member(name, float(weight), model, float(loss)) for (name, model, _), weight, loss in of_each]
    return Members((*([] if members[0].model is None else [Member(NETWORK, 0.0, None)]), *members))


def _of_networks(stay_id: np.ndarray, parts: Sequence[OutOfFold]) -> np.ndarray:
    """Their log-odds for these stays [n], each by the network that was trained without it; NaN where there is none."""
    found = np.full(len(stay_id), np.nan)
    for part in parts:
        assert part.network is not None, "all parts have a network, or none has"
        order = part.stay_id.argsort()
        inside = np.flatnonzero(np.isin(stay_id, part.stay_id))
        found[inside] = part.network[order[np.searchsorted(part.stay_id, stay_id[inside], sorter=order)]]
    return found


def table_of_split(
    backbone: Any, variables: torch.Tensor, data: CohortDataModule, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the labelled stays of a split [n], ascending, and the backbone's table of them [n, c].

    At most MAX_STAYS of them.
    """
    position = {stay: row for row, stay in enumerate(data.cohort.split(split).stay_id.tolist())}
    found, rows = [], []
    for batch in take_stays(data.loader(split, shuffle=data.n_selected(split) > MAX_STAYS), MAX_STAYS):
        rows.append(backbone.table(batch, variables))
        found += [position[stay] for stay in batch.stay_id.tolist()]
    order = np.argsort(found)
    return np.array(found)[order], np.concatenate(rows)[order]
