"""Speed on a CUDA GPU: what each way of running gives, in one run: `python -m benchmarks --only gpu --data_dir COHORT`.

Full sizes, random weights. Batches are on the device before the clock starts, but for the epochs, which read the cohort
as a run does. A share of the matmul rate compares the products that the stays need, without padding, with what the same
device does in plain products [rows, D] x [D, ff_dim] of the same type. Nothing here reads a result back in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Figure
from benchmarks.plain_loop import PRACTICE
from model_optimized import SeqSetVAEFineTuner, SeqSetVAEPretrainer
from seqsetvae.batch import Batch
from seqsetvae.checkpoint import TrainedOn
from seqsetvae.cohort import Cohort, Split, find_cohort, open_cohort
from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.loading import CohortDataModule, LengthBucketSampler, collate, stay_sizes
from seqsetvae.model.backbone import Backbone, BackboneSizes
from seqsetvae.model.decoder import PretrainingModel
from seqsetvae.model.head import HeadSettings
from seqsetvae.model.losses import LossSettings, ObjectiveSettings
from seqsetvae.optimizer import OptimizerSettings

EMBEDDING_WIDTH = 768
BATCH_SIZES = (32, 256)
BATCHES = 8  # timed together
REPEATS = 5
MAX_EVENTS = 10**6  # so that a batch of 256 stays is one of 256 stays
INDUCING_ROWS = 16 * 75 * 32  # rows of the usual product: 32 stays of 75 sets


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


VARIANTS = (
    Variant(name="float32, exact sizes"),
    Variant(name="float32, padded sizes", padded=True),
    Variant(name="bfloat16, padded sizes", padded=True, mixed=True),
    Variant(name="bfloat16, padded sizes, compiled", padded=True, mixed=True, compiled=True),
)

Work = Callable[[Batch], None]


def section(data_dir: Path | None, scratch: Path) -> list[Figure]:
    """Figures of the GPU; none where there is no GPU."""
    if not torch.cuda.is_available():
        print("GPU: skipped, torch sees none")
        return []
    if data_dir is None:
        data = write_synthetic(scratch / "gpu", n_stays=2000, seed=0)
        cohort = find_cohort(data, cache_root=scratch / "gpu compiled", progress=False)
    else:
        cohort = open_cohort(data_dir)
    sizes = BackboneSizes(input_dim=EMBEDDING_WIDTH, **PRACTICE)  # type: ignore[arg-type]
    return measure(cohort, sizes, torch.device("cuda"), BATCH_SIZES, BATCHES)


def measure(
    cohort: Cohort, sizes: BackboneSizes, device: torch.device, batch_sizes: Sequence[int], n_batches: int
) -> list[Figure]:
    """All variants of all works over batches of these sizes."""
    table = torch.randn(len(cohort.vocabulary), sizes.input_dim, generator=torch.Generator().manual_seed(0))
    figures: list[Figure] = []
    for batch_size in batch_sizes:
        stays = batches_of_similar_length(cohort.split("train"), batch_size, n_batches)
        for what, prepare in WORKS.items():
            of_work: list[Figure] = []
            for variant in VARIANTS:
                try:
                    work = prepare(sizes, table, device, variant)
                    of_work.append(_figure(what, work, variant, cohort.split("train"), stays, device, sizes))
                    if prepare is training_step:
                        figures.append(_epoch(work, variant, cohort, batch_size, device))
                except RuntimeError as error:  # out of memory, or no compiler: the others still count
                    print(f"{what}, {variant.name}, batches of {batch_size}: failed, {error}", flush=True)
            figures += _against_first(of_work)
    return figures


def batches_of_similar_length(split: Split, batch_size: int, n_batches: int) -> list[np.ndarray]:
    """Stays of some batches as a run would draw them, full ones first."""
    labelled = np.flatnonzero(split.label >= 0)
    n_sets, n_events = stay_sizes(split)
    drawn = LengthBucketSampler(labelled, n_sets, n_events, batch_size=batch_size, max_events=MAX_EVENTS, shuffle=True)
    return sorted(drawn, key=len, reverse=True)[:n_batches]


# --- Works: what is done to a batch -----------------------------------------------------------------------------------


def frozen_forward(sizes: BackboneSizes, table: torch.Tensor, device: torch.device, variant: Variant) -> Work:
    """What stage 1 does once with every stay."""
    module = _fine_tuner(sizes, table, device, variant).eval()

    @torch.no_grad()
    def work(batch: Batch) -> None:
        with variant.autocast(device):
            module.pooled(batch)

    return work


def training_step(sizes: BackboneSizes, table: torch.Tensor, device: torch.device, variant: Variant) -> Work:
    """A step of stage 2, optimizer and all."""
    module = _fine_tuner(sizes, table, device, variant)
    module.unfreeze_backbone()
    return _step(module, lambda batch: module.loss(module(batch), batch.label, module.class_weight), device, variant)


def pretraining_step(sizes: BackboneSizes, table: torch.Tensor, device: torch.device, variant: Variant) -> Work:
    """A step of pretraining, optimizer and all."""
    objective = ObjectiveSettings(max_beta=0.1, beta_warmup_steps=1, free_bits=0.0)
    module = SeqSetVAEPretrainer(PretrainingModel(sizes), objective, 1e-5, 0.01, table, {}).to(device)
    if variant.compiled:
        module.model.compile_dense_parts()

    def loss_of(batch: Batch) -> torch.Tensor:
        recon, kl, _, _ = module.terms(batch)
        return recon + objective.max_beta * kl

    return _step(module, loss_of, device, variant)


WORKS = {
    "frozen forward": frozen_forward,
    "unfrozen training step": training_step,
    "pretraining step": pretraining_step,
}


def _fine_tuner(
    sizes: BackboneSizes, table: torch.Tensor, device: torch.device, variant: Variant
) -> SeqSetVAEFineTuner:
    module = SeqSetVAEFineTuner(
        Backbone(sizes),
        HeadSettings(pooling="last_mean", hidden=128, dropout=0.1),
        LossSettings(name="cross_entropy", positive_weight=1.0, label_smoothing=0.0, focal_gamma=2.0, focal_alpha=None),
        OptimizerSettings(head_lr=1e-5, backbone_lr=1e-5, weight_decay=0.01),
        table,
        TrainedOn(fingerprints={}, label_name="", max_sets=None),
    ).to(device)
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


# --- Clocks -----------------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Mean time of the work; the device has nothing else to do before and has done it after."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device, sizes: BackboneSizes, dtype: torch.dtype) -> float:
    """FLOP/s of plain products of the shape that most of the model's have."""
    rows = torch.randn(INDUCING_ROWS, sizes.latent_dim, device=device, dtype=dtype)
    weight = torch.randn(sizes.latent_dim, sizes.ff_dim, device=device, dtype=dtype)
    rows @ weight
    return 2 * rows.numel() * sizes.ff_dim / seconds(lambda: rows @ weight, device, 20)


def needed_flop(work: Work, batches: Iterable[Batch]) -> int:
    """FLOP of all products in the work over these batches."""
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            work(batch)
    return counter.get_total_flops()


def _figure(
    what: str,
    work: Work,
    variant: Variant,
    split: Split,
    stays: list[np.ndarray],
    device: torch.device,
    sizes: BackboneSizes,
) -> Figure:
    """Stays/s of a work over the same batches, again and again, and the most memory it holds on the device."""
    batches = [collate(split, chosen, padded_classes=variant.padded).to(device) for chosen in stays]

    def all_of_them() -> None:
        for batch in batches:
            work(batch)

    all_of_them()  # compiles, and fills the allocator
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    took = seconds(all_of_them, device, REPEATS)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    n_stays = sum(map(len, stays))
    note = f"device busy {_busy(all_of_them, device)}"
    if not variant.compiled:  # what is compiled hides its products from the counter
        exact = [collate(split, chosen).to(device) for chosen in stays]
        rate = matmul_rate(device, sizes, torch.bfloat16 if variant.mixed else torch.float32)
        share = needed_flop(work, exact) / took / rate
        note += f"; {share:.0%} of the {rate / 1e12:,.3g} TFLOP/s of plain products"
    return Figure(
        what=f"{what}, {variant.name}, batches of {len(stays[0])}",
        value=n_stays / took,
        unit="stays/s",
        peak_mib=peak,
        note=note,
    )


def _busy(work: Callable[[], object], device: torch.device) -> str:
    """Share of the last moments in which the device computed, asked while it does."""
    work()
    try:
        return f"{torch.cuda.utilization(device)} %"
    except (ImportError, RuntimeError, AssertionError, ValueError):  # no nvidia-ml-py, or no GPU
        return "unknown"
    finally:
        _wait(device)


def _epoch(work: Work, variant: Variant, cohort: Cohort, batch_size: int, device: torch.device) -> Figure:
    """An epoch of training as a run reads it: batches are made, copied and used."""
    data = CohortDataModule(
        cohort,
        batch_size=batch_size,
        max_events=MAX_EVENTS,
        pin_memory=device.type == "cuda",
        padded_classes=variant.padded,
    )
    loader = data.loader("train", shuffle=True)

    def epoch() -> None:
        for batch in loader:
            work(batch.to(device))

    return Figure(
        what=f"epoch of unfrozen training, {variant.name}, batches of {batch_size}",
        value=seconds(epoch, device),
        unit="s",
        note=f"{len(data.loader('train')):,} steps over {cohort.split('train').n_stays:,} stays",
    )


def _against_first(figures: list[Figure]) -> list[Figure]:
    """The first variant is what the others are compared with."""
    if not figures:
        return []
    first, others = figures[0], figures[1:]
    return [
        first,
        *(
            replace(figure, baseline=first.value, baseline_is=VARIANTS[0].name, ratio=figure.value / first.value)
            for figure in others
        ),
    ]
