"""What a run measures and reports while it trains: times, progress, one row and one line per validation."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from seqsetvae.batches.batch import Batch
from seqsetvae.system.console import Progress, duration
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import append_text
from seqsetvae.system.resources import peak_mib
from seqsetvae.training.run_folder import Row, RunState, best_row
from seqsetvae.training.schedule import Watched
from seqsetvae.training.trackers import Tracker, tensorboard

COUNTS = ("stage", "val_active_units")  # columns that hold integers


class Clock(pl.Callback):
    """Times the last training epoch and its waits for data on the host's clock, without waiting for the device."""

    def __init__(self) -> None:
        self.stays, self.working, self.waiting = 0, 0.0, 0.0

    def on_train_start(self, *_: Any) -> None:
        self._mark = time.perf_counter()  # where a run resumes inside an epoch, no epoch starts

    def on_train_epoch_start(self, *_: Any) -> None:
        self.stays, self.working, self.waiting = 0, 0.0, 0.0
        self._mark = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"stays": self.stays, "working": self.working, "waiting": self.waiting}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)

    def _lap(self) -> float:
        now, before = time.perf_counter(), self._mark
        self._mark = now
        return now - before

    def on_train_batch_start(self, *_: Any) -> None:
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
    """metrics.csv and TensorBoard curves of a run: one `add` per validation, both stages in one table."""

    def __init__(
        self, csv_path: Path, tensorboard_dir: Path, trackers: Sequence[Tracker] = (), writes: bool = True
    ) -> None:
        self.csv_path, self.tensorboard_dir, self.trackers = csv_path, tensorboard_dir, trackers
        self.writes = writes  # else another process of the run does
        self.curves = tensorboard(tensorboard_dir) if writes else None

    def add(self, row: Row) -> None:
        """Append a row; it is on disk when this returns. Raises CannotWriteError, with the rows before it unchanged."""
        if not self.writes:
            return
        self._write(row)
        for tracker in self.trackers:
            tracker.add(_numbers(row), row.step)

    def _write(self, row: Row) -> None:
        columns = row.as_flat()
        lines = io.StringIO(newline="")
        writer = csv.DictWriter(lines, list(columns))
        if not self.csv_path.exists():
            writer.writeheader()
        writer.writerow(columns)
        append_text(self.csv_path, lines.getvalue())
        if self.curves is not None:
            self.curves.add(_numbers(row), row.step)

    def restore(self, rows: Sequence[Row]) -> None:
        """Replace all rows: a killed process may have written one after its last checkpoint."""
        if not self.writes:
            return
        if self.curves is not None:
            self.curves.close()
            for file in self.tensorboard_dir.glob("events.out.tfevents.*"):
                with contextlib.suppress(OSError):  # curves are never needed
                    file.unlink()
            self.curves = tensorboard(self.tensorboard_dir)
        self.csv_path.unlink(missing_ok=True)
        for row in rows:
            self._write(row)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()
        if self.curves is not None:
            self.curves.close()


def _numbers(row: Row) -> dict[str, float]:
    """The numbers of a row that trackers receive, by name."""
    return {name: value for name, value in row.as_flat().items() if name != "step" and value is not None}


class Reporter(pl.Callback):
    """Makes a row of every validation and hands it to `record`."""

    def __init__(
        self,
        record: Callable[[Row], None],
        clock: Clock,
        stage: int,
        before: RunState,
        metrics: Sequence[str],
        parts: Sequence[str],
        reads_data: bool,
    ) -> None:
        """`before` is the run before this stage.

        `metrics` are the logged names that a row holds, `parts` the parts of the model that have a learning rate.
        Without `reads_data` (cached features) the time spent waiting for batches is none of the loader's and is not
        reported.
        """
        self.record, self.clock, self.stage, self.before = record, clock, stage, before
        self.metrics, self.parts, self.reads_data = metrics, parts, reads_data

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Before the plateau may cut them: the rates that this epoch was trained with.
        rates = {group["part"]: group["lr"] for group in trainer.optimizers[0].param_groups}
        self.rates = {f"lr_{part}": rates.get(part, 0.0) for part in self.parts}

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Validation has run by now, and the training loss of the whole epoch is among the metrics.
        missing = [name for name in self.metrics if name not in trainer.callback_metrics]
        if missing:
            raise InputError(
                f"the epoch ended without {', '.join(missing)}, because it had no batch to train on: the checkpoint "
                "that this run went on from is damaged. Start a new run."
            )
        self.record(
            Row(
                stage=self.stage,
                epoch=self.before.epochs + trainer.current_epoch + 1,
                step=self.before.steps + trainer.global_step,
                metrics={name: float(trainer.callback_metrics[name]) for name in self.metrics},
                rates=self.rates,
                stays_per_second=trainer.world_size * self.clock.stays / self.clock.seconds,
                waiting=self.clock.waiting / self.clock.seconds if self.reads_data else None,
                seconds=self.clock.seconds,
            )
        )


def header_line(columns: Sequence[str], epochs: int) -> str:
    """Names of the columns of `row_line`."""
    return "  ".join(["epoch".rjust(2 * len(str(epochs)) + 1), *columns, "stays/s"])


def row_line(row: Row, columns: Sequence[str], epochs: int) -> str:
    """A validation in one line under `header_line`; all digits are in metrics.csv."""
    values = row.as_flat()
    cells = [_cell(name, values[name]).rjust(len(name)) for name in columns]
    epoch = f"{row.epoch}/{epochs}".rjust(max(5, 2 * len(str(epochs)) + 1))
    return "  ".join([epoch, *cells, f"{row.stays_per_second:,.0f}".rjust(7)])


def _cell(name: str, value: float | None) -> str:
    assert value is not None
    if name in COUNTS:
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


class RunProgress(pl.Callback):
    """Progress of the whole run while a stage trains: epoch, loss, best of the watched metric, and time left."""

    def __init__(
        self, state: Callable[[], RunState], watched: Watched, epochs_in_all: int, is_last_stage: bool
    ) -> None:
        """`state` returns the run as it is now."""
        self.state, self.watched, self.epochs_in_all, self.is_last_stage = state, watched, epochs_in_all, is_last_stage
        self.epochs_before = state().before(state().stage).epochs
        self.progress = Progress("")
        self.loss = DelayedNumber()

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.epochs_at_start = trainer.current_epoch
        self.batches, self.start = 0, time.monotonic()  # training and validation batches of this process in the stage
        self.progress.start()

    def on_train_end(self, *_: Any) -> None:
        self.progress.close()

    def on_exception(self, *_: Any) -> None:
        self.progress.close()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self.batches += 1
        if self.progress.is_due():
            epoch = self.epochs_before + trainer.current_epoch + 1
            batches_of_epoch = int(trainer.num_training_batches) + sum(map(int, trainer.num_val_batches))
            epochs = self.batches / batches_of_epoch  # of this process
            share = (self.epochs_before + self.epochs_at_start + epochs) / self.epochs_in_all
            label = f"Epoch {epoch}/{self.epochs_in_all}"
            self.progress.show(share, self._detail(module, epochs), label)

    def on_validation_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self.on_train_batch_end(trainer, module)

    def _detail(self, module: pl.LightningModule, epochs: float) -> str:
        """Loss so far in this epoch, best metric of the epochs before, and time left at the speed of this stage."""
        parts = []
        loss = self.loss.read(module.train_loss.so_far())  # type: ignore[operator, union-attr]
        if loss is not None:
            parts.append(f"loss {loss:.4f}")
        if self.state().rows:
            best = best_row(self.state().rows, self.watched).metrics[self.watched.metric]
            parts.append(f"{'last' if self.watched.keep_last else 'best'} {self.watched.metric} {best:.4f}")
        if self.is_last_stage:
            epochs_left = self.epochs_in_all - self.epochs_before - self.epochs_at_start - epochs
            left = (time.monotonic() - self.start) / epochs * epochs_left
            parts.append(f"ETA {duration(left)}")
        else:
            parts.append("ETA in stage 2")
        return ", ".join(parts)


class DelayedNumber:
    """A number on a device, read without waiting for the device: what is returned may be one reading old."""

    def __init__(self) -> None:
        self._latest: float | None = None
        self._copy: tuple[torch.Tensor, torch.cuda.Event] | None = None

    def read(self, value: torch.Tensor | None) -> float | None:
        """Begin to copy `value` to the host and return the last number that has arrived; None: none has."""
        if value is not None and value.device.type != "cuda":
            self._latest = float(value)
            return self._latest
        if self._copy is not None and self._copy[1].query():
            self._latest, self._copy = float(self._copy[0]), None
        if self._copy is None and value is not None:
            copy = torch.empty((), dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._copy = copy, event
        return self._latest


class GpuWatch(pl.Callback):
    """Reads from the driver every EVERY batches how busy the GPU is; the device is not waited for."""

    EVERY = 50

    def __init__(self) -> None:
        self.samples: list[int] = []  # in percent; none where there is no GPU or no way to ask

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        if module.device.type == "cuda" and batch_index % self.EVERY == self.EVERY - 1:
            with contextlib.suppress(Exception):  # no nvidia-ml-py or driver library: no samples
                self.samples.append(torch.cuda.utilization(module.device))


def device_use(device: torch.device, cpu_seconds: float, wall_seconds: float, gpu_busy: Sequence[int]) -> str:
    """One line about how busy the device was; `gpu_busy` are samples in percent."""
    if device.type != "cuda":
        threads = f"{cpu_seconds / max(wall_seconds, 1e-9):.1f} of {torch.get_num_threads()} threads"
        return f"CPU, {threads} busy on average, peak {peak_mib() / 1024:.1f} GiB"
    busy = f"{sum(gpu_busy) / len(gpu_busy):.0f} % busy on average" if gpu_busy else "nvidia-ml-py would tell how busy"
    memory = torch.cuda.max_memory_allocated(device) / 2**30
    return f"{torch.cuda.get_device_name(device)}, {busy}, at most {memory:.1f} GiB in use"
