"""How a run writes its checkpoints: atomically, and without absolute paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from seqsetvae.system.files import new_file
from seqsetvae.training.run_folder import RunFolder
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
    """In single precision, like the scores that Lightning logs, unless that would round it (a run in 64-true)."""
    single = torch.tensor(score, dtype=torch.float32)
    return single if float(single) == score else torch.tensor(score, dtype=torch.float64)
