"""Evaluate: AUROC and AUPRC of a fine-tuned checkpoint on one split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from seqsetvae.cohort import is_compiled, open_cohort
from seqsetvae.errors import InputError
from seqsetvae.evaluation.load import load_finetuned
from seqsetvae.evaluation.predictions import Predictions, predict
from seqsetvae.loading import require_both_classes
from seqsetvae.modes.common import (
    check_data,
    check_embeddings,
    check_width,
    data_module,
    embedding_table,
    open_data,
)
from seqsetvae.settings import Settings
from seqsetvae.training.precision import Precision, prepare_device
from seqsetvae.training.run_folder import CONFIG, RunFolder, find_checkpoint


@dataclass(frozen=True)
class Evaluation:
    """Ranking quality on one split."""

    auc: float
    auprc: float
    stays: int
    positives: int

    @classmethod
    def of(cls, predictions: Predictions) -> Evaluation:
        ranking = predictions.ranking()
        positives = int(predictions.label.sum())
        return cls(float(ranking["auc"]), float(ranking["auprc"]), len(predictions), positives)


def run(settings: Settings) -> Evaluation:
    """Evaluate --ckpt on --split, on the data of its run unless --data_dir is given."""
    assert settings.ckpt is not None, "settings are checked before a mode runs"
    assert settings.split is not None, "settings are checked before a mode runs"
    split_name = settings.split
    device = prepare_device(settings)
    path, folder = find_checkpoint(settings.ckpt)
    finetuned = load_finetuned(path, torch.float64 if settings.precision == "64-true" else torch.float32)
    trained_on = finetuned.trained_on
    if settings.max_sets not in (None, trained_on.max_sets):
        raise InputError(
            f"max_sets: received {settings.max_sets}; {path} was trained with max_sets {trained_on.max_sets} and is "
            "evaluated with the same value. Leave out --max_sets, or set max_sets = None in the config file."
        )
    settings = replace(
        settings,
        label_name=settings.label_name or trained_on.label_name,
        max_sets=trained_on.max_sets,
        data_dir=settings.data_dir or _data_of(folder, path),
    )
    if settings.label_name != trained_on.label_name:
        raise InputError(
            f"label_name: received {settings.label_name!r}; {path} was trained to predict {trained_on.label_name!r}, "
            "and can only be evaluated on that label. Leave out --label_name, or set label_name = None in the config "
            "file."
        )
    _require_label(settings.data_dir, trained_on.label_name, path)
    width = check_data(settings, split_name)
    check_width(width, finetuned.input_dim, path, settings.data_dir)
    cohort = open_data(settings)
    require_both_classes(cohort, split_name)
    check_embeddings(cohort, finetuned.input_dim, trained_on.fingerprints, path)
    model = finetuned.model.to(device)
    if settings.compile_model:
        model.backbone.compile_dense_parts()
    transform = trained_on.transform.with_unknown(cohort.vocabulary, trained_on.fingerprints)
    loader = data_module(settings, cohort, device, transform).loader(split_name)
    embeddings = embedding_table(cohort, settings).to(device)
    predictions = predict(model, embeddings, loader, split_name, Precision.of(settings, device).context())
    result = Evaluation.of(predictions)
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
