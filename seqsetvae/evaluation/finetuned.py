"""Load a fine-tuned checkpoint, and score the stays of a split."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model_optimized import SeqSetVAEFineTuner
from seqsetvae.architectures import ARCHITECTURES
from seqsetvae.batch import Batch
from seqsetvae.checkpoint import ARCHITECTURE, FINGERPRINTS, FIRST_ARCHITECTURE, TrainedOn, read_file
from seqsetvae.errors import InputError
from seqsetvae.head import HeadSettings
from seqsetvae.losses import LossSettings
from seqsetvae.metrics import ranking_metrics, ranking_score, require_finite
from seqsetvae.optimizer import OptimizerSettings

# What a checkpoint must state.
FINETUNED = {"sizes", "head", "loss", "optimizer", "label_name", "max_sets", FINGERPRINTS}


@dataclass(frozen=True)
class Evaluation:
    """Ranking quality on one split."""

    auc: float
    auprc: float
    stays: int
    positives: int


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
    architecture = ARCHITECTURES[saved.get(ARCHITECTURE, FIRST_ARCHITECTURE)]
    module = SeqSetVAEFineTuner(
        architecture.build(architecture.Sizes(**saved["sizes"])),
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
