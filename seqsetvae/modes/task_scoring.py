"""Evaluating and predicting a task other than one binary label.

Legend: n stays, K columns of labels, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from seqsetvae.checkpoint import TASK, read_file
from seqsetvae.errors import InputError
from seqsetvae.modes.scoring import Scorer, open_scorer
from seqsetvae.privacy import checkpoint_names
from seqsetvae.processes import leave, own_share
from seqsetvae.settings.groups import DataSettings
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.label_file import read_label_file
from seqsetvae.tasks.model import Outputs, predict_outputs
from seqsetvae.tasks.results import Evaluated, evaluation, table
from seqsetvae.tasks.spec import BINARY, Spec
from seqsetvae.tasks.targets import TargetSplit, label_file, require_targets, with_targets
from seqsetvae.training.run_folder import CONFIG, find_checkpoint

if TYPE_CHECKING:
    from seqsetvae.modes.evaluate import Settings as EvaluateSettings


def task_of(ckpt: Path) -> str:
    """The name of a checkpoint's task. Raises InputError for a damaged file, or a task of a newer version."""
    path, _ = find_checkpoint(ckpt)
    saved = read_file(path).get("hyper_parameters")
    recorded = saved.get(TASK) if isinstance(saved, dict) else None
    name = recorded.get("task") if isinstance(recorded, dict) else BINARY
    if name not in TASKS:
        known = ", ".join(TASKS)
        raise InputError(f"{path}: has the task {name!r}, which this version does not know; it knows {known}")
    return str(name)


def spec_of_scorer(scorer: Scorer) -> Spec:
    """The task of a scorer's checkpoint. Raises InputError if it is damaged."""
    assert scorer.finetuned.task is not None, "one binary label has other functions"
    try:
        return Spec.from_plain(scorer.finetuned.task)
    except TypeError as error:
        raise InputError(f"{scorer.path}: damaged (its task: {error}). Use another copy of the file.") from None


def outputs_of(scorer: Scorer, split: str) -> Outputs:
    """Outputs for all stays of a split, ascending by stay."""
    loader = scorer.data.loader(split, **own_share())
    return predict_outputs(scorer.finetuned.model, scorer.embeddings, loader, split, scorer.precision.context())


# ------------------------------------------------------------------ predict


def task_rows(scorer: Scorer, found: Sequence[Outputs], *, all_splits: bool) -> pa.Table:
    """One row for every stay of these splits: stay_id, split, the columns of the task, reason."""
    spec, tables, splits = spec_of_scorer(scorer), [], [each.split for each in found]
    for split, outputs in zip(splits, found, strict=True):
        stays = scorer.cohort.split(split).stay_id
        tables.append(_table(spec, split, stays, _of(outputs, stays), scorer.without_known_variable(split)))
    left_out = [each for each in scorer.left_out() if each[1] in splits or (all_splits and each[1] is None)]
    rows = [{"stay_id": stay, "split": split, "reason": reason} for stay, split, reason in left_out]
    found_table = pa.concat_tables([*tables, pa.Table.from_pylist(rows, schema=tables[0].schema)])
    missing = len(found_table["reason"].drop_null())
    if missing:
        print(f"No prediction for {missing:,} of {len(found_table):,} stays; the column `reason` says why")
    return found_table


def _table(spec: Spec, split: str, stays: np.ndarray, output: np.ndarray, reasons: dict[int, str]) -> pa.Table:
    """The rows of a split; a stay with a reason has no prediction."""
    left_out = np.isin(stays, list(reasons))
    columns = {name: pa.array(values, mask=left_out) for name, values in TASKS[spec.task].columns(spec, output).items()}
    return pa.table(
        {
            "stay_id": pa.array(stays, pa.int64()),
            "split": pa.array([split] * len(stays), pa.string()),
            **columns,
            "reason": pa.array([reasons.get(stay) for stay in stays.tolist()], pa.string()),
        }
    )


def refuse_for_task(task: str, path: Path, **given: bool) -> None:
    """Raises InputError for flags that were given and are not available for this task."""
    flags = [f"--{name}" for name, is_given in given.items() if is_given]
    if flags:
        raise InputError(
            f"{' and '.join(flags)}: not available for --task {task}, which {path} was trained for; available for one "
            f"binary label. Leave out {' and '.join(flags)}."
        )


# ------------------------------------------------------------------ evaluate


def evaluate_task(settings: EvaluateSettings) -> dict[str, Any]:
    """Evaluate the first --ckpt on --split, compare it with baselines and the others, print and write the result."""
    from seqsetvae.evaluation.report import report_finished_run
    from seqsetvae.evaluation.subgroups import read_subgroup_table, subgroups_of
    from seqsetvae.modes.evaluate import require_writable_results, write_evaluation

    split, ckpts = settings.split.split, settings.finetuned.ckpt or ()
    assert split is not None, "settings are checked before a mode runs"
    columns = None if settings.details.subgroups is None else read_subgroup_table(settings.details.subgroups)
    scorers = [_open(ckpt, settings, split) for ckpt in ckpts]
    first, spec = scorers[0], spec_of_scorer(scorers[0])
    require_writable_results(settings, first)
    refuse_for_task(spec.task, first.path, landmarks=settings.details.landmarks is not None)
    _require_same_task(scorers)
    stays = _evaluated_stays(first, split)
    found = [outputs_of(scorer, split) for scorer in scorers]
    leave()
    names = checkpoint_names([scorer.path for scorer in scorers])
    evaluated = _evaluated(first, found[0], stays, names[0])
    others, notes = ({}, []) if settings.baselines.baselines == "none" else _baselines(first, split, stays)
    others |= {name: _of(each, stays) for name, each in zip(names[1:], found[1:], strict=True)}
    not_available = f"Calibration, decision thresholds and decision curves are not available for --task {spec.task}."
    content = evaluation(
        evaluated,
        others=others,
        subgroups=[] if columns is None else subgroups_of(columns, stays),
        cautions=[*_left_out(first, split, stays), *_drift(first, split), *notes, not_available],
        seed=settings.run.seed,
    )
    print(f"\n{table(content)}")
    for caution in content["cautions"]:
        print(f"⚠️  {caution}")
    rows = _with_truth(task_rows(first, found[:1], all_splits=False), first, split)
    write_evaluation(settings, first, content, rows)
    if first.folder is not None and settings.output.output is None:
        report_finished_run(first.folder.path)
    return content


def _open(ckpt: Path, settings: EvaluateSettings, split: str) -> Scorer:
    """A checkpoint with its data and their labels."""
    task = task_of(ckpt)
    if task == BINARY:
        raise InputError(f"ckpt: {ckpt} was trained for one binary label and the first for another task; pass one task")
    scorer = open_scorer(ckpt, settings.data, settings.loader, settings.run, [split], labelled=False)
    spec = spec_of_scorer(scorer)
    file = read_label_file(_label_file(settings.data, scorer), spec.names)
    print(f"Labels: {file.path} ({', '.join(spec.names)})")
    cohort = with_targets(scorer.cohort, file, spec)
    require_targets(cohort, split)
    return replace(scorer, cohort=cohort, data=scorer.data.with_cohort(cohort))


def _label_file(data: DataSettings, scorer: Scorer) -> Path:
    """--label_path, or the file beside --data_dir, or that of the run."""
    recorded = {} if scorer.folder is None else scorer.folder.read_json(CONFIG).get("cohort")
    of_run = recorded.get("label_file") if isinstance(recorded, dict) else None
    if data.label_path is None and data.data_dir is None and of_run is not None:
        if not Path(of_run).is_file():
            raise InputError(f"{scorer.path}: the labels of its run, {of_run}, no longer exist; pass --label_path")
        return Path(of_run)
    return label_file(replace(data, data_dir=data.data_dir or scorer.cohort.path))


def _require_same_task(scorers: Sequence[Scorer]) -> None:
    """Raises InputError unless all checkpoints predict the same columns in the same way, on the same stays."""
    for scorer in scorers[1:]:
        one, other = spec_of_scorer(scorers[0]), spec_of_scorer(scorer)
        same_data = scorer.cohort.data_hash == scorers[0].cohort.data_hash
        if (one.task, one.names, one.classes) != (other.task, other.names, other.classes) or not same_data:
            raise InputError(
                f"{scorer.path} and {scorers[0].path} have different tasks, labels or data, so they cannot be "
                "compared. Pass --data_dir and --label_path to evaluate them on the same."
            )


def _targets(scorer: Scorer, split: str) -> TargetSplit:
    stays = scorer.cohort.split(split)
    assert isinstance(stays, TargetSplit)
    return stays


def _evaluated_stays(scorer: Scorer, split: str) -> np.ndarray:
    """The stays that are evaluated, ascending: those with a label and at least one known variable."""
    stays = _targets(scorer, split)
    labelled = np.sort(stays.stay_id[stays.label >= 0])
    return labelled[~np.isin(labelled, list(scorer.without_known_variable(split)))]


def _of(outputs: Outputs, stays: np.ndarray) -> np.ndarray:
    """[n, O] the outputs of these stays."""
    return outputs.output.numpy()[np.searchsorted(outputs.stay_id.numpy(), stays)]


def _truth(scorer: Scorer, split: str, stays: np.ndarray) -> np.ndarray:
    """[n, K] the targets of these stays."""
    of_split = _targets(scorer, split)
    order = np.argsort(of_split.stay_id)
    return of_split.truth[order[np.searchsorted(of_split.stay_id, stays, sorter=order)]]


def _evaluated(scorer: Scorer, outputs: Outputs, stays: np.ndarray, name: str) -> Evaluated:
    return Evaluated(
        spec=spec_of_scorer(scorer),
        checkpoint=name,
        split=outputs.split,
        output=_of(outputs, stays),
        truth=_truth(scorer, outputs.split, stays),
        subject=scorer.cohort.split(outputs.split).subjects_of(stays),
        is_selected=scorer.is_selected,
    )


def _baselines(scorer: Scorer, split: str, stays: np.ndarray) -> tuple[dict[str, np.ndarray], list[str]]:
    """Outputs [n, O] of each baseline for these stays, and what a reader must know about them."""
    from seqsetvae.baselines import summary_tables

    spec, task = spec_of_scorer(scorer), TASKS[spec_of_scorer(scorer).task]
    if not {"train", "valid"} <= scorer.cohort.splits.keys():
        return {}, ["No baselines: the data have no train and valid splits to train others on."]
    listed = " and ".join(task.baselines(spec))
    print(f"Baselines: {listed} on summaries of each variable (--baselines none omits them)")
    names = ("train", "valid", split)
    tables = summary_tables(scorer.data, *names)
    truths = [_truth(scorer, name, ids) for name, (ids, _) in zip(names, tables, strict=True)]
    train, valid, ours = ((rows, truth) for (_, (rows, _)), truth in zip(tables, truths, strict=True))
    distinct = [len(np.unique(column[~np.isnan(column)])) for column in train[1].T]
    if min(distinct) < max(len(spec.classes), 2):  # the checkpoint may have been trained on other data
        return {}, ["No baselines: the training stays of these data lack a class that the model was trained on."]
    row = np.searchsorted(tables[2][0], stays)
    name, constant = task.constant(spec, train[1], len(stays))
    found = {name: constant}
    for name, fit in task.baselines(spec).items():
        found[name] = fit(train, valid)(ours[0])[row]
    notes = ["The baselines were stopped or chosen on the validation split: on it their figures are too good."]
    return found, notes * (split == "valid")


def _left_out(scorer: Scorer, split: str, stays: np.ndarray) -> list[str]:
    n_all = scorer.cohort.split(split).n_stays
    n_left_out = n_all - len(stays)
    text = f"Of {n_all:,} stays, {n_left_out:,} have no label or no known variable; they are left out."
    return [text] * bool(n_left_out)


def _drift(scorer: Scorer, split: str) -> list[str]:
    return [] if scorer.is_data_of_run else [*scorer.drift([split]), *scorer.not_compared([split])]


def _with_truth(rows: pa.Table, scorer: Scorer, split: str) -> pa.Table:
    """The table of predictions with the label of each stay, as the file of labels has it."""
    spec = spec_of_scorer(scorer)
    truth = _truth(scorer, split, rows["stay_id"].to_numpy())
    for name, column in zip(spec.names, truth.T, strict=True):
        known = ~np.isnan(column)
        values = np.array([*spec.classes, ""])[np.where(known, column, -1).astype(int)] if spec.classes else column
        rows = rows.append_column(name, pa.array(values, mask=~known))
    return rows
