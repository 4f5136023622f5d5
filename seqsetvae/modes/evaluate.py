"""Evaluate: figures with intervals of fine-tuned checkpoints on one split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqsetvae.errors import InputError
from seqsetvae.privacy import checkpoint_names
from seqsetvae.settings.declare import argument
from seqsetvae.settings.groups import (
    BaselineSettings,
    DataSettings,
    FinetunedSettings,
    LoaderSettings,
    OutputSettings,
    RunSettings,
    SplitSettings,
)
from seqsetvae.settings.kinds import Several, choice, existing_path, exists, number, optional

if TYPE_CHECKING:  # they import torch, and --help must not wait for it
    import numpy as np
    import pyarrow as pa

    from seqsetvae.evaluation.calibration import Calibration
    from seqsetvae.evaluation.predictions import Predictions
    from seqsetvae.evaluation.results import Evaluated, Landmark
    from seqsetvae.modes.scoring import Scorer

HELP = "figures of fine-tuned checkpoints on one split, with 95 % intervals"
NEEDS = ("ckpt", "split")
EVALUATION, PREDICTIONS = "evaluation.json", "predictions"


@dataclass(frozen=True, kw_only=True)
class DetailSettings:
    """What is evaluated besides the whole split."""

    subgroups: Path | None = argument(
        optional(existing_path()),
        "evaluate: .csv or .parquet file with a column stay_id and others (age, sex, unit, ...), whose groups are "
        "evaluated too; a numeric column of more than 10 different values is cut into quartiles",
    )
    landmarks: tuple[float, ...] | None = argument(
        Several(number(0, above=True)),
        "evaluate: hours, such as 6 12 24 48; predictions from only the events of the first hours are evaluated too",
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What evaluation reads."""

    finetuned: FinetunedSettings
    split: SplitSettings
    output: OutputSettings
    details: DetailSettings
    format: str = argument(choice("csv", "parquet"), "evaluate: file type of the predictions", default="csv")
    baselines: BaselineSettings
    data: DataSettings
    loader: LoaderSettings
    run: RunSettings


def problems(settings: Settings) -> list[str]:
    """The output must be a folder, new or existing."""
    output = settings.output.output
    if output is None or not exists(output) or output.is_dir():
        return []
    return [f"output: received {str(output)!r}, which is a file; allowed: an existing or new folder"]


def run(settings: Settings) -> dict[str, Any]:
    """Evaluate the first --ckpt on --split, on the data of its run unless --data_dir is given, and compare the others.

    Returns:
        The content of evaluation.json.
    """
    from seqsetvae.evaluation.report import report_finished_run
    from seqsetvae.evaluation.results import evaluation, table
    from seqsetvae.evaluation.subgroups import read_subgroup_table, subgroups_of
    from seqsetvae.modes.task_scoring import evaluate_task, task_of
    from seqsetvae.processes import leave
    from seqsetvae.tasks.spec import BINARY

    split = settings.split.split
    assert settings.finetuned.ckpt is not None, "settings are checked before a mode runs"
    assert split is not None, "settings are checked before a mode runs"
    if task_of(settings.finetuned.ckpt[0]) != BINARY:
        return evaluate_task(settings)
    columns = None if settings.details.subgroups is None else read_subgroup_table(settings.details.subgroups)
    scorers = [_open(ckpt, settings, split) for ckpt in settings.finetuned.ckpt]
    first = scorers[0]
    require_writable_results(settings, first)
    every = [scorer.predict(split) for scorer in scorers]
    tables = [_labelled(scorer, predictions) for scorer, predictions in zip(scorers, every, strict=True)]
    names = checkpoint_names([scorer.path for scorer in scorers])
    evaluated = [_evaluated(*each) for each in zip(scorers, tables, names, strict=True)]
    _require_same_stays(scorers, tables)
    landmarks = _landmarks(first, tables[0], settings.details.landmarks or ())
    leave()
    baselines, about_baselines = _baselines(settings.baselines.baselines, first, tables[0])
    content = evaluation(
        evaluated[0],
        baselines=baselines,
        compared={each.checkpoint: each.scores() for each in evaluated[1:]},
        subgroups=[] if columns is None else subgroups_of(columns, tables[0].stay_id.cpu().numpy()),
        landmarks=landmarks,
        cautions=[*_left_out(every[0], tables[0]), *_drift(first, split), *about_baselines],
        seed=settings.run.seed,
    )
    print(f"\n{table(content)}")
    for caution in content["cautions"]:
        print(f"⚠️  {caution}")
    _write(settings, first, content, every[0], evaluated[0].calibration)
    if first.folder is not None and settings.output.output is None:
        report_finished_run(first.folder.path)
    return content


def _baselines(which: str, scorer: Scorer, evaluated: Predictions) -> tuple[dict[str, np.ndarray], list[str]]:
    """Log-odds of each baseline for the evaluated stays, and what a reader must know about them."""
    import numpy as np

    from seqsetvae.baselines import BASELINES, baseline_log_odds, without_library
    from seqsetvae.evaluation.statistics import PREVALENCE, prevalence_logit

    if which == "none":
        return {}, []
    constant = {PREVALENCE: prevalence_logit(evaluated.label.cpu().numpy())}
    labels = {name: scorer.cohort.splits[name].label for name in ("train", "valid") if name in scorer.cohort.splits}
    if len(labels) < 2 or any(not {0, 1} <= set(np.unique(label).tolist()) for label in labels.values()):
        note = "No baselines but the prevalence: the data have no labelled train and valid splits to train others on."
        return constant, [note]
    missing = without_library()
    trained = [name for name in BASELINES if name not in missing]
    print(f"Baselines: {' and '.join(trained)} on summaries of each variable (--baselines none omits them)")
    ids, log_odds = baseline_log_odds(scorer.data, evaluated.split, trained)
    rows = np.searchsorted(ids, evaluated.stay_id.cpu().numpy())
    notes = [f"No {name} among the baselines: {reason}" for name, reason in missing.items()]
    if evaluated.split == "valid":
        notes.append("The baselines were stopped or chosen on the validation split: on it their figures are too good.")
    return constant | {name: values[rows] for name, values in log_odds.items()}, notes


def _open(ckpt: Path, settings: Settings, split: str) -> Scorer:
    """A checkpoint with its data, whose split has labels of both classes."""
    from seqsetvae.loading import require_both_classes
    from seqsetvae.modes.scoring import open_scorer

    scorer = open_scorer(ckpt, settings.data, settings.loader, settings.run, [split], labelled=True)
    require_both_classes(scorer.cohort, split)
    return scorer


def _labelled(scorer: Scorer, predictions: Predictions) -> Predictions:
    """The rows that are evaluated, by stay: those with a label and at least one known variable."""
    import torch

    labelled = predictions.labelled()
    labelled = labelled.rows(labelled.stay_id.argsort())
    unknown = torch.tensor(sorted(scorer.without_known_variable(predictions.split)), dtype=torch.int64)
    return labelled.rows(~torch.isin(labelled.stay_id.cpu(), unknown))


def _left_out(predictions: Predictions, evaluated: Predictions) -> list[str]:
    """A caution about stays that are not evaluated."""
    unlabelled, unknown = len(predictions) - len(predictions.labelled()), len(predictions.labelled()) - len(evaluated)
    left_out = [f"{unlabelled:,} have no label"] * bool(unlabelled)
    left_out += [f"{unknown:,} have only variables that the checkpoint's training data did not have"] * bool(unknown)
    return [f"Of {len(predictions):,} stays, {' and '.join(left_out)}; they are left out."] * bool(left_out)


def _drift(scorer: Scorer, split: str) -> list[str]:
    """Cautions about data from elsewhere that differ from the training data."""
    return [] if scorer.is_data_of_run else [*scorer.drift([split]), *scorer.not_compared([split])]


def _evaluated(scorer: Scorer, predictions: Predictions, name: str) -> Evaluated:
    """The predictions with the calibration of their checkpoint."""
    from seqsetvae.evaluation.results import Evaluated

    return Evaluated(
        checkpoint=name,
        split=predictions.split,
        label_name=scorer.cohort.label_name,
        label=predictions.label.cpu().numpy(),
        logit=predictions.logit.cpu().numpy(),
        subject=scorer.cohort.split(predictions.split).subjects_of(predictions.stay_id.cpu().numpy()),
        calibration=calibration_of(scorer, predictions),
        is_selected=scorer.is_selected,
    )


def calibration_of(scorer: Scorer, predictions: Predictions) -> Calibration | None:
    """The calibration of a checkpoint; one of an older run, which has no file, is fitted on its validation split now.

    It is kept in the run folder unless that holds the calibration of another checkpoint.
    """
    from seqsetvae.evaluation.calibration import calibrate, calibration_file, fit_calibration, read_calibration
    from seqsetvae.processes import from_first, this_process

    calibration, line = from_first(lambda: read_calibration(scorer.path))
    if calibration is None and scorer.is_data_of_run and "valid" in scorer.cohort.splits:
        validation = predictions if predictions.split == "valid" else scorer.predict("valid").labelled()
        if len(validation.label.unique()) == 2:
            keep = this_process().is_first and not calibration_file(scorer.path).exists()
            calibration = (calibrate if keep else fit_calibration)(scorer.path, validation)
            line = str(calibration)
    print(line)
    return calibration


def _require_same_stays(scorers: Sequence[Scorer], tables: Sequence[Predictions]) -> None:
    """Raises InputError unless all checkpoints were evaluated on the same stays with the same labels."""
    for scorer, other in zip(scorers[1:], tables[1:], strict=True):
        if other.stay_id.tolist() != tables[0].stay_id.tolist() or other.label.tolist() != tables[0].label.tolist():
            raise InputError(
                f"{scorer.path} and {scorers[0].path} are evaluated on different stays or labels ({len(other):,} and "
                f"{len(tables[0]):,} stays), so they cannot be compared. Pass --data_dir to evaluate them on the same."
            )


def _landmarks(scorer: Scorer, predictions: Predictions, hours: Sequence[float]) -> list[Landmark]:
    """The predictions from the first hours for the evaluated stays."""
    import numpy as np

    from seqsetvae.evaluation.prefixes import until_hour
    from seqsetvae.evaluation.results import Landmark

    stays = scorer.cohort.split(predictions.split)
    evaluated, found = np.isin(stays.stay_id, predictions.stay_id.cpu().numpy()), []
    for hour in sorted(set(hours)):
        early = until_hour(stays, hour)
        early = early.rows(evaluated[early.stay])
        label = stays.label[early.stay].astype(np.int64)
        subject = stays.subjects_of(stays.stay_id[early.stay])
        found.append(Landmark(hour, label, scorer.predict_prefixes(predictions.split, early), subject))
    return found


def _write(
    settings: Settings, scorer: Scorer, content: dict[str, Any], predictions: Predictions, calibration: Any
) -> None:
    """evaluation.json and the predictions of one binary label."""
    from seqsetvae.evaluation.prediction_file import prediction_table

    stays: np.ndarray = scorer.cohort.split(predictions.split).stay_id
    reasons = scorer.without_known_variable(predictions.split)
    write_evaluation(settings, scorer, content, prediction_table(predictions, stays, calibration, reasons))


def require_writable_results(settings: Settings, scorer: Scorer) -> None:
    """Raises InputError if the results are to be in a run folder that this user may not write to."""
    from seqsetvae.files import not_writable

    if settings.output.output is None and scorer.folder is not None and not_writable(scorer.folder.path):
        raise InputError(f"{scorer.folder.path}: you may not write there. Pass --output FOLDER for the results.")


def write_evaluation(settings: Settings, scorer: Scorer, content: dict[str, Any], rows: pa.Table) -> None:
    """evaluation.json and the predictions, in --output or the run folder; older ones get another name."""
    from seqsetvae.cohort.imported import read_samples
    from seqsetvae.evaluation.findings import as_text
    from seqsetvae.evaluation.prediction_file import SUFFIXES, set_aside, table_bytes, with_ids, write_result
    from seqsetvae.files import cannot_write

    run_folder = None if scorer.folder is None else scorer.folder.path
    folder = settings.output.output or run_folder
    if folder is None:
        print(f"Nothing was written: {scorer.path} is not in a run folder; --output names a folder for the results")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    text, suffix, rows = as_text(content), f".{settings.format}", with_ids(rows, read_samples(scorer.cohort))
    for name, data in ((EVALUATION, text.encode()), (PREDICTIONS + suffix, table_bytes(rows, suffix))):
        older = write_result(folder / name, data)
        print(f"Wrote {folder / name}" + (f"; the older one is now {older.name}" if older else ""))
    for other in (folder / f"{PREDICTIONS}{each}" for each in SUFFIXES if each != suffix):
        if older := set_aside(other):  # a report must not find two tables
            print(f"The older {other.name} is now {older.name}")
