"""Two stages, two fits: first the head on a frozen backbone, then everything from the best of the first.

One Trainer a stage, because freezing inside one fit breaks resume and multi-process training; for the user it is one
run, with one table, one best checkpoint (highest val_auc over both stages) and one last one.
"""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar

from data import CohortDataModule
from model_optimized import SeqSetVAEFineTuner
from seqsetvae.checkpoint import read_file
from seqsetvae.training.run_folder import RunFolder
from seqsetvae.training.schedule import MODE, MONITOR, Plateau, WarmUp
from seqsetvae.training.watch import Clock, MetricsTable, Reporter


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long each stage runs and what ends it; patience counts validations."""

    max_epochs: int
    unfreeze_after: int | None
    warmup_steps: int
    lr_factor: float
    lr_patience: int
    min_lr: float
    es_patience: int

    def stages(self) -> list[int]:
        """Stages of the run: 1 (frozen backbone), 2 (all)."""
        if self.unfreeze_after is None or self.unfreeze_after >= self.max_epochs:
            return [1]
        return [1, 2] if self.unfreeze_after > 0 else [2]

    def epochs(self, stage: int, already: int) -> int:
        """Most epochs of a stage, after `already` epochs of the one before."""
        last = self.stages()[-1] == stage
        return self.max_epochs - already if last or self.unfreeze_after is None else self.unfreeze_after


def quiet_lightning() -> None:
    """Silence what we decided on purpose; every other warning stays."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # measured: none is fastest
    warnings.filterwarnings("ignore", message=".*module.* in eval mode at the start of training.*")  # frozen backbone
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # stage 2 goes on in stage 1's folder


def best_checkpoint(run: RunFolder) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=run.checkpoints, filename="best", monitor=MONITOR, mode=MODE, save_top_k=1,
                           save_on_train_epoch_end=False, enable_version_counter=False)


def last_checkpoint(run: RunFolder) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=run.checkpoints, filename="last", monitor=None, save_top_k=1,
                           save_on_train_epoch_end=False, enable_version_counter=False)


def train(module: SeqSetVAEFineTuner, data: CohortDataModule, run: RunFolder, schedule: Schedule, table: MetricsTable,
          trainer_options: dict[str, Any], compile_model: bool = False) -> dict[int, dict[str, int]]:
    """Train through all stages; afterwards the module holds the weights of the last step, best.ckpt those of the best.

    Returns:
        {stage: {part: number of values that trained}}.
    """
    trained: dict[int, dict[str, int]] = {}
    best_so_far: ModelCheckpoint | None = None
    for stage in schedule.stages():
        _enter(stage, module, run)
        if compile_model:
            module.backbone.compile_dense_parts()
        trained[stage] = module.trained_parameters()
        best = best_checkpoint(run)
        if best_so_far is not None:
            best.load_state_dict(best_so_far.state_dict())
        data.stage = stage
        already = table.rows[-1].epoch if table.rows else 0
        trainer = _trainer(schedule, stage, already, best, run, table, trainer_options)
        trainer.fit(module, datamodule=data)
        if trainer.interrupted:
            raise KeyboardInterrupt
        best_so_far = best
    return trained


def _enter(stage: int, module: SeqSetVAEFineTuner, run: RunFolder) -> None:
    if stage == 1:
        module.freeze_backbone()
        return
    if run.best.is_file():  # stage 2 goes on from the best of stage 1, not from its end
        module.load_state_dict(read_file(run.best)["state_dict"])
    module.unfreeze_backbone()


def _trainer(schedule: Schedule, stage: int, already: int, best: ModelCheckpoint, run: RunFolder, table: MetricsTable,
             options: dict[str, Any]) -> pl.Trainer:
    clock = Clock()
    interactive = sys.stderr.isatty()
    callbacks: list[pl.Callback] = [
        clock,
        *([WarmUp(schedule.warmup_steps)] if stage == 2 and schedule.warmup_steps else []),
        Plateau(schedule.lr_factor, schedule.lr_patience, schedule.min_lr),
        EarlyStopping(MONITOR, mode=MODE, patience=schedule.es_patience, strict=True, check_on_train_epoch_end=False),
        Reporter(table, clock, stage, schedule.max_epochs),
        *([TQDMProgressBar(leave=False)] if interactive else []),
        best,  # checkpoints after everything whose state they hold, the newest after the best
        last_checkpoint(run),
    ]
    return pl.Trainer(
        max_epochs=schedule.epochs(stage, already), callbacks=callbacks, logger=False, num_sanity_val_steps=0,
        enable_model_summary=False, enable_progress_bar=interactive, use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,  # each epoch has its own batches, and perhaps another number of them
        default_root_dir=run.path, **options,
    )
