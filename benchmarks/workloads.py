"""The workloads that are timed: what the model does with a batch, at the sizes used in practice, with random weights.

Every benchmark of the model takes its workloads from here, so that stays per second mean the same in all of them: a
forward pass of the frozen backbone with pooling, a step of unfrozen training, and a step of pretraining, both with
their optimizer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from model_optimized import SeqSetVAEFineTuner, SeqSetVAEPretrainer
from seqsetvae.batches.batch import Batch
from seqsetvae.batches.loading import collate, stay_sizes
from seqsetvae.batches.sampler import LengthBucketSampler
from seqsetvae.checkpoint.record import TrainedOn
from seqsetvae.cohort import Cohort, Split, open_cohort, open_or_compile
from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.models.seqsetvae.backbone import Backbone
from seqsetvae.models.seqsetvae.decoder import PretrainingModel
from seqsetvae.models.seqsetvae.sizes import Sizes
from seqsetvae.objectives import reconstruction
from seqsetvae.settings.groups import FinetuningRates, HeadSettings, LossSettings
from seqsetvae.tasks.model import Loss

PRACTICE = Sizes(input_dim=768)
LOSS = LossSettings(loss="cross_entropy", class_weight="none", label_smoothing=0.0, focal_gamma=2.0, focal_alpha=None)
CPU = torch.device("cpu")
MAX_EVENTS = 10**6  # per batch: no batch of 256 stays is cut
SYNTHETIC_STAYS = 2000

Step = Callable[[Any], None]  # what is done with one batch


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way of running the same model."""

    name: str
    mixed: bool = False  # bfloat16 matrix products
    padded: bool = False
    compiled: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """As Lightning does it."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.mixed, cache_enabled=False)


EXACT = Variant(name="float32, exact sizes")


# ------------------------------------------------------------------ stays


def open_stays(data_dir: Path | None, scratch: Path, n_synthetic: int = SYNTHETIC_STAYS) -> Cohort:
    """The cohort to measure on; without one, synthetic stays."""
    if data_dir is not None:
        return open_cohort(data_dir)
    data = write_synthetic(scratch / "synthetic", n_stays=n_synthetic, seed=0)
    return open_or_compile(data, cache_root=scratch / "synthetic compiled", progress=False)


def random_embeddings(cohort: Cohort, sizes: Sizes) -> torch.Tensor:
    """A vector for each of the cohort's variables: [V, I]. Their values do not change any time."""
    return torch.randn(len(cohort.vocabulary), sizes.input_dim, generator=torch.Generator().manual_seed(0))


def first(split: Split, n_stays: int) -> Split:
    """The first stays of a split."""
    cut = copy.copy(split)
    cut.sums = None
    cut.stay_offset = split.stay_offset[: n_stays + 1]
    cut.set_offset = split.set_offset[: cut.stay_offset[-1] + 1]
    for array in ("stay_id", "label", "subject_id", "prediction_minute"):
        setattr(cut, array, getattr(split, array)[:n_stays])
    cut.minute = split.minute[: cut.stay_offset[-1]]
    cut.variable, cut.value = split.variable[: cut.set_offset[-1]], split.value[: cut.set_offset[-1]]
    return cut


@dataclass(frozen=True)
class Stays:
    """Training stays in batches of similar length, drawn as a run would; the same in every process that reads them."""

    cohort_path: Path
    sizes: Sizes
    batch_size: int
    n_batches: int

    def read(self) -> tuple[Split, torch.Tensor, list[np.ndarray]]:
        """(split, embeddings [V, I], positions in the split of each batch's stays, full batches first)."""
        torch.manual_seed(0)
        cohort = open_cohort(self.cohort_path)
        split = cohort.split("train")
        labelled, sizes = np.flatnonzero(split.label >= 0), stay_sizes(split)
        drawn = LengthBucketSampler(labelled, *sizes, batch_size=self.batch_size, max_events=MAX_EVENTS, shuffle=True)
        chosen = sorted(drawn, key=len, reverse=True)[: self.n_batches]
        return split, random_embeddings(cohort, self.sizes), chosen


# ------------------------------------------------------------------ steps, on the device of the embeddings `table`


def frozen_forward(sizes: Sizes, table: torch.Tensor, variant: Variant = EXACT) -> Step:
    """What stage 1 does once with every stay."""
    module = fine_tuner(sizes, table, variant).eval()

    @torch.no_grad()
    def forward(batch: Batch) -> None:
        with variant.autocast(table.device):
            module.pooled(batch)

    return forward


def training_step(sizes: Sizes, table: torch.Tensor, variant: Variant = EXACT) -> Step:
    """A step of stage 2."""
    module = fine_tuner(sizes, table, variant)
    module.unfreeze_backbone()
    return optimizer_step(module, lambda batch: module.loss(module(batch), batch.label), variant)


def pretraining_step(sizes: Sizes, table: torch.Tensor, variant: Variant = EXACT) -> Step:
    """A step of pretraining, after the warm-up of the KL weight."""
    settings = reconstruction.Settings(max_beta=0.1, beta_warmup_steps=1, free_bits=0.0)
    objective = reconstruction.build_loss(settings, sizes)
    module = SeqSetVAEPretrainer(PretrainingModel(sizes), objective, 1e-5, 0.01, table).to(table.device)
    if variant.compiled:
        module.model.compile_dense_parts()

    def loss_of(batch: Batch) -> torch.Tensor:
        return objective.training_terms(module.model, batch, module.embeddings, step=1)["loss"]

    return optimizer_step(module, loss_of, variant)


def fine_tuner(sizes: Sizes, table: torch.Tensor, variant: Variant = EXACT) -> SeqSetVAEFineTuner:
    """A fine-tuner with a frozen backbone; its head, loss and learning rates are those of the default config."""
    module = SeqSetVAEFineTuner(
        Backbone(sizes),
        HeadSettings(head_pooling="mean", head_hidden=128, head_dropout=0.1, head_members=1),
        Loss(LOSS),
        FinetuningRates(cls_head_lr=3e-4, lr=5e-5),
        0.01,
        table,
        TrainedOn(label_name="", max_sets=None),
    ).to(table.device)
    if variant.compiled:
        module.backbone.compile_dense_parts()
    return module


def optimizer_step(module: Any, loss_of: Callable[[Any], torch.Tensor], variant: Variant = EXACT) -> Step:
    """Forward and backward pass, clipping of the gradient, and the step of the optimizer that the module configures."""
    device = next(module.parameters()).device
    optimizer = module.train().configure_optimizers()

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        with variant.autocast(device):
            loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()

    return step


STEPS = {
    "frozen forward": frozen_forward,
    "unfrozen training step": training_step,
    "pretraining step": pretraining_step,
}


class Workload:
    """A model with random weights and the batches that it processes when it is called."""

    def __init__(self, what: str, stays: Stays, variant: Variant = EXACT, device: torch.device = CPU) -> None:
        self.split, table, self.chosen = stays.read()
        self.device, self.variant = device, variant
        self.batches = self._batches(variant.padded)
        self.n_stays = sum(batch.n_stays for batch in self.batches)
        self.step = STEPS[what](stays.sizes, table.to(device), variant)

    def _batches(self, padded: bool) -> list[Batch]:
        return [collate(self.split, stays, padded_classes=padded).to(self.device) for stays in self.chosen]

    def __call__(self) -> None:
        for batch in self.batches:
            self.step(batch)

    def needed_flop(self) -> int:
        """FLOP of the matrix products that the stays need without padding, as torch counts them.

        It does not count the CPU's fused attention to histories (below 1 % of a forward pass at 75 sets a stay) or
        products that are added in place (below 1 % of a step).
        """
        with FlopCounterMode(display=False) as counter:
            for batch in self._batches(padded=False):
                self.step(batch)
        return counter.get_total_flops()
