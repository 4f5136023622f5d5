"""Predictions for the stays of a split as one table: validation, evaluation and reports all read this.

Legend: N stays of a batch, n stays of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.utilities import dim_zero_cat

from seqsetvae.batch import Batch, PooledBatch
from seqsetvae.metrics import require_finite
from seqsetvae.processes import columns_of_all


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row for each stay."""

    split: str
    stay_id: torch.Tensor  # [n] int64
    label: torch.Tensor  # [n] int64, 0 or 1; -1 = no label
    logit: torch.Tensor  # [n] float64, log-odds of class 1

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, chosen: torch.Tensor) -> Predictions:
        """These rows: a mask [n] or positions."""
        return Predictions(self.split, self.stay_id[chosen], self.label[chosen], self.logit[chosen])

    def labelled(self) -> Predictions:
        """The rows of stays with a label."""
        return self.rows(self.label >= 0)

    def ranking(self) -> dict[str, torch.Tensor]:
        """AUROC ("auc") and average precision ("auprc"), exact.

        Without validate_args, which would read everything back to the host: labels were checked in compiling the data.
        """
        score = ranking_score(self.logit)
        return {
            "auc": binary_auroc(score, self.label, validate_args=False),
            "auprc": binary_average_precision(score, self.label, validate_args=False),
        }


def ranking_score(logit: torch.Tensor) -> torch.Tensor:
    """Scores in (0, 1) that rank stays exactly as their log-odds do: [n] → [n], the ranks of their distinct values.

    Not the probability: a sigmoid rounds large log-odds to the same number, and those ties would change the AUROC. Any
    other function that squeezes all log-odds into (0, 1) does so too, only later.
    """
    distinct, rank = logit.unique(return_inverse=True)
    return (rank.double() + 0.5) / len(distinct)


class GatheredPredictions(Metric):
    """Gathers the predictions of all batches, and in `compute` those of all processes, on the device."""

    full_state_update = False
    stay_id: list[torch.Tensor]
    label: list[torch.Tensor]
    logit: list[torch.Tensor]

    def __init__(self, split: str) -> None:
        super().__init__()
        self.split = split
        for name in ("stay_id", "label", "logit"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, logits: torch.Tensor, label: torch.Tensor, stay_id: torch.Tensor) -> None:
        """Add a batch: logits [N, 2], labels [N], stay ids [N]."""
        self.logit.append(_log_odds(logits))
        self.label.append(label)
        self.stay_id.append(stay_id)

    def compute(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(stay_id, label, logit) of all stays; torchmetrics would damage a dataclass here."""
        return dim_zero_cat(self.stay_id), dim_zero_cat(self.label), dim_zero_cat(self.logit)

    def table(self) -> Predictions:
        """All predictions; without the unlabelled stays by which the batches of several processes are filled up."""
        return self.all_stays().labelled()

    def metrics(self) -> dict[str, torch.Tensor]:
        """AUROC and average precision of the stays with a label."""
        return self.table().ranking()

    def all_stays(self) -> Predictions:
        """All predictions, also those of stays without a label."""
        stay_id, label, logit = (column.reshape(-1) for column in self.compute())  # one stay alone comes as a scalar
        return Predictions(self.split, stay_id, label, logit)


@torch.inference_mode()
def predict(
    model: Callable[[Any, torch.Tensor], torch.Tensor],
    embeddings: torch.Tensor,
    batches: Iterable[Batch | PooledBatch],
    split: str,
    precision: AbstractContextManager[Any],
) -> Predictions:
    """Predictions of a fine-tuned model for every stay of these batches, with or without a label.

    `model` maps a batch and the embeddings [V, I] to logits [N, 2]. They are computed on the device of `embeddings`.
    Of several processes each has its `own_share` of the batches, and all return all predictions.

    Raises:
        FloatingPointError: a logit is not finite; it would be ranked above all others.
    """
    parts = []
    for cpu_batch in batches:
        batch = cpu_batch.to(embeddings.device)
        with precision:
            logits = model(batch, embeddings)
        require_finite(logits, cpu_batch.stay_id, split)
        parts.append((batch.stay_id, batch.label, _log_odds(logits)))
    return Predictions(split, *columns_of_all(parts))


def _log_odds(logits: torch.Tensor) -> torch.Tensor:
    """[N, 2] → [N] float64."""
    return logits.detach().double().diff(dim=1).squeeze(1)
