"""Summaries of each variable beside a backbone of any architecture: the head reads what both pool of a stay.

What is frozen, tuned and cached is the other backbone, `main`, with its names in checkpoints behind "main."; the
network on summaries trains from the start, like the head. Legend: N stays, P width of what `main` pools, H summary
units, V variables, I embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from seqsetvae.batches.batch import Batch, PooledBatch
from seqsetvae.batches.transform import ValueTransform, ZScore
from seqsetvae.cohort import Cohort
from seqsetvae.models import variable_summaries
from seqsetvae.models.backbone import BackboneBase
from seqsetvae.models.variable_summaries.prepare import Summaries

SUMMARIES = "summaries"  # the name of that part, and in hyper_parameters of its sizes
VALUES: ValueTransform = ZScore(clip=10.0)  # what is summarized, however `main` reads values


class BesideSummaries(BackboneBase):
    """A backbone and a network on summaries, which the loaders compute (`batches.variables.with_host_work`)."""

    OFFERS = frozenset({"table"})

    def __init__(self, main: BackboneBase, sizes: variable_summaries.Sizes) -> None:
        """`sizes` are those of the network; `fit` must come before training."""
        super().__init__()
        self.main, self.summaries = main, variable_summaries.build(sizes)
        self.architecture, self.sizes = main.architecture, main.sizes

    def has_no_input(self) -> bool:
        return self.summaries.has_no_input()

    def fit(self, cohort: Cohort, batches: Iterable[Batch]) -> None:
        """`batches` of training stays have VALUES."""
        self.summaries.fit(cohort, batches)

    def start_small(self, n_stays: int, batches: Iterable[Batch], embeddings: torch.Tensor) -> None:
        self.summaries.start_small(n_stays, batches, embeddings)

    def after_step(self, lr: float) -> None:
        self.summaries.after_step(lr)

    def before_finetuning(self) -> None:
        self.main.before_finetuning()

    def own_rates(self, lr: float, pretraining: bool = False) -> dict[str, tuple[nn.Module, float]]:
        """The network on summaries has the rate of its recipe; `main` may have others."""
        return {SUMMARIES: (self.summaries, variable_summaries.RECIPE["lr"]), **self.main.own_rates(lr, pretraining)}

    def table(self, batch: Batch | PooledBatch, embeddings: torch.Tensor) -> np.ndarray:
        """[N, C] of the network."""
        return self.summaries.table(_prepared(batch), embeddings)

    def pooled(self, batch: Batch | PooledBatch, embeddings: torch.Tensor, pooling: str) -> torch.Tensor:
        """[N, P + H] pooled by both; a PooledBatch already has what `main` pools."""
        known = batch.pooled if isinstance(batch, PooledBatch) else self.main.pooled(batch, embeddings, pooling)
        return torch.cat([known, self.summaries.pooled(_prepared(batch), embeddings, pooling)], dim=1)

    def pooled_width(self, pooling: str) -> int:
        """P + H."""
        return self.main.pooled_width(pooling) + self.summaries.pooled_width(pooling)

    def compile_dense_parts(self) -> None:
        self.main.compile_dense_parts()


def _prepared(batch: Any) -> Any:
    """The batch, whose summaries were computed from VALUES; its own values may be others."""
    assert isinstance(batch.prepared, Summaries), "loaders of a model with summaries compute them"
    return batch


def summaries_part(backbone: Any) -> Any:
    """The network on summaries of a backbone, which may be all of it."""
    return backbone.summaries if isinstance(backbone, BesideSummaries) else backbone


def main_part(backbone: Any) -> Any:
    """What is frozen and tuned of a backbone: all of it, unless summaries are beside it."""
    return backbone.main if isinstance(backbone, BesideSummaries) else backbone
