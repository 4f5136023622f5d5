"""Evaluate: metrics with intervals of fine-tuned checkpoints on one split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from seqsetvae import report as report_page
from seqsetvae.cli.evaluate import DecisionSettings, Settings
from seqsetvae.cohort.imported import read_samples
from seqsetvae.evaluation.baselines import baseline_outputs, without_library
from seqsetvae.evaluation.calibration import (
    calibrate,
    calibration_file,
    calibration_text,
    fit_calibration,
    read_calibration,
)
from seqsetvae.evaluation.contributions import contributions, extreme_stays
from seqsetvae.evaluation.external import ExternalCohort
from seqsetvae.evaluation.findings import as_text
from seqsetvae.evaluation.groups import read_subgroup_table, subgroups_of
from seqsetvae.evaluation.prediction_file import (
    SUFFIXES,
    prediction_table,
    set_aside,
    table_bytes,
    with_calibration,
    with_ids,
    write_result,
)
from seqsetvae.evaluation.predictions import Predictions, until_hour
from seqsetvae.evaluation.results import evaluation, result_text
from seqsetvae.runs.external import calibrated_on, external_results, open_external, predict_external, require_fitted
from seqsetvae.runs.predict import refuse_for_task
from seqsetvae.runs.scoring import Scorer, open_scorer
from seqsetvae.system.errors import WARNING, Finding, InputError
from seqsetvae.system.files import cannot_write, not_writable
from seqsetvae.system.privacy import checkpoint_names
from seqsetvae.system.processes import broadcast_from_first, finish_distributed, this_process
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import Calibration
from seqsetvae.tasks.targets import truth

EVALUATION, PREDICTIONS = "evaluation.json", "predictions"


def run(settings: Settings) -> dict[str, Any]:
    """Evaluate the first --ckpt on --split, on the data of its run unless --data_dir is given, and compare the others.

    With --external all stays of other cohorts too, or alone.

    Returns:
        The content of evaluation.json.
    """
    split, data, loader = settings.split.split, settings.data, settings.loader
    if settings.external.external:  # whose label it then names
        data = replace(data, label_name=None)
    assert settings.finetuned.ckpt is not None, "settings are checked before a mode runs"
    opened = open_external(settings)
    elsewhere = [predict_external(each, settings.external.by) for each in opened]
    require_fitted(elsewhere, settings)
    if split is None:
        return _external_alone(settings, opened[0].scorer, elsewhere)
    columns = None if settings.details.subgroups is None else read_subgroup_table(settings.details.subgroups)
    scorers = [
        open_scorer(ckpt, data, loader, settings.run, [split], labelled=True) for ckpt in settings.finetuned.ckpt
    ]
    first = scorers[0]
    require_writable_results(settings, first)
    require_decisions(settings.decisions, scorers)
    if settings.explained.explain is not None:  # what cannot be explained is said before any work
        first.explainer(split)
        first.positions(settings.explained.explain, [split])
    every = [scorer.predict(split) for scorer in scorers]
    named = settings.calibration.calibration
    evaluated = [_evaluated(*each, settings.decisions, named) for each in zip(scorers, every, strict=True)]
    _require_same_stays(scorers, evaluated)
    landmarks = _landmarks(first, evaluated[0], settings.details.landmarks or ())
    members = {name: _for_stays(each, evaluated[0]) for name, each in first.predict_members(split).items()}
    finish_distributed()
    names = checkpoint_names([scorer.path for scorer in scorers])
    others, about_baselines = _baselines(settings.baselines.baselines, first, evaluated[0])
    differences = [] if first.is_data_of_run else [*first.drift([split]), *first.not_compared([split])]
    content = evaluation(
        evaluated[0],
        names[0],
        others=others | dict(zip(names[1:], evaluated[1:], strict=True)),
        members=members,
        weights={each.name: each.weight for each in first.model.members.of} if members else {},
        subgroups=[] if columns is None else subgroups_of(columns, evaluated[0].stay_id),
        smallest_group=settings.details.smallest_group,
        landmarks=landmarks,
        cautions=[*_left_out(first, every[0], evaluated[0]), *differences, *about_baselines],
        is_selected=first.is_selected,
        seed=settings.run.seed,
    )
    if settings.explained.explain is not None:
        content["explanation"] = _explanation(settings, first, evaluated[0])
    print(f"\n{result_text(content)}")
    content |= external_results(elsewhere, settings) if elsewhere else {}
    for each in (Finding(**finding) for finding in content["findings"]):
        if each.level == WARNING:
            print(f"⚠️  {each.line()}")
    whole = replace(every[0], calibration=evaluated[0].calibration)
    rows = prediction_table(whole, first.cohort.split(split).stay_id, first.without_known_variable(split))
    rows = rows if named is None else with_calibration(rows, named)
    write_evaluation(settings, first, content, rows)
    if first.folder is not None and settings.output.output is None:
        report_page.report_finished_run(first.folder.path)
    return content


def _external_alone(settings: Settings, scorer: Scorer, elsewhere: Sequence[ExternalCohort]) -> dict[str, Any]:
    """The evaluation of a checkpoint on other cohorts alone, in a folder of its own."""
    finish_distributed()
    (name,) = checkpoint_names([scorer.path])
    content = {"checkpoint": name, "label_name": scorer.spec.title, **external_results(elsewhere, settings)}
    write_evaluation(settings, scorer, content, None)
    assert settings.output.output is not None, "settings are checked before a mode runs"
    report_page.report_finished_run(settings.output.output)
    return content


def _explanation(settings: Settings, scorer: Scorer, evaluated: Predictions) -> dict[str, Any]:
    """Contributions to the scores of the evaluated stays, and of the chosen ones over their course."""
    split, ids = scorer.cohort.split(evaluated.split), settings.explained.explain or ()
    chosen = {f"Stay {place + 1}": at for place, (_, at) in enumerate(scorer.positions(ids, [evaluated.split]))}
    print("Contributions of variables (--explain): they say what the model made of the values, nothing about causes")
    explainer = scorer.explainer(evaluated.split)
    return contributions(explainer, split, evaluated, chosen or extreme_stays(split, evaluated), settings.run.seed)


def _baselines(names: str, scorer: Scorer, evaluated: Predictions) -> tuple[dict[str, Predictions], list[str]]:
    """Predictions of each baseline for the evaluated stays, and what a reader must know about them."""
    spec = evaluated.spec
    task, cohort = TASKS[spec.task], scorer.cohort
    if names == "none":
        return {}, []
    targets = {name: truth(cohort, name, spec) for name in ("train", "valid") if name in cohort.splits}
    can_be_trained = {"train", "valid"} <= targets.keys() and all(
        len(np.unique(column[~np.isnan(column)])) >= (max(len(spec.classes), 2) if name == "train" else 2)
        for name, target in targets.items()
        for column in target.T
    )
    outputs = task.constant(spec, targets["train"] if can_be_trained else None, evaluated.target)
    if not can_be_trained:  # the checkpoint may have been trained on other data
        note = (
            f"No baselines{' but the ' * bool(outputs)}{', '.join(outputs)}: the data have no train and valid splits "
            "whose labels are known and differ, to train others on."
        )
        return {name: evaluated.other(output) for name, output in outputs.items()}, [note]
    missing = without_library()
    trained = [name for name in task.baselines(spec) if name not in missing]
    print(f"Baselines: {' and '.join(trained)} on summaries of each variable (--baselines none omits them)")
    ids, by_baseline = baseline_outputs(spec, scorer.loaders, evaluated.split, trained)
    rows = np.searchsorted(ids, evaluated.stay_id)
    outputs |= {name: output[rows] for name, output in by_baseline.items()}
    notes = [f"No {name} among the baselines: {reason}" for name, reason in missing.items()]
    if evaluated.split == "valid":
        notes.append(
            "The baselines were stopped or chosen on the validation split, where their metrics are optimistic."
        )
    return {name: evaluated.other(output) for name, output in outputs.items()}, notes


def _evaluated(scorer: Scorer, predictions: Predictions, asked: DecisionSettings, named: str | None) -> Predictions:
    """The rows that are evaluated, by stay: those with a label and at least one known variable; and the calibration.

    Stays that a `named` calibration was fitted on are no measure of it.
    """
    labelled = predictions.labelled()
    labelled = labelled.rows(labelled.stay_id.argsort())
    known = labelled.rows(~np.isin(labelled.stay_id, list(scorer.without_known_variable(predictions.split))))
    calibration = calibration_of(scorer, known, asked, named)
    return replace(known.rows(~calibrated_on(calibration, scorer, known)), calibration=calibration)


def _for_stays(predictions: Predictions, evaluated: Predictions) -> Predictions:
    """The predictions for the evaluated stays, without a calibration."""
    order = predictions.stay_id.argsort()
    return evaluated.other(predictions.output[order[np.searchsorted(predictions.stay_id[order], evaluated.stay_id)]])


def _left_out(scorer: Scorer, predictions: Predictions, evaluated: Predictions) -> list[str]:
    """A caution about stays that are not evaluated."""
    labelled = predictions.labelled()
    unlabelled, unread = len(predictions) - len(labelled), list(scorer.without_known_variable(predictions.split))
    unknown = int(np.isin(labelled.stay_id, unread).sum())
    fitted = len(labelled) - unknown - len(evaluated)
    left_out = [f"{unlabelled:,} have no label"] * bool(unlabelled)
    left_out += [f"{unknown:,} have only variables that the checkpoint's training data did not have"] * bool(unknown)
    left_out += [f"the calibration was fitted on {fitted:,}"] * bool(fitted)
    return [f"Of {len(predictions):,} stays, {' and '.join(left_out)}; they are left out."] * bool(left_out)


def calibration_of(
    scorer: Scorer, predictions: Predictions, asked: DecisionSettings, named: str | None
) -> Calibration | None:
    """The calibration of a checkpoint; one of an older run, which has no file, is fitted on its validation split now.

    With another threshold or band if they were asked for, chosen on that split. It is kept in the run folder, an older
    one under another name, unless that holds the calibration of another checkpoint.
    """
    task, file = TASKS[scorer.spec.task], calibration_file(scorer.path)
    calibration, line = broadcast_from_first(lambda: read_calibration(scorer.path, scorer.spec.task, named))
    is_asked = asked.threshold_for is not None or asked.abstain is not None
    if (calibration is None or is_asked) and task.Calibration is not None and _has_validation(scorer):
        validation = predictions if predictions.split == "valid" else scorer.predict("valid").labelled()
        if any(len(np.unique(column[~np.isnan(column)])) > 1 for column in validation.target.T):
            keep = this_process().is_first and (calibration is not None or not file.exists())
            calibration = calibration or (calibrate if keep else fit_calibration)(scorer.path, validation)
            if is_asked:
                output, target = validation.output, validation.target
                calibration = task.decide(calibration, output, target, asked.need, asked.abstain)
                if keep and (older := write_result(file, calibration_text(calibration, scorer.path).encode())):
                    print(f"Wrote {file}; the older one is now {older.name}")
            line = str(calibration)
        elif is_asked:
            raise InputError(
                f"--threshold_for, --abstain: the {len(validation):,} labelled validation stays of {scorer.path} are "
                "of one class, so nothing can be chosen on them. Leave them out."
            )
    print(line)
    return calibration


def _has_validation(scorer: Scorer) -> bool:
    """Whether the validation stays of the checkpoint's run are there."""
    return scorer.is_data_of_run and "valid" in scorer.cohort.splits


def require_decisions(asked: DecisionSettings, scorers: Sequence[Scorer]) -> None:
    """Raises InputError if a threshold or band was asked for that cannot be chosen, or not be kept."""
    if asked.threshold_for is None and asked.abstain is None:
        return
    for scorer in scorers:
        given = {"threshold_for": asked.threshold_for is not None, "abstain": asked.abstain is not None}
        refuse_for_task(scorer, **{name: True for name, is_given in given.items() if is_given})
        if not _has_validation(scorer):
            raise InputError(
                f"--threshold_for, --abstain: chosen on the validation stays of the run of {scorer.path}, which these "
                "data are not. Evaluate once with them on the data of the run, without --data_dir; what was chosen is "
                "kept there."
            )
        if not_writable(calibration_file(scorer.path)):
            raise InputError(f"{calibration_file(scorer.path)}: you may not write there, so nothing can be kept.")


def _require_same_stays(scorers: Sequence[Scorer], tables: Sequence[Predictions]) -> None:
    """Raises InputError unless all checkpoints were evaluated on the same stays with the same labels."""
    main, first = scorers[0], tables[0]
    for scorer, other in zip(scorers[1:], tables[1:], strict=True):
        if any(getattr(scorer.spec, name) != getattr(main.spec, name) for name in ("task", "names", "classes")):
            raise InputError(
                f"{scorer.path} predicts {scorer.spec.title} ({scorer.spec.task}) and {main.path} {main.spec.title} "
                f"({main.spec.task}), so they cannot be compared. Pass checkpoints of one task and the same labels."
            )
        same = np.array_equal(other.stay_id, first.stay_id)
        if not same or not np.array_equal(other.target, first.target, equal_nan=True):
            raise InputError(
                f"{scorer.path} and {main.path} are evaluated on different stays or labels ({len(other):,} and "
                f"{len(first):,} stays), so they cannot be compared. Pass --data_dir to evaluate them on the same."
            )


def _landmarks(scorer: Scorer, evaluated: Predictions, hours: Sequence[float]) -> dict[float, Predictions]:
    """The predictions from the first hours for the evaluated stays, by hour."""
    stays = scorer.cohort.split(evaluated.split)
    is_evaluated, landmarks = np.isin(stays.stay_id, evaluated.stay_id), {}
    for hour in sorted(set(hours)):
        early = until_hour(stays, hour)
        predictions = scorer.predict_prefixes(evaluated.split, early.rows(is_evaluated[early.stay]))
        landmarks[hour] = replace(predictions, calibration=evaluated.calibration)
    return landmarks


def require_writable_results(settings: Settings, scorer: Scorer) -> None:
    """Raises InputError if the results are to be in a run folder that this user may not write to."""
    if settings.output.output is None and scorer.folder is not None and not_writable(scorer.folder.path):
        raise InputError(f"{scorer.folder.path}: you may not write there. Pass --output FOLDER for the results.")


def write_evaluation(settings: Settings, scorer: Scorer, content: dict[str, Any], rows: pa.Table | None) -> None:
    """evaluation.json and perhaps predictions, in --output or the run folder; older ones get another name."""
    run_folder = None if scorer.folder is None else scorer.folder.path
    folder = settings.output.output or run_folder
    if folder is None:
        print(f"Nothing was written: {scorer.path} is not in a run folder; --output names a folder for the results")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    suffix, results = f".{settings.format}", {EVALUATION: as_text(content).encode()}
    if rows is not None:
        results[PREDICTIONS + suffix] = table_bytes(with_ids(rows, read_samples(scorer.cohort)), suffix)
    for name, data in results.items():
        older = write_result(folder / name, data)
        print(f"Wrote {folder / name}" + (f"; the older one is now {older.name}" if older else ""))
    for other in (folder / f"{PREDICTIONS}{each}" for each in SUFFIXES if each != suffix):
        if older := set_aside(other):  # a report must not find two tables
            print(f"The older {other.name} is now {older.name}")
