"""What a new model learns from the training stays before training: quantiles, and boosted trees on its summaries.

Legend: n labelled stays of a split, c columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from seqsetvae.console import print_line
from seqsetvae.loading import CohortDataModule, until
from seqsetvae.settings.groups import TreeSettings
from seqsetvae.trees import MAX_STAYS, BoostedTrees, out_of_fold_log_odds, soft_labels

FIT_STAYS = 20_000  # that quantiles are computed from, which bounds memory


def fit_to_training_stays(backbone: Any, data: CohortDataModule) -> None:
    """Call the backbone's `fit`, if it has one, with at most FIT_STAYS training stays in random order."""
    if hasattr(backbone, "fit"):
        backbone.fit(data.cohort, until(data.loader("train", shuffle=True), FIT_STAYS))


def grow_trees(
    settings: TreeSettings, backbone: Any, variables: torch.Tensor, data: CohortDataModule
) -> tuple[CohortDataModule, BoostedTrees | None]:
    """The loaders, with the targets of distillation if there is any, and the trees to average with, if any."""
    if not settings.distillation and not settings.tree_models:
        if hasattr(backbone, "drop_pretrained"):
            backbone.drop_pretrained()
        return data, None
    stays, table = table_of_split(backbone, variables, data, "train")
    label = data.cohort.split("train").label
    print_line(f"Boosted trees: {len(table):,} training stays, {table.shape[1]:,} columns")
    if settings.distillation:
        targets = label.astype(np.float32)
        log_odds = out_of_fold_log_odds(table, label[stays])
        targets[stays] = soft_labels(log_odds, label[stays], settings.distillation)
        data = data.with_soft_labels("train", targets)
    trees = BoostedTrees.fit(table, label[stays], settings.tree_models) if settings.tree_models else None
    return data, trees


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
