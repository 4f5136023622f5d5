"""The jobs of cross-validation in one fold: pretraining, trainings, baselines, and their predictions as one table.

A job's predictions are one file, written when it is done, and beside it a record of what it is. After a kill the same
call runs only the jobs that lack theirs; an unfinished training resumes from its last checkpoint. A file of an earlier
call is used only if its record says that it is what was written there, for the same job: editors, copies between
folders and interrupted downloads change such files without a trace.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from seqsetvae.batches.loading import data_module
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.cli.crossvalidate import Settings, combinations, is_sweep, pretraining
from seqsetvae.cli.finetune import Settings as Finetuning
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.folds import folds, gather
from seqsetvae.evaluation.baselines import baseline_outputs
from seqsetvae.evaluation.calibration import read_calibration
from seqsetvae.evaluation.crossvalidation import (
    PART,
    SUBJECT,
    Columns,
    as_columns,
    as_csv,
    is_output,
    model_of,
    read_columns,
)
from seqsetvae.runs import finetune, pretrain
from seqsetvae.runs.opening import Opened, new_transform, open_on
from seqsetvae.runs.scoring import Scorer
from seqsetvae.settings.declare import changed, declared
from seqsetvae.settings.old_names import current
from seqsetvae.settings.tuning import resolved
from seqsetvae.system.console import warn
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import file_sha256, require_no_pipe, write_text
from seqsetvae.system.resources import release
from seqsetvae.system.schema import read_checked
from seqsetvae.tasks.targets import spec_of, truth
from seqsetvae.training.precision import prepare_device, weight_type
from seqsetvae.training.resume import earlier_run
from seqsetvae.training.run_folder import SUMMARY, RunFolder, find_checkpoint

INNER_FOLDS = 3  # of the training stays, on which baselines are stopped or chosen
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
        predictions = kept("", training_and_baselines)
    else:
        predictions = {}
        for name, finetuning in combinations(settings).items():
            file = name.replace(", ", "-")
            seeds = range(first, first + settings.seeds)
            runs = [kept(f"-{file}-seed{seed}", partial(training, finetuning, seed)) for seed in seeds]
            predictions |= _by_seed(runs, name, finetuning.architecture.architecture)
        if has_baselines:
            predictions |= kept("-baselines", lambda: (_baselines(settings, fold), {}))
    return predictions | {SUBJECT: fold.labelled.split("valid").subjects_of(predictions["stay_id"])}


def _kept(fold: Fold, group: type, name: str, compute: Callable[[], Done]) -> Columns:
    """What the file of a job holds; it is computed first unless an earlier call has finished it."""
    job = Job(fold.folder / f"{fold.place}{name}.csv", fold.settings, group, fold.labelled.content_hash)
    columns = job.finished()
    if columns is None:
        columns, about = compute()
        held_out = np.sort(fold.labelled.split("valid").stay_id)
        assert np.array_equal(np.sort(columns["stay_id"]), held_out), "each held-out stay has a prediction"
        job.write(columns, about)
        release()
    return columns


def _in_order_of(columns: Columns, others: Columns) -> Columns:
    """Rows of others in the order of the stays in columns."""
    order = others["stay_id"].argsort()[columns["stay_id"].argsort().argsort()]
    ordered = {name: values[order] for name, values in others.items()}
    assert (ordered["stay_id"] == columns["stay_id"]).all(), "both have predictions for every held-out stay"
    return ordered


def _by_seed(runs: list[Columns], combination: str, architecture: str) -> Columns:
    """The trainings of one combination of settings as one table, whose models are named by it: [seeds, n] each."""
    # By ascending stay, like the baselines.
    runs = [_in_order_of({"stay_id": np.sort(run["stay_id"])}, run) for run in runs]
    columns: Columns = {name: values for name, values in runs[0].items() if not is_output(name)}
    for name in (name for name in runs[0] if is_output(name)):
        other = combination + ("" if model_of(name) == architecture else f", {model_of(name)}")
        columns[other + name.removeprefix(model_of(name))] = np.stack([run[name] for run in runs])
    return columns


def _baselines(settings: Settings, fold: Fold) -> Columns:
    """The outputs of each baseline for the held-out stays.

    With one binary label the mean of several, each trained without an inner fold of the training stays, on which it is
    stopped or chosen. Where inner folds may lack a class, which is so for other tasks, the held-out stays stop and
    choose them.
    """
    of_run, cohort = settings.finetuning, fold.labelled
    transform, device = new_transform(of_run.architecture, of_run.values, cohort), prepare_device(of_run.run)
    spec, held_out = spec_of(cohort), cohort.split("valid")
    parts = _inner_folds(cohort, of_run.run.seed) if spec.outputs is None else [cohort]
    of_seeds = []
    for part in parts:
        part = replace(part, splits={**part.splits, "test": held_out})
        loaders = data_module(part, transform, of_run.data, of_run.loader, of_run.run, device)
        ids, outputs = baseline_outputs(spec, loaders, "test")
        assert np.array_equal(np.sort(held_out.stay_id), ids), "every held-out stay has a label"
        of_seeds.append(outputs)
    mean = {name: np.mean([outputs[name] for outputs in of_seeds], axis=0) for name in of_seeds[0]}
    return as_columns(spec, ids, truth(cohort, "valid", spec, ids), mean)


def _inner_folds(cohort: Cohort, seed: int) -> list[Cohort]:
    """Inner folds of a fold's training stays; the fold itself, with a printed note, if these are too few."""
    try:
        return list(folds(replace(cohort, splits={"train": cohort.split("train")}), INNER_FOLDS, seed))
    except InputError:
        warn(
            f"The training stays of this fold are too few for {INNER_FOLDS} inner folds, so its baselines are stopped "
            "or chosen on the held-out stays, and their metrics are optimistic."
        )
        return [cohort]


def _pretrained(settings: Settings, finetuning: Finetuning, whole: Cohort) -> Finetuning:
    """Settings of fine-tuning from a checkpoint that was pretrained on a fold's training stays alone."""
    if not settings.pretrain_epochs:
        return finetuning
    train = whole.split("train")
    tenth = gather("valid", [(train, np.arange(0, train.n_stays, 10))])  # held-out stays are never seen
    cohort = replace(whole, splits={"train": train, "valid": tenth})
    of_fold = pretraining(settings, finetuning)
    pl.seed_everything(finetuning.run.seed, verbose=False)
    run, is_done = earlier_run("pretrain", of_fold, cohort.data_hash)
    if run is None or not is_done:
        run = Path(pretrain.train(of_fold, _opened(of_fold, cohort, pretrain.source_of(of_fold)), run).run)
        release()
    return changed(finetuning, pretrained_ckpt=run)


def train_and_predict(settings: Finetuning, cohort: Cohort) -> tuple[Columns, RunFolder]:
    """Fine-tune on an open cohort, and predict its labelled validation stays: see `as_columns`.

    The models are the fine-tuned one and, where it is an average, each of its members alone.
    """
    settings = finetune.for_stays(settings, cohort)
    pl.seed_everything(settings.run.seed, verbose=False)
    run, is_done = earlier_run("finetune", resolved(settings), cohort.data_hash)
    if is_done and run is not None and not _has_its_checkpoint(run):
        print(f"⚠️  {run}: its best.ckpt is not the one that the run ended with. It is not used; training again.")
        run = None
    if run is None or not is_done:
        run = Path(finetune.train(settings, _opened(settings, cohort, finetune.source_of(settings)), resume=run).run)
    path = find_checkpoint(run)[0]
    opened = _opened(settings, cohort, {"load": lambda _: load_finetuned(path, weight_type(settings.run))})
    opened.ready()
    scorer = Scorer(path=path, folder=RunFolder(run), **vars(opened))
    predictions = scorer.predict("valid")
    outputs = {settings.architecture.architecture: predictions.output}
    outputs |= {f"{name}{PART}": member.output for name, member in scorer.predict_members("valid").items()}
    return as_columns(scorer.spec, predictions.stay_id, predictions.target, outputs), RunFolder(run)


def _opened(settings: Any, cohort: Cohort, source: dict[str, Any]) -> Opened:
    """A model for an open cohort, with the settings of training."""
    return open_on(cohort, settings.data, settings.loader, settings.run, **source)


def _has_its_checkpoint(run: Path) -> bool:
    """Whether the best.ckpt of a finished run is there, and the one that its calibration was fitted for."""
    best = RunFolder(run).best
    try:
        return best.is_file() and read_calibration(best)[0] is not None
    except InputError:  # a damaged calibration.json
        return False


# ------------------------------------------------------------------ the file of a job


RECORD = "predictions"  # its entry in the .json beside the predictions
SCHEMA = {RECORD: {**dict.fromkeys(("file", "sha256", "fold"), str), "settings": {}}}


def changed_settings(recorded: Mapping[str, Any], now: Mapping[str, Any], group: type, file: Path) -> dict[str, Any]:
    """The recorded values of the settings of `group` that are others now; one that did not exist was its default."""
    known = {name: item.default for name, item in declared(group).items()} | current(recorded, file)
    return {name: known[name] for name, value in now.items() if name in known and known[name] != value}


@dataclass(frozen=True)
class Job:
    """The file of a job's predictions, and what these depend on."""

    file: Path
    settings: Mapping[str, Any]  # of the call, as JSON brings them back
    group: type  # that declares them
    fold: str  # content hash of the fold: its data, training stays and held-out stays

    def finished(self) -> Columns | None:
        """The predictions of an earlier call; None, and why in a line, where there are none that can be used."""
        require_no_pipe(self.file)
        if self.file.is_dir():
            raise InputError(f"{self.file}: a folder in the place of the predictions of a fold. Remove it.")
        if not self.file.exists():
            print(f"Computing {self.file}", flush=True)
            return None
        wrong = self._wrong()
        if wrong is None:
            print(f"Found {self.file}", flush=True)
            return read_columns(self.file)
        print(f"⚠️  {self.file}: {wrong}. It is not used; computing its predictions again.", flush=True)
        return None

    def _wrong(self) -> str | None:
        """Why the file cannot be used."""
        try:
            record, checksum = read_checked(self.file.with_suffix(".json"), SCHEMA)[RECORD], file_sha256(self.file)
        except (InputError, OSError):
            return "no record says what it holds, as for files of earlier versions and copies"
        if record["sha256"] != checksum:
            return "its content is not what was written there (checksum)"
        if record["file"] != self.file.name or record["fold"] != self.fold:
            return "it is of another fold, training or data"
        differ = changed_settings(record["settings"], self.settings, self.group, self.file)
        return f"it is of other settings ({', '.join(differ)})" if differ else None

    def write(self, columns: Columns, about: Mapping[str, Any]) -> None:
        """Write the predictions and what is known of their training; an older file of other content is kept."""
        from seqsetvae.evaluation.prediction_file import write_result

        content = as_csv(columns)
        record = {"file": self.file.name, "sha256": hashlib.sha256(content).hexdigest(), "fold": self.fold}
        plain = {**about, RECORD: record | {"settings": self.settings}}
        write_text(self.file.with_suffix(".json"), json.dumps(plain, indent=2) + "\n")  # first: see `_wrong`
        older = write_result(self.file, content)
        if older is not None:
            print(f"The file that was there is kept: {older}")
