"""Evaluate a checkpoint on cohorts that are not that of its training: open them, predict all their stays, compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqsetvae.cli.evaluate import Settings
from seqsetvae.cohort import Cohort, open_cohort
from seqsetvae.cohort.imported import read_samples
from seqsetvae.cohort.profile import seen_before
from seqsetvae.cohort.tables.cells import as_facts
from seqsetvae.evaluation.calibration import calibration_file, calibration_names, read_calibration, write_calibration
from seqsetvae.evaluation.external import (
    ExternalCohort,
    coverage_of,
    external,
    external_text,
    heterogeneity,
    refit_calibration,
    sites_text,
)
from seqsetvae.evaluation.groups import STAY, Subgroup, read_subgroup_table
from seqsetvae.evaluation.heterogeneity import FEWEST_SITES
from seqsetvae.evaluation.predictions import Predictions
from seqsetvae.runs.scoring import Scorer, is_data_of_run, open_scorer
from seqsetvae.system.errors import WARNING, Finding, InputError, counted
from seqsetvae.system.files import file_sha256, not_writable
from seqsetvae.tasks.spec import BINARY, Calibration
from seqsetvae.training.run_folder import CONFIG, find_checkpoint

UNNAMED = "(not saved)"  # what a calibration is called that nobody keeps


@dataclass(frozen=True, eq=False)
class Opened:
    """An external cohort with the checkpoint, and the calibration of its predictions."""

    name: str
    scorer: Scorer
    calibration: Calibration | None
    sites: pa.Table | None  # stay_id, and the column of --by


def open_external(settings: Settings) -> list[Opened]:
    """The cohorts of --external; what cannot be evaluated is said here, before any work.

    Raises:
        InputError: a cohort cannot be used with this checkpoint, or what was asked for is not there.
    """
    paths, asked = settings.external.external or (), settings.external
    if not paths:
        return []
    assert settings.finetuned.ckpt is not None, "settings are checked before a mode runs"
    # Side files of the settings are those of the model's own data; labels are of the one cohort that is evaluated.
    labels = settings.data.label_path if settings.split.split is None and len(paths) == 1 else None
    data = replace(settings.data, params_map_path=None, label_path=labels, embeddings_path=None, label_name=None)
    opened = []
    for path, name in zip(paths, _names(paths), strict=True):
        print(f"External data {name}:")
        scorer = open_scorer(
            settings.finetuned.ckpt[0],
            replace(data, data_dir=path),
            settings.loader,
            settings.run,
            [],
            labelled=True,
            called=settings.data.label_name,
        )
        _require_own_folder(settings, scorer)
        calibration, line = read_calibration(scorer.path, scorer.spec.task, settings.calibration.calibration)
        print(line)
        _require_possible(settings, scorer)
        sites = None if asked.by is None else _site_table(asked.by, scorer.cohort, settings.details.subgroups)
        opened.append(Opened(name, scorer, calibration, sites))
    return opened


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders by name, with as many of the folders above as tell them apart."""
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise InputError("external: received a folder twice; name each once")
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different folders have different paths")


def _require_own_folder(settings: Settings, scorer: Scorer) -> None:
    output, run = settings.output.output, None if scorer.folder is None else scorer.folder.path
    if settings.split.split is None and output is not None and run is not None and output.resolve() == run.resolve():
        raise InputError(
            f"output: received {str(output)!r}, the run folder, whose evaluation is of its own data; pass another "
            "folder, or add --split"
        )


def _require_possible(settings: Settings, scorer: Scorer) -> None:
    name, by, task = settings.external.save_calibration, settings.external.by, scorer.spec.task
    flags = [flag for flag, value in (("--save_calibration", name), ("--by", by)) if value is not None]
    if flags and task != BINARY:
        raise InputError(
            f"{' and '.join(flags)}: of one binary label, and {scorer.path} has --task {task}. Leave it out."
        )
    if name is None:
        return
    file = calibration_file(scorer.path, name)
    if file.exists():
        there = ", ".join(calibration_names(scorer.path))
        raise InputError(f"save_calibration: received {name!r}; there is {file} (names: {there}). Choose another name.")
    if not_writable(file.parent):
        raise InputError(
            f"save_calibration: {file.parent}: you may not write there. Copy the checkpoint to your own place."
        )


def _site_table(by: str, cohort: Cohort, table: Path | None) -> pa.Table:
    """stay_id and the column of the sites. Raises InputError if there is no such column."""
    samples = read_samples(cohort) if table is None else read_subgroup_table(table)
    where = table or f"samples.parquet of {cohort.path}"
    if samples is None:
        raise InputError(
            f"by: received {by!r}; {cohort.path} was not imported from tables and has no samples.parquet. Pass "
            f"--subgroups FILE with the columns stay_id and {by}."
        )
    if by not in samples.column_names or by == STAY:
        there = ", ".join(name for name in samples.column_names if name != STAY)
        raise InputError(f"by: received {by!r}; {where} has the columns {there}. --subgroups FILE names another table.")
    return samples.select([STAY, by])


# ------------------------------------------------------------------ predictions


def predict_external(opened: Opened, by: str | None) -> ExternalCohort:
    """Predictions for all stays of a cohort that can be judged, and what is known of it.

    Raises:
        InputError: no stay is left, or all are of one class.
    """
    scorer, name = opened.scorer, opened.name
    splits = list(scorer.cohort.splits)
    trained, about_training = _trained_on(scorer)
    parts, notes = [], [*about_training]
    left_out = dict.fromkeys(("without a label", "without a variable of the model", "of the training of the model"), 0)
    left_out["that the calibration was fitted on"] = 0
    for split in splits:
        predictions = scorer.predict(split)
        stays = predictions.stay_id
        of_training = scorer.cohort.split(split).stay_id[trained[split]] if trained else []
        masks = (
            np.isnan(predictions.target).all(axis=1),
            np.isin(stays, list(scorer.without_known_variable(split))),
            np.isin(stays, of_training),
            calibrated_on(opened.calibration, scorer, predictions),
        )
        kept = np.ones(len(stays), bool)
        for reason, mask in zip(left_out, masks, strict=True):
            left_out[reason] += int((kept & mask).sum())
            kept &= ~mask
        parts.append(predictions.rows(kept))
    joined = _joined(parts, name, opened.calibration)
    total = len(joined) + sum(left_out.values())
    notes += [
        f"Of {total:,} stays, {n:,} {reason} {'are' if n != 1 else 'is'} left out."
        for reason, n in left_out.items()
        if n
    ]
    recorded, spec = scorer.cohort.manifest["label_name"], scorer.spec
    if spec.task == BINARY and recorded != spec.title:
        notes.append(f"Its label {recorded!r} is taken for {spec.title!r}, as --label_name says.")
    _require_labels(joined, opened, notes)
    sites, without = ([], 0) if opened.sites is None else sites_of(opened.sites, by or "", joined.stay_id)
    notes += [f"{counted(without, 'stay')} without a {by} are in no site."] * bool(without)
    return ExternalCohort(
        name=name,
        data=scorer.cohort.data_hash,
        predictions=joined,
        checkpoint_sha256=file_sha256(scorer.path),
        coverage=coverage_of(scorer.cohort, scorer.trained_on.known, scorer.trained_on.profile),
        drift=scorer.drift(splits),
        notes=[*notes, *scorer.not_compared(splits)],
        by=by,
        sites=sites,
    )


def calibrated_on(calibration: Calibration | None, scorer: Scorer, predictions: Predictions) -> np.ndarray:
    """Which of these stays [n] a calibration was fitted anew on: it cannot be judged on them."""
    anew = None if calibration is None else calibration.recalibrated
    if anew is None or anew.data != scorer.cohort.data_hash:
        return np.zeros(len(predictions), bool)
    return anew.fitted_on(predictions.stay_id if predictions.subject is None else predictions.subject)


def _joined(parts: Sequence[Predictions], name: str, calibration: Calibration | None) -> Predictions:
    """The predictions of all splits as those of one, by stay."""
    columns: dict[str, Any] = {
        key: np.concatenate([getattr(part, key) for part in parts]) for key in ("stay_id", "output", "target")
    }
    subject = [part.subject for part in parts if part.subject is not None]
    whole = replace(parts[0], **columns, subject=np.concatenate(subject) if subject else None, split=name)
    return replace(whole.rows(whole.stay_id.argsort()), calibration=calibration)


def _require_labels(joined: Predictions, opened: Opened, notes: Sequence[str]) -> None:
    path, label = opened.scorer.cohort.path, opened.scorer.spec.title
    if not len(joined):
        raise InputError(f"external: no stay of {path} can be evaluated. {' '.join(notes)}")
    if joined.spec.task == BINARY and len(set(joined.target[:, 0].tolist())) < 2:
        raise InputError(
            f"external: all {len(joined):,} stays of {path} have the label {label} = {joined.target[0, 0]:g}; metrics "
            "need stays of both classes. Check the rule or column of the label; predict works without labels."
        )


def _trained_on(scorer: Scorer) -> tuple[dict[str, np.ndarray], list[str]]:
    """({split: which of its stays have the rows of training or validation stays of the run}, what is said of it)."""
    own = _cohort_of_run(scorer)
    if own is None:
        return {}, [
            "Whether stays of the training are among these cannot be checked: the data of the run are not here."
        ]
    splits = [name for name in ("train", "valid") if name in own.splits]
    seen = seen_before(scorer.cohort, own, splits)
    number = sum(int(each.sum()) for each in seen.values())
    text = (
        f"{counted(number, 'stay')} have the rows of a stay that the model was trained or chosen on: the data overlap."
    )
    return seen, [text] * bool(number)


def _cohort_of_run(scorer: Scorer) -> Cohort | None:
    """The data of the checkpoint's run, if they are where they were."""
    recorded = None if scorer.folder is None else scorer.folder.read_json(CONFIG).get("cohort")
    path = recorded.get("path") if isinstance(recorded, dict) else None
    try:
        cohort = open_cohort(path, verify=False) if isinstance(path, str) else None
    except InputError:
        return None
    return cohort if cohort is not None and is_data_of_run(scorer.folder, cohort) else None


def sites_of(table: pa.Table, by: str, stays: np.ndarray) -> tuple[list[Subgroup], int]:
    """(the sites of these stays [n], each value of the column one, how many stays have none).

    Raises:
        InputError: none of the stays is in the table.
    """
    values = dict(zip(table[STAY].to_pylist(), as_facts(table[by].combine_chunks()).to_pylist(), strict=True))
    if not values.keys() & set(stays.tolist()):
        raise InputError(f"by: none of the {len(stays):,} stays is in the table; check its column {STAY}.")
    site = np.array([values.get(stay) or "" for stay in stays.tolist()])
    names = sorted(set(site.tolist()) - {""}, key=lambda name: (len(name) if name.isdigit() else 99, name))
    return [Subgroup(by, name, site == name) for name in names], int((site == "").sum())


# ------------------------------------------------------------------ results


def require_fitted(cohorts: Sequence[ExternalCohort], settings: Settings) -> None:
    """Raises InputError if the calibration that --save_calibration names cannot be fitted, before longer work."""
    asked = settings.external
    for each in cohorts if asked.save_calibration is not None else ():
        name = asked.save_calibration or UNNAMED
        refitted = refit_calibration(each, asked.recalibrate_fraction, name, settings.run.seed)
        if isinstance(refitted, str):
            raise InputError(f"save_calibration: {each.name}: {refitted} Leave it out.")


def external_results(cohorts: Sequence[ExternalCohort], settings: Settings) -> dict[str, Any]:
    """`external` and `external_pooled` (of three or more) of evaluation.json; prints them, and saves what was asked."""
    asked, entries = settings.external, []
    for cohort in cohorts:
        name = asked.save_calibration or UNNAMED
        entry, fitted = external(cohort, fraction=asked.recalibrate_fraction, name=name, seed=settings.run.seed)
        print(f"\n{external_text(entry)}")
        for finding in (Finding(**finding) for finding in entry["findings"]):
            print(f"{'⚠️  ' if finding.level == WARNING else '  '}{finding.line()}")
        if asked.save_calibration is not None:
            assert fitted is not None, "require_fitted has seen to it"
            entry["recalibration"]["saved"] = asked.save_calibration
            _save(fitted.kinds[fitted.chosen], settings)
        entries.append(entry)
    content: dict[str, Any] = {"external": entries}
    if len(entries) >= FEWEST_SITES and cohorts[0].predictions.spec.task == BINARY:
        content["external_pooled"] = heterogeneity(entries)
        print("\n".join(sites_text("all cohorts", [], content["external_pooled"])))
    return content


def _save(calibration: Calibration, settings: Settings) -> None:
    assert settings.finetuned.ckpt is not None, "settings are checked before a mode runs"
    path, _ = find_checkpoint(settings.finetuned.ckpt[0])
    write_calibration(calibration, path)
    name = settings.external.save_calibration
    print(f"Wrote {calibration_file(path, name)}: {calibration}\nUse it with --calibration {name}")
