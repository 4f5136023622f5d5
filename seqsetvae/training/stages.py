"""Stages of a run: one Trainer and one fit each, over one table, one best checkpoint and one last one.

Fine-tuning has two: first the head on a frozen backbone, then everything from the best of the first. Freezing inside
one fit would break resume and multi-process training, so nothing is frozen or unfrozen while a fit runs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from model_optimized import SeqSetVAEFineTuner
from seqsetvae.checkpoint import read_file
from seqsetvae.files import new_file
from seqsetvae.loading import CohortDataModule
from seqsetvae.training.frozen import FrozenFeatures, Reading
from seqsetvae.training.run_folder import RunFolder
from seqsetvae.training.schedule import Decay, Plateau, WarmUp, Watched
from seqsetvae.training.watch import Clock, GpuWatch, MetricsTable, Reporter, RunProgress


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a run goes on and what ends it; patience counts validations."""

    max_epochs: int
    unfreeze_after: int | None
    warmup_steps: int
    lr_factor: float
    lr_patience: int
    min_lr: float
    es_patience: int

    def finetuning_stages(self) -> list[int]:
        """Stages of fine-tuning: 1 (frozen backbone), 2 (all)."""
        if self.unfreeze_after is None or self.unfreeze_after >= self.max_epochs:
            return [1]
        return [1, 2] if self.unfreeze_after > 0 else [2]

    def epochs_of(self, stage: int, already: int) -> int:
        """Most epochs of a stage, after `already` epochs of the one before."""
        if stage == self.finetuning_stages()[-1]:
            return self.max_epochs - already
        assert self.unfreeze_after is not None
        return self.unfreeze_after


@dataclass(kw_only=True)
class Run:
    """What all stages of one run share."""

    module: pl.LightningModule
    data: CohortDataModule
    folder: RunFolder
    table: MetricsTable
    watched: Watched
    schedule: Schedule
    metrics: Sequence[str]  # logged names that a row of the table holds
    printed: Sequence[str]  # columns of the table that are printed after each validation
    parts: Sequence[str]  # parts of the model that have a learning rate
    trainer_options: dict[str, Any]
    trained: dict[int, dict[str, int]] = field(default_factory=dict)  # values that train, by stage and part
    read: list[Reading] = field(default_factory=list)  # passes of a frozen backbone over the data
    gpu_busy: list[int] = field(default_factory=list)  # samples in percent
    best: ModelCheckpoint | None = None

    @property
    def epochs_done(self) -> int:
        return self.table.rows[-1].epoch if self.table.rows else 0

    def fit(
        self,
        stage: int,
        max_epochs: int,
        *,
        warm_up: bool,
        decay: bool = False,
        features: FrozenFeatures | None = None,
    ) -> None:
        """Train one stage; best.ckpt keeps the best validation of all stages so far.

        Rates are cut when the watched metric stalls, or with `decay` fall to the end of the stage. `features` stand in
        for the data where a frozen backbone has read them already.
        """
        quiet_lightning()
        self.trained[stage] = trained_parameters(self.module)
        best = best_checkpoint(self.folder, self.watched)
        if self.best is not None:
            best.load_state_dict(self.best.state_dict())
        self.read += features.readings if features else []
        self.data.stage = stage
        schedule = self.schedule
        rates: list[pl.Callback] = [
            Decay(schedule.min_lr)
            if decay
            else Plateau(self.watched, schedule.lr_factor, schedule.lr_patience, schedule.min_lr)
        ]
        if warm_up and schedule.warmup_steps:  # after the decay: the first steps are the warm-up's
            rates.append(WarmUp(schedule.warmup_steps))
        trainer = self._trainer(stage, max_epochs, best, rates, reads_data=features is None)
        try:
            trainer.fit(self.module, datamodule=features or self.data)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        self.best = best

    def _trainer(
        self, stage: int, max_epochs: int, best: ModelCheckpoint, rates: list[pl.Callback], reads_data: bool
    ) -> pl.Trainer:
        clock, schedule, watched = Clock(), self.schedule, self.watched
        callbacks: list[pl.Callback] = [
            clock,
            GpuWatch(self.gpu_busy),
            *rates,
            EarlyStopping(
                watched.metric,
                mode=watched.mode,
                patience=schedule.es_patience,
                strict=True,
                check_on_train_epoch_end=False,
            ),
            Reporter(self.table, clock, stage, schedule.max_epochs, self.metrics, self.printed, self.parts, reads_data),
            RunProgress(
                self.table,
                watched,
                schedule.max_epochs,
                is_last_stage=max_epochs + self.epochs_done == schedule.max_epochs,
            ),
            best,  # checkpoints after everything whose state they hold, the newest after the best
            last_checkpoint(self.folder),
        ]
        return pl.Trainer(
            max_epochs=max_epochs,
            callbacks=callbacks,
            plugins=[SafeCheckpointIO()],
            logger=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=False,  # RunProgress counts over all stages
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,  # each epoch has its own batches, and perhaps another number of them
            default_root_dir=self.folder.path,
            **self.trainer_options,
        )


def finetune_in_stages(
    run: Run, module: SeqSetVAEFineTuner, read_once: Callable[[], FrozenFeatures], compile_model: bool
) -> None:
    """Both stages of fine-tuning; afterwards best.ckpt holds the highest val_auc over both.

    `read_once` runs the frozen backbone over the data, when stage 1 begins.
    """
    for stage in run.schedule.finetuning_stages():
        if stage == 1:
            module.freeze_backbone()
        else:
            if run.best is not None:  # stage 2 goes on from the best of stage 1, not from its end
                module.load_state_dict(read_file(run.folder.best)["state_dict"])
            module.unfreeze_backbone()
        if compile_model:
            module.backbone.compile_dense_parts()
        features = read_once() if stage == 1 else None
        run.fit(stage, run.schedule.epochs_of(stage, run.epochs_done), warm_up=stage == 2, features=features)


def trained_parameters(module: pl.LightningModule) -> dict[str, int]:
    """Number of values that train, by part of the module."""
    return {
        name: sum(value.numel() for value in part.parameters() if value.requires_grad)
        for name, part in module.named_children()
        if any(True for _ in part.parameters())
    }


def quiet_lightning() -> None:
    """Silence what we decided on purpose; every other warning stays."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # measured: none is fastest
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # the frozen backbone
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # stage 2 goes on in stage 1's folder
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")  # Lightning 2.6 against newer torch


class SafeCheckpointIO(TorchCheckpointIO):
    """Saves a checkpoint beside the older one and then replaces it, so that a full disk leaves the older one.

    Lightning saves into the system's temporary folder and copies over the older file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint. Raises CannotWriteError, an InputError, with the older file unchanged."""
        assert storage_options is None, "there are none for files"
        with new_file(Path(path)) as stream:
            try:
                torch.save(checkpoint, stream)
            except RuntimeError as error:
                # After a write that failed or was interrupted torch closes its container, which fails too.
                first = error.__context__
                raise (first if isinstance(first, OSError | KeyboardInterrupt) else error) from None


class PortableCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint whose state names files of its own folder, never absolute paths.

    Lightning stores absolute paths, and forgets the best score when the folder has moved: a worse model would then
    replace best.ckpt (its issue 12045), and a published file would tell where it was made.
    """

    def __init__(self, folder: RunFolder, name: str, **options: Any) -> None:
        super().__init__(
            dirpath=folder.checkpoints,
            filename=name,
            save_top_k=1,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
            **options,
        )

    def state_dict(self) -> dict[str, Any]:
        state = self._with_paths(super().state_dict(), lambda path: Path(path).name)
        del state["dirpath"]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(self._with_paths(state_dict, lambda name: str(Path(str(self.dirpath)) / name)))

    @staticmethod
    def _with_paths(state: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        changed = {name: change(state[name]) if state[name] else "" for name in names}
        return (
            state | changed | {"best_k_models": {change(path): score for path, score in state["best_k_models"].items()}}
        )


def best_checkpoint(folder: RunFolder, watched: Watched) -> ModelCheckpoint:
    """Keeps best.ckpt: the best validation."""
    return PortableCheckpoint(folder, "best", monitor=watched.metric, mode=watched.mode)


def last_checkpoint(folder: RunFolder) -> ModelCheckpoint:
    """Keeps last.ckpt: the newest validation (Lightning's save_last follows the best instead)."""
    return PortableCheckpoint(folder, "last", monitor=None)
