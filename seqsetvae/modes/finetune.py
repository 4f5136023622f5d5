"""Fine-tune: a frozen, then unfrozen backbone and a two-layer head, watched by val_auc."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from data import CohortDataModule, require_both_classes
from model_optimized import HeadSettings, LossSettings, OptimizerSettings, SeqSetVAEFineTuner
from seqsetvae.cohort import Cohort
from seqsetvae.model.backbone import Backbone
from seqsetvae.modes.common import check_embeddings, data_module, embedding_table, load_pretrained, open_data, torch_device
from seqsetvae.settings import Settings
from seqsetvae.training.run_folder import CONFIG, RunFolder
from seqsetvae.training.stages import Schedule, quiet_lightning, train
from seqsetvae.training.summary import Summary, summarize
from seqsetvae.training.watch import MetricsTable, device_use


def run(settings: Settings) -> Summary:
    """Fine-tune --pretrained_ckpt on --data_dir; everything is checked before the run folder is made."""
    device = torch_device(settings)
    pl.seed_everything(settings.seed, verbose=False)
    backbone, checkpoint, report = load_pretrained(settings)
    cohort = open_data(settings)
    require_both_classes(cohort, "train", "valid")
    check_embeddings(cohort, backbone.sizes.input_dim, checkpoint.fingerprints, checkpoint.path)
    data = data_module(settings, cohort)
    module = build(settings, backbone, cohort)
    folder = RunFolder.create(settings.output_root_dir, settings.mode)
    folder.write_json(CONFIG, {"settings": settings.as_plain(), "pretrained": report.as_plain(),
                               "partial_backbone": not report.is_complete, "sizes": backbone.sizes.as_dict(),
                               "cohort": {"path": str(cohort.path), "content": cohort.content_hash},
                               "versions": {"torch": torch.__version__, "pytorch_lightning": pl.__version__}})
    print(f"Run: {folder.path}")
    return fit(settings, module, data, folder, device)


def build(settings: Settings, backbone: Backbone, cohort: Cohort) -> SeqSetVAEFineTuner:
    """The module of these settings around a loaded backbone."""
    module = SeqSetVAEFineTuner(
        backbone.sizes,
        HeadSettings(pooling=settings.head_pooling, hidden=settings.head_hidden, dropout=settings.head_dropout),
        LossSettings(name=settings.loss, positive_weight=positive_weight(settings.class_weight, cohort),
                     label_smoothing=settings.label_smoothing, focal_gamma=settings.focal_gamma,
                     focal_alpha=settings.focal_alpha),
        OptimizerSettings(head_lr=settings.cls_head_lr, backbone_lr=settings.lr, weight_decay=settings.weight_decay),
        embedding_table(cohort).to(torch.float64 if settings.precision == "64-true" else torch.float32),
        cohort.fingerprints(),
    )
    module.backbone.load_state_dict(backbone.state_dict())
    return module


def positive_weight(class_weight: str | float, cohort: Cohort) -> float:
    """Weight of a positive stay: 1, a number, or negatives / positives of the training split."""
    if isinstance(class_weight, float):
        return class_weight
    label = cohort.split("train").label
    return float(np.sum(label == 0) / np.sum(label == 1)) if class_weight == "balanced" else 1.0


def fit(settings: Settings, module: SeqSetVAEFineTuner, data: CohortDataModule, folder: RunFolder,
        device: torch.device) -> Summary:
    """Train, then write and print the summary."""
    quiet_lightning()
    schedule = Schedule(**{name: getattr(settings, name) for name in Schedule.__dataclass_fields__})
    table = MetricsTable(folder.path / "metrics.csv", folder.path / "tensorboard")
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        trained = train(module, data, folder, schedule, table, trainer_options(settings), settings.compile_model)
    finally:
        table.close()
    use = device_use(device, time.process_time() - cpu, time.perf_counter() - wall)
    summary = summarize(table.rows, trained, use, time.perf_counter() - wall, folder.path)
    folder.write_json("summary.json", asdict(summary))
    folder.write_text("summary.txt", f"{summary}\n")
    print(f"\n{summary}", flush=True)
    return summary


def trainer_options(settings: Settings) -> dict[str, Any]:
    """Settings that Lightning's Trainer takes as they are."""
    return {
        "accelerator": settings.accelerator, "devices": settings.devices, "strategy": settings.strategy,
        "precision": settings.precision, "deterministic": settings.deterministic,
        "gradient_clip_val": settings.gradient_clip_val, "accumulate_grad_batches": settings.gradient_accumulation_steps,
    }
