"""What a new model learns from the training stays before training: quantiles, and boosted trees on its summaries.

Legend: n labelled stays of a split, c columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from seqsetvae.batches.loading import CohortDataModule, until
from seqsetvae.models.members import Members
from seqsetvae.models.trees import MAX_STAYS, BoostedTrees
from seqsetvae.settings.groups import TreeSettings
from seqsetvae.system.console import print_line

FIT_STAYS = 20_000  # that quantiles are computed from, which bounds memory


def fit_to_training_stays(backbone: Any, data: CohortDataModule) -> None:
    """Call the backbone's `fit`, if it has one, with at most FIT_STAYS training stays in random order."""
    if hasattr(backbone, "fit"):
        backbone.fit(data.cohort, until(data.loader("train", shuffle=True), FIT_STAYS))


def fit_members(
    settings: TreeSettings, backbone: Any, variables: torch.Tensor, data: CohortDataModule
) -> Members | None:
    """The network and the trees to average it with, if any."""
    if not settings.tree_models:
        if hasattr(backbone, "drop_pretrained"):
            backbone.drop_pretrained()
        return None
    stays, table = table_of_split(backbone, variables, data, "train")
    print_line(f"Boosted trees: {len(table):,} training stays, {table.shape[1]:,} columns")
    label = data.cohort.split("train").label[stays]
    return Members.fixed(BoostedTrees.fit(table, label, settings.tree_models))


def table_of_split(
    backbone: Any, variables: torch.Tensor, data: CohortDataModule, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the labelled stays of a split [n], ascending, and the backbone's table of them [n, c].

    At most MAX_STAYS of them.
    """
    position = {stay: row for row, stay in enumerate(data.cohort.split(split).stay_id.tolist())}
    found, rows = [], []
    for batch in until(data.loader(split, shuffle=data.n_selected(split) > MAX_STAYS), MAX_STAYS):
        rows.append(backbone.table(batch, variables))
        found += [position[stay] for stay in batch.stay_id.tolist()]
    order = np.argsort(found)
    return np.array(found)[order], np.concatenate(rows)[order]
