"""What is timed: the model's work on a batch, at the sizes used in practice, with random weights.

Every benchmark of the model takes its works from here, so that a stay a second means the same in all of them: a forward
pass of the frozen backbone with pooling, a step of unfrozen training, a step of pretraining, optimizer and all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.flop_counter import FlopCounterMode

from model_optimized import SeqSetVAEFineTuner, SeqSetVAEPretrainer
from seqsetvae.architectures.seqsetvae.backbone import Backbone
from seqsetvae.architectures.seqsetvae.decoder import PretrainingModel
from seqsetvae.architectures.seqsetvae.sizes import Sizes
from seqsetvae.batch import Batch
from seqsetvae.checkpoint import TrainedOn
from seqsetvae.cohort import Cohort, Split, find_cohort, open_cohort
from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.head import Loss
from seqsetvae.loading import collate, stay_sizes
from seqsetvae.objectives import reconstruction
from seqsetvae.sampler import LengthBucketSampler
from seqsetvae.settings.groups import FinetuningRates, HeadSettings, LossSettings

EMBEDDING_WIDTH = 768
PRACTICE = Sizes(input_dim=EMBEDDING_WIDTH)
LOSS = LossSettings(loss="cross_entropy", class_weight="none", label_smoothing=0.0, focal_gamma=2.0, focal_alpha=None)
MAX_EVENTS = 10**6  # so that a batch of 256 stays is one of 256 stays
SYNTHETIC_STAYS = 2000

Work = Callable[[Batch], None]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way of running the same model."""

    name: str
    mixed: bool = False  # bfloat16 products
    padded: bool = False
    compiled: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """As Lightning does it."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.mixed, cache_enabled=False)


def open_stays(data_dir: Path | None, scratch: Path, n_synthetic: int = SYNTHETIC_STAYS) -> Cohort:
    """The cohort to measure on; so many synthetic stays where none is named."""
    if data_dir is not None:
        return open_cohort(data_dir)
    data = write_synthetic(scratch / "synthetic", n_stays=n_synthetic, seed=0)
    return find_cohort(data, cache_root=scratch / "synthetic compiled", progress=False)


def random_embeddings(cohort: Cohort, sizes: Sizes) -> torch.Tensor:
    """A vector for each of the cohort's variables: [V, I]. Values do not matter to a clock."""
    return torch.randn(len(cohort.vocabulary), sizes.input_dim, generator=torch.Generator().manual_seed(0))


def first(split: Split, n_stays: int) -> Split:
    """The first so many stays of a split."""
    cut = copy.copy(split)
    cut.stay_offset = split.stay_offset[: n_stays + 1]
    cut.set_offset = split.set_offset[: cut.stay_offset[-1] + 1]
    cut.stay_id, cut.label = split.stay_id[:n_stays], split.label[:n_stays]
    cut.minute = split.minute[: cut.stay_offset[-1]]
    cut.variable, cut.value = split.variable[: cut.set_offset[-1]], split.value[: cut.set_offset[-1]]
    return cut


def batches_of_similar_length(split: Split, batch_size: int, n_batches: int) -> list[np.ndarray]:
    """Stays of some batches as a run would draw them, full ones first."""
    labelled = np.flatnonzero(split.label >= 0)
    n_sets, n_events = stay_sizes(split)
    drawn = LengthBucketSampler(labelled, n_sets, n_events, batch_size=batch_size, max_events=MAX_EVENTS, shuffle=True)
    return sorted(drawn, key=len, reverse=True)[:n_batches]


@dataclass(frozen=True)
class Stays:
    """Stays to work on, read anew and the same by every process that needs them."""

    cohort_path: Path
    sizes: Sizes
    batch_size: int
    n_batches: int

    def read(self) -> tuple[Split, torch.Tensor, list[np.ndarray]]:
        """(split, embeddings [V, I], positions in the split of each batch's stays)."""
        torch.manual_seed(0)
        cohort = open_cohort(self.cohort_path)
        split = cohort.split("train")
        chosen = batches_of_similar_length(split, self.batch_size, self.n_batches)
        return split, random_embeddings(cohort, self.sizes), chosen

    def batches(self) -> tuple[torch.Tensor, list[Batch]]:
        """(embeddings [V, I], batches)."""
        split, table, chosen = self.read()
        return table, [collate(split, positions) for positions in chosen]


def stays_and_sets(batches: Sequence[Batch]) -> tuple[int, int]:
    """How many of each are in the batches."""
    return sum(batch.n_stays for batch in batches), sum(batch.n_sets for batch in batches)


def frozen_forward(sizes: Sizes, table: torch.Tensor, device: torch.device, variant: Variant) -> Work:
    """What stage 1 does once with every stay."""
    module = _placed(sizes, table, device, variant).eval()

    @torch.no_grad()
    def work(batch: Batch) -> None:
        with variant.autocast(device):
            module.pooled(batch)

    return work


def training_step(sizes: Sizes, table: torch.Tensor, device: torch.device, variant: Variant) -> Work:
    """A step of stage 2, optimizer and all."""
    module = _placed(sizes, table, device, variant)
    module.unfreeze_backbone()
    return _step(module, lambda batch: module.loss(module(batch), batch.label), device, variant)


def pretraining_step(sizes: Sizes, table: torch.Tensor, device: torch.device, variant: Variant) -> Work:
    """A step of pretraining, optimizer and all."""
    objective = reconstruction.Settings(max_beta=0.1, beta_warmup_steps=1, free_bits=0.0)
    loss = reconstruction.build_loss(objective, sizes)
    module = SeqSetVAEPretrainer(PretrainingModel(sizes), loss, 1e-5, 0.01, table, {}).to(device)
    if variant.compiled:
        module.model.compile_dense_parts()

    def loss_of(batch: Batch) -> torch.Tensor:
        return module.objective.training_terms(module.model, batch, module.embeddings, objective.beta_warmup_steps)[
            "loss"
        ]

    return _step(module, loss_of, device, variant)


WORKS = {
    "frozen forward": frozen_forward,
    "unfrozen training step": training_step,
    "pretraining step": pretraining_step,
}


def fine_tuner(sizes: Sizes, table: torch.Tensor) -> SeqSetVAEFineTuner:
    """A fine-tuner with random weights, its head, loss and rates as in the default config; the backbone is frozen."""
    return SeqSetVAEFineTuner(
        Backbone(sizes),
        HeadSettings(head_pooling="mean", head_hidden=128, head_dropout=0.1),
        Loss(LOSS),
        FinetuningRates(cls_head_lr=3e-4, lr=5e-5),
        0.01,
        table,
        TrainedOn(fingerprints={}, label_name="", max_sets=None),
    )


def _placed(sizes: Sizes, table: torch.Tensor, device: torch.device, variant: Variant) -> SeqSetVAEFineTuner:
    module = fine_tuner(sizes, table).to(device)
    if variant.compiled:
        module.backbone.compile_dense_parts()
    return module


def _step(
    module: pl.LightningModule, loss_of: Callable[[Batch], torch.Tensor], device: torch.device, variant: Variant
) -> Work:
    optimizer = module.train().configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)

    def work(batch: Batch) -> None:
        optimizer.zero_grad()
        with variant.autocast(device):
            loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()

    return work


def needed_flop(work: Work, batches: Iterable[Batch]) -> int:
    """FLOP of the products in the work over these batches, as the counter knows them.

    It does not know the CPU's fused attention to histories (below 1 % of a forward pass at 75 sets a stay) nor products
    added in place (below 1 % of a step).
    """
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            work(batch)
    return counter.get_total_flops()
