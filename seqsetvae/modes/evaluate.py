"""Evaluate: AUROC and AUPRC of a fine-tuned checkpoint on one split."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from data import require_both_classes
from model_optimized import HeadSettings, LossSettings, OptimizerSettings, SeqSetVAEFineTuner, ranking_score
from seqsetvae.batch import Batch
from seqsetvae.checkpoint import FINGERPRINTS, read_file
from seqsetvae.errors import InputError
from seqsetvae.model.backbone import Backbone, BackboneSizes
from seqsetvae.modes.common import (
    check_embeddings,
    data_module,
    embedding_table,
    inference_context,
    open_data,
    torch_device,
)
from seqsetvae.settings import Settings
from seqsetvae.training.run_folder import CONFIG, RunFolder, find_checkpoint


@dataclass(frozen=True)
class Evaluation:
    """Ranking quality on one split."""

    auc: float
    auprc: float
    stays: int
    positives: int


def run(settings: Settings) -> Evaluation:
    """Evaluate --ckpt on --split; the data are those of the run unless --data_dir says otherwise."""
    assert settings.ckpt is not None, "settings are checked before a mode runs"
    assert settings.split is not None, "settings are checked before a mode runs"
    device = torch_device(settings)
    path, folder = find_checkpoint(settings.ckpt)
    content = read_finetuned(path)
    cohort = open_data(settings, settings.data_dir or _data_of(folder, path))
    require_both_classes(cohort, settings.split)
    saved = content["hyper_parameters"]
    check_embeddings(cohort, saved["sizes"]["input_dim"], saved.get(FINGERPRINTS), path)
    module = rebuild(content, embedding_table(cohort, settings)).to(device)
    if settings.max_sets is None and folder is not None:  # the model was validated on stays that were cut like this
        settings = replace(settings, max_sets=folder.read_json(CONFIG)["settings"]["max_sets"])
    assert settings.split is not None
    loader = data_module(settings, cohort).loader(settings.split)
    result = evaluate(module, loader, inference_context(settings, device))
    print(
        f"{path}\n  split {settings.split}: {result.stays:,} stays, {result.positives:,} positive "
        f"({result.positives / result.stays:.1%})\n  AUROC {result.auc:.4f}\n  AUPRC {result.auprc:.4f}"
    )
    return result


def _data_of(folder: RunFolder | None, path: Path) -> Path:
    if folder is None:
        raise InputError(f"{path}: lies in no run folder that says which data it was trained on; pass --data_dir")
    data_dir = Path(folder.read_json(CONFIG)["cohort"]["path"])
    if not data_dir.exists():
        raise InputError(f"{path}: its data {data_dir} are gone; pass --data_dir")
    return data_dir


def read_finetuned(path: Path) -> dict[str, Any]:
    """A checkpoint of a fine-tuning run.

    Raises:
        InputError: unreadable, or a checkpoint of something else.
    """
    content = read_file(path)
    saved = content.get("hyper_parameters")
    if not isinstance(saved, dict) or not {"sizes", "head", "loss"} <= saved.keys() or "state_dict" not in content:
        raise InputError(f"{path}: not a checkpoint of a fine-tuning run (a pretrained one goes to --mode finetune)")
    return content


def rebuild(content: dict[str, Any], embeddings: torch.Tensor) -> SeqSetVAEFineTuner:
    """The module that a fine-tuned checkpoint holds, every weight in place, in evaluation mode.

    `embeddings` [V, I] are those of the cohort to score; their precision is the module's.
    """
    saved = content["hyper_parameters"]
    module = SeqSetVAEFineTuner(
        Backbone(BackboneSizes(**saved["sizes"])),
        HeadSettings(**saved["head"]),
        LossSettings(**saved["loss"]),
        OptimizerSettings(**saved["optimizer"]),
        embeddings,
        saved[FINGERPRINTS],
    )
    module.to(embeddings.dtype).load_state_dict(content["state_dict"])
    return module.eval()


@torch.inference_mode()
def evaluate(
    module: SeqSetVAEFineTuner, batches: Iterable[Batch], precision: AbstractContextManager[Any]
) -> Evaluation:
    """Score every stay of these batches once."""
    auc, auprc = BinaryAUROC().to(module.device), BinaryAveragePrecision().to(module.device)
    stays = positives = 0
    for cpu_batch in batches:
        batch = cpu_batch.to(module.device)
        with precision:
            score = ranking_score(module(batch))
        auc.update(score, batch.label)
        auprc.update(score, batch.label)
        stays += batch.n_stays
        positives += int(batch.label.sum())
    return Evaluation(float(auc.compute()), float(auprc.compute()), stays, positives)
