"""Results of cross-validation: predictions by fold, and metrics over folds. Importing this imports no torch.

Legend: n stays of a fold, R resamples, K seeds of the trainings of a model (1 for a baseline).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqsetvae.evaluation.findings import IN_WORDS, not_worse, said_first, worse_than
from seqsetvae.evaluation.results import resampled_unit
from seqsetvae.evaluation.statistics import Interval, bootstrap
from seqsetvae.tasks.scores import RANKING, Figures, Floats, Scores

REFERENCE = "boosted trees"  # the baseline that differences are taken to
OTHER_BASELINE = "logistic regression"
TO_OTHER = "difference_to_logistic_regression"
PARTS = ("network alone", "trees alone")  # of a model that averages both
NOT_MODELS = ("stay_id", "label")
SUBJECT = "subject_id"

Columns = dict[str, np.ndarray]  # of one fold: stay_id [n], label [n], and the log-odds [n] of each model by its name


def as_csv(columns: Columns) -> bytes:
    """The predictions of a fold as a CSV file; floats read back to the same bits."""
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return "".join(",".join(map(str, row)) + "\n" for row in [tuple(columns), *rows]).encode()


def read_columns(file: Path) -> Columns:
    """What `as_csv` made."""
    with file.open(encoding="utf-8", newline="") as stream:
        names, *rows = csv.reader(stream)
    columns = zip(names, zip(*rows, strict=True), strict=True)
    return {name: np.array([(int if name in NOT_MODELS else float)(value) for value in of]) for name, of in columns}


def results(folds: Sequence[Columns], first: str | None = None) -> dict[str, Any]:
    """AUROC and AUPRC of each model: mean, SDs, bootstrap intervals, and paired differences.

    A resample draws subjects with replacement, and each fold is scored on its own stays among them. A subject is drawn
    with all of its stays, and a stay with its predictions in all partitions and by all seeds.

    Args:
        folds: of each, stay_id [n], label [n], perhaps subject_id [n] (else each stay is of another subject), and the
            log-odds of each model: [n], or [K, n] of several trainings.
        first: a model that the others are compared with, besides the REFERENCE.
    """
    table = _Table(folds)
    others = {"difference": REFERENCE, TO_OTHER: OTHER_BASELINE, "difference_to_first": first}
    pairs = {
        kind: [model for model in table.models if other in table.models and model != other]
        for kind, other in others.items()
    }

    def figures(weights: Floats) -> Figures:
        own = {model: table.means(model, weights) for model in table.models}
        found = {f"{name} of {model}": own[model][name] for model in own for name in RANKING}
        for kind, models in pairs.items():
            other = own.get(others[kind] or "", {})
            for model in models:
                found |= {f"{kind}: {name} of {model}": own[model][name] - other[name] for name in RANKING}
        return found

    intervals = bootstrap(table.label, figures, subject=table.subject)
    entries: dict[str, Any] = {}
    for model in table.models:
        runs = table.by_run(model, np.ones((1, len(table.label))))
        entries[model] = {name: _plain(intervals[f"{name} of {model}"], runs[name][..., 0]) for name in RANKING}
        for kind in (kind for kind in pairs if model in pairs[kind]):
            entries[model][kind] = {name: intervals[f"{kind}: {name} of {model}"].as_plain() for name in RANKING}
    counts = {"folds": len(folds), "predictions": len(table.label), "positives": int(table.label.sum())}
    about = counts | resampled_unit(table.subject, len(table.label)) | {"first": first, "models": entries}
    return {IN_WORDS: _verdict(entries)} | about


def _verdict(entries: Mapping[str, Any]) -> str:
    """A sentence for each model that a baseline is better than."""
    baselines = {"difference": REFERENCE, TO_OTHER: OTHER_BASELINE}
    there = {kind: name for kind, name in baselines.items() if name in entries}
    found = []
    for model, entry in entries.items():
        if model not in baselines.values() and not model.endswith(PARTS):
            others = {name: {"figures": entries[name], "difference": entry[kind]} for kind, name in there.items()}
            found.append(worse_than(model, entry, others))
    return " ".join(filter(None, found)) or not_worse(there.values())


class _Table:
    """The predictions of all folds, one after the other."""

    def __init__(self, folds: Sequence[Columns]) -> None:
        self.label = np.concatenate([fold["label"] for fold in folds])
        self.subject = np.concatenate([fold.get(SUBJECT, fold["stay_id"]) for fold in folds])
        self.models = [name for name in folds[0] if name not in (*NOT_MODELS, SUBJECT)]
        ends = np.cumsum([len(fold["label"]) for fold in folds]).tolist()
        self._places = [slice(end - len(fold["label"]), end) for end, fold in zip(ends, folds, strict=True)]
        self._scores = {
            model: [[Scores(fold["label"], logit) for logit in np.atleast_2d(fold[model])] for fold in folds]
            for model in self.models
        }

    def by_run(self, model: str, weights: Floats) -> Figures:
        """Metrics of a model with these weights [R, stays of all folds], by fold and seed: [folds, K, R]."""
        ranking = [
            [each.ranking(weights[:, place]) for each in of_fold]
            for of_fold, place in zip(self._scores[model], self._places, strict=True)
        ]
        return {name: np.array([[run[name] for run in of_fold] for of_fold in ranking]) for name in RANKING}

    def means(self, model: str, weights: Floats) -> Figures:
        """Their means over folds and seeds: [R]."""
        return {name: values.mean(axis=1).mean(axis=0) for name, values in self.by_run(model, weights).items()}


def _plain(interval: Interval, runs: Floats) -> dict[str, Any]:
    """A metric for JSON, with its values by run [folds, K]; what varies over seeds is the mean over the folds."""
    by_fold, by_seed = runs.mean(axis=1), runs.mean(axis=0)
    several = len(by_seed) > 1
    return interval.as_plain() | {
        "sd_over_folds": float(np.std(by_fold)),
        "by_fold": by_fold.tolist(),
        "sd_over_seeds": float(np.std(by_seed, ddof=1)) if several else None,
        "by_seed": by_seed.tolist() if several else None,
    }


def lines(result: Mapping[str, Any]) -> list[str]:
    """The table for the terminal."""
    models, first = result["models"], result["first"]
    seeds = max(len(entry["auroc"]["by_seed"] or [0]) for entry in models.values())
    spread = ["over folds"] * (result["folds"] > 1) + [f"over {seeds} seeds"] * (seeds > 1)
    name = max(map(len, models))
    cell = max(len(_cell(entry[metric])) for entry in models.values() for metric in RANKING)
    about = "AUROC and AUPRC"
    found = [
        *said_first(result),
        f"{result['folds']} folds, {result['predictions']:,} predictions, {result['positives']:,} positive; "
        f"{'mean (SD) ' if spread else 'one training'}{' and '.join(spread)}; "
        f"[95 % intervals] over {result['resampled']}",
        f"{'':{name}}  {'AUROC':{cell}}  {'AUPRC':{cell}}  difference to {REFERENCE}, {about}",
    ]
    for model, entry in models.items():
        cells = "  ".join(f"{_cell(entry[metric]):{cell}}" for metric in RANKING)
        found.append(f"{model:{name}}  {cells}  {_differences(entry.get('difference', {}))}")
    if first is not None:
        found.append(f"\nDifference to {first}, {about}")
        compared = {model: entry.get("difference_to_first", {}) for model, entry in models.items() if model != first}
        found += [f"{model:{name}}  {_differences(difference)}" for model, difference in compared.items()]
    return found + [f"⚠️  {each['text']}" for each in result.get("findings", ())]


def _cell(entry: Mapping[str, Any]) -> str:
    """A mean with its SDs and its interval."""
    over_folds = entry["sd_over_folds"] if len(entry["by_fold"]) > 1 else None
    spread = [f"{each:.4f}" for each in (over_folds, entry["sd_over_seeds"]) if each is not None]
    interval = "" if entry["low"] is None else f" [{entry['low']:.4f}, {entry['high']:.4f}]"
    return f"{entry['value']:.4f}" + (f" ({'; '.join(spread)})" if spread else "") + interval


def _differences(difference: Mapping[str, Any]) -> str:
    """Of AUROC and AUPRC; without an interval where there is none."""
    cells = [
        f"{each['value']:+.4f}" + ("" if each["low"] is None else f" [{each['low']:+.4f}, {each['high']:+.4f}]")
        for each in difference.values()
    ]
    return "  ".join(cells)
