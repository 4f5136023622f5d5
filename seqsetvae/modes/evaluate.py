"""Evaluate: AUROC and AUPRC of a fine-tuned checkpoint on one split."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from model_optimized import SeqSetVAEFineTuner
from seqsetvae.architectures.seqsetvae.backbone import Backbone, BackboneSizes
from seqsetvae.batch import Batch
from seqsetvae.checkpoint import FINGERPRINTS, TrainedOn, read_file
from seqsetvae.cohort import is_compiled, open_cohort
from seqsetvae.cohort.transform import VALUE_TRANSFORM, read_transform
from seqsetvae.errors import InputError
from seqsetvae.head import HeadSettings
from seqsetvae.loading import require_both_classes
from seqsetvae.losses import LossSettings
from seqsetvae.metrics import ranking_metrics, ranking_score, require_finite
from seqsetvae.modes.common import (
    check_data,
    check_embeddings,
    check_width,
    data_module,
    embedding_table,
    open_data,
)
from seqsetvae.optimizer import OptimizerSettings
from seqsetvae.settings import Settings
from seqsetvae.training.precision import Precision, prepare_device
from seqsetvae.training.run_folder import CONFIG, RunFolder, find_checkpoint

FINETUNED = {
    "sizes",
    "head",
    "loss",
    "optimizer",
    "label_name",
    "max_sets",
    FINGERPRINTS,
}  # what a checkpoint must state


@dataclass(frozen=True)
class Evaluation:
    """Ranking quality on one split."""

    auc: float
    auprc: float
    stays: int
    positives: int


def run(settings: Settings) -> Evaluation:
    """Evaluate --ckpt on --split, on the data of its run unless --data_dir is given."""
    assert settings.ckpt is not None, "settings are checked before a mode runs"
    assert settings.split is not None, "settings are checked before a mode runs"
    split_name = settings.split
    device = prepare_device(settings)
    path, folder = find_checkpoint(settings.ckpt)
    content = read_finetuned(path)
    saved = content["hyper_parameters"]
    if settings.max_sets not in (None, saved["max_sets"]):
        raise InputError(
            f"max_sets: received {settings.max_sets}; {path} was trained with max_sets {saved['max_sets']} and is "
            "evaluated with the same value. Leave out --max_sets, or set max_sets = None in the config file."
        )
    settings = replace(
        settings,
        label_name=settings.label_name or saved["label_name"],
        max_sets=saved["max_sets"],
        data_dir=settings.data_dir or _data_of(folder, path),
    )
    if settings.label_name != saved["label_name"]:
        raise InputError(
            f"label_name: received {settings.label_name!r}; {path} was trained to predict {saved['label_name']!r}, and "
            "can only be evaluated on that label. Leave out --label_name, or set label_name = None in the config file."
        )
    _require_label(settings.data_dir, saved["label_name"], path)
    width = check_data(settings, split_name)
    check_width(width, saved["sizes"]["input_dim"], path, settings.data_dir)
    cohort = open_data(settings)
    require_both_classes(cohort, split_name)
    check_embeddings(cohort, saved["sizes"]["input_dim"], saved[FINGERPRINTS], path)
    try:
        module = rebuild(content, embedding_table(cohort, settings)).to(device)
    except (TypeError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: its weights and its hyper_parameters do not fit together ({error})") from error
    if settings.compile_model:
        module.backbone.compile_dense_parts()
    transform = read_transform(saved.get(VALUE_TRANSFORM), path).with_unknown(cohort.vocabulary, saved[FINGERPRINTS])
    loader = data_module(settings, cohort, device, transform).loader(split_name)
    result = evaluate(module, loader, split_name, Precision.of(settings, device).context())
    print(
        f"{path}\n  split {split_name}: {result.stays:,} stays, {result.positives:,} positive "
        f"({result.positives / result.stays:.1%})\n  AUROC {result.auc:.4f}\n  AUPRC {result.auprc:.4f}"
    )
    return result


def _data_of(folder: RunFolder | None, path: Path) -> Path:
    if folder is None:
        raise InputError(f"{path}: is not in a run folder, which would record the data; pass --data_dir")
    cohort = folder.read_json(CONFIG).get("cohort")
    recorded = cohort.get("path") if isinstance(cohort, dict) else None
    if not isinstance(recorded, str):
        raise InputError(f"{folder.path / CONFIG}: does not record the data of the run; pass --data_dir")
    data_dir = Path(recorded)
    if not data_dir.exists():
        raise InputError(f"{path}: the data of its run, {data_dir}, no longer exist; pass --data_dir")
    return data_dir


def _require_label(data_dir: Path | None, label_name: str, path: Path) -> None:
    """Raises InputError if the data are a compiled cohort with another label than the checkpoint's."""
    if data_dir is not None and is_compiled(data_dir):
        found = open_cohort(data_dir, verify=False).label_name
        if found != label_name:
            raise InputError(
                f"{path}: was trained to predict {label_name!r}; the labels of {data_dir} are {found!r}. Pass data "
                f"with the label {label_name!r}."
            )


def read_finetuned(path: Path) -> dict[str, Any]:
    """A checkpoint of a fine-tuning run.

    Raises:
        InputError: unreadable, or a checkpoint of something else.
    """
    content = read_file(path)
    saved = content.get("hyper_parameters")
    if not isinstance(saved, dict) or not saved.keys() >= FINETUNED or "state_dict" not in content:
        raise InputError(
            f"{path}: not a checkpoint of a fine-tuning run; --mode evaluate needs one (a pretrained checkpoint must "
            "first be fine-tuned, with --mode finetune)"
        )
    return content


def rebuild(content: dict[str, Any], embeddings: torch.Tensor) -> SeqSetVAEFineTuner:
    """The module of a fine-tuned checkpoint with its weights, in evaluation mode.

    `embeddings` [V, I] are those of the cohort to evaluate on; the module gets their precision.
    """
    saved = content["hyper_parameters"]
    module = SeqSetVAEFineTuner(
        Backbone(BackboneSizes(**saved["sizes"])),
        HeadSettings(**saved["head"]),
        LossSettings(**saved["loss"]),
        OptimizerSettings(**saved["optimizer"]),
        embeddings,
        TrainedOn(fingerprints=saved[FINGERPRINTS], label_name=saved["label_name"], max_sets=saved["max_sets"]),
    )
    module.to(embeddings.dtype).load_state_dict(content["state_dict"])
    return module.eval()


@torch.inference_mode()
def evaluate(
    module: SeqSetVAEFineTuner, batches: Iterable[Batch], split: str, precision: AbstractContextManager[Any]
) -> Evaluation:
    """Score every stay of these batches once.

    Raises:
        FloatingPointError: a score is not finite; it would be ranked above all others.
    """
    metrics = ranking_metrics().to(module.device)
    stays = positives = 0
    for cpu_batch in batches:
        batch = cpu_batch.to(module.device)
        with precision:
            score = ranking_score(module(batch))
        require_finite(score, cpu_batch.stay_id, split)
        metrics.update(score, batch.label)
        stays += batch.n_stays
        positives += int(cpu_batch.label.sum())
    value = metrics.compute()
    return Evaluation(float(value["auc"]), float(value["auprc"]), stays, positives)
