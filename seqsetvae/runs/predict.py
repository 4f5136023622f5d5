"""Predict: the probability of every stay, labelled or not, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from seqsetvae.cli.predict import Settings
from seqsetvae.cohort.imported import read_samples
from seqsetvae.evaluation.calibration import read_calibration
from seqsetvae.evaluation.explain import Explanation
from seqsetvae.evaluation.prediction_file import (
    every_set_table,
    explanation_table,
    meds_table,
    prediction_table,
    samples_have_dates,
    with_calibration,
    with_ids,
    with_reasons,
    without_prediction,
    write_table,
)
from seqsetvae.runs.scoring import Scorer, open_scorer
from seqsetvae.system.errors import InputError
from seqsetvae.system.processes import finish_distributed
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import Calibration

DRIFTED = 3  # exit status: the predictions are written, but the data differ from the training data


@dataclass(frozen=True, eq=False)
class Prediction:
    """The predictions of some splits, and in which ways the data differ from the training data."""

    table: pa.Table
    splits: Sequence[str]
    drift: Sequence[str]
    not_compared: Sequence[str]

    @property
    def exit_status(self) -> int:
        return DRIFTED if self.drift else 0


def run(settings: Settings) -> Prediction:
    """Write the predictions of --ckpt for the stays of --data_dir, or of its run, and warn of data that differ."""
    output = settings.output.output
    assert output is not None, "settings are checked before a mode runs"
    prediction = predicted(settings)
    write_table(output, prediction.table)
    print(f"Wrote {output}: {prediction.table.num_rows:,} rows, of the splits {', '.join(prediction.splits)}")
    for line in prediction.not_compared:
        print(line)
    for warning in prediction.drift:
        print(f"⚠️  {warning}")
    if prediction.drift:
        print(f"The data differ from the training data, so the predictions may mean nothing (exit status {DRIFTED})")
    return prediction


def predicted(settings: Settings) -> Prediction:
    """What `run` writes. Raises InputError for a checkpoint, data or flags that do not go together."""
    ckpt, split = settings.finetuned.ckpt, settings.split.split
    assert ckpt is not None, "settings are checked before a mode runs"
    asked = [] if split is None else [split]
    scorer = open_scorer(ckpt[0], settings.data, settings.loader, settings.run, asked, labelled=False)
    splits = asked or list(scorer.cohort.splits)
    refuse_for_task(scorer, schema=settings.schema == "meds")
    if settings.explained.explain is not None or settings.reasons:
        scorer.explainer(splits[0])  # what cannot be explained is said before any work
    named = settings.calibration.calibration
    calibration, line = read_calibration(scorer.path, scorer.spec.task, named)
    print(line)
    if settings.explained.explain is not None:
        finish_distributed()  # a few stays are no work for several processes
        table = explained_rows(scorer, splits, settings.explained.explain)
    elif settings.every_set:
        table = every_set_rows(scorer, splits, calibration)
    else:
        table = rows(scorer, splits, calibration, all_splits=split is None)
        if settings.schema == "meds":
            table = as_meds(table, scorer, splits, calibration)
    finish_distributed()
    if named is not None and settings.schema != "meds":
        table = with_calibration(table, named)
    if settings.reasons:
        table = with_reasons(table, reasons_of(scorer, splits, settings.reasons), settings.reasons)
    return Prediction(table, splits, scorer.drift(splits), scorer.not_compared(splits))


def refuse_for_task(scorer: Scorer, **given: bool) -> None:
    """Raises InputError for flags that were given and mean nothing for the task of the checkpoint."""
    task = scorer.spec.task
    flags = [f"--{name}" for name, is_given in given.items() if is_given and name not in TASKS[task].OFFERS]
    if flags:
        there = " and ".join(name for name, each in TASKS.items() if set(given) <= set(each.OFFERS))
        raise InputError(
            f"{' and '.join(flags)}: not available for --task {task}, which {scorer.path} was trained for; available "
            f"for --task {there}. Leave out {' and '.join(flags)}."
        )


def rows(scorer: Scorer, splits: Sequence[str], calibration: Calibration | None, *, all_splits: bool) -> pa.Table:
    """One row for every stay of these splits; also for those that the compilation of the data left out."""
    tables = []
    for split in splits:
        reasons, stays = scorer.without_known_variable(split), scorer.cohort.split(split).stay_id
        tables.append(prediction_table(replace(scorer.predict(split), calibration=calibration), stays, reasons))
    left_out = [each for each in scorer.left_out() if each[1] in splits or (all_splits and each[1] is None)]
    table = pa.concat_tables([*tables, without_prediction(left_out, tables[0].schema)])
    missing = table["reason"].drop_null()
    if len(missing):
        print(f"No prediction for {len(missing):,} of {len(table):,} stays; the column `reason` says why")
    return with_ids(table, read_samples(scorer.cohort))


def every_set_rows(scorer: Scorer, splits: Sequence[str], calibration: Calibration | None) -> pa.Table:
    """One row for every set of every stay of these splits."""
    print(
        "The risk after every set: the head was trained on whole stays only, and is applied here to the beginnings of "
        "stays, as is the calibration. --mode evaluate --landmarks measures how well it does there"
    )
    cohort, outputs = scorer.cohort, {split: scorer.predict_every_set(split) for split in splits}
    tables = (every_set_table(cohort.split(name), output, scorer.spec, calibration) for name, output in outputs.items())
    return pa.concat_tables(tables)


def explained_rows(scorer: Scorer, splits: Sequence[str], stays: Sequence[int]) -> pa.Table:
    """The rows of these stays; prints how well the contributions add up."""
    explanations = [next(explained(scorer, split, np.array([at]))) for split, at in scorer.positions(stays, splits)]
    print("Contributions to the score of each stay, and a base; they add up to the score but for the gap:")
    print(f"  {'stay':>12}{'score':>10}{'base':>10}{'gap':>10}   strongest")
    for explanation in explanations:
        strongest = "; ".join(map(str, explanation.strongest(3)))
        numbers = f"{explanation.score:>10.3f}{explanation.base:>10.3f}{explanation.gap:>10.4f}"
        print(f"  {explanation.stay_id:>12}{numbers}   {strongest}")
    return pa.concat_tables([explanation_table(explanation) for explanation in explanations])


def reasons_of(scorer: Scorer, splits: Sequence[str], number: int) -> dict[int, list[str]]:
    """The variables that contribute most to the score of each stay that has one, in words."""
    print("Contributions say what the model made of the values of a stay, and nothing about causes")
    return {
        each.stay_id: [str(reason) for reason in each.strongest(number)]
        for split in splits
        for each in explained(scorer, split, np.arange(scorer.cohort.split(split).n_stays))
        if each.stay_id not in scorer.without_known_variable(split)
    }


def explained(scorer: Scorer, split: str, stays: np.ndarray) -> Iterator[Explanation]:
    """The explanations of whole stays of a split, by position."""
    return scorer.explainer(split).explain(stays, np.diff(scorer.cohort.split(split).stay_offset)[stays])


def as_meds(table: pa.Table, scorer: Scorer, splits: Sequence[str], calibration: Calibration | None) -> pa.Table:
    """The rows with a prediction, in the schema of MEDS; prints how stays and times are expressed in it."""
    samples = read_samples(scorer.cohort)
    keys = "the stay; prediction_time is the time of its last event, in minutes since admission counted from 1970-01-01"
    if samples_have_dates(samples):
        keys = "that of the imported data, prediction_time too (the last event, where they have none)"
    is_calibrated = table["calibrated_probability"].null_count < len(table)
    print(f"MEDS: subject_id is {keys}; the probability is {'calibrated' if is_calibrated else 'not calibrated'}")
    parts = [scorer.cohort.split(split) for split in splits]
    minute = np.concatenate([part.minute[part.stay_offset[1:] - 1] for part in parts])
    minute = np.append(minute, np.full(len(table) - len(minute), np.nan))  # of stays that are not in the cohort
    return meds_table(table, minute, None if calibration is None else calibration.threshold, samples)
