"""Learning rates over a stage: a short linear rise, then cuts when the watched metric stalls, or a fall to the end.

Lightning does not own the plateau scheduler: it writes a checkpoint before it steps one, and so would resume from a
state that is one validation old (evidence in docs/decisions.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, WeightAveraging
from torch.optim.lr_scheduler import ReduceLROnPlateau

from seqsetvae.settings.groups import FinetuningSchedule


@dataclass(frozen=True)
class Watched:
    """The one metric that scheduler, early stopping and best checkpoint watch, and which way is better."""

    metric: str
    mode: Literal["max", "min"]
    keep_last: bool = False  # nothing is selected by the metric: best.ckpt holds the last epoch, nothing stops early


VAL_AUC = Watched("val_auc", "max")


def finetuning_stages(schedule: FinetuningSchedule) -> list[int]:
    """Stages of fine-tuning: 1 (frozen backbone), 2 (all)."""
    if schedule.unfreeze_after is None or schedule.unfreeze_after >= schedule.max_epochs:
        return [1]
    return [1, 2] if schedule.unfreeze_after > 0 else [2]


def epochs_of_stage(schedule: FinetuningSchedule, stage: int, already: int) -> int:
    """Most epochs of a stage of fine-tuning, after `already` epochs of the one before."""
    if stage == finetuning_stages(schedule)[-1]:
        return schedule.max_epochs - already
    assert schedule.unfreeze_after is not None
    return schedule.unfreeze_after


class WarmUp(pl.Callback):
    """Learning rates rise linearly over the first `steps` optimizer steps, at most one epoch (so before any cut)."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_index: int
    ) -> None:
        steps_per_epoch = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
        steps = min(self.steps, steps_per_epoch)
        if trainer.global_step < steps:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = group["initial_lr"] * (trainer.global_step + 1) / steps


class Decay(pl.Callback):
    """Learning rates fall along half a cosine to `min_lr` at the end of the last epoch (Loshchilov & Hutter, 2017).

    For a run of a fixed length, and for pretraining, whose loss at a constant rate stalls on the noise of small batches
    long before any patience ends.
    A pure function of how far the stage has come, so that a resumed run needs no state of it.
    """

    def __init__(self, min_lr: float) -> None:
        self.min_lr = min_lr

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_index: int
    ) -> None:
        assert trainer.max_epochs is not None
        done = (trainer.current_epoch + batch_index / trainer.num_training_batches) / trainer.max_epochs
        share = 0.5 * (1 + math.cos(math.pi * done))
        for group in trainer.optimizers[0].param_groups:
            lowest = min(self.min_lr, group["initial_lr"])
            group["lr"] = lowest + (group["initial_lr"] - lowest) * share


class Plateau(pl.Callback):
    """Multiply all learning rates by `factor` after more than `patience` validations without a better metric."""

    def __init__(self, watched: Watched, factor: float, patience: int, min_lr: float) -> None:
        self.watched = watched
        self.options: dict[str, Any] = {"factor": factor, "patience": patience, "min_lr": min_lr}
        self.scheduler: ReduceLROnPlateau | None = None
        self._restored: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # A strict comparison, like that of early stopping and best checkpoint: the three never disagree on "better".
        self.scheduler = ReduceLROnPlateau(
            trainer.optimizers[0], mode=self.watched.mode, threshold=0.0, threshold_mode="abs", **self.options
        )
        if self._restored is not None:  # but not the settings, which the user may have changed on purpose
            settings = {name: getattr(self.scheduler, name) for name in ("factor", "patience", "min_lrs")}
            self.scheduler.load_state_dict(self._restored | settings)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.scheduler is not None and not trainer.sanity_checking:
            self.scheduler.step(float(trainer.callback_metrics[self.watched.metric]))

    def state_dict(self) -> dict[str, Any]:
        return {} if self.scheduler is None else self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict or None


class Stopping(EarlyStopping):
    """Stop after `es_patience` validations without a better metric; a resumed run has the patience of its settings."""

    def __init__(self, watched: Watched, patience: int) -> None:
        super().__init__(
            watched.metric, mode=watched.mode, patience=patience, strict=True, check_on_train_epoch_end=False
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})


class AveragedWeights(WeightAveraging):
    """Validation and checkpoints use an exponential moving average of the weights (Polyak & Juditsky, 1992).

    The first averages are short, so that the initial weights are forgotten at once.
    """

    def __init__(self, decay: float) -> None:
        def average(averages: list[torch.Tensor], weights: list[torch.Tensor], steps: Any) -> None:
            for old, new in zip(averages, weights, strict=True):
                old.lerp_(new, 1 - min(decay, float(steps) / (float(steps) + 10)))

        super().__init__(use_buffers=False, multi_avg_fn=average)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The averages were copied before Lightning gave the module its precision; nothing is averaged yet."""
        assert self._average_model is not None
        self._average_model.to(next(module.parameters()).dtype)
