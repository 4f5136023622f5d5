"""How a run writes its checkpoints: atomically, without absolute paths, and last.ckpt with all that a resume needs.

last.ckpt holds the states of all random number generators, the sums of the epoch so far and the state of the run beside
weights and optimizer (exact resume: see resume.py).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from seqsetvae.checkpoint.file import check_types
from seqsetvae.system.files import keep_as, new_file
from seqsetvae.system.interrupt import StopRequest
from seqsetvae.system.processes import all_gather, any_process
from seqsetvae.training.metrics import RunningMean
from seqsetvae.training.resume import STATE, _random_numbers, check_form, check_optimizer
from seqsetvae.training.run_folder import RunFolder, RunState
from seqsetvae.training.schedule import Watched


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
    replace best.ckpt (its issue 12045), and a published file would reveal paths of the machine.
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
        state = super().state_dict()
        del state["dirpath"]
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = Path(state[name]).name
        state["best_k_models"] = {Path(path).name: score for path, score in state["best_k_models"].items()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = self._full(state[name])
        state["best_k_models"] = {self._full(name): score for name, score in state["best_k_models"].items()}
        super().load_state_dict(state)
        self.current_score = state["current_score"]  # Lightning saves it and does not restore it

    def _full(self, name: str) -> str:
        return str(Path(str(self.dirpath)) / name) if name else ""


def best_checkpoint(folder: RunFolder, watched: Watched, score_so_far: float | None = None) -> PortableCheckpoint:
    """Keeps best.ckpt: the best validation, better than that of the best.ckpt so far, if there is one."""
    if watched.keep_last:
        return PortableCheckpoint(folder, "best", monitor=None, mode=watched.mode)
    best = PortableCheckpoint(folder, "best", monitor=watched.metric, mode=watched.mode)
    if score_so_far is not None:
        score, path = _as_tensor(score_so_far), str(folder.best)
        best.best_model_score = best.kth_value = score
        best.best_model_path = best.kth_best_model_path = path
        best.best_k_models = {path: score}
    return best


def _as_tensor(score: float) -> torch.Tensor:
    """A tensor in single precision, as Lightning logs scores, unless that would round it (a run in 64-true)."""
    single = torch.tensor(score, dtype=torch.float32)
    return single if float(single) == score else torch.tensor(score, dtype=torch.float64)


# ------------------------------------------------------------------ last.ckpt


def rng_states() -> dict[str, Any]:
    """States of torch, CUDA, numpy and Python as tensors and plain values, since checkpoints hold nothing else."""
    name, keys, *position = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *position],
        "python": random.getstate(),
    }


def set_rng_states(states: dict[str, Any] | None) -> None:
    """Restore what `rng_states` returned in this process or an earlier one; None changes nothing."""
    if states is None:
        return
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
    name, keys, *position = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *position))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


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
        """`run` returns the state of the run as it is now; `identity` is `resume.identity`."""
        self.folder, self.run, self.seconds, self.stop = folder, run, 60 * minutes, stop
        self.identity, self.has_begun = identity, False  # has_begun: all that a checkpoint holds has been restored
        self._state: dict[str, Any] = {}
        self._restored: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        return STATE

    def state_dict(self) -> dict[str, Any]:
        """Empty in best.ckpt, which nothing resumes from."""
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
        if trainer.world_size > 1:  # it would wait for the device in each step (its issue 21487), unlike `any_process`
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        self.stop.install()  # Lightning has put its own handler in place, which ends in the middle of gradient groups
        self._saved_at, self.stop.in_steps = time.monotonic(), True
        if self._restored is None:
            self._save(trainer, batches=0)  # a stage begins from best.ckpt, which its first validation may replace
            return
        for name, metric in _running_means(module).items():
            sums = [rank["sums"][name] for rank in self._restored["ranks"]]
            if len(sums) != trainer.world_size:  # the first process has the sums of all
                sums = [(sum(partial[0] for partial in sums), sum(partial[1] for partial in sums))]
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
        self.stop.received, save = any_process(self.stop.received, self.stop.received or is_due)  # all do the same
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
            "ranks": all_gather({"random_numbers": rng_states(), "sums": sums}),
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
