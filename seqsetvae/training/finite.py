"""Stops a stage at the first loss or metric that is not finite, and saves which stays the batch had."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch

from seqsetvae.system.files import write_text
from seqsetvae.system.processes import all_gather
from seqsetvae.training.callbacks import DelayedNumber
from seqsetvae.training.metrics import FiniteCheck, NotFiniteError, NotFiniteOutputError
from seqsetvae.training.run_folder import RunFolder

BAD_BATCH = "bad_batch.json"


@contextmanager
def stays_in_a_file(folder: RunFolder) -> Iterator[None]:
    """List stays whose output is not finite in a file of the run folder, not in the error or in train.log.

    Raises:
        NotFiniteOutputError: with the file in the place of the stay.
    """
    try:
        yield
    except NotFiniteOutputError as error:
        file = folder.path / BAD_BATCH
        write_text(file, json.dumps({"split": error.split, "stays": error.stays}, indent=2) + "\n")  # in any process
        where = f"a stay that is listed in {file},"
        raise NotFiniteOutputError(error.stays, error.split, where) from None


@dataclass(frozen=True)
class _Seen:
    """The stays of each batch of a pass, kept on their device."""

    stays: list[torch.Tensor]

    def rows(self, batch: int) -> list[int]:
        return self.stays[batch].tolist() if 0 <= batch < len(self.stays) else []


class FiniteWatch(pl.Callback):
    """Looks at every training loss on the device and reads it every EVERY batches without waiting for the device.

    Before each validation it is read synchronously, so that no checkpoint is made of weights after such a loss.
    """

    EVERY = 50

    def __init__(self, folder: RunFolder, stage: int) -> None:
        self.folder, self.stage = folder, stage
        self.training, self.validation = _Seen([]), _Seen([])

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Where a run resumes inside an epoch, no epoch starts."""
        self.on_train_epoch_start(trainer, module)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.training, self.delayed = _Seen([]), DelayedNumber()
        self.first = torch.full((), FiniteCheck.NONE, device=module.device)  # index of the first batch with such a loss

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        index = len(self.training.stays)
        self.training.stays.append(batch.stay_id)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.first = self.first.minimum(loss.detach().isfinite() * FiniteCheck.NONE + index)
        if index % self.EVERY == self.EVERY - 1:
            self._require_finite(self.delayed.read(self.first))

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.validation = _Seen([])
        self._require_finite(float(self.first))

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.validation.stays.append(batch.stay_id)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        metrics = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
        broken = [name for name, value in metrics.items() if not value.isfinite()]
        if broken:
            raise NotFiniteError(f"{broken[0]} is not finite. Lower the learning rates, or use --precision 32-true.")

    def on_save_checkpoint(self, *_: Any) -> None:
        """Refuse to save weights after a loss that is not finite, also inside an epoch."""
        self._require_finite(float(self.first))

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Save the stays of the batch that the error is about, those of all processes."""
        if not isinstance(exception, NotFiniteError) or exception.batch is None:
            return
        seen = self.training if exception.in_training else self.validation
        stays, before = ([*chain(*all_gather(seen.rows(exception.batch - back)))] for back in (0, 1))
        content = {
            "error": str(exception),
            "stage": self.stage,
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "split": "train" if exception.in_training else "valid",
            "batch": exception.batch,
            "stays": stays,
            # The step of the batch before may be what made the weights infinite.
            "stays_of_the_batch_before": before,
        }
        self.folder.write_json(BAD_BATCH, content)
        file = self.folder.path / BAD_BATCH
        exception.args = (f"{exception} The stays of that batch are listed in {file}.",)

    def _require_finite(self, first: float | None) -> None:
        """Raises NotFiniteError, in all processes, if a loss up to here was not finite in one of them."""
        # On a GPU a number may have arrived (DelayedNumber) in one process only, and all of them must gather.
        first = min(all_gather(FiniteCheck.NONE if first is None else first))
        if first < FiniteCheck.NONE:
            raise NotFiniteError(
                f"train_loss is not finite: that of batch {first:.0f} of the epoch is NaN or infinite. Lower the "
                "learning rates, or use --precision 32-true, or check the values of its stays (python data.py check). "
                "If there is a best.ckpt, it is from an earlier epoch.",
                batch=int(first),
                in_training=True,
            )
