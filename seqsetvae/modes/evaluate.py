"""Evaluate: AUROC and AUPRC of a fine-tuned checkpoint on one split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seqsetvae.errors import InputError
from seqsetvae.settings.declare import argument
from seqsetvae.settings.groups import DataSettings, LoaderSettings, RunSettings, SplitSettings
from seqsetvae.settings.kinds import existing_path, optional

if TYPE_CHECKING:  # they import torch, and --help must not wait for it
    from seqsetvae.checkpoint import TrainedOn
    from seqsetvae.evaluation.predictions import Predictions
    from seqsetvae.training.run_folder import RunFolder

HELP = "AUROC and AUPRC of a fine-tuned checkpoint"
NEEDS = ("ckpt", "split")


@dataclass(frozen=True)
class Evaluation:
    """Ranking quality on one split."""

    auc: float
    auprc: float
    stays: int
    positives: int

    @classmethod
    def of(cls, predictions: Predictions) -> Evaluation:
        """The figures of a table of predictions."""
        ranking = predictions.ranking()
        positives = int(predictions.label.sum())
        return cls(float(ranking["auc"]), float(ranking["auprc"]), len(predictions), positives)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What evaluation reads."""

    ckpt: Path | None = argument(
        optional(existing_path()),
        "evaluate: fine-tuned checkpoint; a run folder (its checkpoints/best.ckpt is used) or a .ckpt file",
    )
    split: SplitSettings
    data: DataSettings
    loader: LoaderSettings
    run: RunSettings


def problems(settings: Settings) -> list[str]:
    """Evaluation has no rules of its own."""
    return []


def run(settings: Settings) -> Evaluation:
    """Evaluate --ckpt on --split, on the data of its run unless --data_dir is given."""
    import torch

    from seqsetvae.cohort.open import check_data, open_data
    from seqsetvae.evaluation.load import load_finetuned
    from seqsetvae.evaluation.predictions import predict
    from seqsetvae.loading import data_module, host_work, require_both_classes, variable_table
    from seqsetvae.trained_on import check_embeddings, check_width
    from seqsetvae.training.precision import Precision, prepare_device
    from seqsetvae.training.run_folder import find_checkpoint

    split_name = settings.split.split
    assert settings.ckpt is not None, "settings are checked before a mode runs"
    assert split_name is not None, "settings are checked before a mode runs"
    device = prepare_device(settings.run)
    path, folder = find_checkpoint(settings.ckpt)
    finetuned = load_finetuned(path, torch.float64 if settings.run.precision == "64-true" else torch.float32)
    trained_on = finetuned.trained_on
    data = data_of_run(settings.data, trained_on, folder, path)
    width = check_data(data, split_name)
    check_width(width, finetuned.input_dim, path, data.data_dir)
    cohort = open_data(data, settings.run.output_root_dir)
    require_both_classes(cohort, split_name)
    check_embeddings(cohort, finetuned.input_dim, trained_on.fingerprints, path)
    model = finetuned.model.to(device)
    if settings.run.compile_model:
        model.backbone.compile_dense_parts()
    transform = trained_on.transform.with_unknown(cohort.vocabulary, trained_on.fingerprints)
    variables = variable_table(model.backbone, cohort, settings.run)
    data_with_work = data_module(cohort, transform, data, settings.loader, settings.run, device).with_prepare(
        host_work(model.backbone, variables)
    )
    loader = data_with_work.loader(split_name)
    predictions = predict(model, variables.to(device), loader, split_name, Precision.of(settings.run, device).context())
    result = Evaluation.of(predictions)
    print(
        f"{path}\n  split {split_name}: {result.stays:,} stays, {result.positives:,} positive "
        f"({result.positives / result.stays:.1%})\n  AUROC {result.auc:.4f}\n  AUPRC {result.auprc:.4f}"
    )
    return result


def data_of_run(data: DataSettings, trained_on: TrainedOn, folder: RunFolder | None, path: Path) -> DataSettings:
    """The settings with the label and the number of sets that the checkpoint was trained on, and by default its data.

    Raises:
        InputError: they contradict the checkpoint, or the data of its run are unknown.
    """
    if data.max_sets not in (None, trained_on.max_sets):
        raise InputError(
            f"max_sets: received {data.max_sets}; {path} was trained with max_sets {trained_on.max_sets} and is "
            "evaluated with the same value. Leave out --max_sets, or set max_sets = None in the config file."
        )
    if data.label_name not in (None, trained_on.label_name):
        raise InputError(
            f"label_name: received {data.label_name!r}; {path} was trained to predict {trained_on.label_name!r}, and "
            "can only be evaluated on that label. Leave out --label_name, or set label_name = None in the config file."
        )
    data_dir = data.data_dir or _data_dir(folder, path)
    _require_label(data_dir, trained_on.label_name, path)
    return replace(data, label_name=trained_on.label_name, max_sets=trained_on.max_sets, data_dir=data_dir)


def _data_dir(folder: RunFolder | None, path: Path) -> Path:
    from seqsetvae.training.run_folder import CONFIG

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


def _require_label(data_dir: Path, label_name: str, path: Path) -> None:
    """Raises InputError if the data are a compiled cohort with another label than the checkpoint's."""
    from seqsetvae.cohort import is_compiled, open_cohort

    if is_compiled(data_dir):
        found = open_cohort(data_dir, verify=False).label_name
        if found != label_name:
            raise InputError(
                f"{path}: was trained to predict {label_name!r}; the labels of {data_dir} are {found!r}. Pass data "
                f"with the label {label_name!r}."
            )
