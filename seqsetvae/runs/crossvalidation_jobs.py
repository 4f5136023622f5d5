"""The jobs of cross-validation in one fold: pretraining, trainings, baselines, and their predictions as one table.

A job's predictions are one file, written when it is done, so that after a kill the same call runs only the jobs that
lack theirs (crossvalidation_files). An unfinished training resumes from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from seqsetvae.batches.loading import CohortDataModule, data_module
from seqsetvae.batches.transform import ValueTransform
from seqsetvae.batches.variables import host_work, variable_table
from seqsetvae.checkpoint.backbone import LoadReport
from seqsetvae.checkpoint.data import check_variables, new_transform, value_transform
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.bind import bind
from seqsetvae.cohort.folds import gather
from seqsetvae.evaluation.baselines import baseline_outputs
from seqsetvae.evaluation.calibration import read_calibration
from seqsetvae.evaluation.crossvalidation import NOT_MODELS, SUBJECT, Columns
from seqsetvae.evaluation.predictions import Predictions, predict, predictions_of
from seqsetvae.modes.crossvalidate import Settings, combinations, is_sweep, pretraining
from seqsetvae.modes.finetune import Settings as Finetuning
from seqsetvae.runs import finetune, pretrain
from seqsetvae.runs.crossvalidation_files import Job
from seqsetvae.settings.declare import changed
from seqsetvae.settings.tuning import resolved
from seqsetvae.system.errors import InputError
from seqsetvae.system.memory import release
from seqsetvae.tasks.targets import spec_of
from seqsetvae.training.precision import Precision, prepare_device, weight_type
from seqsetvae.training.pretrained import load_pretrained
from seqsetvae.training.resume import earlier_run
from seqsetvae.training.run_folder import SUMMARY, RunFolder, find_checkpoint

Done = tuple[Columns, dict[str, Any]]  # the predictions of a job, and what its .json says of it


@dataclass(frozen=True, eq=False)
class Fold:
    """A fold, and where its files go."""

    folder: Path
    place: str  # the beginning of the names of its files
    labelled: Cohort  # its train split has the stays whose labels are used, its valid split the held-out stays
    whole: Cohort  # the same with all training stays, whose labels are not read
    repeat: int  # number of its partition, from 0
    settings: Mapping[str, Any]  # of the call, as far as all files of the folder depend on them


def predictions_of_fold(settings: Settings, fold: Fold) -> Columns:
    """The predictions of all models for the held-out stays of a fold, by stay; jobs without a file are done first."""
    first = settings.finetuning.run.seed + fold.repeat * settings.seeds
    has_baselines = settings.baselines.baselines == "all"

    def training(finetuning: Finetuning, seed: int) -> Done:
        of_run = changed(finetuning, output_root_dir=fold.folder / "runs", seed=seed)
        columns, run = train_and_predict(_pretrained(settings, of_run, fold.whole), fold.labelled)
        return columns, run.read_json(SUMMARY) | {"run": run.path.relative_to(fold.folder).as_posix()}

    def training_and_baselines() -> Done:
        columns, about = training(settings.finetuning, first)
        return columns | (_in_order_of(columns, _baselines(settings, fold)) if has_baselines else {}), about

    def kept(name: str, compute: Callable[[], Done]) -> Columns:
        return _kept(fold, type(settings), name, compute)

    if not is_sweep(settings):
        found = kept("", training_and_baselines)
    else:
        found = {}
        for name, finetuning in combinations(settings).items():
            file = name.replace(", ", "-")
            seeds = range(first, first + settings.seeds)
            runs = [kept(f"-{file}-seed{seed}", partial(training, finetuning, seed)) for seed in seeds]
            found |= _by_seed(runs, name, finetuning.architecture.architecture)
        if has_baselines:
            found |= kept("-baselines", lambda: (_baselines(settings, fold), {}))
    return found | {SUBJECT: fold.labelled.split("valid").subjects_of(found["stay_id"])}


def _kept(fold: Fold, group: type, name: str, compute: Callable[[], Done]) -> Columns:
    """What the file of a job holds; it is computed first unless an earlier call has finished it."""
    job = Job(fold.folder / f"{fold.place}{name}.csv", fold.settings, group, fold.labelled.content_hash)
    found = job.finished()
    if found is None:
        found, about = compute()
        held_out = np.sort(fold.labelled.split("valid").stay_id)
        assert np.array_equal(np.sort(found["stay_id"]), held_out), "each held-out stay has a prediction"
        job.write(found, about)
        release()
    return found


def _in_order_of(columns: Columns, others: Columns) -> Columns:
    """Rows of others in the order of the stays in columns."""
    order = others["stay_id"].argsort()[columns["stay_id"].argsort().argsort()]
    found = {name: values[order] for name, values in others.items()}
    assert (found["stay_id"] == columns["stay_id"]).all(), "both have predictions for every held-out stay"
    return found


def _by_stay(columns: Columns) -> Columns:
    """Rows by ascending stay, as those of the baselines are."""
    return _in_order_of({"stay_id": np.sort(columns["stay_id"])}, columns)


def _by_seed(runs: list[Columns], combination: str, architecture: str) -> Columns:
    """The trainings of one combination of settings as one table, whose models are named by it: [seeds, n] each."""
    runs = [_by_stay(run) for run in runs]
    models = [name for name in runs[0] if name not in NOT_MODELS]
    names = {name: combination if name == architecture else f"{combination}, {name}" for name in models}
    found = {other: np.stack([run[name] for run in runs]) for name, other in names.items()}
    return {name: runs[0][name] for name in NOT_MODELS} | found


def _baselines(settings: Settings, fold: Fold) -> Columns:
    """The log-odds of each baseline for the held-out stays."""
    of_run, cohort = settings.finetuning, fold.labelled
    transform = new_transform(of_run.architecture, of_run.values, cohort)
    ids, outputs = baseline_outputs(spec_of(cohort), loaders(of_run, cohort, transform), "valid")
    held_out = cohort.split("valid")
    order = held_out.stay_id.argsort()
    assert (held_out.stay_id[order] == ids).all(), "every held-out stay has a label"
    return {"stay_id": ids, "label": held_out.label[order].astype(np.int64)} | {
        name: output[:, 0] for name, output in outputs.items()
    }


def _pretrained(settings: Settings, finetuning: Finetuning, whole: Cohort) -> Finetuning:
    """The same settings of fine-tuning, from a checkpoint that was pretrained on a fold's training stays alone."""
    if not settings.pretrain_epochs:
        return finetuning
    train = whole.split("train")
    tenth = gather("valid", [(train, np.arange(0, train.n_stays, 10))])  # held-out stays are never seen
    cohort = replace(whole, splits={"train": train, "valid": tenth})
    of_fold = pretraining(settings, finetuning)
    pl.seed_everything(finetuning.run.seed, verbose=False)
    transform = new_transform(finetuning.architecture, finetuning.values, cohort)
    run, is_done = earlier_run("pretrain", of_fold, cohort.data_hash)
    if run is None or not is_done:
        run = Path(pretrain.train(of_fold, cohort, pretrain.new_model(of_fold, cohort), transform, None, run).run)
        release()
    return changed(finetuning, pretrained_ckpt=run)


def train_and_predict(settings: Finetuning, cohort: Cohort) -> tuple[Columns, RunFolder]:
    """Fine-tune on an open cohort, and predict its labelled validation stays: stay_id, label, and log-odds by model.

    The models are the fine-tuned one and, where it is an average, each of its members alone.
    """
    device = prepare_device(settings.run)
    settings = finetune.for_stays(settings, cohort)
    pl.seed_everything(settings.run.seed, verbose=False)
    run, is_done = earlier_run("finetune", resolved(settings), cohort.data_hash)
    if is_done and run is not None and not _has_its_checkpoint(run):
        print(f"⚠️  {run}: its best.ckpt is not the one that the run ended with. It is not used; training again.")
        run = None
    if run is None or not is_done:
        run = Path(finetune.train(settings, *bound_and_backbone(settings, cohort), resume=run).run)
    finetuned = load_finetuned(find_checkpoint(run)[0], weight_type(settings.run))
    model, cohort = finetuned.model.to(device), bind(cohort, own=finetuned.trained_on.variables)
    variables = variable_table(model.backbone, cohort, settings.run)
    data = loaders(settings, cohort, finetuned.trained_on.transform).with_prepare(host_work(model.backbone, variables))

    def predictions() -> Predictions:
        precision = Precision.of(settings.run, device).context()
        found = predict(model.spec, model, variables.to(device), data.loader("valid"), "valid", precision)
        return predictions_of(model.spec, cohort, "valid", *found)

    found = predictions()
    logit, label = found.output[:, 0], found.target[:, 0].astype(np.int64)
    columns: Columns = {"stay_id": found.stay_id, "label": label, settings.architecture.architecture: logit}
    if (members := model.members) is not None:
        for member in members.of:
            model.members = members.alone(member.name)
            columns[f"{member.name} alone"] = predictions().output[:, 0]
    return columns, RunFolder(run)


def _has_its_checkpoint(run: Path) -> bool:
    """Whether the best.ckpt of a finished run is there, and the one that its calibration was fitted for."""
    best = RunFolder(run).best
    try:
        return best.is_file() and read_calibration(best)[0] is not None
    except InputError:  # a damaged calibration.json
        return False


def loaders(settings: Finetuning, cohort: Cohort, transform: ValueTransform) -> CohortDataModule:
    """Loaders of an open cohort."""
    device = prepare_device(settings.run)
    return data_module(cohort, transform, settings.data, settings.loader, settings.run, device)


def bound_and_backbone(settings: Finetuning, cohort: Cohort) -> tuple[Cohort, Any, ValueTransform, LoadReport | None]:
    """An open cohort with a new backbone for it, or with that of --pretrained_ckpt, loaded again, as it reads it."""
    if settings.from_random_weights:
        transform = new_transform(settings.architecture, settings.values, cohort)
        return cohort, finetune.untrained(settings, cohort), transform, None
    backbone, checkpoint, report = load_pretrained(
        settings.pretrained, settings.architecture, settings.data, cohort.variables.width, settings.values
    )
    cohort = bind(cohort, own=checkpoint.variables)
    check_variables(cohort, backbone.sizes.input_dim, checkpoint, checkpoint.path)
    return cohort, backbone, value_transform(checkpoint, cohort), report
