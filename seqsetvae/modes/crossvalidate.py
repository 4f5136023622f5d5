"""Cross-validate: fine-tune on all folds but one, predict that one, and compare with baselines on the same folds."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqsetvae.errors import InputError, Terminated
from seqsetvae.evaluation.crossvalidation import Columns, lines, read_columns, results, write_columns
from seqsetvae.files import write_text
from seqsetvae.modes import finetune, pretrain
from seqsetvae.objectives.settings import ObjectiveSettings
from seqsetvae.settings.declare import argument, as_plain, changed
from seqsetvae.settings.groups import BaselineSettings, OutputSettings, PretrainingRate, ScheduleSettings
from seqsetvae.settings.kinds import integer, number
from seqsetvae.settings.tuning import resolved

if TYPE_CHECKING:  # they import torch, and --help must not wait for it
    from seqsetvae.checkpoint import LoadReport
    from seqsetvae.cohort import Cohort
    from seqsetvae.cohort.transform import ValueTransform
    from seqsetvae.evaluation.predictions import Predictions
    from seqsetvae.loading import CohortDataModule

HELP = "fine-tune and predict fold by fold, beside boosted trees and logistic regression"
NEEDS = ("data_dir",)
CONFIG, RESULT = "crossvalidation_settings.json", "crossvalidation.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What cross-validation reads: all of fine-tuning, and the folds."""

    folds: int = argument(integer(2), "crossvalidate: number of folds, stratified by label (default: 5)", default=5)
    repeats: int = argument(
        integer(1), "crossvalidate: number of partitions into folds, each with seeds of its own (default: 1)", default=1
    )
    partition_seed: int = argument(
        integer(0), "crossvalidate: seed of the first partition into folds (default: 0)", default=0
    )
    train_fraction: float = argument(
        number(0, 1, above=True),
        "crossvalidate: share of the training stays of each fold that is used, the models' labels (default: 1)",
        default=1.0,
    )
    pretrain_epochs: int = argument(
        integer(0),
        "crossvalidate: epochs of pretraining before fine-tuning, on all training stays of a fold whatever "
        "train_fraction (default: 0, none)",
        default=0,
    )
    objective: ObjectiveSettings
    rate: PretrainingRate
    baselines: BaselineSettings
    output: OutputSettings
    finetuning: finetune.Settings


def problems(settings: Settings) -> list[str]:
    """The rules of fine-tuning on one binary label, and of pretraining where there is any."""
    finetuning = settings.finetuning
    task = finetuning.task.task
    if not finetuning.task.is_binary:
        return [f"task: received {task!r}; allowed: binary with --mode crossvalidate, whose folds go by one label"]
    if not settings.pretrain_epochs:
        return finetune.problems(finetuning)
    if finetuning.from_random_weights or finetuning.pretrained.pretrained_ckpt is not None:
        return [
            f"pretrain_epochs: received {settings.pretrain_epochs} together with from_random_weights or "
            "pretrained_ckpt; leave these out, because each fold is then fine-tuned from a checkpoint of its own"
        ]
    of_fold = _pretraining(settings, finetuning)
    return pretrain.problems(of_fold) + finetune.problems(changed(finetuning, pretrained_ckpt=Path()))


def run(settings: Settings) -> dict[str, Any]:
    """Fine-tune and predict every fold; returns the table of results, which is also printed and written."""
    from seqsetvae.cohort.folds import folds
    from seqsetvae.cohort.open import check_data, open_data
    from seqsetvae.loading import require_both_classes
    from seqsetvae.trees import lightgbm

    if settings.baselines.baselines == "all":
        lightgbm()
    check_data(settings.finetuning.data, "train")
    cohort = open_data(settings.finetuning.data, settings.finetuning.run.output_root_dir)
    require_both_classes(cohort, "train")
    folder = _folder(settings)
    columns: list[Columns] = []
    for repeat in range(settings.repeats):
        seed = settings.partition_seed + repeat
        labelled = folds(cohort, settings.folds, seed, settings.train_fraction)
        for number_of_fold, (fold, whole) in enumerate(zip(labelled, folds(cohort, settings.folds, seed), strict=True)):
            file = folder / f"partition{seed}-fold{number_of_fold}.csv"
            print(f"\nPartition {seed}, fold {number_of_fold + 1} of {settings.folds}: {file}", flush=True)
            try:
                if not file.exists():
                    write_columns(file, _of_fold(settings, folder, fold, whole, repeat))
            except (KeyboardInterrupt, Terminated) as stop:
                again = f"the same command with --output {shlex.quote(str(folder))}"
                raise type(stop)(f"stopped in fold {number_of_fold + 1}; to go on: {again}") from None
            columns.append(read_columns(file))
    result = results(columns) | {"cautions": cautions(settings)}
    write_text(folder / RESULT, json.dumps(result, indent=2) + "\n")
    print("\n" + "\n".join(lines(result)) + f"\n{folder / RESULT}")
    return result


def cautions(settings: Settings) -> list[str]:
    """What a reader must know about the figures."""
    schedule = settings.finetuning.schedule
    found = []
    if schedule.keep == "best" or schedule.lr_schedule == "plateau":
        found.append(
            "The held-out fold chose the epoch or the learning rates, so the figures of the fine-tuned model are too "
            "good. --keep last --lr_schedule cosine leaves it out of all choices."
        )
    if settings.finetuning.pretrained.pretrained_ckpt is not None:
        found.append(
            "If the checkpoint was trained on stays of a held-out fold, above all with their labels, the figures are "
            "too good."
        )
    if settings.baselines.baselines == "all":
        found.append("The baselines were stopped or chosen on the held-out fold, in their favour.")
    return found


def _folder(settings: Settings) -> Path:
    """The folder of the results. Raises InputError if it holds results of other settings."""
    from seqsetvae.training.run_folder import RunFolder

    folder = settings.output.output
    if folder is None:
        folder = RunFolder.create(settings.finetuning.run.output_root_dir, "crossvalidate").path
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: value for name, value in as_plain(settings).items() if name not in ("output", "repeats")}
    file, text = folder / CONFIG, json.dumps(plain, indent=2) + "\n"
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise InputError(f"output: {folder} holds folds of other settings ({file}). Pass another --output.")
    write_text(file, text)
    return folder


def _pretraining(settings: Settings, finetuning: finetune.Settings) -> pretrain.Settings:
    """The settings of pretraining within a fold."""
    schedule = finetuning.schedule
    return pretrain.Settings(
        pretrained=finetuning.pretrained,
        data=finetuning.data,
        values=finetuning.values,
        loader=finetuning.loader,
        architecture=finetuning.architecture,
        objective=settings.objective,
        rate=settings.rate,
        optimizer=finetuning.optimizer,
        schedule=ScheduleSettings(
            max_epochs=settings.pretrain_epochs,
            warmup_steps=schedule.warmup_steps,
            min_lr=schedule.min_lr,
            es_patience=schedule.es_patience,
        ),
        run=finetuning.run,
    )


def _pretrained(settings: Settings, finetuning: finetune.Settings, whole: Cohort) -> finetune.Settings:
    """The same settings of fine-tuning, from a checkpoint that was pretrained on a fold's training stays alone."""
    import pytorch_lightning as pl

    from seqsetvae.cohort.folds import gather
    from seqsetvae.trained_on import new_transform
    from seqsetvae.training.resume import earlier_run

    if not settings.pretrain_epochs:
        return finetuning
    train = whole.split("train")
    tenth = gather("valid", [(train, np.arange(0, train.n_stays, 10))])  # held-out stays are never seen
    cohort = replace(whole, splits={"train": train, "valid": tenth})
    of_fold = _pretraining(settings, finetuning)
    pl.seed_everything(finetuning.run.seed, verbose=False)
    transform = new_transform(finetuning.architecture, finetuning.values, cohort)
    run, is_done = earlier_run("pretrain", of_fold, cohort.content_hash)
    if run is None or not is_done:
        run = Path(pretrain.train(of_fold, cohort, pretrain.new_model(of_fold, cohort), transform, None, run).run)
    return changed(finetuning, pretrained_ckpt=run)


def _of_fold(settings: Settings, folder: Path, fold: Cohort, whole: Cohort, repeat: int) -> Columns:
    """Fine-tune on the training stays of a fold, and predict its held-out stays; with baselines if asked for.

    `whole` is the fold with all of its training stays, whose labels are not read.
    """
    from seqsetvae.baselines import baseline_log_odds
    from seqsetvae.trained_on import new_transform

    of_run = changed(settings.finetuning, output_root_dir=folder / "runs", seed=settings.finetuning.run.seed + repeat)
    of_run = _pretrained(settings, of_run, whole)
    predictions = train_and_predict(of_run, fold)
    ids, label = predictions.pop("stay_id"), predictions.pop("label")
    columns = {"stay_id": ids, "label": label} | predictions
    if settings.baselines.baselines == "all":
        baseline_ids, log_odds = baseline_log_odds(
            loaders(of_run, fold, new_transform(of_run.architecture, of_run.values, fold)), "valid"
        )
        order = np.argsort(np.argsort(ids))  # baselines come by ascending stay id
        assert (baseline_ids[order] == ids).all()
        columns |= {name: values[order] for name, values in log_odds.items()}
    return columns


def train_and_predict(settings: finetune.Settings, cohort: Cohort) -> dict[str, np.ndarray]:
    """Fine-tune on an open cohort, and predict its labelled validation stays: stay_id, label, and log-odds by model.

    The models are the fine-tuned one and, where trees were averaged with the network, each of the two alone.
    """
    import pytorch_lightning as pl

    from seqsetvae.evaluation.load import load_finetuned
    from seqsetvae.evaluation.predictions import predict
    from seqsetvae.training.precision import Precision, prepare_device
    from seqsetvae.training.resume import earlier_run
    from seqsetvae.training.run_folder import find_checkpoint
    from seqsetvae.trees import trees_alone
    from seqsetvae.variables import host_work, variable_table

    device = prepare_device(settings.run)
    pl.seed_everything(settings.run.seed, verbose=False)
    run, is_done = earlier_run("finetune", resolved(settings), cohort.content_hash)
    if run is None or not is_done:
        run = Path(finetune.train(settings, cohort, *backbone_for(settings, cohort), resume=run).run)
    finetuned = load_finetuned(find_checkpoint(run)[0])
    model = finetuned.model.to(device)
    variables = variable_table(model.backbone, cohort, settings.run)
    data = loaders(settings, cohort, finetuned.trained_on.transform).with_prepare(host_work(model.backbone, variables))

    def predictions() -> Predictions:
        precision = Precision.of(settings.run, device).context()
        return predict(model, variables.to(device), data.loader("valid"), "valid", precision)

    found = predictions()
    columns = {"stay_id": found.stay_id, "label": found.label, settings.architecture.architecture: found.logit}
    if model.trees is not None:
        model.trees = None
        network = predictions().logit
        columns |= {"network alone": network, "trees alone": trees_alone(found.logit, network)}
    return {name: column.cpu().numpy() for name, column in columns.items()}


def loaders(settings: finetune.Settings, cohort: Cohort, transform: ValueTransform) -> CohortDataModule:
    """Loaders of an open cohort."""
    from seqsetvae.loading import data_module
    from seqsetvae.training.precision import prepare_device

    device = prepare_device(settings.run)
    return data_module(cohort, transform, settings.data, settings.loader, settings.run, device)


def backbone_for(settings: finetune.Settings, cohort: Cohort) -> tuple[Any, ValueTransform, LoadReport | None]:
    """A new backbone for an open cohort, or that of --pretrained_ckpt, loaded again."""
    from seqsetvae.trained_on import check_embeddings, new_transform, value_transform
    from seqsetvae.training.pretrained import load_pretrained

    if settings.from_random_weights:
        return finetune.untrained(settings, cohort), new_transform(settings.architecture, settings.values, cohort), None
    width = cohort.embeddings.shape[1]
    backbone, checkpoint, report = load_pretrained(
        settings.pretrained, settings.architecture, settings.data, width, settings.values
    )
    check_embeddings(cohort, backbone.sizes.input_dim, checkpoint.fingerprints, checkpoint.path)
    return backbone, value_transform(checkpoint, cohort), report
