"""What a run tells of itself while it trains: time spent and waited, one row and one line a validation."""

from __future__ import annotations

import contextlib
import csv
import io
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.tensorboard import SummaryWriter

from seqsetvae.batch import Batch
from seqsetvae.files import append_text, cannot_write


@dataclass(frozen=True)
class Row:
    """One validation. Times are of the training epoch before it."""

    stage: int
    epoch: int  # counted over both stages, from 1
    step: int  # optimizer steps so far, over both stages
    metrics: dict[str, float]  # train_loss, val_loss, ... in the order in which they are said
    rates: dict[str, float]  # lr_<part>: learning rate of each part, 0 while frozen
    stays_per_second: float  # training, validation apart
    waiting: float | None  # share of the training time spent waiting for the next batch; None: nothing is read
    seconds: float  # training epoch

    def as_flat(self) -> dict[str, float | None]:
        """One column a number."""
        place = {"stage": self.stage, "epoch": self.epoch, "step": self.step}
        pace = {name: getattr(self, name) for name in ("stays_per_second", "waiting", "seconds")}
        return place | self.metrics | self.rates | pace


class Clock(pl.Callback):
    """Time of the last training epoch and of the waits in it, by the host's clock; no device is waited for."""

    def __init__(self) -> None:
        self.stays, self.working, self.waiting = 0, 0.0, 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stays, self.working, self.waiting = 0, 0.0, 0.0
        self._mark = time.perf_counter()

    def _lap(self) -> float:
        now, before = time.perf_counter(), self._mark
        self._mark = now
        return now - before

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_index: int
    ) -> None:
        self.waiting += self._lap()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        self.working += self._lap()
        self.stays += batch.n_stays

    @property
    def seconds(self) -> float:
        return self.working + self.waiting


class MetricsTable:
    """metrics.csv and TensorBoard curves of a run: one `add` a validation, both stages in one table."""

    def __init__(self, csv_path: Path, tensorboard_dir: Path) -> None:
        self.rows: list[Row] = []
        self.csv_path, self.tensorboard_dir = csv_path, tensorboard_dir
        with _write_errors(tensorboard_dir):
            self.curves = SummaryWriter(str(tensorboard_dir))

    def add(self, row: Row) -> None:
        """Append a row; it is on disk when this returns. Raises CannotWriteError, with the rows before it unchanged."""
        lines = io.StringIO(newline="")
        writer = csv.DictWriter(lines, list(row.as_flat()))
        if not self.rows:
            writer.writeheader()
        writer.writerow(row.as_flat())
        append_text(self.csv_path, lines.getvalue())
        self.rows.append(row)
        with _write_errors(self.tensorboard_dir):
            for name, value in row.as_flat().items():
                if name not in ("stage", "epoch", "step") and value is not None:
                    self.curves.add_scalar(name, value, row.step)
            self.curves.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a write that failed was reported by `add`
            self.curves.close()


@contextlib.contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """An OSError of the TensorBoard writer becomes a CannotWriteError; its thread prints no traceback of its own."""
    print_traceback = threading.excepthook

    def hook(raised: threading.ExceptHookArgs) -> None:
        if not issubclass(raised.exc_type, OSError):  # the main thread raises an OSError again
            print_traceback(raised)

    threading.excepthook = hook
    try:
        yield
    except OSError as error:
        raise cannot_write(folder, error) from None
    finally:
        threading.excepthook = print_traceback


class Reporter(pl.Callback):
    """Adds a row to the table and says a line after every validation."""

    def __init__(
        self,
        table: MetricsTable,
        clock: Clock,
        stage: int,
        epochs_in_all: int,
        metrics: Sequence[str],
        parts: Sequence[str],
        reads_data: bool,
    ) -> None:
        """`metrics` are the logged names that a row holds, `parts` the parts of the model that have a learning rate.
        Without `reads_data` (cached features) a wait says nothing about the loader and is not reported."""
        self.table, self.clock, self.stage, self.epochs_in_all = table, clock, stage, epochs_in_all
        self.metrics, self.parts, self.reads_data = metrics, parts, reads_data
        self.epochs_before = table.rows[-1].epoch if table.rows else 0
        self.steps_before = table.rows[-1].step if table.rows else 0

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Before the plateau may cut them: the rates that this epoch was trained with.
        rates = {group["part"]: group["lr"] for group in trainer.optimizers[0].param_groups}
        self.rates = {f"lr_{part}": rates.get(part, 0.0) for part in self.parts}

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Validation has run by now, and the training loss of the whole epoch stands among the metrics.
        row = Row(
            stage=self.stage,
            epoch=self.epochs_before + trainer.current_epoch + 1,
            step=self.steps_before + trainer.global_step,
            metrics={name: float(trainer.callback_metrics[name]) for name in self.metrics},
            rates=self.rates,
            stays_per_second=self.clock.stays / self.clock.seconds,
            waiting=self.clock.waiting / self.clock.seconds if self.reads_data else None,
            seconds=self.clock.seconds,
        )
        self.table.add(row)
        said = "  ".join(f"{name} {value:.4f}" for name, value in row.metrics.items())
        place = f"stage {row.stage}  epoch {row.epoch:>3}/{self.epochs_in_all}"
        print(f"{place}  {said}  {row.stays_per_second:,.0f} stays/s", flush=True)


class GpuWatch(pl.Callback):
    """Asks the driver how busy the GPU is, every so many batches; the device is not waited for."""

    EVERY = 50

    def __init__(self, samples: list[int]) -> None:
        """Percentages are appended to `samples`; none are where there is no GPU or no way to ask."""
        self.samples = samples

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        if module.device.type == "cuda" and batch_index % self.EVERY == self.EVERY - 1:
            with contextlib.suppress(Exception):  # no nvidia-ml-py, no driver library, not supported: only a figure
                self.samples.append(torch.cuda.utilization(module.device))


def device_use(device: torch.device, cpu_seconds: float, wall_seconds: float, gpu_busy: list[int]) -> str:
    """How busy the device was, in words; `gpu_busy` are samples in percent."""
    if device.type != "cuda":
        return f"CPU, {cpu_seconds / max(wall_seconds, 1e-9):.1f} of {torch.get_num_threads()} threads busy on average"
    busy = f"{sum(gpu_busy) / len(gpu_busy):.0f} % busy on average" if gpu_busy else "nvidia-ml-py would tell how busy"
    memory = torch.cuda.max_memory_allocated(device) / 2**30
    return f"{torch.cuda.get_device_name(device)}, {busy}, at most {memory:.1f} GiB in use"
