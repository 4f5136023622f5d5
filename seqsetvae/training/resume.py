"""Exact resume: what last.ckpt holds besides weights and optimizer, when it is written, and where a run goes on.

A run goes on from one file. Everything else in its folder (metrics.csv, curves, run_state.json) is written anew from
what that file holds, so a process may be killed at any moment: what it did after the file was written is done again,
and gives the same bits, because order of batches, random numbers and sums are those of the process before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from seqsetvae.checkpoint.file import check_finite, check_kinds, check_types, read_file
from seqsetvae.settings.declare import as_plain
from seqsetvae.settings.old_names import current
from seqsetvae.system.console import warn
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import keep_as
from seqsetvae.system.interrupt import StopRequest
from seqsetvae.system.processes import any_of, of_all, this_process
from seqsetvae.training.metrics import RunningMean
from seqsetvae.training.random_numbers import rng_states, set_rng_states
from seqsetvae.training.resume_check import check_form, check_optimizer, check_position
from seqsetvae.training.run_folder import CONFIG, RunFolder
from seqsetvae.training.run_state import RunState, whole_number

STATE = "LastCheckpoint"  # key of the callback's state in a checkpoint


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on."""

    path: Path  # of the checkpoint
    run: RunState
    stopped: bool  # early stopping has ended the stage
    batches: int  # of the epoch that are done; 0: the epoch is complete
    random_numbers: dict[str, Any] | None  # states of this process; None: the run had fewer processes
    world_size: int  # processes that the run had
    identity: Any = None  # of the run, as `resume_check.identity` has it; None in files of earlier versions

    def has_finished(self, stage: int, max_epochs: int) -> bool:
        """Whether this stage, or a later one, is done."""
        of_stage = self.run.epochs - self.run.before(stage).epochs
        is_done = self.batches == 0 and (self.stopped or of_stage >= max_epochs)
        return stage < self.run.stage or (stage == self.run.stage and is_done)

    def is_in(self, stage: int) -> bool:
        return self.run.stage == stage

    def __str__(self) -> str:
        if self.batches:
            return f"in epoch {self.run.epochs + 1}, after {self.batches:,} batches"
        return f"after epoch {self.run.epochs}" if self.run.epochs else "at the start"


def read_resume_point(folder: RunFolder) -> ResumePoint | None:
    """Where a run goes on: its last.ckpt, or the one before if that is damaged, which is said; None: at its start.

    Raises:
        InputError: both are damaged, or the run was written by a version that could not resume.
    """
    damaged = []
    for path in (folder.last, folder.previous):
        if not path.exists():
            continue
        try:
            point = _read(path)
        except InputError as error:
            warn(f"{error}")
            damaged.append(path.name)
            continue
        if damaged:
            warn(f"{path.name} is used instead: {point}")
            folder.last.unlink()  # the next save would put it in the place of the file that is used
        return point
    if damaged:
        raise InputError(
            f"{folder.checkpoints}: {' and '.join(damaged)} cannot be read, so the run cannot go on. best.ckpt may "
            "still be whole (--mode evaluate); or start a new run."
        )
    return None


def _read(path: Path) -> ResumePoint:
    content = read_file(path)
    try:
        state = content["callbacks"][STATE]
        point = ResumePoint(
            path=path,
            run=RunState.from_plain(state["run"]),
            stopped=bool(state["stopped"]),
            batches=whole_number(state["batches"]),
            random_numbers=_random_numbers(state["ranks"]),
            world_size=len(state["ranks"]),
            identity=state.get("identity"),
        )
        check_position(content, point.run, point.batches)
        weights = {name: value for name, value in content["state_dict"].items() if isinstance(value, torch.Tensor)}
    except (KeyError, TypeError, IndexError, AttributeError):
        raise InputError(f"{path}: holds no state to go on from; its version could not resume runs.") from None
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: damaged, {error}.") from None
    check_kinds(weights, path)
    check_finite(weights, path)
    return point


def _random_numbers(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of this process, among what a checkpoint holds of each; a process that is new has those of its own seed."""
    rank = this_process().rank
    return ranks[rank]["random_numbers"] if rank < len(ranks) else None


def check_same_inputs(recorded: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Compare the config.json of a run with what it would be now; says where only the last bits may differ.

    Raises:
        InputError: the data or the pretrained checkpoint have another content, or the file does not say which.
    """
    cohort = recorded.get("cohort")
    if not isinstance(cohort, dict) or "content" not in cohort or "versions" not in recorded:
        raise InputError(f"{folder / CONFIG}: damaged, it does not say which data the run is of. Start a new run.")
    if cohort["content"] != now["cohort"]["content"]:
        raise InputError(
            f"{folder}: the data in {now['cohort']['path']} have changed since the run began, so it cannot go on. "
            "Restore the data, or start a new run."
        )
    if recorded.get("pretrained_checksum") != now["pretrained_checksum"]:
        raise InputError(
            f"{folder}: the pretrained checkpoint has changed since the run began, so it cannot go on. "
            "Restore the file, or start a new run."
        )
    if recorded["versions"] != now["versions"]:
        before, after = recorded["versions"], now["versions"]
        warn(f"The run began with {before} and goes on with {after}, so the last digits may differ.")
    if recorded.get("threads", now["threads"]) != now["threads"]:  # not in runs of earlier versions
        warn(
            f"Threads: {recorded['threads']} before, {now['threads']} from now on, so the last digits may differ "
            "(OMP_NUM_THREADS)."
        )


def is_finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a run has nothing left to do with these settings, which is then said."""
    run = RunFolder(folder)
    done = run.is_finished and current(run.read_json(CONFIG)["settings"], run.path / CONFIG) == settings
    if done:
        print(f"Nothing to do: the run in {folder} is finished (summary.txt holds its results).")
    return done


def earlier_run(mode: str, settings: Any, data_hash: str) -> tuple[Path | None, bool]:
    """The newest run that a killed process left: of this mode, with these settings, on a cohort of this data hash.

    Returns:
        (folder, whether it is finished); (None, False) if there is none.
    """
    plain = {"mode": mode, **as_plain(settings)}
    for file in sorted(settings.run.output_root_dir.glob(f"{mode}-*/{CONFIG}"), reverse=True):
        config = RunFolder(file.parent).read_json(CONFIG)
        if current(config.get("settings", {}), file) == plain and config["cohort"].get("data") == data_hash:
            return file.parent, is_finished(file.parent, plain)
    return None, False


class LastCheckpoint(Checkpoint):
    """Writes last.ckpt: when a stage begins, at the end of an epoch, every `minutes` inside one, and after SIGTERM.

    It stands last of all callbacks, so that the states of the others are those after the epoch. Inside an epoch it
    writes only between optimizer steps, and not after the last batch, whose validation belongs to the same epoch.
    """

    monitor = None

    def __init__(
        self,
        folder: RunFolder,
        run: Callable[[], RunState],
        minutes: float,
        stop: StopRequest,
        identity: Mapping[str, Any],
    ) -> None:
        """`run` returns the state of the run as it is now; `identity` is that of `resume_check`."""
        self.folder, self.run, self.seconds, self.stop = folder, run, 60 * minutes, stop
        self.identity, self.has_begun = identity, False  # has_begun: all that a checkpoint holds has been restored
        self._state: dict[str, Any] = {}
        self._restored: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        return STATE

    def state_dict(self) -> dict[str, Any]:
        """Empty in best.ckpt, which nothing goes on from."""
        return self._state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict or None

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Called before Lightning restores its loops and the states of the callbacks."""
        check_types(checkpoint["state_dict"], module.state_dict(), Path(trainer.ckpt_path or self.folder.last))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if callback is not self and (fresh := callback.state_dict()):
                check_form(checkpoint["callbacks"].get(callback.state_key), fresh, type(callback).__name__)
        state = checkpoint["callbacks"][STATE]
        if state["batches"] == 0:
            _begin_next_epoch(checkpoint["loops"]["fit_loop"])
        elif len(state["ranks"]) != trainer.world_size:
            done = state["batches"] * len(state["ranks"]) // trainer.world_size
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            progress.update(dict.fromkeys(progress, done), completed=done - 1)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.world_size > 1:  # in each step it would wait for the device (its issue 21487); `any_of` does not
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        self.stop.install()  # Lightning has put its own handler in place, which ends in the middle of gradient groups
        self._saved_at, self.stop.in_steps = time.monotonic(), True
        if self._restored is None:
            self._save(trainer, batches=0)  # a stage begins from best.ckpt, which its first validation may replace
            return
        for name, metric in _running_means(module).items():
            sums = [rank["sums"][name] for rank in self._restored["ranks"]]
            if len(sums) != trainer.world_size:  # the first process has the sums of all
                sums = [(sum(each[0] for each in sums), sum(each[1] for each in sums))]
                sums += [(0.0, 0.0)] * trainer.world_size
            metric.restore(sums[trainer.global_rank], module.device)
        wanted: Any = module.configure_optimizers()
        check_optimizer(trainer.optimizers[0], wanted)
        use_changed_settings(trainer.optimizers[0].param_groups, wanted.param_groups)

    def on_train_batch_start(self, *_: Any) -> None:
        if self._restored is not None:  # here and not before: nothing draws in between
            set_rng_states(_random_numbers(self._restored["ranks"]))
            self._restored = None
        self.has_begun = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches or trainer.is_last_batch:
            return
        is_due = trainer.is_global_zero and time.monotonic() - self._saved_at >= self.seconds
        self.stop.received, save = any_of(self.stop.received, self.stop.received or is_due)  # all do the same
        if save:
            self._save(trainer, batches=batch_index + 1)
            self._end_if_asked()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stop.in_steps = False
        self._end_if_asked()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stop.in_steps = True

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._save(trainer, batches=0)
        self._end_if_asked()

    def on_train_end(self, *_: Any) -> None:
        self.stop.in_steps = False

    def on_exception(self, *_: Any) -> None:
        self.stop.in_steps = False

    def _end_if_asked(self) -> None:
        if self.stop.received:
            self.stop.end()

    def _save(self, trainer: pl.Trainer, batches: int) -> None:
        sums = {name: metric.partial() for name, metric in _running_means(trainer.lightning_module).items()}
        self._state = {
            "run": self.run().as_plain(),
            "stopped": trainer.should_stop,
            "batches": batches,
            "identity": dict(self.identity),
            "ranks": of_all({"random_numbers": rng_states(), "sums": sums}),
        }
        if self.folder.writes and self.folder.last.exists():
            keep_as(self.folder.last, self.folder.previous)
        trainer.save_checkpoint(self.folder.last)
        self._state, self._saved_at = {}, time.monotonic()


def _running_means(module: pl.LightningModule) -> dict[str, RunningMean]:
    return {name: metric for name, metric in module.named_modules() if isinstance(metric, RunningMean)}


def _begin_next_epoch(loop: dict[str, Any]) -> None:
    """Lightning's progress at the end of an epoch, as it is before the first batch of the next one.

    It has no such state of its own: from a file that is written at the end of an epoch it would repeat that end.
    """
    for count in ("total", "current"):
        loop["epoch_progress"][count]["completed"] = loop["epoch_progress"][count]["processed"]
    loop["epoch_loop.batch_progress"]["is_last_batch"] = False
    _reset(loop["epoch_loop.batch_progress"]["current"])
    for count in ("total", "current"):
        _reset(loop["epoch_loop.val_loop.batch_progress"][count])


def _reset(progress: dict[str, int]) -> None:
    progress.update(dict.fromkeys(progress, 0))


def use_changed_settings(restored: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Give restored parameter groups the rates and the weight decay of the settings, where these were changed since."""
    for group, fresh in zip(restored, wanted, strict=True):
        if group["initial_lr"] != fresh["initial_lr"]:
            group["lr"] = group["initial_lr"] = fresh["initial_lr"]
        group["weight_decay"] = fresh["weight_decay"]
