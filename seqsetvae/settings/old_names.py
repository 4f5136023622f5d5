"""Names of settings in the old scripts, and of Lightning's Trainer, with what stands for each here (docs/moving.md).

They are no aliases: most of them count, watch or weigh something else than the setting that took their place.
Settings of earlier versions of this program that are gone are among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from seqsetvae.system.errors import InputError


class Now(NamedTuple):
    """What stands for an old name: the setting, if there is one, and a sentence."""

    setting: str | None
    text: str


LAST = "the last version with it is 0.1.0 (commit 50c98c9)"
WITHOUT_EFFECT = {"distillation": 0.0, "summary_encoding": "normal_scores"}  # gone settings, as this version behaves

_PATIENCE = Now("es_patience", "now es_patience, in validations without a better val_auc")
_MONITOR = Now(None, "fixed: scheduler, early stopping and best.ckpt follow val_auc (mode max)")
_TORCH_COMPILE = Now("compile_model", "now compile_model")
_FOCAL = Now("loss", "now loss = 'focal' (the default is cross_entropy), with focal_gamma and focal_alpha")
_HEAD = Now(None, "gone: the head is Linear, ReLU, Dropout, Linear on a pooled history (head_pooling, head_hidden)")
_RUNS = Now("output_root_dir", "now output_root_dir, in which each run makes a folder for its checkpoints and logs")
_VALIDATIONS = Now(None, "gone: one validation at the end of each epoch, over the whole validation split")
_SCHEDULER = Now(
    "lr_schedule", "now lr_schedule (plateau or cosine), lr_factor, lr_patience and min_lr; all on val_auc"
)
_FREEZE = Now("unfreeze_after", "now unfreeze_after (epochs with a frozen backbone; None: always) or tuning = 'probe'")
_ONE_EPOCH = Now(None, "gone: an epoch is the whole training split; --train_fraction of crossvalidate uses a part")
_CHECKPOINTS = Now("keep", "gone: best.ckpt and last.ckpt are kept; keep says which epoch best.ckpt holds")
_LOADING = Now("num_workers", "gone: data loading has num_workers and max_events_per_batch")
_CKPT = Now("pretrained_ckpt", "now --pretrained_ckpt to train, --ckpt to evaluate or predict, --resume RUN")
_DROPOUT = Now("head_dropout", "now head_dropout (the head) and transformer_dropout (of a new backbone)")
_CLASS_WEIGHT = Now("class_weight", "now class_weight: none, balanced or the weight of positives")
_STOPPING = Now("es_patience", "always on; es_patience is its patience, in validations without a better val_auc")
_EPOCHS = Now("max_epochs", "now max_epochs, both stages together")
_KL = Now("max_beta", "gone from fine-tuning, which computes no KL; max_beta in pretraining")

OLD_NAMES: dict[str, Now] = {
    "distillation": Now("tree_models", f"gone: it gained nothing beside tree_models; {LAST}"),
    "summary_encoding": Now(None, f"gone: normal_scores is the only one; {LAST}"),
    "early_stopping_patience": _PATIENCE,
    "patience": _PATIENCE,
    "early_stopping_monitor": _MONITOR,
    "early_stopping_mode": _MONITOR,
    "early_stopping_min_delta": Now(None, "gone: any better val_auc counts"),
    "early_stopping": _STOPPING,
    "use_early_stopping": _STOPPING,
    "monitor": _MONITOR,
    "monitor_metric": _MONITOR,
    "monitor_mode": _MONITOR,
    "checkpoint_monitor": _MONITOR,
    "scheduler": _SCHEDULER,
    "scheduler_type": _SCHEDULER,
    "lr_scheduler": _SCHEDULER,
    "use_scheduler": _SCHEDULER,
    "scheduler_patience": Now("lr_patience", "now lr_patience, in validations without a higher val_auc"),
    "scheduler_factor": Now("lr_factor", "now lr_factor"),
    "scheduler_min_lr": Now("min_lr", "now min_lr, the lower limit of all learning rates"),
    "scheduler_monitor": _MONITOR,
    "scheduler_mode": _MONITOR,
    "use_focal_loss": _FOCAL,
    "focal_loss": _FOCAL,
    "class_weights": _CLASS_WEIGHT,
    "pos_weight": _CLASS_WEIGHT,
    "dropout_rate": _DROPOUT,
    "dropout": _DROPOUT,
    "learning_rate": Now("lr", "now lr (the backbone) and cls_head_lr (the head)"),
    "head_lr": Now("cls_head_lr", "now cls_head_lr"),
    "backbone_lr": Now("lr", "now lr"),
    "freeze_ratio": _FREEZE,
    "freeze_backbone": _FREEZE,
    "freeze_epochs": _FREEZE,
    "enable_torch_compile": _TORCH_COMPILE,
    "use_torch_compile": _TORCH_COMPILE,
    "torch_compile": _TORCH_COMPILE,
    "compile": _TORCH_COMPILE,
    "epochs": _EPOCHS,
    "num_epochs": _EPOCHS,
    "accumulate_grad_batches": Now("gradient_accumulation_steps", "now gradient_accumulation_steps"),
    "gradient_clip": Now("gradient_clip_val", "now gradient_clip_val"),
    "val_check_interval": _VALIDATIONS,
    "check_val_every_n_epoch": _VALIDATIONS,
    "limit_val_batches": _VALIDATIONS,
    "num_sanity_val_steps": _VALIDATIONS,
    "limit_train_batches": _ONE_EPOCH,
    "log_every_n_steps": Now(None, "gone: metrics.csv and TensorBoard have one row for each validation"),
    "save_top_k": _CHECKPOINTS,
    "save_last": _CHECKPOINTS,
    "output_dir": _RUNS,
    "log_dir": _RUNS,
    "checkpoint_dir": _RUNS,
    "default_root_dir": _RUNS,
    "stats_path": Now("params_map_path", "now params_map_path"),
    "checkpoint": _CKPT,
    "checkpoint_path": _CKPT,
    "ckpt_path": _CKPT,
    "resume_from_checkpoint": Now("resume", "now --resume RUN, the folder of the run"),
    "gpus": Now("devices", "now devices"),
    "use_amp": Now("precision", "now precision: 32-true, bf16-mixed or 16-mixed"),
    "beta": _KL,
    "kl_weight": _KL,
    "recon_weight": Now(None, "gone: fine-tuning computes no reconstruction"),
    "use_feature_fusion": _HEAD,
    "vae_fusion_method": _HEAD,
    "cls_head_layers": _HEAD,
    "num_classes": Now(None, "gone: it follows from task (binary, multilabel, multiclass or regression)"),
    "pin_memory": _LOADING,
    "prefetch_factor": _LOADING,
    "persistent_workers": _LOADING,
}
_FAMILIES = {"early_stopping_": _PATIENCE, "scheduler_": _SCHEDULER, "focal_": _FOCAL, "monitor_": _MONITOR}


def old_name(name: str) -> Now | None:
    """What stands for a name of the old scripts; None: it is not known as one."""
    replacement = OLD_NAMES.get(name)
    return replacement or next((now for start, now in _FAMILIES.items() if name.startswith(start)), None)


def current(recorded: Mapping[str, Any], file: str | Path) -> dict[str, Any]:
    """Settings that a file records, without those that are gone.

    Raises:
        InputError: one of these had a value that this version cannot have.
    """
    for name, value in WITHOUT_EFFECT.items():
        if recorded.get(name, value) != value:
            raise InputError(
                f"{file}: records {name} = {recorded[name]!r}, which is {OLD_NAMES[name].text}. Use that one."
            )
    return {name: value for name, value in recorded.items() if name not in WITHOUT_EFFECT}
