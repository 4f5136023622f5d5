"""Stages of a run: one Trainer and one fit each, over one table, one best checkpoint and one last one.

Fine-tuning has two: first the head on a frozen backbone, then everything from the best of the first. Freezing inside
one fit would break resume and multi-process training, so nothing is frozen or unfrozen while a fit runs.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment
from torch.utils.data import DataLoader, Dataset

from seqsetvae.batches.loading import CohortDataModule, epoch_of
from seqsetvae.checkpoint.file import read_file
from seqsetvae.settings.groups import FinetuningSchedule, ScheduleSettings
from seqsetvae.system.console import print_line
from seqsetvae.system.errors import InputError
from seqsetvae.system.interrupt import StopRequest
from seqsetvae.system.processes import lost_another, this_process
from seqsetvae.system.resources import return_freed_memory
from seqsetvae.training.callbacks import Clock, GpuWatch, MetricsTable, Reporter, RunProgress, header_line, row_line
from seqsetvae.training.checkpoints import LastCheckpoint, SafeCheckpointIO, best_checkpoint, set_rng_states
from seqsetvae.training.feature_cache import CachedFeatures
from seqsetvae.training.feature_pass import FrozenModel
from seqsetvae.training.finite import FiniteWatch
from seqsetvae.training.resume import ResumePoint
from seqsetvae.training.run_folder import RUN_STATE, Row, RunFolder, RunState
from seqsetvae.training.schedule import (
    AveragedWeights,
    Decay,
    Plateau,
    Stopping,
    WarmUp,
    Watched,
    epochs_of_stage,
    finetuning_stages,
)


class FineTuner(FrozenModel, Protocol):
    """The part of a fine-tuning LightningModule that is used here."""

    def freeze_backbone(self) -> None: ...
    def unfreeze_backbone(self) -> None: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(kw_only=True)
class Run:
    """State that all stages of a run share. Only `state` changes, and `resumed` is used once."""

    module: pl.LightningModule
    data: CohortDataModule
    folder: RunFolder
    table: MetricsTable
    watched: Watched
    schedule: ScheduleSettings
    metrics: Sequence[str]  # logged names that a row of the table holds
    printed: Sequence[str]  # columns of the table that are printed after each validation
    parts: Sequence[str]  # parts of the model that have a learning rate
    trainer_options: dict[str, Any]
    state: RunState = field(default_factory=RunState)
    save_every_minutes: float = 10.0
    stop: StopRequest = field(default_factory=StopRequest)
    identity: Mapping[str, Any] = field(default_factory=dict)  # what stays the same when the run is resumed
    resumed: ResumePoint | None = None  # where this process resumes the run; None: it began it, or has resumed

    def __post_init__(self) -> None:
        self._start, self._seconds_before = perf_counter(), self.state.seconds

    @property
    def seconds(self) -> float:
        """Time of training, of all processes of the run."""
        return self._seconds_before + perf_counter() - self._start

    def state_now(self) -> RunState:
        """The state with the time until now."""
        return replace(self.state, seconds=self.seconds)

    def fit(
        self,
        stage: int,
        max_epochs: int,
        *,
        warm_up: bool,
        features: CachedFeatures | None = None,
    ) -> None:
        """Train one stage, or what is left of it; best.ckpt keeps the best validation of all stages so far.

        Fine-tuning reduces its rates when the watched metric stalls, pretraining lets them fall to the end of the
        stage. `features` replace the data where a frozen backbone has computed them.
        """
        quiet_lightning()
        self.state = replace(
            self.state,
            stage=stage,
            trained=self.state.trained | {stage: trained_parameters(self.module)},
            passes=self.state.passes + (features.passes if features else ()),
        )
        trainer = self._trainer(stage, max_epochs, self._rates(warm_up), reads_data=features is None)
        loaders = StageLoaders(self.data, stage, features.rows if features else None)
        path = None
        if self.resumed is not None:
            if self.resumed.is_in(stage):
                path = self.resumed.path
                if self.trainer_options.get("precision") == "64-true":
                    self.module.double()  # before the weights are loaded, which would be rounded
            self.resumed = None
        try:
            trainer.fit(self.module, datamodule=loaders, ckpt_path=path, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        except Exception as error:
            if isinstance(error.__context__, InputError):  # Lightning's clean-up fails where loaders cannot be started
                raise error.__context__ from None
            last = next(callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint))  # type: ignore[attr-defined]
            is_lost = isinstance(error, RuntimeError) and lost_another(error)
            if path is None or last.has_begun or is_lost or isinstance(error, InputError | FloatingPointError):
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(
                f"{path}: cannot be restored ({reason:.200}). It is damaged or of another run. Delete it to resume "
                "from the checkpoint before it, or start a new run."
            ) from error

    def has_finished(self, stage: int, max_epochs: int) -> bool:
        """Whether a process before this one has finished the stage; then random numbers continue from its end."""
        if self.resumed is None or not self.resumed.has_finished(stage, max_epochs):
            return False
        if self.resumed.is_in(stage):
            set_rng_states(self.resumed.random_numbers)
            self.resumed = None
        return True

    def _rates(self, warm_up: bool) -> list[pl.Callback]:
        schedule = self.schedule
        rates: list[pl.Callback] = [Decay(schedule.min_lr)]
        if isinstance(schedule, FinetuningSchedule) and schedule.lr_schedule == "plateau":
            rates = [Plateau(self.watched, schedule.lr_factor, schedule.lr_patience, schedule.min_lr)]
        if warm_up and schedule.warmup_steps:  # after the decay: the first steps are the warm-up's
            rates.append(WarmUp(schedule.warmup_steps))
        return rates

    def _stopping_and_averaging(self) -> list[pl.Callback]:
        """Early stopping, unless the run keeps its last epoch; averaged weights, if the settings ask for them."""
        watched, schedule = self.watched, self.schedule
        callbacks: list[pl.Callback] = []
        if not watched.keep_last:
            callbacks.append(Stopping(watched, schedule.es_patience))
        if isinstance(schedule, FinetuningSchedule) and schedule.ema_decay is not None:
            callbacks.append(AveragedWeights(schedule.ema_decay))
        return callbacks

    def _trainer(self, stage: int, max_epochs: int, rates: list[pl.Callback], reads_data: bool) -> pl.Trainer:
        before, schedule, watched = self.state.before(stage), self.schedule, self.watched
        clock, gpu = Clock(), GpuWatch()
        best = best_checkpoint(self.folder, watched, before.best_score)

        def record(row: Row) -> None:
            gpu_busy = (*before.gpu_busy, *gpu.samples)
            score = None if best.best_model_score is None else float(best.best_model_score)
            if watched.keep_last:
                score = row.metrics[watched.metric]
            self._record(row, gpu_busy, score)

        callbacks: list[pl.Callback] = [
            FiniteWatch(self.folder, stage),
            clock,
            gpu,
            *rates,
            *self._stopping_and_averaging(),
            Reporter(record, clock, stage, before, self.metrics, self.parts, reads_data),
            RunProgress(
                lambda: self.state,
                watched,
                schedule.max_epochs,
                is_last_stage=max_epochs + before.epochs == schedule.max_epochs,
            ),
            best,  # checkpoints after everything whose state they hold, the newest after the best
            LastCheckpoint(self.folder, self.state_now, self.save_every_minutes, self.stop, self.identity),
        ]
        return pl.Trainer(
            max_epochs=max_epochs,
            callbacks=callbacks,
            plugins=[SafeCheckpointIO(), _environment()],
            logger=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=False,  # RunProgress counts over all stages
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,  # each epoch has its own batches, and perhaps another number of them
            default_root_dir=os.devnull,  # under SLURM it would load files that it finds in a folder
            **self.trainer_options,
        )

    def _record(self, row: Row, gpu_busy: tuple[int, ...], best_score: float | None) -> None:
        """Add a validation to the state, to the table, to run_state.json and to the output."""
        epochs = self.schedule.max_epochs
        if not self.state.rows:
            print_line(header_line(self.printed, epochs))
        self.table.add(row)
        self.state = replace(
            self.state,
            rows=(*self.state.rows, row),
            seconds=self.seconds,
            gpu_busy=gpu_busy,
            best_score=best_score,
            best_path=None if best_score is None else self.folder.best.relative_to(self.folder.path).as_posix(),
        )
        self.folder.write_json(RUN_STATE, self.state.as_plain())
        print_line(row_line(row, self.printed, epochs))
        return_freed_memory()


def finetune_in_stages(
    run: Run, module: FineTuner, compute_features: Callable[[], CachedFeatures], compile_model: bool
) -> None:
    """Both stages of fine-tuning; afterwards best.ckpt holds the highest val_auc over both.

    `compute_features` is called when stage 1 begins.
    """
    assert isinstance(run.schedule, FinetuningSchedule)
    for stage in finetuning_stages(run.schedule):
        epochs = epochs_of_stage(run.schedule, stage, run.state.before(stage).epochs)
        if run.has_finished(stage, epochs):
            continue
        if stage == 1:
            module.freeze_backbone()
        else:
            if run.state.best_score is not None:  # stage 2 starts from the best of stage 1, not from its end
                _load_best(module, run.folder.best)
            module.unfreeze_backbone()
        if compile_model:
            module.backbone.compile_dense_parts()
        features = compute_features() if stage == 1 else None
        run.fit(stage, epochs, warm_up=stage == 2, features=features)


def _load_best(module: FineTuner, best: Path) -> None:
    """Load the weights of best.ckpt. Raises InputError if they are not those of the module."""
    try:
        module.load_state_dict(read_file(best)["state_dict"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{best}: its weights are not those of this run ({error}). Start a new run.") from error


def _environment() -> ClusterEnvironment:
    """The processes of this run, whoever started them; several are as torchrun has them.

    By name: one that Lightning finds by itself asks for as many devices as SLURM has tasks, and requeues the job.
    """
    return TorchElasticEnvironment() if this_process().world_size > 1 else LightningEnvironment()


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
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # stage 2 writes into stage 1's folder
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # what is logged is over all processes already
    warnings.filterwarnings("ignore", message=".*ended before the epoch ended.*")  # the sampler knows where
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")  # Lightning 2.6 against newer torch


class StageLoaders(pl.LightningDataModule):
    """The loaders of one stage of a run, built anew for each epoch, so that worker processes get its order too.

    `rows` holds a dataset for each split where something else than its events is read, such as cached features.
    """

    def __init__(self, data: CohortDataModule, stage: int, rows: Mapping[str, Dataset[Any]] | None = None) -> None:
        super().__init__()
        self.data, self.stage, self.rows = data, stage, rows or {}

    def train_dataloader(self) -> DataLoader[Any]:
        """Reshuffled batches of this epoch."""
        position = {"stage": self.stage, "epoch": epoch_of(self), "offset": _batches_done(self)}
        return self.data.loader("train", shuffle=True, rows=self.rows.get("train"), **position, **self._process())

    def val_dataloader(self) -> DataLoader[Any]:
        """Every stay of the validation split once."""
        return self.data.loader("valid", rows=self.rows.get("valid"), **self._process())

    def _process(self) -> dict[str, Any]:
        if self.trainer is None:
            return {}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}


def _batches_done(data: pl.LightningDataModule) -> int:
    """Batches of this epoch that were trained before a restart inside it."""
    if data.trainer is None:
        return 0
    loop = data.trainer.fit_loop
    epoch: Any = loop.epoch_progress.current
    return 0 if epoch.ready == epoch.processed else loop.epoch_loop.batch_progress.current.ready
